/**
 * Stores segments: numbers them, PUTs several at a time, and knows up to which seq all are stored. One more is filled and
 * made ready meanwhile, so that a PUT begins as soon as another has ended.
 *
 * Every PUT is conditional. A refusal (412) on one's own PUT has three readings, and the object that is there
 * tells which (`storeSegment`). That, and nothing else, is what keeps two writers apart.
 */
import type { Bucket, FoundObject } from "../bucket/bucket.ts";
import { FencedError } from "../errors.ts";
import { SEGMENT_HEAD_BYTES_MAX, SEGMENTS_UNSTORED_MAX, SEQ_MAX } from "../limits.ts";
import { parseSegmentHead, SEGMENT_BYTES_MAX, type SegmentHead, segmentKey } from "./segment.ts";

/** Who writes: the epoch claimed, and an identity of 32 hexadecimal digits made for this opening. */
export interface Writer {
  epoch: number;
  id: string;
}

/** The segment at `seq` is another writer's, and not a leftover. */
export interface Taken {
  by: SegmentHead;
}

/**
 * Stores a segment under its seq if the place is free, or holds a leftover of a dead writer, which is
 * one with an epoch below `leftoverBelow`.
 *
 * A leftover is replaced with If-Match and never deleted: between look and delete a third writer may have claimed the
 * place. A lost answer is found out by the next try, which sees the own writer's id there.
 *
 * @returns undefined when it is stored, or the segment that has the place
 * @throws DamageError if what is there can't be read
 */
export async function storeSegment(
  bucket: Bucket,
  seq: number,
  bytes: Uint8Array,
  writer: Writer,
  leftoverBelow: number,
): Promise<Taken | undefined> {
  const key = segmentKey(seq);
  for (let there: FoundObject | null = null;;) {
    const condition = there === null ? { ifAbsent: true as const } : { ifMatch: there.etag };
    if ((await bucket.put(key, bytes, condition)).stored) return undefined;
    there = await bucket.get(key, { offset: 0, length: SEGMENT_HEAD_BYTES_MAX });
    if (there === null) continue;
    const head = parseSegmentHead(key, there.bytes, there.size);
    if (head.writer === writer.id) return undefined;
    if (head.epoch >= leftoverBelow) return { by: head };
  }
}

export class Uploader {
  readonly #bucket: Bucket;
  readonly #writer: Writer;
  readonly #segmentBytesMax: number;
  readonly #newBuffer: (bytes: number) => Uint8Array;
  /** While there is none, all other PUTs are under way and the segment that was numbered last waits for one to end. */
  readonly #freeBuffers: (Uint8Array | null)[];
  /** Lets that segment go. */
  #begin: (() => void) | null = null;
  readonly #stored = new Set<number>();
  #nextSeq: number;
  #storedUpTo: number;

  /**
   * @param uploads PUTs at a time; each has a buffer, made when first used, as has the segment that is next
   * @param lastSeq the newest segment of the log, which is stored
   * @param segmentBytesMax size of the buffers; less than SEGMENT_BYTES_MAX will do where no batch is so large
   * @param newBuffer makes them
   */
  constructor(
    bucket: Bucket,
    writer: Writer,
    uploads: number,
    lastSeq: number,
    segmentBytesMax = SEGMENT_BYTES_MAX,
    newBuffer: (bytes: number) => Uint8Array = (bytes) => new Uint8Array(bytes),
  ) {
    this.#segmentBytesMax = segmentBytesMax;
    this.#newBuffer = newBuffer;
    this.#bucket = bucket;
    this.#writer = writer;
    this.#freeBuffers = new Array(uploads + 1).fill(null);
    this.#nextSeq = lastSeq + 1;
    this.#storedUpTo = lastSeq;
  }

  get writer(): Writer {
    return this.#writer;
  }

  /** The seq up to which every segment is known to be stored. */
  get storedUpTo(): number {
    return this.#storedUpTo;
  }

  /** True if a segment can be filled now. */
  get hasRoom(): boolean {
    return this.#freeBuffers.length > 0 &&
      this.#nextSeq - this.#storedUpTo <= SEGMENTS_UNSTORED_MAX;
  }

  /** True if the PUT of a segment that is filled now begins at once. */
  get hasSlot(): boolean {
    return this.hasRoom && this.#freeBuffers.length > 1;
  }

  /**
   * Numbers a segment, has it filled in this turn, and stores it when its turn comes.
   *
   * @param fill gets the seq and a buffer; returns the segment, a part of the buffer
   * @throws FencedError if a writer with a higher epoch has the place
   */
  async store(fill: (seq: number, buffer: Uint8Array) => Uint8Array): Promise<void> {
    const buffer = this.#freeBuffers.pop() ?? this.#newBuffer(this.#segmentBytesMax);
    const seq = this.#nextSeq++;
    if (seq > SEQ_MAX) throw new Error(`the log is full: ${SEQ_MAX} segments`);
    const bytes = fill(seq, buffer);
    await Promise.all([this.#bucket.prepare?.(bytes), this.#slot()]);
    const { epoch } = this.#writer;
    const taken = await storeSegment(this.#bucket, seq, bytes, this.#writer, epoch);
    if (taken) {
      throw new FencedError(
        `another writer has taken the volume over: ${
          segmentKey(seq)
        } has epoch ${taken.by.epoch}, ` +
          `ours is ${epoch}; nothing more is stored or acknowledged`,
      );
    }
    this.#freeBuffers.push(buffer);
    this.#begin?.();
    this.#begin = null;
    this.#stored.add(seq);
    while (this.#stored.delete(this.#storedUpTo + 1)) this.#storedUpTo++;
  }

  /** A segment that waits for a PUT to end is not stored any more. */
  stop(): void {
    this.#begin = null;
  }

  /** Resolves when the PUT may begin of the segment that has got its buffer. */
  #slot(): Promise<void> | undefined {
    if (this.#freeBuffers.length > 0) return undefined;
    return new Promise((resolve) => this.#begin = resolve);
  }
}
