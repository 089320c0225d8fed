/**
 * Read: all blocks valid, or known to be zero → copy → reply, in the same turn. Otherwise the stripes
 * are fetched first. A sequential reader gets the stripes ahead of it fetched early.
 *
 * Of a stripe whose records have parts (segment.ts) a read fetches the aligned power of two of blocks around it that is
 * at least as large as what the cache has of the stripe already: little for scattered reads, and soon all of it for
 * a reader that stays.
 */
import { BLOCK_BYTES, PREFETCH_BYTES_MAX } from "../limits.ts";
import type { Done } from "./block_device.ts";
import { blocksOf, type Contents, type StripeBytes, type StripeRange } from "./contents.ts";
import type { Fetcher } from "./fetch.ts";
import { ReadAhead } from "./read_ahead.ts";

export class ReadPath {
  readonly #contents: Contents;
  readonly #fetcher: Fetcher;
  /** Unless it is turned off. */
  readonly #ahead?: ReadAhead;
  /** Stripes that reads had at once, cached or known to be zeroes, and those they had to wait for. */
  hits = 0;
  misses = 0;

  /** @param readaheadBytes fetched ahead of a sequential reader, at most; 0 turns it off */
  constructor(contents: Contents, fetcher: Fetcher, sizeBytes: number, readaheadBytes: number) {
    this.#contents = contents;
    this.#fetcher = fetcher;
    if (readaheadBytes > 0) {
      this.#ahead = new ReadAhead(contents, fetcher, sizeBytes, readaheadBytes);
    }
  }

  get readAheadBytes(): number {
    return this.#ahead?.bytes ?? 0;
  }

  get readAheadVainBytes(): number {
    return this.#ahead?.vainBytes ?? 0;
  }

  /** Fills `target` in this turn, if the bucket is not needed for it. */
  tryRead(offset: number, target: Uint8Array): boolean {
    const { stripeBytes } = this.#contents;
    let stripes = 0;
    for (let done = 0; done < target.length;) {
      const stripe = Math.floor((offset + done) / stripeBytes);
      const from = offset + done - stripe * stripeBytes;
      const length = Math.min(stripeBytes - from, target.length - done);
      const part = length === target.length ? target : target.subarray(done, done + length);
      if (!this.#copyOut(stripe, from, part)) return false;
      stripes++;
      done += length;
    }
    this.hits += stripes;
    this.#ahead?.note(offset, target.length);
    return true;
  }

  /** The bytes in the cache, if all of the range is there. */
  lend(offset: number, length: number): Uint8Array[] | undefined {
    const { cache } = this.#contents;
    const parts: Uint8Array[] = [];
    for (const bytes of this.#contents.stripesOf(offset, offset + length)) {
      const slot = cache.find(bytes.stripe);
      const { first, end } = blocksOf(bytes);
      if (slot < 0 || !cache.allValid(slot, first, end - first)) return undefined;
      parts.push(cache.bytes(slot, bytes.from, bytes.to));
    }
    this.hits += parts.length;
    this.#ahead?.note(offset, length);
    return parts;
  }

  /** Fills `target`, fetching what is not in the cache. */
  async read(offset: number, target: Uint8Array): Promise<void> {
    // what has arrived with this request is answered first: planning and making a GET takes tens of microseconds
    await undefined;
    this.#ahead?.note(offset, target.length);
    const { cache, clock, stripeBytes } = this.#contents;
    const sinceMs = clock.monotonic();
    // as much at a time as surely finds slots
    const stepBytes = Math.max(1, Math.floor(cache.slotCount / 8)) * stripeBytes;
    for (let done = 0; done < target.length;) {
      const at = offset + done;
      const length = Math.min(stepBytes - at % stripeBytes, target.length - done);
      await this.#readStep(at, target.subarray(done, done + length), sinceMs);
      done += length;
    }
  }

  /**
   * Fetches what of the range is not in the cache; of a long one no more than a quarter of the cache takes, one part
   * after the other.
   */
  prefetch(offset: number, length: number): Done {
    this.#contents.assertAlive();
    const { cache, stripeBytes } = this.#contents;
    const share = Math.floor(cache.slotCount / 4) * stripeBytes;
    const end = offset + Math.min(length, share);
    return end - offset <= PREFETCH_BYTES_MAX
      ? this.#prefetchPart(offset, end)
      : this.#prefetchParts(offset, end);
  }

  async #prefetchParts(offset: number, end: number): Promise<void> {
    const turn = this.#contents.turn();
    for (let at = offset; at < end; at += PREFETCH_BYTES_MAX) {
      this.#contents.assertAlive();
      await this.#prefetchPart(at, Math.min(end, at + PREFETCH_BYTES_MAX));
      if (turn.isOver) await turn.next();
    }
  }

  #prefetchPart(offset: number, end: number): Done {
    const ranges = this.#contents.toFetch(offset, end);
    return ranges.length > 0 ? this.#contents.wait(this.#prefetchRanges(ranges)) : undefined;
  }

  /** A stripe that is being fetched may come without what nobody has asked for yet: that is fetched behind it. */
  async #prefetchRanges(ranges: StripeRange[]): Promise<void> {
    const shared = ranges.filter(({ stripe }) => this.#fetcher.isUnderWay(stripe));
    await this.#fetcher.fetch(ranges);
    const rest = shared.filter((range) => this.#contents.countMissing(range) > 0);
    if (rest.length > 0) await this.#fetcher.fetch(rest);
  }

  async #readStep(offset: number, target: Uint8Array, sinceMs: number): Promise<void> {
    const { stripeBytes } = this.#contents;
    let missing = [...this.#contents.stripesOf(offset, offset + target.length)];
    const stripes = missing.length;
    const targetOf = ({ stripe, from, to }: StripeBytes) => {
      const begin = stripe * stripeBytes - offset;
      return target.subarray(begin + from, begin + to);
    };
    for (let isFirst = true;; isFirst = false) {
      this.#contents.assertAlive();
      const turn = this.#contents.turn();
      const parts = missing;
      missing = [];
      for (const part of parts) {
        if (!this.#copyOut(part.stripe, part.from, targetOf(part))) missing.push(part);
        if (turn.isOver) await turn.next();
      }
      if (isFirst) {
        this.hits += stripes - missing.length;
        this.misses += missing.length;
      }
      if (missing.length === 0) return;
      const isWanted = () => !this.#contents.isOverdue(sinceMs);
      const around = (range: StripeRange) => this.#around(range);
      const fetched = this.#fetcher.fetch(missing.map(blocksOf), { around, isWanted });
      await this.#contents.wait(fetched, sinceMs);
    }
  }

  /** What to fetch for a range that is needed. */
  #around({ stripe, first, end }: StripeRange): StripeRange {
    const { cache, blocksPerPart } = this.#contents;
    const slot = cache.find(stripe);
    const validBlocks = slot < 0 ? 0 : cache.validCount(slot);
    let unit = blocksPerPart;
    while (unit < validBlocks) unit *= 2;
    return { stripe, first: Math.floor(first / unit) * unit, end: Math.ceil(end / unit) * unit };
  }

  /** Copies a part of one stripe, if every block of it is valid or reads as zero. */
  #copyOut(stripe: number, from: number, target: Uint8Array): boolean {
    const { cache, map, blocksPerStripe } = this.#contents;
    const slot = cache.find(stripe);
    if (slot < 0 && !map.isMapped(stripe)) {
      target.fill(0);
      return true;
    }
    const first = Math.floor(from / BLOCK_BYTES);
    const end = Math.ceil((from + target.length) / BLOCK_BYTES);
    if (slot >= 0 && cache.allValid(slot, first, end - first)) {
      target.set(cache.bytes(slot, from, from + target.length));
      return true;
    }
    for (let block = first; block < end; block++) {
      const blockFrom = Math.max(from, block * BLOCK_BYTES);
      const blockTo = Math.min(from + target.length, (block + 1) * BLOCK_BYTES);
      if (slot >= 0 && cache.isValid(slot, block)) {
        target.set(cache.bytes(slot, blockFrom, blockTo), blockFrom - from);
      } else if (this.#contents.isZero(stripe * blocksPerStripe + block)) {
        target.fill(0, blockFrom - from, blockTo - from);
      } else {
        return false;
      }
    }
    return true;
  }
}
