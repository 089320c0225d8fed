/** One writer: a second start is refused while the first lives, and a takeover leaves the first without a say. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { decodeChecked, encodeChecked } from "../../src/volume/checked_json.ts";
import { LEASE_KEY } from "../../src/volume/lease.ts";
import { CrashWriter } from "../support/crash_writer.ts";
import { assertHolds, configText, copyOut, Drive, runElasticDrive } from "../support/drive.ts";
import { run, runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInBothBuckets, testInS3 } from "../support/test_buckets.ts";

const WRITE_AND_FLUSH = `
drive = nbd.NBD()
drive.connect_uri(uri)
drive.pwrite(b"x" * 4096, 0)
drive.flush()
`;

async function fill(drive: Drive, scratch: Scratch): Promise<string> {
  const image = await scratch.random("image", 16);
  await run("nbdcopy", ["--flush", image, drive.uri]);
  return image;
}

/** The first is asked to store something after the second has started, and ends for it. */
async function assertFenced(first: Drive, second: Drive): Promise<void> {
  await assertRejects(() => runPython(WRITE_AND_FLUSH, [first.uri]));
  await assertEndsFenced(first, second);
}

async function assertEndsFenced(first: Drive, second: Drive): Promise<void> {
  assertEquals(await first.exit(), 3, first.stderr);
  assertMatch(first.stderr, /error: another writer has taken the volume over/);
  assertStringIncludes(first.stderr, "epoch 2");
  assertStringIncludes(second.stderr, "taken over, as asked");
}

/** The first has had nothing to store since, and finds out when it is stopped. */
async function takeOverIdle(bucket: TestBucket): Promise<void> {
  await using first = await Drive.start({ bucket, size: "16M" });
  await using second = await Drive.start({ bucket, args: ["--takeover"] });
  first.signal("SIGTERM");
  await assertEndsFenced(first, second);
  await second.stopClean();
}

async function takeOver(bucket: TestBucket): Promise<void> {
  await using scratch = await Scratch.make();
  await using first = await Drive.start({ bucket, size: "16M" });
  const image = await fill(first, scratch);
  await using second = await Drive.start({ bucket, args: ["--takeover"] });
  assertMatch(second.readyLine, /epoch 2;/);
  await assertFenced(first, second);
  await assertHolds(second, image);
  await second.stopClean();
}

/**
 * The first is stopped in the midst of writes and flushes, wakes up when the second is open, and both are written to,
 * block for block in the same places, until the first finds out.
 */
async function takeOverAtWork(bucket: TestBucket, seed: number): Promise<void> {
  await using scratch = await Scratch.make();
  const before = await scratch.hole("before", 16);
  const volume = { bucket, s3: { PREFIX: `disks/${seed}/` } };
  await using first = await Drive.start({ ...volume, size: "16M" });
  const old = new CrashWriter(first, seed, 3);
  await old.untilFlushed(10 + seed);
  first.signal("SIGSTOP");

  await using second = await Drive.start({ ...volume, args: ["--takeover"] });
  const found = scratch.file("found");
  await copyOut(second, found);
  const successor = new CrashWriter(second, seed + 1000, 7);
  first.signal("SIGCONT");
  await assertEndsFenced(first, second);
  await old.ended;
  // also what was answered after the takeover, if anything was, is among what the second has found
  await old.check(found, before);

  await successor.untilFlushed(10);
  await second.stopClean();
  await successor.ended;
  await using third = await Drive.start(volume);
  await successor.check(third.uri, found, true);
  await third.stopClean();
}

interface LeaseText {
  holder: { host: string };
  renewedAt: number;
}

/** Makes the lease there another machine's, last renewed so many seconds ago by that machine's clock. */
async function moveLease(bucket: TestBucket, secondsAgo: number, prefix = ""): Promise<void> {
  const key = prefix + LEASE_KEY;
  const lease = decodeChecked<LeaseText>(key, await bucket.read(key));
  lease.holder.host = "another-host";
  lease.renewedAt = Date.now() - secondsAgo * 1000;
  await bucket.write(key, encodeChecked(lease));
}

testInBothBuckets({
  "a second start while the first lives is refused and changes nothing": async (bucket) => {
    await using scratch = await Scratch.make();
    await using first = await Drive.start({ bucket, size: "16M" });
    const image = await fill(first, scratch);
    const before = await bucket.objects();
    const config = await scratch.write("config.ini", configText({ bucket }));
    for (const pause of [false, true]) {
      if (pause) first.signal("SIGSTOP"); // it may wake up and write, so it counts as alive
      const { code, stderr } = await runElasticDrive(["-c", config]);
      assertEquals(code, 2, stderr);
      const place = `${bucket.name} is open on ${Deno.hostname()} (pid ${first.pid}, epoch 1)`;
      assertStringIncludes(stderr, place);
      assertMatch(stderr, /last heard of \d+ s ago/);
      assertStringIncludes(stderr, "--takeover");
      assertEquals(stderr.trim().split("\n").length, 1, stderr);
      assertEquals(await bucket.objects(), before);
    }
    first.signal("SIGCONT");
    await assertHolds(first, image);
    await first.stopClean();
  },

  "--takeover fences the first: it stores nothing more, says so and exits with 3": takeOver,

  "one that was fenced and only finds out when it is stopped says so, too": takeOverIdle,

  "--takeover of a drive that is stopped with writes and flushes under way: it wakes up fenced":
    async (
      bucket,
    ) => {
      for (const seed of [1, 2, 3]) await takeOverAtWork(bucket, seed);
    },

  "of three that start at once one goes on, and the others are refused": async (bucket) => {
    const ends = await Promise.allSettled(
      [1, 2, 3].map(() => Drive.start({ bucket, size: "16M" })),
    );
    const drives = ends.flatMap((end) => end.status === "fulfilled" ? [end.value] : []);
    await using _cleanUp = disposeAll(drives);
    const refusals = ends.flatMap((end) => end.status === "rejected" ? [end.reason.message] : []);
    assertEquals([drives.length, refusals.length], [1, 2], refusals.join("\n"));
    for (const message of refusals) {
      assertMatch(message, /error: .* is (being opened|open) on .*--takeover, which fences it/);
    }
    await runPython(WRITE_AND_FLUSH, [drives[0].uri]);
    await drives[0].stopClean();
  },

  "a drive that another machine has open, or was about to, is refused until it is taken over":
    async (bucket) => {
      await using scratch = await Scratch.make();
      await using first = await Drive.start({ bucket, size: "16M" });
      const image = await fill(first, scratch);
      await first.kill();
      const config = await scratch.write("config.ini", configText({ bucket }));
      await moveLease(bucket, 50);
      const refused = await runElasticDrive(["-c", config]);
      assertEquals(refused.code, 2, refused.stderr);
      assertMatch(refused.stderr, /is open on another-host \(pid \d+, epoch 1\)/);
      assertMatch(refused.stderr, /last heard of 5\d s ago; .*silent for 70 s.*--takeover/);
      await using second = await Drive.start({ bucket, args: ["--takeover"] });
      await assertHolds(second, image);
      await second.stopClean();
    },

  "after a clean stop the volume opens anywhere, without a word about the last time": async (
    bucket,
  ) => {
    for (const epoch of [1, 2, 3]) {
      await using drive = await Drive.start({ bucket, size: "16M" });
      assertMatch(drive.readyLine, new RegExp(`epoch ${epoch};`));
      assert(!drive.stderr.includes("warning"), drive.stderr);
      await drive.stopClean();
    }
  },
});

testInS3({
  // Both wait for the same time, so they do it together.
  "another machine's drive is taken over when it is silent, and not when only the clocks differ":
    async (bucket) => {
      await Promise.all([
        (async () => {
          const volume = { bucket, size: "16M", s3: { PREFIX: "silent" } };
          await using first = await Drive.start(volume);
          await first.kill();
          await moveLease(bucket, 71, "silent/");
          await using second = await Drive.start(volume);
          assertMatch(second.stderr, /another-host .* 7\d s ago: waiting 25 s for a sign of life/);
          assertMatch(second.stderr, /another-host .* 7\d s ago: taken to be dead, and fenced/);
          await second.stopClean();
        })(),
        (async () => {
          await using scratch = await Scratch.make();
          const volume = { bucket, size: "16M", s3: { PREFIX: "clock" } };
          await using first = await Drive.start(volume);
          await moveLease(bucket, 600, "clock/");
          const config = await scratch.write("config.ini", configText(volume));
          const { code, stderr } = await runElasticDrive(["-c", config]);
          assertEquals(code, 2, stderr);
          assertMatch(stderr, /another-host .* 60\d s ago by a clock that is not ours: it lives/);
          await runPython(WRITE_AND_FLUSH, [first.uri]);
          await first.stopClean();
        })(),
      ]);
    },
});

function disposeAll(drives: Drive[]): AsyncDisposableStack {
  const stack = new AsyncDisposableStack();
  for (const drive of drives) stack.use(drive);
  return stack;
}
