/** Puts the report together, out of what each part of a drive counts by itself. */
import process from "node:process";
import type { BucketCounts } from "../bucket/counting_bucket.ts";
import type { RetryingBucket } from "../bucket/retrying_bucket.ts";
import type { Clock } from "../clock.ts";
import type { Histogram, OperationCounts } from "../counters.ts";
import { FencedError } from "../errors.ts";
import { HEALTHY_AWAY_MS_MAX } from "../limits.ts";
import type { RequestCounts } from "../nbd/request_counts.ts";
import type { NbdServer } from "../nbd/server.ts";
import type { Volume } from "../volume/volume.ts";
import { pricesOf } from "./prices.ts";
import type { HistogramReport, OperationReport, StatusReport } from "./report.ts";

/** The parts of a drive that serves. */
export interface DriveParts {
  version: string;
  startedAtMs: number;
  isReadOnly: boolean;
  volume: Volume;
  bucket: Pick<RetryingBucket, "name" | "awayMs" | "trouble" | "retryCount">;
  bucketCounts: BucketCounts;
  server: Pick<NbdServer, "clients">;
  requestCounts: RequestCounts;
  clock: Clock;
}

/** Why the drive is not well, or null. */
export function troubleOf(
  { volume, bucket }: Pick<DriveParts, "volume" | "bucket">,
): string | null {
  if (volume.failure !== null) return volume.failure.message;
  if (bucket.awayMs <= HEALTHY_AWAY_MS_MAX) return null;
  const seconds = Math.round(bucket.awayMs / 1000);
  return `${bucket.name} has not served for ${seconds} s: ${bucket.trouble}`;
}

export function statusOf(drive: DriveParts): StatusReport {
  const { volume, bucket, bucketCounts, server, requestCounts: requests } = drive;
  const { map, ...figures } = volume.figures();
  const { user, system } = process.cpuUsage();
  return {
    version: drive.version,
    startedAtMs: drive.startedAtMs,
    nowMs: drive.clock.now(),
    trouble: troubleOf(drive),
    isFenced: volume.failure instanceof FencedError,
    volume: {
      name: bucket.name,
      uuid: volume.info.uuid,
      bytes: volume.sizeBytes,
      stripeBytes: volume.info.stripeBytes,
      epoch: volume.epoch,
      isReadOnly: drive.isReadOnly,
    },
    clients: server.clients(),
    commands: {
      read: operation(requests.read),
      write: operation(requests.write),
      flush: operation(requests.flush),
      trim: operation(requests.trim),
      write_zeroes: operation(requests.writeZeroes),
      cache: operation(requests.cache),
      block_status: operation(requests.blockStatus),
    },
    ...figures,
    s3: {
      operations: {
        get: operation(bucketCounts.get),
        put: operation(bucketCounts.put),
        head: operation(bucketCounts.head),
        list: operation(bucketCounts.list),
        delete: operation(bucketCounts.delete),
      },
      retries: bucket.retryCount,
      bytesUp: bucketCounts.put.bytes,
      bytesDown: bucketCounts.get.bytes,
      awaySeconds: bucket.awayMs / 1000,
      awayReason: bucket.trouble ?? null,
    },
    process: {
      cpuSeconds: (user + system) / 1e6,
      residentBytes: Deno.memoryUsage().rss,
    },
    map,
    prices: pricesOf(bucket.name),
  };
}

function operation({ requests, errors, bytes, latency }: OperationCounts): OperationReport {
  return { requests, errors, bytes, latency: histogram(latency) };
}

function histogram({ bounds, counts, seconds }: Histogram): HistogramReport {
  return { bounds: [...bounds], counts: [...counts], seconds };
}
