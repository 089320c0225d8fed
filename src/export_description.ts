/**
 * The line that says, to whoever lists a drive's export, which disk it is; `attach` reads it to know whether a device
 * that lost its connection may have this one.
 */

/** `bucketName` is for people and may change. `unbrokenSince` is an epoch: see `Volume`. */
export function describeExport(bucketName: string, uuid: string, unbrokenSince: number): string {
  return `ElasticDrive ${bucketName}, volume ${uuid} unbroken since epoch ${unbrokenSince}`;
}

/** A disk with a history: a volume, and the epoch since which it has forgotten nothing. */
export interface DiskIdentity {
  uuid: string;
  unbrokenSince: number;
}

/** Undefined if this is no ElasticDrive's line. */
export function identityIn(description: string): DiskIdentity | undefined {
  const found = /^ElasticDrive .*, volume ([0-9a-f-]{36}) unbroken since epoch (\d+)$/.exec(
    description,
  );
  return found ? { uuid: found[1], unbrokenSince: Number(found[2]) } : undefined;
}
