/**
 * A volume's whole life, replayed from a seed: the real src/volume over a bucket in memory, with clocks,
 * chance and the order of all events owned by the seed.
 *
 * Processes open the volume one after the other or while others have it open. Clients write, trim, zero, read
 * and flush; requests to the bucket arrive late, out of order, twice, fail before or after they took effect;
 * a process dies at any moment, or is paused and goes on, with requests under way that may still arrive.
 * Checked against a model:
 *  - every read gives what its writer's model has, and so does what is lent, or told of holes;
 *  - after every opening the disk is as it was after some change of the writer before, and not older than the
 *    last flush that was answered;
 *  - once another writer has opened the volume, the one before has no flush answered that the new one
 *    did not find;
 *  - what was read after an opening stays so (the next death can't bring older bytes back);
 *  - the newest checkpoint can be read, whoever cleans up;
 *  - whatever was killed or came too late, the next process gives the space of it back;
 *  - the invariants of cache, map and segment table hold, and a clean stop leaves no timer behind.
 */
import { setImmediate } from "node:timers";
import { BLOCK_BYTES, CHECKPOINT_MS } from "../../src/limits.ts";
import { listCheckpoints, loadCheckpoint } from "../../src/volume/checkpoint.ts";
import { seqOfKey } from "../../src/volume/segment.ts";
import { StripeMap } from "../../src/volume/stripe_map.ts";
import type { VolumeOptions } from "../../src/volume/volume_options.ts";
import { MemoryBucket } from "../support/memory_bucket.ts";
import { Life, SimulatedDisk, type World } from "./life.ts";
import { firstDifference, Model } from "./model.ts";
import { Seed } from "./seed.ts";
import { type Event, SimulatedBucket } from "./simulated_bucket.ts";

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

export interface SimulationResult {
  seed: number;
  changes: number;
  flushes: number;
  timeouts: number;
  deaths: number;
  takeovers: number;
  fenced: number;
  events: number;
}

/** One run. @throws Error that names what was wrong, with the seed and the last events */
export async function simulate(seedNumber: number): Promise<SimulationResult> {
  const run = new Simulation(new Seed(seedNumber));
  try {
    return await run.run();
  } catch (error) {
    const trace = run.lines.filter((line) => !line.includes("lease")).slice(-160).join("\n  ");
    throw new Error(`seed ${seedNumber}: ${(error as Error).stack}\n  ${trace}`);
  }
}

class Simulation implements World {
  readonly seed: Seed;
  readonly options: VolumeOptions;
  readonly disk: SimulatedDisk;
  readonly isCrowded: boolean;
  readonly lines: string[] = [];
  readonly #bucket = new MemoryBucket();
  readonly #events: Event[] = [];
  readonly #faults: number;
  /** Share of steps in which a client acts: with many, requests queue up. */
  readonly #pace: number;
  /** Share of the times in which enough passes for a checkpoint. */
  readonly #longShare: number;
  /** Every process there was, oldest first. */
  readonly #lives: Life[] = [];
  /** Those that have opened the volume, by epoch. */
  readonly #writers: Life[] = [];
  readonly #before: Model;
  #takeovers = 0;
  #deaths = 0;
  #eventCount = 0;

  constructor(seed: Seed) {
    this.seed = seed;
    const stripeBytes = 4096 << seed.pick([0, 1, 1, 2, 2, 4]);
    const stripes = 4 + seed.below(stripeBytes > 8192 ? 8 : 30);
    // the last stripe may be a part of one
    const lacking = seed.pick([0, seed.below(stripeBytes / BLOCK_BYTES)]) * BLOCK_BYTES;
    const bytes = stripes * stripeBytes - lacking;
    this.isCrowded = seed.chance(0.25);
    const pieces = this.isCrowded ? 4 : seed.pick([1, 2, 4]);
    this.disk = new SimulatedDisk(bytes, stripeBytes, pieces);
    this.options = {
      stripeBytes,
      partBytes: seed.pick([stripeBytes, 4096, 8192]),
      volumeBytes: this.disk.volumeBytes,
      cacheStripes: 16 + seed.below(16),
      cacheTtlMs: seed.pick([0, 2000, 60_000]),
      uploads: 1 + seed.below(4),
      readaheadBytes: seed.pick([0, 1 << 20]),
      flushAfterMs: 5000,
      garbageBytesMin: seed.pick([4096, 4096, 16384, undefined]),
      segmentDataBytes: seed.pick([stripeBytes, 3 * stripeBytes, undefined]),
      turnMs: seed.pick([0, undefined]),
      ioTimeoutMs: seed.pick([undefined, undefined, undefined, 4000]),
      takeover: false,
    };
    this.#faults = seed.pick([0, 0.02, 0.2]);
    this.#longShare = this.isCrowded ? 0.3 : seed.pick([0.03, 0.3]);
    this.#pace = seed.pick([0.3, 0.5, 0.5, 0.8]);
    this.#before = new Model(new Uint8Array(this.disk.bytes));
  }

  trace(what: string): void {
    this.lines.push(what);
  }

  async run(): Promise<SimulationResult> {
    const openings = this.isCrowded ? 4 + this.seed.below(4) : 1 + this.seed.below(4);
    for (let opening = 0; opening < openings; opening++) {
      await this.#openAnother();
      const steps = this.seed.below(this.isCrowded ? 60 : 120);
      for (let step = 0; step < steps; step++) await this.#step();
      await this.#endSome();
    }
    // whatever has happened, the next process can open the volume, and stop in good order
    for (const life of this.#living()) this.#kill(life);
    await this.#openAnother(1);
    for (let step = 0; step < 20; step++) await this.#step();
    await this.#untilDone(this.#lives.at(-1)!.close());
    await this.#checkGarbage();
    const sum = (key: "changes" | "flushes" | "timeouts") =>
      this.#lives.reduce((n, life) => n + life[key], 0);
    return {
      seed: this.seed.seed,
      changes: sum("changes"),
      flushes: sum("flushes"),
      timeouts: sum("timeouts"),
      deaths: this.#deaths,
      takeovers: this.#takeovers,
      fenced: this.#lives.filter((life) => life.isFenced).length,
      events: this.#eventCount,
    };
  }

  /** One step of the world: a client does something, or something else happens. */
  async #step(): Promise<void> {
    const awake = this.#living().filter((life) => !life.bucket.isPaused);
    if (awake.length > 0 && this.seed.chance(this.#pace)) {
      // mostly the newest
      (this.seed.chance(0.7) ? awake.at(-1)! : this.seed.pick(awake)).act();
    } else await this.#somethingHappens();
    await turn();
    this.#check();
  }

  #living(): Life[] {
    return this.#lives.filter((life) => !life.isOver);
  }

  /** @throws what went wrong in a process */
  #check(): void {
    for (const life of this.#lives) {
      if (life.failure) throw life.failure;
      if (life.isFenced && !this.#mayBeFenced(life)) throw new Error(`${life.number} is fenced`);
      if (!life.isOver && this.seed.chance(0.1)) life.volume?.checkInvariants();
    }
  }

  /** Only by a higher epoch; that of a process which has not opened the volume is not known. */
  #mayBeFenced(life: Life): boolean {
    const epoch = life.volume?.epoch ?? 0;
    return this.#lives.some((other) => other !== life && (other.volume?.epoch ?? Infinity) > epoch);
  }

  // ---- openings and ends

  /** One process, or two at once, begin to open the volume, and those that live on have done so. */
  async #openAnother(count = this.seed.chance(0.2) ? 2 : 1): Promise<void> {
    if (this.#living().length > 0) this.#takeovers++;
    const openings: Promise<void>[] = [];
    for (let i = 0; i < count; i++) {
      const number = this.#lives.length;
      const { seed } = this;
      const bucket = new SimulatedBucket(
        this.#bucket,
        this.#events,
        seed,
        this.#faults,
        `${number}`,
        seed.chance(this.isCrowded ? 0.8 : 0.2),
      );
      const life = new Life(number, bucket, this);
      this.#lives.push(life);
      this.trace(`${number}: opens`);
      openings.push(
        life.open().then((found) => {
          if (found) this.#opened(life, found);
        }),
      );
    }
    await this.#untilDone(Promise.all(openings));
  }

  /** What a writer found must come from the one before it; `#writers` stays sorted by epoch. */
  #opened(life: Life, found: Uint8Array): void {
    const epoch = life.volume!.epoch;
    const at = this.#writers.filter((other) => other.volume!.epoch < epoch).length;
    const next = this.#writers[at];
    if (next?.volume?.epoch === epoch) throw new Error(`epoch ${epoch} was claimed twice`);
    const before = this.#writers[at - 1]?.model ?? this.#before;
    if (!next) {
      const number = before.inherit(found);
      this.trace(`${life.number}: opened in epoch ${epoch}, finds state ${number}`);
    }
    life.model = new Model(found);
    if (next) {
      // another has opened it in a later epoch while this one was about to: it has written nothing
      const wrong = firstDifference(found, next.found!);
      if (wrong >= 0) throw new Error(`two writers found different disks, first at ${wrong}`);
      life.model.inherit(found);
    }
    life.found = found;
    this.#writers.splice(at, 0, life);
  }

  /** Processes stop, die, are paused, go on, or stay as they are. */
  async #endSome(): Promise<void> {
    for (const life of this.#living()) {
      const what = this.seed.random();
      if (what < (this.isCrowded ? 0.1 : 0.4)) this.#kill(life);
      else if (what < 0.55 && !life.bucket.isPaused) await this.#untilDone(life.close());
      else if (what < 0.8) life.bucket.isPaused = !life.bucket.isPaused;
    }
  }

  /** Whatever was killed or came too late: the next process that opens the volume gives its space back. */
  async #checkGarbage(): Promise<void> {
    this.#events.length = 0; // what is under way now never arrives
    await this.#openAnother(1);
    const life = this.#lives.at(-1)!;
    life.actAndFlush();
    await this.#untilDone(life.close());
    const [, older] = await listCheckpoints(this.#bucket);
    if (older === undefined) return;
    const map = await this.#readNewestCheckpoint();
    for (const key of this.#bucket.objects.keys()) {
      const seq = seqOfKey(key);
      if (seq === undefined || seq > older || map.claims.has(seq)) continue;
      if (!map.segments.get(seq)?.liveBytes) throw new Error(`${key} is garbage, and was left`);
    }
  }

  /** Whatever has been deleted, nothing of the newest is missing. */
  async #readNewestCheckpoint(): Promise<StripeMap> {
    const map = new StripeMap(this.options.stripeBytes! / BLOCK_BYTES);
    const [newest] = await listCheckpoints(this.#bucket);
    if (newest !== undefined) await loadCheckpoint(this.#bucket, newest, map);
    return map;
  }

  #kill(life: Life): void {
    this.#deaths++;
    life.die();
  }

  // ---- time and events

  /** An event of the world, or some time passes for one process. */
  async #somethingHappens(): Promise<void> {
    this.#eventCount++;
    const possible = this.#events.filter(({ at, isSlow }) =>
      !at?.isPaused && (!isSlow || this.seed.chance(0.05))
    );
    if (possible.length === 0 || this.seed.chance(0.1)) return await this.#timePasses();
    // mostly in order, so that lives get on; sometimes any
    const event = this.seed.chance(0.5) ? possible[0] : this.seed.pick(possible);
    this.#events.splice(this.#events.indexOf(event), 1);
    this.trace(event.what);
    await event.happen();
    if (/delete map|put checkpoint/.test(event.what)) await this.#readNewestCheckpoint();
  }

  /** For one that has been fenced, too: what it was at has to end. */
  async #timePasses(): Promise<void> {
    const awake = this.#lives.filter((life) =>
      (!life.isOver || life.isFenced) && !life.bucket.isPaused
    );
    if (awake.length === 0) return;
    const long = this.seed.chance(this.#longShare);
    await this.seed.pick(awake).clock.advance(long ? CHECKPOINT_MS : this.seed.below(3000));
  }

  /** Lets the world go on until the promise settles. */
  async #untilDone<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    promise.then(() => settled = true, () => settled = true);
    for (let step = 0;; step++) {
      await turn();
      if (settled) {
        const result = await promise;
        this.#check();
        return result;
      }
      if (step > 20_000) throw new Error("nothing comes to an end: a request hangs");
      await this.#somethingHappens();
    }
  }
}
