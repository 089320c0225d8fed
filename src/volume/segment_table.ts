/**
 * The segment table: of every segment, how large the object is and how much of it is still read. A terabyte in
 * segments of 8 MiB has 131,072; their bytes lie in typed arrays, in no order: 16 bytes a segment, and some 16 for
 * finding it. Whoever looks at all of them does it some rows a turn.
 *
 * A segment is *dead* when nothing of it is read any more.
 *
 * A checkpoint freezes the table and reads it turns later; rows that change meanwhile are kept, PART_ROWS at a time,
 * as they were.
 */
import { RANK_TURN_SEGMENTS } from "../limits.ts";
import { RowIndex } from "./row_index.ts";

/** Bytes of a segment: of the whole object, and of what is still read from it. */
export interface SegmentUse {
  storedBytes: number;
  liveBytes: number;
}

/** 8 KiB. */
const PART_ROWS = 512;

/** Costs are told apart to so many parts of the greatest. */
const COST_CLASSES = 256;

export interface Ranking {
  seqs: number[];
  /** Of all that could be named. */
  liveBytes: number;
}

/** Some rows: the seqs, and twice as many numbers of bytes, stored and live. */
export interface SegmentRows {
  seqs: Float64Array;
  bytes: Uint32Array;
}

export class SegmentTable {
  /** Of all segments together. */
  readonly total: SegmentUse = { storedBytes: 0, liveBytes: 0 };
  /** Of those that are dead. */
  readonly dead = { segments: 0, storedBytes: 0 };
  readonly #rowOf = new RowIndex();
  #seqs = new Float64Array(1024);
  #bytes = new Uint32Array(2 * 1024);
  #frozenSize = 0;
  /** While frozen: rows as they were, by number of PART_ROWS. */
  #kept: SegmentRows[] | null = null;

  get size(): number {
    return this.#rowOf.size;
  }

  has(seq: number): boolean {
    return this.#rowOf.has(seq);
  }

  get(seq: number): SegmentUse | undefined {
    const row = this.#rowOf.get(seq);
    return row === undefined ? undefined : this.#useAt(row);
  }

  add(seq: number, storedBytes: number, liveBytes: number): void {
    const row = this.size;
    if (row === this.#seqs.length) this.#grow();
    this.#keep(row);
    this.#rowOf.set(seq, row);
    this.#seqs[row] = seq;
    this.#bytes[2 * row] = storedBytes;
    this.#bytes[2 * row + 1] = liveBytes;
    this.total.storedBytes += storedBytes;
    this.total.liveBytes += liveBytes;
    if (liveBytes === 0) this.#countDead(storedBytes, 1);
  }

  /** Adds to the live bytes of a segment; one that is not in the table stays out of it. */
  addLive(seq: number, bytes: number): void {
    const row = this.#rowOf.get(seq);
    if (row === undefined || bytes === 0) return;
    const liveBytes = this.#bytes[2 * row + 1];
    if (liveBytes === 0) this.#countDead(this.#bytes[2 * row], -1);
    if (liveBytes + bytes === 0) this.#countDead(this.#bytes[2 * row], 1);
    this.#keep(row);
    this.#bytes[2 * row + 1] = liveBytes + bytes;
    this.total.liveBytes += bytes;
  }

  /** The last row takes the place of the one that goes. */
  delete(seq: number): void {
    const row = this.#rowOf.get(seq);
    if (row === undefined) return;
    const { storedBytes, liveBytes } = this.#useAt(row);
    const last = this.size - 1;
    this.#keep(row);
    this.#seqs[row] = this.#seqs[last];
    this.#bytes.copyWithin(2 * row, 2 * last, 2 * last + 2);
    this.#rowOf.set(this.#seqs[row], row);
    this.#rowOf.delete(seq);
    this.total.storedBytes -= storedBytes;
    this.total.liveBytes -= liveBytes;
    if (liveBytes === 0) this.#countDead(storedBytes, -1);
  }

  /** From now on the table is also kept as it is, until `frozen` has told all of it, or `thaw`. */
  freeze(): void {
    this.#kept = [];
    this.#frozenSize = this.size;
  }

  thaw(): void {
    this.#kept = null;
    this.#frozenSize = 0;
  }

  get frozenSize(): number {
    return this.#frozenSize;
  }

  /** The rows that were frozen, some at a time, each valid within the turn in which it is got. */
  *frozen(): Generator<SegmentRows> {
    for (let from = 0; from < this.#frozenSize; from += PART_ROWS) {
      const kept = this.#kept![from / PART_ROWS];
      const { seqs, bytes } = kept ?? this.#part(from);
      const count = Math.min(PART_ROWS, this.#frozenSize - from);
      yield { seqs: seqs.subarray(0, count), bytes: bytes.subarray(0, 2 * count) };
    }
    this.thaw();
  }

  #part(from: number): SegmentRows {
    return {
      seqs: this.#seqs.subarray(from, from + PART_ROWS),
      bytes: this.#bytes.subarray(2 * from, 2 * (from + PART_ROWS)),
    };
  }

  /** To be called before a row changes. */
  #keep(row: number): void {
    if (row >= this.#frozenSize) return;
    const part = Math.floor(row / PART_ROWS);
    if (this.#kept![part]) return;
    const { seqs, bytes } = this.#part(part * PART_ROWS);
    this.#kept![part] = { seqs: seqs.slice(), bytes: bytes.slice() };
  }

  /**
   * Up to `countMax` segments that are not dead and cost less than `costMax`, the cheapest first, to one part in
   * COST_CLASSES. It looks at some rows a turn; segments that come or go meanwhile may be missed, or named.
   *
   * @param pause resolves in another turn
   */
  async cheapest(
    countMax: number,
    costMax: number,
    costOf: (storedBytes: number, liveBytes: number, seq: number) => number,
    pause: () => Promise<void>,
  ): Promise<Ranking> {
    const classes: number[][] = Array.from({ length: COST_CLASSES }, () => []);
    let sum = 0;
    for (let row = 0; row < this.size; row++) {
      const [storedBytes, liveBytes] = [this.#bytes[2 * row], this.#bytes[2 * row + 1]];
      const cost = liveBytes === 0 ? costMax : costOf(storedBytes, liveBytes, this.#seqs[row]);
      if (cost < costMax) {
        sum += liveBytes;
        const alike = classes[Math.floor(COST_CLASSES * cost / costMax)];
        if (alike.length < countMax) alike.push(this.#seqs[row]);
      }
      if (row % RANK_TURN_SEGMENTS === RANK_TURN_SEGMENTS - 1) await pause();
    }
    const seqs = new Array<number>().concat(...classes);
    return { seqs: seqs.slice(0, countMax), liveBytes: sum };
  }

  *[Symbol.iterator](): Generator<[seq: number, use: SegmentUse]> {
    for (let row = 0; row < this.size; row++) yield [this.#seqs[row], this.#useAt(row)];
  }

  #useAt(row: number): SegmentUse {
    return { storedBytes: this.#bytes[2 * row], liveBytes: this.#bytes[2 * row + 1] };
  }

  #countDead(storedBytes: number, sign: 1 | -1): void {
    this.dead.segments += sign;
    this.dead.storedBytes += sign * storedBytes;
  }

  #grow(): void {
    const [seqs, bytes] = [this.#seqs, this.#bytes];
    this.#seqs = new Float64Array(2 * seqs.length);
    this.#seqs.set(seqs);
    this.#bytes = new Uint32Array(2 * bytes.length);
    this.#bytes.set(bytes);
  }

  /** Throws if the sums are not those of the rows. */
  checkInvariants(): void {
    const table = new SegmentTable();
    for (const [seq, { storedBytes, liveBytes }] of this) table.add(seq, storedBytes, liveBytes);
    const sums = [table, this].map(({ size, total, dead }) =>
      JSON.stringify({ size, total, dead })
    );
    if (sums[0] !== sums[1]) throw new Error(`segment table: ${sums[1]}, not ${sums[0]}`);
  }
}
