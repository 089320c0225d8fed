/**
 * The stripe cache: a fixed number of slots of STRIPE bytes in preallocated slabs.
 *
 *            take              settle / unpin                 evicted, expired
 *   free ───────────▶ pinned ◀──────────────▶ clean ──────────────────────────▶ free
 *                       ▲         pin           │ (least recently used first)
 *                       └───────────────────────┘
 *
 * | state  | what it means                                              | who moves it on                  |
 * | ------ | ---------------------------------------------------------- | -------------------------------- |
 * | free   | holds nothing                                              | `take`                           |
 * | pinned | at least one pin: it has dirty blocks, a batch that is not | whoever holds the pin, by `unpin` |
 * |        | committed has sealed some of them, or a fetch is under way |                                  |
 * | clean  | every valid block is also in the bucket, or reads as zero  | `pin`, `take` (eviction), time   |
 *
 * Two bits a block: *valid* (the slot holds its newest bytes) and *dirty* (valid, and in no batch yet).
 *
 * Invariants (`checkInvariants`):
 *  - a dirty block is valid; a slot with dirty blocks is in `dirtySlots` and has a pin for it;
 *  - a slot is in exactly one of free, pinned, clean; a stripe has at most one slot;
 *  - blocks that a batch has sealed but not copied into a segment yet are not overwritten before
 *    `beforeOverwrite` has saved them.
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../clock.ts";
import { BLOCK_BYTES, MIB } from "../limits.ts";
import { BlockBits } from "./block_bits.ts";

/** One stripe's part in a batch: which of its blocks, and where their bytes are until they are copied. */
export interface SealedStripe {
  readonly stripe: number;
  readonly slot: number;
  /** Runs of blocks inside the stripe: first, count, first, count, … */
  readonly runs: number[];
  /** The stripe's bytes as they were sealed, once the slot has been overwritten; else null. */
  saved: Uint8Array | null;
  /** True once the bytes are in a segment. */
  copied: boolean;
}

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
  /** Sealed stripes whose bytes still lie in the slot alone. */
  readonly #uncopied = new Map<number, SealedStripe[]>();
  readonly #fetching = new Set<number>();
  #waiters: (() => void)[] = [];

  /**
   * @param slotCount slots of `stripeBytes`
   * @param ttlMs a clean slot is dropped so long after its last use; 0 keeps it
   */
  constructor(slotCount: number, stripeBytes: number, ttlMs: number, clock: Clock) {
    this.slotCount = slotCount;
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
    let slot = this.#free.pop();
    if (slot === undefined) {
      this.#clean.pop();
      slot = this.#free.pop();
      if (slot === undefined) return -1;
    }
    this.#stripeOf[slot] = stripe;
    this.#valid.clear(slot, 0, this.blocksPerStripe);
    this.#pins[slot] = 1;
    this.#pinned.set(stripe, slot);
    return slot;
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

  /** To be called before any byte of the slot changes: saves what a batch has yet to copy. */
  beforeOverwrite(slot: number): void {
    if (this.#uncopied.size === 0) return;
    const entries = this.#uncopied.get(slot);
    if (!entries) return;
    this.#uncopied.delete(slot);
    const saved = this.bytes(slot, 0, this.stripeBytes).slice();
    for (const entry of entries) entry.saved = saved;
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
    this.beforeOverwrite(slot);
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
    const entry = { stripe: this.#stripeOf[slot], slot, runs, saved: null, copied: false };
    const entries = this.#uncopied.get(slot);
    if (entries) entries.push(entry);
    else this.#uncopied.set(slot, [entry]);
    return entry;
  }

  /** The sealed bytes of a run, until `copied`. */
  sealedBytes(entry: SealedStripe, firstBlock: number, blockCount: number): Uint8Array {
    const from = firstBlock * BLOCK_BYTES;
    const to = (firstBlock + blockCount) * BLOCK_BYTES;
    return entry.saved?.subarray(from, to) ?? this.bytes(entry.slot, from, to);
  }

  /** The entry's bytes are in a segment: its slot may be overwritten without saving them. */
  copied(entry: SealedStripe): void {
    entry.copied = true;
    entry.saved = null;
    const rest = this.#uncopied.get(entry.slot)?.filter((other) => other !== entry);
    if (rest === undefined) return;
    if (rest.length > 0) this.#uncopied.set(entry.slot, rest);
    else this.#uncopied.delete(entry.slot);
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
    const seen = new Set<number>([...this.#free]);
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
    if (seen.size !== this.slotCount) fail(`${this.slotCount - seen.size} slots are lost`);
    if (dirtyBlocks !== this.dirtyBlocks) {
      fail(`${this.dirtyBlocks} dirty blocks counted, ${dirtyBlocks} found`);
    }
  }
}
