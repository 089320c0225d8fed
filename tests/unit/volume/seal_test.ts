import { assert, assertEquals } from "@std/assert";
import { BLOCK_BYTES, MIB, SEAL_STRIPES_MAX } from "../../../src/limits.ts";
import { settle } from "../../support/manual_clock.ts";
import { blocks, KIB, logKeys, openVolume, stateOf } from "./open_volume.ts";

const STRIPE_BYTES = 16 * KIB;

Deno.test("8 MiB of changes are on their way without a flush", async () => {
  const sizes = { stripeBytes: 64 * KIB, volumeBytes: 64 * MIB, cacheStripes: 512 };
  const { volume, bucket } = await openVolume(sizes);
  for (let at = 0; at < 127; at++) volume.write(at * 64 * KIB, blocks(16, 1));
  await settle();
  assertEquals(logKeys(bucket).length, 1);
  volume.write(127 * 64 * KIB, blocks(16, 1));
  await settle();
  assertEquals(logKeys(bucket).length, 2);
  assertEquals(volume.unstoredBytes, 0);
  volume.abandon();
});

Deno.test("what is written over and over is kept until it is asked for; what is written in order is not", async () => {
  const sizes = { cacheStripes: 64, segmentDataBytes: 8 * STRIPE_BYTES };
  const { volume, bucket, clock } = await openVolume(sizes);
  const writeEight = async (first: number, value: number) => {
    for (let at = 0; at < 8; at++) volume.write((first + at) * STRIPE_BYTES, blocks(4, value));
    await settle();
    return logKeys(bucket).length;
  };
  assertEquals(await writeEight(0, 1), 2, "claim, and an eighth of the cache");
  for (let value = 2; value < 9; value++) assertEquals(await writeEight(0, value), 2);
  await volume.flush();
  assertEquals([logKeys(bucket).length, volume.unstoredBytes], [3, 0]);
  assertEquals(await writeEight(0, 9), 3);
  await clock.advance(5000);
  assertEquals([logKeys(bucket).length, volume.unstoredBytes], [4, 0]);
  for (let first = 8, keys = 5; first < 40; first += 8, keys++) {
    assertEquals(await writeEight(first, 1), keys);
  }
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("who writes over and over and has all of it flushed is held back by the bucket", async () => {
  const sizes = { cacheStripes: 64, segmentDataBytes: 8 * STRIPE_BYTES, uploads: 1 };
  for (const flushes of [false, true]) {
    const { volume, bucket } = await openVolume(sizes);
    bucket.hold("put");
    let waiting: Promise<void> | undefined;
    for (let round = 0; round < 10; round++) {
      for (let at = 0; at < 8; at++) waiting ??= volume.write(at * STRIPE_BYTES, blocks(4, round));
      if (flushes) volume.flush();
      await settle();
    }
    assertEquals(await stateOf(waiting), flushes ? "pending" : "done");
    bucket.release("put");
    await waiting;
    await volume.flush();
    volume.checkInvariants();
    volume.abandon();
  }
});

Deno.test("a change is on its way after flushafter, asked for or not", async () => {
  for (const change of ["write", "trim"]) {
    const { volume, bucket, clock } = await openVolume({ flushAfterMs: 5000 });
    if (change === "write") volume.write(0, blocks(1, 1));
    else volume.trim(0, BLOCK_BYTES);
    await clock.advance(3000);
    volume.write(BLOCK_BYTES, blocks(1, 1)); // a later change does not put it off
    await clock.advance(1999);
    assertEquals(logKeys(bucket).length, 1);
    await clock.advance(1);
    assertEquals(logKeys(bucket).length, 2, change);
    volume.abandon();
  }
});

Deno.test("stripes that have something dirty are sealed before they are too many for one turn, however large the cache", async () => {
  const { volume, bucket } = await openVolume({
    cacheStripes: 5 * SEAL_STRIPES_MAX,
    volumeBytes: 2 * SEAL_STRIPES_MAX * STRIPE_BYTES,
  });
  for (let stripe = 1; stripe < SEAL_STRIPES_MAX; stripe++) {
    volume.write(stripe * STRIPE_BYTES, blocks(1, 1));
  }
  await settle();
  assertEquals(logKeys(bucket).length, 1, "the claim");
  volume.write(0, blocks(1, 1));
  await settle();
  assert(logKeys(bucket).length > 1);
  await volume.close();
});

Deno.test("runs of zeroes are sealed before they are too many for one turn", async () => {
  const { volume, bucket } = await openVolume({ volumeBytes: 2 * SEAL_STRIPES_MAX * BLOCK_BYTES });
  for (let run = 1; run < SEAL_STRIPES_MAX; run++) volume.trim(2 * run * BLOCK_BYTES, BLOCK_BYTES);
  await settle();
  assertEquals(logKeys(bucket).length, 1, "the claim");
  volume.trim(0, BLOCK_BYTES);
  await settle();
  assert(logKeys(bucket).length > 1);
  await volume.close();
});
