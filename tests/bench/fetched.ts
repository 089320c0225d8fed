/**
 * What cold reads fetch, by the size of the stripes: a disk four times the cache, read at random, one request at a time.
 * Counted, not timed, over a bucket in memory.
 */
import { BLOCK_BYTES, KIB, MIB } from "../../src/limits.ts";
import { showBytes } from "../../src/progress.ts";
import type { VolumeOptions } from "../../src/volume/volume_options.ts";
import { MemoryBucket } from "../support/memory_bucket.ts";
import { openVolumeOf } from "./directory_volume.ts";
import type { Row } from "./table.ts";

const VOLUME_BYTES = 256 * MIB;
const CACHE_BYTES = 64 * MIB;
const READS = 2048;
/** Some that goes on for so long, and then elsewhere. */
const RUN_BYTES = 256 * KIB;
const RUN_READ_BYTES = 32 * KIB;
const RUNS = 512;
const STRIPES_BYTES = [64 * KIB, 256 * KIB, MIB, 4 * MIB];

/** Bytes fetched a byte read, and GETs. */
interface Fetched {
  ratio: number;
  requests: number;
}

/** What stripes of 64 KiB fetch, if nothing is found in the cache. */
const RATIO_MAX = 16;

export async function benchFetched(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const stripeBytes of STRIPES_BYTES) {
    const { single, runs } = await measure({ stripeBytes });
    // one record, one part: as it is in volumes that older programs made
    const older = await measure({ stripeBytes, partBytes: stripeBytes });
    rows.push({
      what: `bytes fetched a byte read, cold, stripes of ${showBytes(stripeBytes)}: ` +
        "4 KiB at random; 256 KiB in order here and there",
      result: `**${single.ratio.toFixed(1)}**; ${show(runs)}; without parts ` +
        `${older.single.ratio.toFixed(1)}; ${show(older.runs)}`,
      target: `at most ${RATIO_MAX}`,
      met: single.ratio <= RATIO_MAX,
    });
  }
  return rows;
}

function show({ ratio, requests }: Fetched): string {
  return `${ratio.toFixed(1)} in ${(requests / RUNS).toFixed(1)} GETs`;
}

async function measure(shape: Pick<VolumeOptions, "stripeBytes" | "partBytes">) {
  const bucket = new MemoryBucket();
  const cacheStripes = CACHE_BYTES / shape.stripeBytes!;
  const options = {
    ...shape,
    volumeBytes: VOLUME_BYTES,
    cacheStripes,
    readaheadBytes: 16 * MIB, // as it is by default
  };
  const volume = await openVolumeOf(bucket, options);
  const data = new Uint8Array(4 * MIB).fill(1);
  for (let at = 0; at < VOLUME_BYTES; at += data.length) await volume.write(at, data);
  await volume.close();
  return {
    single: await readRuns(bucket, options, READS, BLOCK_BYTES, BLOCK_BYTES),
    runs: await readRuns(bucket, options, RUNS, RUN_BYTES, RUN_READ_BYTES),
  };
}

/** Reads on from random places, each time for `runBytes`, `readBytes` at a time. */
async function readRuns(
  bucket: MemoryBucket,
  options: Partial<VolumeOptions>,
  runs: number,
  runBytes: number,
  readBytes: number,
): Promise<Fetched> {
  const volume = await openVolumeOf(bucket, options);
  const { get } = bucket.counts;
  get.bytes = get.requests = 0;
  const target = new Uint8Array(readBytes);
  for (let run = 0; run < runs; run++) {
    const from = Math.floor(Math.random() * VOLUME_BYTES / runBytes) * runBytes;
    for (let at = from; at < from + runBytes; at += readBytes) {
      if (!volume.tryRead(at, target)) await volume.read(at, target);
    }
  }
  const { bytes, requests } = get;
  volume.abandon();
  return { ratio: bytes / (runs * runBytes), requests };
}
