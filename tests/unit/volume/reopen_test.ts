/** What a writer stores anew of the map that it found: nothing, if those before it have released the volume. */
import { assertEquals, assertRejects } from "@std/assert";
import type { Bucket } from "../../../src/bucket/bucket.ts";
import { DamageError, FencedError } from "../../../src/errors.ts";
import {
  BLOCK_BYTES,
  CHECKPOINT_MS,
  IDLE_SEGMENTS_MAX,
  MAP_PAGE_STRIPES,
} from "../../../src/limits.ts";
import { listCheckpoints, loadCheckpoint } from "../../../src/volume/checkpoint.ts";
import { checkpointKey } from "../../../src/volume/checkpoint_format.ts";
import { packKey } from "../../../src/volume/checkpoint_format.ts";
import { LEASE_KEY } from "../../../src/volume/lease.ts";
import { segmentKey } from "../../../src/volume/segment.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";
import type { Volume } from "../../../src/volume/volume.ts";
import type { ManualClock } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { blocks, firstBytes, hostNamed, openVolume, OPTIONS } from "./open_volume.ts";

/** So few that a checkpoint takes one turn: nobody turns the clock. */
const PAGES = 6;
const STRIPE_BLOCKS = OPTIONS.stripeBytes! / BLOCK_BYTES;
const PAGE_BYTES = MAP_PAGE_STRIPES * OPTIONS.stripeBytes!;
const ROOMY = { volumeBytes: PAGES * PAGE_BYTES };
/** Of a stored page in which one stripe has a base, and nothing else. */
const STORED_PAGE_BYTES = 16 + 16;

const open = (bucket: MemoryBucket, around = {}) => openVolume(ROOMY, { bucket, ...around });

/** A whole stripe of one page of the map. */
const writePage = (volume: Volume, page: number, value: number) =>
  volume.write(page * PAGE_BYTES, blocks(STRIPE_BLOCKS, value));

const valueIn = async (volume: Volume, page: number) =>
  (await firstBytes(volume, page * PAGE_BYTES / BLOCK_BYTES, 1))[0];

/** Opens the volume, does something, and stops. */
async function session(bucket: MemoryBucket, act: (volume: Volume) => unknown, around = {}) {
  const { volume } = await open(bucket, around);
  await act(volume);
  await volume.close();
}

/** The one that is due some time after a change. */
async function storeCheckpoint(volume: Volume, clock: ManualClock): Promise<void> {
  await volume.flush();
  await clock.advance(CHECKPOINT_MS);
}

/** A volume with all pages of its map, that was stopped in good order. */
async function stopped(): Promise<MemoryBucket> {
  const bucket = new MemoryBucket();
  await session(bucket, async (volume) => {
    for (let page = 0; page < PAGES; page++) await writePage(volume, page, 1);
  });
  return bucket;
}

/** How many pages the newest checkpoint has stored, and how many it names. */
async function newestPages(bucket: MemoryBucket): Promise<{ stored: number; named: number }> {
  const [newest] = await listCheckpoints(bucket);
  const { pages } = await loadCheckpoint(bucket, newest, new StripeMap(STRIPE_BLOCKS));
  const stored = [...pages.values()].filter(({ packSeq }) => packSeq === newest);
  return { stored: stored.length, named: pages.size };
}

Deno.test("a volume that was stopped and opened again stores the one page of its map that has changed", async () => {
  const bucket = await stopped();
  const { requests } = bucket.counts.put;
  await session(bucket, (volume) => writePage(volume, 3, 2));
  assertEquals(await newestPages(bucket), { stored: 1, named: PAGES });
  // reservation, claim, lease; the segment; page and root; lease
  assertEquals(bucket.counts.put.requests - requests, 7);
  const [newest] = await listCheckpoints(bucket);
  assertEquals(bucket.objects.get(packKey(newest, 0))!.bytes.length, STORED_PAGE_BYTES);
  const { volume } = await open(bucket);
  const values = Array.from({ length: PAGES }, (_, page) => valueIn(volume, page));
  assertEquals(await Promise.all(values), [1, 1, 1, 2, 1, 1]);
  volume.abandon();
});

Deno.test("what little an older pack still has moves on, whoever stored it", async () => {
  const bucket = await stopped();
  const [first] = await listCheckpoints(bucket);
  for (let page = 0; page < PAGES - 2; page++) {
    await session(bucket, (volume) => writePage(volume, page, 2));
  }
  await session(bucket, (volume) => writePage(volume, 0, 3));
  assertEquals(bucket.objects.has(packKey(first, 0)), false);
  assertEquals((await newestPages(bucket)).named, PAGES);
});

Deno.test("what those who only look leave behind does not make the next one store the map anew", async () => {
  const bucket = await stopped();
  await session(bucket, () => {});
  await session(bucket, (volume) => volume.write(0, blocks(STRIPE_BLOCKS, 2)));
  assertEquals(await newestPages(bucket), { stored: 1, named: PAGES });
  for (let count = 0; count <= IDLE_SEGMENTS_MAX; count++) await session(bucket, () => {});
  assertEquals(await newestPages(bucket), { stored: 0, named: PAGES });
});

Deno.test("another machine goes on with the map of one that has released the volume", async () => {
  const bucket = await stopped();
  await session(bucket, (volume) => writePage(volume, 3, 2), { host: hostNamed("there") });
  assertEquals(await newestPages(bucket), { stored: 1, named: PAGES });
});

Deno.test("the map of a writer that has not released the volume is stored anew, whoever came after it", async () => {
  for (const looksBetween of [0, 2]) {
    const bucket = await stopped();
    const { volume, clock } = await open(bucket);
    await writePage(volume, 3, 2);
    await storeCheckpoint(volume, clock);
    assertEquals(await newestPages(bucket), { stored: 1, named: PAGES });
    volume.abandon();
    for (let count = 0; count < looksBetween; count++) await session(bucket, () => {});
    await session(bucket, (volume) => writePage(volume, 4, 3));
    assertEquals(await newestPages(bucket), { stored: PAGES, named: PAGES });
    await session(bucket, (volume) => writePage(volume, 5, 4));
    assertEquals(await newestPages(bucket), { stored: 1, named: PAGES });
  }
});

Deno.test("an epoch of which the lease does not tell has the map stored anew", async () => {
  const bucket = await stopped();
  const lease = bucket.objects.get(LEASE_KEY)!;
  const { volume } = await open(bucket);
  volume.abandon();
  bucket.objects.set(LEASE_KEY, lease);
  await session(bucket, (volume) => writePage(volume, 3, 2));
  assertEquals(await newestPages(bucket), { stored: PAGES, named: PAGES });
});

Deno.test("an opening that fails after a crash does not make the writer before it look gone", async () => {
  const bucket = await stopped();
  const { volume, clock } = await open(bucket);
  await writePage(volume, 3, 2);
  await storeCheckpoint(volume, clock);
  volume.abandon();
  const damaged = bucket.copy();
  for (const seq of await listCheckpoints(bucket)) damaged.objects.delete(checkpointKey(seq));
  damaged.flipBit(segmentKey(1), 100);
  await assertRejects(() => open(damaged), DamageError);
  bucket.objects.set(LEASE_KEY, damaged.objects.get(LEASE_KEY)!);
  await session(bucket, (volume) => writePage(volume, 4, 3));
  assertEquals(await newestPages(bucket), { stored: PAGES, named: PAGES });
});

Deno.test("behind a checkpoint that is damaged the map is stored anew", async () => {
  const bucket = await stopped();
  await session(bucket, (volume) => writePage(volume, 3, 2));
  bucket.flipBit(checkpointKey((await listCheckpoints(bucket))[0]), 300);
  await session(bucket, (volume) => writePage(volume, 4, 3));
  assertEquals(await newestPages(bucket), { stored: PAGES, named: PAGES });
});

Deno.test("a writer that was taken over and cleans up behind later checkpoints takes nothing that its successor needs", async () => {
  const bucket = await stopped();
  const gate = Promise.withResolvers<void>();
  let isSlow = false;
  const slowly: Bucket = {
    name: bucket.name,
    get: (...args) => bucket.get(...args),
    put: async (key, ...args) => {
      if (isSlow && key.startsWith("map/")) await gate.promise;
      return await bucket.put(key, ...args);
    },
    delete: (...args) => bucket.delete(...args),
    list: (...args) => bucket.list(...args),
    close: () => {},
  };
  const { volume: old, clock } = await openVolume(ROOMY, { bucket: slowly });
  await writePage(old, 3, 2);
  await storeCheckpoint(old, clock);
  const [found] = await listCheckpoints(bucket);
  isSlow = true;
  await writePage(old, 3, 3);
  await storeCheckpoint(old, clock); // no: it is under way
  await writePage(old, 3, 4);
  await old.flush(); // and there is something for another
  await session(bucket, (volume) => writePage(volume, 5, 5));
  assertEquals(await newestPages(bucket), { stored: PAGES, named: PAGES });
  gate.resolve();
  await assertRejects(() => old.close(), FencedError);
  assertEquals(bucket.objects.has(packKey(found, 0)), false);
  assertEquals((await newestPages(bucket)).named, PAGES);
  const { volume } = await open(bucket);
  assertEquals([await valueIn(volume, 3), await valueIn(volume, 5)], [4, 5]);
  volume.abandon();
});
