/** A batch on its way from the cache to the map: what was dirty at one moment (flush.ts). */
import type { SealedStripe } from "./sealed_stripes.ts";
import type { SegmentRecord } from "./segment.ts";
import type { BlockRuns } from "./zeroes.ts";

export interface StoredSegment {
  seq: number;
  objectBytes: number;
  records: SegmentRecord[];
}

export interface Batch {
  stripes: SealedStripe[];
  zeroes: BlockRuns;
  zeroRuns: [start: number, end: number][];
  /** How many of `stripes` and `zeroRuns` are in segments. */
  filledStripes: number;
  filledRuns: number;
  segments: StoredSegment[];
  /** Segments filled and not yet stored. */
  underWay: number;
  /** False: the next one continues it, and in the bucket they are one. */
  isLast: boolean;
  /** When the oldest of its changes was made; Infinity if it has none. */
  sinceMs: number;
  committed: PromiseWithResolvers<void>;
}

/** Whether all of it is in segments; an empty batch has one, too. */
export function isFilled(batch: Batch): boolean {
  return batch.segments.length > 0 && batch.filledStripes === batch.stripes.length &&
    batch.filledRuns === batch.zeroRuns.length;
}
