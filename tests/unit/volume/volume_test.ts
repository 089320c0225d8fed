import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DamageError, UsageError } from "../../../src/errors.ts";
import {
  BLOCK_BYTES,
  CHECKPOINT_MS,
  GIB,
  MAP_PAGE_STRIPES,
  MIB,
  TIB,
} from "../../../src/limits.ts";
import { decodeChecked, encodeChecked } from "../../../src/volume/checked_json.ts";
import { listCheckpoints, loadCheckpoint } from "../../../src/volume/checkpoint.ts";
import { volumeMemoryBytesMax } from "../../../src/volume/memory.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";
import { VOLUME_KEY, type VolumeInfo } from "../../../src/volume/volume_info.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import {
  blocks,
  firstBytes,
  KIB,
  logKeys,
  openVolume,
  OPTIONS,
  readBytes,
  rememberingLogger,
  reopenAfterCrash,
} from "./open_volume.ts";

function text(bucket: MemoryBucket, key: string): string {
  return new TextDecoder().decode(bucket.objects.get(key)!.bytes);
}

Deno.test("a new volume reads as zeroes everywhere", async () => {
  const { volume } = await openVolume();
  assertEquals(volume.sizeBytes, OPTIONS.volumeBytes);
  assertEquals(await readBytes(volume, 0, 1 * MIB), new Uint8Array(1 * MIB));
  volume.abandon();
});

Deno.test("what was written before a clean stop is there after it, and nothing is replayed", async () => {
  const { volume, bucket, clock } = await openVolume();
  for (let block = 0; block < 100; block++) {
    await volume.write(block * BLOCK_BYTES, blocks(1, block + 1));
  }
  const told: number[] = [];
  await volume.close((unstoredBytes) => told.push(unstoredBytes));
  assert(told.length > 1 && told[0] > 0 && told.at(-1) === 0, `progress: ${told}`);
  assertEquals(clock.pending, 0, "no timer is left behind");
  await assertRejects(() => volume.read(0, blocks(1, 0)), UsageError, "closed");
  const { volume: next } = await openVolume({}, { bucket, clock });
  const expected = Array.from({ length: 100 }, (_, block) => block + 1);
  assertEquals(await firstBytes(next, 0, 100), expected);
  next.abandon();
});

Deno.test("a close waits for what is on its way, and for S3 to come back", async () => {
  const { volume, bucket, clock } = await openVolume();
  bucket.hold("put");
  volume.write(0, blocks(1, 1));
  let closed = false;
  const closing = volume.close().then(() => closed = true);
  await clock.advance(60_000);
  assertEquals(closed, false);
  bucket.release("put");
  await closing;
  const { volume: next } = await openVolume({}, { bucket });
  assertEquals(await firstBytes(next, 0, 1), [1]);
  next.abandon();
});

Deno.test("a write that waits while the volume is closed leaves no timer behind", async () => {
  const { volume, bucket, clock } = await openVolume();
  bucket.hold("put");
  for (let at = 0; at < 8; at++) volume.write(at * 16 * KIB, blocks(4, 1));
  const waiting = [8, 9].map((at) => volume.write(at * 16 * KIB, blocks(4, 2))!);
  const ends = Promise.allSettled(waiting);
  const closing = volume.close();
  bucket.release("put");
  await closing;
  await ends;
  assertEquals(clock.pending, 0);
});

Deno.test("a larger VOLUMESIZE grows the disk, and it stays grown", async () => {
  const { volume, bucket } = await openVolume({ volumeBytes: 1 * MIB + BLOCK_BYTES });
  volume.write(1 * MIB, blocks(1, 1));
  await volume.close();
  const { volume: grown } = await openVolume({ volumeBytes: 4 * MIB }, { bucket });
  assertEquals(grown.sizeBytes, 4 * MIB);
  assertEquals(await firstBytes(grown, 256, 2), [1, 0]);
  grown.write(4 * MIB - BLOCK_BYTES, blocks(1, 2));
  await grown.close();
  const { volume: next } = await openVolume({ volumeBytes: undefined }, { bucket });
  assertEquals(next.sizeBytes, 4 * MIB);
  assertEquals(await firstBytes(next, 1023, 1), [2]);
  next.abandon();
});

Deno.test("another STRIPE or a smaller VOLUMESIZE is refused, naming both values", async () => {
  const { volume, bucket } = await openVolume();
  await volume.close();
  const before = new Map(bucket.objects);
  const stripe = await assertRejects(() => openVolume({ stripeBytes: 64 * KIB }, { bucket }));
  assert(stripe instanceof UsageError);
  for (const part of ["STRIPE", "65536", "16384"]) assertStringIncludes(stripe.message, part);
  const size = await assertRejects(() => openVolume({ volumeBytes: 512 * KIB }, { bucket }));
  assert(size instanceof UsageError);
  for (const part of ["VOLUMESIZE", "524288", "1048576"]) assertStringIncludes(size.message, part);
  assertEquals(bucket.objects, before, "nothing was touched");
});

Deno.test("without STRIPE and VOLUMESIZE the volume is opened as it is; a new one needs its size", async () => {
  const open = { stripeBytes: undefined, volumeBytes: undefined };
  await assertRejects(() => openVolume(open), UsageError, "VOLUMESIZE");
  const { volume, bucket } = await openVolume();
  await volume.close();
  const { volume: next } = await openVolume(open, { bucket });
  assertEquals([next.sizeBytes, next.preferredBytes], [OPTIONS.volumeBytes, 16 * KIB]);
  next.abandon();
});

Deno.test("a volume.json that is damaged or of another format is refused", async () => {
  const { volume, bucket } = await openVolume();
  await volume.close();
  const good = bucket.objects.get(VOLUME_KEY)!.bytes;
  const info = decodeChecked<VolumeInfo>(VOLUME_KEY, good);
  const otherSize = text(bucket, VOLUME_KEY).replace("1048576", "1048577");
  const harms: [Uint8Array, typeof DamageError | typeof UsageError][] = [
    [good.subarray(0, 20), DamageError],
    [new Uint8Array(), DamageError],
    [new TextEncoder().encode(otherSize), DamageError],
    [encodeChecked({ ...info, format: 2 }), UsageError],
  ];
  for (const [bytes, kind] of harms) {
    bucket.objects.set(VOLUME_KEY, { bytes, etag: "harm" });
    for (const options of [{}, { stripeBytes: undefined, volumeBytes: undefined }]) {
      await assertRejects(() => openVolume(options, { bucket }), kind, VOLUME_KEY);
    }
  }
});

Deno.test("a volume.json that is missing is not made anew over the rest of a volume", async () => {
  const { volume, bucket } = await openVolume();
  volume.write(0, blocks(1, 1));
  await volume.close();
  bucket.objects.delete(VOLUME_KEY);
  const others = { stripeBytes: 64 * KIB };
  for (const withLog of [true, false]) {
    if (!withLog) { for (const key of logKeys(bucket)) bucket.objects.delete(key); }
    const before = new Map(bucket.objects);
    await assertRejects(() => openVolume(others, { bucket }), DamageError, VOLUME_KEY);
    assertEquals(bucket.objects, before, "nothing was touched");
  }
});

Deno.test("a new volume is made beside what is nobody's", async () => {
  const bucket = new MemoryBucket();
  for (const key of ["checkpoint/", "log/", "readme"]) await bucket.put(key, new Uint8Array());
  const { volume } = await openVolume({}, { bucket });
  assertEquals(volume.epoch, 1);
  volume.abandon();
});

Deno.test("a volume that another program creates while we look for it is opened", async () => {
  const other = await openVolume();
  other.volume.abandon();
  const bucket = new MemoryBucket();
  bucket.hold("list");
  const opened = openVolume({}, { bucket });
  await bucket.untilHeld(1); // volume.json is not there
  for (const [key, object] of other.bucket.objects) bucket.objects.set(key, object);
  bucket.release("list");
  const { volume } = await opened;
  assertEquals(volume.epoch, 2);
  volume.abandon();
});

Deno.test("a disk whose size is no multiple of stripe or block works to its last byte", async () => {
  const volumeBytes = 5 * 16 * KIB + BLOCK_BYTES + 100;
  const opened = await openVolume({ volumeBytes });
  const data = new Uint8Array(3000).fill(7);
  await opened.volume.write(volumeBytes - 3000, data);
  await opened.volume.flush();
  const { volume } = await reopenAfterCrash(opened, { volumeBytes });
  assertEquals(await readBytes(volume, volumeBytes - 3000, 3000), data);
  await volume.zero(volumeBytes - 50, 50);
  assertEquals(
    (await readBytes(volume, volumeBytes - 51, 51)).filter((b) => b !== 0),
    data.slice(0, 1),
  );
  volume.abandon();
});

Deno.test("a checkpoint is stored a quarter of an hour after the first change, and not without one", async () => {
  const { volume, bucket, clock } = await openVolume();
  await clock.advance(2 * CHECKPOINT_MS);
  assertEquals(await listCheckpoints(bucket), []);
  volume.write(0, blocks(1, 1));
  await volume.flush();
  await clock.advance(CHECKPOINT_MS - 1);
  assertEquals(await listCheckpoints(bucket), []);
  await clock.advance(1);
  assertEquals(await listCheckpoints(bucket), [2]);
  await clock.advance(2 * CHECKPOINT_MS);
  assertEquals(await listCheckpoints(bucket), [2]);
  volume.abandon();
});

Deno.test("a checkpoint is stored after 1,000 segments", async () => {
  const { volume, bucket } = await openVolume();
  for (let at = 0; logKeys(bucket).length < 1002; at++) {
    volume.write((at % 50) * BLOCK_BYTES, blocks(1, 1 + at % 200));
    await volume.flush();
  }
  assertEquals(await listCheckpoints(bucket), [1000]);
  volume.abandon();
});

Deno.test("a checkpoint that can't be stored is a warning, and the disk goes on", async () => {
  const logger = rememberingLogger();
  const { volume, bucket, clock } = await openVolume({}, { logger });
  volume.write(0, blocks(1, 1));
  await volume.flush();
  await clock.advance(CHECKPOINT_MS - 10_000);
  bucket.hold("put");
  await clock.advance(10_000);
  for (const request of [...bucket.held]) request.fail();
  bucket.release("put");
  await clock.advance(0);
  assert(logger.warnings.some((line) => line.includes("checkpoint 2 not stored")));
  volume.write(0, blocks(1, 2));
  await volume.close();
  const { volume: next } = await openVolume({}, { bucket });
  assertEquals(await firstBytes(next, 0, 1), [2]);
  next.abandon();
});

Deno.test("the memory a volume may take is stated, and covers its cache and its map", () => {
  const options = { ...OPTIONS, cacheStripes: 4096, uploads: 8 };
  const info = { format: 1, uuid: "", created: "", stripeBytes: 64 * KIB, volumeBytes: 1 * GIB };
  const small = volumeMemoryBytesMax(options, info);
  assert(small > 256 * MIB && small < 1 * GIB, `${small}`);
  const large = volumeMemoryBytesMax(options, { ...info, volumeBytes: 1 * TIB });
  assert(
    large - small > 2 * 190 * MIB && large - small < 2 * 260 * MIB,
    `${large - small} for a TiB more`,
  );
});

Deno.test("the checkpoint behind a trim of many pages says that nothing is live", async () => {
  const stripeBytes = OPTIONS.stripeBytes!;
  const pages = 8;
  const pageBytes = MAP_PAGE_STRIPES * stripeBytes;
  const { volume, bucket, clock } = await openVolume({
    volumeBytes: pages * pageBytes,
    turnMs: 0,
  });
  for (let page = 0; page < pages; page++) await volume.write(page * pageBytes, blocks(4, 1));
  await volume.trim(0, pages * pageBytes);
  let isClosed = false;
  const closed = volume.close().finally(() => isClosed = true);
  while (!isClosed) await clock.advance(1);
  await closed;
  const map = new StripeMap(stripeBytes / BLOCK_BYTES);
  await loadCheckpoint(bucket, (await listCheckpoints(bucket))[0], map);
  map.checkInvariants();
  assertEquals(map.total.liveBytes, 0);
});

Deno.test("a stop right behind a checkpoint stores none once more", async () => {
  const { volume, bucket, clock } = await openVolume();
  await volume.write(0, blocks(4, 1));
  await volume.flush();
  await clock.advance(CHECKPOINT_MS);
  const [newest] = await listCheckpoints(bucket);
  assertEquals(newest, 2);
  const { requests } = bucket.counts.put;
  await volume.close();
  assertEquals(bucket.counts.put.requests - requests, 1, "the lease");
});

Deno.test("what a trim of many pages leaves of live bytes goes a page at a time, if a turn is no longer", async () => {
  const stripeBytes = OPTIONS.stripeBytes!;
  const pages = 8;
  const pageBytes = MAP_PAGE_STRIPES * stripeBytes;
  const { volume, clock } = await openVolume({ volumeBytes: pages * pageBytes, turnMs: 0 });
  const flush = async () => {
    const flushed = volume.flush();
    await clock.advance(0);
    await flushed;
  };
  for (let page = 0; page < pages; page++) volume.write(page * pageBytes, blocks(4, 1));
  await flush();
  const live = [volume.figures().log.liveBytes];
  const after = clock.after.bind(clock);
  clock.after = (delayMs, callback) =>
    after(delayMs, () => {
      live.push(volume.figures().log.liveBytes);
      callback();
    });
  volume.trim(0, pages * pageBytes);
  await flush();
  const [all] = live;
  live.push(volume.figures().log.liveBytes);
  assertEquals(
    [...new Set(live)],
    Array.from({ length: pages + 1 }, (_, n) => all - n * all / pages),
  );
  volume.abandon();
});
