/**
 * A volume's whole life, replayed from a seed: the real src/volume over a bucket in memory, with clock,
 * chance and the order of all events owned by the seed.
 *
 * A client writes, trims, zeroes, reads and flushes; requests to the bucket arrive late, out of order, fail
 * before or after they took effect; the process dies at any moment, with requests under way that may still
 * arrive, and another opens the volume. Checked against a model:
 *  - every read gives what the model has;
 *  - after every opening the disk is as it was after some change, and not older than the last
 *    acknowledged flush;
 *  - what was read after an opening stays so (the next death can't bring older bytes back);
 *  - the invariants of cache, map and segment table hold.
 */
import { setImmediate } from "node:timers";
import { silentLogger } from "../../src/logger.ts";
import type { Host } from "../../src/volume/lease.ts";
import { Volume } from "../../src/volume/volume.ts";
import { ManualClock } from "../support/manual_clock.ts";
import { MemoryBucket } from "../support/memory_bucket.ts";
import { Seed } from "./seed.ts";
import { type Event, SimulatedBucket } from "./simulated_bucket.ts";

/** Every holder is gone: a simulated process is opened again only after the one before has died. */
const host: Host = { me: { host: "simulated", pid: 1, trace: "" }, isGone: () => true };

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

export interface SimulationResult {
  seed: number;
  changes: number;
  flushes: number;
  deaths: number;
  events: number;
}

/** One run. @throws Error that names what was wrong, with the seed and the last events */
export async function simulate(seedNumber: number): Promise<SimulationResult> {
  const run = new Simulation(new Seed(seedNumber));
  try {
    return await run.live();
  } catch (error) {
    const trace = run.trace.filter((l) => !l.includes("lease")).slice(-160).join("\n  ");
    throw new Error(`seed ${seedNumber}: ${(error as Error).stack}\n  ${trace}`);
  }
}

/** Bytes put at an offset: a write, or zeroes. */
interface Change {
  offset: number;
  data: Uint8Array;
}

interface State {
  disk: Uint8Array;
  /** Changes not acknowledged yet. */
  waiting: Change[];
}

class Simulation {
  readonly trace: string[] = [];
  readonly #seed: Seed;
  readonly #clock = new ManualClock();
  readonly #bucket = new MemoryBucket();
  #events: Event[] = [];
  readonly #stripeBytes: number;
  readonly #sizeBytes: number;
  readonly #cacheStripes: number;
  readonly #uploads: number;
  readonly #faults: number;
  /** The model: what the disk may be after a death, oldest first; nothing from before the last flush. */
  #states: State[];
  #firstState = 0;
  #waiting: Change[] = [];
  #underWay = new Set<Promise<void>>();
  #life = 0;
  #failure: Error | null = null;
  #result: SimulationResult;

  constructor(seed: Seed) {
    this.#seed = seed;
    this.#stripeBytes = 4096 << seed.pick([0, 1, 1, 2, 2, 4]);
    this.#sizeBytes = this.#stripeBytes * (4 + seed.below(this.#stripeBytes > 16384 ? 12 : 40));
    this.#cacheStripes = 16 + seed.below(16);
    this.#uploads = 1 + seed.below(4);
    this.#faults = seed.pick([0, 0.02, 0.2]);
    this.#states = [{ disk: new Uint8Array(this.#sizeBytes), waiting: [] }];
    this.#result = { seed: seed.seed, changes: 0, flushes: 0, deaths: 0, events: 0 };
  }

  async live(): Promise<SimulationResult> {
    const lives = 1 + this.#seed.below(4);
    for (let life = 0; life < lives; life++) {
      await this.#oneLife(life, life === lives - 1);
    }
    return this.#result;
  }

  async #oneLife(life: number, cleanStop: boolean): Promise<void> {
    const bucket = new SimulatedBucket(
      this.#bucket,
      this.#events,
      this.#seed,
      this.#faults,
      `life ${life}`,
    );
    const volume = await this.#untilDone(this.#open(bucket));
    await this.#checkOpened(volume);
    const steps = this.#seed.below(120);
    for (let step = 0; step < steps; step++) {
      if (this.#seed.chance(0.5)) this.#clientActs(volume);
      else await this.#somethingHappens();
      await turn();
      if (this.#failure) throw this.#failure;
      if (this.#seed.chance(0.1)) volume.checkInvariants();
    }
    if (cleanStop || this.#seed.chance(0.2)) {
      await this.#untilDone(Promise.all(this.#underWay));
      await this.#untilDone(volume.close());
      this.#forgetBefore(this.#firstState + this.#states.length - 1);
      volume.checkInvariants();
    } else {
      this.#trace(`life ${life} dies`);
      this.#result.deaths++;
      bucket.isDead = true;
      this.#life++;
      this.#underWay.clear();
      volume.abandon();
      await turn();
    }
  }

  #open(bucket: SimulatedBucket): Promise<Volume> {
    return Volume.open({
      stripeBytes: this.#stripeBytes,
      volumeBytes: this.#sizeBytes,
      cacheStripes: this.#cacheStripes,
      cacheTtlMs: this.#seed.pick([0, 2000, 60_000]),
      uploads: this.#uploads,
      readaheadBytes: this.#seed.pick([0, 1 << 20]),
      flushAfterMs: 5000,
      takeover: false,
    }, {
      bucket,
      clock: this.#clock,
      chance: this.#seed,
      logger: silentLogger,
      host,
      onFailure: (error) => {
        throw error;
      },
    });
  }

  // ---- the model

  get #newest(): State {
    return this.#states[this.#states.length - 1];
  }

  /** A change the volume makes at once, or one that waits: until it is acknowledged, any part of it may be there. */
  #change(what: string, change: Change, done: Promise<void> | undefined): void {
    this.#trace(`${what} ${change.offset}+${change.data.length}${done ? ", waits" : ""}`);
    this.#result.changes++;
    if (!done) return this.#made(change);
    this.#waiting.push(change);
    this.#states.push({ disk: this.#newest.disk, waiting: [...this.#waiting] });
    this.#follow(done, () => {
      this.#trace(`${what} ${change.offset}+${change.data.length} is made`);
      this.#waiting = this.#waiting.filter((other) => other !== change);
      this.#made(change);
    });
  }

  #made(change: Change): void {
    const disk = this.#newest.disk.slice();
    disk.set(change.data, change.offset);
    this.#states.push({ disk, waiting: [...this.#waiting] });
  }

  /** States before number `index` can't come back. */
  #forgetBefore(index: number): void {
    if (index <= this.#firstState) return;
    this.#states = this.#states.slice(index - this.#firstState);
    this.#firstState = index;
  }

  /** The disk must be one of the states since the last flush; from now on it is that one. */
  async #checkOpened(volume: Volume): Promise<void> {
    volume.checkInvariants();
    const found = await this.#readAll(volume);
    for (let at = this.#states.length - 1; at >= 0; at--) {
      if (!couldBe(found, this.#states[at])) continue;
      this.#trace(`opened as in state ${this.#firstState + at}`);
      this.#states = [{ disk: found, waiting: [] }];
      this.#firstState += at;
      this.#waiting = [];
      return;
    }
    const block = firstDifference(found, this.#newest.disk) >>> 12;
    throw new Error(
      `after opening, the disk is none of the ${this.#states.length} states since the last flush; ` +
        `it differs from the newest first in block ${block}: ${found[block << 12]} ${
          this.#newest.disk[block << 12]
        } ${firstDifference(found, this.#newest.disk)}`,
    );
  }

  async #readAll(volume: Volume): Promise<Uint8Array> {
    const found = new Uint8Array(this.#sizeBytes);
    if (!volume.tryRead(0, found)) await this.#untilDone(volume.read(0, found));
    return found;
  }

  // ---- the client

  #clientActs(volume: Volume): void {
    const [offset, length] = this.#range();
    const action = this.#seed.random();
    if (action < 0.45) {
      const data = new Uint8Array(length);
      if (!this.#seed.chance(0.1)) data.fill(1 + this.#seed.below(255));
      if (this.#seed.chance(0.2)) data.fill(0, 0, this.#seed.below(length));
      const change = { offset, data: data.slice() };
      this.#change("write", change, volume.write(offset, data));
      data.fill(0xee); // borrowed for the call only
    } else if (action < 0.55) {
      const change = { offset, data: new Uint8Array(length) };
      this.#change("zero", change, volume.zero(offset, length));
    } else if (action < 0.65) {
      const from = Math.ceil(offset / 4096) * 4096;
      const data = new Uint8Array(Math.max(0, (offset + length & ~4095) - from));
      this.#change("trim", { offset: from, data }, volume.trim(offset, length));
    } else if (action < 0.85) {
      this.#read(volume, offset, length);
    } else {
      const covered = this.#firstState + this.#states.length - 1;
      this.#trace("flush");
      this.#result.flushes++;
      this.#follow(volume.flush(), () => {
        this.#trace("flush is answered");
        this.#forgetBefore(covered);
      });
    }
  }

  #follow(done: Promise<void> | undefined, after: () => void): void {
    if (!done) return after();
    const life = this.#life;
    const followed = done.then(() => {
      if (life === this.#life) after();
    });
    this.#underWay.add(followed);
    followed.catch((error) => {
      if (life === this.#life) this.#failure ??= error;
    }).finally(() => this.#underWay.delete(followed));
  }

  /** A read is compared if no change was made or waited meanwhile: then it has one right answer. */
  #read(volume: Volume, offset: number, length: number): void {
    if (this.#waiting.length > 0) return;
    const target = new Uint8Array(length);
    const state = this.#newest;
    this.#trace(`read ${offset}+${length}`);
    const check = () => {
      if (state !== this.#newest) return;
      const wrong = firstDifference(target, state.disk.subarray(offset, offset + length));
      if (wrong >= 0) throw new Error(`read ${offset}+${length} is wrong at ${offset + wrong}`);
    };
    if (volume.tryRead(offset, target)) check();
    else this.#follow(volume.read(offset, target), check);
  }

  #range(): [offset: number, length: number] {
    const aligned = this.#seed.chance(0.7);
    const unit = aligned ? 4096 : 1;
    const units = this.#sizeBytes / unit;
    const offset = this.#seed.below(units);
    const longest = this.#seed.chance(0.1) ? units : Math.max(1, Math.ceil(units / 10));
    const length = 1 + this.#seed.below(Math.min(longest, units - offset));
    return [offset * unit, length * unit];
  }

  // ---- time and events

  #trace(what: string): void {
    this.trace.push(what);
  }

  /** An event of the world, or some time passes. */
  async #somethingHappens(): Promise<void> {
    this.#result.events++;
    if (this.#events.length === 0 || this.#seed.chance(0.1)) {
      await this.#clock.advance(this.#seed.below(3000));
      return;
    }
    // mostly in order, so that lives get on; sometimes any
    const at = this.#seed.chance(0.5) ? 0 : this.#seed.below(this.#events.length);
    const [event] = this.#events.splice(at, 1);
    this.#trace(event.what);
    await event.happen();
  }

  /** Lets the world go on until the promise settles. */
  async #untilDone<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    promise.then(() => settled = true, () => settled = true);
    for (let step = 0;; step++) {
      await turn();
      if (settled) return await promise;
      if (step > 20_000) throw new Error("nothing comes to an end: a request hangs");
      await this.#somethingHappens();
    }
  }
}

function firstDifference(a: Uint8Array, b: Uint8Array): number {
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return at;
  return -1;
}

/** True if every byte is the state's, or that of a change that waited in it. */
function couldBe(found: Uint8Array, { disk, waiting }: State): boolean {
  for (let at = 0; at < found.length; at++) {
    if (found[at] === disk[at]) continue;
    if (!waiting.some(({ offset, data }) => data[at - offset] === found[at])) return false;
  }
  return true;
}
