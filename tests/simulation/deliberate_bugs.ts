/**
 * `deno task bugs [seeds [words]]`: shows that the simulation bites. Each of these bugs is put into a copy of the source,
 * alone, and seeds are run from 1 on until one fails; a bug that none of them finds fails the task. With words, only
 * those are tried whose description has them.
 */
import { assert } from "@std/assert";
import { dirname, join } from "node:path";

interface Bug {
  /** What the code does wrong then. */
  what: string;
  /** Below src/volume. */
  file: string;
  /** Occurs there once. */
  from: string;
  to: string;
}

export const BUGS: Bug[] = [
  {
    what: "batches are applied as they are stored, not in order",
    file: "flush.ts",
    from: "const batch = this.#batches[0];",
    to: "const batch = this.#batches.sort((a, b) => a.underWay - b.underWay)[0];",
  },
  {
    what: "a flush is answered when its batch is sealed",
    file: "flush.ts",
    from: "this.#batches.push(batch);",
    to: "this.#batches.push(batch); batch.committed.resolve();",
  },
  {
    what: "a flush with nothing dirty does not wait for what is under way",
    file: "flush.ts",
    from: "return this.#batches.at(-1)?.committed.promise;",
    to: "return undefined;",
  },
  {
    what: "pending zeroes are left out of the batch",
    file: "flush.ts",
    from: "zeroRuns: [...sealedZeroes],",
    to: "zeroRuns: [],",
  },
  {
    what: "no segment but the last of a batch is waited for",
    file: "flush.ts",
    from: "!isFilled(batch) || batch.underWay > 0",
    to: "!isFilled(batch) || batch.underWay > 1",
  },
  {
    what: "the oldest patch of a stripe is forgotten",
    file: "stripe_map.ts",
    from: "page.patches.set(index, kept);",
    to: "page.patches.set(index, kept.slice(-2));",
  },
  {
    what: "zeroes over a part of a stripe are not noted in the map",
    file: "stripe_map.ts",
    from: "if (!this.isMapped(stripe)) return;",
    to: "if (!this.isMapped(stripe) || firstBlock % 2 === 0) return;",
  },
  {
    what: "a sealed stripe that is overwritten is not saved first",
    file: "stripe_cache.ts",
    from: "for (const entry of entries) entry.saved = saved;",
    to: "for (const entry of entries) entry.saved = null;",
  },
  {
    what: "a fetch brings older bytes over newer ones",
    file: "fetch.ts",
    from: "      !cache.isValid(fetch.slot, block);\n    cache.beforeOverwrite",
    to: "      true;\n    cache.beforeOverwrite",
  },
  {
    what: "a trim leaves what is in the cache",
    file: "trim.ts",
    from: "      cache.invalidate(slot, from - begin, to - from);",
    to: "",
  },
  {
    what: "a refused put counts as stored, whoever has the place",
    file: "uploader.ts",
    from: "if (head.writer === writer.id) return undefined;",
    to: "if (head.writer) return undefined;",
  },
  {
    what: "the epoch is ignored: what has the place is always a leftover",
    file: "uploader.ts",
    from: "if (head.epoch >= leftoverBelow) return { by: head };",
    to: "",
  },
  {
    what: "a leftover is deleted, and then the place is free for anybody",
    file: "uploader.ts",
    from: "if (head.epoch >= leftoverBelow) return { by: head };",
    to:
      "if (head.epoch >= leftoverBelow) return { by: head }; await bucket.delete([key]); there = null;",
  },
  {
    what: "segments are put without a condition",
    file: "uploader.ts",
    from: "bucket.put(key, bytes, condition)",
    to: "bucket.put(key, bytes)",
  },
  {
    what: "a claim does not make the epoch higher",
    file: "recovery.ts",
    from: "epoch: log.highestEpoch + 1, id",
    to: "epoch: Math.max(1, log.highestEpoch), id",
  },
  {
    what: "opening applies a batch whose last segment is missing",
    file: "recovery.ts",
    from: "if (!head.lastOfBatch) return;",
    to: "",
  },
  {
    what: "opening reads on behind a segment of a lower epoch",
    file: "recovery.ts",
    from: "if (head.epoch < this.highestEpoch) return this.#damageAtEnd(listed.slice(at));",
    to: "",
  },
  {
    what: "a writer promises that more is stored than it knows",
    file: "flush.ts",
    from: "storedUpTo: this.#uploader.storedUpTo,",
    to: "storedUpTo: seq - 1,",
  },
  {
    what: "dead segments are deleted before the checkpoint is stored",
    file: "volume.ts",
    from: "const olderSeq = await this.#checkpointer.store(seq);",
    to:
      "await this.#reclaimer.deleteDead(dead, seq); const olderSeq = await this.#checkpointer.store(seq);",
  },
  {
    what: "segments are deleted while a little of them is live",
    file: "reclaim.ts",
    from: "if (liveBytes === 0) dead.push(seq);",
    to: "if (liveBytes < 5000) dead.push(seq);",
  },
  {
    what: "claims are deleted like any dead segment",
    file: "recovery.ts",
    from: "if (head.records.length === 0) return void this.map.claims.add(head.seq);",
    to: "",
  },
  {
    what: "what nobody knows is never swept away",
    file: "reclaim.ts",
    from: "if (!this.#hasSwept && lastSeq > 0) {",
    to: "if (lastSeq < 0) {",
  },
];

const ROOT = dirname(dirname(import.meta.dirname!));
const SEEDS = 5000;

function sourceOf({ file }: Bug, root = ROOT): string {
  return join(root, "src/volume", file);
}

/** Throws if the source has changed so that the bug has no place any more. */
export function assertHasPlace(bug: Bug): void {
  const count = Deno.readTextFileSync(sourceOf(bug)).split(bug.from).length - 1;
  assert(count === 1, `"${bug.what}": its place occurs ${count} times in ${bug.file}`);
}

/** Runs the simulation over a copy with the bug in it: after how many seeds it was found, and how it showed. */
async function find(bug: Bug, seeds: number): Promise<{ seed: number; how: string } | undefined> {
  const copy = await Deno.makeTempDir({ prefix: "elasticdrive-bug-" });
  try {
    const files = ["src", "tests", "types", "deno.json", "deno.lock", "import_map.json"];
    const copied = await new Deno.Command("cp", { args: ["-r", ...files, copy], cwd: ROOT })
      .output();
    assert(copied.success, new TextDecoder().decode(copied.stderr));
    const text = await Deno.readTextFile(sourceOf(bug, copy));
    await Deno.writeTextFile(sourceOf(bug, copy), text.replace(bug.from, () => bug.to));
    const args = ["run", "--no-check", "--quiet", "--lock=deno.lock", "--frozen", "--allow-env"];
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [...args, "tests/simulation/run.ts", "1", String(seeds)],
      cwd: copy,
      signal: AbortSignal.timeout(30 * 60_000),
    }).output();
    if (success) return undefined;
    const said = new TextDecoder().decode(stdout).split("\n")[0];
    const found = /^seed (\d+): (?:\w*Error: )?(.*)$/.exec(said);
    assert(found, `the simulation could not run: ${said}${new TextDecoder().decode(stderr)}`);
    return { seed: Number(found[1]), how: found[2] };
  } finally {
    await Deno.remove(copy, { recursive: true });
  }
}

if (import.meta.main) {
  const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
  const seeds = Number(Deno.args[0] ?? SEEDS);
  let missed = 0;
  say("| deliberate bug | found by seed | as |\n| --- | --- | --- |");
  for (const bug of BUGS.filter(({ what }) => what.includes(Deno.args[1] ?? ""))) {
    assertHasPlace(bug);
    const found = await find(bug, seeds);
    if (!found) missed++;
    say(`| ${bug.what} | ${found?.seed ?? `none of ${seeds}`} | ${found?.how ?? ""} |`);
  }
  Deno.exit(missed > 0 ? 1 : 0);
}
