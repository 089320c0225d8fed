import { systemClock } from "../../../src/clock.ts";
import { StripeCache } from "../../../src/volume/stripe_cache.ts";

const STRIPE_BYTES = 65_536;
const SLOTS = 1024;

/** Every slot clean, stripes 0 to 1,023. */
function cleanCache(): StripeCache {
  const cache = new StripeCache(SLOTS, STRIPE_BYTES, 0, systemClock);
  for (let stripe = 0; stripe < SLOTS; stripe++) {
    const slot = cache.take(stripe);
    cache.setValid(slot, 0, cache.blocksPerStripe);
    cache.unpin(slot);
  }
  return cache;
}

const cache = cleanCache();
const evicting = cleanCache();
const block = new Uint8Array(4096).fill(1);
let next = SLOTS;

Deno.bench("cache: 1,000 blocks found and copied out", () => {
  for (let n = 0; n < 1000; n++) {
    const slot = cache.find(n);
    if (cache.isValid(slot, 3)) block.set(cache.bytes(slot, 3 * 4096, 4 * 4096));
  }
});

Deno.bench("cache: 256 slots made dirty, sealed, copied and committed", () => {
  for (let n = 0; n < 256; n++) cache.setDirty(cache.find(n), n % 16, 1);
  const sealed = [...cache.dirtySlots].map((slot) => cache.seal(slot, false));
  for (const entry of sealed) cache.sealed.copied(entry);
  for (const entry of sealed) cache.committed(entry);
});

Deno.bench("cache: 256 slots taken from the least recently used", () => {
  for (let n = 0; n < 256; n++) {
    const slot = evicting.take(next++);
    evicting.setValid(slot, 0, 16);
    evicting.unpin(slot);
  }
});
