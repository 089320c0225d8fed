/**
 * `volume.json`: what a volume is, written once when it is created; only its size can change, and only grow.
 *
 * Format 2 is that of a volume whose records have parts (segment.ts); programs that know format 1 alone refuse it. All
 * others have format 1: those with stripes of up to STRIPE_UNPARTED_BYTES_MAX, and what older programs made.
 */
import type { Bucket } from "../bucket/bucket.ts";
import type { Clock } from "../clock.ts";
import { DamageError, noVolumeIn, UsageError } from "../errors.ts";
import {
  BLOCK_BYTES,
  MIB,
  PART_BYTES,
  STRIPE_BYTES_MAX,
  STRIPE_UNPARTED_BYTES_MAX,
  VOLUME_BYTES_MAX,
} from "../limits.ts";
import { decodeChecked, encodeChecked } from "./checked_json.ts";
import { listCheckpoints } from "./checkpoint.ts";
import { checkpointKey } from "./checkpoint_format.ts";
import { LOG_PREFIX, seqOfKey } from "./segment.ts";

export const VOLUME_KEY = "volume.json";
const FORMAT_UNPARTED = 1;
const FORMAT_PARTED = 2;

/** What a volume is, once and for all, but for its size, which can grow. */
export interface VolumeInfo {
  format: number;
  uuid: string;
  stripeBytes: number;
  /** Data in one part of a record, a power of two; undefined if every record is one part. */
  partBytes?: number;
  volumeBytes: number;
  /** ISO 8601. */
  created: string;
}

/** Data in one part of a record, at most. */
export function partBytesOf({ partBytes, stripeBytes }: VolumeInfo): number {
  return partBytes ?? stripeBytes;
}

/** Shape and size as configured; undefined takes what the volume has. */
interface WantedShape {
  stripeBytes?: number;
  volumeBytes?: number;
  /** Stripe of a volume that is created. */
  defaultStripeBytes: number;
  /** Part of a volume that is created; undefined: PART_BYTES, or the stripe if that is STRIPE_UNPARTED_BYTES_MAX or less. */
  partBytes?: number;
  /** Stripes in the cache, which is to be smaller than the memory of this machine, if that is known. */
  cacheStripes: number;
  memoryBytes?: number;
}

/** What `volume.json` says, and the version of it that said so. */
interface FoundVolume {
  info: VolumeInfo;
  etag: string;
}

/**
 * Reads `volume.json`, or creates it.
 *
 * @throws UsageError if the volume has another format or stripe, or is larger than configured, or its stripes make the
 *   cache larger than the memory
 * @throws DamageError as `readVolume` does
 */
export async function readOrCreateVolume(
  bucket: Bucket,
  wanted: WantedShape,
  uuid: string,
  clock: Clock,
): Promise<FoundVolume> {
  for (;;) {
    const found = await readVolume(bucket);
    if (found) {
      refuseOtherShape(bucket, found.info, wanted);
      refuseLargeCache(found.info.stripeBytes, wanted);
      return found;
    }
    if (wanted.volumeBytes === undefined) throw noVolumeIn(bucket.name);
    const stripeBytes = wanted.stripeBytes ?? wanted.defaultStripeBytes;
    refuseLargeCache(stripeBytes, wanted);
    const isLarge = stripeBytes > STRIPE_UNPARTED_BYTES_MAX;
    const partBytes = wanted.partBytes ?? (isLarge ? PART_BYTES : stripeBytes);
    const isParted = partBytes < stripeBytes;
    const info: VolumeInfo = {
      format: isParted ? FORMAT_PARTED : FORMAT_UNPARTED,
      uuid,
      stripeBytes,
      partBytes: isParted ? partBytes : undefined,
      volumeBytes: wanted.volumeBytes,
      created: new Date(clock.now()).toISOString(),
    };
    await bucket.put(VOLUME_KEY, encodeChecked(info), { ifAbsent: true });
    // whoever created it, what is there counts
  }
}

/**
 * Reads `volume.json`; null if there is no volume.
 *
 * @throws DamageError if it is damaged, or missing where there is the rest of a volume: a new one made over that
 *   could have other stripes
 */
export async function readVolume(bucket: Bucket): Promise<FoundVolume | null> {
  let rest: string | undefined;
  for (;;) {
    const found = await bucket.get(VOLUME_KEY);
    if (found) return { info: parseVolume(bucket, found.bytes), etag: found.etag };
    if (rest !== undefined) {
      throw new DamageError(`${VOLUME_KEY}: missing, though ${rest} is there`);
    }
    rest = await anyOfTheRest(bucket);
    if (rest === undefined) return null;
    // another program may have created it, and begun its log, between the two looks
  }
}

/** A key that only a volume's writer makes. */
async function anyOfTheRest(bucket: Bucket): Promise<string | undefined> {
  const segment = (await bucket.list(LOG_PREFIX)).find((key) => seqOfKey(key) !== undefined);
  return segment ?? (await listCheckpoints(bucket)).map(checkpointKey)[0];
}

/** Records a larger size; another writer's change in between is found and kept. */
export async function growVolume(
  bucket: Bucket,
  info: VolumeInfo,
  etag: string,
  volumeBytes: number,
): Promise<VolumeInfo> {
  const grown = { ...info, volumeBytes };
  const result = await bucket.put(VOLUME_KEY, encodeChecked(grown), { ifMatch: etag });
  if (result.stored) return grown;
  const now = await readVolume(bucket);
  if (now?.info.volumeBytes !== volumeBytes) {
    throw new UsageError(`${bucket.name}: ${VOLUME_KEY} was changed by another program; try again`);
  }
  return now.info;
}

function parseVolume(bucket: Bucket, bytes: Uint8Array): VolumeInfo {
  const info = decodeChecked<VolumeInfo>(VOLUME_KEY, bytes);
  const isKnown = info.format === FORMAT_UNPARTED ||
    info.format === FORMAT_PARTED && info.partBytes !== undefined;
  if (!isKnown) {
    throw new UsageError(
      `${bucket.name}: ${VOLUME_KEY} has format ${info.format}; ` +
        `this program reads formats ${FORMAT_UNPARTED} and ${FORMAT_PARTED} only`,
    );
  }
  const { stripeBytes, partBytes = stripeBytes, volumeBytes } = info;
  const isSize = Number.isSafeInteger(volumeBytes) && volumeBytes > 0 &&
    volumeBytes <= VOLUME_BYTES_MAX;
  if (isSize && isPower(stripeBytes, STRIPE_BYTES_MAX) && isPower(partBytes, stripeBytes)) {
    return info;
  }
  throw new DamageError(
    `${VOLUME_KEY}: ${volumeBytes} bytes in stripes of ${stripeBytes}, in parts of ${partBytes}`,
  );
}

/** Whether it is a power of two that a stripe or a part may have. */
function isPower(bytes: number, bytesMax: number): boolean {
  return Number.isSafeInteger(bytes) && bytes >= BLOCK_BYTES && bytes <= bytesMax &&
    (bytes & (bytes - 1)) === 0;
}

function refuseLargeCache(stripeBytes: number, wanted: WantedShape): void {
  const { cacheStripes, memoryBytes = Infinity } = wanted;
  const cacheBytes = cacheStripes * stripeBytes;
  if (cacheBytes < memoryBytes) return;
  const mib = (bytes: number) => `${Math.ceil(bytes / MIB)} MiB`;
  throw new UsageError(
    `cachesize is ${cacheStripes}: that many stripes of ${stripeBytes} bytes are ` +
      `${mib(cacheBytes)}, and this machine has ${mib(memoryBytes)} of memory: ` +
      `set cachesize=${Math.floor(memoryBytes / 4 / stripeBytes)}, for example`,
    { key: "cachesize" },
  );
}

function refuseOtherShape(bucket: Bucket, info: VolumeInfo, wanted: WantedShape): void {
  const { stripeBytes, volumeBytes } = wanted;
  if (stripeBytes !== undefined && stripeBytes !== info.stripeBytes) {
    throw new UsageError(
      `STRIPE is ${stripeBytes}, but the volume in ${bucket.name} was made with ` +
        `${info.stripeBytes}, which can't be changed: set STRIPE=${info.stripeBytes}`,
      { key: "STRIPE" },
    );
  }
  if (volumeBytes !== undefined && volumeBytes < info.volumeBytes) {
    throw new UsageError(
      `VOLUMESIZE is ${volumeBytes}, but the volume in ${bucket.name} has ${info.volumeBytes} ` +
        `bytes, and a volume can grow but not shrink: set VOLUMESIZE=${info.volumeBytes} or more`,
      { key: "VOLUMESIZE" },
    );
  }
}
