/**
 * A description of a volume from a few small reads: volume.json, lease.json, the names of all objects, and the newest
 * checkpoint's root with its table of segments. Nothing is claimed and nothing stored, so a drive may have the volume
 * open meanwhile.
 *
 * What is stored is exact: a segment behind the checkpoint is asked for its size. What is live is as of the newest
 * checkpoint: to know it now would take the whole map and the log behind it.
 */
import type { Bucket } from "../bucket/bucket.ts";
import type { Clock } from "../clock.ts";
import { DamageError, noVolumeIn } from "../errors.ts";
import { BLOCK_BYTES, DOWNLOADS_MAX } from "../limits.ts";
import type { Weight } from "./check.ts";
import { listCheckpoints, readRoot } from "./checkpoint.ts";
import { CHECKPOINT_PREFIX, PACK_PREFIX, type Root } from "./checkpoint_format.ts";
import { listAll } from "./keys.ts";
import { type Host, readTenancy, type Tenancy } from "./lease.ts";
import { Limiter } from "./limiter.ts";
import { LOG_PREFIX, segmentKey, seqOfKey } from "./segment.ts";
import { StripeMap } from "./stripe_map.ts";
import { readVolume, type VolumeInfo } from "./volume_info.ts";

export interface CheckpointSummary {
  seq: number;
  epoch: number;
  /** Of the map's pages. */
  mapBytes: number;
  /** What was live then. */
  liveBytes: number;
  /** Segments that it knows, that hold something and are still there. */
  segments: Weight;
  /** Segments that it needs and that are not there: how many, and the key of the first. */
  missing: { objects: number; first: string | null };
}

export interface VolumeDescription {
  info: VolumeInfo;
  /** Null if nobody ever had the volume open. */
  tenancy: Tenancy | null;
  /** The newest that can be read; null if there is none. */
  checkpoint: CheckpointSummary | null;
  /** What is wrong with those that are newer than that one. */
  unreadable: string[];
  /** Segments stored since that checkpoint. */
  newer: Weight;
  /** By what they are. */
  objects: { log: number; map: number; checkpoints: number; all: number };
}

/**
 * Describes the volume in the bucket.
 *
 * @throws UsageError if there is none
 * @throws DamageError if volume.json or lease.json can't be read
 */
export async function describeVolume(
  bucket: Bucket,
  host: Host,
  clock: Clock,
): Promise<VolumeDescription> {
  const found = await readVolume(bucket);
  if (!found) throw noVolumeIn(bucket.name);
  const { info } = found;
  const tenancy = await readTenancy(bucket, host, clock);
  const { root, map, unreadable } = await newestRoot(bucket, info);
  const keys = await listAll(bucket, "");
  const count = (prefix: string) => keys.filter((key) => key.startsWith(prefix)).length;
  return {
    info,
    tenancy,
    checkpoint: root && await summaryOf(bucket, root, map, keys),
    unreadable,
    newer: await weighBehind(bucket, keys, root?.seq ?? 0),
    objects: {
      log: count(LOG_PREFIX),
      map: count(PACK_PREFIX),
      checkpoints: count(CHECKPOINT_PREFIX),
      all: keys.length,
    },
  };
}

interface FoundRoot {
  root: Root | null;
  /** With its table of segments. */
  map: StripeMap;
  unreadable: string[];
}

async function newestRoot(bucket: Bucket, info: VolumeInfo): Promise<FoundRoot> {
  const unreadable: string[] = [];
  const seqs = await listCheckpoints(bucket);
  for (const seq of seqs) {
    const map = new StripeMap(info.stripeBytes / BLOCK_BYTES);
    try {
      return { root: await readRoot(bucket, seq, map), map, unreadable };
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      // a drive deletes it behind a newer one
      if ((await listCheckpoints(bucket))[0] !== seqs[0]) return newestRoot(bucket, info);
      unreadable.push(error.message);
    }
  }
  return { root: null, map: new StripeMap(info.stripeBytes / BLOCK_BYTES), unreadable };
}

/** @param keys as they were after the root was read: what it knows and they lack was given back */
async function summaryOf(
  bucket: Bucket,
  { seq, epoch, pages }: Root,
  map: StripeMap,
  keys: string[],
): Promise<CheckpointSummary> {
  const segments = { objects: 0, bytes: 0 };
  for (const key of keys) {
    const use = map.segments.get(seqOfKey(key) ?? 0);
    if (!use) continue;
    segments.objects++;
    segments.bytes += use.storedBytes;
  }
  let mapBytes = 0;
  for (const { length } of pages.values()) mapBytes += length;
  const missing = await missingFrom(bucket, keys, seq, map);
  return { seq, epoch, mapBytes, liveBytes: map.total.liveBytes, segments, missing };
}

async function missingFrom(bucket: Bucket, keys: string[], checkpoint: number, map: StripeMap) {
  const missing: CheckpointSummary["missing"] = { objects: 0, first: null };
  const there = new Set(keys);
  for (const [seq, { liveBytes }] of map.segments) {
    const key = segmentKey(seq);
    if (liveBytes === 0 || there.has(key)) continue;
    missing.objects++;
    if (missing.first === null || key < missing.first) missing.first = key;
  }
  if (missing.objects === 0) return missing;
  // what only an older one needs may have been given back
  const isNewest = (await listCheckpoints(bucket))[0] === checkpoint;
  return isNewest ? missing : { objects: 0, first: null };
}

async function weighBehind(bucket: Bucket, keys: string[], afterSeq: number): Promise<Weight> {
  const newer = { objects: 0, bytes: 0 };
  const behind = keys.filter((key) => (seqOfKey(key) ?? 0) > afterSeq);
  await new Limiter(DOWNLOADS_MAX).forEach(behind, async (key) => {
    const found = await bucket.get(key, { offset: 0, length: 0 });
    if (!found) return; // deleted since it was listed
    newer.objects++;
    newer.bytes += found.size;
  });
  return newer;
}
