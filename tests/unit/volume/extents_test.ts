import { assert, assertEquals } from "@std/assert";
import { BLOCK_BYTES, EXTENT_STEPS_MAX, GIB, TIB } from "../../../src/limits.ts";
import type { Extent } from "../../../src/volume/block_device.ts";
import type { Volume } from "../../../src/volume/volume.ts";
import { blocks, KIB, openVolume, readBytes, reopenAfterCrash } from "./open_volume.ts";

const STRIPE_BYTES = 16 * KIB;
const BLOCKS = 64 * 4;

/** All extents of a range, asked for as often as it takes. */
function allExtents(volume: Volume, offset: number, length: number, countMax = 8192): Extent[] {
  const extents: Extent[] = [];
  for (let at = offset; at < offset + length;) {
    const found = volume.extents(at, offset + length - at, countMax);
    assert(found.length >= 1 && found.length <= countMax);
    for (const { lengthBytes, isHole } of found) {
      assert(lengthBytes > 0);
      at += lengthBytes;
      const last = extents.at(-1);
      if (last?.isHole === isHole) last.lengthBytes += lengthBytes;
      else extents.push({ lengthBytes, isHole });
    }
    assert(at <= offset + length, "an extent longer than what is left");
  }
  return extents;
}

/** A letter a block: "." for a hole, "#" for data. */
function drawn(volume: Volume, countMax?: number): string {
  return allExtents(volume, 0, volume.sizeBytes, countMax)
    .map(({ lengthBytes, isHole }) => (isHole ? "." : "#").repeat(lengthBytes / BLOCK_BYTES))
    .join("");
}

Deno.test("a new disk is one hole, and what is written is data at once, after a flush and after a crash", async () => {
  const opened = await openVolume();
  const { volume } = opened;
  assertEquals(drawn(volume), ".".repeat(BLOCKS));
  volume.write(5 * BLOCK_BYTES, blocks(2, 1));
  volume.write(9 * BLOCK_BYTES + 7, new Uint8Array(1));
  const expected = ".....##..#" + ".".repeat(BLOCKS - 10);
  assertEquals(drawn(volume), expected);
  const flushed = volume.flush();
  assertEquals(drawn(volume), expected);
  await flushed;
  // the byte that was written is a zero: only the seal found out
  const stored = ".....##..." + ".".repeat(BLOCKS - 10);
  assertEquals(drawn(volume), stored);
  const { volume: after } = await reopenAfterCrash(opened);
  assertEquals(drawn(after), stored);
  after.abandon();
});

Deno.test("a request that begins or ends inside a block is told about its bytes and no others", async () => {
  const { volume } = await openVolume();
  volume.write(BLOCK_BYTES, blocks(1, 1));
  assertEquals(volume.extents(BLOCK_BYTES - 1, BLOCK_BYTES + 3, 9), [
    { lengthBytes: 1, isHole: true },
    { lengthBytes: BLOCK_BYTES, isHole: false },
    { lengthBytes: 2, isHole: true },
  ]);
  assertEquals(volume.extents(BLOCK_BYTES + 5, 6, 9), [{ lengthBytes: 6, isHole: false }]);
  assertEquals(volume.extents(0, volume.sizeBytes, 1), [
    { lengthBytes: BLOCK_BYTES, isHole: true },
  ]);
  volume.abandon();
});

Deno.test("a trim is a hole before, while and after it is stored", async () => {
  const opened = await openVolume();
  const { volume, bucket } = opened;
  volume.write(0, blocks(12, 1));
  await volume.flush();
  volume.trim(2 * BLOCK_BYTES, 7 * BLOCK_BYTES);
  const expected = "##.......###" + ".".repeat(BLOCKS - 12);
  assertEquals(drawn(volume), expected);
  bucket.hold("put");
  const flushed = volume.flush();
  await bucket.untilHeld(1);
  assertEquals(drawn(volume), expected);
  volume.write(4 * BLOCK_BYTES, blocks(1, 1));
  const written = "##..#....###" + ".".repeat(BLOCKS - 12);
  assertEquals(drawn(volume), written);
  bucket.release("put");
  await flushed;
  assertEquals(drawn(volume), written);
  await volume.flush();
  const { volume: after } = await reopenAfterCrash(opened);
  assertEquals(drawn(after), written);
  after.abandon();
});

Deno.test("after any changes holes read as zeroes, data is what somebody wrote, and the bucket is not asked", async () => {
  let seed = 1;
  const random = (below: number) => (seed = seed * 48271 % 2147483647) % below;
  const opened = await openVolume({ cacheStripes: 32 });
  const { volume, bucket } = opened;
  /** By block: whether it was written, and not trimmed since. */
  const written = new Array<boolean>(BLOCKS).fill(false);
  for (let step = 0; step < 400; step++) {
    const first = random(BLOCKS);
    const count = 1 + random(Math.min(12, BLOCKS - first));
    const verb = random(10);
    if (verb < 5) {
      await volume.write(first * BLOCK_BYTES, blocks(count, 1 + random(255)));
      written.fill(true, first, first + count);
    } else if (verb < 8) {
      await volume.trim(first * BLOCK_BYTES, count * BLOCK_BYTES);
      written.fill(false, first, first + count);
    } else if (verb < 9) {
      void volume.flush();
    } else {
      await volume.flush();
    }
    const gets = bucket.counts.get.requests;
    const drawing = drawn(volume, 1 + random(5));
    assertEquals(bucket.counts.get.requests, gets);
    for (let block = 0; block < BLOCKS; block++) {
      // a block that was trimmed may be stored as zeroes, with its stripe
      const isWrong = written[block] && drawing[block] === ".";
      assert(!isWrong, `step ${step}: block ${block} was written`);
    }
  }
  const bytes = await readBytes(volume, 0, volume.sizeBytes);
  const drawing = drawn(volume);
  for (let block = 0; block < BLOCKS; block++) {
    const isZero = bytes[block * BLOCK_BYTES] === 0;
    assertEquals(isZero, !written[block]);
    if (drawing[block] === ".") assert(isZero);
  }
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("holes of 4 GiB are told in one look, wherever data lies between them", async () => {
  const { volume } = await openVolume({ volumeBytes: TIB, stripeBytes: 4 * KIB });
  assertEquals(volume.extents(TIB - 4 * GIB, 4 * GIB, 9), [
    { lengthBytes: 4 * GIB, isHole: true },
  ]);
  volume.write(GIB, blocks(1, 1));
  const around = [
    { lengthBytes: GIB, isHole: true },
    { lengthBytes: BLOCK_BYTES, isHole: false },
  ];
  assertEquals(volume.extents(0, 4 * GIB - 4096, 2), around);
  assertEquals(allExtents(volume, 0, 4 * GIB - 4096), [
    ...around,
    { lengthBytes: 3 * GIB - 2 * 4096, isHole: true },
  ]);
  volume.abandon();
});

Deno.test("a look ends after a bounded number of steps, at a place from where it can go on", async () => {
  const count = EXTENT_STEPS_MAX + 100;
  const size = count * BLOCK_BYTES;
  const { volume } = await openVolume({
    volumeBytes: size,
    stripeBytes: BLOCK_BYTES,
    cacheStripes: 4 * count,
  });
  volume.write(0, new Uint8Array(size).fill(1));
  assertEquals(volume.extents(0, size, 9), [
    { lengthBytes: EXTENT_STEPS_MAX * BLOCK_BYTES, isHole: false },
  ]);
  assertEquals(allExtents(volume, 0, size), [{ lengthBytes: size, isHole: false }]);
  volume.abandon();
});

Deno.test("looking at the extents does not keep a stripe in the cache", async () => {
  const stored = await openVolume();
  for (let stripe = 0; stripe < 20; stripe++) {
    stored.volume.write(stripe * STRIPE_BYTES, blocks(4, 1));
    await stored.volume.flush();
  }
  const { volume, bucket } = await reopenAfterCrash(stored);
  for (let stripe = 0; stripe < 16; stripe++) await readBytes(volume, stripe * STRIPE_BYTES, 1);
  volume.extents(0, STRIPE_BYTES, 1);
  await readBytes(volume, 16 * STRIPE_BYTES, 1);
  const gets = bucket.counts.get.requests;
  await readBytes(volume, 0, 1);
  assertEquals(bucket.counts.get.requests, gets + 1, "the stripe used longest ago had to go");
  volume.abandon();
});
