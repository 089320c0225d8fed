/**
 * Reclaim: gives back the space of what was overwritten or trimmed.
 *
 *   live ──(every record of it has been written anew, or trimmed)──▶ dead ──(checkpoint)──▶ deleted
 *
 * A segment that nothing in the map names is *dead*, and stays so: the map only ever takes in new segments. It is
 * deleted once a checkpoint without it is stored, but not if it is newer than the checkpoint before that one: should the
 * newest be damaged, opening replays the headers of all segments behind the older. Claims are never deleted.
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
import { sleep } from "../clock.ts";
import { DamageError, messageOf } from "../errors.ts";
import {
  KEYS_MAX,
  RECLAIM_BEGIN_SHARE,
  RECLAIM_END_SHARE,
  RECLAIM_HEADS_MAX,
  RECLAIM_LIVE_SHARE_MAX,
  RECLAIM_REST_FACTOR,
  RECLAIM_ROUND_BYTES,
  RECLAIM_ROUND_SEGMENTS_MAX,
  SEGMENT_DATA_BYTES_MAX,
  SEGMENTS_SMALL_MAX,
} from "../limits.ts";
import type { Logger } from "../logger.ts";
import type { StoredCheckpoint } from "./checkpoint.ts";
import type { Contents } from "./contents.ts";
import type { Fetcher } from "./fetch.ts";
import type { FlushPath } from "./flush.ts";
import { listPages } from "./keys.ts";
import { Limiter } from "./limiter.ts";
import { LOG_PREFIX, segmentKey, seqOfKey } from "./segment.ts";
import { SegmentMover } from "./segment_mover.ts";
import type { Ranking, SegmentUse } from "./segment_table.ts";

/** What is too much: bytes that nothing needs, and segments. Zero or less: nothing to do. */
interface Excess {
  bytes: number;
  segments: number;
}

/** What a request came to: what there is now, and how much less that is. */
export interface Reclaimed extends SegmentUse {
  segments: number;
  /** What clients have stored meanwhile is taken off. */
  freedBytes: number;
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
  readonly #flush: FlushPath;
  readonly #bucket: Bucket;
  readonly #logger: Logger;
  readonly #options: ReclaimOptions;
  readonly #mover: SegmentMover;
  /** Segments that can't be moved, because they are damaged; they stay as they are. */
  readonly #fixed = new Set<number>();
  /** Of the segments deleted so far. */
  reclaimedBytes = 0;
  #running: Promise<void> | null = null;
  /** A checkpoint that gives back what is dead. */
  #checkpointing: Promise<boolean> | null = null;
  #isStopped = false;
  #isRequested = false;
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
    this.#flush = flush;
    this.#bucket = bucket;
    this.#logger = logger;
    this.#options = options;
    this.#mover = new SegmentMover(contents, fetcher, flush, bucket, {
      isStopped: () => this.#isStopped,
      confirm: options.confirm,
    });
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
        "reclaim stopped",
        messageOf(error),
      );
    }).finally(() => this.#running = null);
  }

  /**
   * Gives back on request all that can be: moves what is live out of every segment of which less than
   * RECLAIM_LIVE_SHARE_MAX is, and deletes what is dead then.
   *
   * @param onProgress told how much of what has to move has moved
   */
  async reclaimAll(onProgress: (doneBytes: number, allBytes: number) => void): Promise<Reclaimed> {
    const { total, segments } = this.#contents.map;
    const before = total.storedBytes;
    this.#isRequested = true;
    this.#endRest?.();
    while (this.#running) await this.#running;
    const moving = this.#moveAll(onProgress).finally(() => this.#isRequested = false);
    this.#running = moving.catch(() => {}).finally(() => this.#running = null);
    await moving;
    this.#contents.assertAlive();
    return { ...total, segments: segments.size, freedBytes: before - total.storedBytes };
  }

  /** No round begins any more; resolves when the one under way has ended. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#endRest?.();
    await this.#running;
    await this.#checkpointing;
  }

  // ---- deleting

  /**
   * Deletes what is dead in a checkpoint, if it is not newer than the older of the two there are. The first time what no
   * table knows goes, too: the leftovers of claims that came too late, and of puts that arrived after all.
   */
  async deleteDead({ dead, olderSeq }: StoredCheckpoint): Promise<void> {
    const { segments, claims } = this.#contents.map;
    for (let at = 0; at < dead.length; at += KEYS_MAX) {
      await this.#delete(dead.slice(at, at + KEYS_MAX).filter((seq) => seq <= olderSeq));
    }
    if (this.#hasSwept || olderSeq === 0) return;
    for await (const keys of listPages(this.#bucket, LOG_PREFIX)) {
      const seqs = keys.map((key) => seqOfKey(key) ?? Infinity);
      await this.#delete(
        seqs.filter((seq) => seq <= olderSeq && !segments.has(seq) && !claims.has(seq)),
      );
    }
    this.#hasSwept = true;
  }

  /** @param seqs as many as a request takes */
  async #delete(seqs: number[]): Promise<void> {
    if (seqs.length === 0) return;
    const { segments } = this.#contents.map;
    await this.#bucket.delete(seqs.map(segmentKey));
    for (const seq of seqs) {
      this.reclaimedBytes += segments.get(seq)?.storedBytes ?? 0;
      segments.delete(seq);
      this.#fixed.delete(seq);
    }
  }

  // ---- moving

  async #run(): Promise<void> {
    for (;;) {
      const excess = this.#excess(RECLAIM_END_SHARE, 3 / 4);
      if (this.#isStopped || this.#isRequested || !isAny(excess)) return;
      if (!await this.#atLeisure(() => this.#round(excess))) return;
    }
  }

  async #moveAll(onProgress: (doneBytes: number, allBytes: number) => void): Promise<void> {
    const { seqs, liveBytes } = await this.#movable(true, Infinity);
    let doneBytes = 0;
    for (let at = 0; at < seqs.length && !this.#isStopped;) {
      onProgress(doneBytes, liveBytes);
      await this.#atLeisure(async () => {
        const moved = await this.#move(seqs.slice(at, at + RECLAIM_ROUND_SEGMENTS_MAX));
        at += moved.segments;
        doneBytes += moved.bytes;
        return `moved what was live in ${moved.segments} segments`;
      });
    }
    // clients may have written some of it anew before it was moved
    onProgress(this.#isStopped ? doneBytes : liveBytes, liveBytes);
    // what died before the first of two checkpoints goes behind the second
    for (let left = 2; left > 0 && !this.#isStopped; left--) await this.#checkpoint();
  }

  /** Works, and rests for it if clients were active; false if there was nothing to do. */
  async #atLeisure(work: () => Promise<string | undefined>): Promise<boolean> {
    const { clock } = this.#contents;
    const sinceMs = clock.monotonic();
    const requests = this.#options.requests();
    const { storedBytes } = this.#flush;
    const done = await work();
    const ms = clock.monotonic() - sinceMs;
    this.#logger.debug(() =>
      `reclaim ${done ?? "found nothing to do"} in ${Math.round(ms)} ms; ${this.#state()}`
    );
    if (done === undefined) return false;
    if (this.#options.requests() !== requests) {
      this.#restsUntilStored = storedBytes + RECLAIM_ROUND_BYTES * (1 + RECLAIM_REST_FACTOR);
      await this.#rest(ms * RECLAIM_REST_FACTOR);
    }
    return true;
  }

  #state(): string {
    const { total: { storedBytes, liveBytes }, segments } = this.#contents.map;
    return `${segments.size} segments hold ${storedBytes} bytes, ${liveBytes} of them live; ` +
      `${segments.dead.segments} are dead`;
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
    const { dead, total } = this.#contents.map.segments;
    const bytesMin = Math.min(excess.bytes / 2, total.liveBytes / 8);
    const isWorthIt = (excess.bytes > 0 && dead.storedBytes >= bytesMin) ||
      (excess.segments > 0 && dead.segments >= excess.segments / 2);
    if (isWorthIt) {
      this.#checkpointing ??= this.#checkpoint().finally(() => this.#checkpointing = null);
    }
    if (excess.bytes > dead.storedBytes || excess.segments > dead.segments) {
      const { seqs } = await this.#movable(excess.bytes > 0, RECLAIM_ROUND_SEGMENTS_MAX);
      const moved = await this.#move(seqs);
      if (moved.segments > 0) return `moved what was live in ${moved.segments} segments`;
    }
    return await this.#checkpointing ? "deleted what was dead" : undefined;
  }

  /** Up to `countMax` segments, those first that give most for the least to move. */
  #movable(isForBytes: boolean, countMax: number): Promise<Ranking> {
    return this.#contents.map.segments.cheapest(
      countMax,
      RECLAIM_LIVE_SHARE_MAX,
      (storedBytes, liveBytes, seq) =>
        this.#fixed.has(seq)
          ? Infinity
          : liveBytes / (isForBytes ? storedBytes : SEGMENT_DATA_BYTES_MAX),
      () => sleep(this.#contents.clock, 0),
    );
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

  /** Moves the first of the segments, as much as fills a new one; returns how many, and what was live in them. */
  async #move(seqs: number[]): Promise<{ segments: number; bytes: number }> {
    const { map } = this.#contents;
    let bytes = 0;
    let count = 0;
    while (count < seqs.length && bytes < RECLAIM_ROUND_BYTES) {
      bytes += map.segments.get(seqs[count++])?.liveBytes ?? 0; // or deleted since it was ranked
    }
    if (count === 0) return { segments: 0, bytes };
    const brought = new Set<number>();
    await new Limiter(RECLAIM_HEADS_MAX).forEach(seqs.slice(0, count), async (seq) => {
      try {
        await this.#mover.bringIn(seq, brought);
      } catch (error) {
        if (!(error instanceof DamageError)) throw error;
        this.#fixed.add(seq);
        const text = `${error.message}; reclaim leaves ${segmentKey(seq)} as it is`;
        this.#logger.warn(text, "reclaim", text);
      }
    });
    await this.#flush.flush();
    for (const stripe of brought) this.#contents.cache.drop(stripe);
    return { segments: count, bytes };
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
