/**
 * How reclaim moves what is live in a segment: it is brought into the cache and marked dirty, so that it travels in the
 * next batches as any write does.
 *
 * All of it together never has more than a quarter of the room that writes have.
 */
import type { Bucket } from "../bucket/bucket.ts";
import { DamageError } from "../errors.ts";
import { SEGMENT_HEAD_BYTES_MAX } from "../limits.ts";
import type { Contents, StripeRange } from "./contents.ts";
import type { Fetcher } from "./fetch.ts";
import type { FlushPath } from "./flush.ts";
import { parseSegmentHead, RECORD_DATA, segmentKey, type SegmentRecord } from "./segment.ts";

export interface MoverOptions {
  /** Nothing more is to be moved. */
  isStopped: () => boolean;
  /** Throws if another writer has taken the volume over. */
  confirm: () => Promise<void>;
}

export class SegmentMover {
  readonly #contents: Contents;
  readonly #fetcher: Fetcher;
  readonly #flush: FlushPath;
  readonly #bucket: Bucket;
  readonly #options: MoverOptions;

  constructor(
    contents: Contents,
    fetcher: Fetcher,
    flush: FlushPath,
    bucket: Bucket,
    options: MoverOptions,
  ) {
    this.#contents = contents;
    this.#fetcher = fetcher;
    this.#flush = flush;
    this.#bucket = bucket;
    this.#options = options;
  }

  /**
   * Brings what is live in a segment into the cache and marks it dirty.
   *
   * @param brought takes the stripes that were not in the cache before
   * @throws DamageError if it can't be read
   */
  async bringIn(seq: number, brought: Set<number>): Promise<void> {
    const { map, dirtyStripesMax, blocksPerStripe } = this.#contents;
    const key = segmentKey(seq);
    const found = await this.#bucket.get(key, { offset: 0, length: SEGMENT_HEAD_BYTES_MAX });
    const isLive = () => (map.segments.get(seq)?.liveBytes ?? 0) > 0;
    if (!found) {
      if (!isLive()) return; // rightly so: it has died meanwhile, and was deleted
      await this.#options.confirm();
      throw new DamageError(`${key}: the segment is missing`);
    }
    const byStripe = new Map<number, SegmentRecord[]>();
    for (const record of parseSegmentHead(key, found.bytes, found.size).records) {
      if (record.kind !== RECORD_DATA || map.liveBytes(seq, record) === 0) continue;
      const stripe = Math.floor(record.firstBlock / blocksPerStripe);
      if (byStripe.has(stripe)) byStripe.get(stripe)!.push(record);
      else byStripe.set(stripe, [record]);
    }
    const entries = [...byStripe];
    const atOnce = Math.max(1, Math.floor(dirtyStripesMax / 8));
    for (let at = 0; at < entries.length && !this.#options.isStopped(); at += atOnce) {
      const some = entries.slice(at, at + atOnce);
      await this.#reserve(some.length);
      try {
        await this.#fetch(seq, some, brought);
        this.#contents.assertAlive();
        for (const [, records] of some) {
          for (const record of records) if (map.liveBytes(seq, record) > 0) this.#markDirty(record);
        }
      } finally {
        this.#contents.reservedStripes -= some.length;
        this.#contents.cache.wake();
      }
      this.#flush.changed();
    }
    if (entries.length === 0 && isLive()) {
      throw new DamageError(`${key}: its index has nothing of what is live in it`);
    }
  }

  /** A base is replaced by a whole stripe only, a patch by its own blocks. */
  async #fetch(seq: number, entries: [number, SegmentRecord[]][], brought: Set<number>) {
    const { cache, blocksPerStripe } = this.#contents;
    const whole: StripeRange[] = [];
    const part: StripeRange[] = [];
    for (const [stripe, records] of entries) {
      if (cache.find(stripe) < 0) brought.add(stripe);
      const hasBase = records.some(({ blockCount }) => blockCount === blocksPerStripe);
      (hasBase ? whole : part).push(this.#contents.whole(stripe));
    }
    await Promise.all([this.#fetcher.fetch(whole), this.#fetcher.fetch(part, { onlySeq: seq })]);
    // of what a reader was having fetched a part only has come
    await this.#fetcher.fetch(whole.filter((range) => this.#contents.countMissing(range) > 0));
  }

  /** Marks what is here of the record's blocks; what is not, any more, waits for another round. */
  #markDirty({ firstBlock, blockCount }: SegmentRecord): void {
    const { cache, blocksPerStripe } = this.#contents;
    const slot = cache.find(Math.floor(firstBlock / blocksPerStripe));
    if (slot < 0) return;
    const isBase = blockCount === blocksPerStripe;
    if (isBase && !cache.allValid(slot, 0, blocksPerStripe)) return;
    const first = firstBlock % blocksPerStripe;
    for (let block = first; block < first + blockCount; block++) {
      if (cache.isValid(slot, block)) cache.setDirty(slot, block, 1);
    }
  }

  /** Waits for room, and takes it; all of reclaim never has more than a quarter of what there is. */
  async #reserve(stripes: number): Promise<void> {
    const contents = this.#contents;
    const reservedMax = Math.max(stripes, Math.floor(contents.dirtyStripesMax / 4));
    for (;;) {
      contents.assertAlive();
      if (
        stripes <= contents.roomStripes && contents.reservedStripes + stripes <= reservedMax
      ) break;
      this.#flush.wantRoom();
      await contents.cache.roomMade();
    }
    contents.reservedStripes += stripes;
  }
}
