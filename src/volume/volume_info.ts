/**
 * `volume.json`: what a volume is, written once when it is created; only its size can change, and only grow.
 */
import { type Bucket, noVolumeIn } from "../bucket/bucket.ts";
import type { Clock } from "../clock.ts";
import { messageOf, UsageError } from "../errors.ts";
import { STRIPE_BYTES_MAX, STRIPE_BYTES_MIN, VOLUME_BYTES_MAX } from "../limits.ts";

export const VOLUME_KEY = "volume.json";
const VOLUME_FORMAT = 1;

/** What a volume is, once and for all, but for its size, which can grow. */
export interface VolumeInfo {
  format: number;
  uuid: string;
  stripeBytes: number;
  volumeBytes: number;
  /** ISO 8601. */
  created: string;
}

/** Shape and size as configured; undefined takes what the volume has. */
export interface WantedShape {
  stripeBytes?: number;
  volumeBytes?: number;
  /** Stripe of a volume that is created. */
  defaultStripeBytes: number;
}

/**
 * Reads `volume.json`, or creates it.
 *
 * @throws UsageError if the volume has another format or stripe, or is larger than configured
 */
export async function readOrCreateVolume(
  bucket: Bucket,
  wanted: WantedShape,
  uuid: string,
  clock: Clock,
): Promise<{ info: VolumeInfo; etag: string }> {
  for (;;) {
    const found = await bucket.get(VOLUME_KEY);
    if (found) return { info: checkVolume(bucket, found.bytes, wanted), etag: found.etag };
    if (wanted.volumeBytes === undefined) {
      throw noVolumeIn(bucket.name);
    }
    const info: VolumeInfo = {
      format: VOLUME_FORMAT,
      uuid,
      stripeBytes: wanted.stripeBytes ?? wanted.defaultStripeBytes,
      volumeBytes: wanted.volumeBytes,
      created: new Date(clock.now()).toISOString(),
    };
    await bucket.put(VOLUME_KEY, encodeVolume(info), { ifAbsent: true });
    // whoever created it, what is there counts
  }
}

/** Records a larger size; another writer's change in between is found and kept. */
export async function growVolume(
  bucket: Bucket,
  info: VolumeInfo,
  etag: string,
  volumeBytes: number,
): Promise<VolumeInfo> {
  const grown = { ...info, volumeBytes };
  const result = await bucket.put(VOLUME_KEY, encodeVolume(grown), { ifMatch: etag });
  if (result.stored) return grown;
  const found = await bucket.get(VOLUME_KEY);
  const now = found && checkVolume(bucket, found.bytes, { ...info, defaultStripeBytes: 0 });
  if (now?.volumeBytes !== volumeBytes) {
    throw new UsageError(`${bucket.name}: ${VOLUME_KEY} was changed by another program; try again`);
  }
  return now;
}

function encodeVolume(info: VolumeInfo): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(info, null, 1) + "\n");
}

function checkVolume(bucket: Bucket, bytes: Uint8Array, wanted: WantedShape): VolumeInfo {
  const where = `${bucket.name}: ${VOLUME_KEY}`;
  let info: VolumeInfo;
  try {
    info = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new UsageError(`${where} can't be read as JSON (${messageOf(error)}): it is damaged`);
  }
  if (info?.format !== VOLUME_FORMAT) {
    throw new UsageError(
      `${where} has format ${info?.format}; this program reads format ${VOLUME_FORMAT} only`,
    );
  }
  const isStripe = Number.isInteger(Math.log2(info.stripeBytes)) &&
    info.stripeBytes >= STRIPE_BYTES_MIN && info.stripeBytes <= STRIPE_BYTES_MAX;
  if (!isStripe || !(info.volumeBytes > 0 && info.volumeBytes <= VOLUME_BYTES_MAX)) {
    throw new UsageError(
      `${where} gives stripes of ${info.stripeBytes} and a size of ${info.volumeBytes} bytes, ` +
        `which no volume has: it is damaged`,
    );
  }
  const { stripeBytes, volumeBytes } = wanted;
  if (stripeBytes !== undefined && stripeBytes !== info.stripeBytes) {
    throw new UsageError(
      `STRIPE is ${stripeBytes}, but the volume in ${bucket.name} was made with ` +
        `${info.stripeBytes}, which can't be changed: set STRIPE=${info.stripeBytes}`,
    );
  }
  if (volumeBytes !== undefined && volumeBytes < info.volumeBytes) {
    throw new UsageError(
      `VOLUMESIZE is ${volumeBytes}, but the volume in ${bucket.name} has ${info.volumeBytes} ` +
        `bytes, and a volume can grow but not shrink: set VOLUMESIZE=${info.volumeBytes} or more`,
    );
  }
  return info;
}
