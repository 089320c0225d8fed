/**
 * What the cache can serve, against nbdkit's memory plugin, a C program that does nothing but copy: both on
 * a Unix socket, by turns.
 */
import { GIB, KIB, MIB } from "../../src/limits.ts";
import { Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";
import { type FioJob, median, requestsPerSecond } from "./fio.ts";
import type { Row } from "./table.ts";

const ROUNDS = 5;
/** Well inside the cache; a tenth of what may be dirty before it is uploaded unasked. */
export const SET_BYTES = 12 * MIB;
const JOBS: FioJob[] = [
  { work: "randread", blockBytes: 4 * KIB, depth: 32 },
  { work: "randwrite", blockBytes: 4 * KIB, depth: 32 },
  { work: "randread", blockBytes: 256 * KIB, depth: 8 },
  { work: "randwrite", blockBytes: 256 * KIB, depth: 8 },
].map((job) => ({ ...job, sizeBytes: SET_BYTES, seconds: 3 }) as FioJob);

export async function benchHot(): Promise<Row[]> {
  await using bucket = await DirectoryTestBucket.make();
  await using scratch = await Scratch.make();
  const cachesize = GIB / (64 * KIB);
  await using drive = await Drive.start({ bucket, size: "256M", server: { cachesize } });
  const socket = scratch.file("nbdkit.sock");
  await using _nbdkit = await startNbdkit(scratch.file("nbdkit.pid"), ["-U", socket]);
  const peerUri = `nbd+unix:///?socket=${socket}`;
  for (const uri of [drive.uri, peerUri]) await fill(uri);
  const rows: Row[] = [];
  for (const job of JOBS) {
    const ours: number[] = [];
    const theirs: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      ours.push(await requestsPerSecond(drive.uri, job));
      theirs.push(await requestsPerSecond(peerUri, job));
    }
    const ratios = ours.map((value, round) => value / theirs[round]);
    const [least, most] = [Math.min(...ratios), Math.max(...ratios)];
    rows.push({
      what: `${job.work} ${job.blockBytes / KIB} KiB at depth ${job.depth}, cached`,
      result: `${Math.round(median(ours))} requests/s, nbdkit-memory ${
        Math.round(median(theirs))
      }: **${median(ratios).toFixed(2)}** times (${least.toFixed(2)} to ${most.toFixed(2)})`,
      target: "at least 1.0",
      met: median(ratios) >= 1,
    });
  }
  await drive.stopClean();
  return rows;
}

/** Writes the part of the device that is worked on. */
export async function fill(uri: string): Promise<void> {
  await run("fio", [
    "--name=fill",
    "--ioengine=nbd",
    `--uri=${uri}`,
    "--rw=write",
    "--bs=256k",
    "--iodepth=8",
    `--size=${SET_BYTES}`,
  ]);
}

/** nbdkit's memory plugin, listening where the arguments say. */
export async function startNbdkit(pidFile: string, args: string[]): Promise<AsyncDisposable> {
  // without -f nbdkit returns when it listens, and goes on in the background
  await run("nbdkit", [...args, "-P", pidFile, "memory", "256M"]);
  const pid = Number(await Deno.readTextFile(pidFile));
  return { [Symbol.asyncDispose]: () => Promise.resolve(Deno.kill(pid, "SIGTERM")) };
}
