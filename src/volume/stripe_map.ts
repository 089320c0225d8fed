/**
 * The map: for each stripe, where its bytes are in the log, and for each segment, what of it is live.
 *
 * A stripe has a *base*, a data record that covers all of it, or none (it reads as zeroes), and above it
 * *patches*, oldest first: records that cover a part of it. The newest patch that covers a block has it.
 *
 * The stripes are kept a page of 4,096 at a time (map_page.ts), allocated when first written: 48 KiB a page, 192 MiB
 * for a full TiB with 64 KiB stripes.
 *
 * Only `apply` and `applySteps` change the map, with the records of one segment at a time, in seq order: at replay and
 * at commit.
 *
 * Zeroes over whole pages take them out at once, by the thousand, and what they had out of the live bytes of segments
 * later, some pages a turn (`settle`): a trim of a full TiB would stop everything else for a second. Until then
 * segments count for more than is read from them, never for less; a checkpoint waits for it.
 *
 * A checkpoint is told in one turn which pages have changed since the one before it (`freeze`): the list of them is
 * handed over, and a new one begun. From then until it has stored a page (`stored`), or ends (`thaw`), whoever changes
 * the page for the first time freezes it.
 *
 * Invariants (`checkInvariants`): a segment's live bytes are those that are read from it, with the prefixes of their
 * records; a group counts the stripes in it that are mapped; a patch never covers a whole stripe; of every base and
 * patch at least one block is read, because none newer covers it.
 */
import { MAP_PAGE_STRIPES, PATCHES_MAX, STRIPE_PATCHES_MAX } from "../limits.ts";
import { GroupedMap } from "./grouped_map.ts";
import { groupOf, MapPage, type Patch, type RecordLocation } from "./map_page.ts";
import { RECORD_DATA, RECORD_PREFIX_BYTES, type SegmentRecord } from "./segment.ts";
import { SegmentTable } from "./segment_table.ts";

/** A record that a stripe is read from. */
interface Layer {
  location: RecordLocation | null;
  /** Blocks that no newer one covers. */
  visible: number;
  /** Blocks of the record. */
  blockCount: number;
  /** Undefined for the base. */
  patch?: Patch;
}

/** Pages by number; null for one that was taken out. */
type ChangedPages = Map<number, MapPage | null>;

export class StripeMap {
  readonly pages = new GroupedMap<MapPage>();
  readonly segments = new SegmentTable();
  /** Of all segments together. */
  readonly total = this.segments.total;
  /** Segments that hold nothing and are kept for ever, because they fence: see recovery.ts. */
  readonly claims = new Set<number>();
  /** Patches in all. */
  patchCount = 0;
  /** Pages taken out whole, that still count in the live bytes of their segments and among the patches. */
  readonly #unsettled: Map<number, MapPage>[] = [];
  /** What has changed since the last `freeze`. */
  #changed: ChangedPages = new Map();
  /** While a checkpoint is stored: what had changed before it. */
  #frozen: ChangedPages = new Map();
  /** Counts the calls of `freeze`. */
  #cut = 0;
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

  base(stripe: number): RecordLocation | null {
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
      const { firstBlock, blockCount, location } = patches[at];
      if (block >= firstBlock && block < firstBlock + blockCount) return location === null;
    }
    return !page.hasBase(indexOf(stripe));
  }

  /** Bytes that are read from a data record of segment `seq`, with its prefix; 0 if the map does not name it, or another. */
  liveBytes(
    seq: number,
    { firstBlock, offset, storedBytes }: Pick<
      SegmentRecord,
      "firstBlock" | "offset" | "storedBytes"
    >,
  ): number {
    const stripe = Math.floor(firstBlock / this.#blocksPerStripe);
    const page = this.pages.get(pageOf(stripe));
    if (!page) return 0;
    const layer = this.#layers(page, indexOf(stripe)).find(({ location }) =>
      location?.seq === seq && location.offset === offset && location.storedBytes === storedBytes
    );
    return layer ? liveBytesOf(layer) : 0;
  }

  /** Takes in the records of one stored segment. */
  apply(seq: number, objectBytes: number, records: SegmentRecord[]): void {
    for (const _ of this.applySteps(seq, objectBytes, records));
  }

  /** The same, a record a step: one of zeroes may take a millisecond, for the stripes of two pages. */
  *applySteps(seq: number, objectBytes: number, records: SegmentRecord[]): Generator<void> {
    this.segments.add(seq, objectBytes, 0);
    for (const record of records) {
      if (record.kind === RECORD_DATA) this.#applyData(seq, record);
      else this.#applyZeroes(record);
      yield;
    }
  }

  #applyData(seq: number, record: SegmentRecord): void {
    const stripe = Math.floor(record.firstBlock / this.#blocksPerStripe);
    const page = this.#pageToChange(stripe);
    const location = { seq, offset: record.offset, storedBytes: record.storedBytes };
    if (record.blockCount === this.#blocksPerStripe) {
      this.#unmap(page, indexOf(stripe));
      page.setBase(indexOf(stripe), location);
      this.#account(page, indexOf(stripe), 1);
    } else {
      this.#addPatch(page, indexOf(stripe), {
        firstBlock: record.firstBlock % this.#blocksPerStripe,
        blockCount: record.blockCount,
        location,
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
    this.#addPatch(this.#pageToChange(stripe), indexOf(stripe), {
      firstBlock: firstBlock % this.#blocksPerStripe,
      blockCount: endBlock - firstBlock,
      location: null,
    });
  }

  #unmapStripes(first: number, end: number): void {
    const firstWhole = Math.ceil(first / MAP_PAGE_STRIPES);
    const endWhole = Math.floor(end / MAP_PAGE_STRIPES);
    if (endWhole < firstWhole) return this.#unmapInPage(first, end);
    this.#unmapInPage(first, firstWhole * MAP_PAGE_STRIPES);
    for (const group of this.pages.takeOut(firstWhole, endWhole)) this.#unsettled.push(group);
    this.#unmapInPage(endWhole * MAP_PAGE_STRIPES, end);
  }

  #unmapInPage(first: number, end: number): void {
    const page = this.pages.get(pageOf(first));
    if (!page) return;
    for (let stripe = first; stripe < end; stripe++) {
      if (page.isMapped(indexOf(stripe))) this.#unmap(this.#pageToChange(stripe), indexOf(stripe));
    }
  }

  /** Whether no page that was taken out counts any more. */
  get isSettled(): boolean {
    return this.#unsettled.length === 0;
  }

  /** Takes up to so many pages that were taken out from the live bytes of their segments; false if none is left. */
  settle(pagesMax: number): boolean {
    for (let left = pagesMax; left > 0 && this.#unsettled.length > 0;) {
      const group = this.#unsettled.at(-1)!;
      for (const [number, page] of group) {
        this.#settlePage(number, page);
        group.delete(number);
        if (--left === 0) break;
      }
      if (group.size === 0) this.#unsettled.pop();
    }
    return !this.isSettled;
  }

  #settlePage(number: number, page: MapPage): void {
    if (!this.pages.has(number)) this.#changed.set(number, null);
    for (let index = 0; index < MAP_PAGE_STRIPES; index++) {
      if (page.isMapped(index)) this.#account(page, index, -1);
    }
    for (const { length } of page.patches.values()) this.patchCount -= length;
  }

  // ---- checkpoints

  /** Takes in a page of a checkpoint. */
  load(number: number, page: MapPage): void {
    this.pages.set(number, page);
    for (const { length } of page.patches.values()) this.patchCount += length;
  }

  /** Every page counts as changed: the next checkpoint stores all of them. */
  changeAll(): void {
    for (const [number, page] of this.pages) this.#changed.set(number, page);
  }

  /**
   * From now on, until `thaw`, what has changed since the last call, which is returned, is also kept as it is, and so
   * is the segment table. Everything has to be settled. It takes no longer the more there is.
   */
  freeze(): ReadonlyMap<number, MapPage | null> {
    if (!this.isSettled) throw new Error("a checkpoint of a map that is not settled");
    this.segments.freeze();
    this.#cut++;
    this.#frozen = this.#changed;
    this.#changed = new Map();
    return this.#frozen;
  }

  /** Adds a page that had not changed to those that are frozen, if it has not changed since `freeze` either. */
  freezeAlso(number: number): void {
    if (this.#frozen.has(number) || this.#changed.has(number)) return;
    const page = this.pages.get(number);
    if (page) this.#frozen.set(number, page);
  }

  /** The page need not be kept as it was any more. */
  stored(page: MapPage): void {
    page.thaw();
    page.storedCut = this.#cut;
  }

  /** Ends what `freeze` began. If the checkpoint was not stored, the next one is told of its pages once more. */
  thaw(isStored: boolean): void {
    this.segments.thaw();
    const frozen = this.#frozen;
    this.#frozen = new Map();
    if (isStored) return;
    for (const [number, page] of this.#changed) {
      page?.thaw();
      frozen.set(number, page);
    }
    this.#changed = frozen;
  }

  /** The page of a stripe that is about to change. */
  #pageToChange(stripe: number): MapPage {
    const number = pageOf(stripe);
    let page = this.pages.get(number);
    if (!page) this.pages.set(number, page = new MapPage());
    if (this.#changed.get(number) !== page) {
      if (this.#frozen.get(number) === page && page.storedCut < this.#cut) page.freeze();
      this.#changed.set(number, page);
    }
    return page;
  }

  #unmap(page: MapPage, index: number): void {
    this.#account(page, index, -1);
    page.setBase(index, null);
    const patches = page.patches.get(index);
    if (!patches) return;
    this.patchCount -= patches.length;
    page.setPatches(index, []);
  }

  /** Adds a patch above the others, and drops what no block is read from any more. */
  #addPatch(page: MapPage, index: number, patch: Patch): void {
    this.#account(page, index, -1);
    const older = page.patches.get(index) ?? [];
    // lists that have grown element by element would take 150 bytes more, each
    page.setPatches(index, older.length === 0 ? [patch] : [...older, patch]);
    if (older.length > 0) this.#dropCovered(page, index);
    this.patchCount += page.patches.get(index)!.length - older.length;
    this.#account(page, index, 1);
  }

  #dropCovered(page: MapPage, index: number): void {
    const kept: Patch[] = [];
    for (const { visible, patch: each } of this.#layers(page, index)) {
      if (each && visible > 0) kept.unshift(each);
      else if (!each && visible === 0) page.setBase(index, null);
    }
    page.setPatches(index, kept.slice());
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
        const { firstBlock, blockCount, location } = patches[at];
        let visible = 0;
        for (let block = firstBlock; block < firstBlock + blockCount; block++) {
          if (covered[block] === 0) visible++;
          covered[block] = 1;
        }
        layers.push({ location, visible, blockCount, patch: patches[at] });
        left -= visible;
      }
    }
    if (base) layers.push({ location: base, visible: left, blockCount: this.#blocksPerStripe });
    return layers;
  }

  /** Adds what the stripe takes to the live bytes of its segments, or takes it from them. */
  #account(page: MapPage, index: number, sign: 1 | -1): void {
    if (page.isMapped(index)) page.countMapped(index, sign);
    if (!page.patches.has(index)) {
      if (!page.hasBase(index)) return;
      const bytes = RECORD_PREFIX_BYTES + page.baseBytes(index);
      return this.segments.addLive(page.baseSeq(index), sign * bytes);
    }
    for (const layer of this.#layers(page, index)) {
      if (layer.location) this.segments.addLive(layer.location.seq, sign * liveBytesOf(layer));
    }
  }

  /** Throws if an invariant of the file's head does not hold. */
  checkInvariants(): void {
    const live = new Map<number, number>();
    let patchCount = 0;
    for (const [, page] of [this.pages, ...this.#unsettled].flatMap((pages) => [...pages])) {
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
          const { location } = layer;
          if (location) live.set(location.seq, (live.get(location.seq) ?? 0) + liveBytesOf(layer));
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
    this.segments.checkInvariants();
    for (const [seq, { liveBytes }] of this.segments) {
      const found = live.get(seq) ?? 0;
      if (liveBytes !== found) {
        throw new Error(`map: segment ${seq} has ${liveBytes} live bytes, ${found} found`);
      }
      live.delete(seq);
    }
    if (live.size > 0) throw new Error(`map: segments not in the table: ${[...live.keys()]}`);
  }
}

/** A record counts with its prefix and the share of its bytes that are read. */
function liveBytesOf({ location, visible, blockCount }: Layer): number {
  if (location === null || visible === 0) return 0;
  return RECORD_PREFIX_BYTES + Math.ceil(location.storedBytes * visible / blockCount);
}

export function pageOf(stripe: number): number {
  return Math.floor(stripe / MAP_PAGE_STRIPES);
}

function indexOf(stripe: number): number {
  return stripe % MAP_PAGE_STRIPES;
}
