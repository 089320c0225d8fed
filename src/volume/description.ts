/**
 * A description of a volume from what little says much: volume.json, lease.json, the names of all objects, and the
 * newest checkpoint's root with its table of segments. Nothing is claimed and nothing stored, so a drive may have the
 * volume open meanwhile.
 *
 * What is live only the whole map knows, so that is of the newest checkpoint; a segment behind it is asked for its size.
 */
import { type Bucket, noVolumeIn } from "../bucket/bucket.ts";
import type { Clock } from "../clock.ts";
import { DamageError } from "../errors.ts";
import { BLOCK_BYTES, DOWNLOADS_MAX } from "../limits.ts";
import { listCheckpoints, readRoot } from "./checkpoint.ts";
import { listAll } from "./keys.ts";
import { type Host, readTenancy, type Tenancy } from "./lease.ts";
import { Limiter } from "./limiter.ts";
import { seqOfKey } from "./segment.ts";
import { StripeMap } from "./stripe_map.ts";
import { readVolume, type VolumeInfo } from "./volume_info.ts";

/** What the newest checkpoint that can be read says of the moment it was stored for. */
export interface CheckpointSummary {
  seq: number;
  epoch: number;
  /** Segments that hold something. */
  segments: number;
  storedBytes: number;
  liveBytes: number;
  /** Of the map's pages. */
  mapBytes: number;
}

export interface VolumeDescription {
  info: VolumeInfo;
  /** Null if nobody ever had the volume open. */
  tenancy: Tenancy | null;
  /** Null if there is none yet. */
  checkpoint: CheckpointSummary | null;
  /** What is wrong with those that are newer than that one. */
  unreadable: string[];
  /** Segments stored since that checkpoint. */
  newer: { segments: number; storedBytes: number };
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
  const { checkpoint, unreadable } = await newestCheckpoint(bucket, info);
  const keys = await listAll(bucket, "");
  const newer = await weighBehind(bucket, keys, checkpoint?.seq ?? 0);
  const count = (prefix: string) => keys.filter((key) => key.startsWith(prefix)).length;
  const objects = {
    log: count("log/"),
    map: count("map/"),
    checkpoints: count("checkpoint/"),
    all: keys.length,
  };
  return { info, tenancy, checkpoint, unreadable, newer, objects };
}

async function newestCheckpoint(
  bucket: Bucket,
  info: VolumeInfo,
): Promise<Pick<VolumeDescription, "checkpoint" | "unreadable">> {
  const unreadable: string[] = [];
  const seqs = await listCheckpoints(bucket);
  for (const seq of seqs) {
    try {
      return { checkpoint: await summaryOf(bucket, seq, info), unreadable };
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      // a drive deletes it behind a newer one
      if ((await listCheckpoints(bucket))[0] !== seqs[0]) return newestCheckpoint(bucket, info);
      unreadable.push(error.message);
    }
  }
  return { checkpoint: null, unreadable };
}

async function summaryOf(
  bucket: Bucket,
  wantedSeq: number,
  { stripeBytes }: VolumeInfo,
): Promise<CheckpointSummary> {
  const map = new StripeMap(stripeBytes / BLOCK_BYTES);
  const { seq, epoch, pages } = await readRoot(bucket, wantedSeq, map);
  let mapBytes = 0;
  for (const { length } of pages.values()) mapBytes += length;
  return { seq, epoch, segments: map.segments.size, ...map.total, mapBytes };
}

async function weighBehind(bucket: Bucket, keys: string[], afterSeq: number) {
  const newer = { segments: 0, storedBytes: 0 };
  const behind = keys.filter((key) => (seqOfKey(key) ?? 0) > afterSeq);
  await new Limiter(DOWNLOADS_MAX).forEach(behind, async (key) => {
    const found = await bucket.get(key, { offset: 0, length: 0 });
    if (!found) return; // deleted since it was listed
    newer.segments++;
    newer.storedBytes += found.size;
  });
  return newer;
}
