/** A volume in this process over a directory bucket, for what is measured below the wire. */
import type { Bucket } from "../../src/bucket/bucket.ts";
import { DirectoryBucket } from "../../src/bucket/directory_bucket.ts";
import { systemChance, systemClock } from "../../src/clock.ts";
import { silentLogger } from "../../src/logger.ts";
import { Volume } from "../../src/volume/volume.ts";
import type { VolumeOptions } from "../../src/volume/volume_options.ts";

const AROUND = { clock: systemClock, chance: systemChance, logger: silentLogger };
const HOST = { me: { host: "bench", pid: 0, trace: "" }, isGone: () => true, forget() {} };

export async function openVolumeIn(path: string, options: Partial<VolumeOptions>): Promise<Volume> {
  return await openVolumeOf(await DirectoryBucket.open(path, AROUND), options);
}

/** The same over any bucket. */
export async function openVolumeOf(
  bucket: Bucket,
  options: Partial<VolumeOptions>,
): Promise<Volume> {
  return await Volume.open({
    stripeBytes: 65_536,
    cacheStripes: 1024,
    cacheTtlMs: 0,
    uploads: 8,
    readaheadBytes: 0,
    flushAfterMs: 5000,
    takeover: false,
    ...options,
  }, {
    ...AROUND,
    bucket,
    host: HOST,
    onFailure: (error) => {
      throw error;
    },
  });
}
