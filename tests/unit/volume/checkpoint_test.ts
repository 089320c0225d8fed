import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Bucket } from "../../../src/bucket/bucket.ts";
import { DamageError, UnavailableError } from "../../../src/errors.ts";
import {
  CHECKPOINT_PAGE_LOOKS,
  CHECKPOINT_TURN_LOOKS,
  MAP_PAGE_STRIPES,
} from "../../../src/limits.ts";
import { Checkpointer, listCheckpoints } from "../../../src/volume/checkpoint.ts";
import { checkpointKey } from "../../../src/volume/checkpoint_format.ts";
import { MapPage } from "../../../src/volume/map_page.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";
import { Seed } from "../../simulation/seed.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import {
  BLOCKS,
  data,
  load,
  mapAndCheckpointer,
  noPause,
  packKeys,
  zeroes,
} from "./checkpointed_map.ts";

Deno.test("a checkpoint brings back bases, patches and the live bytes of every segment", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  const far = 2 ** 32 + 7;
  map.apply(far, 50_000, [data(2), data(1, 1, 2), zeroes(1, 2), data(70_000)]);
  await checkpointer.store(far);
  const { map: loaded, checkpoint } = await load(bucket, far);
  assertEquals([checkpoint.seq, checkpoint.epoch], [far, 3]);
  for (const stripe of [0, 1, 2, 3, MAP_PAGE_STRIPES, 70_000]) {
    assertEquals(loaded.base(stripe), map.base(stripe), `stripe ${stripe}`);
    assertEquals(loaded.patches(stripe), map.patches(stripe), `stripe ${stripe}`);
  }
  assertEquals(loaded.patchCount, map.patchCount);
  assertEquals([...loaded.segments], [...map.segments]);
});

Deno.test("a checkpoint holds the map of its own moment, whatever changes while it is stored", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  bucket.hold("put");
  const stored = checkpointer.store(1);
  map.apply(2, 100_000, [data(0), data(1), data(5), data(MAP_PAGE_STRIPES)]);
  await bucket.untilHeld(1);
  map.apply(3, 100_000, [data(6), zeroes(0, 4 * 10_000)]);
  bucket.release("put");
  await stored;
  const { map: loaded } = await load(bucket, 1);
  assertEquals(loaded.base(0)!.seq, 1);
  assertEquals(loaded.base(MAP_PAGE_STRIPES)!.seq, 1);
  assertEquals(loaded.base(5), null);
  assertEquals([...loaded.segments].map(([seq]) => seq), [1]);
});

Deno.test("a checkpoint of many objects holds the map of one moment, first to last, also after one that failed", async () => {
  const bucket = new MemoryBucket();
  const map = new StripeMap(BLOCKS);
  const pages = 140; // of 64 KiB: more than one object of 8 MiB holds
  for (let page = 0; page < pages; page++) {
    const first = page * MAP_PAGE_STRIPES;
    map.apply(2 + page, 1e8, Array.from({ length: MAP_PAGE_STRIPES }, (_, at) => data(first + at)));
  }
  const firsts = Array.from({ length: pages }, (_, page) => page * MAP_PAGE_STRIPES);
  const stored = async (seq: number) => {
    const { map } = await load(bucket, seq);
    return firsts.map((stripe) => [map.base(stripe)!.seq, map.base(stripe + 1)!.seq]);
  };
  const checkpointer = new Checkpointer(bucket, map, 1, null, noPause);
  bucket.hold("put");
  const failing = checkpointer.store(pages + 1);
  await bucket.untilHeld(1);
  map.apply(pages + 2, 100_000, firsts.map((stripe) => data(stripe)));
  bucket.held[0].fail();
  await assertRejects(() => failing, UnavailableError);
  const storing = checkpointer.store(pages + 2);
  await bucket.untilHeld(1);
  map.apply(pages + 3, 100_000, firsts.slice(0, -1).map((stripe) => data(stripe + 1)));
  bucket.release("put");
  await storing;
  assertEquals(await stored(pages + 2), firsts.map((_, page) => [pages + 2, 2 + page]));
  await checkpointer.store(pages + 3);
  const last = [pages + 2, pages + 1];
  assertEquals(await stored(pages + 3), [
    ...new Array(pages - 1).fill([pages + 2, pages + 3]),
    last,
  ]);
});

Deno.test("a checkpoint of many pages pauses again and again, and holds the map of its own moment all the same", async () => {
  const bucket = new MemoryBucket();
  const map = new StripeMap(BLOCKS);
  const pages = 5 * CHECKPOINT_TURN_LOOKS / CHECKPOINT_PAGE_LOOKS;
  const everywhere = Array.from({ length: pages }, (_, page) => page * MAP_PAGE_STRIPES);
  map.apply(1, 1e8, everywhere.map((stripe) => data(stripe)));
  map.apply(2, 1e8, everywhere.map((stripe) => data(stripe, 1, 2)));
  const before = everywhere.map((stripe) => [map.base(stripe), map.patches(stripe)]);
  const segments = [...map.segments];
  let seq = 2;
  let pauses = 0;
  const pause = () => {
    pauses++;
    // the first half of the pages changes, the second is taken out, and comes back
    map.apply(++seq, 1e8, everywhere.slice(0, pages / 2).map((stripe) => data(stripe + pauses)));
    map.apply(++seq, 1e8, [zeroes(0, 2 * BLOCKS), data(300)]);
    const half = everywhere[pages / 2] * BLOCKS;
    map.apply(++seq, 100, [zeroes(half, half)]);
    map.apply(++seq, 1e8, everywhere.slice(pages / 2).map((stripe) => data(stripe + 2)));
    map.settle(Infinity);
    map.segments.delete(seq - 1);
    map.checkInvariants();
    return Promise.resolve();
  };
  const checkpointer = new Checkpointer(bucket, map, 1, null, pause);
  await checkpointer.store(2);
  assertEquals(pauses, 5);
  const { map: loaded } = await load(bucket, 2);
  assertEquals(everywhere.map((stripe) => [loaded.base(stripe), loaded.patches(stripe)]), before);
  assertEquals([...loaded.segments], segments);
  const now = [...map.segments];
  const last = seq;
  await checkpointer.store(last);
  const { map: next } = await load(bucket, last);
  assertEquals([...next.segments], now);
});

Deno.test("no turn of a checkpoint looks at all pages, stored, changed or gone", async () => {
  const bucket = new MemoryBucket();
  const map = new StripeMap(BLOCKS);
  const pages = CHECKPOINT_TURN_LOOKS + 5;
  map.segments.add(1, 1e9, pages * (4 * 4096 + 16));
  const page = new MapPage(); // one for all: many would take gigabytes
  page.setBase(7, { seq: 1, offset: 100, storedBytes: 4 * 4096 });
  page.countMapped(7, 1);
  for (let number = 0; number < pages; number++) map.load(number, page);
  map.changeAll();
  let pauses = 0;
  const pause = () => Promise.resolve(void pauses++);
  const checkpointer = new Checkpointer(bucket, map, 1, null, pause);
  const pausesOf = async (seq: number) => {
    pauses = 0;
    await checkpointer.store(seq);
    return pauses;
  };
  const encoding = Math.floor(pages * CHECKPOINT_PAGE_LOOKS / CHECKPOINT_TURN_LOOKS);
  const [encodingRoot, listingPacks, findingPoor] = [1, 1, 2];
  assertEquals(await pausesOf(2), encoding + encodingRoot + listingPacks);
  assertEquals(await pausesOf(3), findingPoor + encodingRoot + listingPacks);
  map.apply(4, 100, [zeroes(0, (pages + 1) * MAP_PAGE_STRIPES * BLOCKS)]);
  map.settle(Infinity);
  assertEquals(await pausesOf(4), findingPoor + 1);
  assertEquals((await load(bucket, 4)).map.pages.size, 0);
});

/** A life of a map whose checkpoints are stored among changes, each in a bucket that may fail. */
async function live(seed: Seed): Promise<void> {
  const bucket = new MemoryBucket();
  const map = new StripeMap(BLOCKS);
  const stripes = Array.from({ length: 20 }, (_, page) => page * MAP_PAGE_STRIPES + page);
  const state = (map: StripeMap) => ({
    stripes: stripes.map((stripe) => [map.base(stripe), map.patches(stripe)]),
    segments: [...map.segments].sort((a, b) => a[0] - b[0]),
  });
  let seq = 0;
  const change = () => {
    const [first, end] = [0, 1].map(() => seed.below(20)).sort((a, b) => a - b);
    const records = Array.from({ length: seed.below(8) }, () => {
      const [from, to] = seed.pick([[0, BLOCKS], [0, 2], [1, 3]]);
      return data(seed.pick(stripes), from, to - from);
    });
    const blocksOfPage = MAP_PAGE_STRIPES * BLOCKS;
    if (seed.chance(0.1)) {
      records.push(zeroes(first * blocksOfPage, (end - first + 1) * blocksOfPage));
    }
    map.apply(++seq, 1e6, records);
    if (seed.chance(0.3)) map.settle(2);
    const deadSeqs = [...map.segments].filter(([, use]) => use.liveBytes === 0);
    if (deadSeqs.length > 5) map.segments.delete(seed.pick(deadSeqs)[0]);
  };
  const changing = {
    put: async (key: string, bytes: Uint8Array) => {
      for (let left = seed.below(3); left > 0; left--) change();
      if (seed.chance(0.1)) throw new UnavailableError("the bucket is away");
      return await bucket.put(key, bytes);
    },
    list: (prefix: string, after?: string) => bucket.list(prefix, after),
    delete: (keys: string[]) => bucket.delete(keys),
  };
  // deno-lint-ignore require-await
  const pause = async () => change();
  const checkpointer = new Checkpointer(changing as Bucket & typeof changing, map, 1, null, pause);
  for (let stored = 0; stored < 12;) {
    for (let left = 1 + seed.below(3); left > 0; left--) change();
    map.settle(Infinity);
    const [cut, before] = [seq, state(map)];
    try {
      const { dead } = await checkpointer.store(cut);
      const { map: loaded } = await load(bucket, cut);
      assertEquals(state(loaded), before);
      const isDead = before.segments.filter(([, { liveBytes }]) => liveBytes === 0);
      assertEquals(dead.sort((a, b) => a - b), isDead.map(([seq]) => seq));
      stored++;
    } catch (error) {
      if (!(error instanceof UnavailableError)) throw error;
    }
    map.checkInvariants();
    for (const seq of await listCheckpoints(bucket)) await load(bucket, seq);
  }
}

Deno.test("every checkpoint of many holds the map of its own moment, whatever changes, leaves or fails", async () => {
  const seed = new Seed(7);
  for (let lives = 0; lives < 30; lives++) await live(seed);
});

Deno.test("what changed while a checkpoint was stored is in the next one", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  bucket.hold("put");
  const stored = checkpointer.store(1);
  map.apply(2, 100_000, [data(1)]);
  await bucket.untilHeld(1);
  map.apply(3, 100_000, [data(MAP_PAGE_STRIPES)]);
  bucket.release("put");
  await stored;
  await checkpointer.store(3);
  const { map: loaded } = await load(bucket, 3);
  const seqs = [0, 1, MAP_PAGE_STRIPES].map((stripe) => loaded.base(stripe)!.seq);
  assertEquals(seqs, [1, 2, 3]);
});

Deno.test("a page that has become empty is not read back", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  await checkpointer.store(1);
  map.apply(2, 100, [zeroes(0, 4 * MAP_PAGE_STRIPES)]);
  map.settle(Infinity);
  await checkpointer.store(2);
  const { map: loaded } = await load(bucket, 2);
  assertEquals(loaded.isMapped(0), false);
  assertEquals(loaded.isMapped(MAP_PAGE_STRIPES), true);
});

Deno.test("a checkpoint that could not be stored leaves nothing out of the next one", async () => {
  for (const failing of [1, 2]) {
    const { bucket, map, checkpointer } = mapAndCheckpointer();
    await checkpointer.store(1);
    map.apply(2, 100_000, [data(1), data(MAP_PAGE_STRIPES)]);
    bucket.hold("put");
    const stored = checkpointer.store(2);
    for (let put = 1; put <= failing; put++) {
      await bucket.untilHeld(1);
      if (put < failing) bucket.held[0].release();
    }
    bucket.held[0].fail();
    await assertRejects(() => stored, UnavailableError);
    bucket.release("put");
    map.apply(3, 100_000, [data(0)]);
    await checkpointer.store(3);
    const { map: loaded } = await load(bucket, 3);
    const seqs = [0, 1, MAP_PAGE_STRIPES].map((stripe) => loaded.base(stripe)!.seq);
    assertEquals(seqs, [3, 2, 2], `put ${failing} failed`);
  }
});

Deno.test("damage anywhere in a checkpoint is found, and the key named", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  map.apply(2, 50_000, [data(1, 1, 2), zeroes(1, 2)]);
  await checkpointer.store(2);
  for (const key of [checkpointKey(2), ...packKeys(bucket)]) {
    const { bytes } = bucket.objects.get(key)!;
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const damaged = bucket.copy();
      damaged.flipBit(key, bit);
      await assertRejects(() => load(damaged, 2), DamageError, key);
    }
    for (let length = 0; length < bytes.length; length += 3) {
      const damaged = bucket.copy();
      damaged.cut(key, length);
      await assertRejects(() => load(damaged, 2), DamageError, key);
    }
    const missing = bucket.copy();
    missing.objects.delete(key);
    await assertRejects(() => load(missing, 2), DamageError, key);
  }
  assert((await load(bucket, 2)).map.isMapped(1));
});
