/**
 * A disk made of objects: opens it, hands each verb to its file, closes it.
 *
 *   read.ts ─┐                        ┌─ zeroes.ts
 *   write.ts ┼─▶ contents.ts ─────────┼─ stripe_cache.ts
 *   trim.ts ─┘        ▲               └─ stripe_map.ts ◀── commit ── flush.ts ─▶ uploader.ts ─▶ bucket
 *                     └── fetch.ts ◀── bucket
 *
 * Everything that can go wrong for good (fencing, a bucket closed under us) ends in `#fail`: from then on
 * every verb throws, and `onFailure` is told once.
 */
import { sleep } from "../clock.ts";
import { FencedError, UsageError } from "../errors.ts";
import {
  BLOCK_BYTES,
  IDLE_SEGMENTS_MAX,
  RECLAIM_BYTES_MIN,
  SEGMENT_DATA_BYTES_MAX,
  STRIPE_BYTES_DEFAULT,
} from "../limits.ts";
import type { BlockDevice, Done, Extent, Place } from "./block_device.ts";
import { ChangeOrder } from "./change_order.ts";
import { Checkpointer } from "./checkpoint.ts";
import { CheckpointSchedule } from "./checkpoint_schedule.ts";
import { Contents } from "./contents.ts";
import { extentsOf } from "./extents.ts";
import { Fetcher } from "./fetch.ts";
import { figuresOf, type VolumeFigures } from "./figures.ts";
import { FlushPath } from "./flush.ts";
import {
  Lease,
  refuseIfHeld,
  type Reservation,
  reserve,
  type Starter,
  warnIfUnconditional,
  withdraw,
} from "./lease.ts";
import { ReadPath } from "./read.ts";
import { type Reclaimed, Reclaimer } from "./reclaim.ts";
import { recover, type Recovered } from "./recovery.ts";
import { segmentBytesFor } from "./segment.ts";
import { StripeCache } from "./stripe_cache.ts";
import { TrimPath } from "./trim.ts";
import { Uploader } from "./uploader.ts";
import { growVolume, partBytesOf, readOrCreateVolume, type VolumeInfo } from "./volume_info.ts";
import type { Surroundings, VolumeOptions } from "./volume_options.ts";
import { WritePath } from "./write.ts";
import { Zeroes } from "./zeroes.ts";

/** How far a `close` is; told at its begin and at every commit. */
export type Progress = (unstoredBytes: number) => void;

export class Volume implements BlockDevice {
  readonly sizeBytes: number;
  readonly preferredBytes: number;
  readonly info: VolumeInfo;
  /** The epoch claimed by this opening. */
  readonly epoch: number;
  /**
   * The epoch since which this machine alone has had the volume and nothing acknowledged, flushed or not, was lost: each
   * writer stored it, or its journal survived (`Journals`). A client that outlives a writer, as the kernel does,
   * may go on with the next only as long as this stays the same: else it takes for written or read what is not.
   */
  readonly unbrokenSince: number;

  readonly #contents: Contents;
  readonly #read: ReadPath;
  readonly #write: WritePath;
  readonly #trim: TrimPath;
  readonly #flush: FlushPath;
  readonly #checkpointer: Checkpointer;
  readonly #reclaimer: Reclaimer;
  readonly #claimSeq: number;
  readonly #lease: Lease;
  readonly #checkpoints: CheckpointSchedule;
  readonly #onFailure: (error: Error) => void;
  #requests = 0;
  #onProgress: Progress = () => {};

  /**
   * Opens the volume in the bucket, or creates it, and claims it for this process.
   *
   * @throws UsageError if it is open elsewhere, or has another shape than configured
   * @throws DamageError naming the key if something that was stored is missing or damaged
   */
  static async open(options: VolumeOptions, around: Surroundings): Promise<Volume> {
    const { bucket, clock, chance, logger } = around;
    const wanted = { ...options, defaultStripeBytes: STRIPE_BYTES_DEFAULT };
    const { info, etag } = await readOrCreateVolume(bucket, wanted, chance.uuid(), clock);
    const writerId = chance.uuid().replaceAll("-", "");
    const starter: Starter = { ...around, takeover: options.takeover, writerId };
    const tenancy = await refuseIfHeld(starter);
    await warnIfUnconditional(bucket, logger);
    const reservation = await reserve(starter, tenancy);
    try {
      return await Volume.#openReserved(options, around, { info, etag }, writerId, reservation);
    } catch (error) {
      // for a bucket that is away the lease runs out by itself
      await withdraw(starter, reservation).catch(() => {});
      throw error;
    }
  }

  static async #openReserved(
    options: VolumeOptions,
    around: Surroundings,
    { info, etag }: { info: VolumeInfo; etag: string },
    writerId: string,
    { etag: leaseEtag, before }: Reservation,
  ): Promise<Volume> {
    const { bucket, host, journals } = around;
    const last = before?.holder.host === host.me.host ? before : undefined;
    journals?.announce(info.uuid, writerId, last);
    const blocksPerStripe = info.stripeBytes / BLOCK_BYTES;
    const source = { ...around, blocksPerStripe, before };
    const recovered = await recover(source, writerId);
    const grown = options.volumeBytes !== undefined && options.volumeBytes > info.volumeBytes
      ? await growVolume(bucket, info, etag, options.volumeBytes)
      : info;
    const epochBefore = recovered.writer.epoch - 1;
    const inherited = journals?.inherit(info.uuid, epochBefore, recovered.idle);
    // a lease of an earlier one says nothing of who has had the volume since
    const stored = last?.epoch === epochBefore ? last.unbrokenSince : undefined;
    const since = journals ? inherited : stored;
    const volume = new Volume(options, around, grown, recovered, since);
    await volume.#lease.acquire(leaseEtag);
    if (before?.state === "gone") host.forget(before.holder);
    if (inherited === undefined) volume.#reclaimer.consider(); // else `together` does
    return volume;
  }

  private constructor(
    options: VolumeOptions,
    around: Surroundings,
    info: VolumeInfo,
    recovered: Recovered,
    unbrokenSince?: number,
  ) {
    const { bucket, clock, logger, newBuffer } = around;
    const { map, writer, lastSeq } = recovered;
    this.info = info;
    this.sizeBytes = info.volumeBytes;
    this.preferredBytes = info.stripeBytes;
    this.epoch = writer.epoch;
    this.unbrokenSince = unbrokenSince ?? writer.epoch;
    this.#claimSeq = lastSeq;
    this.#onFailure = around.onFailure;
    const { stripeBytes } = info;
    const cache = new StripeCache(options.cacheStripes, stripeBytes, options.cacheTtlMs, clock);
    const contents = new Contents(
      cache,
      new Zeroes(),
      map,
      clock,
      options.ioTimeoutMs,
      partBytesOf(info),
      options.turnMs,
    );
    const { segmentDataBytes = SEGMENT_DATA_BYTES_MAX, garbageBytesMin = RECLAIM_BYTES_MIN } =
      options;
    const batchBytesMax = contents.dirtyStripesMax * stripeBytes;
    const bufferBytes = segmentBytesFor(Math.min(segmentDataBytes, batchBytesMax));
    const uploader = new Uploader(bucket, writer, options.uploads, lastSeq, bufferBytes, newBuffer);
    const fetcher = new Fetcher(contents, bucket, () => this.#confirm());
    const flush = new FlushPath(
      contents,
      uploader,
      options.flushAfterMs,
      segmentDataBytes,
      () => this.#committed(),
      (error) => this.#fail(error),
    );
    const order = new ChangeOrder(contents, () => flush.changed(), () => flush.wantRoom());
    this.#contents = contents;
    this.#flush = flush;
    this.#read = new ReadPath(contents, fetcher, this.sizeBytes, options.readaheadBytes);
    this.#write = new WritePath(contents, fetcher, order, () => flush.changed());
    this.#trim = new TrimPath(contents, fetcher, order, this.#write);
    const pause = () => sleep(clock, 0);
    this.#checkpointer = new Checkpointer(bucket, map, writer.epoch, recovered.checkpoint, pause);
    this.#reclaimer = new Reclaimer(contents, fetcher, flush, bucket, logger, {
      garbageBytesMin,
      checkpoint: () => this.#checkpoints.store(),
      confirm: () => this.#confirm(),
      requests: () => this.#requests,
    });
    this.#checkpoints = new CheckpointSchedule(
      contents,
      flush,
      this.#checkpointer,
      this.#reclaimer,
      logger,
    );
    this.#lease = new Lease(
      around,
      writer,
      () => uploader.storedUpTo,
      { unbrokenSince: this.unbrokenSince, releasedSince: recovered.releasedSince },
      (error) => this.#fail(error),
    );
  }

  tryRead(offset: number, target: Uint8Array): boolean {
    this.#requests++;
    return this.#contents.failure === null && this.#read.tryRead(offset, target);
  }

  lend(offset: number, length: number): Uint8Array[] | undefined {
    this.#requests++;
    return this.#contents.failure === null ? this.#read.lend(offset, length) : undefined;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    this.#requests++;
    return this.#read.read(offset, target);
  }

  write(offset: number, data: Uint8Array): Done {
    this.#requests++;
    return this.#write.write(offset, data);
  }

  place(offset: number, length: number): Place | undefined {
    this.#requests++;
    return this.#write.place(offset, length);
  }

  async together(act: () => Promise<void>): Promise<void> {
    await this.#flush.together(act);
    this.#reclaimer.consider();
  }

  trim(offset: number, length: number): Done {
    this.#requests++;
    return this.#trim.trim(offset, length);
  }

  zero(offset: number, length: number): Done {
    this.#requests++;
    return this.#trim.zero(offset, length);
  }

  zeroesFast(offset: number, length: number): boolean {
    return this.#trim.zeroesFast(offset, length);
  }

  prefetch(offset: number, length: number): Done {
    this.#requests++;
    return this.#read.prefetch(offset, length);
  }

  extents(offset: number, length: number, countMax: number): Extent[] {
    this.#contents.assertAlive();
    return extentsOf(this.#contents, offset, length, countMax);
  }

  flush(): Done {
    this.#requests++;
    const done = this.#flush.flush();
    return done && this.#contents.wait(done);
  }

  /** Bytes that were written and are not in the bucket. */
  get unstoredBytes(): number {
    return this.#contents.unstoredBytes;
  }

  /** Gives back all the space that can be; see `Reclaimer`. */
  reclaim(onProgress: (doneBytes: number, allBytes: number) => void): Promise<Reclaimed> {
    return this.#reclaimer.reclaimAll(onProgress);
  }

  /** Why nothing can be done with the volume any more, or null. */
  get failure(): Error | null {
    return this.#contents.failure;
  }

  figures(): VolumeFigures {
    return figuresOf(this.#contents, this.#read, this.#flush, {
      sizeBytes: this.sizeBytes,
      checkpoints: this.#checkpoints.stored,
      reclaimedBytes: this.#reclaimer.reclaimedBytes,
    });
  }

  /**
   * Stores everything, then a checkpoint, and gives the volume back. The device must not be used from the
   * call on. Goes on for as long as the bucket is away.
   */
  async close(onProgress: Progress = () => {}): Promise<void> {
    this.#onProgress = onProgress;
    onProgress(this.unstoredBytes);
    this.#contents.assertAlive();
    await this.#stopBackground();
    // a change that waited for room may be made when room is
    do await this.#flush.flush(); while (this.#contents.hasChanges);
    await this.#checkpoints.idle();
    // who only looked leaves the checkpoint that is there; the claims of many such openings add up
    const newSegments = this.#flush.committedSeq - this.#checkpointer.newestSeq;
    if (this.#flush.committedSeq !== this.#claimSeq || newSegments > IDLE_SEGMENTS_MAX) {
      await this.#checkpoints.store();
    }
    this.#contents.assertAlive();
    await this.#lease.release();
    this.#flush.fail(new UsageError("the volume is closed"));
  }

  /** Ends without storing anything more, as a crash would, but for open timers. */
  abandon(): void {
    this.#stopBackground();
    this.#lease.stop();
    this.#flush.fail(new UsageError("the volume is closed"));
  }

  /** No reclaim begins any more, and no checkpoint before the next commit; resolves when reclaim has ended. */
  #stopBackground(): Promise<void> {
    this.#checkpoints.stop();
    return this.#reclaimer.stop();
  }

  /** Throws if an invariant of cache, map or segment table does not hold. */
  checkInvariants(): void {
    this.#contents.checkInvariants();
    this.#contents.map.checkInvariants();
    this.#contents.zeroes.pending.checkInvariants();
  }

  #committed(): void {
    this.#onProgress(this.unstoredBytes);
    this.#checkpoints.committed();
  }

  /** @throws FencedError if another writer has taken the volume over, and has the volume fail of it */
  async #confirm(): Promise<void> {
    await this.#lease.confirm().catch((error) => {
      if (error instanceof FencedError) this.#fail(error);
      throw error;
    });
  }

  #fail(error: Error): void {
    if (this.#contents.failure) return;
    this.#stopBackground();
    this.#lease.stop();
    this.#flush.fail(error);
    this.#onFailure(error);
  }
}
