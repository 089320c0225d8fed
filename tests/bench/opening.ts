/** How long a cold start takes when there is a large map to read. */
import { silentLogger } from "../../src/logger.ts";
import { systemChance, systemClock } from "../../src/clock.ts";
import { DirectoryBucket } from "../../src/bucket/directory_bucket.ts";
import { Volume } from "../../src/volume/volume.ts";
import { Drive } from "../support/drive.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";
import { RECLAIM_BYTES_MIN, TIB } from "../../src/limits.ts";
import { median } from "./fio.ts";
import type { Row } from "./table.ts";

const STRIPES = 100_000;
const STRIPE_BYTES = 65_536;
const ROUNDS = 5;

export async function benchOpening(): Promise<Row[]> {
  await using bucket = await DirectoryTestBucket.make();
  await scatterStripes(bucket.path);
  const seconds: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const startedAt = performance.now();
    await using drive = await Drive.start({ bucket });
    seconds.push((performance.now() - startedAt) / 1000);
    await drive.stopClean();
  }
  const value = median(seconds);
  return [{
    what: "1 TiB, 100,000 stripes mapped at random, from start to ready",
    result: `**${value.toFixed(2)} s** (${Math.min(...seconds).toFixed(2)} to ${
      Math.max(...seconds).toFixed(2)
    }), directory bucket`,
    target: "under 3 s",
    met: value < 3,
  }];
}

/** One block in each of so many stripes all over a TiB: every page of the map has some. */
async function scatterStripes(path: string): Promise<void> {
  const around = { clock: systemClock, chance: systemChance, logger: silentLogger };
  const bucket = await DirectoryBucket.open(path, around);
  const volume = await Volume.open({
    stripeBytes: STRIPE_BYTES,
    volumeBytes: TIB,
    cacheStripes: 16_384,
    cacheTtlMs: 0,
    uploads: 4,
    readaheadBytes: 0,
    flushAfterMs: 5000,
    garbageBytesMin: RECLAIM_BYTES_MIN,
    takeover: false,
  }, {
    ...around,
    bucket,
    host: { me: { host: "bench", pid: 0, trace: "" }, isGone: () => true, forget() {} },
    onFailure: (error) => {
      throw error;
    },
  });
  const data = new Uint8Array(4096).fill(1);
  const step = Math.floor(TIB / STRIPE_BYTES / STRIPES);
  for (let n = 0; n < STRIPES; n++) await volume.write(n * step * STRIPE_BYTES, data);
  await volume.close();
  bucket.close();
}
