/**
 * A disk in one Uint8Array, for tests of src/nbd and as the yardstick of its speed.
 *
 * `hold(verb)` makes requests of that verb wait until the test lets them go, so that a test decides
 * what is slow instead of guessing how long "slow" takes.
 */

import type { BlockDevice, Done, Extent, Place } from "../../src/volume/block_device.ts";

export type Verb = "read" | "write" | "trim" | "zero" | "prefetch" | "flush";

interface Held {
  verb: Verb;
  offset: number;
  letGo: () => void;
  fail: (error: Error) => void;
}

export class MemoryDevice implements BlockDevice {
  readonly blockBytes = 4096;
  readonly preferredBytes = 65536;
  readonly bytes: Uint8Array;
  /** Every request in the order in which it reached the device. */
  readonly calls: string[] = [];
  record = false;
  /** Requests for which this says true wait. */
  holds: (verb: Verb, offset: number, length: number) => boolean = () => false;
  /** Requests for which this returns an error fail with it. */
  fails: (verb: Verb, offset: number, length: number) => Error | undefined = () => undefined;
  /** Whether the data of a write may have a place while it arrives. */
  offersPlaces = false;
  /** Those that are neither written nor given up. */
  readonly places = new Set<Place>();
  #held: Held[] = [];
  #onHeld: (() => void)[] = [];

  constructor(readonly sizeBytes: number) {
    this.bytes = new Uint8Array(sizeBytes);
  }

  tryRead(offset: number, target: Uint8Array): boolean {
    const error = this.fails("read", offset, target.length);
    if (error !== undefined) throw error;
    if (this.holds("read", offset, target.length)) return false;
    this.#note("read", offset, target.length);
    target.set(this.bytes.subarray(offset, offset + target.length));
    return true;
  }

  lend(offset: number, length: number): Uint8Array[] | undefined {
    if (this.fails("read", offset, length) || this.holds("read", offset, length)) return undefined;
    this.#note("read", offset, length);
    const middle = offset + Math.floor(length / 2);
    return [this.bytes.subarray(offset, middle), this.bytes.subarray(middle, offset + length)];
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    await this.#perform("read", offset, target.length, () => {
      target.set(this.bytes.subarray(offset, offset + target.length));
    });
  }

  write(offset: number, data: Uint8Array): Done {
    const held = this.holds("write", offset, data.length) ? data.slice() : data;
    return this.#perform("write", offset, data.length, () => this.bytes.set(held, offset));
  }

  place(offset: number, length: number): Place | undefined {
    if (!this.offersPlaces) return undefined;
    const data = new Uint8Array(length);
    const middle = Math.floor(length / 2);
    const place: Place = {
      length,
      parts: [data.subarray(0, middle), data.subarray(middle)],
      write: () => {
        const done = this.write(offset, data);
        if (!this.places.delete(place)) throw new Error("a place was written twice");
        return done;
      },
      giveUp: () => void this.places.delete(place),
    };
    this.places.add(place);
    return place;
  }

  trim(offset: number, length: number): Done {
    return this.#perform("trim", offset, length, () => {
      const first = Math.ceil(offset / this.blockBytes) * this.blockBytes;
      const end = Math.floor((offset + length) / this.blockBytes) * this.blockBytes;
      if (first < end) this.bytes.fill(0, first, end);
    });
  }

  zero(offset: number, length: number): Done {
    return this.#perform("zero", offset, length, () => this.bytes.fill(0, offset, offset + length));
  }

  zeroesFast(offset: number, length: number): boolean {
    return offset % this.blockBytes === 0 && length % this.blockBytes === 0;
  }

  prefetch(offset: number, length: number): Done {
    return this.#perform("prefetch", offset, length, () => {});
  }

  /** Blocks that are all zero are holes. */
  extents(offset: number, length: number, countMax: number): Extent[] {
    const error = this.fails("read", offset, length);
    if (error !== undefined) throw error;
    const extents: Extent[] = [];
    const end = offset + length;
    for (let at = offset; at < end;) {
      const block = at - at % this.blockBytes;
      const stop = Math.min(end, block + this.blockBytes);
      const isHole = isZero(this.bytes.subarray(block, block + this.blockBytes));
      const last = extents.at(-1);
      if (last?.isHole === isHole) last.lengthBytes += stop - at;
      else if (extents.length < countMax) extents.push({ lengthBytes: stop - at, isHole });
      else break;
      at = stop;
    }
    return extents;
  }

  flush(): Done {
    return this.#perform("flush", 0, 0, () => {});
  }

  /** How many requests wait. */
  get heldCount(): number {
    return this.#held.length;
  }

  /** Resolves when `count` requests wait. */
  async untilHeld(count: number): Promise<void> {
    while (this.#held.length < count) {
      await new Promise<void>((resolve) => this.#onHeld.push(resolve));
    }
  }

  /** Lets the request that has waited longest go on, or every one that waits. */
  release(): void {
    this.#held.shift()!.letGo();
  }

  releaseAll(): void {
    for (const held of this.#held.splice(0)) held.letGo();
  }

  /** Lets the request that has waited longest fail. */
  failHeld(error: Error): void {
    this.#held.shift()!.fail(error);
  }

  #perform(verb: Verb, offset: number, length: number, action: () => void): Done {
    const error = this.fails(verb, offset, length);
    if (error !== undefined) throw error;
    this.#note(verb, offset, length);
    if (!this.holds(verb, offset, length)) {
      action();
      return undefined;
    }
    return new Promise<void>((resolve, reject) => {
      const letGo = () => {
        action();
        resolve();
      };
      this.#held.push({ verb, offset, letGo, fail: reject });
      for (const onHeld of this.#onHeld.splice(0)) onHeld();
    });
  }

  #note(verb: Verb, offset: number, length: number): void {
    if (this.record) this.calls.push(`${verb} ${offset} ${length}`);
  }
}

function isZero(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0) return false;
  return true;
}
