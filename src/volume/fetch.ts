/**
 * Brings what readers and writers need from the bucket into the cache: one GET for neighbours in one segment, one
 * fetch a stripe at a time however many ask.
 *
 * A fetch is for whole parts of a stripe's records (segment.ts), which is all of the stripe if records have one part
 * only. What else comes with the parts that have the blocks asked for is kept as well. Where each invalid block comes
 * from is settled in the turn in which the fetch begins. Until it ends the slot is pinned; a write or a trim meanwhile
 * makes its blocks valid, and a fetch fills only what is still invalid, so that it can never bring back what is older.
 *
 * It ends when every part has come or failed. A part that failed fails those who asked for a block of it, and
 * nobody else.
 */
import type { Bucket } from "../bucket/bucket.ts";
import { sleep } from "../clock.ts";
import { DamageError } from "../errors.ts";
import { BLOCK_BYTES, DOWNLOADS_MAX, GET_BYTES_MAX, GET_GAP_BYTES_MAX } from "../limits.ts";
import type { Contents, StripeRange } from "./contents.ts";
import { Limiter } from "./limiter.ts";
import type { Patch, RecordLocation } from "./map_page.ts";
import { openPart, partOf, RECORD_PREFIX_BYTES, segmentKey } from "./segment.ts";

/** A stripe being fetched. */
interface Fetch {
  stripe: number;
  slot: number;
  ranges: StripeRange[];
  /** If set, only what this segment has is wanted. */
  onlySeq?: number;
  /** By block of the stripe: the number of the part that has it, or ZEROES, or NOT_WANTED. */
  sourceOf: Uint32Array;
  /** Parts still to arrive. */
  missing: number;
  /** By number of the part, why it has not come. */
  failures: Map<number, unknown>;
  /** Resolves when every part has come or failed. */
  ended: PromiseWithResolvers<void>;
}

/** A part of a record that a fetch needs. */
interface Source {
  fetch: Fetch;
  /** In `sourceOf`. */
  number: number;
  /** Inside the stripe. */
  firstBlock: number;
  endBlock: number;
  /** Of the part. */
  location: RecordLocation;
}

const ZEROES = 0;
const NOT_WANTED = 0xffffffff;

export class Fetcher {
  readonly #contents: Contents;
  readonly #bucket: Bucket;
  readonly #downloads = new Limiter(DOWNLOADS_MAX);
  readonly #underWay = new Map<number, Fetch>();
  readonly #confirm: () => Promise<void>;

  /** @param confirm throws if another writer has taken the volume over: it may delete what we look for */
  constructor(contents: Contents, bucket: Bucket, confirm: () => Promise<void>) {
    this.#contents = contents;
    this.#bucket = bucket;
    this.#confirm = confirm;
  }

  isUnderWay(stripe: number): boolean {
    return this.#underWay.has(stripe);
  }

  /**
   * Makes blocks valid in the cache. Rejects with the first failure to get one of them, when all fetches have ended.
   * What was fetched can be evicted again as soon as the caller lets a turn pass.
   *
   * Whoever asks for blocks of a stripe that is being fetched waits for that fetch, and may not get them: everybody
   * looks whether what he needs has come.
   *
   * @param options.around what to get with a range; failures outside the range are nobody's
   * @param options.onlySeq only the blocks that this segment has are wanted
   * @param options.isWanted asked before what had to wait for room is begun: else, when the bucket is back, readers
   *   who gave up long ago would keep all others waiting
   */
  async fetch(
    ranges: StripeRange[],
    { around, onlySeq, isWanted }: {
      around?: (range: StripeRange) => StripeRange;
      onlySeq?: number;
      isWanted?: () => boolean;
    } = {},
  ): Promise<void> {
    const { cache } = this.#contents;
    const asked: [Fetch, StripeRange][] = [];
    let rest = ranges;
    while (rest.length > 0) {
      const begun = new Set<Fetch>();
      const waiting: StripeRange[] = [];
      for (const range of rest) {
        const underWay = this.#underWay.get(range.stripe);
        const fetch = underWay ?? this.#begin(range.stripe, onlySeq);
        if (!fetch) {
          waiting.push(range);
          continue;
        }
        if (!underWay) begun.add(fetch);
        if (begun.has(fetch)) fetch.ranges.push(around?.(range) ?? range);
        asked.push([fetch, range]);
      }
      this.#start([...begun]);
      rest = waiting;
      if (rest.length > 0) {
        await cache.roomMade();
        if (isWanted?.() === false) break;
        // who waited for what lies in the slot copies it first: else readers that together want more slots
        // than there are would drive out each other's stripes for ever
        await sleep(this.#contents.clock, 0);
        this.#contents.assertAlive();
      }
    }
    await Promise.all(asked.map(([fetch]) => fetch.ended.promise));
    for (const [fetch, range] of asked) throwFailure(fetch, range);
  }

  /** Takes a slot; null if there is none. */
  #begin(stripe: number, onlySeq?: number): Fetch | null {
    const { cache, blocksPerStripe } = this.#contents;
    let slot = cache.find(stripe);
    if (slot >= 0) {
      cache.beginFetch(slot);
    } else {
      slot = cache.take(stripe);
      if (slot < 0) return null;
      cache.beginFetch(slot);
      cache.unpin(slot);
    }
    const fetch: Fetch = {
      stripe,
      slot,
      ranges: [],
      onlySeq,
      sourceOf: new Uint32Array(blocksPerStripe).fill(NOT_WANTED),
      missing: 0,
      failures: new Map(),
      ended: Promise.withResolvers(),
    };
    this.#underWay.set(stripe, fetch);
    return fetch;
  }

  #start(fetches: Fetch[]): void {
    const sources = fetches.flatMap((fetch) => this.#sourcesOf(fetch));
    for (const fetch of fetches) if (fetch.missing === 0) this.#end(fetch);
    for (const group of joinNeighbours(sources)) this.#get(group);
  }

  /** Settles for every invalid block of the ranges which part has it, and what else these parts bring. */
  #sourcesOf(fetch: Fetch): Source[] {
    const { blocksPerPart, blocksPerStripe, partBytes } = this.#contents;
    const { sourceOf } = fetch;
    const records = this.#recordsOf(fetch.stripe);
    const sources = new Map<number, Source>();
    for (const { first, end } of fetch.ranges) {
      const from = Math.floor(first / blocksPerPart) * blocksPerPart;
      const to = Math.ceil(end / blocksPerPart) * blocksPerPart;
      for (let block = from; block < to; block++) {
        const number = sourceOf[block] = this.#numberOf(fetch, records, block);
        if (number === ZEROES || number === NOT_WANTED || sources.has(number)) continue;
        const { firstBlock, blockCount, location } =
          records[Math.floor(number / blocksPerStripe) - 1];
        const part = number % blocksPerStripe;
        const begin = firstBlock + part * blocksPerPart;
        sources.set(number, {
          fetch,
          number,
          firstBlock: begin,
          endBlock: Math.min(begin + blocksPerPart, firstBlock + blockCount),
          location: partOf(location!, part, partBytes),
        });
      }
    }
    fetch.missing = sources.size;
    for (const { number, firstBlock, endBlock } of sources.values()) {
      for (let block = firstBlock; block < endBlock; block++) {
        if (sourceOf[block] !== NOT_WANTED) continue;
        if (this.#numberOf(fetch, records, block) === number) sourceOf[block] = number;
      }
    }
    return [...sources.values()];
  }

  /** What a stripe is read from, newest first; the base last. */
  #recordsOf(stripe: number): Patch[] {
    const { map, blocksPerStripe } = this.#contents;
    const base = map.base(stripe);
    const records = map.patches(stripe).toReversed();
    if (base) records.push({ firstBlock: 0, blockCount: blocksPerStripe, location: base });
    return records;
  }

  /** Of the part that a block is to come from: from its record's index in `records` and its own in the record. */
  #numberOf({ stripe, slot, onlySeq }: Fetch, records: Patch[], block: number): number {
    const { cache, zeroes, blocksPerPart, blocksPerStripe } = this.#contents;
    if (cache.isValid(slot, block)) return NOT_WANTED;
    if (zeroes.has(stripe * blocksPerStripe + block)) return ZEROES;
    const at = records.findIndex(({ firstBlock, blockCount }) =>
      block >= firstBlock && block < firstBlock + blockCount
    );
    const record = records[at];
    if (!record?.location) return ZEROES;
    if (onlySeq !== undefined && record.location.seq !== onlySeq) return NOT_WANTED;
    return (at + 1) * blocksPerStripe + Math.floor((block - record.firstBlock) / blocksPerPart);
  }

  /** One GET for parts that lie close together in one segment. */
  async #get(sources: Source[]): Promise<void> {
    const first = sources[0].location;
    const key = segmentKey(first.seq);
    const length = endOf(sources[sources.length - 1].location) - first.offset;
    try {
      // what has arrived with this request is answered first: making a GET takes tens of microseconds
      await undefined;
      const found = await this.#downloads.run(() =>
        this.#bucket.get(key, { offset: first.offset, length })
      );
      if (!found) await this.#confirm();
      for (const source of sources) {
        const at = source.location.offset - first.offset;
        const end = endOf(source.location) - first.offset;
        this.#arrived(source, key, found?.bytes.subarray(at, end));
      }
    } catch (error) {
      for (const source of sources) this.#failed(source, error);
    }
  }

  /** @param bytes undefined if the segment is not there */
  #arrived(source: Source, key: string, bytes?: Uint8Array): void {
    const { fetch, location } = source;
    try {
      if (!bytes) {
        throw new DamageError(`${key} at offset ${location.offset}: the segment is missing`);
      }
      const firstBlock = fetch.stripe * this.#contents.blocksPerStripe + source.firstBlock;
      const dataBytes = (source.endBlock - source.firstBlock) * BLOCK_BYTES;
      const data = openPart(key, location.offset, firstBlock, dataBytes, bytes);
      this.#install(source, data);
    } catch (error) {
      return this.#failed(source, error);
    }
    this.#settled(fetch);
  }

  #failed({ fetch, number }: Source, error: unknown): void {
    fetch.failures.set(number, error);
    this.#settled(fetch);
  }

  #settled(fetch: Fetch): void {
    if (--fetch.missing === 0) this.#end(fetch);
  }

  #install(source: Source, data: Uint8Array): void {
    const { cache } = this.#contents;
    const { fetch, firstBlock } = source;
    this.#fillInvalid(source, (block, count) => {
      const from = (block - firstBlock) * BLOCK_BYTES;
      cache.bytes(fetch.slot, block * BLOCK_BYTES, (block + count) * BLOCK_BYTES)
        .set(data.subarray(from, from + count * BLOCK_BYTES));
    });
  }

  #end(fetch: Fetch): void {
    const { cache, blocksPerStripe } = this.#contents;
    const zeroes = { fetch, number: ZEROES, firstBlock: 0, endBlock: blocksPerStripe };
    this.#fillInvalid(zeroes, (block, count) => {
      cache.bytes(fetch.slot, block * BLOCK_BYTES, (block + count) * BLOCK_BYTES).fill(0);
    });
    if (fetch.failures.size > 0) this.#forgiveWritten(fetch);
    this.#underWay.delete(fetch.stripe);
    cache.endFetch(fetch.slot);
    fetch.ended.resolve();
  }

  /** A part may rightly be gone, if all that was wanted of it has been written meanwhile. */
  #forgiveWritten({ slot, sourceOf }: Fetch): void {
    const { cache } = this.#contents;
    sourceOf.forEach((_, block) => {
      if (cache.isValid(slot, block)) sourceOf[block] = NOT_WANTED;
    });
  }

  /** Calls `fill` for each run of still invalid blocks that come from a source; they are valid then. */
  #fillInvalid(
    { fetch, number, firstBlock, endBlock }: Omit<Source, "location">,
    fill: (block: number, count: number) => void,
  ): void {
    const { cache } = this.#contents;
    const wanted = (block: number) =>
      block < endBlock && fetch.sourceOf[block] === number &&
      !cache.isValid(fetch.slot, block);
    cache.sealed.beforeOverwrite(fetch.slot);
    for (let block = firstBlock; block < endBlock; block++) {
      if (!wanted(block)) continue;
      let end = block + 1;
      while (wanted(end)) end++;
      fill(block, end - block);
      cache.setValid(fetch.slot, block, end - block);
      block = end;
    }
  }
}

/** Throws why a block of the range could not be got, if that was so. */
function throwFailure({ failures, sourceOf }: Fetch, { first, end }: StripeRange): void {
  if (failures.size === 0) return;
  for (let block = first; block < end; block++) {
    if (failures.has(sourceOf[block])) throw failures.get(sourceOf[block]);
  }
}

/** The byte behind a record, or a part of one. */
export function endOf(location: RecordLocation): number {
  return location.offset + RECORD_PREFIX_BYTES + location.storedBytes;
}

/** Sorts records, or parts of them, by location and groups them into what one GET each can bring. */
export function joinNeighbours<T extends { location: RecordLocation }>(sources: T[]): T[][] {
  sources.sort((a, b) => a.location.seq - b.location.seq || a.location.offset - b.location.offset);
  const groups: T[][] = [];
  for (const source of sources) {
    const group = groups.at(-1);
    const last = group?.at(-1);
    if (
      group && last && last.location.seq === source.location.seq &&
      source.location.offset - endOf(last.location) <= GET_GAP_BYTES_MAX &&
      endOf(source.location) - group[0].location.offset <= GET_BYTES_MAX
    ) group.push(source);
    else groups.push([source]);
  }
  return groups;
}
