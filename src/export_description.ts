/** The line that says, to whoever lists a drive's export, which volume it is; `attach` reads it to know the volume. */

/** `bucketName` is for people; it may change, the uuid of a volume never does. */
export function describeExport(bucketName: string, uuid: string): string {
  return `ElasticDrive ${bucketName}, volume ${uuid}`;
}

/** The uuid; undefined if this is no ElasticDrive's line. */
export function volumeOf(description: string): string | undefined {
  return /^ElasticDrive .*, volume ([0-9a-f-]{36})$/.exec(description)?.[1];
}
