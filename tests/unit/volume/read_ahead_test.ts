import { assert, assertEquals } from "@std/assert";
import { DIRTY_SHARE, MIB } from "../../../src/limits.ts";
import { settle } from "../../support/manual_clock.ts";
import {
  blocks,
  firstBytes,
  KIB,
  type Opened,
  openVolume,
  reopenAfterCrash,
} from "./open_volume.ts";

const STRIPE_BYTES = 16 * KIB;
const STRIPES = 512;
const SHAPE = { volumeBytes: STRIPES * STRIPE_BYTES, cacheStripes: 128 };

/** A volume whose stripes are all stored, none is cached, with read-ahead of 32 stripes; no request is counted yet. */
async function openStored(): Promise<Opened> {
  const before = await openVolume({ ...SHAPE, cacheStripes: 2 * STRIPES });
  for (let at = 0; at < STRIPES; at++) before.volume.write(at * STRIPE_BYTES, blocks(4, at % 255));
  await before.volume.flush();
  const opened = await reopenAfterCrash(before, { ...SHAPE, readaheadBytes: 32 * STRIPE_BYTES });
  opened.bucket.counts.get.bytes = 0;
  return opened;
}

/** Reads a stripe, block by block. */
async function readStripe({ volume }: Opened, stripe: number): Promise<void> {
  for (let block = 0; block < 4; block++) {
    assertEquals(await firstBytes(volume, stripe * 4 + block, 1), [stripe % 255]);
    await settle();
  }
}

function isCached({ volume }: Opened, stripe: number): boolean {
  return volume.tryRead(stripe * STRIPE_BYTES + 1, new Uint8Array(1));
}

/** Stripes fetched so far. */
function fetched({ bucket }: Opened): number {
  return Math.floor(bucket.counts.get.bytes / STRIPE_BYTES);
}

Deno.test("a reader is a stream when it has read on into a second stripe, not before", async () => {
  const opened = await openStored();
  await readStripe(opened, 100);
  assertEquals(fetched(opened), 1);
  await readStripe(opened, 101);
  for (let stripe = 102; stripe < 110; stripe++) assert(isCached(opened, stripe), `${stripe}`);
  opened.volume.abandon();
});

Deno.test("one read over two stripes is no stream yet, wherever it is", async () => {
  const opened = await openStored();
  for (const stripe of [10, 90, 50, 200]) await firstBytes(opened.volume, stripe * 4, 8);
  await settle();
  assertEquals(fetched(opened), 8);
  opened.volume.abandon();
});

Deno.test("several streams are read ahead of, each by itself", async () => {
  const opened = await openStored();
  for (let step = 0; step < 3; step++) {
    for (const start of [0, 150, 300]) await readStripe(opened, start + step);
  }
  for (const start of [0, 150, 300]) assert(isCached(opened, start + 5));
  opened.volume.abandon();
});

Deno.test("nothing is read ahead into a cache that is full of what is not stored", async () => {
  const opened = await openStored();
  opened.bucket.hold("put");
  const dirtyStripes = SHAPE.cacheStripes * DIRTY_SHARE;
  for (let at = 0; at < dirtyStripes; at++) opened.volume.write(at * STRIPE_BYTES, blocks(4, 1));
  for (const stripe of [300, 301]) await readStripe(opened, stripe);
  assertEquals(fetched(opened), 2);
  opened.volume.abandon();
});

Deno.test("streams that end early are read ahead of less and less, and those that go on bring it back", async () => {
  const opened = await openStored();
  const shortRuns = async (count: number) => {
    const before = fetched(opened);
    for (let run = 0; run < count; run++) {
      for (const step of [0, 1]) await readStripe(opened, (run * 37) % 500 + step);
    }
    return (fetched(opened) - before) / count;
  };
  assert(await shortRuns(8) > 8);
  await shortRuns(8);
  assert(await shortRuns(16) <= 2.5, "no more than the two that are read, but for a cached one");
  for (const start of [0, 160, 320]) {
    for (let step = 0; step < 150; step++) await readStripe(opened, start + step);
  }
  await shortRuns(8); // until the long ones count as ended
  assert(await shortRuns(8) > 2.5);
  opened.volume.abandon();
});

Deno.test("a stream has its whole window under way but for a GET's worth, in GETs of 2 MiB", async () => {
  const window = 16 * MIB;
  const shape = { stripeBytes: 64 * KIB, volumeBytes: 64 * MIB, readaheadBytes: window };
  const before = await openVolume({ ...shape, cacheStripes: 2048 });
  for (let at = 0; at < 64; at++) before.volume.write(at * MIB, blocks(256, at + 1));
  await before.volume.flush();
  const { volume, bucket } = await reopenAfterCrash(before, { ...shape, cacheStripes: 1024 });
  const { get } = bucket.counts;
  get.bytes = get.requests = 0;
  for (let at = 0; at < 40 * MIB; at += 64 * KIB) {
    await volume.read(at, new Uint8Array(64 * KIB));
    await settle();
    const aheadBytes = get.bytes - at - 64 * KIB;
    if (at > window) assert(aheadBytes > window - 3 * MIB, `${aheadBytes} bytes ahead of ${at}`);
    if (at === window) get.requests = 0;
  }
  // 24 MiB: 12, and as many segments in which one of them ends
  assert(get.requests <= 16, `${get.requests} GETs`);
  volume.abandon();
});
