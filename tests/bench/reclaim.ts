/** What overwriting leaves behind, and what clients notice of its being cleaned up. */
import { GIB, KIB, MIB } from "../../src/limits.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";
import { openVolumeIn } from "./directory_volume.ts";
import { median } from "./fio.ts";
import type { Row } from "./table.ts";

const VOLUME_BYTES = GIB;
const TIMES = 20;
const WRITE_BYTES = 64 * KIB;
/** Quiet is when nothing was stored or deleted for so long. */
const QUIET_MS = 15_000;
const PAIRS = 5;
const SECONDS = 20;

export async function benchReclaim(): Promise<Row[]> {
  await using bucket = await DirectoryTestBucket.make();
  const sizes = await overwrite(bucket);
  const ratios = await slowdown(bucket);
  const settled = sizes.settled / VOLUME_BYTES;
  const slower = median(ratios);
  return [{
    what: `1 GiB overwritten ${TIMES} times at random: bytes stored to bytes live`,
    result: `**${settled.toFixed(2)}** once it has settled, ${
      (sizes.greatest / VOLUME_BYTES).toFixed(2)
    } at most meanwhile, directory bucket`,
    target: "under 1.6",
    met: settled < 1.6,
  }, {
    what: "random writes of 64 KiB while reclaim runs, to those without it",
    result: `**${slower.toFixed(2)}** (${Math.min(...ratios).toFixed(2)} to ${
      Math.max(...ratios).toFixed(2)
    })`,
    target: "at least 0.9",
    met: slower >= 0.9,
  }];
}

/** Every 4 KiB of the volume written once, then as much again at random, so many times. */
async function overwrite(bucket: DirectoryTestBucket) {
  const volume = await openVolumeIn(bucket.path, { volumeBytes: VOLUME_BYTES });
  const data = crypto.getRandomValues(new Uint8Array(WRITE_BYTES));
  for (let at = 0; at < VOLUME_BYTES; at += WRITE_BYTES) await volume.write(at, data);
  await volume.flush();
  let greatest = 0;
  for (let time = 0; time < TIMES; time++) {
    for (let n = 0; n < VOLUME_BYTES / WRITE_BYTES; n++) await writeAtRandom(volume, data);
    greatest = Math.max(greatest, await storedBytes(bucket));
  }
  await volume.flush();
  let settled = await storedBytes(bucket);
  for (let before = -1; before !== settled;) {
    before = settled;
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    settled = await storedBytes(bucket);
  }
  await volume.close();
  return { greatest, settled };
}

async function writeAtRandom(volume: Volume, data: Uint8Array): Promise<void> {
  const places = (VOLUME_BYTES - WRITE_BYTES) / (4 * KIB);
  await volume.write(Math.floor(Math.random() * places) * 4 * KIB, data);
}

/** Writes for some seconds without reclaim, and for as long with it: the same garbage before both. */
async function slowdown(bucket: DirectoryTestBucket): Promise<number[]> {
  const data = crypto.getRandomValues(new Uint8Array(WRITE_BYTES));
  const perSecond = async (garbageBytesMin: number) => {
    const volume = await openVolumeIn(bucket.path, { garbageBytesMin });
    const startedAt = performance.now();
    let bytes = 0;
    while (performance.now() - startedAt < SECONDS * 1000) {
      await writeAtRandom(volume, data);
      bytes += data.length;
    }
    await volume.flush();
    const rate = bytes / (performance.now() - startedAt);
    await volume.close();
    return rate;
  };
  await perSecond(Infinity); // so that there is garbage
  const ratios: number[] = [];
  for (let pair = 0; pair < PAIRS; pair++) {
    const without = await perSecond(Infinity);
    ratios.push(await perSecond(32 * MIB) / without);
  }
  return ratios;
}

async function storedBytes(bucket: DirectoryTestBucket): Promise<number> {
  return (await bucket.objects("log/")).reduce((sum, { size }) => sum + size, 0);
}
