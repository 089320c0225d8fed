import { assert, assertEquals, assertRejects } from "@std/assert";
import { DamageError, TimeoutError, UsageError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/limits.ts";
import { settle } from "../../support/manual_clock.ts";
import {
  blocks,
  firstBytes,
  KIB,
  logKeys,
  openVolume,
  readBytes,
  reopenAfterCrash,
  stateOf,
} from "./open_volume.ts";

const STRIPE_BYTES = 16 * KIB;

Deno.test("whole blocks are written at once, without a request", async () => {
  const { volume, bucket } = await openVolume();
  const before = bucket.counts.get.requests;
  assertEquals(volume.write(BLOCK_BYTES, blocks(7, 0x11)), undefined);
  assertEquals(await firstBytes(volume, 0, 9), [0, ...new Array(7).fill(0x11), 0]);
  assertEquals(bucket.counts.get.requests, before);
  volume.abandon();
});

Deno.test("a write of any alignment changes its own bytes and no other", async () => {
  const expected = new Uint8Array(4 * STRIPE_BYTES);
  const opened = await openVolume();
  let { volume } = opened;
  const ranges = [[0, 1], [4095, 2], [4096, 4095], [16383, 2], [10_000, 20_000], [5, 60_000]];
  for (const [at, [offset, length]] of ranges.entries()) {
    const data = new Uint8Array(length).fill(0x40 + at);
    expected.set(data, offset);
    await volume.write(offset, data);
    assertEquals(await readBytes(volume, 0, expected.length), expected);
    await volume.flush();
    const next = await reopenAfterCrash({ ...opened, volume });
    ({ volume } = next);
    opened.bucket = next.bucket;
    assertEquals(await readBytes(volume, 0, expected.length), expected, `${offset}+${length}`);
  }
  volume.abandon();
});

Deno.test("the caller's buffer may change as soon as the call has returned, also if the write waits", async () => {
  const opened = await openVolume();
  opened.volume.write(0, blocks(4, 1));
  await opened.volume.flush();
  const { volume, bucket } = await reopenAfterCrash(opened);
  bucket.hold("get");
  const data = new Uint8Array(10).fill(0x22);
  const done = volume.write(100, data);
  data.fill(0xee);
  assertEquals(await stateOf(done), "pending");
  bucket.release("get");
  await done;
  assertEquals([...await readBytes(volume, 99, 12)], [1, ...new Array(10).fill(0x22), 1]);
  volume.abandon();
});

Deno.test("a write to part of a block whose stripe is damaged fails, and touches nothing", async () => {
  const opened = await openVolume();
  opened.volume.write(0, blocks(8, 1));
  await opened.volume.flush();
  const { volume, bucket } = await reopenAfterCrash(opened);
  const key = logKeys(bucket)[1];
  bucket.flipBit(key, 8 * (bucket.objects.get(key)!.bytes.length - 1));
  await assertRejects(() => volume.write(STRIPE_BYTES - 10, new Uint8Array(20))!, DamageError);
  assertEquals(await readBytes(volume, STRIPE_BYTES - 10, 10), new Uint8Array(10).fill(1));
  assertEquals(volume.unstoredBytes, 0);
  volume.checkInvariants();
  assertEquals(volume.write(STRIPE_BYTES, blocks(4, 3)), undefined, "whole blocks need no fetch");
  volume.abandon();
});

Deno.test("overlapping writes take effect in the order of the calls, also when one waits", async () => {
  const opened = await openVolume();
  opened.volume.write(0, blocks(8, 1));
  await opened.volume.flush();
  const { volume, bucket } = await reopenAfterCrash(opened);
  bucket.hold("get");
  const first = volume.write(10, new Uint8Array(BLOCK_BYTES).fill(2));
  const second = volume.write(0, blocks(1, 3)); // needs no fetch, but must not come first
  const third = volume.zero(0, 5);
  const elsewhere = volume.write(5 * BLOCK_BYTES, blocks(1, 4));
  assertEquals(await stateOf(second), "pending");
  assertEquals(await stateOf(elsewhere), "done", "what does not overlap does not wait");
  bucket.release("get");
  await Promise.all([first, second, third]);
  const found = await readBytes(volume, 0, BLOCK_BYTES + 12);
  assertEquals([...found.subarray(0, 7)], [0, 0, 0, 0, 0, 3, 3]);
  assertEquals([...found.subarray(BLOCK_BYTES - 1)], [3, ...new Array(10).fill(2), 1, 1]);
  volume.abandon();
});

Deno.test("a write over the bound waits for an upload and is not refused", async () => {
  const { volume, bucket } = await openVolume();
  bucket.hold("put");
  let written = 0;
  let waiting: Promise<void> | undefined;
  while (!waiting) {
    waiting = volume.write(written * STRIPE_BYTES, blocks(4, written + 1));
    if (!waiting) written++;
  }
  assertEquals(written, 12, "three quarters of the 16 slots");
  const behind = volume.write(63 * STRIPE_BYTES, blocks(1, 99));
  assertEquals(await stateOf(waiting), "pending");
  assertEquals(await stateOf(behind), "pending", "smaller ones don't take its room");
  assertEquals(await stateOf(volume.write(0, blocks(4, 0x50))), "pending");
  bucket.release("put");
  await Promise.all([waiting, behind]);
  await volume.flush();
  assertEquals(await firstBytes(volume, written * 4, 1), [written + 1]);
  assertEquals(await firstBytes(volume, 63 * 4, 1), [99]);
  volume.checkInvariants();
  assertEquals(volume.unstoredBytes, 0);
  volume.abandon();
});

Deno.test("a write longer than the whole cache is written", async () => {
  const opened = await openVolume();
  const data = new Uint8Array(50 * STRIPE_BYTES + 77).map((_, at) => at >> 10);
  await opened.volume.write(33, data);
  assertEquals(await readBytes(opened.volume, 33, data.length), data);
  await opened.volume.flush();
  const { volume } = await reopenAfterCrash(opened);
  assertEquals(await readBytes(volume, 33, data.length), data);
  volume.abandon();
});

Deno.test("a long write and a long read are done in many turns", async () => {
  const { volume, clock } = await openVolume({ turnMs: 0 });
  let turns = 0;
  const after = clock.after.bind(clock);
  clock.after = (delayMs, callback) => {
    if (delayMs === 0) turns++;
    return after(delayMs, callback);
  };
  const turnsOf = async (begin: () => Promise<void> | undefined) => {
    turns = 0;
    const done = begin();
    while (await stateOf(done) === "pending") await clock.advance(0);
    return turns;
  };
  const data = blocks(40, 5);
  assert(await turnsOf(() => volume.write(0, data)) >= 1, "two pieces");
  const target = new Uint8Array(8 * 16 * KIB);
  assert(await turnsOf(() => volume.read(0, target)) >= 8, "eight stripes");
  assertEquals(target, data.slice(0, target.length));
  volume.abandon();
});

Deno.test("a write is found whole or not at all after a crash at any moment", async () => {
  const { volume, bucket } = await openVolume({ cacheStripes: 64 });
  for (let at = 0; at < 6; at++) volume.write(at * STRIPE_BYTES, blocks(4, 1));
  await volume.flush();
  bucket.hold("put");
  volume.write(100, new Uint8Array(6 * STRIPE_BYTES - 200).fill(2));
  const flushed = volume.flush();
  await bucket.untilHeld(1);
  for (;;) {
    const { volume: after } = await openVolume({ takeover: true }, { bucket: bucket.copy() });
    const bytes = await readBytes(after, 100, 6 * STRIPE_BYTES - 200);
    assert(bytes.every((byte) => byte === bytes[0]), "torn");
    after.abandon();
    if (bucket.held.length === 0) break;
    bucket.held[0].release();
    await stateOf(flushed);
  }
  await flushed;
  volume.abandon();
});

Deno.test("a write that had to wait is found whole or not at all, too", async () => {
  const { volume, bucket } = await openVolume();
  bucket.hold("put");
  for (let at = 0; at < 6; at++) volume.write((20 + at) * STRIPE_BYTES, blocks(4, 1));
  const length = 6 * STRIPE_BYTES; // as much as is written in one turn, and in seven stripes
  const waiting = volume.write(100, new Uint8Array(length).fill(2));
  assertEquals(await stateOf(waiting), "pending");
  for (;;) {
    const { volume: after } = await openVolume({ takeover: true }, { bucket: bucket.copy() });
    const bytes = await readBytes(after, 100, length);
    assert(bytes.every((byte) => byte === bytes[0]), "torn");
    after.abandon();
    if (bucket.held.length === 0) break;
    bucket.held[0].release();
    await settle();
  }
  await waiting;
  bucket.release("put");
  await volume.flush();
  assertEquals((await readBytes(volume, 100, length))[0], 2);
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("a stripe written in many small pieces is stored whole before its patches become many", async () => {
  const opened = await openVolume({ stripeBytes: 256 * KIB, volumeBytes: 16 * 256 * KIB });
  opened.volume.write(0, blocks(64, 1));
  await opened.volume.flush();
  for (let at = 0; at < 40; at++) {
    await opened.volume.write(at * BLOCK_BYTES, blocks(1, 100 + at));
    await opened.volume.flush();
  }
  const { volume, bucket } = await reopenAfterCrash(opened, {
    stripeBytes: undefined,
    volumeBytes: undefined,
  });
  bucket.counts.get.requests = 0;
  const expected = Array.from({ length: 64 }, (_, at) => at < 40 ? 100 + at : 1);
  assertEquals(await firstBytes(volume, 0, 64), expected);
  assert(bucket.counts.get.requests <= 9, `${bucket.counts.get.requests} GETs for one stripe`);
  volume.abandon();
});

Deno.test("with iotimeout a write that waits for room fails in time, and the disk goes on", async () => {
  const { volume, bucket, clock } = await openVolume({ ioTimeoutMs: 3000 });
  bucket.hold("put");
  for (let at = 0; at < 12; at++) volume.write(at * STRIPE_BYTES, blocks(4, 1));
  const waiting = [20, 21, 20].map((at) => volume.write(at * STRIPE_BYTES, blocks(4, 2))!);
  const ends = Promise.allSettled(waiting);
  await clock.advance(2999);
  assertEquals(await stateOf(waiting[0]), "pending");
  await clock.advance(1);
  for (const end of await ends) {
    assert(end.status === "rejected" && end.reason instanceof TimeoutError);
  }
  bucket.release("put");
  await volume.flush();
  assertEquals(await firstBytes(volume, 0, 1), [1], "what was acknowledged is kept");
  assertEquals(await firstBytes(volume, 20 * 4, 1), [0], "what failed was not written");
  await volume.write(20 * STRIPE_BYTES, blocks(4, 3));
  assertEquals(await firstBytes(volume, 20 * 4, 1), [3]);
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("writes that wait when the volume ends fail, each of them", async () => {
  const { volume, bucket } = await openVolume();
  bucket.hold("put");
  for (let at = 0; at < 12; at++) volume.write(at * STRIPE_BYTES, blocks(4, 1));
  const waiting = [12, 13, 12].map((at) => volume.write(at * STRIPE_BYTES, blocks(4, 2))!);
  const ends = Promise.allSettled(waiting);
  await bucket.untilHeld(1);
  volume.abandon();
  for (const end of await ends) {
    assert(end.status === "rejected" && end.reason instanceof UsageError);
  }
});
