/** How an open volume is, and what it has done since it was opened: put together when somebody asks. */
import type { Contents } from "./contents.ts";
import type { FlushPath } from "./flush.ts";
import type { ReadPath } from "./read.ts";
import { type VolumeMap, volumeMap } from "./volume_map.ts";

export interface VolumeFigures {
  cache: {
    bytes: number;
    /** Stripes that reads had at once, cached or known to be zeroes, and those they had to wait for. */
    hits: number;
    misses: number;
    readAheadBytes: number;
    /** Of these, given up unread. */
    readAheadVainBytes: number;
  };
  unstored: {
    /** Acknowledged and not yet in the bucket. */
    bytes: number;
    /** Past it a write waits. */
    bytesMax: number;
    /** Age of the oldest change that is not, a trim included; 0 if there is none. */
    oldestSeconds: number;
  };
  log: {
    liveBytes: number;
    /** Objects' bytes, live or not. */
    storedBytes: number;
    segments: number;
    /** Since it was opened. */
    checkpoints: number;
    reclaimedBytes: number;
  };
  map: VolumeMap;
}

export function figuresOf(
  contents: Contents,
  { hits, misses, readAheadBytes, readAheadVainBytes }: ReadPath,
  flush: FlushPath,
  { sizeBytes, checkpoints, reclaimedBytes }: {
    sizeBytes: number;
    checkpoints: number;
    reclaimedBytes: number;
  },
): VolumeFigures {
  const { cache, dirtyStripesMax, stripeBytes, map } = contents;
  const oldestMs = contents.clock.monotonic() - flush.oldestChangeMs;
  return {
    cache: {
      bytes: cache.slotCount * stripeBytes,
      hits,
      misses,
      readAheadBytes,
      readAheadVainBytes,
    },
    unstored: {
      bytes: contents.unstoredBytes,
      bytesMax: dirtyStripesMax * stripeBytes,
      oldestSeconds: Math.max(0, oldestMs) / 1000,
    },
    log: { ...map.total, segments: map.segments.size, checkpoints, reclaimedBytes },
    map: volumeMap(contents, sizeBytes, flush.sealedStripes()),
  };
}
