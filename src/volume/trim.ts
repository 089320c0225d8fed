/**
 * Trim and write zeroes: the covered blocks are dropped from the cache and remembered as runs of zeroes
 * for the next batch. Reads see them at once; a later write takes its blocks out of them. A
 * whole-device trim is one run, and one record.
 */
import { BLOCK_BYTES, ZERO_RUNS_MAX } from "../limits.ts";
import type { Done } from "./block_device.ts";
import type { Blocked, ChangeOrder } from "./change_order.ts";
import type { Contents } from "./contents.ts";
import type { Fetcher } from "./fetch.ts";
import type { WritePath } from "./write.ts";

export class TrimPath {
  readonly #contents: Contents;
  readonly #fetcher: Fetcher;
  readonly #order: ChangeOrder;
  readonly #writePath: WritePath;

  /**
   * @param writePath writes what sticks out of the blocks of a `zero`
   */
  constructor(
    contents: Contents,
    fetcher: Fetcher,
    order: ChangeOrder,
    writePath: WritePath,
  ) {
    this.#contents = contents;
    this.#fetcher = fetcher;
    this.#order = order;
    this.#writePath = writePath;
  }

  /** Makes the whole blocks inside the range read as zeroes. */
  trim(offset: number, length: number): Done {
    const start = roundUp(offset);
    const end = roundDown(offset + length);
    if (end <= start) {
      this.#contents.assertAlive();
      return undefined;
    }
    return this.#order.run(start, end, () => this.#attempt(start, end));
  }

  /** Makes the range read as zeroes, to the byte: whole blocks as `trim` does, the rest is written. */
  zero(offset: number, length: number): Done {
    const end = offset + length;
    let done = offset;
    return this.#order.run(offset, end, () => {
      while (done < end) {
        const isBlock = done % BLOCK_BYTES === 0 && done + BLOCK_BYTES <= end;
        const stop = isBlock ? roundDown(end) : Math.min(end, roundDown(done) + BLOCK_BYTES);
        const blocked = isBlock
          ? this.#attempt(done, stop)
          : this.#writePath.attempt(done, new Uint8Array(stop - done));
        if (blocked !== null) return blocked;
        done = stop;
      }
      return null;
    });
  }

  /** Whether `zero` would make the change at once, out of whole blocks. */
  zeroesFast(offset: number, length: number): boolean {
    const end = offset + length;
    return offset % BLOCK_BYTES === 0 && end % BLOCK_BYTES === 0 && this.#order.isIdle &&
      this.#blockedBy(offset, end) === null;
  }

  /** `start` and `end` are multiples of a block. */
  #attempt(start: number, end: number): Blocked | null {
    const blocked = this.#blockedBy(start, end);
    if (typeof blocked === "number") return this.#fetcher.fetch([this.#contents.whole(blocked)]);
    if (blocked === null) zeroBlocks(this.#contents, start / BLOCK_BYTES, end / BLOCK_BYTES);
    return blocked;
  }

  /** What keeps the blocks of [start, end) from being made zeroes in this turn: room, or a stripe to fetch first. */
  #blockedBy(start: number, end: number): "room" | number | null {
    const { stripeBytes, zeroes } = this.#contents;
    if (zeroes.count >= ZERO_RUNS_MAX) return "room";
    const [first, last] = [start, end - 1].map((byte) => Math.floor(byte / stripeBytes));
    return this.#needs(first, start, end) ?? this.#needs(last, start, end);
  }

  /** A stripe that is covered in part and should get no more patches is stored whole: so it has to be here. */
  #needs(stripe: number, start: number, end: number): "room" | number | null {
    const { cache, map, stripeBytes, blocksPerStripe } = this.#contents;
    const isWhole = start <= stripe * stripeBytes && end >= (stripe + 1) * stripeBytes;
    if (isWhole || !map.isFull(stripe)) return null;
    const slot = cache.find(stripe);
    if (slot < 0 || !cache.allValid(slot, 0, blocksPerStripe)) return stripe;
    return cache.hasDirty(slot) || this.#contents.roomStripes >= 2 ? null : "room";
  }
}

function roundDown(byte: number): number {
  return byte - byte % BLOCK_BYTES;
}

function roundUp(byte: number): number {
  return roundDown(byte + BLOCK_BYTES - 1);
}

/** Makes the blocks [first, end) read as zeroes, in this turn. */
export function zeroBlocks(contents: Contents, first: number, end: number): void {
  const { cache, map, zeroes, blocksPerStripe } = contents;
  zeroes.pending.add(first, end);
  const firstStripe = Math.floor(first / blocksPerStripe);
  const endStripe = Math.ceil(end / blocksPerStripe);
  for (const slot of cache.slotsOf(firstStripe, endStripe)) {
    const begin = cache.stripeOf(slot) * blocksPerStripe;
    const from = Math.max(first, begin);
    const to = Math.min(end, begin + blocksPerStripe);
    const whole = to - from === blocksPerStripe;
    // of a whole one the map is not asked: all over a large volume each look is far from the one before
    const isStored = !whole && (cache.hasDirty(slot) ||
      (map.isFull(cache.stripeOf(slot)) && cache.allValid(slot, 0, blocksPerStripe)));
    if (isStored) {
      // its other blocks go into the next batch, or should: these go with them, as data
      zeroes.pending.remove(from, to);
      cache.zeroFill(slot, from - begin, to - from);
      cache.setDirty(slot, from - begin, to - from);
    } else if (cache.isFetching(slot)) {
      cache.zeroFill(slot, from - begin, to - from);
    } else {
      cache.invalidate(slot, from - begin, to - from);
    }
  }
}
