/**
 * What the disk holds now, in three layers; the first that knows a block has its newest bytes.
 *
 *   1. the stripe cache, where the block is valid
 *   2. `zeroes`: trimmed or zeroed, and not yet in the map
 *   3. the map: a record in the bucket, or nothing, which reads as zeroes
 *
 * The verbs in read.ts, write.ts, trim.ts and flush.ts work on one `Contents`; every change is made within
 * one turn of the event loop, so that no other verb sees half of it.
 */
import { type Clock, Turn, within } from "../clock.ts";
import { TimeoutError } from "../errors.ts";
import { BLOCK_BYTES, DIRTY_SHARE, TURN_MS_MAX } from "../limits.ts";
import type { StripeCache } from "./stripe_cache.ts";
import type { StripeMap } from "./stripe_map.ts";
import type { Zeroes } from "./zeroes.ts";

/** Blocks [first, end) of a stripe, counted from its begin. */
export interface StripeRange {
  stripe: number;
  first: number;
  end: number;
}

/** Bytes [from, to) of a stripe, counted from its begin. */
export interface StripeBytes {
  stripe: number;
  from: number;
  to: number;
}

export class Contents {
  readonly stripeBytes: number;
  readonly blocksPerStripe: number;
  /** Of one part of a record (segment.ts): the least that is fetched. */
  readonly blocksPerPart: number;
  /** Dirty and sealed stripes together, at most; a change that would pass it waits for an upload. */
  readonly dirtyStripesMax: number;
  /** Stripes that reclaim is about to make dirty: room that is taken already. */
  reservedStripes = 0;
  #failure: Error | null = null;

  /**
   * @param ioTimeoutMs how long a request may wait for the bucket; undefined for as long as it takes
   * @param partBytes data in one part of a record
   * @param turnMs what is done in pieces gives way to all else after so long
   */
  constructor(
    readonly cache: StripeCache,
    readonly zeroes: Zeroes,
    readonly map: StripeMap,
    readonly clock: Clock,
    readonly ioTimeoutMs?: number,
    readonly partBytes = cache.stripeBytes,
    readonly turnMs = TURN_MS_MAX,
  ) {
    this.stripeBytes = cache.stripeBytes;
    this.blocksPerStripe = cache.blocksPerStripe;
    this.blocksPerPart = partBytes / BLOCK_BYTES;
    this.dirtyStripesMax = Math.floor(cache.slotCount * DIRTY_SHARE);
  }

  /** True if a block that is not valid in the cache reads as zeroes. `block` counts from the disk's begin. */
  isZero(block: number): boolean {
    if (this.zeroes.has(block)) return true;
    const stripe = Math.floor(block / this.blocksPerStripe);
    return this.map.readsAsZero(stripe, block - stripe * this.blocksPerStripe);
  }

  /** All of a stripe. */
  whole(stripe: number): StripeRange {
    return { stripe, first: 0, end: this.blocksPerStripe };
  }

  /**
   * The bytes [start, end) of the disk, split at stripe borders. It adds a tenth of a microsecond to a request: the ones
   * that the cache alone answers, of which there are 150,000 a second, split for themselves.
   */
  *stripesOf(start: number, end: number): Generator<StripeBytes> {
    for (let at = start; at < end;) {
      const stripe = Math.floor(at / this.stripeBytes);
      const from = at - stripe * this.stripeBytes;
      const to = Math.min(this.stripeBytes, from + end - at);
      yield { stripe, from, to };
      at += to - from;
    }
  }

  /** Blocks of the range that are stored and not in the cache. */
  countMissing({ stripe, first, end }: StripeRange): number {
    if (!this.map.isMapped(stripe)) return 0;
    const slot = this.cache.find(stripe);
    if (slot < 0) return end - first;
    if (this.cache.allValid(slot, first, end - first)) return 0;
    let missing = 0;
    for (let block = first; block < end; block++) {
      if (this.cache.isValid(slot, block)) continue;
      if (!this.isZero(stripe * this.blocksPerStripe + block)) missing++;
    }
    return missing;
  }

  /** What of the bytes [start, end) is in stripes of which some of it is stored and not in the cache. */
  toFetch(start: number, end: number): StripeRange[] {
    const ranges: StripeRange[] = [];
    for (const bytes of this.stripesOf(start, end)) {
      const range = blocksOf(bytes);
      if (this.countMissing(range) > 0) ranges.push(range);
    }
    return ranges;
  }

  /** True if anything was changed that no batch holds yet. */
  get hasChanges(): boolean {
    return this.cache.dirtyBlocks > 0 || this.zeroes.pending.count > 0;
  }

  /** How many more stripes may become dirty now. */
  get roomStripes(): number {
    const { dirtySlots, sealedStripes } = this.cache;
    return this.dirtyStripesMax - dirtySlots.size - sealedStripes - this.reservedStripes;
  }

  /** Throws if more is dirty or sealed than may be, or an invariant of the cache does not hold. */
  checkInvariants(): void {
    this.cache.checkInvariants();
    const { dirtySlots, sealedStripes } = this.cache;
    const unstored = dirtySlots.size + sealedStripes;
    if (unstored <= this.dirtyStripesMax) return;
    throw new Error(`${unstored} stripes are dirty or sealed where ${this.dirtyStripesMax} may be`);
  }

  /** Bytes acknowledged, or about to be, that are not in the bucket. */
  get unstoredBytes(): number {
    return this.cache.dirtyBlocks * BLOCK_BYTES + this.cache.sealedStripes * this.stripeBytes;
  }

  /** From now on every verb throws `error`: the volume is fenced, closed, or in doubt. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.cache.wake();
  }

  get failure(): Error | null {
    return this.#failure;
  }

  assertAlive(): void {
    if (this.#failure) throw this.#failure;
  }

  /** For what is done in pieces: the turn that has just begun. */
  turn(): Turn {
    return new Turn(this.clock, this.turnMs);
  }

  /** True once a request that began to wait at `sinceMs` has had its `TimeoutError`. */
  isOverdue(sinceMs: number): boolean {
    return this.ioTimeoutMs !== undefined && this.clock.monotonic() - sinceMs >= this.ioTimeoutMs;
  }

  /**
   * Waits for the bucket, but not longer than until `ioTimeoutMs` after `sinceMs`, when the request began to wait
   * (by `clock.monotonic`). @throws TimeoutError
   */
  wait<T>(promise: Promise<T>, sinceMs = this.clock.monotonic()): Promise<T> {
    const limitMs = this.ioTimeoutMs;
    if (limitMs === undefined) return promise;
    return within(
      this.clock,
      Math.max(0, sinceMs + limitMs - this.clock.monotonic()),
      promise,
      () => new TimeoutError(`no answer from the bucket within iotimeout=${limitMs / 1000} s`),
    );
  }
}

/** The blocks that bytes of a stripe touch. */
export function blocksOf({ stripe, from, to }: StripeBytes): StripeRange {
  return { stripe, first: Math.floor(from / BLOCK_BYTES), end: Math.ceil(to / BLOCK_BYTES) };
}
