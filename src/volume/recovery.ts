/**
 * Opening a volume: read the newest checkpoint, replay the log behind it, claim the next number.
 *
 * Reading ends at the first missing number, or at a segment whose epoch is below the highest seen (left behind by a
 * dead writer). A batch counts only when its last segment is there. A number that is missing, or a
 * header that fails its check, where a later header says that everything was stored, is damage
 * and not an end.
 *
 * The claim is an empty segment with the next epoch, PUT under the first free number. From then on no writer with a
 * lower epoch can complete a batch: the number it needs is taken. For that it has to stay taken: a claim is never
 * deleted, or a writer that slept for long enough would find its next number free, and acknowledge.
 */
import type { Bucket } from "../bucket/bucket.ts";
import { DamageError } from "../errors.ts";
import { DOWNLOADS_MAX, SEGMENT_HEAD_BYTES_MAX } from "../limits.ts";
import type { Logger } from "../logger.ts";
import {
  CHECKPOINT_PREFIX,
  checkpointKey,
  listAll,
  listCheckpoints,
  loadCheckpoint,
  type LoadedCheckpoint,
} from "./checkpoint.ts";
import { Limiter } from "./limiter.ts";
import {
  parseSegmentHead,
  SegmentBuilder,
  type SegmentHead,
  segmentKey,
  seqOfKey,
} from "./segment.ts";
import { StripeMap } from "./stripe_map.ts";
import { storeSegment, type Writer } from "./uploader.ts";

/** The volume as the bucket has it, claimed by this writer. */
export interface Recovered {
  map: StripeMap;
  writer: Writer;
  /** The claim: the newest segment of the log. */
  lastSeq: number;
  /** What the map was read from; the log behind it was replayed. */
  checkpoint: LoadedCheckpoint | null;
  replayed: number;
}

/**
 * Reads the volume and claims it.
 *
 * @param writerId 32 hexadecimal digits, new for every opening
 * @throws DamageError naming the key, if something that was stored is missing or not as it was written
 */
export async function recover(
  bucket: Bucket,
  blocksPerStripe: number,
  writerId: string,
  logger: Logger,
): Promise<Recovered> {
  for (;;) {
    const seen = await listCheckpoints(bucket);
    const newestSeen = seen[0] ?? 0;
    try {
      const { map, checkpoint } = await readNewestCheckpoint(bucket, seen, blocksPerStripe, logger);
      const log = new LogReader(bucket, map, checkpoint?.seq ?? 0, checkpoint?.epoch ?? 0);
      await log.readOn();
      if (log.end <= newestSeen) {
        throw new DamageError(
          `${segmentKey(log.end)}: missing, though ${
            checkpointKey(newestSeen)
          } was stored after it`,
        );
      }
      const writer = await claim(bucket, log, writerId);
      if (!await hasNewerCheckpoint(bucket, newestSeen)) {
        const replayed = log.end - 1 - (checkpoint?.seq ?? 0);
        return { map, writer, lastSeq: log.end, checkpoint, replayed };
      }
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      // the old writer may have stored a checkpoint and cleaned up while we were reading
      if (!await hasNewerCheckpoint(bucket, newestSeen)) throw error;
    }
  }
}

async function hasNewerCheckpoint(bucket: Bucket, seq: number): Promise<boolean> {
  const after = seq === 0 ? undefined : checkpointKey(seq);
  return (await bucket.list(CHECKPOINT_PREFIX, after)).length > 0;
}

/** The newest of the checkpoints `seqs` whose parts are all there and check out. */
async function readNewestCheckpoint(
  bucket: Bucket,
  seqs: number[],
  blocksPerStripe: number,
  logger: Logger,
): Promise<{ map: StripeMap; checkpoint: LoadedCheckpoint | null }> {
  for (const seq of seqs) {
    const map = new StripeMap(blocksPerStripe);
    try {
      return { map, checkpoint: await loadCheckpoint(bucket, seq, map) };
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      logger.warn(`${error.message}; trying the checkpoint before it, or the whole log`);
    }
  }
  return { map: new StripeMap(blocksPerStripe), checkpoint: null };
}

/** Applies the log to a map, from one seq on, as far as it goes. */
class LogReader {
  /** The first number not read: free, or a leftover's. */
  end: number;
  highestEpoch: number;
  readonly #bucket: Bucket;
  readonly #map: StripeMap;
  readonly #reads = new Limiter(DOWNLOADS_MAX);
  /** Segments of a batch whose last one is not read yet. */
  #unfinished: SegmentHead[] = [];

  constructor(bucket: Bucket, map: StripeMap, afterSeq: number, epoch: number) {
    this.#bucket = bucket;
    this.#map = map;
    this.end = afterSeq + 1;
    this.highestEpoch = epoch;
  }

  /** Reads and applies what has come since. */
  async readOn(): Promise<void> {
    const keys = await listAll(this.#bucket, "log/", segmentKey(this.end - 1));
    const listed = keys.map(seqOfKey).filter((seq) => seq !== undefined);
    let at = 0;
    while (at < listed.length && listed[at] === this.end) {
      let stop = at;
      while (stop < listed.length && stop - at < 256 && listed[stop] === this.end + stop - at) {
        stop++;
      }
      const heads = await this.#readHeads(listed.slice(at, stop));
      for (const head of heads) {
        if (head.epoch < this.highestEpoch) return this.#checkBehindEnd(listed.slice(at));
        this.#take(head);
        at++;
      }
    }
    await this.#checkBehindEnd(listed.slice(at));
  }

  async #readHeads(seqs: number[]): Promise<SegmentHead[]> {
    const heads: SegmentHead[] = new Array(seqs.length);
    await this.#reads.forEach(seqs.keys(), async (at) => {
      const key = segmentKey(seqs[at]);
      const found = await this.#bucket.get(key, { offset: 0, length: SEGMENT_HEAD_BYTES_MAX });
      if (!found) throw new DamageError(`${key}: was listed and is missing`);
      heads[at] = parseSegmentHead(key, found.bytes, found.size);
    });
    return heads;
  }

  #take(head: SegmentHead): void {
    this.end = head.seq + 1;
    if (head.epoch > this.highestEpoch) {
      this.highestEpoch = head.epoch;
      this.#dropUnfinished();
      if (head.records.length === 0) return void this.#map.claims.add(head.seq);
    }
    this.#unfinished.push(head);
    if (!head.lastOfBatch) return;
    for (const { seq, objectBytes, records } of this.#unfinished) {
      this.#map.apply(seq, objectBytes, records);
    }
    this.#unfinished = [];
  }

  /** A batch whose writer died before its last segment: its objects hold nothing that is live. */
  #dropUnfinished(): void {
    for (const { seq, objectBytes } of this.#unfinished) this.#map.apply(seq, objectBytes, []);
    this.#unfinished = [];
  }

  /** Our claim lies at the end: what was unfinished before it stays so. */
  claimed(seq: number): void {
    this.#dropUnfinished();
    this.#map.claims.add(seq);
    this.end = seq;
  }

  /** What lies behind the end is a dead writer's leftover, unless it says that the end was stored. */
  async #checkBehindEnd(seqs: number[]): Promise<void> {
    for (const head of await this.#readHeads(seqs)) {
      if (head.storedUpTo < this.end) continue;
      throw new DamageError(
        `${segmentKey(this.end)}: missing or replaced, though ${segmentKey(head.seq)} ` +
          `says that everything up to ${head.storedUpTo} was stored`,
      );
    }
  }
}

/** Takes the first free number for an empty segment with the next epoch. */
async function claim(bucket: Bucket, log: LogReader, writerId: string): Promise<Writer> {
  for (;;) {
    const writer = { epoch: log.highestEpoch + 1, id: writerId };
    const seq = log.end;
    const bytes = new SegmentBuilder(new Uint8Array(256), 0).finish({
      seq,
      epoch: writer.epoch,
      writer: writerId,
      storedUpTo: seq - 1,
      lastOfBatch: true,
    });
    const taken = await storeSegment(bucket, seq, bytes, writer, log.highestEpoch);
    if (!taken) {
      log.claimed(seq);
      return writer;
    }
    await log.readOn();
  }
}
