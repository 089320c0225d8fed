/** The parts of a drive over a bucket in memory, with a clock turned by hand and clients that a test makes up. */
import { BucketCounts, CountingBucket } from "../../../src/bucket/counting_bucket.ts";
import { Retries } from "../../../src/bucket/retries.ts";
import { RetryingBucket } from "../../../src/bucket/retrying_bucket.ts";
import { silentLogger } from "../../../src/logger.ts";
import { RequestCounts } from "../../../src/nbd/request_counts.ts";
import type { ConnectedClient } from "../../../src/nbd/server.ts";
import type { DriveParts } from "../../../src/status/status.ts";
import type { VolumeOptions } from "../../../src/volume/volume_options.ts";
import { fixedChance, ManualClock } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { openVolume } from "../volume/open_volume.ts";

export interface TestDrive extends DriveParts {
  memory: MemoryBucket;
  clock: ManualClock;
}

export async function testDrive(
  options: Partial<VolumeOptions> = {},
  clients: ConnectedClient[] = [],
): Promise<TestDrive> {
  const clock = new ManualClock();
  const memory = new MemoryBucket();
  const bucketCounts = new BucketCounts();
  const around = { clock, chance: fixedChance(0.5), logger: silentLogger };
  const retries = new Retries(memory.name, around);
  const bucket = new RetryingBucket(new CountingBucket(memory, bucketCounts, clock), retries);
  const { volume } = await openVolume(options, { bucket, clock });
  bucket.startServing();
  return {
    version: "1.2.3",
    startedAtMs: clock.now(),
    isReadOnly: false,
    volume,
    bucket,
    bucketCounts,
    server: { clients: () => clients },
    requestCounts: new RequestCounts(clock),
    clock,
    memory,
  };
}
