/** The records that the map names, one by one: what the disk is read from. */
import { MAP_PAGE_STRIPES } from "../limits.ts";
import type { RecordLocation } from "./map_page.ts";
import type { StripeMap } from "./stripe_map.ts";

/** A record that the map names. */
export interface LiveRecord {
  stripe: number;
  /** From the disk's begin. */
  firstBlock: number;
  location: RecordLocation;
}

/** Whether the map names the record, and so something is read from it. */
export function isNamed(map: StripeMap, { firstBlock, location }: LiveRecord): boolean {
  return map.liveBytes(location.seq, { firstBlock, ...location }) > 0;
}

/** What the map names of these stripes. */
export function* recordsOf(
  map: StripeMap,
  stripes: Iterable<number>,
  blocksPerStripe: number,
): Generator<LiveRecord> {
  for (const stripe of stripes) {
    const begin = stripe * blocksPerStripe;
    const base = map.base(stripe);
    if (base) yield { stripe, firstBlock: begin, location: base };
    for (const { firstBlock, location } of map.patches(stripe)) {
      if (location) yield { stripe, firstBlock: begin + firstBlock, location };
    }
  }
}

/** What the map names of these segments; a search through all of it. */
export function* recordsIn(
  map: StripeMap,
  seqs: Set<number>,
  blocksPerStripe: number,
): Generator<LiveRecord> {
  if (seqs.size === 0) return;
  for (const [page] of map.pages) {
    const first = page * MAP_PAGE_STRIPES;
    const stripes = Array.from({ length: MAP_PAGE_STRIPES }, (_, index) => first + index);
    for (const record of recordsOf(map, stripes, blocksPerStripe)) {
      if (seqs.has(record.location.seq)) yield record;
    }
  }
}
