/**
 * The power fails at any moment of a volume's life in a directory: what is left on the disk opens, and is the volume
 * as it was at one moment, no earlier than the last flush that was answered.
 *
 * A real volume on a real directory bucket lives a short life, once; disk_trace.ts records what it does to files and gives
 * every disk that a cut at every tick can leave. Each is opened by the same code.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { createHash } from "node:crypto";
import { systemChance, systemClock } from "../../src/clock.ts";
import { DirectoryBucket } from "../../src/bucket/directory_bucket.ts";
import { BLOCK_BYTES } from "../../src/limits.ts";
import { silentLogger } from "../../src/logger.ts";
import { Volume } from "../../src/volume/volume.ts";
import { Scratch } from "../support/scratch.ts";
import { hostNamed, OPTIONS } from "../unit/volume/open_volume.ts";
import { type CutDisk, DiskTrace } from "./disk_trace.ts";
import { Seed } from "./seed.ts";

const SEED = 20_260_101;
const BLOCKS = 64;
const BYTES = BLOCKS * BLOCK_BYTES;
/** Folders of the bucket that the program has to make, each a name that can be lost. */
const BUCKET = "/disks/one";

/** A process with the volume open. */
async function openIn(folder: string): Promise<{ volume: Volume; bucket: DirectoryBucket }> {
  const around = { clock: systemClock, chance: systemChance, logger: silentLogger };
  const bucket = await DirectoryBucket.open(folder + BUCKET, around);
  const options = { ...OPTIONS, volumeBytes: BYTES, cacheStripes: 64, flushAfterMs: 3_600_000 };
  try {
    const onFailure = (error: Error) => {
      throw error;
    };
    const host = hostNamed("here");
    const volume = await Volume.open(options, { ...around, bucket, host, onFailure });
    return { volume, bucket };
  } catch (error) {
    bucket.close();
    throw error;
  }
}

async function contentOf(volume: Volume): Promise<string> {
  const bytes = new Uint8Array(BYTES);
  if (!volume.tryRead(0, bytes)) await volume.read(0, bytes);
  return fingerprint(bytes);
}

function fingerprint(bytes: Uint8Array): string {
  return createHash("sha1").update(bytes).digest("hex");
}

/** Which moment of the life is known to be stored at a tick, and which is the last there was. */
interface Mark {
  tick: number;
  flushed: number;
  newest: number;
}

/** A volume's life: changes, and flushes that overtake each other, over several openings. */
class RecordedLife {
  readonly #disk = new Uint8Array(BYTES);
  /** Fingerprint of the disk after each change. */
  readonly moments = [fingerprint(this.#disk)];
  readonly marks: Mark[] = [{ tick: 0, flushed: 0, newest: 0 }];

  constructor(readonly trace: DiskTrace, readonly seed: Seed) {}

  #mark(flushed: number): void {
    const before = this.marks.at(-1)!;
    this.marks.push({
      tick: this.trace.tick,
      flushed: Math.max(flushed, before.flushed),
      newest: this.moments.length - 1,
    });
  }

  /** One change, noted before its first file operation can begin. */
  #change(volume: Volume): void {
    const first = this.seed.below(BLOCKS - 8);
    const count = 1 + this.seed.below(8);
    const [at, length] = [first * BLOCK_BYTES, count * BLOCK_BYTES];
    const isTrim = this.seed.chance(0.15);
    const data = new Uint8Array(length).fill(isTrim ? 0 : this.moments.length);
    this.#disk.set(data, at);
    this.moments.push(fingerprint(this.#disk));
    this.#mark(0);
    const done = isTrim ? volume.trim(at, length) : volume.write(at, data);
    assertEquals(done, undefined, "a change of whole blocks waits for nothing");
  }

  /** Changes and flushes; with `waits` some flushes are waited for, so that fewer segments travel together. */
  async work(volume: Volume, flushes: number): Promise<void> {
    const underWay: Promise<void>[] = [];
    for (let n = 0; n < flushes; n++) {
      for (let changes = 1 + this.seed.below(3); changes > 0; changes--) this.#change(volume);
      const covered = this.moments.length - 1;
      const flushed = Promise.resolve(volume.flush()).then(() => this.#mark(covered));
      underWay.push(flushed);
      if (this.seed.chance(0.2)) await flushed;
      else await Promise.resolve(); // its segment is numbered, and the next one travels with it
    }
    await Promise.all(underWay);
  }

  async close(volume: Volume): Promise<void> {
    this.#change(volume);
    await volume.close();
    this.#mark(this.moments.length - 1);
  }
}

/** Five openings: of nothing, after a crash, and after three clean stops, whose checkpoints replace older ones. */
async function live(folder: string): Promise<RecordedLife> {
  using trace = new DiskTrace(folder);
  const life = new RecordedLife(trace, new Seed(SEED));
  for (const end of ["crash", "stop", "stop", "stop", "crash"]) {
    const { volume, bucket } = await openIn(folder);
    await life.work(volume, 8);
    if (end === "stop") await life.close(volume);
    else volume.abandon();
    bucket.close();
  }
  return life;
}

/** Opens what a cut left, and the next writer's work on top of it; gives the content that the first found. */
async function reopened(disk: CutDisk): Promise<string> {
  await using scratch = await Scratch.make();
  await disk.makeIn(scratch.path);
  const first = await openIn(scratch.path);
  const found = await contentOf(first.volume);
  first.volume.checkInvariants();
  first.volume.write(0, new Uint8Array(BLOCK_BYTES).fill(0xff));
  await first.volume.flush();
  const changed = await contentOf(first.volume);
  first.volume.abandon();
  first.bucket.close();
  const second = await openIn(scratch.path);
  assertEquals(await contentOf(second.volume), changed, "the next writer's flush is not there");
  second.volume.abandon();
  second.bucket.close();
  return found;
}

interface Verdict {
  cuts: number;
  disks: number;
}

/** Cuts the power at every tick. @throws at the first disk that is not as it must be */
async function cutEverywhere(life: RecordedLife): Promise<Verdict> {
  const { trace, marks, moments } = life;
  const found = new Map<string, string>();
  let mark = 0;
  for (let tick = 0; tick <= trace.tick; tick++) {
    while (mark + 1 < marks.length && marks[mark + 1].tick <= tick) mark++;
    const { flushed, newest } = marks[mark];
    const isLastOfSame = tick === trace.tick || !trace.isAsBefore(tick + 1);
    if (!isLastOfSame) continue; // the later one is asked for more
    for (const disk of trace.disksAfter(tick, life.seed)) {
      const signature = disk.signature();
      if (!found.has(signature)) found.set(signature, await reopened(disk));
      const moment = moments.lastIndexOf(found.get(signature)!, newest);
      const where = `power lost at tick ${tick} of ${trace.tick}, seed ${SEED}:\n${signature}\n`;
      assert(moment >= 0, `${where}the volume is as it was at no moment`);
      assert(moment >= flushed, `${where}it is as at moment ${moment}, ${flushed} was flushed`);
    }
  }
  return { cuts: trace.tick + 1, disks: found.size };
}

Deno.test("a loss of power at any moment leaves a directory bucket that opens, with all that was flushed", async () => {
  await using scratch = await Scratch.make();
  const life = await live(scratch.path);
  const { cuts, disks } = await cutEverywhere(life);
  assert(cuts > 500 && disks > 40, `only ${cuts} cuts and ${disks} disks`);
});

// A check that never fails proves nothing.
const forgotten: Record<string, [forget: (trace: DiskTrace) => void, found: string]> = {
  "a segment's bytes": [
    (trace) => trace.forgetSyncs("file", (path) => /log\/\d+$/.test(path)),
    "a segment has at least",
  ],
  "the folder of the log": [
    (trace) => trace.forgetSyncs("directory", (path) => path.endsWith("/log")),
    "missing or replaced",
  ],
  "the folder of the bucket": [
    (trace) => trace.forgetSyncs("directory", (path) => path === BUCKET),
    "volume.json: missing, though log/",
  ],
  "the folder that the bucket's was made in": [
    (trace) => trace.forgetSyncs("directory", (path) => path === ""),
    "was flushed",
  ],
};

for (const [what, [forget, found]] of Object.entries(forgotten)) {
  Deno.test(`a loss of power would show it if ${what} were not fsynced`, async () => {
    await using scratch = await Scratch.make();
    const life = await live(scratch.path);
    forget(life.trace);
    await assertRejects(() => cutEverywhere(life), Error, found);
  });
}
