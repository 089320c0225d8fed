/** What `VolumeCheck` says of a small volume, sound and damaged (damage_test.ts says what a drive makes of it). */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import { CHECKPOINT_MS } from "../../../src/limits.ts";
import { VolumeCheck } from "../../../src/volume/check.ts";
import { LEASE_KEY } from "../../../src/volume/lease.ts";
import { segmentKey } from "../../../src/volume/segment.ts";
import { VOLUME_KEY } from "../../../src/volume/volume_info.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { blocks, hostNamed, openVolume } from "./open_volume.ts";
import { crashedVolume, SMALL, stoppedVolume } from "./small_volume.ts";

const BLOCK = 4096;

const begin = (bucket: MemoryBucket, host = hostNamed("here")) =>
  VolumeCheck.begin(bucket, host, new ManualClock());

async function check(bucket: MemoryBucket): Promise<VolumeCheck> {
  bucket.requestsMax = 200;
  const begun = await begin(bucket);
  await begun.run(() => {});
  return begun;
}

/** What is said of the copy that `harm` damages. */
async function findings(bucket: MemoryBucket, harm: (copy: MemoryBucket) => void) {
  const copy = bucket.copy();
  harm(copy);
  const before = new Map(copy.objects);
  const { findings } = await check(copy);
  assertEquals(copy.objects, before, "nothing was touched");
  return findings;
}

Deno.test("a sound volume is found sound and left as it is, after a crash and after a stop", async () => {
  const crashed = await crashedVolume();
  for (const [isStopped, made] of [crashed, await stoppedVolume(crashed)].entries()) {
    const bucket = made.copy();
    const before = new Map(bucket.objects);
    const { findings, segments, liveBytes, checkpoints, leftovers, foreign, state } = await check(
      bucket,
    );
    assertEquals(findings, []);
    assertEquals(bucket.objects, before);
    assertEquals(bucket.counts.put.requests + bucket.counts.delete.requests, 0);
    assertEquals(state!.lastSeq, isStopped ? 9 : 7);
    // one of the two blocks of the first record is covered by a newer one
    assertEquals(liveBytes, (16 + BLOCK) + (16 + BLOCK) + (16 + BLOCK));
    assertEquals(segments.objects, isStopped ? 9 : 7);
    assertEquals(checkpoints.objects, 4, "two roots, two packs");
    assertEquals(leftovers, isStopped ? { objects: 0, bytes: 0 } : { objects: 1, bytes: 100 });
    assertEquals(foreign, []);
  }
});

Deno.test("damage in any byte of any object is found, and its key named", async () => {
  const bucket = await crashedVolume();
  for (const [key, { bytes }] of bucket.objects) {
    for (let at = 0; at < bytes.length; at++) {
      const found = await findings(bucket, (copy) => copy.flipBit(key, 8 * at + at % 8));
      assert(found.some(({ what }) => what.includes(key)), `${key}, byte ${at}`);
    }
    for (const length of [0, bytes.length >> 1, bytes.length - 1]) {
      const found = await findings(bucket, (copy) => copy.cut(key, length));
      assert(found.some(({ what }) => what.includes(key)), `${key}, cut to ${length}`);
    }
  }
});

Deno.test("an object that is missing is damage if anything needs it", async () => {
  const crashed = await crashedVolume();
  const stopped = await stoppedVolume(crashed);
  const missed = async (bucket: MemoryBucket) => {
    const keys = [];
    for (const key of bucket.objects.keys()) {
      const found = await findings(bucket, (copy) => copy.objects.delete(key));
      if (found.some(({ what }) => what.includes(key))) keys.push(key);
      else assertEquals(found, []);
    }
    return keys.sort();
  };
  const log = (...seqs: number[]) => seqs.map(segmentKey);
  // the oldest claims are garbage, a root that is gone leaves its packs as leftovers, and a lease is not needed
  assertEquals(await missed(crashed), [
    ...log(2, 3, 4, 5, 6, 7),
    "map/0000000002/0000",
    "map/0000000004/0000",
    VOLUME_KEY,
  ]);
  // the older checkpoint needs the log behind it
  assertEquals(await missed(stopped), [
    ...log(2, 4, 5, 6, 7, 8, 9),
    "map/0000000004/0000",
    "map/0000000009/0000",
    VOLUME_KEY,
  ]);
});

Deno.test("what is said to be lost is what can't be read: no more and no less", async () => {
  const bucket = await stoppedVolume(await crashedVolume());
  const first = { offset: 0, length: BLOCK };
  const [flipped] = await findings(bucket, (copy) => copy.flipBit(segmentKey(2), 8 * 5000));
  assertStringIncludes(flipped.what, `${segmentKey(2)} at offset 100: record is damaged: CRC-32`);
  assertEquals(flipped.ranges, [first], "the other half is covered by a patch");
  const [missing] = await findings(bucket, (copy) => copy.objects.delete(segmentKey(7)));
  assertEquals(missing, {
    what: `${segmentKey(7)}: missing`,
    ranges: [{ offset: BLOCK, length: BLOCK }],
  });
  const head = await findings(bucket, (copy) => copy.flipBit(segmentKey(4), 0));
  assertEquals(head.map(({ ranges }) => ranges), [[]], "its records are found through the map");
  const both = await findings(bucket, (copy) => {
    copy.flipBit(segmentKey(4), 0);
    copy.flipBit(segmentKey(4), 8 * 1000);
  });
  assertEquals(both.map(({ ranges }) => ranges), [[], [{ offset: 2 * BLOCK, length: BLOCK }]]);
});

Deno.test("a volume that can't be opened is damaged, and what is in the way is named", async () => {
  const bucket = await crashedVolume();
  bucket.objects.delete(segmentKey(6));
  const { findings, state } = await check(bucket);
  assertEquals([findings.length, state], [1, undefined]);
  assertStringIncludes(findings[0].what, segmentKey(6));
  await assertRejects(() => begin(new MemoryBucket()), UsageError, "no volume");
});

Deno.test("keys of nobody's are named, and are no damage", async () => {
  const bucket = await crashedVolume();
  for (const key of ["checkpoint/", "log/notes", "readme.txt"]) await bucket.put(key, blocks(1, 1));
  const { findings, foreign } = await check(bucket);
  assertEquals([findings, foreign], [[], ["checkpoint/", "log/notes", "readme.txt"]]);
});

Deno.test("who has the volume open is told", async () => {
  const { volume, bucket } = await openVolume(SMALL, { host: hostNamed("there") });
  assertEquals((await begin(bucket)).tenancy!.state, "held");
  assertStringIncludes((await begin(bucket)).tenancy!.what, "is open on there (pid 1, epoch 1)");
  await volume.close();
  assertEquals((await begin(bucket)).tenancy!.state, "released");
  bucket.objects.delete(LEASE_KEY);
  assertEquals((await begin(bucket)).tenancy, null);
});

Deno.test("what a drive moves and deletes under the check is no damage; what it needs and lost is", async () => {
  const { volume, bucket, clock } = await openVolume(SMALL);
  const store = async (value: number) => {
    for (const block of [0, 1, 2, 3]) volume.write(block * BLOCK, blocks(1, value));
    await volume.flush();
    await clock.advance(CHECKPOINT_MS);
  };
  await store(1);
  const disturbed = await begin(bucket); // segment 2 has it all
  for (const value of [2, 3, 4]) await store(value);
  for (const seq of [1, 2, 3]) bucket.objects.delete(segmentKey(seq));
  await disturbed.run(() => {});
  assertEquals(disturbed.findings, []);
  assertEquals(disturbed.state!.lastSeq, 5);

  const damaged = await begin(bucket);
  bucket.flipBit(segmentKey(5), 8 * 200);
  await damaged.run(() => {});
  assertEquals(damaged.findings.map(({ ranges }) => ranges), [[{ offset: 0, length: 2 * BLOCK }]]);
  volume.abandon();
});
