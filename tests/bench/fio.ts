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
