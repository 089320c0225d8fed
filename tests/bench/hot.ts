/**
 * What the cache can serve, against nbdkit's memory plugin, a C program that does nothing but copy: both on
 * a Unix socket, by turns, and both in a session of their own, as nbdkit begins one when it goes into the background:
 * Linux shares the processors among sessions (sched(7), "The autogroup feature"), and one that fio is in as well
 * gets less.
 */
import { GIB, KIB, MIB } from "../../src/limits.ts";
import { configText, Drive, PROGRAM } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";
import { type FioJob, median, requestsPerSecond } from "./fio.ts";
import type { Row } from "./table.ts";

const ROUNDS = 5;
/** Well inside the cache; a tenth of what may be dirty before it is uploaded unasked. */
export const SET_BYTES = 12 * MIB;
const SHAPES = [
  { blockBytes: 4 * KIB, depth: 1 },
  { blockBytes: 4 * KIB, depth: 32 },
  { blockBytes: 256 * KIB, depth: 8 },
];

/** Every shape, read and written, over one connection and four. */
function jobs(preload?: string): FioJob[] {
  return SHAPES.flatMap((shape) =>
    [1, 4].flatMap((connections) =>
      (["randread", "randwrite"] as const).map((work) => ({
        ...shape,
        connections,
        work,
        preload,
        sizeBytes: SET_BYTES,
        seconds: 2,
      }))
    )
  );
}

export async function benchHot(): Promise<Row[]> {
  await using bucket = await DirectoryTestBucket.make();
  await using scratch = await Scratch.make();
  const cachesize = GIB / (64 * KIB);
  const config = configText({ bucket, size: "256M", server: { cachesize } });
  const file = await scratch.write("config.ini", config);
  await using drive = await Drive.spawn("setsid", [PROGRAM, "-c", file], scratch.path);
  const socket = scratch.file("nbdkit.sock");
  await using _nbdkit = await startNbdkit(scratch.file("nbdkit.pid"), ["-U", socket]);
  const peerUri = `nbd+unix:///?socket=${socket}`;
  for (const uri of [drive.uri, peerUri]) await fill(uri);
  const simple = await compileSimpleReplies(scratch);
  const rows: Row[] = [];
  for (const job of [...jobs(), ...jobs(simple)]) {
    const ours: number[] = [];
    const theirs: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      ours.push(await requestsPerSecond(drive.uri, job));
      theirs.push(await requestsPerSecond(peerUri, job));
    }
    const ratios = ours.map((value, round) => value / theirs[round]);
    const [least, most] = [Math.min(...ratios), Math.max(...ratios)];
    const { work, blockBytes, depth, connections } = job;
    rows.push({
      what: `${work} ${blockBytes / KIB} KiB at depth ${depth}, ${
        job.preload ? "simple" : "structured"
      } replies, ${connections === 1 ? "one connection" : `${connections} connections`}`,
      result: `**${median(ratios).toFixed(2)}** (${least.toFixed(2)} to ${most.toFixed(2)}): ` +
        `${rate(ours)}, nbdkit ${rate(theirs)}`,
      target: "at least 1.0",
      met: median(ratios) >= 1,
    });
  }
  await drive.stopClean();
  return rows;
}

function rate(perSecond: number[]): string {
  return `${Math.round(median(perSecond)).toLocaleString("en")}/s`;
}

/** What fio is preloaded with to get simple replies. */
async function compileSimpleReplies(scratch: Scratch): Promise<string> {
  const source = new URL("simple_replies.c", import.meta.url).pathname;
  const library = scratch.file("simple_replies.so");
  await run("cc", ["-shared", "-fPIC", "-O2", "-o", library, source]);
  return library;
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
  // without -f nbdkit returns when it listens, goes on in the background, and then writes its number
  await run("nbdkit", [...args, "-P", pidFile, "memory", "256M"]);
  const number = () => Deno.readTextFile(pidFile).catch(() => "");
  let pid = 0;
  while (!(pid = Number(await number()))) await new Promise((resolve) => setTimeout(resolve, 10));
  return { [Symbol.asyncDispose]: () => Promise.resolve(Deno.kill(pid, "SIGTERM")) };
}
