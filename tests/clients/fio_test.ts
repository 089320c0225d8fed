/** fio puts a checksum in every block it writes and looks at all of them again: at once, and after a restart. */
import { assertSurvivesRestart, Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { testInBothBuckets } from "../support/test_buckets.ts";

/** 32 MiB, so that most of what is read comes from the bucket. */
const SMALL_CACHE = { cachesize: 512 };
/** The same seed for writing and for looking again: it decides which block was written when. */
const VERIFY = [
  "--verify_state_save=0",
  "--verify=crc32c",
  "--do_verify=1",
  "--verify_fatal=1",
  "--randseed=20070711",
];

const RANDOM = job("random", "randwrite", "0", "24M", ["--bs=4k", "--iodepth=32", "--fsync=64"]);
const SEQUENTIAL = job("sequential", "write", "32M", "96M", [
  ...["--bs=256k", "--iodepth=8", "--fsync=32"],
]);
/** Most of these begin or end within a block. */
const ODD_SIZES = job("odd-sizes", "randwrite", "128M", "32M", [
  ...["--bsrange=512-96k", "--blockalign=512", "--iodepth=16", "--fsync=100"],
]);
/** Each piece is trimmed and then written. */
const TRIMMED = job("trimmed", "randtrimwrite", "192M", "32M", ["--bs=16k", "--iodepth=16"]);

/** Four jobs, each in a part of its own; most requests begin or end within a block. */
const FOUR_JOBS = job("four-jobs", "randwrite", "0", "8M", [
  ...["--numjobs=4", "--offset_increment=64M", "--bssplit=512/10:4k/50:12k/20:64k/15:512k/5"],
  ...["--blockalign=512", "--iodepth=16", "--fsync=50"],
]);

function job(name: string, rw: string, offset: string, size: string, more: string[]): string[] {
  return [`--name=${name}`, `--rw=${rw}`, `--offset=${offset}`, `--size=${size}`, ...more];
}

/** Runs jobs at once, each on a connection of its own. */
async function fio(drive: Drive, jobs: string[][], more: string[] = []): Promise<void> {
  const inEach = ["--ioengine=nbd", `--uri=${drive.uri}`, ...VERIFY, ...more];
  const withOptions = jobs.map(([name, ...options]) => [name, ...inEach, ...options]);
  await run("fio", ["--output-format=terse", ...withOptions.flat()]);
}

function story(jobs: string[][]) {
  return async (bucket: Parameters<typeof Drive.start>[0]["bucket"]) => {
    await using drive = await Drive.start({ bucket, size: "256M", server: SMALL_CACHE });
    await fio(drive, jobs);
    await assertSurvivesRestart(drive, bucket, undefined, async (reopened) => {
      await fio(reopened, jobs, ["--verify_only"]);
    });
  };
}

testInBothBuckets({
  "four jobs that mix sizes from 512 bytes to 512 KiB verify": story([FOUR_JOBS]),
  "random writes with flushes verify": story([RANDOM]),
  "sequential writes with flushes verify": story([SEQUENTIAL]),
  "writes of odd sizes at odd places verify": story([ODD_SIZES]),
  "writes among trims verify": story([TRIMMED]),
  "all of that at once, over four connections, verifies": story([
    RANDOM,
    SEQUENTIAL,
    ODD_SIZES,
    TRIMMED,
  ]),
});
