/**
 * Volumes that look as if terabytes had been written: a checkpoint made by the volume's own code, over a map that is
 * filled record by record; and a log whose segments are made when they are read.
 */
import type { Bucket, ByteRange, FoundObject, PutCondition } from "../../src/bucket/bucket.ts";
import { BLOCK_BYTES, KEYS_MAX, MIB, SEGMENT_HEAD_BYTES_MAX } from "../../src/limits.ts";
import { Checkpointer } from "../../src/volume/checkpoint.ts";
import { MapPage } from "../../src/volume/map_page.ts";
import {
  INDEX_ENTRY_BYTES,
  RECORD_DATA,
  RECORD_PREFIX_BYTES,
  SEGMENT_HEADER_BYTES,
  SegmentBuilder,
  segmentKey,
  type SegmentRecord,
  seqOfKey,
} from "../../src/volume/segment.ts";
import { StripeMap } from "../../src/volume/stripe_map.ts";
import { partBytesOf, readVolume } from "../../src/volume/volume_info.ts";

/** A volume of which some stripes are mapped, each in a segment of 8 MiB. */
export interface Shape {
  volumeBytes: number;
  stripeBytes: number;
  mappedStripes: number;
  order: "in order" | "at random";
}

/** Coprime to every number of stripes here, so that multiplying by it is a permutation of them. */
const SCATTER = 40_503_011;

/** Stores the checkpoint of such a volume, which is there already, behind the claim at seq 1; returns bytes of its map in memory. */
export async function storeCheckpoint(bucket: Bucket, shape: Shape): Promise<number> {
  const { volumeBytes, stripeBytes, mappedStripes, order } = shape;
  const stripes = volumeBytes / stripeBytes;
  const blocksPerStripe = stripeBytes / BLOCK_BYTES;
  const inSegment = 8 * MIB / stripeBytes;
  const stripeAt = (n: number) => order === "in order" ? n : n * SCATTER % stripes;
  const partBytes = partBytesOf((await readVolume(bucket))!.info);
  const map = new StripeMap(blocksPerStripe);
  map.claims.add(1);
  let seq = 1;
  for (let from = 0; from < mappedStripes; from += inSegment) {
    const first = Array.from({ length: inSegment }, (_, at) => stripeAt(from + at));
    const { bytes, records } = segmentOf(first, blocksPerStripe, partBytes);
    map.apply(++seq, bytes, records);
  }
  await new Checkpointer(bucket, map, 1, null, () => Promise.resolve()).store(seq);
  return map.pages.size * new MapPage().words.byteLength;
}

/** A segment of whole stripes: how large it is, and what its index says. */
function segmentOf(stripes: number[], blockCount: number, partBytes = blockCount * BLOCK_BYTES) {
  const dataBytes = blockCount * BLOCK_BYTES;
  const storedBytes = dataBytes + (dataBytes / partBytes - 1) * RECORD_PREFIX_BYTES;
  let bytes = SEGMENT_HEADER_BYTES + stripes.length * INDEX_ENTRY_BYTES;
  const records = stripes.map((stripe): SegmentRecord => {
    const offset = bytes;
    bytes += RECORD_PREFIX_BYTES + storedBytes;
    return { kind: RECORD_DATA, firstBlock: stripe * blockCount, blockCount, offset, storedBytes };
  });
  return { bytes, records };
}

const RECORDS = 16;
const LIVE = 2;

/**
 * A bucket in memory, with segments of 16 blocks in the stripes of 4 KiB of a volume; 14 of them have been written
 * anew by others. They are made when they are read. Of segments that are stored here only the head is kept.
 */
export class SyntheticLog implements Bucket {
  readonly name = "synthetic:";
  readonly requests = { get: 0, put: 0, delete: 0, list: 0 };
  readonly #objects = new Map<string, { bytes: Uint8Array; size: number; etag: string }>();
  readonly #deleted = new Set<number>();
  readonly #data = new Uint8Array(BLOCK_BYTES).fill(7);
  #lastSeq = 1;

  /** Adds the segments 2 to count + 1, and a checkpoint that knows them. */
  async fill(count: number): Promise<void> {
    const map = new StripeMap(1);
    map.claims.add(1);
    this.#lastSeq = count + 1;
    for (let seq = 2; seq <= this.#lastSeq; seq++) {
      const { bytes, records } = segmentOf(this.#blocks(seq), 1);
      map.apply(seq, bytes, records.slice(0, LIVE));
    }
    await new Checkpointer(this, map, 1, null, () => Promise.resolve()).store(this.#lastSeq);
  }

  /** Its own, and then the next ones, which later segments have. */
  #blocks(seq: number): number[] {
    return Array.from({ length: RECORDS }, (_, at) => (seq - 2) * LIVE + at);
  }

  #segment(seq: number): Uint8Array {
    const blocks = this.#blocks(seq);
    const builder = new SegmentBuilder(new Uint8Array(segmentOf(blocks, 1).bytes), RECORDS);
    for (const block of blocks) builder.addData(block, this.#data);
    const writer = "0".repeat(32);
    return builder.finish({ seq, epoch: 1, writer, storedUpTo: seq - 1, lastOfBatch: true });
  }

  #isMade(seq: number | undefined): seq is number {
    return seq !== undefined && seq > 1 && seq <= this.#lastSeq && !this.#deleted.has(seq);
  }

  get(key: string, range?: ByteRange): Promise<FoundObject | null> {
    this.requests.get++;
    const seq = seqOfKey(key);
    const found = this.#isMade(seq)
      ? { bytes: this.#segment(seq), size: 0, etag: "made" }
      : this.#objects.get(key);
    if (!found) return Promise.resolve(null);
    const { offset, length } = range ?? { offset: 0, length: found.bytes.length };
    const bytes = found.bytes.slice(offset, offset + length);
    return later({ bytes, size: found.size || found.bytes.length, etag: found.etag });
  }

  put(key: string, bytes: Uint8Array, condition?: PutCondition) {
    this.requests.put++;
    const etag = this.#objects.get(key)?.etag;
    if (condition && ("ifAbsent" in condition ? etag : etag !== condition.ifMatch)) {
      return later({ stored: false as const });
    }
    const kept = bytes.slice(0, seqOfKey(key) === undefined ? undefined : SEGMENT_HEAD_BYTES_MAX);
    const stored = { bytes: kept, size: bytes.length, etag: `${this.requests.put}` };
    this.#objects.set(key, stored);
    return later({ stored: true as const, etag: stored.etag });
  }

  delete(keys: string[]): Promise<void> {
    this.requests.delete++;
    for (const key of keys) {
      this.#objects.delete(key);
      const seq = seqOfKey(key);
      if (seq !== undefined) this.#deleted.add(seq);
    }
    return later(undefined);
  }

  list(prefix: string, startAfter = ""): Promise<string[]> {
    this.requests.list++;
    const keys: string[] = [];
    if (prefix === "log/") {
      const after = seqOfKey(startAfter) ?? 0;
      for (let seq = after + 1; seq <= this.#lastSeq && keys.length < KEYS_MAX; seq++) {
        if (this.#isMade(seq)) keys.push(segmentKey(seq));
      }
    }
    if (keys.length > 0) return later(keys);
    const others = [...this.#objects.keys()].filter((k) => k.startsWith(prefix) && k > startAfter);
    return later(others.sort().slice(0, KEYS_MAX));
  }

  get segmentCount(): number {
    return this.#lastSeq - this.#deleted.size;
  }

  close(): void {}
}

/** In another turn, as an answer from a network is. */
function later<T>(value: T): Promise<T> {
  return new Promise((resolve) => setTimeout(resolve, 0, value));
}
