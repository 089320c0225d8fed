/** The bound on what an open volume keeps in memory. */
import {
  CHECKPOINT_PACK_BYTES_MAX,
  DIRTY_SHARE,
  DOWNLOADS_MAX,
  GET_BYTES_MAX,
  MAP_GROUP_STRIPES,
  MAP_PAGE_STRIPES,
  PATCHES_MAX,
  SEGMENT_DATA_BYTES_MAX,
  SEGMENTS_SMALL_MAX,
} from "../limits.ts";
import { SEGMENT_BYTES_MAX } from "./segment.ts";
import type { VolumeOptions } from "./volume_options.ts";
import { partBytesOf, type VolumeInfo } from "./volume_info.ts";

/** Bytes of memory that the volume's own parts take, at most, once it is as full as it can be. */
export function volumeMemoryBytesMax(options: VolumeOptions, info: VolumeInfo): number {
  const { stripeBytes, volumeBytes } = info;
  const stripes = Math.ceil(volumeBytes / stripeBytes);
  const cache = options.cacheStripes * stripeBytes;
  const saved = cache * DIRTY_SHARE; // sealed stripes that are overwritten before they are copied
  const uploads = (options.uploads + 1) * SEGMENT_BYTES_MAX; // one is filled while all others are stored
  const downloads = DOWNLOADS_MAX * Math.max(GET_BYTES_MAX, partBytesOf(info));
  const pageBytes = MAP_PAGE_STRIPES * (12 + 1 / MAP_GROUP_STRIPES);
  const map = Math.ceil(stripes / MAP_PAGE_STRIPES) * pageBytes;
  const patches = Math.min(PATCHES_MAX, stripes * 8) * 100;
  // while a checkpoint is stored, pages that change are kept as they were
  const checkpoint = map + 2 * CHECKPOINT_PACK_BYTES_MAX;
  const segments = (SEGMENTS_SMALL_MAX + 6 * volumeBytes / SEGMENT_DATA_BYTES_MAX) * 100;
  return cache + saved + uploads + downloads + map + patches + checkpoint + segments;
}
