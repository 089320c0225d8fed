/** The command lines of the tasks that replay lives, one a seed: `[seed [count]]`. */

/** What happened in one life, or in all of them: how often what did. */
export type Happenings = Record<string, number>;

/**
 * Replays lives from a seed on: with two arguments so many, with one that seed alone, with none `countDefault` from a
 * random seed. The first life that fails ends the program with 1, and its seed is said.
 */
export async function replaySeeds(
  task: string,
  countDefault: number,
  live: (seed: number) => Promise<Happenings>,
): Promise<void> {
  const first = Number(Deno.args[0] ?? Math.floor(Math.random() * 1e9));
  const count = Number(Deno.args[1] ?? (Deno.args.length > 0 ? 1 : countDefault));
  if (!Number.isSafeInteger(first) || !(count > 0)) {
    say(`usage: deno task ${task} [seed [count]]`);
    Deno.exit(2);
  }
  let seed = first;
  // what fails where nobody awaits it
  globalThis.addEventListener("unhandledrejection", ({ reason }) => {
    say(`seed ${seed}: ${reason?.stack ?? reason}`);
    Deno.exit(1);
  });
  const totals: Happenings = {};
  const begun = performance.now();
  try {
    for (; seed < first + count; seed++) {
      for (const [what, number] of Object.entries(await live(seed))) {
        totals[what] = (totals[what] ?? 0) + number;
      }
    }
  } catch (error) {
    say((error as Error).message);
    Deno.exit(1);
  }
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  say(`seeds ${first} to ${seed - 1} passed in ${seconds} s: ${JSON.stringify(totals)}`);
}

function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}
