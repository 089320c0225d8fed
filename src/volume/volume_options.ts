/**
 * What a volume is opened with: what is chosen, and what it needs from the world.
 */
import type { Bucket } from "../bucket/bucket.ts";
import type { Chance, Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import type { Host } from "./lease.ts";
import type { OnReading } from "./recovery.ts";

export interface VolumeOptions {
  /** Undefined: as the volume in the bucket has it, or 64 KiB for a new one. */
  stripeBytes?: number;
  /** Data in one part of a record, for a new volume; undefined: by its stripe, as limits.ts says. */
  partBytes?: number;
  /** Undefined: as the volume in the bucket has it; a new one needs it. */
  volumeBytes?: number;
  /** Slots of one stripe each. */
  cacheStripes: number;
  /** What this machine has; a cache that is larger is refused. Undefined: any is taken. */
  memoryBytes?: number;
  /** A clean stripe is dropped from the cache so long after its last use; 0 keeps it. */
  cacheTtlMs: number;
  /** How long a request waits for the bucket before it fails; undefined for as long as it takes. */
  ioTimeoutMs?: number;
  /** PUTs at a time. */
  uploads: number;
  /** Fetched ahead of a sequential reader, at most; 0 turns it off. */
  readaheadBytes: number;
  /** A change is on its way to the bucket when it is so old, flushed or not. */
  flushAfterMs: number;
  /** Fence a writer that seems to live, instead of refusing to start. */
  takeover: boolean;
  /** Data in one segment, at least a stripe; undefined: SEGMENT_DATA_BYTES_MAX. */
  segmentDataBytes?: number;
  /** What is done in pieces gives way to all else after so long; undefined: TURN_MS_MAX. */
  turnMs?: number;
  /** Garbage that is left where it is, at least 4,096, for reclaim makes some itself; undefined: RECLAIM_BYTES_MIN. */
  garbageBytesMin?: number;
}

/** Who had the volume last, as its lease tells. */
export interface LastWriter {
  epoch: number;
  /** If it has stored all that it acknowledged, as has every one from this epoch on. */
  unbrokenSince?: number;
}

/** What outlives the writers of this machine. */
export interface Journals {
  /**
   * `writer` is about to claim the volume. It shows it to nobody before it has a journal.
   *
   * @param last who had it before, if that was this machine
   */
  announce(uuid: string, writer: string, last?: LastWriter): void;
  /**
   * The epoch since which nothing that the writer of `epoch` knew was lost, if all that it acknowledged and did not
   * store will be written again before anybody uses the volume; else undefined.
   *
   * @param idle the newest writers that have stored nothing, oldest first; the last is that of `epoch`
   */
  inherit(uuid: string, epoch: number, idle: readonly string[]): number | undefined;
}

/** Everything a volume needs from the world. */
export interface Surroundings {
  bucket: Bucket;
  clock: Clock;
  chance: Chance;
  logger: Logger;
  host: Host;
  journals?: Journals;
  /** Makes the memory that segments are filled in; undefined: as all other memory. */
  newBuffer?: (bytes: number) => Uint8Array;
  /** Told while the volume is opened. */
  onReading?: OnReading;
  /** Told once if the open volume has failed for good; a FencedError if another writer has it. */
  onFailure: (error: Error) => void;
}
