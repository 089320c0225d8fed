/**
 * What one writer's disk may be: every state it has had since the last flush that was answered, oldest first.
 *
 * A change that waits may take effect in parts until it is acknowledged; a state remembers the changes that
 * waited in it.
 */
import { Buffer } from "node:buffer";
import { BLOCK_BYTES } from "../../src/limits.ts";

/** Bytes put at an offset: a write, or zeroes. */
export interface Change {
  offset: number;
  data: Uint8Array;
}

interface State {
  disk: Uint8Array;
  /** Changes not acknowledged yet. */
  waiting: Change[];
}

export class Model {
  #states: State[];
  /** Number of the oldest state kept. */
  #first = 0;
  #waiting: Change[] = [];
  /** What the next writer found: this writer's state of that number, and nothing later. */
  #inherited: { number: number; disk: Uint8Array } | null = null;

  constructor(disk: Uint8Array) {
    this.#states = [{ disk, waiting: [] }];
  }

  /** The disk as its client sees it, if no change waits. */
  get newest(): Uint8Array {
    return this.#states[this.#states.length - 1].disk;
  }

  /** Number of the newest state. */
  get newestNumber(): number {
    return this.#first + this.#states.length - 1;
  }

  get hasWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** A change was asked for that could not be made at once. */
  begin(change: Change): void {
    this.#waiting.push(change);
    this.#states.push({ disk: this.newest, waiting: [...this.#waiting] });
  }

  /** A change is acknowledged, or several that belong together. */
  make(...changes: Change[]): void {
    this.#waiting = this.#waiting.filter((other) => !changes.includes(other));
    const disk = this.newest.slice();
    for (const { offset, data } of changes) disk.set(data, offset);
    this.#states.push({ disk, waiting: [...this.#waiting] });
  }

  /** A flush is answered that was asked for in state `number`. @throws if the next writer lacks that state */
  flushed(number: number): void {
    if (this.#inherited && number > this.#inherited.number) {
      // a change that waited then may have been found in part
      if (!couldBe(this.#inherited.disk, this.#states[number - this.#first])) {
        throw new Error(
          `a flush of state ${number} is answered after a takeover that found ${this.#inherited.number}`,
        );
      }
    }
    if (number <= this.#first) return;
    this.#states = this.#states.slice(number - this.#first);
    this.#first = number;
  }

  /**
   * The next writer has opened the volume and found `disk`.
   *
   * @returns the number of the state that is
   * @throws if it is none of the states since the last flush
   */
  inherit(disk: Uint8Array): number {
    for (let at = this.#states.length - 1; at >= 0; at--) {
      if (!couldBe(disk, this.#states[at])) continue;
      this.#inherited = { number: this.#first + at, disk };
      return this.#inherited.number;
    }
    const byte = firstDifference(disk, this.newest);
    throw new Error(
      `after opening, the disk is none of the ${this.#states.length} states since the last flush; it ` +
        `differs from the newest first in block ${byte >>> 12}: ${disk[byte]} ${this.newest[byte]}`,
    );
  }
}

export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (Buffer.compare(a, b) === 0) return -1; // which is much faster
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return at;
  return -1;
}

/** True if every byte is the state's, or that of a change that waited in it. */
function couldBe(found: Uint8Array, { disk, waiting }: State): boolean {
  for (let begin = 0; begin < found.length; begin += BLOCK_BYTES) {
    const end = begin + BLOCK_BYTES;
    if (Buffer.compare(found.subarray(begin, end), disk.subarray(begin, end)) === 0) continue;
    for (let at = begin; at < end; at++) {
      if (found[at] === disk[at]) continue;
      if (!waiting.some(({ offset, data }) => data[at - offset] === found[at])) return false;
    }
  }
  return true;
}
