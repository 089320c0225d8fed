import { assert, assertEquals } from "@std/assert";
import { MAP_PAGE_STRIPES } from "../../../src/limits.ts";
import { Checkpointer, listCheckpoints } from "../../../src/volume/checkpoint.ts";
import { checkpointKey, packKey } from "../../../src/volume/checkpoint_format.ts";
import {
  BLOCKS,
  data,
  load,
  mapAndCheckpointer,
  noPause,
  packKeys,
  zeroes,
} from "./checkpointed_map.ts";

Deno.test("pages that did not change are not stored again", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  map.apply(2, 900_000, Array.from({ length: 6 }, (_, page) => data(page * MAP_PAGE_STRIPES)));
  await checkpointer.store(2);
  const before = bucket.counts.put.bytes;
  map.apply(3, 100_000, [data(0)]);
  await checkpointer.store(3);
  const root = bucket.objects.get(checkpointKey(3))!.bytes.length;
  assertEquals(bucket.counts.put.bytes - before - root, 16 + 2 * 16, "one page with two bases");
  const { map: loaded } = await load(bucket, 3);
  assertEquals([loaded.base(0)!.seq, loaded.base(5 * MAP_PAGE_STRIPES)!.seq], [3, 2]);
});

Deno.test("two checkpoints are kept, with every pack they need and none besides", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  for (let seq = 2; seq <= 14; seq++) {
    map.apply(seq, 100_000, [data(seq % 3), data(9 + (seq % 5) * MAP_PAGE_STRIPES)]);
    await checkpointer.store(seq);
    const kept = await listCheckpoints(bucket);
    assertEquals(kept, seq === 2 ? [2] : [seq, seq - 1]);
    const needed = new Set<string>();
    for (const checkpoint of kept) {
      for (const pack of (await load(bucket, checkpoint)).checkpoint.packs.keys()) needed.add(pack);
    }
    assertEquals(packKeys(bucket), [...needed].sort(), `after checkpoint ${seq}`);
  }
});

Deno.test("roots are deleted before their packs: at no moment is there one whose packs are gone", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  for (const seq of [1, 2]) {
    map.apply(seq + 1, 100_000, [data(0), data(MAP_PAGE_STRIPES)]);
    await checkpointer.store(seq);
  }
  map.apply(4, 100_000, [data(0), data(MAP_PAGE_STRIPES)]);
  bucket.hold("delete");
  const stored = checkpointer.store(3);
  const deleted: string[] = [];
  for (let at = 0; at < 2; at++) {
    await bucket.untilHeld(1);
    deleted.push(bucket.held[0].key);
    bucket.held[0].release();
  }
  await stored;
  assertEquals(deleted, [checkpointKey(1), packKey(1, 0)]);
});

Deno.test("an older writer that cleans up takes nothing from the checkpoint of its successor", async () => {
  const { bucket, map, checkpointer: old } = mapAndCheckpointer();
  await old.store(1);
  map.apply(2, 100, [data(1)]);
  await old.store(2);
  const { map: heirsMap, checkpoint } = await load(bucket, 2);
  heirsMap.changeAll();
  heirsMap.apply(10, 100, []);
  const heir = new Checkpointer(bucket, heirsMap, 4, checkpoint, noPause);
  await heir.store(10);
  for (let seq = 3; seq < 9; seq++) {
    map.apply(seq, 100, [data(seq), data(MAP_PAGE_STRIPES)]);
    await old.store(seq);
  }
  assertEquals((await load(bucket, 10)).map.base(1)!.seq, 2);
});

Deno.test("leftovers of a checkpoint whose writer died are removed by the next", async () => {
  const { bucket, checkpointer } = mapAndCheckpointer();
  await bucket.put("map/0000000001/0000", new Uint8Array(9));
  await bucket.put("map/0000000001/0007", new Uint8Array(9));
  await checkpointer.store(2);
  assertEquals(packKeys(bucket), ["map/0000000002/0000"]);
});

Deno.test("what little an old pack has and changes while it moves on stays there, as it was", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  const pages = Array.from({ length: 6 }, (_, page) => page * MAP_PAGE_STRIPES);
  map.apply(2, 900_000, pages.map((stripe) => data(stripe)));
  await checkpointer.store(2);
  map.apply(3, 900_000, pages.slice(0, 4).map((stripe) => data(stripe)));
  bucket.hold("put");
  const stored = checkpointer.store(3);
  map.apply(4, 100_000, [data(pages[4])]); // before it is known that its pack is poor
  map.apply(5, 100, [zeroes(pages[5] * BLOCKS, MAP_PAGE_STRIPES * BLOCKS)]);
  bucket.release("put");
  await stored;
  const { map: loaded } = await load(bucket, 3);
  assertEquals(pages.map((stripe) => loaded.base(stripe)?.seq), [3, 3, 3, 3, 2, 2]);
  map.settle(Infinity);
  await checkpointer.store(5);
  const { map: next } = await load(bucket, 5);
  assertEquals(pages.map((stripe) => next.base(stripe)?.seq), [3, 3, 3, 3, 4, undefined]);
});

Deno.test("what little an old pack still has moves on, so that the pack can go", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  const pages = Array.from({ length: 6 }, (_, page) => page * MAP_PAGE_STRIPES);
  map.apply(2, 900_000, pages.map((stripe) => data(stripe)));
  await checkpointer.store(2);
  for (let seq = 3; seq < 12; seq++) {
    map.apply(seq, 100_000, [data(pages[seq % 4])]); // four of the six change, in turn
    await checkpointer.store(seq);
  }
  assert(!packKeys(bucket).includes("map/0000000002/0000"), `${packKeys(bucket)}`);
  const { map: loaded } = await load(bucket, 11);
  assertEquals(pages.map((stripe) => loaded.base(stripe)!.seq), [8, 9, 10, 11, 2, 2]);
});

Deno.test("what is about to be replaced does not keep a pack", async () => {
  const { bucket, map, checkpointer } = mapAndCheckpointer();
  const pages = Array.from({ length: 6 }, (_, page) => page * MAP_PAGE_STRIPES);
  map.apply(2, 900_000, pages.map((stripe) => data(stripe)));
  await checkpointer.store(2);
  map.apply(3, 900_000, pages.slice(0, 4).map((stripe) => data(stripe)));
  await checkpointer.store(3);
  const { packs } = (await load(bucket, 3)).checkpoint;
  assertEquals([...packs.keys()], ["map/0000000003/0000"]);
});
