/**
 * Extents: which bytes of the disk are stored and which read as zeroes, told from the map and the cache
 * alone, in one turn.
 *
 * A block is a hole if it reads as zeroes and nobody has it as data: no record of the map, no dirty block and none
 * of a batch on its way. A block of zeroes that was written as data and is not stored yet counts
 * as data: to look at its bytes would cost more than it is worth.
 */
import { BLOCK_BYTES, EXTENT_STEPS_MAX, MAP_PAGE_STRIPES } from "../limits.ts";
import type { Extent } from "./block_device.ts";
import type { Contents } from "./contents.ts";
import { pageOf, type StripeMap } from "./stripe_map.ts";

/** Up to where, in bytes, the disk goes on being a hole, or not being one. */
type Step = [end: number, isHole: boolean];

/** The extents from `offset` on; `BlockDevice.extents` says what is promised of them. */
export function extentsOf(
  contents: Contents,
  offset: number,
  length: number,
  countMax: number,
): Extent[] {
  const extents: Extent[] = [];
  let at = offset;
  let steps = 0;
  for (const [stop, isHole] of stepsOf(contents, offset, offset + length)) {
    const last = extents.at(-1);
    if (last?.isHole === isHole) last.lengthBytes += stop - at;
    else if (extents.length < countMax) extents.push({ lengthBytes: stop - at, isHole });
    else break;
    at = stop;
    if (++steps === EXTENT_STEPS_MAX) break;
  }
  return extents;
}

/** Page by page of the map; where there are none only what is on its way to the bucket can be data. */
function* stepsOf(contents: Contents, offset: number, end: number): Generator<Step> {
  const { cache, map, stripeBytes } = contents;
  const pageBytes = MAP_PAGE_STRIPES * stripeBytes;
  for (let at = offset; at < end;) {
    const first = Math.floor(at / stripeBytes);
    const endPage = endOfPages(map, pageOf(first), end / pageBytes);
    const pageEnd = Math.min(end, endPage * pageBytes);
    const endStripe = Math.ceil(pageEnd / stripeBytes);
    const stripes = map.pages.has(pageOf(first))
      ? stripesBetween(first, endStripe)
      : cache.pinnedStripes(first, endStripe);
    for (const stripe of stripes) {
      const begin = Math.max(at, stripe * stripeBytes);
      if (begin > at) yield [begin, true];
      at = Math.min(pageEnd, (stripe + 1) * stripeBytes);
      yield* stripeSteps(contents, stripe, begin, at);
    }
    if (at < pageEnd) yield [pageEnd, true];
    at = pageEnd;
  }
}

/** The page behind `page`, or behind it and all that follow and are missing, too. */
function endOfPages(map: StripeMap, page: number, end: number): number {
  let next = page + 1;
  if (map.pages.has(page)) return next;
  while (next < end && next - page < EXTENT_STEPS_MAX && !map.pages.has(next)) next++;
  return next;
}

function* stripesBetween(first: number, end: number): Generator<number> {
  for (let stripe = first; stripe < end; stripe++) yield stripe;
}

/** The part of a stripe from `begin` to `end`: in one step if it is all alike, else by block. */
function* stripeSteps(
  contents: Contents,
  stripe: number,
  begin: number,
  end: number,
): Generator<Step> {
  const { cache, map, zeroes, blocksPerStripe } = contents;
  const slot = cache.peek(stripe);
  const isPinned = slot >= 0 && !cache.isClean(slot);
  const firstBlock = stripe * blocksPerStripe;
  if (!isPinned) {
    if (!map.isMapped(stripe)) return yield [end, true];
    const isWhole = map.patches(stripe).length === 0 &&
      !zeroes.overlaps(firstBlock, firstBlock + blocksPerStripe);
    if (isWhole) return yield [end, false];
  }
  for (let at = begin; at < end;) {
    const block = Math.floor(at / BLOCK_BYTES);
    at = Math.min(end, (block + 1) * BLOCK_BYTES);
    const isOnItsWay = isPinned && cache.isValid(slot, block - firstBlock);
    yield [at, !isOnItsWay && contents.isZero(block)];
  }
}
