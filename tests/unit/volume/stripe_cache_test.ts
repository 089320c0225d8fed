import { assert, assertEquals } from "@std/assert";
import type { SealedStripe } from "../../../src/volume/sealed_stripes.ts";
import { StripeCache } from "../../../src/volume/stripe_cache.ts";
import { Seed } from "../../simulation/seed.ts";
import { ManualClock } from "../../support/manual_clock.ts";

const BLOCKS = 4;
const STRIPE_BYTES = BLOCKS * 4096;

function newCache(slots: number, ttlMs = 0, clock = new ManualClock()): StripeCache {
  return new StripeCache(slots, STRIPE_BYTES, ttlMs, clock);
}

/** Takes a slot for the stripe, fills it with its number and leaves it clean. */
function fill(cache: StripeCache, stripe: number): number {
  const slot = cache.take(stripe);
  assert(slot >= 0, "every slot is pinned");
  cache.bytes(slot, 0, STRIPE_BYTES).fill(stripe);
  cache.setValid(slot, 0, BLOCKS);
  cache.unpin(slot);
  return slot;
}

Deno.test("of clean stripes the one least recently used makes way", () => {
  const cache = newCache(3);
  for (const stripe of [1, 2, 3]) fill(cache, stripe);
  cache.find(1);
  fill(cache, 4);
  assertEquals([1, 2, 3, 4].map((stripe) => cache.find(stripe) >= 0), [true, false, true, true]);
  cache.checkInvariants();
});

Deno.test("pinned, dirty and sealed stripes never make way", () => {
  const cache = newCache(3);
  fill(cache, 1);
  cache.setDirty(cache.find(1), 0, 1);
  fill(cache, 2);
  cache.setDirty(cache.find(2), 0, 1);
  const sealed = cache.seal(cache.find(2), false);
  const pinned = cache.take(3);
  assertEquals(cache.available, 0);
  assertEquals(cache.take(4), -1);
  cache.unpin(pinned);
  assertEquals(cache.available, 1);
  cache.sealed.copied(sealed);
  assertEquals(cache.available, 1, "copied is not stored");
  cache.committed(sealed);
  assertEquals(cache.available, 2);
  cache.checkInvariants();
});

Deno.test("a clean stripe is dropped when it has not been used for the time set", async () => {
  const clock = new ManualClock();
  await clock.advance(1);
  const cache = newCache(3, 1000, clock);
  fill(cache, 1);
  fill(cache, 2);
  await clock.advance(900);
  assert(cache.find(1) >= 0);
  await clock.advance(900);
  assertEquals([cache.find(1) >= 0, cache.find(2)], [true, -1]);
  cache.checkInvariants();
  assertEquals(cache.available, 3);
});

Deno.test("a batch keeps the bytes it sealed, whatever is written over them", () => {
  const cache = newCache(2);
  const slot = fill(cache, 7);
  cache.setDirty(slot, 1, 2);
  const sealed = cache.seal(slot, false);
  assertEquals(sealed.runs, [1, 2]);
  cache.sealed.beforeOverwrite(slot);
  cache.bytes(slot, 0, STRIPE_BYTES).fill(99);
  cache.setDirty(slot, 0, BLOCKS);
  assertEquals(cache.sealed.bytes(sealed, 1, 2), new Uint8Array(2 * 4096).fill(7));
  const second = cache.seal(slot, true);
  cache.sealed.beforeOverwrite(slot);
  cache.bytes(slot, 0, STRIPE_BYTES).fill(55);
  assertEquals(cache.sealed.bytes(sealed, 1, 2)[0], 7);
  assertEquals(cache.sealed.bytes(second, 0, BLOCKS)[0], 99);
  for (const entry of [sealed, second]) {
    cache.sealed.copied(entry);
    cache.committed(entry);
  }
  assertEquals(cache.isClean(slot), true);
  cache.checkInvariants();
});

Deno.test("a stripe that holds nothing any more gives its slot back", () => {
  const cache = newCache(2);
  const slot = fill(cache, 1);
  cache.setDirty(slot, 0, 2);
  cache.invalidate(slot, 0, BLOCKS);
  assertEquals([cache.find(1), cache.dirtyBlocks, cache.available], [-1, 0, 2]);
  cache.checkInvariants();
});

Deno.test("who waits for room hears of a slot that is given back", async () => {
  const cache = newCache(1);
  const slot = cache.take(1);
  let made = false;
  cache.roomMade().then(() => made = true);
  await Promise.resolve();
  assertEquals(made, false);
  cache.unpin(slot);
  await Promise.resolve();
  assertEquals(made, true);
});

Deno.test("a spare slot becomes that of a stripe, and the one it had goes, unless somebody has it", () => {
  const cache = newCache(32);
  const before = new Map<string, (stripe: number) => void>([
    ["nothing", () => {}],
    ["clean", (stripe) => void fill(cache, stripe)],
    ["dirty in part", (stripe) => cache.setDirty(fill(cache, stripe), 1, 1)],
    ["taken", (stripe) => void cache.take(stripe)],
    ["clean and pinned", (stripe) => cache.pin(fill(cache, stripe))],
    ["being fetched", (stripe) => cache.beginFetch(fill(cache, stripe))],
    ["sealed", (stripe) => {
      cache.setDirty(fill(cache, stripe), 0, BLOCKS);
      cache.seal(cache.find(stripe), true);
    }],
    ["sealed and dirty anew", (stripe) => {
      cache.setDirty(fill(cache, stripe), 0, BLOCKS);
      cache.seal(cache.find(stripe), true);
      cache.setDirty(cache.find(stripe), 0, 1);
    }],
  ]);
  const gone = ["nothing", "clean", "dirty in part"];
  let stripe = 0;
  for (const [what, prepare] of before) {
    prepare(++stripe);
    const old = cache.find(stripe);
    const free = cache.available;
    const [spare] = cache.takeSpares(1)!;
    cache.checkInvariants();
    assertEquals(cache.find(stripe), old, "nobody sees it yet");
    assertEquals(cache.takeOver(stripe, spare), gone.includes(what), what);
    if (gone.includes(what)) {
      assertEquals([cache.find(stripe), cache.dirtyCount(spare)], [spare, BLOCKS], what);
      assertEquals(cache.available, what === "dirty in part" ? free : free - 1, what);
    } else {
      assertEquals(cache.find(stripe), old, what);
      cache.freeSpare(spare);
      assertEquals(cache.available, free, what);
    }
    cache.checkInvariants();
  }
});

Deno.test("few slots are spare, and they make clean ones go, but none that is pinned", async () => {
  const cache = newCache(16);
  for (let stripe = 0; stripe < 16; stripe++) fill(cache, stripe);
  const spares = cache.takeSpares(2)!;
  assertEquals([cache.find(0), cache.find(1), cache.available], [-1, -1, 14]);
  assertEquals(cache.takeSpares(1), undefined, "an eighth is enough");
  const heard = cache.roomMade();
  cache.freeSpare(spares[0]);
  await heard;
  assertEquals(cache.takeSpares(2), undefined, "all or none");
  for (let stripe = 2; stripe < 16; stripe++) cache.pin(cache.find(stripe));
  cache.take(99);
  assertEquals([cache.available, cache.takeSpares(1)], [0, undefined]);
  cache.checkInvariants();
});

Deno.test("stripes are found by range, few or many", () => {
  const cache = newCache(4);
  for (const stripe of [1, 5, 1000]) fill(cache, stripe);
  cache.pin(cache.find(5));
  const stripes = (first: number, end: number) =>
    [...cache.slotsOf(first, end)].map((slot) => cache.stripeOf(slot)).sort((a, b) => a - b);
  assertEquals(stripes(1, 3), [1]);
  assertEquals(stripes(0, 1e9), [1, 5, 1000]);
  assertEquals(stripes(2, 1000), [5]);
  assertEquals(cache.pinnedStripes(0, 1e9), [5]);
  cache.unpin(cache.find(5));
  cache.drop(5);
  assertEquals(stripes(0, 1e9), [1, 1000], "not what a free slot had");
  assertEquals(cache.pinnedStripes(0, 1e9), []);
});

Deno.test("the books balance whatever happens, and no slot is lost", () => {
  const seed = new Seed(3);
  for (let life = 0; life < 40; life++) {
    const cache = newCache(16);
    const spares: number[] = [];
    const pins: number[] = [];
    const sealed: SealedStripe[] = [];
    for (let step = 0; step < 200; step++) {
      const stripe = seed.below(32);
      const slot = cache.find(stripe);
      const first = seed.below(BLOCKS);
      const count = 1 + seed.below(BLOCKS - first);
      switch (seed.below(10)) {
        case 0:
          if (slot < 0 && cache.available > 0) pins.push(cache.take(stripe));
          break;
        case 1:
          if (slot >= 0) {
            cache.sealed.beforeOverwrite(slot);
            cache.setDirty(slot, first, count);
          }
          break;
        case 2:
          if (slot >= 0) cache.invalidate(slot, first, count);
          break;
        case 3:
          if (slot >= 0) cache.zeroFill(slot, first, count);
          break;
        case 4:
          if (slot >= 0 && cache.hasDirty(slot)) sealed.push(cache.seal(slot, seed.chance(0.3)));
          break;
        case 5:
          if (sealed.length > 0) {
            const [entry] = sealed.splice(0, 1);
            cache.sealed.copied(entry);
            cache.committed(entry);
          }
          break;
        case 6:
          if (pins.length > 0) cache.unpin(pins.splice(seed.below(pins.length), 1)[0]);
          break;
        case 7:
          if (slot >= 0) {
            cache.pin(slot);
            pins.push(slot);
          }
          break;
        case 8:
          spares.push(...cache.takeSpares(1 + seed.below(2)) ?? []);
          break;
        case 9: {
          const spare = spares.pop();
          if (spare === undefined) break;
          if (seed.chance(0.3) || !cache.takeOver(stripe, spare)) cache.freeSpare(spare);
        }
      }
      cache.checkInvariants();
    }
    for (const slot of spares) cache.freeSpare(slot);
    for (const slot of pins) cache.unpin(slot);
    for (const slot of [...cache.dirtySlots]) sealed.push(cache.seal(slot, false));
    for (const entry of sealed) {
      cache.sealed.copied(entry);
      cache.committed(entry);
    }
    cache.checkInvariants();
    assertEquals([cache.available, cache.sealedStripes, cache.dirtyBlocks], [16, 0, 0]);
  }
});
