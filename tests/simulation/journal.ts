/**
 * Lives of a machine on which a drive with a journal is killed again and again, made from seeds: whatever it was at, and
 * however many starts died before they served, the next one has every change that was acknowledged, flushed or not,
 * unless another machine had the volume in between: then it has what that one left, and says so. If the machine itself
 * crashes while changes are made again, the disk is as it was at one moment all the same, though there is no room for
 * all of them.
 */
import { assert } from "@std/assert";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers";
import { TimeoutError } from "../../src/errors.ts";
import { JournalFolder } from "../../src/journal/journal_folder.ts";
import { JournaledDevice } from "../../src/journal/journaled_device.ts";
import { silentLogger } from "../../src/logger.ts";
import type { Done } from "../../src/volume/block_device.ts";
import { Volume } from "../../src/volume/volume.ts";
import type { VolumeOptions } from "../../src/volume/volume_options.ts";
import { ManualClock } from "../support/manual_clock.ts";
import { MemoryBucket } from "../support/memory_bucket.ts";
import { Scratch } from "../support/scratch.ts";
import type { Happenings } from "../support/seeds.ts";
import { type Change, Model } from "./model.ts";
import { Seed } from "./seed.ts";
import { type Event, SimulatedBucket } from "./simulated_bucket.ts";

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** One process that has the volume open. */
interface Process {
  /** Of its journal. */
  path: string;
  volume: Volume;
  journaled: JournaledDevice;
  bucket: SimulatedBucket;
  clock: ManualClock;
  /** Whether it says that what the one before acknowledged is all here once it has been made again. */
  isUnbroken: boolean;
}

/** What a process that was killed has left on its machine. */
interface Left {
  unbrokenSince: number;
  hasJournal: boolean;
}

class Machine {
  /** Processes that found the journal of the one before. */
  inherited = 0;
  /** Starts that died. */
  dead = 0;
  /** By the last process here; undefined before there was one. */
  #left: Left | undefined;
  /** Nobody has served the volume elsewhere since. */
  isAlone = true;
  readonly #seed: Seed;
  readonly #folder: JournalFolder;
  readonly #bucket: MemoryBucket;
  readonly #events: Event[];
  readonly #options: VolumeOptions & { volumeBytes: number; stripeBytes: number };
  readonly #faults: number;
  readonly #bytesMax: number;
  readonly #fileBytesMax: number;

  /**
   * @param keepsMuch its journal is seldom given up, and its files are large
   * @param beside the machine with which it shares the bucket
   */
  constructor(
    readonly path: string,
    seed: Seed,
    keepsMuch: boolean,
    readonly name = "here",
    beside?: Machine,
  ) {
    this.#seed = seed;
    this.#bucket = beside ? beside.#bucket : new MemoryBucket();
    this.#events = beside ? beside.#events : [];
    this.#folder = new JournalFolder(path, 0);
    const stripeBytes = 4096 << seed.below(3);
    this.#options = beside ? beside.#options : {
      stripeBytes,
      volumeBytes: stripeBytes * (8 + seed.below(24)),
      cacheStripes: 16 + seed.below(8),
      cacheTtlMs: 0,
      uploads: 1 + seed.below(3),
      readaheadBytes: 0,
      flushAfterMs: 5000,
      garbageBytesMin: 4096,
      turnMs: seed.pick([0, undefined]),
      ioTimeoutMs: seed.pick([undefined, undefined, 4000]),
      takeover: false,
    };
    this.#faults = seed.pick([0, 0.02, 0.2]);
    this.#bytesMax = stripeBytes * (keepsMuch ? 100 : seed.pick([12, 40, 100]));
    this.#fileBytesMax = stripeBytes * (keepsMuch ? 40 : seed.pick([1, 2, 5, 12]));
  }

  get sizeBytes(): number {
    return this.#options.volumeBytes;
  }

  /** Opens the volume, if a start does not die before that; its journal is still to be replayed. */
  async start(): Promise<Process> {
    while (this.#seed.chance(0.4)) await this.#startAndDie();
    const { opening, bucket, clock } = this.#open();
    const volume = await this.untilDone(opening, clock);
    const { info, epoch, unbrokenSince } = volume;
    const isUnbroken = unbrokenSince === this.#left?.unbrokenSince;
    assert(this.isAlone || !isUnbroken, "it goes on over what another machine has made");
    assert(isUnbroken || !this.isAlone || !this.#left?.hasJournal, "the journal is not found");
    this.isAlone = true;
    if (isUnbroken) this.inherited++;
    const { path, files } = this.#folder.adopt(info.uuid, epoch, unbrokenSince);
    const journaled = new JournaledDevice(volume, path, files, {
      bytesMax: this.#bytesMax,
      fileBytesMax: this.#fileBytesMax,
      logger: silentLogger,
    });
    return { volume, journaled, bucket, clock, isUnbroken, path };
  }

  #open(): { opening: Promise<Volume>; bucket: SimulatedBucket; clock: ManualClock } {
    const clock = new ManualClock();
    const bucket = new SimulatedBucket(
      this.#bucket,
      this.#events,
      this.#seed,
      this.#faults,
      "",
      false,
    );
    const opening = Volume.open(this.#options, {
      bucket,
      clock,
      chance: this.#seed,
      logger: silentLogger,
      host: { me: { host: this.name, pid: 1, trace: "" }, isGone: () => true, forget() {} },
      journals: this.#folder,
      onFailure: (error) => {
        throw error;
      },
    });
    return { opening, bucket, clock };
  }

  /** A start that is killed before it has its journal. */
  async #startAndDie(): Promise<void> {
    const { opening, bucket, clock } = this.#open();
    let volume: Volume | undefined;
    opening.then((opened) => volume = opened, () => {});
    for (let left = this.#seed.below(60); left > 0 && !volume; left--) await this.goOn(clock);
    bucket.isDead = true;
    volume?.abandon();
    this.dead++;
  }

  kill({ volume, journaled, bucket, path }: Process): void {
    bucket.isDead = true;
    volume.abandon();
    journaled.abandon();
    this.#left = { unbrokenSince: volume.unbrokenSince, hasJournal: existsSync(path) };
  }

  /** The machine, too: nothing is left of journals and of what is under way. */
  loseMemory({ volume }: Process): void {
    Deno.removeSync(join(this.path, volume.info.uuid), { recursive: true });
    this.#events.length = 0;
    this.#left = undefined;
  }

  /** Something happens in the world, or time passes. */
  async goOn(clock: ManualClock): Promise<void> {
    await turn();
    if (this.#events.length === 0 || this.#seed.chance(0.1)) {
      return await clock.advance(this.#seed.below(3000));
    }
    const event = this.#seed.chance(0.5) ? this.#events[0] : this.#seed.pick(this.#events);
    this.#events.splice(this.#events.indexOf(event), 1);
    await event.happen();
  }

  async untilDone<T>(promise: Promise<T>, clock: ManualClock): Promise<T> {
    let isOver = false;
    promise.then(() => isOver = true, () => isOver = true);
    for (let step = 0; !isOver; step++) {
      assert(step < 20_000, "a request hangs");
      await this.goOn(clock);
    }
    return await promise;
  }

  async readAll({ volume, clock }: Process): Promise<Uint8Array> {
    const all = new Uint8Array(this.sizeBytes);
    const { stripeBytes } = this.#options;
    for (let at = 0; at < all.length;) {
      const piece = all.subarray(at, at + stripeBytes);
      try {
        if (!volume.tryRead(at, piece)) await this.untilDone(volume.read(at, piece), clock);
        at += stripeBytes;
      } catch (error) {
        if (!(error instanceof TimeoutError)) throw error;
      }
    }
    return all;
  }
}

/** What clients of one process do until it is killed; the model knows what was acknowledged. */
async function work(
  machine: Machine,
  process: Process,
  model: Model,
  seed: Seed,
  flushes: number,
): Promise<void> {
  const { journaled, bucket, clock } = process;
  const follow = (done: Done, after: () => void) => {
    if (done === undefined) return after();
    // a change that waited too long waits for good in the model: it may have been made in part
    done.then(() => bucket.isDead || after(), () => {});
  };
  const change = (made: Change, done: Done) => {
    if (done !== undefined) model.begin(made);
    follow(done, () => model.make(made));
  };
  for (let step = seed.below(200); step > 0; step--) {
    const unit = seed.chance(0.7) ? 4096 : 1;
    const units = machine.sizeBytes / unit;
    const first = seed.below(units);
    const offset = first * unit;
    const length = (1 + seed.below(Math.min(Math.ceil(units / 6), units - first))) * unit;
    const what = seed.random();
    if (what < 0.35) {
      const data = new Uint8Array(length).fill(1 + seed.below(255));
      change({ offset, data: data.slice() }, journaled.write(offset, data));
      data.fill(0xee); // borrowed for the call only
    } else if (what < 0.45) {
      change({ offset, data: new Uint8Array(length) }, journaled.zero(offset, length));
    } else if (what < 0.45 + flushes) {
      const covered = model.newestNumber;
      follow(journaled.flush(), () => model.flushed(covered));
    } else {
      await machine.goOn(clock);
    }
  }
}

/** @throws if something is lost, or made again that must not be */
export async function liveWithJournal(number: number): Promise<Happenings> {
  await using scratch = await Scratch.make();
  try {
    return await live(new Seed(number), scratch.path);
  } catch (error) {
    throw new Error(`seed ${number}: ${(error as Error).message}`, { cause: error });
  }
}

async function live(seed: Seed, path: string): Promise<Happenings> {
  const losesPower = seed.chance(0.5);
  const here = new Machine(join(path, "here"), seed, losesPower);
  const there = new Machine(join(path, "there"), seed, losesPower, "there", here);
  let model = new Model(new Uint8Array(here.sizeBytes));
  for (let processes = 2 + seed.below(4); processes > 0; processes--) {
    const [machine, other] = seed.chance(0.15) ? [there, here] : [here, there];
    let process = await machine.start();
    const isEnd = losesPower && processes === 1;
    if (process.isUnbroken && (isEnd || seed.chance(0.2))) {
      process.journaled.replay().catch(() => {});
      for (let left = seed.below(150); left > 0; left--) await machine.goOn(process.clock);
      machine.kill(process);
      if (isEnd) machine.loseMemory(process);
      process = await machine.start();
      if (isEnd) {
        model.inherit(await machine.readAll(process));
        machine.kill(process);
        break;
      }
    }
    await machine.untilDone(process.journaled.replay(), process.clock);
    other.isAlone = false;
    const found = await machine.readAll(process);
    if (process.isUnbroken) model.flushed(model.newestNumber);
    model.inherit(found);
    // from here on what was found is what a crash of the machine leaves, too
    const stored = process.volume.flush()?.catch(() => {}); // with iotimeout it may be told too early
    await machine.untilDone(stored ?? Promise.resolve(), process.clock);
    while (process.volume.unstoredBytes > 0) await machine.goOn(process.clock);
    model = new Model(found);
    await work(machine, process, model, seed, losesPower ? 0.01 : 0.1);
    machine.kill(process);
  }
  return { inherited: here.inherited + there.inherited, deadStarts: here.dead + there.dead };
}
