/**
 * One process that has the volume open, from its start to its clean stop, its death or its fencing; and its
 * client, which writes, trims, zeroes, reads and flushes. Some make a few changes first that belong together, as if
 * they had found them in a journal.
 */
import { FencedError, TimeoutError, UsageError } from "../../src/errors.ts";
import { BLOCK_BYTES, MAP_PAGE_STRIPES } from "../../src/limits.ts";
import { silentLogger } from "../../src/logger.ts";
import type { Done, Place } from "../../src/volume/block_device.ts";
import type { Host } from "../../src/volume/lease.ts";
import { Volume } from "../../src/volume/volume.ts";
import type { VolumeOptions } from "../../src/volume/volume_options.ts";
import { ManualClock } from "../support/manual_clock.ts";
import { type Change, firstDifference, Model } from "./model.ts";
import type { Seed } from "./seed.ts";
import type { SimulatedBucket } from "./simulated_bucket.ts";

/** Every holder is gone: the lease never refuses, only fencing keeps the writers apart. */
const host: Host = {
  me: { host: "simulated", pid: 1, trace: "" },
  isGone: () => true,
  forget() {},
};

/**
 * What clients use of the volume: pieces of equal size, but for the last. Before each but the first lies as much as a page
 * of the map covers, so that every piece has a page of its own.
 */
export class SimulatedDisk {
  readonly bytes: number;
  readonly volumeBytes: number;
  readonly #pieceBytes: number;
  readonly #gapBytes: number;

  constructor(bytes: number, stripeBytes: number, pieces: number) {
    this.#pieceBytes = Math.ceil(bytes / stripeBytes / pieces) * stripeBytes;
    this.#gapBytes = MAP_PAGE_STRIPES * stripeBytes;
    this.bytes = bytes;
    this.volumeBytes = this.at(bytes - 1) + 1;
  }

  /** Where a byte is on the volume. */
  at(offset: number): number {
    return offset + Math.floor(offset / this.#pieceBytes) * this.#gapBytes;
  }

  /** How many of so many bytes lie in one piece. */
  inOnePiece(offset: number, length: number): number {
    return Math.min(length, this.#pieceBytes - offset % this.#pieceBytes);
  }

  /** A range on the volume, with what lies between the pieces. */
  range(offset: number, length: number): [offset: number, length: number] {
    return [this.at(offset), this.at(offset + length - 1) + 1 - this.at(offset)];
  }
}

/** What all lives of a simulation share. */
export interface World {
  readonly seed: Seed;
  readonly options: VolumeOptions;
  readonly disk: SimulatedDisk;
  /** Many processes one soon after the other, few of them killed: what they store and delete is under way for long. */
  readonly isCrowded: boolean;
  trace(what: string): void;
}

export class Life {
  readonly clock = new ManualClock();
  /** Set when the volume is open. */
  volume: Volume | null = null;
  /** Set when it is known what it found. */
  model: Model | null = null;
  /** The disk as it was when the volume had been opened. */
  found: Uint8Array | null = null;
  /** Over: closed, dead, or fenced. */
  isOver = false;
  isFenced = false;
  /** What went wrong that must not. */
  failure: Error | null = null;
  changes = 0;
  flushes = 0;
  timeouts = 0;
  readonly underWay = new Set<Promise<void>>();
  /** Writes of which the data is arriving. */
  readonly #arriving: { place: Place; change: Change }[] = [];

  readonly #seed: Seed;
  /** Where the client mostly is, if the disk is crowded: from here to the end of the piece. */
  readonly #home: number;
  /** Whether it has changes to make before any other, or is at it. */
  #journal: "found" | "being replayed" | null;

  constructor(
    readonly number: number,
    readonly bucket: SimulatedBucket,
    private readonly world: World,
  ) {
    this.#seed = world.seed;
    this.#home = this.#seed.below(world.disk.bytes / BLOCK_BYTES) * BLOCK_BYTES;
    this.#journal = this.#seed.chance(0.2) ? "found" : null;
  }

  trace(what: string): void {
    this.world.trace(`${this.number}: ${what}`);
  }

  /** Opens the volume and reads all of it. Returns null if it was fenced meanwhile. */
  async open(): Promise<Uint8Array | null> {
    try {
      this.volume = await Volume.open(this.world.options, {
        bucket: this.bucket,
        clock: this.clock,
        chance: this.#seed,
        logger: silentLogger,
        host,
        journals: { announce() {}, inherit: (_, epoch) => this.#journal ? epoch : undefined },
        onFailure: (error) => this.#failed(error),
      });
      this.volume.checkInvariants();
      const found = await this.#readAll(this.volume);
      return this.isFenced ? null : found;
    } catch (error) {
      this.#failed(error as Error);
      return null;
    }
  }

  /** Every byte; a stripe that comes too late is asked for again. */
  async #readAll(volume: Volume): Promise<Uint8Array> {
    const { disk, options: { ioTimeoutMs } } = this.world;
    const found = new Uint8Array(disk.bytes);
    const bytesMax = ioTimeoutMs === undefined ? disk.bytes : volume.preferredBytes;
    for (let at = 0; at < disk.bytes;) {
      const piece = found.subarray(at, at + disk.inOnePiece(at, bytesMax));
      try {
        const offset = disk.at(at);
        if (!volume.tryRead(offset, piece)) await volume.read(offset, piece);
        at += piece.length;
      } catch (error) {
        if (!(error instanceof TimeoutError)) throw error;
      }
    }
    return found;
  }

  /** The process ends at once. Its requests may still arrive. */
  die(): void {
    this.trace("dies");
    this.isOver = true;
    this.bucket.isDead = true;
    this.volume?.abandon();
  }

  /** Stops in good order. */
  async close(): Promise<void> {
    this.trace("closes");
    const { volume, model } = this;
    if (!volume || !model) return;
    for (const { place } of this.#arriving.splice(0)) place.giveUp();
    try {
      await Promise.all(this.underWay);
      const covered = model.newestNumber;
      await volume.close();
      model.flushed(covered);
      volume.checkInvariants();
      this.isOver = true;
      if (this.clock.pending > 0) throw new Error(`${this.clock.pending} timers after close`);
    } catch (error) {
      this.#failed(error as Error);
    }
  }

  #failed(error: Error): void {
    if (this.isOver) return;
    if (!(error instanceof FencedError)) {
      this.failure ??= error;
      return;
    }
    this.trace("is fenced");
    this.isOver = this.isFenced = true;
    this.volume?.abandon();
  }

  // ---- the client

  act(): void {
    const { volume, model } = this;
    if (!volume || !model || this.isOver || this.#journal === "being replayed") return;
    if (this.#journal) return this.#replay(volume, model);
    if (this.#arriving.length > 0 && this.#seed.chance(0.3)) return this.#endArriving();
    const [offset, longest] = this.#range();
    const { disk } = this.world;
    const length = disk.inOnePiece(offset, longest);
    if (this.#seed.chance(0.15)) this.#beginArriving(volume, offset, length);
    if (this.#seed.chance(0.1)) this.#look(volume, model, offset, length);
    if (this.#seed.chance(0.03)) this.#follow(volume.prefetch(disk.at(offset), length), () => {});
    const action = this.#seed.random();
    if (action < 0.45) this.#write(volume, offset, length);
    else if (action < 0.55) {
      const change = { offset, data: new Uint8Array(longest) };
      this.#change("zero", change, volume.zero(...disk.range(offset, longest)));
    } else if (action < 0.65) {
      const from = Math.ceil(offset / 4096) * 4096;
      const data = new Uint8Array(Math.max(0, (offset + longest & ~4095) - from));
      this.#change("trim", { offset: from, data }, volume.trim(...disk.range(offset, longest)));
    } else if (action < 0.85) this.#read(volume, model, offset, length);
    else this.#flush(volume, model);
  }

  /** Makes changes that may have room in memory or not: a crash leaves all of them or none. */
  #replay(volume: Volume, model: Model): void {
    const { disk, options: { cacheStripes } } = this.world;
    const changes: Change[] = [];
    for (let stripes = 1 + this.#seed.below(3 * cacheStripes); stripes > 0;) {
      const [offset, longest] = this.#range();
      const length = disk.inOnePiece(offset, longest);
      stripes -= Math.ceil(length / volume.preferredBytes);
      changes.push({ offset, data: this.#data(length) });
    }
    this.trace(`replays ${changes.map(({ offset, data }) => `${offset}+${data.length}`)}`);
    this.#journal = "being replayed";
    this.changes += changes.length;
    const makeAll = async () => {
      for (const { offset, data } of changes) {
        for (let isMade = false; !isMade;) {
          isMade = await this.#inTime(volume.write(disk.at(offset), data));
        }
      }
    };
    this.#follow(volume.together(makeAll), () => {
      this.trace("has replayed");
      this.#journal = null;
      model.make(...changes);
    });
  }

  /** False if it came too late. */
  async #inTime(done: Done): Promise<boolean> {
    try {
      await done;
      return true;
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error;
      return false;
    }
  }

  /** One change for sure, and a flush. */
  actAndFlush(): void {
    this.#write(this.volume!, 0, 4096);
    this.#flush(this.volume!, this.model!);
  }

  #data(length: number): Uint8Array {
    const data = new Uint8Array(length);
    if (!this.#seed.chance(0.1)) data.fill(1 + this.#seed.below(255));
    if (this.#seed.chance(0.2)) data.fill(0, 0, this.#seed.below(length));
    return data;
  }

  /** Data begins to arrive for the stripes around a range, if the volume has a place for it. */
  #beginArriving(volume: Volume, at: number, length: number): void {
    const unit = volume.preferredBytes;
    const offset = at - at % unit;
    const data = this.#data(Math.ceil((at + length - offset) / unit) * unit);
    if (offset + data.length > this.world.disk.bytes) return;
    const place = volume.place(this.world.disk.at(offset), data.length);
    if (place === undefined) return;
    this.trace(`${offset}+${data.length} arrives`);
    const [first] = place.parts;
    first.set(data.subarray(0, this.#seed.below(first.length)));
    this.#arriving.push({ place, change: { offset, data } });
  }

  /** The rest of it has come, or never will. */
  #endArriving(): void {
    const at = this.#seed.below(this.#arriving.length);
    const [{ place, change }] = this.#arriving.splice(at, 1);
    if (this.#seed.chance(0.2)) return place.giveUp();
    let filled = 0;
    for (const part of place.parts) {
      part.set(change.data.subarray(filled, filled + part.length));
      filled += part.length;
    }
    this.#change("write in place", change, place.write());
    place.giveUp(); // to no effect
  }

  #write(volume: Volume, offset: number, length: number): void {
    const data = this.#data(length);
    const change = { offset, data: data.slice() };
    this.#change("write", change, volume.write(this.world.disk.at(offset), data));
    data.fill(0xee); // borrowed for the call only
  }

  /** A change the volume makes at once, or one that waits. */
  #change(what: string, change: Change, done: Promise<void> | undefined): void {
    const model = this.model!;
    const name = `${what} ${change.offset}+${change.data.length}`;
    this.trace(`${name}${done ? ", waits" : ""}`);
    this.changes++;
    if (!done) return model.make(change);
    model.begin(change);
    this.#follow(done, () => {
      this.trace(`${name} is made`);
      model.make(change);
    });
  }

  /** A read is compared if no change was made or waited meanwhile: then it has one right answer. */
  #read(volume: Volume, model: Model, offset: number, length: number): void {
    if (model.hasWaiting) return;
    const target = new Uint8Array(length);
    const state = model.newestNumber;
    this.trace(`read ${offset}+${length}`);
    const check = () => {
      if (state !== model.newestNumber) return;
      const wrong = firstDifference(target, model.newest.subarray(offset, offset + length));
      if (wrong >= 0) throw new Error(`read ${offset}+${length} is wrong at ${offset + wrong}`);
    };
    const at = this.world.disk.at(offset);
    if (volume.tryRead(at, target)) check();
    else this.#follow(volume.read(at, target), check);
  }

  /** What is told of a range without reading it, and what is lent of it, likewise. */
  #look(volume: Volume, model: Model, offset: number, length: number): void {
    if (model.hasWaiting) return;
    const start = this.world.disk.at(offset);
    let at = offset;
    for (const { lengthBytes, isHole } of volume.extents(start, length, 100)) {
      const bytes = model.newest.subarray(at, at + lengthBytes);
      if (isHole && bytes.some((byte) => byte !== 0)) throw new Error(`data in a hole at ${at}`);
      at += lengthBytes;
    }
    at = offset;
    for (const part of volume.lend(start, length) ?? []) {
      const wrong = firstDifference(part, model.newest.subarray(at, at + part.length));
      if (wrong >= 0) throw new Error(`what is lent is wrong at ${at + wrong}`);
      at += part.length;
    }
  }

  #flush(volume: Volume, model: Model): void {
    const covered = model.newestNumber;
    this.trace("flush");
    this.flushes++;
    this.#follow(volume.flush(), () => {
      this.trace("flush is answered");
      model.flushed(covered);
    });
  }

  #follow(done: Promise<void> | undefined, after: () => void): void {
    if (!done) return after();
    const followed = done.then(() => {
      if (!this.bucket.isDead) after();
    }).catch((error) => {
      // a change that waited too long may have been made in part: the model has it waiting for good
      if (error instanceof TimeoutError) return void this.timeouts++;
      // what waits when the process dies, or is fenced, ends with that
      if (this.isOver && (error instanceof FencedError || error instanceof UsageError)) return;
      this.#failed(error);
    }).finally(() => this.underWay.delete(followed));
    this.underWay.add(followed);
  }

  #range(): [offset: number, length: number] {
    const unit = this.#seed.chance(0.7) ? 4096 : 1;
    const { disk, isCrowded } = this.world;
    const isNear = isCrowded && this.#seed.chance(0.9);
    const begin = isNear ? this.#home : 0;
    const units = (isNear ? disk.inOnePiece(begin, disk.bytes - begin) : disk.bytes) / unit;
    const offset = this.#seed.below(units);
    const longest = this.#seed.chance(0.1) ? units : Math.max(1, Math.ceil(units / 10));
    const length = 1 + this.#seed.below(Math.min(longest, units - offset));
    return [begin + offset * unit, length * unit];
  }
}
