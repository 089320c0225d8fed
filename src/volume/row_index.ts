/**
 * In which row of a table a seq is: a map from whole numbers to whole numbers, in typed arrays. JavaScript maps of two
 * million take 60 MB of the heap, for which a full garbage collection stops everything for tens of milliseconds.
 *
 * The seqs are in groups of neighbours, so that no array is long: each is a sorted list of pairs, of what a seq has beyond
 * its group's first, and of its row.
 */

/** Seqs of a group: 8 KiB if none is missing. */
const GROUP = 1024;
/** Pairs that a group has room for at first: 64 bytes, which V8 keeps without a buffer of their own. */
const PAIRS_FIRST = 8;

class Group {
  pairs = new Uint32Array(2 * PAIRS_FIRST);
  count = 0;

  /** Index of the first pair whose key is not below this one. */
  search(key: number): number {
    const { pairs, count } = this;
    if (count === 0 || key <= pairs[0]) return 0;
    // keys are apart by one at least, so it is no further on; there, if none is missing before it
    let high = Math.min(count, key - pairs[0]);
    if (high < count && pairs[2 * high] === key) return high;
    let low = 0;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (pairs[2 * middle] < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  has(at: number, key: number): boolean {
    return at < this.count && this.pairs[2 * at] === key;
  }

  insert(at: number, key: number, row: number): void {
    if (2 * this.count === this.pairs.length) {
      const pairs = new Uint32Array(2 * this.pairs.length);
      pairs.set(this.pairs);
      this.pairs = pairs;
    }
    this.pairs.copyWithin(2 * at + 2, 2 * at, 2 * this.count);
    this.pairs[2 * at] = key;
    this.pairs[2 * at + 1] = row;
    this.count++;
  }

  remove(at: number): void {
    this.pairs.copyWithin(2 * at, 2 * at + 2, 2 * this.count);
    this.count--;
  }
}

export class RowIndex {
  readonly #groups = new Map<number, Group>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(seq: number): boolean {
    return this.get(seq) !== undefined;
  }

  get(seq: number): number | undefined {
    const group = this.#groups.get(Math.floor(seq / GROUP));
    if (!group) return undefined;
    const at = group.search(seq % GROUP);
    return group.has(at, seq % GROUP) ? group.pairs[2 * at + 1] : undefined;
  }

  set(seq: number, row: number): void {
    const number = Math.floor(seq / GROUP);
    let group = this.#groups.get(number);
    if (!group) this.#groups.set(number, group = new Group());
    const at = group.search(seq % GROUP);
    if (group.has(at, seq % GROUP)) {
      group.pairs[2 * at + 1] = row;
    } else {
      group.insert(at, seq % GROUP, row);
      this.#size++;
    }
  }

  delete(seq: number): void {
    const number = Math.floor(seq / GROUP);
    const group = this.#groups.get(number);
    const at = group?.search(seq % GROUP);
    if (!group?.has(at!, seq % GROUP)) return;
    group.remove(at!);
    this.#size--;
    if (group.count === 0) this.#groups.delete(number);
  }
}
