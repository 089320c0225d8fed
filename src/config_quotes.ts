/**
 * What an error says about a wrong line of config.ini, or a wrong word of the command line: what of it may be quoted
 * (never a secret that stands in the wrong place), and what was probably meant.
 */

/** Whether it can be meant for a key or a section; anything else may be a piece of a secret, and is not quoted. */
export function isName(word: string): boolean {
  return /^[A-Za-z_-]{1,24}$/.test(word);
}

/** Whether a key of an account may have been put in the wrong line, or a password or a signature into a URL. */
export function mayHoldSecret(value: string): boolean {
  const runs = value.match(/[A-Za-z0-9/+=_-]{32,}/g) ?? [];
  const isRandom = (run: string) => /[A-Z]/.test(run) && /[a-z]/.test(run) && /\d/.test(run);
  return runs.some(isRandom) || /:\/\/.*[@?]/.test(value);
}

/** The nearest of `known` if it is near, else all of them. */
export function suggest(
  word: string,
  known: readonly string[],
  show: (name: string) => string,
): string {
  const distances = known.map((name) => editDistance(word.toLowerCase(), name.toLowerCase()));
  const least = Math.min(...distances);
  const nearest = known[distances.indexOf(least)];
  if (least <= Math.max(2, nearest.length / 3)) return `did you mean ${show(nearest)}?`;
  return `allowed: ${known.map(show).join(", ")}`;
}

/** Insertions, deletions and substitutions that make `a` into `b` (Levenshtein), a row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, substituted));
    }
    row = next;
  }
  return row[b.length];
}

export function cut(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}
