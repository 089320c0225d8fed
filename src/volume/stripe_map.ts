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
 * Invariants (`checkInvariants`): a segment's live bytes are those that are read from it, with the prefixes of their
 * records; a group counts the stripes in it that are mapped; a patch never covers a whole stripe; of every base and patch at least one block is read, because none
 * newer covers it.
 */
import { MAP_GROUP_STRIPES, MAP_PAGE_STRIPES, PATCHES_MAX, STRIPE_PATCHES_MAX } from "../limits.ts";
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

/** A record that a stripe is read from. */
interface Layer {
  place: Place | null;
  /** Blocks that no newer one covers. */
  visible: number;
  /** Blocks of the record. */
  blockCount: number;
  /** Undefined for the base. */
  patch?: Patch;
}

/** Bytes of a segment: of the whole object, and of what is still read from it. */
export interface SegmentUse {
  storedBytes: number;
  liveBytes: number;
}

/** 4,096 stripes of the map. */
export class MapPage {
  readonly words = new Uint32Array(MAP_PAGE_STRIPES * WORDS);
  /** By stripe inside the page; oldest first. */
  readonly patches = new Map<number, Patch[]>();
  /** How many stripes of each MAP_GROUP_STRIPES have a base or a patch. */
  readonly mapped = new Uint8Array(MAP_PAGE_STRIPES / MAP_GROUP_STRIPES);
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

  isMapped(index: number): boolean {
    return this.hasBase(index) || this.patches.has(index);
  }

  /** A stripe has become mapped, or is no more. */
  countMapped(index: number, sign: 1 | -1): void {
    this.mapped[groupOf(index)] += sign;
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
    return page !== undefined && page.isMapped(indexOf(stripe));
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

  /** Bytes that are read from a data record of segment `seq`, with its prefix; 0 if the map does not name it any more. */
  liveBytes(
    seq: number,
    { firstBlock, offset }: Pick<SegmentRecord, "firstBlock" | "offset">,
  ): number {
    const stripe = Math.floor(firstBlock / this.#blocksPerStripe);
    const page = this.pages.get(pageOf(stripe));
    if (!page) return 0;
    const layer = this.#layers(page, indexOf(stripe)).find(({ place }) =>
      place?.seq === seq && place.offset === offset
    );
    return layer ? liveBytesOf(layer) : 0;
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
    if (record.blockCount === this.#blocksPerStripe) {
      this.#unmap(page, indexOf(stripe));
      page.setBase(indexOf(stripe), place);
      this.#account(page, indexOf(stripe), 1);
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
    this.#account(page, index, -1);
    page.setBase(index, null);
    this.patchCount -= page.patches.get(index)?.length ?? 0;
    page.patches.delete(index);
  }

  /** Adds a patch above the others, and drops what no block is read from any more. */
  #addPatch(page: MapPage, index: number, patch: Patch): void {
    this.#account(page, index, -1);
    const older = page.patches.get(index) ?? [];
    page.patches.set(index, [...older, patch]);
    const kept: Patch[] = [];
    for (const { visible, patch: each } of this.#layers(page, index)) {
      if (each && visible > 0) kept.unshift(each);
      else if (!each && visible === 0) page.setBase(index, null);
    }
    page.patches.set(index, kept);
    this.patchCount += kept.length - older.length;
    this.#account(page, index, 1);
  }

  /** What a stripe is read from, newest first, and how many blocks of each; the base last. */
  #layers(page: MapPage, index: number): Layer[] {
    const base = page.base(index);
    const patches = page.patches.get(index);
    const layers: Layer[] = [];
    let left = this.#blocksPerStripe;
    if (patches) {
      const covered = this.#covered.fill(0);
      for (let at = patches.length - 1; at >= 0; at--) {
        const { firstBlock, blockCount, place } = patches[at];
        let visible = 0;
        for (let block = firstBlock; block < firstBlock + blockCount; block++) {
          if (covered[block] === 0) visible++;
          covered[block] = 1;
        }
        layers.push({ place, visible, blockCount, patch: patches[at] });
        left -= visible;
      }
    }
    if (base) layers.push({ place: base, visible: left, blockCount: this.#blocksPerStripe });
    return layers;
  }

  /** Adds what the stripe takes to the live bytes of its segments, or takes it from them. */
  #account(page: MapPage, index: number, sign: 1 | -1): void {
    const layers = this.#layers(page, index);
    if (layers.length > 0) page.countMapped(index, sign);
    for (const layer of layers) {
      const use = layer.place && this.segments.get(layer.place.seq);
      if (!use) continue;
      const bytes = sign * liveBytesOf(layer);
      use.liveBytes += bytes;
      this.total.liveBytes += bytes;
    }
  }

  /** Throws if an invariant of the file's head does not hold. */
  checkInvariants(): void {
    const live = new Map<number, number>();
    let patchCount = 0;
    for (const page of this.pages.values()) {
      const mapped = new Uint8Array(page.mapped.length);
      for (let index = 0; index < MAP_PAGE_STRIPES; index++) {
        if (!page.isMapped(index)) continue;
        mapped[groupOf(index)]++;
        for (const layer of this.#layers(page, index)) {
          if (layer.visible === 0) throw new Error("a record that no block is read from");
          if (layer.patch) patchCount++;
          if (layer.patch && layer.blockCount >= this.#blocksPerStripe) {
            throw new Error("a patch of a whole stripe");
          }
          const { place } = layer;
          if (place) live.set(place.seq, (live.get(place.seq) ?? 0) + liveBytesOf(layer));
        }
      }
      if (`${mapped}` !== `${page.mapped}`) throw new Error("map: a group is counted wrong");
    }
    if (patchCount !== this.patchCount) {
      throw new Error(`map: ${this.patchCount} patches counted, ${patchCount} found`);
    }
    this.#checkTable(live);
  }

  /** @param live by segment, what was found of it in the pages */
  #checkTable(live: Map<number, number>): void {
    const total = { storedBytes: 0, liveBytes: 0 };
    for (const [seq, { storedBytes, liveBytes }] of this.segments) {
      total.storedBytes += storedBytes;
      total.liveBytes += liveBytes;
      const found = live.get(seq) ?? 0;
      if (liveBytes !== found) {
        throw new Error(`map: segment ${seq} has ${liveBytes} live bytes, ${found} found`);
      }
      live.delete(seq);
    }
    if (live.size > 0) throw new Error(`map: segments not in the table: ${[...live.keys()]}`);
    const sums = [total, this.total].map(({ storedBytes, liveBytes }) => [storedBytes, liveBytes]);
    if (`${sums[0]}` !== `${sums[1]}`) {
      throw new Error(`map: totals are ${sums[1]}, not ${sums[0]}`);
    }
  }
}

/** A record counts with its prefix and the share of its bytes that are read. */
function liveBytesOf({ place, visible, blockCount }: Layer): number {
  if (place === null || visible === 0) return 0;
  return RECORD_PREFIX_BYTES + Math.ceil(place.storedBytes * visible / blockCount);
}

export function pageOf(stripe: number): number {
  return Math.floor(stripe / MAP_PAGE_STRIPES);
}

function indexOf(stripe: number): number {
  return stripe % MAP_PAGE_STRIPES;
}

function groupOf(index: number): number {
  return Math.floor(index / MAP_GROUP_STRIPES);
}
