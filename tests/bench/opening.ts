/** How long a cold start takes when there is a large map to read. */
import { Drive } from "../support/drive.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";
import { TIB } from "../../src/limits.ts";
import { openVolumeIn } from "./directory_volume.ts";
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
  const volume = await openVolumeIn(path, { volumeBytes: TIB, cacheStripes: 16_384 });
  const data = new Uint8Array(4096).fill(1);
  const step = Math.floor(TIB / STRIPE_BYTES / STRIPES);
  for (let n = 0; n < STRIPES; n++) await volume.write(n * step * STRIPE_BYTES, data);
  await volume.close();
}
