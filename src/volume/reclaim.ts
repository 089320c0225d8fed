/**
 * Reclaim: gives back the space of what was overwritten or trimmed.
 *
 *   live ──(every record of it has been written anew, or trimmed)──▶ dead ──(checkpoint)──▶ deleted
 *
 * A segment that nothing in the map names is *dead*, and stays so: the map only ever takes in new segments. (A claim
 * is none of the segments meant here, and never deleted.) It is deleted behind a checkpoint that says so, if it is not newer than the checkpoint before that: should
 * the newest be damaged, opening replays the headers of all segments behind the older.
 *
 * When garbage has become much, the emptiest segments are made dead: what is live in them is brought into the
 * cache and marked dirty, so that it travels in the next batches as any write does. It is newest data
 * already, so the disk never changes by it, and a crash at any point loses nothing.
 *
 * While clients are active, reclaim works a tenth of the time, or stores a tenth of the bytes: a round that took 0.3 s
 * is followed by 2.7 s of rest, or less if clients have stored nine times as much as it by then. So it
 * can't slow them by more than a tenth, whatever it is that they share.
 */
import type { Bucket } from "../bucket/bucket.ts";
import { DamageError, messageOf } from "../errors.ts";
import {
  RECLAIM_BEGIN_SHARE,
  RECLAIM_END_SHARE,
  RECLAIM_HEADS_MAX,
  RECLAIM_LIVE_SHARE_MAX,
  RECLAIM_REST_FACTOR,
  RECLAIM_ROUND_BYTES,
  RECLAIM_ROUND_SEGMENTS_MAX,
  SEGMENT_DATA_BYTES_MAX,
  SEGMENT_HEAD_BYTES_MAX,
  SEGMENTS_SMALL_MAX,
} from "../limits.ts";
import type { Logger } from "../logger.ts";
import type { Contents } from "./contents.ts";
import type { Fetcher } from "./fetch.ts";
import type { FlushPath } from "./flush.ts";
import { deleteAll, listAll } from "./keys.ts";
import { Limiter } from "./limiter.ts";
import {
  parseSegmentHead,
  RECORD_DATA,
  segmentKey,
  type SegmentRecord,
  seqOfKey,
} from "./segment.ts";

/** What is too much: bytes that nothing needs, and segments. Zero or less: nothing to do. */
interface Excess {
  bytes: number;
  segments: number;
}

export interface ReclaimOptions {
  /** Garbage that is never worth the trouble. */
  garbageBytesMin: number;
  /** Stores a checkpoint, and deletes the dead behind it; false if that could not be done. */
  checkpoint: () => Promise<boolean>;
  /** Throws if another writer has taken the volume over. */
  confirm: () => Promise<void>;
  /** Counts the requests of clients. */
  requests: () => number;
}

export class Reclaimer {
  readonly #contents: Contents;
  readonly #fetcher: Fetcher;
  readonly #flush: FlushPath;
  readonly #bucket: Bucket;
  readonly #logger: Logger;
  readonly #options: ReclaimOptions;
  /** Segments that can't be moved, because they are damaged; they stay as they are. */
  readonly #fixed = new Set<number>();
  /** Of the segments deleted so far. */
  reclaimedBytes = 0;
  #running: Promise<void> | null = null;
  /** A checkpoint that gives back what is dead. */
  #checkpointing: Promise<boolean> | null = null;
  #isStopped = false;
  #hasSwept = false;
  #endRest: (() => void) | null = null;
  #restsUntilStored = 0;

  constructor(
    contents: Contents,
    fetcher: Fetcher,
    flush: FlushPath,
    bucket: Bucket,
    logger: Logger,
    options: ReclaimOptions,
  ) {
    this.#contents = contents;
    this.#fetcher = fetcher;
    this.#flush = flush;
    this.#bucket = bucket;
    this.#logger = logger;
    this.#options = options;
  }

  /** To be called when garbage may have become more: begins if there is much, and goes on until there is little. */
  consider(): void {
    if (this.#flush.storedBytes >= this.#restsUntilStored) this.#endRest?.();
    if (this.#running || this.#isStopped || !isAny(this.#excess(RECLAIM_BEGIN_SHARE, 1))) return;
    this.#running = this.#run().catch((error) => {
      // a volume that has failed, or is closed, says so elsewhere
      if (this.#contents.failure !== null) return;
      this.#logger.warn(
        `reclaim stopped, and begins anew with the next commit: ${messageOf(error)}`,
      );
    }).finally(() => this.#running = null);
  }

  /** No round begins any more; resolves when the one under way has ended. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#endRest?.();
    await this.#running;
    await this.#checkpointing;
  }

  // ---- deleting

  /** The segments that are dead now; for `deleteDead`, behind a checkpoint of this turn. */
  dead(): number[] {
    const dead: number[] = [];
    for (const [seq, { liveBytes }] of this.#contents.map.segments) {
      if (liveBytes === 0) dead.push(seq);
    }
    return dead;
  }

  /**
   * Deletes the segments `dead`, up to `lastSeq`. The first time what no table knows goes, too: the leftovers of
   * claims that came too late, and of puts that arrived after all.
   *
   * @param lastSeq the older of the two checkpoints there are
   */
  async deleteDead(dead: number[], lastSeq: number): Promise<void> {
    const { map } = this.#contents;
    const seqs = dead.filter((seq) => seq <= lastSeq);
    if (!this.#hasSwept && lastSeq > 0) {
      const isKnown = (seq: number) => map.segments.has(seq) || map.claims.has(seq);
      const keys = await listAll(this.#bucket, "log/");
      const listed = keys.map(seqOfKey).filter((seq) => seq !== undefined);
      seqs.push(...listed.filter((seq) => seq <= lastSeq && !isKnown(seq)));
      this.#hasSwept = true;
    }
    await deleteAll(this.#bucket, seqs.map(segmentKey));
    for (const seq of seqs) {
      this.reclaimedBytes += map.segments.get(seq)?.storedBytes ?? 0;
      map.forgetSegment(seq);
      this.#fixed.delete(seq);
    }
  }

  // ---- moving

  async #run(): Promise<void> {
    const { clock } = this.#contents;
    for (;;) {
      const excess = this.#excess(RECLAIM_END_SHARE, 3 / 4);
      if (this.#isStopped || !isAny(excess)) return;
      const sinceMs = clock.monotonic();
      const requests = this.#options.requests();
      const { storedBytes } = this.#flush;
      const done = await this.#round(excess);
      const ms = clock.monotonic() - sinceMs;
      this.#logger.debug(() =>
        `reclaim ${done ?? "found nothing to do"} in ${Math.round(ms)} ms; ${this.#state()}`
      );
      if (done === undefined) return;
      if (this.#options.requests() !== requests) {
        this.#restsUntilStored = storedBytes + RECLAIM_ROUND_BYTES * (1 + RECLAIM_REST_FACTOR);
        await this.#rest(ms * RECLAIM_REST_FACTOR);
      }
    }
  }

  #state(): string {
    const { total: { storedBytes, liveBytes }, segments } = this.#contents.map;
    const dead = this.dead().length;
    return `${segments.size} segments hold ${storedBytes} bytes, ${liveBytes} of them live; ${dead} are dead`;
  }

  /** What there is beyond `share` of the live bytes, and beyond that share of the segments there should be. */
  #excess(share: number, segmentsShare: number): Excess {
    const { total: { storedBytes, liveBytes }, segments } = this.#contents.map;
    let garbage = storedBytes - liveBytes;
    for (const seq of this.#fixed) {
      const use = segments.get(seq);
      if (use) garbage -= use.storedBytes - use.liveBytes;
    }
    const segmentsMax = SEGMENTS_SMALL_MAX + 4 * liveBytes / SEGMENT_DATA_BYTES_MAX;
    return {
      bytes: garbage - Math.max(this.#options.garbageBytesMin, liveBytes * share),
      segments: segments.size - segmentsMax * segmentsShare,
    };
  }

  /** Has what is dead given back, if that is worth a checkpoint, and moves some of the rest. Returns what it did, if anything. */
  async #round(excess: Excess): Promise<string | undefined> {
    const { dead, movable } = this.#survey(excess.bytes > 0);
    const bytesMin = Math.min(excess.bytes / 2, this.#contents.map.total.liveBytes / 8);
    const isWorthIt = (excess.bytes > 0 && dead.bytes >= bytesMin) ||
      (excess.segments > 0 && dead.segments >= excess.segments / 2);
    if (isWorthIt) {
      this.#checkpointing ??= this.#checkpoint().finally(() => this.#checkpointing = null);
    }
    if (excess.bytes > dead.bytes || excess.segments > dead.segments) {
      const moved = await this.#move(movable);
      if (moved > 0) return `moved what was live in ${moved} segments`;
    }
    return await this.#checkpointing ? "deleted what was dead" : undefined;
  }

  /** What is dead, and the segments that are not, those first that give most for the least to move. */
  #survey(isForBytes: boolean): { dead: Excess; movable: number[] } {
    const dead = { bytes: 0, segments: 0 };
    const ranked: [seq: number, share: number][] = [];
    for (const [seq, { storedBytes, liveBytes }] of this.#contents.map.segments) {
      if (liveBytes === 0) {
        dead.bytes += storedBytes;
        dead.segments++;
      } else if (!this.#fixed.has(seq)) {
        const share = liveBytes / (isForBytes ? storedBytes : SEGMENT_DATA_BYTES_MAX);
        if (share < RECLAIM_LIVE_SHARE_MAX) ranked.push([seq, share]);
      }
    }
    ranked.sort((a, b) => a[1] - b[1]);
    return { dead, movable: ranked.map(([seq]) => seq) };
  }

  /** False if there is no checkpoint. */
  async #checkpoint(): Promise<boolean> {
    try {
      await this.#flush.stamp(); // a checkpoint has a seq of its own
      return await this.#options.checkpoint();
    } catch {
      return false; // the volume has failed, or is closed
    }
  }

  /** Moves the first of the segments, as much as fills a new one; returns how many. */
  async #move(seqs: number[]): Promise<number> {
    const { map } = this.#contents;
    let bytes = 0;
    let count = 0;
    while (
      count < Math.min(seqs.length, RECLAIM_ROUND_SEGMENTS_MAX) && bytes < RECLAIM_ROUND_BYTES
    ) {
      bytes += map.segments.get(seqs[count++])!.liveBytes;
    }
    if (count === 0) return 0;
    const brought = new Set<number>();
    await new Limiter(RECLAIM_HEADS_MAX).forEach(seqs.slice(0, count), async (seq) => {
      try {
        await this.#bringIn(seq, brought);
      } catch (error) {
        if (!(error instanceof DamageError)) throw error;
        this.#fixed.add(seq);
        this.#logger.warn(`${error.message}; reclaim leaves ${segmentKey(seq)} as it is`);
      }
    });
    await this.#flush.flush();
    for (const stripe of brought) this.#contents.cache.drop(stripe);
    return count;
  }

  /** Brings what is live in a segment into the cache and marks it dirty. */
  async #bringIn(seq: number, brought: Set<number>): Promise<void> {
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
    for (let at = 0; at < entries.length && !this.#isStopped; at += atOnce) {
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
    const whole: number[] = [];
    const part: number[] = [];
    for (const [stripe, records] of entries) {
      if (cache.find(stripe) < 0) brought.add(stripe);
      const hasBase = records.some(({ blockCount }) => blockCount === blocksPerStripe);
      (hasBase ? whole : part).push(stripe);
    }
    await Promise.all([this.#fetcher.fetch(whole), this.#fetcher.fetch(part, { onlySeq: seq })]);
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

  async #rest(ms: number): Promise<void> {
    if (this.#isStopped || this.#flush.storedBytes >= this.#restsUntilStored) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#contents.clock.after(ms, resolve);
    this.#endRest = () => {
      cancel();
      resolve();
    };
    await promise;
    this.#endRest = null;
  }
}

function isAny({ bytes, segments }: Excess): boolean {
  return bytes > 0 || segments > 0;
}
