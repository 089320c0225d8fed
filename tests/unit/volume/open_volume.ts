/**
 * A real volume over a bucket in memory, with a clock turned by hand; and the parts below it, for tests of one
 * file of src/volume.
 */
import type { Bucket } from "../../../src/bucket/bucket.ts";
import { BLOCK_BYTES } from "../../../src/limits.ts";
import { type Logger, silentLogger } from "../../../src/logger.ts";
import type { Host } from "../../../src/volume/lease.ts";
import { Volume } from "../../../src/volume/volume.ts";
import type { Journals, VolumeOptions } from "../../../src/volume/volume_options.ts";
import { fixedChance, ManualClock } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";

export const KIB = 1024;

/** 64 stripes of 16 KiB, 4 blocks each; a cache of 16, so that 12 may be dirty. */
export const OPTIONS: VolumeOptions = {
  stripeBytes: 16 * KIB,
  volumeBytes: 64 * 16 * KIB,
  cacheStripes: 16,
  cacheTtlMs: 0,
  uploads: 4,
  readaheadBytes: 0,
  flushAfterMs: 5000,
  takeover: false,
};

/** A host that can't tell who else lives. */
export function hostNamed(host: string): Host {
  return {
    me: { host, pid: 1, trace: "" },
    isGone: (holder) => holder.host === host ? true : undefined,
    forget() {},
  };
}

/** Keeps warnings, for tests that look at them. */
export function rememberingLogger(): Logger & { warnings: string[] } {
  const warnings: string[] = [];
  return { ...silentLogger, warnings, warn: (message) => warnings.push(message) };
}

export interface Opened<B extends Bucket = MemoryBucket> {
  volume: Volume;
  bucket: B;
  clock: ManualClock;
  /** What `onFailure` was told. */
  failures: Error[];
}

let openings = 0;

/** Opens a volume; in a bucket given, or in a new one. */
export async function openVolume(
  options?: Partial<VolumeOptions>,
  around?: {
    bucket?: MemoryBucket;
    clock?: ManualClock;
    host?: Host;
    logger?: Logger;
    journals?: Journals;
  },
): Promise<Opened>;
export async function openVolume<B extends Bucket>(
  options: Partial<VolumeOptions>,
  around: {
    bucket: B;
    clock?: ManualClock;
    host?: Host;
    logger?: Logger;
    journals?: Journals;
  },
): Promise<Opened<B>>;
export async function openVolume(
  options: Partial<VolumeOptions> = {},
  around: {
    bucket?: Bucket;
    clock?: ManualClock;
    host?: Host;
    logger?: Logger;
    journals?: Journals;
  } = {},
): Promise<Opened<Bucket>> {
  const { bucket = new MemoryBucket(), clock = new ManualClock() } = around;
  const { host = hostNamed("here"), logger = silentLogger, journals } = around;
  const failures: Error[] = [];
  const chance = { ...fixedChance(0.5), uuid: () => uuidOf(++openings) };
  const onFailure = (error: Error) => void failures.push(error);
  const volume = await Volume.open(
    { ...OPTIONS, ...options },
    { bucket, clock, chance, logger, host, journals, onFailure },
  );
  return { volume, bucket, clock, failures };
}

function uuidOf(number: number): string {
  return `00000000-0000-4000-8000-${String(number).padStart(12, "0")}`;
}

/** What a crash at this moment leaves, opened by the next process. */
export async function reopenAfterCrash(opened: Opened, options: Partial<VolumeOptions> = {}) {
  opened.volume.abandon();
  return await openVolume(options, { bucket: opened.bucket.copy(), clock: opened.clock });
}

/** `count` blocks that hold `value` everywhere. */
export function blocks(count: number, value: number): Uint8Array {
  return new Uint8Array(count * BLOCK_BYTES).fill(value);
}

export async function readBytes(volume: Volume, offset: number, length: number) {
  const target = new Uint8Array(length).fill(0xcc);
  if (!volume.tryRead(offset, target)) await volume.read(offset, target);
  return target;
}

/** The first byte of each of `count` blocks from `first` on. */
export async function firstBytes(volume: Volume, first: number, count: number): Promise<number[]> {
  const bytes = await readBytes(volume, first * BLOCK_BYTES, count * BLOCK_BYTES);
  return Array.from({ length: count }, (_, block) => bytes[block * BLOCK_BYTES]);
}

/** Keys of the log, sorted. */
export function logKeys(bucket: MemoryBucket): string[] {
  return [...bucket.objects.keys()].filter((key) => key.startsWith("log/")).sort();
}

/** "pending" until the promise settles. */
export async function stateOf(promise: Promise<unknown> | undefined): Promise<string> {
  if (promise === undefined) return "done";
  let state = "pending";
  promise.then(() => state = "done", () => state = "failed");
  for (let turns = 0; turns < 50; turns++) await Promise.resolve();
  return state;
}
