/**
 * Brings stripes from the bucket into the cache: one GET for neighbours in one segment, one fetch a stripe
 * however many ask.
 *
 * Where each invalid block comes from is settled in the turn in which the fetch begins. Until it ends the slot is
 * pinned; a write or a trim meanwhile makes its blocks valid, and a fetch fills only what is
 * still invalid, so that it can never bring back what is older.
 */
import type { Bucket } from "../bucket/bucket.ts";
import { sleep } from "../clock.ts";
import { DamageError } from "../errors.ts";
import { BLOCK_BYTES, DOWNLOADS_MAX, GET_BYTES_MAX, GET_GAP_BYTES_MAX } from "../limits.ts";
import type { Contents } from "./contents.ts";
import { Limiter } from "./limiter.ts";
import { openRecord, RECORD_PREFIX_BYTES, segmentKey } from "./segment.ts";
import type { Place } from "./stripe_map.ts";

/** A stripe being fetched. */
interface Fetch {
  stripe: number;
  slot: number;
  /** If set, only what this segment has is wanted. */
  onlySeq?: number;
  /** By block of the stripe: which of `sources` has it, from 1 on; 0 for zeroes, NOT_WANTED for none. */
  sourceOf: Uint16Array;
  /** Records still to arrive. */
  missing: number;
  settle: PromiseWithResolvers<void>;
}

/** A record that a fetch needs. */
interface Source {
  fetch: Fetch;
  number: number;
  /** Inside the stripe. */
  firstBlock: number;
  place: Place;
}

const NOT_WANTED = 0xffff;

export class Fetcher {
  readonly #contents: Contents;
  readonly #bucket: Bucket;
  readonly #downloads = new Limiter(DOWNLOADS_MAX);
  readonly #underWay = new Map<number, Promise<void>>();

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
   * Makes every block of the stripes valid in the cache. Rejects with the first failure, when all
   * have ended. What was fetched can be evicted again as soon as the caller lets a turn pass.
   *
   * @param options.onlySeq only the blocks that this segment has are wanted. Whoever asks meanwhile for one of
   *   the stripes gets no more than that, too: everybody looks whether what he needs has come
   * @param options.isWanted asked before what had to wait for room is begun: else, when the bucket is back, readers
   *   who gave up long ago would keep all others waiting
   */
  async fetch(
    stripes: number[],
    { onlySeq, isWanted }: { onlySeq?: number; isWanted?: () => boolean } = {},
  ): Promise<void> {
    const { cache } = this.#contents;
    const results: Promise<void>[] = [];
    let rest = stripes;
    while (rest.length > 0) {
      const begun: Fetch[] = [];
      const waiting: number[] = [];
      for (const stripe of rest) {
        const underWay = this.#underWay.get(stripe);
        if (underWay) {
          results.push(underWay);
          continue;
        }
        const fetch = this.#begin(stripe, onlySeq);
        if (fetch) begun.push(fetch);
        else waiting.push(stripe);
      }
      for (const fetch of begun) results.push(fetch.settle.promise);
      this.#start(begun);
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
    const settled = await Promise.allSettled(results);
    for (const result of settled) if (result.status === "rejected") throw result.reason;
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
    const settle = Promise.withResolvers<void>();
    settle.promise.catch(() => {}); // a read-ahead may have nobody waiting
    this.#underWay.set(stripe, settle.promise);
    const sourceOf = new Uint16Array(blocksPerStripe);
    return { stripe, slot, onlySeq, sourceOf, missing: 0, settle };
  }

  #start(fetches: Fetch[]): void {
    const sources = fetches.flatMap((fetch) => this.#sourcesOf(fetch));
    for (const fetch of fetches) if (fetch.missing === 0) this.#finish(fetch);
    for (const group of joinNeighbours(sources)) this.#get(group);
  }

  /** Settles for every invalid block which record has it: the newest patch over it, else the base. */
  #sourcesOf(fetch: Fetch): Source[] {
    const { cache, map, zeroes, blocksPerStripe } = this.#contents;
    const patches = map.patches(fetch.stripe);
    const base = map.base(fetch.stripe);
    const used = new Set<number>();
    for (let block = 0; block < blocksPerStripe; block++) {
      if (cache.isValid(fetch.slot, block)) continue;
      if (zeroes.has(fetch.stripe * blocksPerStripe + block)) continue;
      let number = patches.length;
      while (number > 0 && !covers(patches[number - 1], block)) number--;
      const place = number > 0 ? patches[number - 1].place : base;
      if (place === null) continue;
      if (fetch.onlySeq !== undefined && place.seq !== fetch.onlySeq) {
        fetch.sourceOf[block] = NOT_WANTED;
        continue;
      }
      fetch.sourceOf[block] = number + 1; // 1 is the base, 2 the oldest patch
      used.add(number);
    }
    fetch.missing = used.size;
    return Array.from(used, (number) => ({
      fetch,
      number: number + 1,
      firstBlock: number > 0 ? patches[number - 1].firstBlock : 0,
      place: number > 0 ? patches[number - 1].place! : base!,
    }));
  }

  /** One GET for records that lie close together in one segment. */
  async #get(sources: Source[]): Promise<void> {
    const first = sources[0].place;
    const key = segmentKey(first.seq);
    const length = endOf(sources[sources.length - 1].place) - first.offset;
    try {
      // what has arrived with this request is answered first: making a GET takes tens of microseconds
      await undefined;
      const found = await this.#downloads.run(() =>
        this.#bucket.get(key, { offset: first.offset, length })
      );
      if (!found) await this.#confirm();
      for (const source of sources) {
        if (!found) {
          this.#missing(source, key);
          continue;
        }
        const at = source.place.offset - first.offset;
        const end = at + RECORD_PREFIX_BYTES + source.place.storedBytes;
        this.#arrived(source, key, found.bytes.subarray(at, end));
      }
    } catch (error) {
      for (const { fetch } of sources) this.#fail(fetch, error);
    }
  }

  /** The segment is not there: rightly so, if every block that was wanted of it has been written meanwhile. */
  #missing({ fetch, number, place }: Source, key: string): void {
    if (!this.#isCurrent(fetch)) return;
    const { cache } = this.#contents;
    const isWanted = fetch.sourceOf.some((source, block) =>
      source === number && !cache.isValid(fetch.slot, block)
    );
    if (isWanted) {
      const what = `${key} at offset ${place.offset}: the segment is missing`;
      this.#fail(fetch, new DamageError(what));
    } else if (--fetch.missing === 0) this.#finish(fetch);
  }

  #arrived(source: Source, key: string, bytes: Uint8Array): void {
    const { fetch, place } = source;
    if (!this.#isCurrent(fetch)) return; // another record of the stripe failed: the slot is not ours now
    try {
      const firstBlock = fetch.stripe * this.#contents.blocksPerStripe + source.firstBlock;
      const data = openRecord(key, place.offset, firstBlock, place.storedBytes, bytes);
      this.#install(source, data);
    } catch (error) {
      return this.#fail(fetch, error);
    }
    if (--fetch.missing === 0) this.#finish(fetch);
  }

  #install({ fetch, number, firstBlock }: Source, data: Uint8Array): void {
    const { cache } = this.#contents;
    this.#fillInvalid(fetch, number, (block, count) => {
      const from = (block - firstBlock) * BLOCK_BYTES;
      cache.bytes(fetch.slot, block * BLOCK_BYTES, (block + count) * BLOCK_BYTES)
        .set(data.subarray(from, from + count * BLOCK_BYTES));
    });
  }

  #finish(fetch: Fetch): void {
    const { cache } = this.#contents;
    this.#fillInvalid(fetch, 0, (block, count) => {
      cache.bytes(fetch.slot, block * BLOCK_BYTES, (block + count) * BLOCK_BYTES).fill(0);
    });
    if (!this.#end(fetch)) return;
    fetch.settle.resolve();
  }

  /** Calls `fill` for each run of still invalid blocks that come from source `number`; they are valid then. */
  #fillInvalid(fetch: Fetch, number: number, fill: (block: number, count: number) => void): void {
    const { cache, blocksPerStripe } = this.#contents;
    const wanted = (block: number) =>
      block < blocksPerStripe && fetch.sourceOf[block] === number &&
      !cache.isValid(fetch.slot, block);
    cache.beforeOverwrite(fetch.slot);
    for (let block = 0; block < blocksPerStripe; block++) {
      if (!wanted(block)) continue;
      let end = block + 1;
      while (wanted(end)) end++;
      fill(block, end - block);
      cache.setValid(fetch.slot, block, end - block);
      block = end;
    }
  }

  #fail(fetch: Fetch, error: unknown): void {
    if (this.#end(fetch)) fetch.settle.reject(error);
  }

  /** False if the fetch had ended before. */
  #end(fetch: Fetch): boolean {
    if (!this.#isCurrent(fetch)) return false;
    this.#underWay.delete(fetch.stripe);
    this.#contents.cache.endFetch(fetch.slot);
    return true;
  }

  #isCurrent(fetch: Fetch): boolean {
    return this.#underWay.get(fetch.stripe) === fetch.settle.promise;
  }
}

function covers(patch: { firstBlock: number; blockCount: number }, block: number): boolean {
  return block >= patch.firstBlock && block < patch.firstBlock + patch.blockCount;
}

/** The byte behind the record. */
export function endOf(place: Place): number {
  return place.offset + RECORD_PREFIX_BYTES + place.storedBytes;
}

/** Sorts the records by place and parts them into what one GET each can bring. */
export function joinNeighbours<T extends { place: Place }>(sources: T[]): T[][] {
  sources.sort((a, b) => a.place.seq - b.place.seq || a.place.offset - b.place.offset);
  const groups: T[][] = [];
  for (const source of sources) {
    const group = groups.at(-1);
    const last = group?.at(-1);
    if (
      group && last && last.place.seq === source.place.seq &&
      source.place.offset - endOf(last.place) <= GET_GAP_BYTES_MAX &&
      endOf(source.place) - group[0].place.offset <= GET_BYTES_MAX
    ) group.push(source);
    else groups.push([source]);
  }
  return groups;
}
