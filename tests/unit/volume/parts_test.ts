/** Volumes with large stripes, whose records have parts: what is fetched of them, and what damage does. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DamageError } from "../../../src/errors.ts";
import { BLOCK_BYTES, MIB, PART_BYTES, STRIPE_UNPARTED_BYTES_MAX } from "../../../src/limits.ts";
import { VolumeCheck } from "../../../src/volume/check.ts";
import { decodeChecked } from "../../../src/volume/checked_json.ts";
import { segmentKey } from "../../../src/volume/segment.ts";
import type { VolumeOptions } from "../../../src/volume/volume_options.ts";
import { VOLUME_KEY, type VolumeInfo } from "../../../src/volume/volume_info.ts";
import type { MemoryBucket } from "../../support/memory_bucket.ts";
import { settle } from "../../support/manual_clock.ts";
import {
  blocks,
  firstBytes,
  hostNamed,
  KIB,
  openVolume,
  readBytes,
  reopenAfterCrash,
} from "./open_volume.ts";

const STRIPE_BYTES = MIB;
const STRIPE_BLOCKS = STRIPE_BYTES / BLOCK_BYTES;
const PART_BLOCKS = PART_BYTES / BLOCK_BYTES;
/** As it is stored. */
const PART_STORED_BYTES = 16 + PART_BYTES;
const SHAPE: Partial<VolumeOptions> = { stripeBytes: STRIPE_BYTES, volumeBytes: 16 * STRIPE_BYTES };
/** As programs made it that knew no parts. */
const OLD_SHAPE = { ...SHAPE, partBytes: STRIPE_BYTES };

/** What is in a block, as far as `openStored` wrote it: no two neighbours are alike. */
const valueOf = (block: number) => 1 + block % 251;

const valuesOf = (first: number, count: number) =>
  Array.from({ length: count }, (_, at) => valueOf(first + at));

/** The blocks from `first` on, each full of its value. */
function stored(first: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count * BLOCK_BYTES);
  for (let at = 0; at < count; at++) {
    bytes.fill(valueOf(first + at), at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES);
  }
  return bytes;
}

/** A volume whose first two stripes are stored, and nothing is cached or counted. */
async function openStored(shape = SHAPE) {
  const before = await openVolume(shape);
  await before.volume.write(0, stored(0, 2 * STRIPE_BLOCKS));
  await before.volume.flush();
  const opened = await reopenAfterCrash(before, shape);
  opened.bucket.counts.get.bytes = opened.bucket.counts.get.requests = 0;
  return opened;
}

function infoOf(bucket: MemoryBucket): VolumeInfo {
  return decodeChecked<VolumeInfo>(VOLUME_KEY, bucket.objects.get(VOLUME_KEY)!.bytes);
}

Deno.test("a new volume has parts if its stripes are large, and says so in a format of its own", async () => {
  for (let stripeBytes = BLOCK_BYTES; stripeBytes <= 4 * MIB; stripeBytes *= 2) {
    const { volume, bucket } = await openVolume({ stripeBytes, volumeBytes: 64 * MIB });
    const info = infoOf(bucket);
    const isLarge = stripeBytes > STRIPE_UNPARTED_BYTES_MAX;
    assertEquals([info.format, info.partBytes], isLarge ? [2, PART_BYTES] : [1, undefined]);
    assertEquals("partBytes" in info, isLarge);
    volume.abandon();
  }
});

Deno.test("a read here and there fetches the part it needs, and of small stripes all", async () => {
  const { volume, bucket } = await openStored();
  assertEquals(await firstBytes(volume, 150, 1), [valueOf(150)]);
  assertEquals(bucket.counts.get, { ...bucket.counts.get, requests: 1, bytes: PART_STORED_BYTES });
  volume.abandon();
  const small = await openStored({ ...SHAPE, stripeBytes: 64 * KIB });
  assertEquals(await firstBytes(small.volume, 150, 1), [valueOf(150)]);
  assertEquals(small.bucket.counts.get.bytes, 16 + 64 * KIB);
  small.volume.abandon();
});

Deno.test("a longer read fetches the parts it touches, in one GET", async () => {
  const { volume, bucket } = await openStored();
  const [first, count] = [STRIPE_BLOCKS - 2 * PART_BLOCKS - 1, 4 * PART_BLOCKS]; // over a border of stripes
  assertEquals(await firstBytes(volume, first, count), valuesOf(first, count));
  const { requests, bytes } = bucket.counts.get;
  assertEquals([requests, bytes], [1, 5 * PART_STORED_BYTES]);
  volume.abandon();
});

Deno.test("who stays in a stripe has all of it after a few GETs", async () => {
  const { volume, bucket } = await openStored();
  for (let at = 0; at < STRIPE_BLOCKS; at++) {
    const block = at * 77 % STRIPE_BLOCKS;
    assertEquals(await firstBytes(volume, block, 1), [valueOf(block)]);
  }
  const { requests, bytes } = bucket.counts.get;
  // 16 KiB, as much again, then some of 32 KiB, of 64 KiB and so on
  assert(requests <= 12, `${requests} GETs`);
  // a gap that is here already is read again where that saves a GET
  assert(bytes < 1.25 * STRIPE_BYTES, `${bytes} bytes`);
  volume.abandon();
});

Deno.test("readers of different parts of a stripe at once all get their bytes, and each part comes once", async () => {
  const { volume, bucket } = await openStored();
  const reads = Array.from({ length: 64 }, (_, part) => firstBytes(volume, part * PART_BLOCKS, 1));
  const found = (await Promise.all(reads)).flat();
  assertEquals(found, found.map((_, part) => valueOf(part * PART_BLOCKS)));
  assertEquals(bucket.counts.get.bytes, 64 * PART_STORED_BYTES);
  volume.abandon();
});

Deno.test("a write to some bytes fetches no more than the parts at its ends", async () => {
  const { volume, bucket } = await openStored();
  await volume.write(100 * KIB + 5, new Uint8Array(500 * KIB).fill(0xee));
  assertEquals(bucket.counts.get.requests, 2);
  assertEquals(bucket.counts.get.bytes, 2 * PART_STORED_BYTES);
  await volume.flush();
  const found = await readBytes(volume, 0, STRIPE_BYTES);
  const expected = stored(0, STRIPE_BLOCKS);
  expected.fill(0xee, 100 * KIB + 5, 600 * KIB + 5);
  assertEquals(found, expected);
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("a write, a zero and a trim win over a fetch of their part that was under way before them", async () => {
  const { volume, bucket } = await openStored();
  bucket.hold("get");
  const read = firstBytes(volume, 20, 1);
  await bucket.untilHeld(1);
  await volume.write(21 * BLOCK_BYTES, blocks(1, 0xaa));
  await volume.zero(22 * BLOCK_BYTES, BLOCK_BYTES);
  await volume.trim(23 * BLOCK_BYTES, BLOCK_BYTES);
  await volume.write(40 * BLOCK_BYTES, blocks(1, 0xbb)); // in a part that is not fetched
  bucket.release("get");
  assertEquals(await read, [valueOf(20)]);
  const expected = [valueOf(20), 0xaa, 0, 0, valueOf(24)];
  assertEquals(await firstBytes(volume, 20, 5), expected);
  await volume.flush();
  assertEquals(await firstBytes(volume, 20, 5), expected);
  assertEquals(await firstBytes(volume, 39, 3), [valueOf(39), 0xbb, valueOf(41)]);
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("patches have parts, too, from where they begin", async () => {
  const opened = await openStored();
  // 11 blocks: two parts and one of three blocks, across the parts of the base
  const patch = stored(1000, 11);
  await opened.volume.write(6 * BLOCK_BYTES, patch);
  await opened.volume.flush();
  const { volume, bucket } = await reopenAfterCrash(opened, SHAPE);
  bucket.counts.get.bytes = 0;
  assertEquals(await firstBytes(volume, 15, 1), [valueOf(1009)]);
  // blocks 12 to 15 are wanted, which the second part of the patch and the third have
  assertEquals(bucket.counts.get.bytes, PART_STORED_BYTES + 16 + 3 * BLOCK_BYTES);
  assertEquals(await firstBytes(volume, 0, 24), [
    ...valuesOf(0, 6),
    ...valuesOf(1000, 11),
    ...valuesOf(17, 7),
  ]);
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("a stream has whole stripes fetched ahead of it, and what is here already is not counted", async () => {
  const before = await openVolume(SHAPE);
  await before.volume.write(0, stored(0, 12 * STRIPE_BLOCKS));
  await before.volume.flush();
  const { volume, bucket } = await reopenAfterCrash(before, { ...SHAPE, readaheadBytes: 2 * MIB });
  await firstBytes(volume, 2 * STRIPE_BLOCKS + 100, 1); // a part of a stripe ahead
  bucket.counts.get.bytes = 0;
  for (let at = 0; at < 2 * STRIPE_BYTES; at += 32 * KIB) {
    await readBytes(volume, at, 32 * KIB);
    await settle();
  }
  const { bytes } = bucket.counts.get;
  const { readAheadBytes } = volume.figures().cache;
  assert(volume.tryRead(2 * STRIPE_BYTES, new Uint8Array(STRIPE_BYTES)));
  assertEquals(readAheadBytes, 3 * STRIPE_BYTES - PART_BYTES);
  // in the first stripe it was no stream yet; the part that was here lay between others of one GET
  assertEquals(bytes, 4 * STRIPE_BYTES / PART_BYTES * PART_STORED_BYTES);
  volume.abandon();
});

Deno.test("a client that has a range prefetched gets the parts of it, and what is there already only once", async () => {
  const { volume, bucket } = await openStored();
  await firstBytes(volume, 1, 1);
  await volume.prefetch(0, 128 * KIB);
  assertEquals(bucket.counts.get.bytes, 8 * PART_STORED_BYTES);
  assert(volume.tryRead(0, new Uint8Array(128 * KIB)));
  assertEquals(volume.prefetch(0, 128 * KIB), undefined);
  volume.abandon();
});

Deno.test("a prefetch brings the rest of a stripe of which a reader is having a part fetched", async () => {
  const { volume, bucket } = await openStored();
  bucket.hold("get");
  const read = firstBytes(volume, 1, 1);
  await bucket.untilHeld(1);
  const prefetched = volume.prefetch(0, 128 * KIB);
  bucket.release("get");
  await Promise.all([read, prefetched]);
  assert(volume.tryRead(0, new Uint8Array(128 * KIB)));
  const { requests, bytes } = bucket.counts.get;
  assertEquals([requests, bytes], [2, 8 * PART_STORED_BYTES]);
  volume.abandon();
});

Deno.test("damage in a part is an error for who reads its blocks, and nobody else", async () => {
  const { volume, bucket } = await openStored();
  const offset = recordsAt(2) + 5 * PART_STORED_BYTES;
  bucket.flipBit(segmentKey(2), 8 * (offset + 5000));
  const damaged = 5 * PART_BLOCKS;
  // together with the parts beside it, and one of them with this one
  const around = [damaged - 1, damaged + PART_BLOCKS, damaged + 2].map((block) =>
    firstBytes(volume, block, 1)
  );
  assertEquals(await around[0], [valueOf(damaged - 1)]);
  assertEquals(await around[1], [valueOf(damaged + PART_BLOCKS)]);
  const error = await assertRejects(() => around[2], DamageError);
  assertStringIncludes(error.message, `${segmentKey(2)} at offset ${offset}: record is damaged`);
  // whatever else is fetched with a block
  for (const step of [1, 77, STRIPE_BLOCKS - 1]) {
    const { volume } = await openVolume(SHAPE, { bucket: bucket.copy() });
    for (let at = 1; at <= STRIPE_BLOCKS; at++) {
      const block = at * step % STRIPE_BLOCKS;
      const isDamaged = block >= damaged && block < damaged + PART_BLOCKS;
      if (isDamaged) await assertRejects(() => firstBytes(volume, block, 1), DamageError);
      else assertEquals(await firstBytes(volume, block, 1), [valueOf(block)]);
    }
    volume.abandon();
  }
  volume.checkInvariants();
  await volume.write(damaged * BLOCK_BYTES, blocks(PART_BLOCKS, 0x77));
  assertEquals(await firstBytes(volume, damaged - 1, 2), [valueOf(damaged - 1), 0x77]);
  await volume.flush();
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("check finds damage in any part, and says which blocks are lost", async () => {
  const opened = await openStored();
  await opened.volume.write(2 * BLOCK_BYTES, stored(500, 3));
  await opened.volume.close();
  const check = async (harm: (copy: MemoryBucket) => void) => {
    const copy = opened.bucket.copy();
    harm(copy);
    const check = await VolumeCheck.begin(copy, hostNamed("here"), opened.clock);
    await check.run(() => {});
    return check.findings;
  };
  assertEquals(await check(() => {}), []);
  for (let part = 0; part < 2 * STRIPE_BYTES / PART_BYTES; part++) {
    const at = recordsAt(2) + part * PART_STORED_BYTES;
    const found = await check((copy) => copy.flipBit(segmentKey(2), 8 * at + 77));
    assertEquals(found.map(({ ranges }) => ranges), [[
      part === 0
        ? { offset: 0, length: 2 * BLOCK_BYTES }
        : part === 1
        ? { offset: PART_BYTES + BLOCK_BYTES, length: PART_BYTES - BLOCK_BYTES }
        : { offset: part * PART_BYTES, length: PART_BYTES },
    ]]);
    assertStringIncludes(found[0].what, `${segmentKey(2)} at offset ${at}: record is damaged`);
  }
});

Deno.test("reclaim moves what is live out of segments with parts", async () => {
  const { volume, bucket, clock } = await openVolume({ ...SHAPE, garbageBytesMin: 4096 });
  await volume.write(0, stored(0, 2 * STRIPE_BLOCKS));
  await volume.flush();
  await volume.write(0, stored(7, STRIPE_BLOCKS)); // half of the segment is dead
  await volume.flush();
  await volume.write(3 * STRIPE_BYTES, stored(3, 20)); // a patch, of which half is dead
  await volume.flush();
  await volume.write(3 * STRIPE_BYTES, stored(5, 10));
  await volume.flush();
  let isDone = false;
  const reclaimed = volume.reclaim(() => {}).finally(() => isDone = true);
  while (!isDone) await clock.advance(100);
  const { storedBytes, liveBytes } = await reclaimed;
  assert(storedBytes < 1.1 * liveBytes, `${storedBytes} stored, ${liveBytes} live`);
  assert(!bucket.objects.has(segmentKey(2)));
  volume.checkInvariants();
  await volume.close();
  const { volume: next } = await openVolume({ ...SHAPE }, { bucket });
  assertEquals(await readBytes(next, 0, STRIPE_BYTES), stored(7, STRIPE_BLOCKS));
  assertEquals(await readBytes(next, STRIPE_BYTES, STRIPE_BYTES), stored(256, STRIPE_BLOCKS));
  assertEquals(await firstBytes(next, 3 * STRIPE_BLOCKS, 20), [
    ...valuesOf(5, 10),
    ...valuesOf(13, 10),
  ]);
  next.abandon();
});

Deno.test("reclaim moves a stripe whole of which a reader is having a part fetched", async () => {
  const { volume, bucket, clock } = await openStored();
  await volume.write(0, stored(7, STRIPE_BLOCKS)); // half of the segment is dead
  await volume.flush();
  bucket.hold("get");
  const read = firstBytes(volume, STRIPE_BLOCKS + 10, 1);
  await bucket.untilHeld(1);
  let isDone = false;
  const reclaimed = volume.reclaim(() => {}).finally(() => isDone = true);
  await bucket.untilHeld(2);
  bucket.held[1].release(); // the segment's head
  await settle();
  bucket.release("get");
  while (!isDone) await clock.advance(100);
  await reclaimed;
  assert(!bucket.objects.has(segmentKey(2)), "it could not be emptied");
  assertEquals(await read, [valueOf(STRIPE_BLOCKS + 10)]);
  assertEquals(await readBytes(volume, STRIPE_BYTES, STRIPE_BYTES), stored(256, STRIPE_BLOCKS));
  volume.abandon();
});

Deno.test("a volume with large stripes that has no parts is read and written as it is", async () => {
  const opened = await openStored(OLD_SHAPE);
  assertEquals([infoOf(opened.bucket).format, infoOf(opened.bucket).partBytes], [1, undefined]);
  const { volume, bucket, clock } = await reopenAfterCrash(opened, SHAPE); // which would make parts
  bucket.counts.get.bytes = 0;
  assertEquals(await firstBytes(volume, 150, 1), [valueOf(150)]);
  assertEquals(bucket.counts.get.bytes, 16 + STRIPE_BYTES, "the whole record");
  await volume.write(5, new Uint8Array(10).fill(0xee));
  await volume.write(STRIPE_BYTES, stored(9, STRIPE_BLOCKS));
  await volume.close();
  assertEquals([infoOf(bucket).format, infoOf(bucket).partBytes], [1, undefined]);
  const newest = bucket.objects.get(segmentKey(5))!.bytes;
  assertEquals(newest.length, 72 + 2 * 28 + 16 + BLOCK_BYTES + 16 + STRIPE_BYTES);
  const check = await VolumeCheck.begin(bucket, hostNamed("here"), clock);
  await check.run(() => {});
  assertEquals(check.findings, []);
  const { volume: next } = await openVolume(SHAPE, { bucket });
  const expected = stored(0, STRIPE_BLOCKS);
  expected.fill(0xee, 5, 15);
  assertEquals(await readBytes(next, 0, STRIPE_BYTES), expected);
  assertEquals(await readBytes(next, STRIPE_BYTES, STRIPE_BYTES), stored(9, STRIPE_BLOCKS));
  next.abandon();
});

/** Where the first record of a segment of so many whole stripes begins. */
function recordsAt(records: number): number {
  return 72 + records * 28;
}
