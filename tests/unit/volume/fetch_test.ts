import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DamageError, UnavailableError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/limits.ts";
import { settle } from "../../support/manual_clock.ts";
import {
  blocks,
  firstBytes,
  logKeys,
  openVolume,
  readBytes,
  reopenAfterCrash,
} from "./open_volume.ts";

const STRIPE_BLOCKS = 4;
const STRIPE_BYTES = STRIPE_BLOCKS * BLOCK_BYTES;

/** A volume whose stripes 0 to `count` are stored, each full of its number plus one, and none is cached. */
async function openStored(count: number) {
  const before = await openVolume({ cacheStripes: 256 });
  for (let stripe = 0; stripe < count; stripe++) {
    before.volume.write(stripe * STRIPE_BYTES, blocks(STRIPE_BLOCKS, stripe + 1));
  }
  await before.volume.flush();
  const opened = await reopenAfterCrash(before);
  opened.bucket.counts.get.requests = 0;
  return opened;
}

Deno.test("more readers at once than the cache has slots all get their bytes", async () => {
  const { volume, clock } = await openStored(60);
  const reads = Array.from({ length: 60 }, (_, stripe) => firstBytes(volume, stripe * 4, 1));
  let done = false;
  const all = Promise.all(reads).then((found) => {
    done = true;
    return found.flat();
  });
  for (let turns = 0; turns < 2000 && !done; turns++) await clock.advance(1);
  assert(done, "the readers take each other's slots for ever");
  assertEquals(await all, Array.from({ length: 60 }, (_, stripe) => stripe + 1));
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("writers that need more stripes fetched than the cache has slots all get done", async () => {
  for (const stripesEach of [1, 2]) {
    const { volume, clock } = await openStored(60);
    const ends: (Promise<void> | undefined)[] = [];
    for (let stripe = 0; stripe < 60; stripe += stripesEach) {
      const length = (stripesEach - 1) * STRIPE_BYTES + 1; // neither begins nor ends with a block
      ends.push(volume.write(stripe * STRIPE_BYTES + 5, new Uint8Array(length).fill(0xee)));
    }
    let done = false;
    Promise.all(ends).then(() => done = true);
    for (let turns = 0; turns < 2000 && !done; turns++) await clock.advance(1);
    assert(done, "the writers take each other's slots for ever");
    volume.checkInvariants();
    volume.abandon();
  }
});

Deno.test("stripes that lie side by side in a segment come with one GET", async () => {
  const { volume, bucket } = await openStored(8);
  assertEquals(await firstBytes(volume, 0, 8), [1, 1, 1, 1, 2, 2, 2, 2]);
  assertEquals(bucket.counts.get.requests, 1);
  volume.abandon();
});

Deno.test("a stripe is fetched once, however many ask for it at once", async () => {
  const { volume, bucket } = await openStored(2);
  const reads = Array.from({ length: 20 }, (_, at) => firstBytes(volume, at % 4, 1));
  assertEquals((await Promise.all(reads)).flat(), new Array(20).fill(1));
  assertEquals(bucket.counts.get.requests, 1);
  await firstBytes(volume, 0, 4);
  assertEquals(bucket.counts.get.requests, 1, "and then it is in the cache");
  volume.abandon();
});

Deno.test("what was never written, or trimmed, is read without a request", async () => {
  const { volume, bucket } = await openStored(2);
  volume.trim(0, STRIPE_BYTES);
  assertEquals(await firstBytes(volume, 0, 4), [0, 0, 0, 0]);
  assertEquals(await firstBytes(volume, 40, 4), [0, 0, 0, 0]);
  assertEquals(bucket.counts.get.requests, 0);
  volume.abandon();
});

Deno.test("a write, a zero and a trim win over a fetch that was under way before them", async () => {
  const { volume, bucket } = await openStored(1);
  bucket.hold("get");
  const read = firstBytes(volume, 0, 4);
  await bucket.untilHeld(1);
  volume.write(0, blocks(1, 0xaa));
  volume.zero(BLOCK_BYTES, BLOCK_BYTES);
  volume.trim(2 * BLOCK_BYTES, BLOCK_BYTES);
  bucket.release("get");
  assertEquals(await read, [0xaa, 0, 0, 1]);
  volume.checkInvariants();
  await volume.flush();
  assertEquals(await firstBytes(volume, 0, 4), [0xaa, 0, 0, 1]);
  volume.abandon();
});

Deno.test("a fetch that began before a flush brings back nothing older than the flush", async () => {
  const { volume, bucket } = await openStored(1);
  bucket.hold("get");
  const read = firstBytes(volume, 0, 4);
  await bucket.untilHeld(1);
  volume.write(0, blocks(2, 0xaa));
  await volume.flush();
  volume.trim(0, BLOCK_BYTES);
  await volume.flush();
  bucket.release("get");
  assertEquals(await read, [0, 0xaa, 1, 1]);
  volume.abandon();
});

Deno.test("patches lie over the base, the newest on top", async () => {
  const opened = await openStored(1);
  const { volume } = opened;
  for (const [block, value] of [[1, 0x11], [2, 0x22], [1, 0x33]]) {
    volume.write(block * BLOCK_BYTES, blocks(1, value));
    await volume.flush();
  }
  const { volume: next } = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(next, 0, 4), [1, 0x33, 0x22, 1]);
  next.abandon();
});

Deno.test("damage is an error for who reads there, and names the segment; all else works", async () => {
  const { volume, bucket } = await openStored(3);
  const [key] = logKeys(bucket).filter((key) => bucket.objects.get(key)!.bytes.length > 1000);
  const bytes = bucket.objects.get(key)!.bytes;
  bucket.flipBit(key, 8 * (bytes.length - STRIPE_BYTES - 100)); // in the second of three
  const reads = [0, 4, 8].map((block) => firstBytes(volume, block, 1));
  assertEquals(await reads[0], [1]);
  const error = await assertRejects(() => reads[1], DamageError);
  assertStringIncludes(error.message, key);
  assertEquals(await reads[2], [3]);
  volume.checkInvariants();
  volume.write(STRIPE_BYTES, blocks(4, 0x77));
  assertEquals(await firstBytes(volume, 4, 4), [0x77, 0x77, 0x77, 0x77]);
  await volume.flush();
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("a segment that is gone is damage for who reads there", async () => {
  const { volume, bucket } = await openStored(1);
  bucket.objects.delete(logKeys(bucket)[1]);
  await assertRejects(() => firstBytes(volume, 0, 1), DamageError, "log/0000000002");
  volume.checkInvariants();
  assertEquals(await firstBytes(volume, 100, 1), [0]);
  volume.abandon();
});

Deno.test("a GET cut short is an error, and the next one is tried afresh", async () => {
  const { volume, bucket } = await openStored(2);
  bucket.truncateGets(1);
  await assertRejects(() => readBytes(volume, 0, 2 * STRIPE_BYTES), DamageError);
  volume.checkInvariants();
  assertEquals(await firstBytes(volume, 0, 8), [1, 1, 1, 1, 2, 2, 2, 2]);
  volume.abandon();
});

Deno.test("a GET that fails fails the read of all that it was to bring, and the next one is tried afresh", async () => {
  const { volume, bucket } = await openStored(2);
  bucket.failGets(1);
  await assertRejects(() => readBytes(volume, 0, 2 * STRIPE_BYTES), UnavailableError);
  assertEquals(bucket.counts.get.requests, 1);
  volume.checkInvariants();
  assertEquals(await firstBytes(volume, 0, 8), [1, 1, 1, 1, 2, 2, 2, 2]);
  volume.abandon();
});

Deno.test("fetches that failed leave every slot to others", async () => {
  const { volume, bucket } = await openStored(40);
  bucket.failGets(1000);
  for (let stripe = 0; stripe < 40; stripe++) {
    await assertRejects(() => firstBytes(volume, stripe * 4, 1));
  }
  volume.checkInvariants();
  volume.abandon();
  const again = await openVolume({}, { bucket: bucket.copy() });
  assertEquals(await firstBytes(again.volume, 0, 1), [1]);
  again.volume.abandon();
});

Deno.test("a sequential reader finds the stripes ahead of it in the cache", async () => {
  const before = await openStored(16);
  const { volume, bucket } = await reopenAfterCrash(before, {
    readaheadBytes: 8 * STRIPE_BYTES,
    cacheStripes: 64,
  });
  bucket.counts.get.requests = 0;
  for (let stripe = 0; stripe < 16; stripe++) {
    assertEquals(await firstBytes(volume, stripe * 4, 4), new Array(4).fill(stripe + 1));
    await settle();
  }
  assert(bucket.counts.get.requests < 8, `${bucket.counts.get.requests} GETs`);
  volume.abandon();
});
