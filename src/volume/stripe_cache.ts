/**
 * The stripe cache: a fixed number of slots of STRIPE bytes in preallocated slabs.
 *
 *            take                  unpin                      evicted, expired
 *   free ───────────▶ pinned ───────────────▶ clean ──────────────────────────▶ free
 *                       ▲         pin           │ (least recently used first)
 *        takeSpares     └───────────────────────┘
 *   free ───────────▶ spare ──takeOver──▶ pinned, in place of the slot that the stripe had
 *
 * | state  | what it means                                              | who moves it on                  |
 * | ------ | ---------------------------------------------------------- | -------------------------------- |
 * | free   | holds nothing                                              | `take`, `takeSpares`             |
 * | spare  | belongs to no stripe: a write's data arrives in it         | `takeOver`, `freeSpare`          |
 * | pinned | at least one pin: it has dirty blocks, a batch that is not | whoever holds the pin, by `unpin` |
 * |        | committed has sealed some of them, or a fetch is under way |                                  |
 * | clean  | every valid block is also in the bucket, or reads as zero  | `pin`, `take` (eviction), time   |
 *
 * Two bits a block: *valid* (the slot holds its newest bytes) and *dirty* (valid, and in no batch yet).
 *
 * Invariants (`checkInvariants`):
 *  - a dirty block is valid; a slot with dirty blocks is in `dirtySlots` and has a pin for it;
 *  - a slot is in exactly one of free, spare, pinned, clean; a stripe has at most one slot;
 *  - blocks that a batch has sealed but not copied into a segment yet are not overwritten before
 *    `sealed.beforeOverwrite` has saved them.
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../clock.ts";
import { BLOCK_BYTES, MIB, SPARE_SHARE } from "../limits.ts";
import { BlockBits } from "./block_bits.ts";
import { type SealedStripe, SealedStripes } from "./sealed_stripes.ts";

const SLAB_BYTES = 16 * MIB;
/** Slots that are looked at, one behind the other, in the time in which one is searched by its stripe. */
const LOOKS_A_SEARCH = 32;

export class StripeCache {
  readonly slotCount: number;
  readonly stripeBytes: number;
  readonly blocksPerStripe: number;
  /** Slots with dirty blocks. */
  readonly dirtySlots = new Set<number>();
  /** Dirty blocks in all. */
  dirtyBlocks = 0;
  /** What batches have yet to copy. */
  readonly sealed = new SealedStripes((slot) => this.bytes(slot, 0, this.stripeBytes));
  /** Stripes in batches that are not committed; a slot in two batches counts twice. */
  sealedStripes = 0;

  readonly #slabs: Uint8Array[] = [];
  readonly #slotsPerSlab: number;
  readonly #stripeOf: Float64Array;
  readonly #valid: BlockBits;
  readonly #dirty: BlockBits;
  readonly #pins: Uint16Array;
  readonly #pinned = new Map<number, number>();
  readonly #clean: LRUCache<number, number>;
  readonly #free: number[] = [];
  /** How many slots are spare. */
  #spares = 0;
  readonly #sparesMax: number;
  readonly #fetching = new Set<number>();
  #waiters: (() => void)[] = [];

  /**
   * @param slotCount slots of `stripeBytes`
   * @param ttlMs a clean slot is dropped so long after its last use; 0 keeps it
   */
  constructor(slotCount: number, stripeBytes: number, ttlMs: number, clock: Clock) {
    this.slotCount = slotCount;
    this.#sparesMax = Math.floor(slotCount * SPARE_SHARE);
    this.stripeBytes = stripeBytes;
    this.blocksPerStripe = stripeBytes / BLOCK_BYTES;
    this.#slotsPerSlab = Math.min(slotCount, SLAB_BYTES / stripeBytes);
    for (let made = 0; made < slotCount; made += this.#slotsPerSlab) {
      const slots = Math.min(this.#slotsPerSlab, slotCount - made);
      this.#slabs.push(new Uint8Array(slots * stripeBytes));
    }
    this.#stripeOf = new Float64Array(slotCount);
    this.#valid = new BlockBits(slotCount, this.blocksPerStripe);
    this.#dirty = new BlockBits(slotCount, this.blocksPerStripe);
    this.#pins = new Uint16Array(slotCount);
    for (let slot = slotCount - 1; slot >= 0; slot--) this.#free.push(slot);
    this.#clean = new LRUCache<number, number>({
      max: slotCount,
      ttl: ttlMs,
      ttlResolution: 0,
      updateAgeOnGet: true,
      perf: { now: () => clock.monotonic() },
      dispose: (slot, _stripe, reason) => {
        if (reason === "evict" || reason === "expire") this.#free.push(slot);
      },
    });
  }

  // ---- finding and taking slots

  /** The stripe's slot, or -1; a clean one becomes the most recently used. */
  find(stripe: number): number {
    const slot = this.#pinned.get(stripe);
    if (slot !== undefined) return slot;
    return this.#clean.get(stripe) ?? -1;
  }

  /** The same without counting as a use. */
  peek(stripe: number): number {
    return this.#pinned.get(stripe) ?? this.#clean.peek(stripe) ?? -1;
  }

  /** Slots that `take` could give, at most: free and clean ones. */
  get available(): number {
    return this.#free.length + this.#clean.size;
  }

  isClean(slot: number): boolean {
    return this.#pins[slot] === 0;
  }

  /**
   * A slot for a stripe that has none, with no valid block and one pin, which is the caller's to give
   * back; -1 if every slot is pinned (`roomMade` tells when to try again).
   */
  take(stripe: number): number {
    const slot = this.#takeFree();
    if (slot >= 0) this.#give(slot, stripe);
    return slot;
  }

  #takeFree(): number {
    if (this.#free.length === 0) this.#clean.pop();
    return this.#free.pop() ?? -1;
  }

  /** It is pinned, and the pin is the caller's. */
  #give(slot: number, stripe: number): void {
    this.#stripeOf[slot] = stripe;
    this.#valid.clear(slot, 0, this.blocksPerStripe);
    this.#pins[slot] = 1;
    this.#pinned.set(stripe, slot);
  }

  pin(slot: number): void {
    if (this.#pins[slot]++ > 0) return;
    const stripe = this.#stripeOf[slot];
    this.#clean.delete(stripe);
    this.#pinned.set(stripe, slot);
  }

  /** Gives a pin back; with the last one the slot becomes clean, or free if it holds nothing. */
  unpin(slot: number): void {
    if (--this.#pins[slot] > 0) return;
    const stripe = this.#stripeOf[slot];
    this.#pinned.delete(stripe);
    if (this.#holdsNothing(slot)) this.#free.push(slot);
    else this.#clean.set(stripe, slot);
    this.wake();
  }

  /** Frees the stripe's slot, if it is clean. */
  drop(stripe: number): void {
    const slot = this.#clean.peek(stripe);
    if (slot === undefined) return;
    this.#clean.delete(stripe);
    this.#free.push(slot);
  }

  /** So many spare slots, for what `takeOver` is to make stripes; undefined if there are not, or would be too many. */
  takeSpares(count: number): number[] | undefined {
    if (this.#spares + count > this.#sparesMax || this.available < count) return undefined;
    this.#spares += count;
    const slots: number[] = [];
    while (slots.length < count) slots.push(this.#takeFree());
    return slots;
  }

  /** Gives a spare slot back that no stripe is to have. */
  freeSpare(slot: number): void {
    this.#spares--;
    this.#free.push(slot);
    this.wake();
  }

  /**
   * Makes a spare slot that of the stripe, all of it dirty, and frees the one that the stripe had. False, and nothing
   * has changed, if that one can't go: a batch or a fetch has it.
   */
  takeOver(stripe: number, spare: number): boolean {
    const slot = this.find(stripe);
    if (slot >= 0) {
      const ownPins = this.hasDirty(slot) ? 1 : 0;
      if (this.#pins[slot] > ownPins) return false;
      this.invalidate(slot, 0, this.blocksPerStripe);
    }
    this.#spares--;
    this.#give(spare, stripe);
    this.setDirty(spare, 0, this.blocksPerStripe);
    this.unpin(spare);
    return true;
  }

  /** Resolves at the next change after which `take` or a bound on dirty slots may have room. */
  roomMade(): Promise<void> {
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  /** Lets everybody who waits for room look again. */
  wake(): void {
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resolve of waiters) resolve();
  }

  /** A fetch into the slot begins: until `endFetch` it is pinned, and its invalid blocks belong to the fetch. */
  beginFetch(slot: number): void {
    this.#fetching.add(slot);
    this.pin(slot);
  }

  endFetch(slot: number): void {
    this.#fetching.delete(slot);
    this.unpin(slot);
  }

  isFetching(slot: number): boolean {
    return this.#fetching.has(slot);
  }

  // ---- bytes

  /** The slot's bytes from `from` up to `to`, shared, not copied. */
  bytes(slot: number, from: number, to: number): Uint8Array {
    const base = (slot % this.#slotsPerSlab) * this.stripeBytes;
    return this.#slabs[Math.floor(slot / this.#slotsPerSlab)].subarray(base + from, base + to);
  }

  // ---- valid and dirty

  allValid(slot: number, firstBlock: number, blockCount: number): boolean {
    return this.#valid.count(slot, firstBlock, blockCount) === blockCount;
  }

  isValid(slot: number, block: number): boolean {
    return this.#valid.has(slot, block);
  }

  validCount(slot: number): number {
    return this.#valid.count(slot, 0, this.blocksPerStripe);
  }

  setValid(slot: number, firstBlock: number, blockCount: number): void {
    this.#valid.set(slot, firstBlock, blockCount);
  }

  hasDirty(slot: number): boolean {
    return this.dirtySlots.has(slot);
  }

  /** Marks blocks valid and dirty; the slot gets its pin for being dirty when it had no dirty block. */
  setDirty(slot: number, firstBlock: number, blockCount: number): void {
    this.#valid.set(slot, firstBlock, blockCount);
    this.dirtyBlocks += this.#dirty.set(slot, firstBlock, blockCount);
    if (!this.dirtySlots.has(slot)) {
      this.dirtySlots.add(slot);
      this.pin(slot);
    }
  }

  /**
   * Forgets blocks of a slot, dirty or not: they are read from elsewhere now. Not for a slot that is
   * being fetched.
   */
  invalidate(slot: number, firstBlock: number, blockCount: number): void {
    this.#valid.clear(slot, firstBlock, blockCount);
    this.dirtyBlocks -= this.#dirty.clear(slot, firstBlock, blockCount);
    if (this.dirtySlots.has(slot)) {
      if (this.#dirty.count(slot, 0, this.blocksPerStripe) === 0) {
        this.#noLongerDirty(slot);
      }
    } else if (this.#pins[slot] === 0 && this.#holdsNothing(slot)) {
      this.#clean.delete(this.#stripeOf[slot]);
      this.#free.push(slot);
    }
  }

  /** Fills blocks with zeroes and marks them valid, and dirty no more. */
  zeroFill(slot: number, firstBlock: number, blockCount: number): void {
    this.sealed.beforeOverwrite(slot);
    this.bytes(slot, firstBlock * BLOCK_BYTES, (firstBlock + blockCount) * BLOCK_BYTES).fill(0);
    this.setValid(slot, firstBlock, blockCount);
    if (!this.dirtySlots.has(slot)) return;
    this.dirtyBlocks -= this.#dirty.clear(slot, firstBlock, blockCount);
    if (this.#dirty.count(slot, 0, this.blocksPerStripe) === 0) {
      this.#noLongerDirty(slot);
    }
  }

  // ---- sealing

  /**
   * Takes the slot's dirty blocks, or all of it if `whole`, into a batch: they are dirty no more, and the pin they
   * had goes over to the batch, which gives it back by `committed`.
   */
  seal(slot: number, whole: boolean): SealedStripe {
    const runs = whole ? [0, this.blocksPerStripe] : this.#dirty.runs(slot);
    this.dirtyBlocks -= this.#dirty.clear(slot, 0, this.blocksPerStripe);
    this.dirtySlots.delete(slot);
    this.sealedStripes++;
    const entry = { stripe: this.#stripeOf[slot], slot, runs, saved: null };
    this.sealed.add(entry);
    return entry;
  }

  /** The entry's batch is in the map: its pin is given back. */
  committed(entry: SealedStripe): void {
    this.sealedStripes--;
    this.unpin(entry.slot);
  }

  dirtyCount(slot: number): number {
    return this.#dirty.count(slot, 0, this.blocksPerStripe);
  }

  stripeOf(slot: number): number {
    return this.#stripeOf[slot];
  }

  /** Slots of stripes in [first, end): by number when they are few, else by looking at every slot. */
  *slotsOf(first: number, end: number): Generator<number> {
    if ((end - first) * LOOKS_A_SEARCH <= this.slotCount) {
      for (let stripe = first; stripe < end; stripe++) {
        const slot = this.peek(stripe);
        if (slot >= 0) yield slot;
      }
      return;
    }
    for (let slot = 0; slot < this.slotCount; slot++) {
      const stripe = this.#stripeOf[slot];
      // a free slot says what it was the last time
      if (stripe >= first && stripe < end && this.peek(stripe) === slot) yield slot;
    }
  }

  /** Stripes in [first, end) whose slot is pinned, in order. */
  pinnedStripes(first: number, end: number): number[] {
    const stripes: number[] = [];
    for (const slot of this.slotsOf(first, end)) {
      if (this.#pins[slot] > 0) stripes.push(this.#stripeOf[slot]);
    }
    return stripes.sort((a, b) => a - b);
  }

  #noLongerDirty(slot: number): void {
    this.dirtySlots.delete(slot);
    this.unpin(slot);
  }

  #holdsNothing(slot: number): boolean {
    return this.validCount(slot) === 0;
  }

  /** Throws if an invariant of the file's head does not hold. */
  checkInvariants(): void {
    const fail = (what: string) => {
      throw new Error(`stripe cache: ${what}`);
    };
    this.#clean.purgeStale();
    let dirtyBlocks = 0;
    const seen = new Set<number>(this.#free);
    if (seen.size !== this.#free.length) fail("a slot is free twice");
    for (const [stripe, slot] of [...this.#pinned, ...this.#clean.entries()]) {
      if (seen.has(slot)) fail(`slot ${slot} has two places`);
      seen.add(slot);
      if (this.#stripeOf[slot] !== stripe) fail(`slot ${slot} of stripe ${stripe} says otherwise`);
      if (this.#pinned.has(stripe) !== this.#pins[slot] > 0) fail(`slot ${slot}: pins and place`);
      const dirty = this.dirtyCount(slot);
      dirtyBlocks += dirty;
      if (dirty > 0 !== this.dirtySlots.has(slot)) fail(`slot ${slot} has ${dirty} dirty blocks`);
      for (let block = 0; block < this.blocksPerStripe; block++) {
        const isDirty = this.#dirty.has(slot, block);
        if (isDirty && !this.isValid(slot, block)) fail(`slot ${slot}: dirty and not valid`);
      }
    }
    const lost = this.slotCount - seen.size - this.#spares;
    if (lost !== 0) fail(`${lost} slots are lost`);
    if (dirtyBlocks !== this.dirtyBlocks) {
      fail(`${this.dirtyBlocks} dirty blocks counted, ${dirtyBlocks} found`);
    }
  }
}
