/** One writer: a second start is refused while the first lives, and a takeover leaves the first without a say. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { assertHolds, configText, Drive, runElasticDrive } from "../support/drive.ts";
import { run, runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInBothBuckets } from "../support/test_buckets.ts";

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
  assertEquals(await first.exit(), 3, first.stderr);
  assertMatch(first.stderr, /error: another writer has taken the volume over/);
  assertStringIncludes(first.stderr, "epoch 2");
  assertStringIncludes(second.stderr, "taken over, as asked");
}

async function takeOver(bucket: TestBucket, isFrozen: boolean): Promise<void> {
  await using scratch = await Scratch.make();
  await using first = await Drive.start({ bucket, size: "16M" });
  const image = await fill(first, scratch);
  if (isFrozen) first.signal("SIGSTOP");
  await using second = await Drive.start({ bucket, args: ["--takeover"] });
  assertMatch(second.readyLine, /epoch 2;/);
  if (isFrozen) first.signal("SIGCONT");
  await assertFenced(first, second);
  await assertHolds(second, image);
  await run("qemu-io", ["-f", "raw", "-c", "write -P 5 0 16M", "-c", "flush", second.uri]);
  await second.stopClean();
  await using third = await Drive.start({ bucket });
  await run("qemu-io", ["-f", "raw", "-c", "read -P 5 0 16M", third.uri]);
  await third.stopClean();
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

  "--takeover fences the first: it stores nothing more, says so and exits with 3": (bucket) =>
    takeOver(bucket, false),

  "--takeover fences one that was only paused": (bucket) => takeOver(bucket, true),

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
