import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FencedError, TimeoutError } from "../../../src/errors.ts";
import { BLOCK_BYTES, MIB } from "../../../src/limits.ts";
import { segmentKey } from "../../../src/volume/segment.ts";
import { settle } from "../../support/manual_clock.ts";
import type { MemoryBucket } from "../../support/memory_bucket.ts";
import {
  blocks,
  firstBytes,
  KIB,
  logKeys,
  openVolume,
  reopenAfterCrash,
  stateOf,
} from "./open_volume.ts";

const STRIPE_BYTES = 16 * KIB;

Deno.test("a flush is answered only when its bytes are stored", async () => {
  const { volume, bucket } = await openVolume();
  bucket.hold("put");
  volume.write(0, blocks(1, 1));
  const flushed = volume.flush();
  await bucket.untilHeld(1);
  assertEquals(await stateOf(flushed), "pending");
  const before = await openVolume({}, { bucket: bucket.copy() });
  assertEquals(await firstBytes(before.volume, 0, 1), [0]);
  bucket.release("put");
  await flushed;
  const after = await openVolume({}, { bucket: bucket.copy() });
  assertEquals(await firstBytes(after.volume, 0, 1), [1]);
  for (const { volume: each } of [before, after]) each.abandon();
  volume.abandon();
});

Deno.test("a flush with nothing to store is answered at once", async () => {
  const { volume } = await openVolume();
  assertEquals(volume.flush(), undefined);
  volume.write(0, blocks(1, 1));
  await volume.flush();
  assertEquals(volume.flush(), undefined);
  volume.abandon();
});

Deno.test("a flush with nothing dirty waits for what is on its way", async () => {
  const { volume, bucket } = await openVolume();
  bucket.hold("put");
  volume.write(0, blocks(1, 1));
  const first = volume.flush();
  await bucket.untilHeld(1);
  const second = volume.flush();
  assertEquals([await stateOf(first), await stateOf(second)], ["pending", "pending"]);
  bucket.release("put");
  await Promise.all([first, second]);
  assertEquals(logKeys(bucket).length, 2, "one claim, one batch");
  volume.abandon();
});

Deno.test("flushes that arrive together share one PUT", async () => {
  const { volume, bucket } = await openVolume();
  const flushes = Array.from({ length: 10 }, (_, at) => {
    volume.write(at * BLOCK_BYTES, blocks(1, 1));
    return volume.flush();
  });
  await Promise.all(flushes);
  assertEquals(logKeys(bucket).length, 2);
  volume.abandon();
});

Deno.test("flushes that come while every upload slot is taken share the next PUT", async () => {
  const { volume, bucket } = await openVolume({ uploads: 1 });
  bucket.hold("put");
  const flushes: (Promise<void> | undefined)[] = [];
  for (let at = 0; at < 6; at++) {
    volume.write(at * BLOCK_BYTES, blocks(1, 1));
    flushes.push(volume.flush());
    await settle();
  }
  bucket.release("put");
  await Promise.all(flushes);
  assertEquals(logKeys(bucket).length, 3, "claim, the first, all others");
  volume.abandon();
});

Deno.test("batches whose PUTs end out of order are committed, and flushes answered, in order", async () => {
  const opened = await openVolume();
  const { volume, bucket } = opened;
  bucket.hold("put");
  const flushes: (Promise<void> | undefined)[] = [];
  for (let at = 0; at < 3; at++) {
    volume.write(0, blocks(1, at + 1));
    flushes.push(volume.flush());
    await bucket.untilHeld(at + 1);
  }
  const states = () => Promise.all(flushes.map(stateOf));
  bucket.held[2].release();
  bucket.held[1].release();
  assertEquals(await states(), ["pending", "pending", "pending"]);
  const crashed = await openVolume({}, { bucket: bucket.copy() });
  assertEquals(await firstBytes(crashed.volume, 0, 1), [0], "the log ends before its first gap");
  crashed.volume.abandon();
  bucket.held[0].release();
  assertEquals(await states(), ["done", "done", "done"]);
  bucket.release("put");
  const { volume: next } = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(next, 0, 1), [3]);
  next.abandon();
});

Deno.test("a write during a flush does not wait, and is not part of it", async () => {
  const { volume, bucket } = await openVolume();
  bucket.hold("put");
  volume.write(0, blocks(4, 1));
  const flushed = volume.flush();
  await bucket.untilHeld(1);
  assertEquals(volume.write(0, blocks(2, 2)), undefined);
  assertEquals(await firstBytes(volume, 0, 4), [2, 2, 1, 1]);
  bucket.release("put");
  await flushed;
  assert(volume.unstoredBytes > 0);
  const { volume: next } = await openVolume({}, { bucket: bucket.copy() });
  assertEquals(await firstBytes(next, 0, 4), [1, 1, 1, 1]);
  next.abandon();
  volume.abandon();
});

Deno.test("a write before its stripe is copied into a segment leaves the flush as it was asked for", async () => {
  const sizes = { uploads: 1, cacheStripes: 64, segmentDataBytes: 8 * STRIPE_BYTES };
  const { volume, bucket } = await openVolume(sizes);
  bucket.hold("put");
  volume.write(STRIPE_BYTES, blocks(1, 9));
  const first = volume.flush(); // takes the only upload slot
  await bucket.untilHeld(1);
  for (let stripe = 0; stripe < 17; stripe++) {
    volume.write(stripe * STRIPE_BYTES, blocks(4, 1)); // sealed at 8, copied ahead; at 16, not copied
  }
  await settle();
  volume.write(0, blocks(4, 2));
  volume.write(8 * STRIPE_BYTES, blocks(4, 2));
  bucket.held[0].release();
  await first;
  for (let batch = 0; batch < 2; batch++) {
    await bucket.untilHeld(1);
    bucket.held[0].release();
    await settle();
  }
  const { volume: next } = await openVolume({}, { bucket: bucket.copy() });
  for (const stripe of [0, 8]) {
    assertEquals(await firstBytes(next, 4 * stripe, 4), [1, 1, 1, 1]);
    assertEquals(await firstBytes(volume, 4 * stripe, 4), [2, 2, 2, 2]);
  }
  next.abandon();
  bucket.release("put");
  await volume.flush();
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("a large batch is stored in many segments and found whole or not at all", async () => {
  const sizes = { stripeBytes: 4 * MIB, volumeBytes: 256 * MIB, cacheStripes: 48, uploads: 3 };
  const { volume, bucket } = await openVolume(sizes);
  volume.write(0, blocks(1, 9));
  await volume.flush();
  bucket.hold("put");
  for (let at = 0; at < 6; at++) volume.write(at * 4 * MIB, blocks(1024, 1));
  const flushed = volume.flush();
  await bucket.untilHeld(3);
  for (let stored = 0; stored < 3; stored++) {
    const { volume: crashed } = await openVolume(sizes, { bucket: bucket.copy() });
    assertEquals(await firstBytes(crashed, 0, 1), [9], `after ${stored} of 3 segments`);
    assertEquals(await firstBytes(crashed, 1024, 1), [0]);
    crashed.abandon();
    assertEquals(await stateOf(flushed), "pending");
    bucket.held[0].release();
    await settle();
  }
  await flushed;
  assertEquals(logKeys(bucket).length, 5);
  const { volume: after } = await openVolume(sizes, { bucket: bucket.copy() });
  for (let at = 0; at < 6; at++) assertEquals(await firstBytes(after, at * 1024, 1), [1]);
  after.abandon();
  volume.abandon();
});

Deno.test("with iotimeout a flush fails in time, and what it was for is stored later", async () => {
  const { volume, bucket, clock } = await openVolume({ ioTimeoutMs: 3000 });
  bucket.hold("put");
  volume.write(0, blocks(1, 1));
  const flushed = assertRejects(() => volume.flush()!, TimeoutError, "iotimeout=3 s");
  await clock.advance(3000);
  await flushed;
  bucket.release("put");
  await volume.flush();
  assertEquals(volume.unstoredBytes, 0);
  volume.abandon();
});

Deno.test("a writer that was fenced answers no flush, and refuses everything from then on", async () => {
  const { volume, bucket, failures } = await openVolume();
  volume.write(0, blocks(1, 1));
  await volume.flush();
  const { volume: next } = await openVolume({ takeover: true }, { bucket });
  volume.write(0, blocks(1, 2));
  volume.write(STRIPE_BYTES, blocks(1, 2));
  const flushes = [volume.flush()!, volume.flush()!];
  for (const flushed of flushes) await assertRejects(() => flushed, FencedError, "epoch 2");
  assertEquals(failures.length, 1);
  assert(failures[0] instanceof FencedError);
  assertThrows(() => volume.flush(), FencedError);
  assertThrows(() => volume.write(0, blocks(1, 3)), FencedError);
  assertThrows(() => volume.trim(0, BLOCK_BYTES), FencedError);
  assertThrows(() => volume.zero(0, BLOCK_BYTES), FencedError);
  assertEquals(volume.tryRead(0, blocks(1, 0)), false);
  await assertRejects(() => volume.read(0, blocks(1, 0)), FencedError);
  await assertRejects(() => volume.close(), FencedError);
  assertEquals(await firstBytes(next, 0, 1), [1]);
  next.abandon();
});

Deno.test("a writer that was fenced begins no PUT any more, of what was ready either", async () => {
  const sizes = { cacheStripes: 64, segmentDataBytes: 8 * STRIPE_BYTES, uploads: 2 };
  const { volume, bucket, failures } = await openVolume(sizes);
  const { volume: next } = await openVolume({ takeover: true }, { bucket });
  bucket.hold("put");
  for (let at = 0; at < 24; at++) volume.write(at * STRIPE_BYTES, blocks(4, 1)); // three segments
  await bucket.untilHeld(2);
  bucket.held[0].release();
  await settle();
  assert(failures[0] instanceof FencedError);
  bucket.release("put");
  await settle();
  assertEquals(logKeys(bucket), [1, 2, 3].map(segmentKey), "two claims, and what was under way");
  next.abandon();
});

Deno.test("a batch is taken into the map in many turns, and nobody sees a part of it", async () => {
  const { volume, clock } = await openVolume({ turnMs: 0 });
  volume.write(0, blocks(32, 1));
  const written = volume.flush();
  await clock.advance(0);
  await written;
  for (let stripe = 0; stripe < 8; stripe += 2) volume.trim(stripe * STRIPE_BYTES, STRIPE_BYTES);
  const expected = Array.from({ length: 32 }, (_, block) => Math.floor(block / 4) % 2);
  const trimmed = volume.flush();
  let turns = 0;
  const after = clock.after.bind(clock);
  clock.after = (delayMs, callback) => {
    if (delayMs === 0) turns++;
    return after(delayMs, async () => {
      assertEquals(await firstBytes(volume, 0, 32), expected);
      callback();
    });
  };
  await clock.advance(0);
  await trimmed;
  assert(turns >= 4, `four records in ${turns} turns`);
  volume.abandon();
});

Deno.test("what is made together is there whole after a crash or not at all, though there is no room for it", async () => {
  const opened = await openVolume();
  const { volume, bucket, clock } = opened;
  const writeAll = async (value: number) => {
    for (let at = 0; at < 40; at++) await volume.write(at * STRIPE_BYTES, blocks(4, value));
  };
  const found = async (left: MemoryBucket) => {
    const { volume } = await openVolume({}, { bucket: left });
    const values = new Set(await firstBytes(volume, 0, 160));
    volume.abandon();
    return [...values];
  };
  await writeAll(1);
  await volume.flush();
  let reclaimed: Promise<unknown> | undefined;
  await volume.together(async () => {
    const segments = logKeys(bucket).length;
    await writeAll(2);
    reclaimed = volume.reclaim(() => {}); // wants a checkpoint
    await clock.advance(20 * 60_000); // which would be due by now as well
    assert(logKeys(bucket).length > segments);
    assertEquals(volume.unstoredBytes, 0);
    assertEquals(await found(bucket.copy()), [1]);
  });
  await volume.flush();
  assertEquals(await found(bucket.copy()), [2]);
  await clock.advance(20 * 60_000);
  await reclaimed;
  const { volume: after } = await reopenAfterCrash(opened);
  assertEquals(new Set(await firstBytes(after, 0, 160)), new Set([2]));
  after.abandon();
});

Deno.test("of what is made together nothing is stored, and no flush answered, if it fails", async () => {
  const opened = await openVolume();
  const { volume } = opened;
  volume.write(0, blocks(1, 1));
  await volume.flush();
  await assertRejects(() =>
    volume.together(async () => {
      for (let at = 0; at < 40; at++) await volume.write(at * STRIPE_BYTES, blocks(4, 2));
      throw new Error("a file is missing");
    })
  );
  assertThrows(() => volume.flush(), Error, "a file is missing");
  const { volume: after } = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(after, 0, 5), [1, 0, 0, 0, 0]);
  after.abandon();
});
