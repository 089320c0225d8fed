/** A bit for each block of each slot; 32 blocks a word, each slot begins a word of its own. */
export class BlockBits {
  readonly #words: Uint32Array;
  readonly #wordsPerSlot: number;
  readonly #blocksPerSlot: number;

  constructor(slots: number, blocksPerSlot: number) {
    this.#blocksPerSlot = blocksPerSlot;
    this.#wordsPerSlot = Math.ceil(blocksPerSlot / 32);
    this.#words = new Uint32Array(slots * this.#wordsPerSlot);
  }

  has(slot: number, block: number): boolean {
    return (this.#words[slot * this.#wordsPerSlot + (block >>> 5)] >>> (block & 31) & 1) === 1;
  }

  /** Sets bits; returns how many were not set before. */
  set(slot: number, first: number, count: number): number {
    let changed = 0;
    const base = slot * this.#wordsPerSlot;
    for (let at = first, end = first + count; at < end; at = (at | 31) + 1) {
      const mask = maskFrom(at, end);
      const word = base + (at >>> 5);
      changed += popcount(mask & ~this.#words[word]);
      this.#words[word] |= mask;
    }
    return changed;
  }

  /** Clears bits; returns how many were set before. */
  clear(slot: number, first: number, count: number): number {
    let changed = 0;
    const base = slot * this.#wordsPerSlot;
    for (let at = first, end = first + count; at < end; at = (at | 31) + 1) {
      const mask = maskFrom(at, end);
      const word = base + (at >>> 5);
      changed += popcount(mask & this.#words[word]);
      this.#words[word] &= ~mask;
    }
    return changed;
  }

  /** How many of the bits are set. */
  count(slot: number, first: number, count: number): number {
    let set = 0;
    const base = slot * this.#wordsPerSlot;
    for (let at = first, end = first + count; at < end; at = (at | 31) + 1) {
      set += popcount(this.#words[base + (at >>> 5)] & maskFrom(at, end));
    }
    return set;
  }

  /** Runs of bits that are set: first, count, first, count, … */
  runs(slot: number): number[] {
    const runs: number[] = [];
    for (let block = 0; block < this.#blocksPerSlot; block++) {
      if (!this.has(slot, block)) continue;
      const first = block;
      while (block + 1 < this.#blocksPerSlot && this.has(slot, block + 1)) block++;
      runs.push(first, block - first + 1);
    }
    return runs;
  }
}

/** The bits of `from`'s word from `from` on and before `end`. */
function maskFrom(from: number, end: number): number {
  const low = -1 << (from & 31);
  return end >= (from | 31) + 1 ? low : low & ((1 << (end & 31)) - 1);
}

function popcount(word: number): number {
  word -= (word >>> 1) & 0x55555555;
  word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
  return Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
