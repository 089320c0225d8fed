import { assert, assertEquals } from "@std/assert";
import { MAP_PAGE_STRIPES } from "../../../src/limits.ts";
import { MapPage } from "../../../src/volume/map_page.ts";
import {
  RECORD_DATA,
  RECORD_PREFIX_BYTES,
  RECORD_ZEROES,
  type SegmentRecord,
} from "../../../src/volume/segment.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";
import { Seed } from "../../simulation/seed.ts";

const BLOCKS = 4;
const STRIPES = [0, 1, 2, 3, 9, MAP_PAGE_STRIPES - 1, MAP_PAGE_STRIPES, 2 * MAP_PAGE_STRIPES + 1];
const LAST_BLOCK = (2 * MAP_PAGE_STRIPES + 2) * BLOCKS;

/** Which record has a block: "seq:offset", or nothing, which is zeroes. */
type Model = Map<number, string>;

function ownerOf(map: StripeMap, stripe: number, block: number): string | undefined {
  for (const { firstBlock, blockCount, location } of [...map.patches(stripe)].reverse()) {
    if (block < firstBlock || block >= firstBlock + blockCount) continue;
    return location ? `${location.seq}:${location.offset}` : undefined;
  }
  const base = map.base(stripe);
  return base ? `${base.seq}:${base.offset}` : undefined;
}

function randomRecord(seed: Seed, offset: number): SegmentRecord {
  const stripe = seed.pick(STRIPES);
  if (seed.chance(0.2)) {
    const firstBlock = stripe * BLOCKS + seed.below(BLOCKS);
    const longest = seed.chance(0.2) ? LAST_BLOCK - firstBlock : 3 * BLOCKS;
    const blockCount = 1 + seed.below(Math.min(longest, LAST_BLOCK - firstBlock));
    return { kind: RECORD_ZEROES, firstBlock, blockCount, offset: 0, storedBytes: 0 };
  }
  const first = seed.chance(0.5) ? 0 : seed.below(BLOCKS);
  const blockCount = first === 0 && seed.chance(0.6) ? BLOCKS : 1 + seed.below(BLOCKS - first);
  const storedBytes = blockCount * 4096;
  return {
    kind: RECORD_DATA,
    firstBlock: stripe * BLOCKS + first,
    blockCount,
    offset,
    storedBytes,
  };
}

function applyToModel(model: Model, seq: number, { kind, ...record }: SegmentRecord): void {
  const owner = kind === RECORD_DATA ? `${seq}:${record.offset}` : undefined;
  for (let block = record.firstBlock; block < record.firstBlock + record.blockCount; block++) {
    if (owner) model.set(block, owner);
    else model.delete(block);
  }
}

Deno.test("the newest record over a block has it, as in a plain table of blocks", () => {
  const seed = new Seed(2);
  for (let life = 0; life < 30; life++) {
    const map = new StripeMap(BLOCKS);
    const model: Model = new Map();
    for (let seq = 1; seq <= 40; seq++) {
      const count = seed.below(6);
      const records = Array.from({ length: count }, (_, at) => randomRecord(seed, 1000 * (at + 1)));
      map.apply(2 ** 32 * (seq & 1) + seq, 1_000_000, records);
      for (const record of records) applyToModel(model, 2 ** 32 * (seq & 1) + seq, record);
      map.checkInvariants();
      if (seed.chance(0.3)) map.settle(1);
      for (const stripe of STRIPES) {
        for (let block = 0; block < BLOCKS; block++) {
          const owner = model.get(stripe * BLOCKS + block);
          assertEquals(ownerOf(map, stripe, block), owner, `stripe ${stripe}, block ${block}`);
          assertEquals(map.readsAsZero(stripe, block), owner === undefined);
        }
      }
    }
  }
});

Deno.test("a segment's live bytes are those that are still read from it", () => {
  const map = new StripeMap(BLOCKS);
  const whole = 4 * 4096 + RECORD_PREFIX_BYTES;
  const data = (stripe: number, first: number, blockCount: number): SegmentRecord => ({
    kind: RECORD_DATA,
    firstBlock: stripe * BLOCKS + first,
    blockCount,
    offset: 100,
    storedBytes: blockCount * 4096,
  });
  const live = () => [...map.segments].map(([, use]) => use.liveBytes);
  map.apply(1, 50_000, [data(0, 0, 4), data(1, 0, 4)]);
  assertEquals(live(), [2 * whole]);
  map.apply(2, 50_000, [data(0, 1, 1)]);
  assertEquals(live(), [2 * whole - 4096, 4096 + 16]); // the base is read for its other blocks
  map.apply(3, 50_000, [data(0, 0, 3)]);
  assertEquals(live(), [2 * whole - 3 * 4096, 0, 3 * 4096 + 16]); // covered by a newer patch
  map.apply(4, 50_000, [data(0, 0, 4)]);
  assertEquals(live(), [whole, 0, 0, whole]);
  map.apply(5, 100, [{
    kind: RECORD_ZEROES,
    firstBlock: 0,
    blockCount: 8,
    offset: 0,
    storedBytes: 0,
  }]);
  assertEquals(live(), [0, 0, 0, 0, 0]);
  assertEquals(map.patchCount, 0);
});

Deno.test("a seq of forty bits and the last offset of a segment come back from the map", () => {
  const map = new StripeMap(BLOCKS);
  const seq = 9_999_999_999;
  const offset = 2 ** 24 - 1;
  map.apply(seq, 1, [{
    kind: RECORD_DATA,
    firstBlock: 0,
    blockCount: 4,
    offset,
    storedBytes: 16384,
  }]);
  assertEquals(map.base(0), { seq, offset, storedBytes: 16384 });
});

Deno.test("zeroes over a whole disk of a pebibyte are applied at once", () => {
  const map = new StripeMap(1);
  map.apply(1, 1, [{
    kind: RECORD_DATA,
    firstBlock: 2 ** 37,
    blockCount: 1,
    offset: 72,
    storedBytes: 4096,
  }]);
  map.apply(2, 1, [{
    kind: RECORD_ZEROES,
    firstBlock: 0,
    blockCount: 2 ** 38,
    offset: 0,
    storedBytes: 0,
  }]);
  assertEquals(map.isMapped(2 ** 37), false);
  assertEquals(map.pages.size, 0);
});

Deno.test("zeroes over many pages are read at once, and leave the live bytes some pages a turn", () => {
  const map = new StripeMap(BLOCKS);
  const whole = 4 * 4096 + RECORD_PREFIX_BYTES;
  for (let page = 0; page < 5; page++) {
    const firstBlock = (page * MAP_PAGE_STRIPES + 7) * BLOCKS;
    const place = { offset: 100, storedBytes: 4 * 4096 };
    map.apply(1 + page, 50_000, [{ kind: RECORD_DATA, firstBlock, blockCount: BLOCKS, ...place }]);
  }
  map.apply(6, 100, [{
    kind: RECORD_ZEROES,
    firstBlock: 0,
    blockCount: 4 * MAP_PAGE_STRIPES * BLOCKS,
    offset: 0,
    storedBytes: 0,
  }]);
  const mapped = () => [0, 1, 2, 3, 4].map((page) => map.isMapped(page * MAP_PAGE_STRIPES + 7));
  assertEquals(mapped(), [false, false, false, false, true]);
  const live: number[] = [map.total.liveBytes / whole];
  for (let goesOn = true; goesOn;) {
    goesOn = map.settle(2);
    map.checkInvariants();
    live.push(map.total.liveBytes / whole);
  }
  assertEquals(live, [5, 3, 1]);
  const dead = [...map.segments].filter(([, { liveBytes }]) => liveBytes === 0);
  assertEquals(dead.map(([seq]) => seq), [1, 2, 3, 4, 6]);
});

/** A map of so many pages, with a stripe each, and the numbers of those that anything has been asked of since. */
function watchedMap(count: number) {
  const map = new StripeMap(BLOCKS);
  const touched = new Set<number>();
  for (let number = 0; number < count; number++) {
    const page = new MapPage();
    page.setBase(7, { seq: 1, offset: 100, storedBytes: 4 * 4096 });
    page.countMapped(7, 1);
    const watched = new Proxy(page, {
      get(page, name) {
        touched.add(number);
        const value = Reflect.get(page, name, page);
        return typeof value === "function" ? value.bind(page) : value;
      },
    });
    map.load(number, watched);
  }
  map.segments.add(1, 1e9, count * (4 * 4096 + RECORD_PREFIX_BYTES));
  touched.clear();
  return { map, touched };
}

Deno.test("zeroes over any number of pages ask nothing of them but of the two at their ends; settling asks the rest, some a turn", () => {
  const count = 2100;
  const { map, touched } = watchedMap(count);
  const stripes = (count - 2) * MAP_PAGE_STRIPES + 20;
  map.apply(2, 100, [{
    kind: RECORD_ZEROES,
    firstBlock: (MAP_PAGE_STRIPES - 10) * BLOCKS,
    blockCount: stripes * BLOCKS,
    offset: 0,
    storedBytes: 0,
  }]);
  assertEquals([...touched], [0, count - 1]);
  assertEquals(map.pages.size, 2);
  for (const page of [1, 1000, count - 2]) {
    assertEquals(map.readsAsZero(page * MAP_PAGE_STRIPES + 7, 0), true, `page ${page}`);
  }
  for (let turns = 1, goesOn = true; goesOn; turns++) {
    touched.clear();
    goesOn = map.settle(100);
    assert(touched.size <= 100, `${touched.size} pages in a turn`);
  }
  map.checkInvariants();
  assertEquals(map.total.liveBytes, map.segments.get(1)!.liveBytes);
});

Deno.test("what a checkpoint is to hold is settled without a look at any page", () => {
  const { map, touched } = watchedMap(100);
  assertEquals(map.freeze().size, 0);
  map.thaw(true);
  map.changeAll();
  assertEquals(map.freeze().size, 100);
  map.thaw(true);
  assertEquals(map.freeze().size, 0);
  assertEquals([...touched], []);
});

Deno.test("a page is kept as it was from a checkpoint's begin until it is stored, and then no more", () => {
  const map = new StripeMap(BLOCKS);
  const record = (stripe: number): SegmentRecord => ({
    kind: RECORD_DATA,
    firstBlock: stripe * BLOCKS,
    blockCount: BLOCKS,
    offset: 100,
    storedBytes: 4 * 4096,
  });
  const seqIn = (page: MapPage) => page.frozen().words[0];
  map.apply(1, 1e5, [record(0), record(MAP_PAGE_STRIPES)]);
  for (let seq = 2; seq < 8; seq++) {
    const frozen = [...map.freeze().values()] as MapPage[];
    map.apply(seq, 1e5, [record(0)]);
    assertEquals(frozen.map(seqIn), [seq - 1, 1].slice(0, frozen.length));
    map.stored(frozen[0]);
    map.apply(100 + seq, 1e5, [record(0)]);
    assertEquals(seqIn(frozen[0]), 100 + seq, "it is stored, and goes on as it is");
    map.apply(seq, 1e5, [record(0)]);
    // every other checkpoint is not stored: the next one has all of its pages again
    map.thaw(seq % 2 === 1);
    assertEquals(frozen.length, seq === 2 || seq === 3 ? 2 : 1);
  }
});
