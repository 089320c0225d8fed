import { assert, assertEquals, assertRejects } from "@std/assert";
import { TimeoutError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/limits.ts";
import { settle } from "../../support/manual_clock.ts";
import {
  blocks,
  firstBytes,
  KIB,
  openVolume,
  readBytes,
  reopenAfterCrash,
  stateOf,
} from "./open_volume.ts";

const STRIPE_BYTES = 16 * KIB;

/** A volume of 40 stored stripes, each full of its number plus one, and none is cached. */
async function openStored(options = {}) {
  const before = await openVolume({ cacheStripes: 256 });
  for (let at = 0; at < 40; at++) before.volume.write(at * STRIPE_BYTES, blocks(4, at + 1));
  await before.volume.flush();
  return await reopenAfterCrash(before, options);
}

Deno.test("what is cached is read in the same turn, dirty, on its way or stored", async () => {
  const { volume, bucket } = await openVolume();
  bucket.hold("put");
  const target = blocks(4, 0xcc);
  volume.write(BLOCK_BYTES, blocks(2, 1));
  assert(volume.tryRead(0, target));
  const flushed = volume.flush();
  await bucket.untilHeld(1);
  assert(volume.tryRead(0, target));
  bucket.release("put");
  await flushed;
  assert(volume.tryRead(0, target));
  assertEquals([0, 1, 2, 3].map((block) => target[block * BLOCK_BYTES]), [0, 1, 1, 0]);
  volume.abandon();
});

Deno.test("what is cached is lent where it lies, over stripes, and not at all if a block of it is missing", async () => {
  const { volume } = await openStored();
  volume.write(STRIPE_BYTES - 2 * BLOCK_BYTES, blocks(4, 77));
  const [offset, length] = [STRIPE_BYTES - 2 * BLOCK_BYTES, 4 * BLOCK_BYTES];
  const lent = volume.lend(offset + 1, length - 2)!;
  assertEquals(lent.map((part) => part.length), [2 * BLOCK_BYTES - 1, 2 * BLOCK_BYTES - 1]);
  assert(lent.every((part) => part.every((byte) => byte === 77)));
  assertEquals(volume.lend(offset - 1, length), undefined);
  assertEquals(volume.lend(offset + 1, length), undefined);
  // what reads as zeroes lies nowhere
  assertEquals(volume.lend(50 * STRIPE_BYTES, STRIPE_BYTES), undefined);
  await firstBytes(volume, 2 * 4, 1);
  assertEquals(volume.lend(2 * STRIPE_BYTES, STRIPE_BYTES)?.[0][0], 3);
  volume.abandon();
  assertEquals(volume.lend(2 * STRIPE_BYTES, STRIPE_BYTES), undefined);
});

Deno.test("a read that needs the bucket begins behind what came with it: what that wrote is not fetched", async () => {
  const { volume, bucket } = await openStored();
  bucket.counts.get.requests = 0;
  const read = firstBytes(volume, 5, 1);
  volume.write(5 * BLOCK_BYTES, blocks(1, 77));
  assertEquals(await read, [77]);
  assertEquals(bucket.counts.get.requests, 0);
  volume.abandon();
});

Deno.test("a read longer than the cache brings every byte", async () => {
  const { volume } = await openStored();
  const bytes = await readBytes(volume, 5, 40 * STRIPE_BYTES - 10);
  assert(bytes.every((byte, at) => byte === 1 + Math.floor((at + 5) / STRIPE_BYTES)));
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("a slow read does not hold up one that finds its bytes in the cache", async () => {
  const { volume, bucket } = await openStored();
  volume.write(30 * STRIPE_BYTES, blocks(4, 99));
  bucket.hold("get");
  const slow = firstBytes(volume, 0, 1);
  await bucket.untilHeld(1);
  assert(volume.tryRead(30 * STRIPE_BYTES, blocks(4, 0)));
  const other = firstBytes(volume, 40, 1);
  await bucket.untilHeld(2);
  bucket.held[1].release();
  assertEquals([await other, await stateOf(slow)], [[11], "pending"]);
  bucket.release("get");
  assertEquals(await slow, [1]);
  volume.abandon();
});

Deno.test("with iotimeout a read fails in time, however many requests it takes", async () => {
  const { volume, bucket, clock } = await openStored({ ioTimeoutMs: 3000 });
  bucket.hold("get");
  const target = new Uint8Array(40 * STRIPE_BYTES);
  const read = assertRejects(() => volume.read(0, target), TimeoutError, "iotimeout=3 s");
  for (let second = 0; second < 3; second++) {
    assertEquals(await stateOf(read), "pending");
    await bucket.untilHeld(1);
    await clock.advance(1000);
    if (second < 2) bucket.held[0].release();
    await settle();
  }
  await read;
  const before = target.slice();
  bucket.release("get");
  await settle();
  assertEquals(target, before, "what comes too late touches nothing");
  volume.checkInvariants();
  assertEquals(await firstBytes(volume, 0, 1), [1]);
  volume.abandon();
});

Deno.test("with iotimeout nothing is fetched any more for those who gave up while there was no room", async () => {
  const { volume, bucket, clock } = await openStored({ ioTimeoutMs: 3000 });
  bucket.counts.get.requests = 0;
  bucket.hold("get");
  const reads = Array.from(
    { length: 40 },
    (_, stripe) => assertRejects(() => firstBytes(volume, stripe * 4, 1), TimeoutError),
  );
  await bucket.untilHeld(16); // as many as the cache has slots
  await clock.advance(3000);
  await Promise.all(reads);
  const late = firstBytes(volume, 39 * 4, 1);
  bucket.release("get");
  await clock.advance(1);
  assertEquals(await late, [40]);
  assertEquals(bucket.counts.get.requests, 17);
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("reads that jump about fetch nothing ahead", async () => {
  const { volume, bucket } = await openStored({ readaheadBytes: 8 * STRIPE_BYTES });
  bucket.counts.get.requests = 0;
  for (const stripe of [3, 17, 9, 30, 24]) await firstBytes(volume, stripe * 4, 1);
  await settle();
  assertEquals(bucket.counts.get.requests, 5);
  volume.abandon();
});

Deno.test("a prefetch brings what is stored, waits for it, and is then read in the same turn", async () => {
  const { volume, bucket } = await openStored();
  bucket.hold("get");
  const prefetched = volume.prefetch(STRIPE_BYTES + 5, 2 * STRIPE_BYTES);
  await bucket.untilHeld(1);
  assertEquals(await stateOf(prefetched), "pending");
  bucket.release("get");
  await prefetched;
  for (const stripe of [1, 2, 3]) assert(volume.tryRead(stripe * STRIPE_BYTES, blocks(4, 0)));
  assertEquals(volume.prefetch(STRIPE_BYTES, STRIPE_BYTES), undefined, "it is here already");
  assertEquals(volume.prefetch(50 * STRIPE_BYTES, STRIPE_BYTES), undefined, "nothing is stored");
  volume.abandon();
});

Deno.test("a prefetch of the whole disk takes a quarter of the cache", async () => {
  const { volume } = await openStored();
  await volume.prefetch(0, volume.sizeBytes);
  const isHere = (stripe: number) => volume.tryRead(stripe * STRIPE_BYTES, blocks(4, 0));
  assertEquals([0, 1, 2, 3, 4, 5].map(isHere), [true, true, true, true, false, false]);
  volume.abandon();
});
