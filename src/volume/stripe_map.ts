/**
 * The map: for each stripe, where its bytes are in the log, and for each segment, what of it is live.
 *
 * A stripe has a *base*, a data record that covers all of it, or none (it reads as zeroes), and above it
 * *patches*, oldest first: records that cover a part of it. The newest patch that covers a block has it.
 *
 * Bases are 12 bytes in typed arrays, a page of 4,096 stripes at a time, allocated when first
 * written: 48 KiB a page, 192 MiB for a full TiB with 64 KiB stripes. The words of a base:
 *   0: low 32 bits of the seq
 *   1: offset in the segment (24 bits; a segment is under 16 MiB) and above it bits 32 to 39 of the seq
 *   2: stored bytes behind the record's prefix; 0 says there is no base
 *
 * Only `apply` changes the map, with the records of one segment at a time, in seq order: at commit and at
 * replay alike.
 *
 * Invariants (`checkInvariants`): a segment's live bytes are the sum of what bases and patches hold of it; a patch
 * never covers a whole stripe; of every base and patch at least one block is read, because none newer covers it.
 */
import { MAP_PAGE_STRIPES, PATCHES_MAX, STRIPE_PATCHES_MAX } from "../limits.ts";
import { RECORD_DATA, RECORD_PREFIX_BYTES, type SegmentRecord } from "./segment.ts";

const WORDS = 3;
const OFFSET_BITS = 24;
const OFFSET_MASK = 2 ** OFFSET_BITS - 1;

/** Where a data record lies. */
export interface Place {
  seq: number;
  /** Of the record's prefix. */
  offset: number;
  /** Behind the prefix. */
  storedBytes: number;
}

/** A record over a part of a stripe; without a place it is zeroes. */
export interface Patch {
  firstBlock: number;
  blockCount: number;
  place: Place | null;
}

/** Bytes of a segment: of the whole object, and of the records that the map still names. */
export interface SegmentUse {
  storedBytes: number;
  liveBytes: number;
}

/** 4,096 stripes of the map. */
export class MapPage {
  readonly words = new Uint32Array(MAP_PAGE_STRIPES * WORDS);
  /** By stripe inside the page; oldest first. */
  readonly patches = new Map<number, Patch[]>();
  /** True if anything changed since the last checkpoint took this page. */
  changed = true;
  /** Called once before the next change: a checkpoint that still wants the page as it was. */
  beforeChange: (() => void) | null = null;

  base(index: number): Place | null {
    const storedBytes = this.words[index * WORDS + 2];
    if (storedBytes === 0) return null;
    const mixed = this.words[index * WORDS + 1];
    return {
      seq: this.words[index * WORDS] + (mixed >>> OFFSET_BITS) * 2 ** 32,
      offset: mixed & OFFSET_MASK,
      storedBytes,
    };
  }

  setBase(index: number, place: Place | null): void {
    const at = index * WORDS;
    if (place === null) {
      this.words.fill(0, at, at + WORDS);
      return;
    }
    this.words[at] = place.seq >>> 0;
    this.words[at + 1] = place.offset | Math.floor(place.seq / 2 ** 32) << OFFSET_BITS;
    this.words[at + 2] = place.storedBytes;
  }

  hasBase(index: number): boolean {
    return this.words[index * WORDS + 2] !== 0;
  }

  isEmpty(): boolean {
    if (this.patches.size > 0) return false;
    for (let at = 2; at < this.words.length; at += WORDS) if (this.words[at] !== 0) return false;
    return true;
  }
}

export class StripeMap {
  readonly pages = new Map<number, MapPage>();
  readonly segments = new Map<number, SegmentUse>();
  /** Segments that hold nothing and are kept for ever, because they fence: see recovery.ts. */
  readonly claims = new Set<number>();
  /** Patches in all. */
  patchCount = 0;
  /** Of all segments together. */
  readonly total: SegmentUse = { storedBytes: 0, liveBytes: 0 };

  readonly #blocksPerStripe: number;
  /** By block of a stripe: used within a call only. */
  readonly #covered: Uint8Array;

  constructor(blocksPerStripe: number) {
    this.#blocksPerStripe = blocksPerStripe;
    this.#covered = new Uint8Array(blocksPerStripe);
  }

  isMapped(stripe: number): boolean {
    const page = this.pages.get(pageOf(stripe));
    return page !== undefined &&
      (page.hasBase(indexOf(stripe)) || page.patches.has(indexOf(stripe)));
  }

  base(stripe: number): Place | null {
    return this.pages.get(pageOf(stripe))?.base(indexOf(stripe)) ?? null;
  }

  /** Oldest first. */
  patches(stripe: number): readonly Patch[] {
    return this.pages.get(pageOf(stripe))?.patches.get(indexOf(stripe)) ?? [];
  }

  /** True if a stripe that is stored should get no more patches: its next change is stored with all of it. */
  isFull(stripe: number): boolean {
    return this.isMapped(stripe) &&
      (this.patches(stripe).length >= STRIPE_PATCHES_MAX || this.patchCount >= PATCHES_MAX);
  }

  /** True if the map has no bytes for the block: nothing was stored, or zeroes. */
  readsAsZero(stripe: number, block: number): boolean {
    const page = this.pages.get(pageOf(stripe));
    if (!page) return true;
    const patches = page.patches.get(indexOf(stripe)) ?? [];
    for (let at = patches.length - 1; at >= 0; at--) {
      const { firstBlock, blockCount, place } = patches[at];
      if (block >= firstBlock && block < firstBlock + blockCount) return place === null;
    }
    return !page.hasBase(indexOf(stripe));
  }

  /** True if the data record of segment `seq` is still a base or a patch. */
  names(seq: number, { firstBlock, blockCount, offset }: SegmentRecord): boolean {
    const stripe = Math.floor(firstBlock / this.#blocksPerStripe);
    const isIt = (place: Place | null) => place?.seq === seq && place.offset === offset;
    if (blockCount === this.#blocksPerStripe) return isIt(this.base(stripe));
    return this.patches(stripe).some(({ place }) => isIt(place));
  }

  /** Enters a segment into the table. */
  addSegment(seq: number, storedBytes: number, liveBytes: number): void {
    this.segments.set(seq, { storedBytes, liveBytes });
    this.total.storedBytes += storedBytes;
    this.total.liveBytes += liveBytes;
  }

  /** Takes a segment that was deleted out of the table; nothing of it is live. */
  forgetSegment(seq: number): void {
    this.total.storedBytes -= this.segments.get(seq)?.storedBytes ?? 0;
    this.segments.delete(seq);
  }

  /** Takes in the records of one stored segment. */
  apply(seq: number, objectBytes: number, records: SegmentRecord[]): void {
    this.addSegment(seq, objectBytes, 0);
    for (const record of records) {
      if (record.kind === RECORD_DATA) this.#applyData(seq, record);
      else this.#applyZeroes(record);
    }
  }

  #applyData(seq: number, record: SegmentRecord): void {
    const stripe = Math.floor(record.firstBlock / this.#blocksPerStripe);
    const page = this.#pageToChange(pageOf(stripe));
    const place = { seq, offset: record.offset, storedBytes: record.storedBytes };
    this.#account(place, 1);
    if (record.blockCount === this.#blocksPerStripe) {
      this.#unmap(page, indexOf(stripe));
      page.setBase(indexOf(stripe), place);
    } else {
      this.#addPatch(page, indexOf(stripe), {
        firstBlock: record.firstBlock % this.#blocksPerStripe,
        blockCount: record.blockCount,
        place,
      });
    }
  }

  /** A run of zeroes: whole stripes lose what they have, a part of a mapped one gets a patch of zeroes. */
  #applyZeroes(record: SegmentRecord): void {
    const size = this.#blocksPerStripe;
    const end = record.firstBlock + record.blockCount;
    const firstWhole = Math.ceil(record.firstBlock / size);
    const endWhole = Math.floor(end / size);
    if (endWhole < firstWhole) return this.#zeroPart(record.firstBlock, end);
    if (record.firstBlock < firstWhole * size) this.#zeroPart(record.firstBlock, firstWhole * size);
    if (endWhole * size < end) this.#zeroPart(endWhole * size, end);
    this.#unmapStripes(firstWhole, endWhole);
  }

  #zeroPart(firstBlock: number, endBlock: number): void {
    const stripe = Math.floor(firstBlock / this.#blocksPerStripe);
    if (!this.isMapped(stripe)) return;
    this.#addPatch(this.#pageToChange(pageOf(stripe)), indexOf(stripe), {
      firstBlock: firstBlock % this.#blocksPerStripe,
      blockCount: endBlock - firstBlock,
      place: null,
    });
  }

  #unmapStripes(first: number, end: number): void {
    for (const number of this.#pagesOf(first, end)) {
      const page = this.#pageToChange(number);
      const begin = number * MAP_PAGE_STRIPES;
      const to = Math.min(end - begin, MAP_PAGE_STRIPES);
      for (let index = Math.max(first - begin, 0); index < to; index++) this.#unmap(page, index);
    }
  }

  /** Pages that exist and hold stripes of [first, end). */
  #pagesOf(first: number, end: number): number[] {
    const [from, to] = [pageOf(first), pageOf(end - 1)];
    if (end <= first) return [];
    if (to - from < this.pages.size) {
      return Array.from({ length: to - from + 1 }, (_, i) => from + i)
        .filter((number) => this.pages.has(number));
    }
    return [...this.pages.keys()].filter((number) => number >= from && number <= to);
  }

  #pageToChange(number: number): MapPage {
    let page = this.pages.get(number);
    if (!page) this.pages.set(number, page = new MapPage());
    page.beforeChange?.();
    page.beforeChange = null;
    page.changed = true;
    return page;
  }

  #unmap(page: MapPage, index: number): void {
    const base = page.base(index);
    if (base) {
      this.#account(base, -1);
      page.setBase(index, null);
    }
    const patches = page.patches.get(index);
    if (!patches) return;
    for (const patch of patches) this.#account(patch.place, -1);
    this.patchCount -= patches.length;
    page.patches.delete(index);
  }

  /** Adds a patch above the others, and drops what no block is read from any more. */
  #addPatch(page: MapPage, index: number, patch: Patch): void {
    const older = page.patches.get(index) ?? [];
    const covered = this.#covered.fill(0);
    const kept: Patch[] = [];
    for (let at = older.length; at >= 0; at--) {
      const each = older[at] ?? patch;
      const end = each.firstBlock + each.blockCount;
      if (covered.subarray(each.firstBlock, end).includes(0)) kept.push(each);
      else this.#account(each.place, -1);
      covered.fill(1, each.firstBlock, end);
    }
    this.patchCount += kept.length - older.length;
    page.patches.set(index, kept.reverse());
    if (!page.hasBase(index) || covered.includes(0)) return;
    this.#account(page.base(index), -1);
    page.setBase(index, null);
  }

  #account(place: Place | null, sign: 1 | -1): void {
    if (place === null) return;
    const use = this.segments.get(place.seq);
    if (!use) return;
    const bytes = RECORD_PREFIX_BYTES + place.storedBytes;
    use.liveBytes += sign * bytes;
    this.total.liveBytes += sign * bytes;
  }

  /** Throws if an invariant of the file's head does not hold. */
  checkInvariants(): void {
    const live = new Map<number, number>();
    let patchCount = 0;
    const add = (place: Place | null) => {
      if (!place) return;
      const bytes = RECORD_PREFIX_BYTES + place.storedBytes;
      live.set(place.seq, (live.get(place.seq) ?? 0) + bytes);
    };
    for (const page of this.pages.values()) {
      for (let index = 0; index < MAP_PAGE_STRIPES; index++) add(page.base(index));
      for (const [index, patches] of page.patches) {
        patchCount += patches.length;
        this.#checkVisible(patches, page.hasBase(index));
        for (const patch of patches) {
          add(patch.place);
          if (patch.blockCount >= this.#blocksPerStripe) {
            throw new Error("a patch of a whole stripe");
          }
        }
      }
    }
    if (patchCount !== this.patchCount) {
      throw new Error(`map: ${this.patchCount} patches counted, ${patchCount} found`);
    }
    const total = { storedBytes: 0, liveBytes: 0 };
    for (const [seq, use] of this.segments) {
      total.storedBytes += use.storedBytes;
      total.liveBytes += use.liveBytes;
      if (use.liveBytes !== (live.get(seq) ?? 0)) {
        throw new Error(
          `map: segment ${seq} has ${use.liveBytes} live bytes, ${live.get(seq)} found`,
        );
      }
      live.delete(seq);
    }
    if (live.size > 0) throw new Error(`map: segments not in the table: ${[...live.keys()]}`);
    const sums = [total, this.total].map(({ storedBytes, liveBytes }) => [storedBytes, liveBytes]);
    if (`${sums[0]}` !== `${sums[1]}`) {
      throw new Error(`map: totals are ${sums[1]}, not ${sums[0]}`);
    }
  }

  #checkVisible(patches: Patch[], hasBase: boolean): void {
    const covered = this.#covered.fill(0);
    for (const { firstBlock, blockCount } of patches.toReversed()) {
      const range = covered.subarray(firstBlock, firstBlock + blockCount);
      if (!range.includes(0)) throw new Error("a patch that no block is read from");
      range.fill(1);
    }
    if (hasBase && !covered.includes(0)) throw new Error("a base that no block is read from");
  }
}

export function pageOf(stripe: number): number {
  return Math.floor(stripe / MAP_PAGE_STRIPES);
}

function indexOf(stripe: number): number {
  return stripe % MAP_PAGE_STRIPES;
}
