/**
 * Blocks that read as zeroes although the map does not say so yet.
 *
 *   trim / write zeroes ──▶ pending ──seal──▶ sealed, one set a batch ──commit──▶ the map
 *
 * A block of a cached stripe that is valid there is read from the cache, whatever these sets say:
 * whoever makes a block zero makes it invalid, or zero, in the cache in the same turn, and whoever
 * writes a block takes it out of `pending`. So a pending zero is always newer than what the
 * map and every sealed batch hold, and the order of records inside one batch does not matter.
 */

/** A set of block numbers, kept as sorted, disjoint, non-touching runs [start, end). */
export class BlockRuns {
  #starts: number[] = [];
  #ends: number[] = [];

  /** How many runs there are. */
  get count(): number {
    return this.#starts.length;
  }

  /** Index of the first run that ends behind `block`. */
  #search(block: number): number {
    let low = 0;
    let high = this.#ends.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ends[middle] > block) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  has(block: number): boolean {
    const at = this.#search(block);
    return at < this.#starts.length && this.#starts[at] <= block;
  }

  overlaps(start: number, end: number): boolean {
    const at = this.#search(start);
    return at < this.#starts.length && this.#starts[at] < end;
  }

  add(start: number, end: number): void {
    let first = this.#search(start);
    if (first > 0 && this.#ends[first - 1] === start) first--;
    let last = first;
    while (last < this.#starts.length && this.#starts[last] <= end) {
      start = Math.min(start, this.#starts[last]);
      end = Math.max(end, this.#ends[last]);
      last++;
    }
    this.#starts.splice(first, last - first, start);
    this.#ends.splice(first, last - first, end);
  }

  remove(start: number, end: number): void {
    const first = this.#search(start);
    let last = first;
    const starts: number[] = [];
    const ends: number[] = [];
    while (last < this.#starts.length && this.#starts[last] < end) {
      if (this.#starts[last] < start) {
        starts.push(this.#starts[last]);
        ends.push(start);
      }
      if (this.#ends[last] > end) {
        starts.push(end);
        ends.push(this.#ends[last]);
      }
      last++;
    }
    if (last === first) return;
    this.#starts.splice(first, last - first, ...starts);
    this.#ends.splice(first, last - first, ...ends);
  }

  *[Symbol.iterator](): Generator<[start: number, end: number]> {
    for (let at = 0; at < this.#starts.length; at++) yield [this.#starts[at], this.#ends[at]];
  }

  /** Throws if the runs are not sorted, disjoint and apart. */
  checkInvariants(): void {
    let behind = -1;
    for (const [start, end] of this) {
      if (start <= behind || end <= start) throw new Error(`runs out of order at block ${start}`);
      behind = end;
    }
  }
}

export class Zeroes {
  #pending = new BlockRuns();
  readonly #sealed: BlockRuns[] = [];

  get pending(): BlockRuns {
    return this.#pending;
  }

  /** Runs not yet in the map, pending and sealed. */
  get count(): number {
    return this.#sealed.reduce((sum, runs) => sum + runs.count, this.#pending.count);
  }

  /** Every run, pending and sealed. */
  *[Symbol.iterator](): Generator<[start: number, end: number]> {
    yield* this.#pending;
    for (const runs of this.#sealed) yield* runs;
  }

  has(block: number): boolean {
    if (this.#pending.count > 0 && this.#pending.has(block)) return true;
    for (const runs of this.#sealed) if (runs.has(block)) return true;
    return false;
  }

  /** Whether any block of [start, end) is in a set. */
  overlaps(start: number, end: number): boolean {
    return this.#pending.overlaps(start, end) ||
      this.#sealed.some((runs) => runs.overlaps(start, end));
  }

  /** Hands the pending runs to a batch; they stay visible until `commit`. */
  seal(): BlockRuns {
    const runs = this.#pending;
    this.#pending = new BlockRuns();
    this.#sealed.push(runs);
    return runs;
  }

  /** Forgets the oldest sealed set: the map says it now. */
  commit(runs: BlockRuns): void {
    if (this.#sealed.shift() !== runs) throw new Error("batches commit in the order of sealing");
  }
}

/** True if every byte is zero; the length is a multiple of 4,096. */
export function isAllZero(data: Uint8Array): boolean {
  // words begin at multiples of four; what is before the first and behind the last is looked at byte by byte
  const before = -data.byteOffset & 3;
  const words = new Uint32Array(data.buffer, data.byteOffset + before, (data.length - before) >> 2);
  for (let at = 0; at < words.length; at++) if (words[at] !== 0) return false;
  const behind = before + 4 * words.length;
  for (let at = 0; at < before; at++) if (data[at] !== 0) return false;
  for (let at = behind; at < data.length; at++) if (data[at] !== 0) return false;
  return true;
}
