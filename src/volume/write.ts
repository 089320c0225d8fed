/**
 * Write: split at stripe borders → find or take a slot → copy → mark valid and dirty → reply.
 *
 * The bucket is needed in three cases only: a part of a block is written that is not valid (the block
 * is fetched first), a stripe has so many patches that it is to be stored whole (so all of it is), or the
 * bound on dirty stripes is reached (the write waits for an upload, and is never refused).
 *
 * A piece of up to `pieceBytes` is made in one turn, so that one batch has all of it or nothing.
 *
 * Data for whole stripes can arrive in spare slots of the cache (`place`). When it is written the stripes have these slots,
 * and nothing is copied, unless a batch or a fetch has the slot that a stripe had, or the write has to wait.
 */
import { BLOCK_BYTES, WRITE_PIECE_BYTES_MAX, ZERO_RUNS_MAX } from "../limits.ts";
import type { Done, Place } from "./block_device.ts";
import type { Blocked, ChangeOrder } from "./change_order.ts";
import type { Contents, StripeRange } from "./contents.ts";
import type { Fetcher } from "./fetch.ts";
import { zeroBlocks } from "./trim.ts";
import { isAllZero } from "./zeroes.ts";

export class WritePath {
  readonly #contents: Contents;
  readonly #fetcher: Fetcher;
  readonly #order: ChangeOrder;
  readonly #onChanged: () => void;
  readonly #pieceBytes: number;

  /** @param onChanged called behind a change that is made at once, as ChangeOrder does it for the others */
  constructor(contents: Contents, fetcher: Fetcher, order: ChangeOrder, onChanged: () => void) {
    this.#contents = contents;
    this.#fetcher = fetcher;
    this.#order = order;
    this.#onChanged = onChanged;
    this.#pieceBytes = pieceBytes(contents.dirtyStripesMax, contents.stripeBytes);
  }

  /** Writes `data`, borrowed for the call, at `offset`. */
  write(offset: number, data: Uint8Array): Done {
    if (this.#order.isIdle && data.length <= this.#pieceBytes) {
      this.#contents.assertAlive();
      if (this.#tryPiece(offset, data) === null) {
        this.#onChanged();
        return undefined;
      }
    }
    return this.#writeOwn(offset, data.slice());
  }

  /** A place for whole stripes, if there are spare slots for them and no change waits. */
  place(offset: number, length: number): Place | undefined {
    const { cache, stripeBytes } = this.#contents;
    if (offset % stripeBytes !== 0 || length % stripeBytes !== 0) return undefined;
    if (length > this.#pieceBytes || !this.#order.isIdle) return undefined;
    const spares = cache.takeSpares(length / stripeBytes);
    if (spares === undefined) return undefined;
    const parts = spares.map((spare) => cache.bytes(spare, 0, stripeBytes));
    let isUsedUp = false;
    const giveUp = () => {
      if (isUsedUp) return;
      isUsedUp = true;
      for (const spare of spares) cache.freeSpare(spare);
    };
    const write = () => {
      this.#contents.assertAlive();
      isUsedUp = this.#trySpares(offset / stripeBytes, spares, parts);
      if (isUsedUp) return undefined;
      const data = new Uint8Array(length);
      parts.forEach((part, index) => data.set(part, index * stripeBytes));
      const done = this.#writeOwn(offset, data);
      giveUp();
      return done;
    };
    return { length, parts, write, giveUp };
  }

  /** Writes what lies in spare slots to the stripes from `first` on, in this turn, or touches nothing if it has to wait. */
  #trySpares(first: number, spares: readonly number[], parts: readonly Uint8Array[]): boolean {
    const { cache, roomStripes } = this.#contents;
    if (!this.#order.isIdle) return false;
    let newlyDirty = 0;
    for (let stripe = first; stripe < first + spares.length; stripe++) {
      const slot = cache.find(stripe);
      if (slot < 0 || !cache.hasDirty(slot)) newlyDirty++;
    }
    if (newlyDirty > roomStripes) return false;
    spares.forEach((spare, index) => this.#moveIn(first + index, spare, parts[index]));
    this.#onChanged();
    return true;
  }

  /** @param data what lies in the spare slot */
  #moveIn(stripe: number, spare: number, data: Uint8Array): void {
    const { cache, blocksPerStripe } = this.#contents;
    const slot = cache.find(stripe);
    if (!this.#tryZeroes(stripe, slot, 0, data)) {
      if (cache.takeOver(stripe, spare)) return this.#notZero(stripe, 0, blocksPerStripe);
      this.#copyInto(stripe, slot, 0, data);
    }
    cache.freeSpare(spare);
  }

  /** Writes `data`, which nobody else has, now or when its turn has come. */
  #writeOwn(offset: number, data: Uint8Array): Done {
    let written = 0;
    return this.#order.run(offset, offset + data.length, () => {
      const turn = this.#contents.turn();
      while (written < data.length) {
        const at = offset + written;
        // pieces of a longer write end where stripes do, so that it fills whole stripes
        const isPiece = data.length <= this.#pieceBytes;
        const end = isPiece
          ? data.length
          : written + this.#pieceBytes - at % this.#contents.stripeBytes;
        const blocked = this.attempt(at, data.subarray(written, end));
        if (blocked !== null) return blocked;
        written = Math.min(end, data.length);
        if (written < data.length && turn.isOver) return turn.next();
      }
      return null;
    });
  }

  /** Writes one piece in this turn, or touches nothing and says what it waits for. */
  attempt(offset: number, data: Uint8Array): Blocked | null {
    const blocked = this.#tryPiece(offset, data);
    return Array.isArray(blocked) ? this.#fetcher.fetch(blocked) : blocked;
  }

  /** Writes one piece in this turn, or touches nothing and says what it needs: room, or blocks fetched. */
  #tryPiece(offset: number, data: Uint8Array): null | "room" | StripeRange[] {
    const { cache, stripeBytes } = this.#contents;
    const end = offset + data.length;
    let toFetch: StripeRange[] | null = null;
    let newlyDirty = 0;
    let newSlots = 0;
    let cleanSlots = 0;
    for (let at = offset; at < end;) {
      const stripe = Math.floor(at / stripeBytes);
      const stop = Math.min(end, (stripe + 1) * stripeBytes);
      const slot = cache.find(stripe);
      toFetch = this.#addNeeded(toFetch, stripe, slot, at, stop);
      if (slot < 0) newSlots++;
      else if (cache.isClean(slot)) cleanSlots++;
      if (slot < 0 || !cache.hasDirty(slot)) newlyDirty++;
      at = stop;
    }
    if (toFetch !== null) return toFetch;
    if (newlyDirty > this.#contents.roomStripes) return "room";
    if (cache.available - cleanSlots < newSlots) return "room";
    this.#copyIn(offset, data);
    return null;
  }

  /** Adds to `ranges` what of the stripe's other bytes is needed, and is neither in the cache nor known to be zero. */
  #addNeeded(
    ranges: StripeRange[] | null,
    stripe: number,
    slot: number,
    start: number,
    end: number,
  ): StripeRange[] | null {
    const { cache, map, blocksPerStripe, stripeBytes } = this.#contents;
    if (end - start === stripeBytes) return ranges;
    if (map.isFull(stripe) && (slot < 0 || !cache.allValid(slot, 0, blocksPerStripe))) {
      return [...ranges ?? [], this.#contents.whole(stripe)];
    }
    if (start % BLOCK_BYTES !== 0 && !this.#isKnown(slot, start)) {
      ranges = [...ranges ?? [], this.#blockAt(stripe, start)];
    }
    if (end % BLOCK_BYTES !== 0 && !this.#isKnown(slot, end)) {
      ranges = [...ranges ?? [], this.#blockAt(stripe, end)];
    }
    return ranges;
  }

  #blockAt(stripe: number, byte: number): StripeRange {
    const first = Math.floor(byte / BLOCK_BYTES) - stripe * this.#contents.blocksPerStripe;
    return { stripe, first, end: first + 1 };
  }

  #isKnown(slot: number, byte: number): boolean {
    const { cache, blocksPerStripe } = this.#contents;
    const block = Math.floor(byte / BLOCK_BYTES);
    return (slot >= 0 && cache.isValid(slot, block % blocksPerStripe)) ||
      this.#contents.isZero(block);
  }

  /** Everything is there that is needed: copies, stripe by stripe. */
  #copyIn(offset: number, data: Uint8Array): void {
    const { cache, stripeBytes } = this.#contents;
    // those that have a slot are pinned first, so that taking slots for the others can't evict them
    for (const hasSlot of [true, false]) {
      for (let done = 0; done < data.length;) {
        const at = offset + done;
        const stripe = Math.floor(at / stripeBytes);
        const from = at - stripe * stripeBytes;
        const length = Math.min(stripeBytes - from, data.length - done);
        const slot = cache.find(stripe);
        if (slot >= 0 === hasSlot) {
          this.#copyStripe(stripe, slot, from, data.subarray(done, done + length));
        }
        done += length;
      }
    }
  }

  #copyStripe(stripe: number, slot: number, from: number, data: Uint8Array): void {
    if (this.#tryZeroes(stripe, slot, from, data)) return;
    if (slot >= 0) return this.#copyInto(stripe, slot, from, data);
    const { cache } = this.#contents;
    const taken = cache.take(stripe);
    this.#copyInto(stripe, taken, from, data);
    cache.unpin(taken);
  }

  /** A run of zeroes takes no slot, and a GiB of it one record: true if it was made. */
  #tryZeroes(stripe: number, slot: number, from: number, data: Uint8Array): boolean {
    if (data[0] !== 0) return false;
    const { cache, zeroes, blocksPerStripe } = this.#contents;
    if (slot >= 0 && cache.hasDirty(slot) || zeroes.count >= ZERO_RUNS_MAX) return false;
    if (!isAligned(from, data) || !isAllZero(data)) return false;
    const first = stripe * blocksPerStripe + from / BLOCK_BYTES;
    zeroBlocks(this.#contents, first, first + data.length / BLOCK_BYTES);
    return true;
  }

  #copyInto(stripe: number, slot: number, from: number, data: Uint8Array): void {
    const { cache } = this.#contents;
    const to = from + data.length;
    cache.sealed.beforeOverwrite(slot);
    const first = Math.floor(from / BLOCK_BYTES);
    const last = Math.floor((to - 1) / BLOCK_BYTES);
    if (!isAligned(from, data)) {
      // a block written in part is valid, or known to be zero
      this.#zeroIfInvalid(slot, first);
      this.#zeroIfInvalid(slot, last);
    }
    cache.bytes(slot, from, to).set(data);
    cache.setDirty(slot, first, last - first + 1);
    this.#notZero(stripe, first, last + 1);
  }

  /** Blocks of the stripe are in the cache, and zero no more. */
  #notZero(stripe: number, first: number, end: number): void {
    const { zeroes, blocksPerStripe } = this.#contents;
    const begin = stripe * blocksPerStripe;
    if (zeroes.pending.count > 0) zeroes.pending.remove(begin + first, begin + end);
  }

  #zeroIfInvalid(slot: number, block: number): void {
    const { cache } = this.#contents;
    if (cache.isValid(slot, block)) return;
    cache.bytes(slot, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES).fill(0);
  }
}

/** Whether data at `from` of a stripe is whole blocks. */
function isAligned(from: number, data: Uint8Array): boolean {
  return from % BLOCK_BYTES === 0 && data.length % BLOCK_BYTES === 0;
}

/** The longest write that one turn makes: half of what may be dirty, so that one can be uploaded meanwhile. */
function pieceBytes(dirtyStripesMax: number, stripeBytes: number): number {
  const half = Math.max(1, Math.floor(dirtyStripesMax / 2)) * stripeBytes;
  return Math.max(stripeBytes, Math.min(half, WRITE_PIECE_BYTES_MAX));
}
