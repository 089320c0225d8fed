/** A map and its checkpoints in a bucket in memory, without a volume around them. */
import { MAP_PAGE_STRIPES } from "../../../src/limits.ts";
import { Checkpointer, loadCheckpoint } from "../../../src/volume/checkpoint.ts";
import { RECORD_DATA, RECORD_ZEROES, type SegmentRecord } from "../../../src/volume/segment.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";

export const BLOCKS = 4;

export const noPause = () => Promise.resolve();

/** A record of `count` blocks of the stripe from its block `first` on. */
export function data(stripe: number, first = 0, count = BLOCKS): SegmentRecord {
  const storedBytes = count * 4096;
  const firstBlock = stripe * BLOCKS + first;
  return {
    kind: RECORD_DATA,
    firstBlock,
    blockCount: count,
    offset: 100 + stripe % 9000,
    storedBytes,
  };
}

export function zeroes(firstBlock: number, blockCount: number): SegmentRecord {
  return { kind: RECORD_ZEROES, firstBlock, blockCount, offset: 0, storedBytes: 0 };
}

export async function load(bucket: MemoryBucket, seq: number) {
  const map = new StripeMap(BLOCKS);
  const checkpoint = await loadCheckpoint(bucket, seq, map);
  map.checkInvariants();
  return { map, checkpoint };
}

export function packKeys(bucket: MemoryBucket): string[] {
  return [...bucket.objects.keys()].filter((key) => key.startsWith("map/")).sort();
}

/** A map with stripes on two pages, and what stores its checkpoints. */
export function mapAndCheckpointer() {
  const bucket = new MemoryBucket();
  const map = new StripeMap(BLOCKS);
  map.apply(1, 100_000, [data(0), data(1), data(MAP_PAGE_STRIPES)]);
  return { bucket, map, checkpointer: new Checkpointer(bucket, map, 3, null, noPause) };
}
