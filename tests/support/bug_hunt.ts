/**
 * Shows that a campaign of seeds bites. Each of some bugs is put into a copy of the source, alone, and seeds are run from 1
 * on until one fails; a bug that none of them finds fails the hunt.
 */
import { assert } from "@std/assert";
import { dirname, join } from "node:path";

export interface Bug {
  /** What the code does wrong then. */
  what: string;
  /** Below the hunt's folder. */
  file: string;
  /** Occurs there once. */
  from: string;
  to: string;
}

export interface Hunt {
  bugs: Bug[];
  folder: string;
  /** What the script needs besides the environment. */
  allow?: string[];
  /** Takes the first seed and the count, and says `seed N...: how` of the first that fails. */
  script: string;
}

interface Found {
  seed: number;
  how: string;
}

const ROOT = dirname(dirname(import.meta.dirname!));

/** Throws if the source has changed so that a bug has no place any more. */
export function assertBugsHavePlace({ bugs, folder }: Hunt): void {
  for (const { what, file, from } of bugs) {
    const count = Deno.readTextFileSync(join(ROOT, folder, file)).split(from).length - 1;
    assert(count === 1, `"${what}": its place occurs ${count} times in ${file}`);
  }
}

/** Arguments: how many seeds, instead of `seeds`; and words, to try only those whose description has them. */
export async function hunt(hunt: Hunt, seeds: number): Promise<never> {
  const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
  const [count = seeds, words = ""] = Deno.args;
  assertBugsHavePlace(hunt);
  let missed = 0;
  say("| deliberate bug | found by seed | as |\n| --- | --- | --- |");
  for (const bug of hunt.bugs.filter(({ what }) => what.includes(words))) {
    const found = await find(hunt, bug, Number(count));
    if (!found) missed++;
    say(`| ${bug.what} | ${found?.seed ?? `none of ${count}`} | ${found?.how ?? ""} |`);
  }
  Deno.exit(missed > 0 ? 1 : 0);
}

/** Runs the seeds over a copy with the bug in it: after how many it was found, and how it showed. */
async function find(
  { folder, script, allow = [] }: Hunt,
  bug: Bug,
  seeds: number,
): Promise<Found | undefined> {
  const copy = await Deno.makeTempDir({ prefix: "elasticdrive-bug-" });
  try {
    const files = ["src", "tests", "types", "deno.json", "deno.lock", "import_map.json"];
    const copied = await new Deno.Command("cp", { args: ["-r", ...files, copy], cwd: ROOT })
      .output();
    assert(copied.success, new TextDecoder().decode(copied.stderr));
    const file = join(copy, folder, bug.file);
    await Deno.writeTextFile(file, (await Deno.readTextFile(file)).replace(bug.from, () => bug.to));
    const args = ["run", "--no-check", "--quiet", "--lock=deno.lock", "--frozen", "--allow-env"];
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [...args, ...allow, script, "1", String(seeds)],
      cwd: copy,
      signal: AbortSignal.timeout(30 * 60_000),
    }).output();
    if (success) return undefined;
    const said = new TextDecoder().decode(stdout).split("\n")[0];
    const found = /^seed (\d+)(.*?): (?:\w*Error: )?(.*)$/.exec(said);
    assert(found, `${script} could not run: ${said}${new TextDecoder().decode(stderr)}`);
    return { seed: Number(found[1]), how: `${found[3]}${found[2]}` };
  } finally {
    await Deno.remove(copy, { recursive: true });
  }
}
