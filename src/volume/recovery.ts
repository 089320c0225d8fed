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
import { DOWNLOADS_MAX, REPLAY_SEGMENTS, SEGMENT_HEAD_BYTES_MAX } from "../limits.ts";
import type { Logger } from "../logger.ts";
import { listCheckpoints, loadCheckpoint, type LoadedCheckpoint } from "./checkpoint.ts";
import { checkpointKey } from "./checkpoint_format.ts";
import { listAll } from "./keys.ts";
import { releasedBefore, type Tenancy } from "./lease.ts";
import { Limiter } from "./limiter.ts";
import {
  LOG_PREFIX,
  parseSegmentHead,
  SegmentBuilder,
  type SegmentHead,
  segmentKey,
  seqOfKey,
} from "./segment.ts";
import { StripeMap } from "./stripe_map.ts";
import { storeSegment, type Writer } from "./uploader.ts";

/** The volume as the bucket has it at one moment. */
export interface VolumeState {
  map: StripeMap;
  /** The newest segment of the log; 0 if there is none. */
  lastSeq: number;
  /** Of the newest writer; 0 if there was none. */
  epoch: number;
  /** What the map was read from; the log behind it was replayed. */
  checkpoint: LoadedCheckpoint | null;
}

/** How far the reading of a volume is: bytes of the map, or segments of the log behind it. */
export type OnReading = (what: "map" | "log", done: number, all: number) => void;

/** The same, claimed by this writer: `lastSeq` is the claim. */
export interface Recovered extends VolumeState {
  writer: Writer;
  /** Segments read between checkpoint and claim. */
  replayed: number;
  /** All writers from this epoch on, up to this one, have released the volume. */
  releasedSince: number;
  /** The newest writers before this one that have claimed the volume and stored nothing, oldest first. */
  idle: string[];
}

/** What a volume is read from. */
export interface Source {
  bucket: Bucket;
  blocksPerStripe: number;
  logger: Logger;
  /** What the lease told before. */
  before?: Tenancy | null;
  onReading?: OnReading;
}

/**
 * Reads the volume and claims it.
 *
 * @param writerId 32 hexadecimal digits, new for every opening
 * @throws DamageError naming the key, if something that was stored is missing or not as it was written
 */
export function recover(source: Source, writerId: string): Promise<Recovered> {
  return undisturbed(source, async (log, checkpoint) => {
    const writer = await claim(source.bucket, log, writerId);
    const releasedSince = releasedBefore(writer.epoch, source.before);
    if (checkpoint && checkpoint.epoch < releasedSince) log.map.changeAll();
    const state = stateAt(log, checkpoint);
    const replayed = state.lastSeq - 1 - (checkpoint?.seq ?? 0);
    return { ...state, writer, replayed, releasedSince, idle: log.idle };
  });
}

/** Reads the volume and leaves it as it is, whoever has it open. Throws as `recover` does. */
export function readState(source: Source): Promise<VolumeState> {
  return undisturbed(source, (log, checkpoint) => Promise.resolve(stateAt(log, checkpoint)));
}

function stateAt(log: LogReader, checkpoint: LoadedCheckpoint | null): VolumeState {
  return { map: log.map, lastSeq: log.end - 1, epoch: log.highestEpoch, checkpoint };
}

/**
 * Reads the volume and does `act` with it; again, if a newer checkpoint has been stored before that ended: a
 * writer that still lives may have cleaned up behind that one, under our eyes.
 */
async function undisturbed<T>(
  source: Source,
  act: (log: LogReader, checkpoint: LoadedCheckpoint | null) => Promise<T>,
): Promise<T> {
  for (;;) {
    const seen = await listCheckpoints(source.bucket);
    const isNewest = async () => (await listCheckpoints(source.bucket))[0] === seen[0];
    try {
      const { log, checkpoint } = await read(source, seen);
      const result = await act(log, checkpoint);
      if (await isNewest()) return result;
    } catch (error) {
      if (!(error instanceof DamageError) || await isNewest()) throw error;
    }
  }
}

/** The newest checkpoint of `seqs` that is sound, and the log behind it. */
async function read(
  { bucket, blocksPerStripe, logger, before, onReading = () => {} }: Source,
  seqs: number[],
): Promise<{ log: LogReader; checkpoint: LoadedCheckpoint | null }> {
  const storedUpTo = before?.storedUpTo ?? 0;
  const damages: string[] = [];
  let map = new StripeMap(blocksPerStripe);
  let checkpoint: LoadedCheckpoint | null = null;
  for (const seq of seqs) {
    try {
      const onPages = (done: number, all: number) => onReading("map", done, all);
      checkpoint = await loadCheckpoint(bucket, seq, map, onPages);
      if (damages.length > 0) map.changeAll(); // only the newest is known to be left alone
      break;
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      logger.warn(`${error.message}; trying the checkpoint before it, or the whole log`);
      damages.push(error.message);
      map = new StripeMap(blocksPerStripe);
    }
  }
  try {
    const log = new LogReader(bucket, map, checkpoint, onReading);
    await log.readOn();
    if (seqs.length > 0) log.assertReaches(seqs[0], `${checkpointKey(seqs[0])} is there`);
    log.assertReaches(storedUpTo, `lease.json says that everything up to ${storedUpTo} was stored`);
    return { log, checkpoint };
  } catch (error) {
    if (!(error instanceof DamageError) || damages.length === 0) throw error;
    throw new DamageError(`${damages.join("; ")}; and the log is no help: ${error.message}`);
  }
}

/** Applies the log to a map, from one seq on, as far as it goes. */
class LogReader {
  /** The first number not read: free, or a leftover's. */
  end: number;
  highestEpoch: number;
  /** Writers whose claims are the newest that is stored, oldest first. */
  idle: string[] = [];
  readonly map: StripeMap;
  readonly #bucket: Bucket;
  readonly #onReading: OnReading;
  readonly #reads = new Limiter(DOWNLOADS_MAX);
  /** Segments of a batch whose last one is not read yet. */
  #unfinished: SegmentHead[] = [];

  /** @param checkpoint what the map was read from */
  constructor(
    bucket: Bucket,
    map: StripeMap,
    checkpoint: LoadedCheckpoint | null,
    onReading: OnReading,
  ) {
    this.#bucket = bucket;
    this.#onReading = onReading;
    this.map = map;
    this.end = (checkpoint?.seq ?? 0) + 1;
    this.highestEpoch = checkpoint?.epoch ?? 0;
  }

  /** Reads and applies what has come since. */
  async readOn(): Promise<void> {
    for (let lookedFrom = 0;; lookedFrom = this.end) {
      const gap = await this.#readToGap();
      if (!gap) return;
      // a writer that lives may have closed it between the list and the look behind it: look once more
      if (lookedFrom === this.end) throw gap;
    }
  }

  /** Reads on to the end, which is returned as damage if it was stored once. */
  async #readToGap(): Promise<DamageError | undefined> {
    const keys = await listAll(this.#bucket, LOG_PREFIX, segmentKey(this.end - 1));
    const listed = keys.map(seqOfKey).filter((seq) => seq !== undefined);
    let at = 0;
    while (at < listed.length && listed[at] === this.end) {
      let stop = at;
      while (
        stop < listed.length && stop - at < REPLAY_SEGMENTS && listed[stop] === this.end + stop - at
      ) {
        stop++;
      }
      const heads = await this.#readHeads(listed.slice(at, stop));
      for (const head of heads) {
        if (head.epoch < this.highestEpoch) return this.#damageAtEnd(listed.slice(at));
        this.#take(head);
        at++;
      }
      this.#onReading("log", at, listed.length);
    }
    return this.#damageAtEnd(listed.slice(at));
  }

  /** @throws DamageError if the log ends before `seq`, which was stored, as `witness` says */
  assertReaches(seq: number, witness: string): void {
    if (this.end > seq) return;
    throw new DamageError(`${segmentKey(this.end)}: missing or replaced, though ${witness}`);
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
      this.idle.push(head.writer);
      if (head.records.length === 0) return void this.map.claims.add(head.seq);
    }
    this.idle = [];
    this.#unfinished.push(head);
    if (!head.lastOfBatch) return;
    for (const { seq, objectBytes, records } of this.#unfinished) {
      this.map.apply(seq, objectBytes, records);
    }
    this.map.settle(Infinity);
    this.#unfinished = [];
  }

  /** A batch whose writer died before its last segment: its objects hold nothing that is live. */
  #dropUnfinished(): void {
    for (const { seq, objectBytes } of this.#unfinished) this.map.apply(seq, objectBytes, []);
    this.#unfinished = [];
  }

  /** Our claim lies at the end: what was unfinished before it stays so. */
  claimed(seq: number, epoch: number): void {
    this.#dropUnfinished();
    this.map.claims.add(seq);
    this.highestEpoch = epoch;
    this.end = seq + 1;
  }

  /** What lies behind the end is a dead writer's leftover, unless it says that the end was stored. */
  async #damageAtEnd(seqs: number[]): Promise<DamageError | undefined> {
    for (const head of await this.#readHeads(seqs)) {
      if (head.storedUpTo < this.end) continue;
      return new DamageError(
        `${segmentKey(this.end)}: missing or replaced, though ${segmentKey(head.seq)} ` +
          `says that everything up to ${head.storedUpTo} was stored`,
      );
    }
    return undefined;
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
      log.claimed(seq, writer.epoch);
      return writer;
    }
    await log.readOn();
  }
}
