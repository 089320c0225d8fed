import { assert, assertEquals, assertThrows } from "@std/assert";
import { BLOCK_BYTES, GIB, TIB, ZERO_RUNS_MAX } from "../../../src/limits.ts";
import { Contents } from "../../../src/volume/contents.ts";
import { parseSegmentHead, RECORD_ZEROES } from "../../../src/volume/segment.ts";
import { StripeCache } from "../../../src/volume/stripe_cache.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";
import { zeroBlocks } from "../../../src/volume/trim.ts";
import { Zeroes } from "../../../src/volume/zeroes.ts";
import { ManualClock } from "../../support/manual_clock.ts";
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

Deno.test("trimmed blocks read as zeroes at once, after a flush and after a crash", async () => {
  const opened = await openVolume();
  opened.volume.write(0, blocks(8, 1));
  await opened.volume.flush();
  opened.volume.trim(BLOCK_BYTES, 5 * BLOCK_BYTES);
  const expected = [1, 0, 0, 0, 0, 0, 1, 1];
  assertEquals(await firstBytes(opened.volume, 0, 8), expected);
  await opened.volume.flush();
  assertEquals(await firstBytes(opened.volume, 0, 8), expected);
  const { volume } = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(volume, 0, 8), expected);
  volume.abandon();
});

Deno.test("a trim touches only whole blocks, a zero every byte", async () => {
  const { volume } = await openVolume();
  volume.write(0, blocks(4, 1));
  await volume.trim(1, 2 * BLOCK_BYTES);
  assertEquals(await firstBytes(volume, 0, 4), [1, 0, 1, 1]);
  assertEquals((await readBytes(volume, 0, 10))[9], 1);
  volume.write(0, blocks(4, 1));
  await volume.zero(1, 2 * BLOCK_BYTES);
  const bytes = await readBytes(volume, 0, 4 * BLOCK_BYTES);
  const zeroes = bytes.subarray(1, 2 * BLOCK_BYTES + 1);
  assertEquals([bytes[0], bytes[2 * BLOCK_BYTES + 1]], [1, 1]);
  assert(zeroes.every((byte) => byte === 0));
  assertEquals(volume.trim(10, 5), undefined, "no whole block in it: nothing to do");
  volume.abandon();
});

Deno.test("a write after a trim is kept, and what was trimmed around it stays zero", async () => {
  const opened = await openVolume();
  opened.volume.write(0, blocks(12, 1));
  await opened.volume.flush();
  opened.volume.trim(0, 12 * BLOCK_BYTES);
  opened.volume.write(5 * BLOCK_BYTES, blocks(1, 2));
  opened.volume.write(9 * BLOCK_BYTES + 7, new Uint8Array(3).fill(3));
  const check = async (volume: typeof opened.volume) => {
    assertEquals(await firstBytes(volume, 0, 12), [0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
    const bytes = await readBytes(volume, 9 * BLOCK_BYTES, 12);
    assertEquals([...bytes], [0, 0, 0, 0, 0, 0, 0, 3, 3, 3, 0, 0]);
  };
  await check(opened.volume);
  await opened.volume.flush();
  await check(opened.volume);
  const { volume } = await reopenAfterCrash(opened);
  await check(volume);
  volume.abandon();
});

Deno.test("a trim while the stripe's older bytes are on their way to the bucket wins", async () => {
  const opened = await openVolume();
  const { volume, bucket } = opened;
  bucket.hold("put");
  volume.write(0, blocks(8, 1));
  const first = volume.flush();
  await bucket.untilHeld(1);
  volume.trim(0, 6 * BLOCK_BYTES);
  volume.write(BLOCK_BYTES, blocks(1, 2));
  const second = volume.flush();
  bucket.release("put");
  await Promise.all([first, second]);
  const expected = [0, 2, 0, 0, 0, 0, 1, 1];
  assertEquals(await firstBytes(volume, 0, 8), expected);
  const next = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(next.volume, 0, 8), expected);
  next.volume.abandon();
});

Deno.test("a trim of a whole disk of a tebibyte takes one PUT of one record", async () => {
  const { volume, bucket } = await openVolume({ volumeBytes: TIB, stripeBytes: 64 * KIB });
  volume.write(700 * GIB, blocks(2, 1));
  await volume.flush();
  assertEquals(volume.trim(0, TIB), undefined);
  await volume.flush();
  const keys = logKeys(bucket);
  assertEquals(keys.length, 3, "claim, write, trim");
  const { bytes } = bucket.objects.get(keys[2])!;
  const { records } = parseSegmentHead(keys[2], bytes, bytes.length);
  assertEquals(records.map((r) => [r.kind, r.firstBlock, r.blockCount]), [
    [RECORD_ZEROES, 0, TIB / BLOCK_BYTES],
  ]);
  assertEquals(await firstBytes(volume, 700 * GIB / BLOCK_BYTES, 2), [0, 0]);
  volume.abandon();
});

Deno.test("a trim asks the map of no stripe in the cache that it covers all of", () => {
  const clock = new ManualClock();
  const cache = new StripeCache(16, STRIPE_BYTES, 0, clock);
  const map = new StripeMap(4);
  const asked: number[] = [];
  map.isFull = (stripe) => asked.push(stripe) < 0;
  for (let stripe = 0; stripe < 16; stripe++) {
    const slot = cache.take(stripe);
    cache.setValid(slot, 0, 4);
    cache.unpin(slot);
  }
  zeroBlocks(new Contents(cache, new Zeroes(), map, clock), 4 * 3 + 2, 4 * 12 + 1);
  assertEquals(asked, [3, 12], "those at its ends, some blocks of which stay");
  for (let stripe = 4; stripe < 12; stripe++) assertEquals(cache.find(stripe), -1);
});

Deno.test("zeroes that are written take no room in the cache and no bytes in the bucket", async () => {
  const { volume, bucket } = await openVolume();
  bucket.hold("put");
  const zeroes = new Uint8Array(STRIPE_BYTES);
  for (let stripe = 0; stripe < 64; stripe++) {
    assertEquals(volume.write(stripe * STRIPE_BYTES, zeroes), undefined);
  }
  bucket.release("put");
  const before = bucket.counts.put.bytes;
  await volume.flush();
  assert(bucket.counts.put.bytes - before < 200, "one record");
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("a zero is found whole or not at all after a crash", async () => {
  const { volume, bucket } = await openVolume();
  for (let stripe = 0; stripe < 4; stripe++) volume.write(stripe * STRIPE_BYTES, blocks(4, 1));
  await volume.flush();
  bucket.hold("put");
  for (let stripe = 10; stripe < 15; stripe++) volume.write(stripe * STRIPE_BYTES, blocks(4, 1));
  // head, body and tail: the head makes a stripe dirty, the one at which a batch is sealed
  assertEquals(volume.zero(100, 3 * STRIPE_BYTES), undefined);
  await bucket.untilHeld(1);
  bucket.held[0].release();
  await stateOf(volume.flush());
  const { volume: after } = await openVolume({ takeover: true }, { bucket: bucket.copy() });
  const bytes = await readBytes(after, 100, 3 * STRIPE_BYTES);
  assert(bytes.every((byte) => byte === bytes[0]), "torn");
  after.abandon();
  bucket.release("put");
  volume.abandon();
});

Deno.test("a stripe with many holes is stored whole, and takes no more memory than others", async () => {
  for (const kind of ["trim", "zero", "write"] as const) {
    const shape = { stripeBytes: 256 * KIB, volumeBytes: 16 * 256 * KIB };
    const opened = await openVolume(shape);
    const { volume, bucket } = opened;
    volume.write(0, blocks(64, 1));
    await volume.flush();
    for (let block = 0; block < 64; block += 2) {
      if (kind === "write") await volume.write(block * BLOCK_BYTES, blocks(1, 0));
      else await volume[kind](block * BLOCK_BYTES, BLOCK_BYTES);
      await volume.flush();
    }
    volume.checkInvariants();
    const expected = Array.from({ length: 64 }, (_, block) => block % 2);
    assertEquals(await firstBytes(volume, 0, 64), expected);
    await volume.close();
    const [pack] = [...bucket.objects.keys()].filter((key) => key.startsWith("map/"));
    const patches = (bucket.objects.get(pack)!.bytes.length - 16 - 16) / 24;
    assert(patches <= 8, `${kind}: ${patches} patches`);
    const { volume: next } = await openVolume(shape, { bucket });
    assertEquals(await firstBytes(next, 0, 64), expected);
    next.abandon();
  }
});

Deno.test("zeroing is fast in whole blocks, unless it would have to wait", async () => {
  // a block each time, and a hole, so that stripe 0 has all the patches it may have
  const first = await openVolume({ stripeBytes: 64 * KIB });
  await first.volume.write(0, blocks(16, 1));
  for (let block = 0; block < 7; block++) {
    await first.volume.flush();
    first.volume.write(block * BLOCK_BYTES, blocks(1, 2));
  }
  await first.volume.flush();
  first.volume.trim(12 * BLOCK_BYTES, BLOCK_BYTES);
  await first.volume.flush();
  const { volume, bucket } = await reopenAfterCrash(first, { stripeBytes: 64 * KIB });
  const stripe = 64 * KIB;
  assert(volume.zeroesFast(0, 3 * stripe), "whole stripes");
  assert(volume.zeroesFast(stripe + BLOCK_BYTES, BLOCK_BYTES), "a block of a stripe in one piece");
  assert(!volume.zeroesFast(1, 5 * BLOCK_BYTES - 1) && !volume.zeroesFast(0, 5 * BLOCK_BYTES - 1));
  assert(!volume.zeroesFast(0, BLOCK_BYTES), "a stripe in pieces would be fetched first");
  await readBytes(volume, 0, 1);
  assert(volume.zeroesFast(0, BLOCK_BYTES), "it is here now");
  bucket.hold("put");
  const waiting = volume.write(2 * stripe, blocks(13 * 16, 3));
  assertEquals(await stateOf(waiting), "pending");
  assert(!volume.zeroesFast(0, 3 * stripe), "a write waits for room");
  volume.abandon();
  await waiting?.catch(() => {});
});

Deno.test("a disk in tatters has its zeroes stored before there are too many to remember", async () => {
  const { volume } = await openVolume({ volumeBytes: GIB });
  const trimNext = (at: number) => volume.trim(2 * at * BLOCK_BYTES, BLOCK_BYTES);
  for (let at = 0; at < ZERO_RUNS_MAX; at++) assertEquals(trimNext(at), undefined);
  const waiting = trimNext(ZERO_RUNS_MAX);
  assert(waiting !== undefined, "there is no bound");
  await waiting;
  assertEquals(trimNext(ZERO_RUNS_MAX + 1), undefined);
  volume.abandon();
});

Deno.test("a trim of no whole block changes nothing, but of a volume that has failed it fails", async () => {
  const { volume } = await openVolume();
  await volume.write(0, blocks(2, 1));
  assertEquals(volume.trim(1, 2 * BLOCK_BYTES - 2), undefined);
  assertEquals(await firstBytes(volume, 0, 2), [1, 1]);
  volume.abandon();
  assertThrows(() => volume.trim(1, 2 * BLOCK_BYTES - 2), Error, "closed");
});
