/**
 * Flush: seal → fill → store → commit.
 *
 * | step   | when                                                   | what                                                 |
 * | ------ | ------------------------------------------------------ | ---------------------------------------------------- |
 * | seal   | an eighth of the cache is dirty, or half of what may   | every dirty block there is becomes a batch,          |
 * |        | be if it is the same again and again                   | decided in one turn                                  |
 * |        | a flush came, a change waits for room, or the oldest   | the same                                             |
 * |        | is `flushafter` old, and an upload slot is free, so    |                                                      |
 * |        | that flushes share one                                 |                                                      |
 * | fill   | an upload slot is free, or all are taken and no        | the next of the batch's stripes are copied into a    |
 * |        | segment waits for one                                  | segment with the next seq                            |
 * | store  | an upload slot is free: several at a time              | uploader.ts                                          |
 * | commit | all segments of the batch, and every batch before, are | the map takes the records in, some a turn; then pins |
 * |        | stored                                                 | are given back and flushes answered                  |
 *
 * Promise 2 rests on this: a flush is answered by the commit of a batch that was sealed after it came, or, if
 * nothing was dirty, of the newest one. Promise 3: batches are applied in order, each whole. What is made `together`
 * may be more than there is room for, and is sealed bit by bit: in the bucket these batches are one, for only the last
 * segment of the last says that it ends a batch. A crash before it is stored leaves nothing of them.
 */
import {
  BLOCK_BYTES,
  PATCHES_MAX,
  SEAL_SHARE,
  SEAL_STRIPES_MAX,
  SEGMENT_RECORDS_MAX,
  STRIPE_PATCHES_MAX,
} from "../limits.ts";
import { type Batch, isFilled, type StoredSegment } from "./batch.ts";
import type { Done } from "./block_device.ts";
import type { Contents } from "./contents.ts";
import { SegmentBuilder } from "./segment.ts";
import type { SealedStripe } from "./sealed_stripes.ts";
import type { Uploader } from "./uploader.ts";
import { isAllZero } from "./zeroes.ts";

export class FlushPath {
  readonly #contents: Contents;
  readonly #uploader: Uploader;
  readonly #flushAfterMs: number;
  readonly #segmentDataBytes: number;
  /** So many dirty bytes, unless they are rewritten, or stripes that have any, are sealed unasked. */
  readonly #sealBytes: number;
  readonly #sealStripes: number;
  readonly #onCommit: () => void;
  readonly #onFailure: (error: Error) => void;
  /** Sealed and not committed, oldest first. */
  readonly #batches: Batch[] = [];
  /** Settles with the batch that is sealed next. */
  #next = newBatchPromise();
  #sealWanted = false;
  /** Stripes of the newest batch. */
  #newestStripes: SealedStripe[] = [];
  /** Whether most of what is dirty was in it, too; looked at once, when it has become much. */
  #isRewritten?: boolean;
  #pumpScheduled = false;
  #cancelTimer: (() => void) | null = null;
  /** The newest segment of the newest batch in the map. */
  #committedSeq: number;
  #storedBytes = 0;
  /** When the oldest change was made that no batch holds yet; Infinity if there is none. */
  #changedMs = Infinity;
  #isCommitting = false;
  /** What is sealed is continued: see `together`. */
  #isTogether = false;
  /** The map has some of what is made `together`, and not all: it is no state of the disk. */
  isContinued = false;

  /**
   * @param flushAfterMs a change is sealed when it is so old, asked for or not
   * @param segmentDataBytes data in one segment, at most
   * @param onCommit called after each commit, in its turn
   * @param onFailure called when a segment can't be stored for good; it is to call `fail`
   */
  constructor(
    contents: Contents,
    uploader: Uploader,
    flushAfterMs: number,
    segmentDataBytes: number,
    onCommit: () => void,
    onFailure: (error: Error) => void,
  ) {
    this.#contents = contents;
    this.#uploader = uploader;
    this.#flushAfterMs = flushAfterMs;
    this.#segmentDataBytes = segmentDataBytes;
    this.#onCommit = onCommit;
    this.#onFailure = onFailure;
    this.#committedSeq = uploader.storedUpTo;
    const { slotCount, stripeBytes } = contents.cache;
    // half of what may be dirty: while it is on its way the other half takes what comes
    const half = Math.max(1, Math.floor(contents.dirtyStripesMax / 2));
    this.#sealStripes = Math.min(half, SEAL_STRIPES_MAX);
    const segments = Math.floor(slotCount * stripeBytes * SEAL_SHARE / segmentDataBytes);
    this.#sealBytes = Math.max(1, segments) * segmentDataBytes;
  }

  /** Whether the map is about to take in the rest of a batch. */
  get isCommitting(): boolean {
    return this.#isCommitting;
  }

  get committedSeq(): number {
    return this.#committedSeq;
  }

  /** Bytes of the segments committed so far. */
  get storedBytes(): number {
    return this.#storedBytes;
  }

  /** When the oldest change was made that is not in the map yet, by the monotonic clock; Infinity if there is none. */
  get oldestChangeMs(): number {
    return this.#batches.reduce(
      (oldest, { sinceMs }) => Math.min(oldest, sinceMs),
      this.#changedMs,
    );
  }

  /** Stripes that batches not in the map yet hold something of. */
  *sealedStripes(): Generator<number> {
    for (const { stripes } of this.#batches) for (const { stripe } of stripes) yield stripe;
  }

  /** Done when everything that was changed before the call is in the map, and so in the bucket. */
  flush(): Done {
    this.#contents.assertAlive();
    if (this.#contents.hasChanges) {
      this.wantSeal();
      return this.#next.promise;
    }
    return this.#batches.at(-1)?.committed.promise;
  }

  /** Lets the log grow by an empty segment at least; done when it has. */
  stamp(): Promise<void> {
    this.#contents.assertAlive();
    const batch = this.#seal();
    this.#schedulePump();
    return batch.committed.promise;
  }

  /**
   * Has all that `act` changes applied whole or not at all, when the volume is opened next. Nothing is flushed meanwhile:
   * it would be answered too early. If `act` fails so does the volume, for what is stored of it has no end.
   */
  async together(act: () => Promise<void>): Promise<void> {
    this.#isTogether = true;
    try {
      await act();
    } catch (error) {
      this.fail(error as Error);
      throw error;
    }
    this.#isTogether = false;
    if (this.#batches.at(-1)?.isLast ?? !this.isContinued) return;
    this.#seal();
    this.#schedulePump();
  }

  /** To be called behind every change, in its turn: seals what has become much, and has the rest sealed in time. */
  changed(): void {
    if (!this.#contents.hasChanges) return;
    if (this.#changedMs === Infinity) this.#changedMs = this.#contents.clock.monotonic();
    const { dirtyBlocks, dirtySlots } = this.#contents.cache;
    const isMuch = (dirtyBlocks * BLOCK_BYTES >= this.#sealBytes && !this.#mayGrow()) ||
      dirtySlots.size >= this.#sealStripes ||
      this.#contents.zeroes.pending.count >= SEAL_STRIPES_MAX;
    if (isMuch) {
      this.#seal();
      this.#schedulePump();
    } else if (this.#cancelTimer === null) {
      this.#cancelTimer = this.#contents.clock.after(this.#flushAfterMs, () => this.wantSeal());
    }
  }

  /** Has what is dirty sealed as soon as an upload slot is free. */
  wantSeal(): void {
    this.#sealWanted = true;
    this.#schedulePump();
  }

  /** A change waits for room: what is under way will make some; if nothing is, what is dirty must go. */
  wantRoom(): void {
    if (this.#batches.length === 0 && this.#contents.hasChanges) this.wantSeal();
  }

  /** Stops the timer; for a volume that is closed or failed. */
  stop(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = null;
  }

  /** At the end of the turn, so that flushes that arrive together share a batch. */
  #schedulePump(): void {
    if (this.#pumpScheduled) return;
    this.#pumpScheduled = true;
    queueMicrotask(() => {
      this.#pumpScheduled = false;
      this.#pump();
    });
  }

  #pump(): void {
    const turn = this.#contents.turn();
    while (this.#uploader.hasRoom && this.#contents.failure === null) {
      let batch = this.#batches.find((batch) => !isFilled(batch));
      // not before, so that all flushes that come until then share it
      const isDue = this.#sealWanted && this.#uploader.hasSlot;
      if (!batch && isDue && this.#contents.hasChanges) batch = this.#seal();
      if (!batch) break;
      this.#storeNext(batch);
      if (turn.isOver) return void turn.next().then(() => this.#schedulePump());
    }
  }

  // ---- seal

  /**
   * True if nobody has asked for what is dirty, and most of it was in the newest batch, too: what is written over and
   * over is cheaper kept than stored again and again. What is written in order is stored while more comes.
   */
  #mayGrow(): boolean {
    return !this.#sealWanted && (this.#isRewritten ??= this.#mostIsRewritten());
  }

  #mostIsRewritten(): boolean {
    const { cache } = this.#contents;
    const newest = new Set(this.#newestStripes.map(({ stripe }) => stripe));
    const rewritten = [...cache.dirtySlots].filter((slot) => newest.has(cache.stripeOf(slot)));
    return rewritten.length * 2 > cache.dirtySlots.size;
  }

  #seal(): Batch {
    const { cache, zeroes } = this.#contents;
    this.stop();
    this.#sealWanted = false;
    this.#isRewritten = undefined;
    const stripes: SealedStripe[] = [];
    for (const slot of [...cache.dirtySlots]) {
      stripes.push(cache.seal(slot, this.#isStoredWhole(slot)));
    }
    // neighbours on the disk become neighbours in the segment: one GET brings them back
    stripes.sort((a, b) => a.stripe - b.stripe);
    const sealedZeroes = zeroes.seal();
    const batch: Batch = {
      stripes,
      zeroes: sealedZeroes,
      zeroRuns: [...sealedZeroes],
      filledStripes: 0,
      filledRuns: 0,
      segments: [],
      underWay: 0,
      isLast: !this.#isTogether,
      sinceMs: this.#changedMs,
      committed: this.#next,
    };
    this.#changedMs = Infinity;
    this.#next = newBatchPromise();
    this.#batches.push(batch);
    this.#newestStripes = stripes;
    return batch;
  }

  /** Whole, if half of it is dirty anyway, or its patches have become too many. */
  #isStoredWhole(slot: number): boolean {
    const { cache, map, blocksPerStripe } = this.#contents;
    if (!cache.allValid(slot, 0, blocksPerStripe)) return false;
    return cache.dirtyCount(slot) * 2 >= blocksPerStripe ||
      map.patches(cache.stripeOf(slot)).length >= STRIPE_PATCHES_MAX - 1 ||
      map.patchCount >= PATCHES_MAX;
  }

  // ---- fill and store

  async #storeNext(batch: Batch): Promise<void> {
    const segment: StoredSegment = { seq: 0, objectBytes: 0, records: [] };
    batch.segments.push(segment);
    batch.underWay++;
    try {
      await this.#uploader.store((seq, buffer) => this.#fill(batch, segment, seq, buffer));
    } catch (error) {
      return this.#onFailure(error as Error);
    }
    batch.underWay--;
    this.#commit();
    this.#schedulePump();
  }

  /** Copies as much of the batch as goes into one segment. */
  #fill(batch: Batch, segment: StoredSegment, seq: number, buffer: Uint8Array): Uint8Array {
    const runsEnd = Math.min(batch.zeroRuns.length, batch.filledRuns + SEGMENT_RECORDS_MAX);
    const runs = batch.zeroRuns.slice(batch.filledRuns, runsEnd);
    const stripes = this.#stripesThatFit(batch, SEGMENT_RECORDS_MAX - runs.length);
    const recordCount = stripes.reduce((sum, { runs }) => sum + runs.length / 2, runs.length);
    const builder = new SegmentBuilder(buffer, recordCount, this.#contents.partBytes);
    for (const [start, end] of runs) builder.addZeroes(start, end - start);
    for (const stripe of stripes) this.#addStripe(builder, stripe);
    batch.filledRuns = runsEnd;
    batch.filledStripes += stripes.length;
    const bytes = builder.finish({
      seq,
      epoch: this.#uploader.writer.epoch,
      writer: this.#uploader.writer.id,
      storedUpTo: this.#uploader.storedUpTo,
      lastOfBatch: batch.isLast && isFilled(batch),
    });
    segment.seq = seq;
    segment.objectBytes = bytes.length;
    segment.records = builder.records;
    return bytes;
  }

  #stripesThatFit(batch: Batch, recordsMax: number): SealedStripe[] {
    const stripes: SealedStripe[] = [];
    let dataBytes = 0;
    let records = 0;
    for (let at = batch.filledStripes; at < batch.stripes.length; at++) {
      const { runs } = batch.stripes[at];
      for (let i = 1; i < runs.length; i += 2) dataBytes += runs[i] * BLOCK_BYTES;
      records += runs.length / 2;
      if (dataBytes > this.#segmentDataBytes || records > recordsMax) break;
      stripes.push(batch.stripes[at]);
    }
    return stripes;
  }

  #addStripe(builder: SegmentBuilder, entry: SealedStripe): void {
    const { cache, blocksPerStripe } = this.#contents;
    for (let i = 0; i < entry.runs.length; i += 2) {
      const [first, count] = [entry.runs[i], entry.runs[i + 1]];
      const bytes = cache.sealed.bytes(entry, first, count);
      const firstBlock = entry.stripe * blocksPerStripe + first;
      if (isAllZero(bytes)) builder.addZeroes(firstBlock, count);
      else builder.addData(firstBlock, bytes);
    }
    cache.sealed.copied(entry);
  }

  // ---- commit

  /** Takes every batch that is stored, in order, into the map. */
  async #commit(): Promise<void> {
    if (this.#isCommitting) return;
    const turn = this.#contents.turn();
    for (;;) {
      const batch = this.#batches[0];
      if (this.#contents.failure || !batch) return;
      if (!isFilled(batch) || batch.underWay > 0) return;
      this.#isCommitting = true;
      for (const _ of this.#applied(batch)) if (turn.isOver) await turn.next();
      this.#isCommitting = false;
      if (this.#contents.failure) return;
      this.#committed(batch);
    }
  }

  /**
   * The map takes in the batch, record by record. Nobody sees that it has a part of it only: what the batch holds is
   * read from the cache, where it is pinned, and from `zeroes`; and a checkpoint waits.
   */
  *#applied(batch: Batch): Generator<void> {
    for (const { seq, objectBytes, records } of batch.segments) {
      yield* this.#contents.map.applySteps(seq, objectBytes, records);
    }
  }

  #committed(batch: Batch): void {
    const { cache, zeroes } = this.#contents;
    this.#batches.shift();
    this.isContinued = !batch.isLast;
    this.#committedSeq = batch.segments.at(-1)!.seq;
    for (const { objectBytes } of batch.segments) this.#storedBytes += objectBytes;
    zeroes.commit(batch.zeroes);
    for (const entry of batch.stripes) cache.committed(entry);
    cache.wake();
    batch.committed.resolve();
    this.#onCommit();
  }

  /** Nothing more is stored, and no flush is answered: all of them, and every later verb, get `error`. */
  fail(error: Error): void {
    this.stop();
    this.#uploader.stop();
    this.#contents.fail(error);
    for (const batch of this.#batches) batch.committed.reject(error);
    this.#next.reject(error);
  }
}

function newBatchPromise(): PromiseWithResolvers<void> {
  const promise = Promise.withResolvers<void>();
  promise.promise.catch(() => {}); // a batch that nobody flushed fails unheard
  return promise;
}
