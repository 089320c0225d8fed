/** kill -9 while clients write: nothing that was flushed is lost, and the disk is as it was at one moment. */
import { assert, assertEquals } from "@std/assert";
import { copyOut, Drive } from "../support/drive.ts";
import { run, within } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInBothBuckets, testInDirectory } from "../support/test_buckets.ts";
import { TextLineStream } from "../support/text_lines.ts";

const CRASH_WRITER = new URL("../support/crash_writer.py", import.meta.url).pathname;
const PYTHON = "/usr/bin/python3";

interface Round {
  /** Changes between two flushes: 30 are 700 KiB or so, 1,000 a batch of three segments. */
  flushEvery: number;
  /** The kill comes at this flush, give or take what the drive does while the news travel. */
  killAtFlush: number;
  /** In stripes; a small one makes writes wait for uploads. */
  cachesize: number;
}

/** Kills the drive while it is written to; gives the last flush that was answered and the last change sent. */
async function writeUntilKilled(drive: Drive, seed: number, round: Round) {
  const args = [CRASH_WRITER, "write", drive.uri, String(seed), String(round.flushEvery)];
  const command = new Deno.Command(PYTHON, { args, stdin: "null", stdout: "piped" });
  const writer = command.spawn();
  const last = { flushed: 0, issued: 0 };
  let flushes = 0;
  for await (const line of writer.stdout.pipeThrough(new TextLineStream())) {
    const [what, number] = line.split(" ");
    last[what as keyof typeof last] = Number(number);
    if (what === "flushed" && ++flushes === round.killAtFlush) drive.signal("SIGKILL");
  }
  assert((await writer.status).success, "the writer failed");
  assertEquals(await drive.exit(), -1, drive.stderr);
  assert(flushes >= round.killAtFlush && last.issued >= last.flushed, JSON.stringify(last));
  return last;
}

/** Each round goes on with what the crash before has left. */
async function crashAgainAndAgain(bucket: TestBucket, rounds: Round[]): Promise<void> {
  await using scratch = await Scratch.make();
  const base = await scratch.hole("base", 48);
  for (const [index, round] of rounds.entries()) {
    const seed = 1000 + index;
    const server = { cachesize: round.cachesize, flushafter: index % 2 ? 0.1 : 5 };
    await using drive = await Drive.start({ bucket, size: "48M", server });
    const { flushed, issued } = await writeUntilKilled(drive, seed, round);
    await using reopened = await Drive.start({ bucket });
    const numbers = [flushed, issued].map(String);
    await run(PYTHON, [CRASH_WRITER, "check", reopened.uri, String(seed), base, ...numbers]);
    await copyOut(reopened, base);
    await reopened.stopClean();
  }
}

const round = (flushEvery: number, killAtFlush: number, cachesize = 1024): Round => ({
  flushEvery,
  killAtFlush,
  cachesize,
});

testInDirectory({
  "after kill -9 the disk is as it was at one moment, not before the last flush": (bucket) =>
    crashAgainAndAgain(bucket, [
      round(7, 150),
      round(30, 60),
      round(30, 41, 128),
      round(200, 33, 256),
      round(1000, 80, 1024),
      round(2500, 101, 512),
      round(3000, 47, 128),
      round(1, 300),
    ]),
});

testInBothBuckets({
  "kill -9 again and again loses nothing that was flushed": (bucket) =>
    crashAgainAndAgain(bucket, [round(30, 25), round(1500, 60, 256)]),

  "a drive that was killed starts again at once, without being told to": async (bucket) => {
    await using first = await Drive.start({ bucket, size: "64M" });
    await first.kill();
    await using second = await within(10, "the second start", Drive.start({ bucket }));
    assert(second.readyLine.includes("epoch 2"), second.readyLine);
    assert(!second.stderr.includes("warning"), second.stderr);
    await second.stopClean();
  },

  "kill -9 in the middle of fio: what was flushed is there, and no write is torn": async (
    bucket,
  ) => {
    const fio = [
      "--verify_state_save=0",
      "--ioengine=nbd",
      "--randseed=4711",
      "--iodepth=16",
      "--bs=16k",
      "--do_verify=0",
    ];
    const flushed = [...fio, "--name=flushed", "--rw=randwrite", "--verify=crc32c", "--size=32M"];
    // Each write is filled with its offset, so that it is there whole or, as before, all zeroes.
    const pattern = ["--verify=pattern", "--verify_pattern=%o"];
    const killed = [...fio, ...pattern, "--name=killed", "--offset=64M", "--size=64M"];
    const endless = ["--rw=randwrite", "--time_based", "--runtime=600", "--fsync=40"];

    await using drive = await Drive.start({ bucket, size: "128M", server: { cachesize: 256 } });
    await run("fio", [...flushed, `--uri=${drive.uri}`, "--end_fsync=1"]);
    const options = { args: [...killed, ...endless, `--uri=${drive.uri}`] };
    const output = { stdout: "null", stderr: "null" } as const;
    const client = new Deno.Command("fio", { ...options, ...output }).spawn();
    const before = (await bucket.objects("log/")).length;
    while ((await bucket.objects("log/")).length < before + 10);
    await drive.kill();
    assert(!(await client.status).success, "fio did not notice");

    await using reopened = await Drive.start({ bucket });
    await run("fio", [...flushed, `--uri=${reopened.uri}`, "--verify_only", "--verify_fatal=1"]);
    await assertOffsetsOrZeroes(reopened, 64 << 20);
    await reopened.stopClean();
  },
});

/** From `begin` on each 16 KiB are all zeroes, or hold their own offset again and again. */
async function assertOffsetsOrZeroes(drive: Drive, begin: number): Promise<void> {
  await using scratch = await Scratch.make();
  await copyOut(drive, scratch.file("found"));
  const found = await Deno.readFile(scratch.file("found"));
  let written = 0;
  for (let at = begin; at < found.length; at += 16384) {
    const words = new BigUint64Array(found.buffer, at, 2048);
    const expected = words[0] === 0n ? 0n : BigInt(at);
    if (expected !== 0n) written++;
    assert(words.every((word) => word === expected), `the write at ${at} is torn or misplaced`);
  }
  assert(written > 0, "nothing of what fio flushed is there");
}
