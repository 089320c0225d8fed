/** fio's NBD engine: the same work for a drive and for its peer. */
import { run } from "../support/programs.ts";

export interface FioJob {
  /** fio's `rw`. */
  work: "randread" | "randwrite";
  blockBytes: number;
  /** Of each connection. */
  depth: number;
  connections?: number;
  /** A library for fio to load before its own. */
  preload?: string;
  /** The part of the device that is worked on. */
  sizeBytes: number;
  seconds: number;
}

/** Requests a second, over all connections. */
export async function requestsPerSecond(uri: string, job: FioJob): Promise<number> {
  const env: Record<string, string> = job.preload ? { LD_PRELOAD: job.preload } : {};
  const printed = await run("fio", [
    "--name=bench",
    "--ioengine=nbd",
    `--uri=${uri}`,
    `--rw=${job.work}`,
    `--bs=${job.blockBytes}`,
    `--iodepth=${job.depth}`,
    `--size=${job.sizeBytes}`,
    `--numjobs=${job.connections ?? 1}`,
    "--group_reporting",
    "--time_based",
    "--ramp_time=1",
    `--runtime=${job.seconds}`,
    "--output-format=json",
  ], { env });
  // fio's nbd engine talks before the JSON begins
  const { jobs: [{ read, write }] } = JSON.parse(printed.slice(printed.indexOf("\n{")));
  return read.iops + write.iops;
}

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** What a work came to. */
export interface Done {
  bytes: number;
  /** Reads and writes; NaN if nobody counted. */
  requests: number;
  /** From the first request to the last answer, of a final flush too. */
  seconds: number;
  /** Of a read, or of a write if there are none; NaN if nobody measured. */
  p50Ms: number;
  p99Ms: number;
}

/**
 * Runs fio's NBD engine with more of its options, as `rw=write`. With `fsync=N` the times are those of a write and of
 * a flush, added up: until what was written is durable, whichever of them brings that about.
 */
export async function runFio(uri: string, options: string[], deadlineS?: number): Promise<Done> {
  const printed = await run("fio", [
    "--name=bench",
    "--thread",
    "--ioengine=nbd",
    `--uri=${uri}`,
    "--percentile_list=50:99",
    "--output-format=json",
    ...options.map((option) => `--${option}`),
  ], { deadlineS });
  const { jobs: [{ read, write, sync, job_runtime: ms, error }] } = JSON.parse(
    printed.slice(printed.indexOf("\n{")),
  );
  if (error !== 0) throw new Error(`fio ended with error ${error}:\n${printed}`);
  const hasFlushes = options.some((option) => option.startsWith("fsync="));
  const parts = hasFlushes
    ? [write.clat_ns, sync.lat_ns]
    : [(read.total_ios > 0 ? read : write).clat_ns];
  const at = (percentile: string) =>
    parts.reduce((sum, times) => sum + (times.percentile?.[percentile] ?? 0) / 1e6, 0);
  return {
    bytes: read.io_bytes + write.io_bytes,
    requests: read.total_ios + write.total_ios,
    seconds: ms / 1000,
    p50Ms: at("50.000000"),
    p99Ms: at("99.000000"),
  };
}
