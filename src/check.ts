/** `elasticdrive check`: checks a volume and says, in lines for people, what was found. */
import type { BucketCounts } from "./bucket/counting_bucket.ts";
import type { RetryingBucket } from "./bucket/retrying_bucket.ts";
import type { Clock } from "./clock.ts";
import type { Logger } from "./logger.ts";
import { CheckProgress, showBytes } from "./progress.ts";
import { type DiskRange, VolumeCheck, type Weight } from "./volume/check.ts";
import type { Host } from "./volume/lease.ts";

export interface CheckSurroundings {
  host: Host;
  /** What the bucket's requests are counted in. */
  counts: BucketCounts;
  clock: Clock;
  logger: Logger;
  /** If it is, progress is a bar. */
  isTerminal: boolean;
  /** Takes a line of the report. */
  print: (line: string) => void;
}

/**
 * Checks the volume in the bucket. True if it is sound.
 *
 * @throws UsageError if there is none, or the bucket can't be read
 */
export async function checkAndReport(
  bucket: RetryingBucket,
  { host, counts, clock, logger, isTerminal, print }: CheckSurroundings,
): Promise<boolean> {
  const check = await VolumeCheck.begin(bucket, host, clock);
  // an hour's reading is not given up because the bucket was away for a minute
  bucket.startServing();
  const progress = new CheckProgress(clock, logger, isTerminal);
  await check.run((done, all) => progress.show(done, all));
  const seconds = progress.end();
  describeVolume(bucket.name, check).forEach(print);
  if (check.state) {
    const { bytes, requests } = counts.get;
    print(`read: ${showBytes(bytes)} in ${requests} GETs and ${seconds.toFixed(1)} s`);
  }
  for (const { what, ranges } of check.findings) {
    print(`damaged: ${what}`);
    ranges.map(describeRange).forEach(print);
  }
  print(verdict(check));
  return check.isSound;
}

function describeVolume(name: string, check: VolumeCheck): string[] {
  const { info, state, tenancy, segments, liveBytes, foreign } = check;
  const lines: string[] = [];
  if (info) {
    lines.push(
      `${name}: ${showBytes(info.volumeBytes)} in stripes of ${showBytes(info.stripeBytes)}`,
    );
  }
  if (tenancy?.state === "held") {
    lines.push(
      `${tenancy.what}: what it has stored since the check began was not looked at, and ` +
        `leftovers may be under way`,
    );
  } else if (tenancy && tenancy.state !== "released") {
    lines.push("it was not stopped cleanly the last time");
  }
  if (!state) return lines;
  const garbage = Math.max(0, segments.bytes - liveBytes);
  const share = segments.bytes === 0 ? 0 : garbage / segments.bytes * 100;
  lines.push(
    `log: ${describe(segments)}, up to segment ${state.lastSeq} in epoch ${state.epoch}`,
    `garbage: ${share.toFixed(1)} % of the stored bytes (${showBytes(garbage)})`,
    `checkpoints: ${describe(check.checkpoints)}`,
    `leftovers that nothing needs: ${describe(check.leftovers)}`,
  );
  if (foreign.length > 0) {
    const some = foreign.slice(0, 3).join(", ") + (foreign.length > 3 ? ", ..." : "");
    lines.push(`not of this volume: ${count(foreign.length, "object")} (${some})`);
  }
  return lines;
}

function verdict({ findings, state, isSound }: VolumeCheck): string {
  if (isSound) return "sound: everything is as it was written";
  const found = count(findings.length, "finding");
  if (!state) return `damaged: ${found}; the volume can't be opened`;
  const bytes = findings.flatMap(({ ranges }) => ranges).reduce((sum, r) => sum + r.length, 0);
  return `damaged: ${found}; ${showBytes(bytes)} of the disk can't be read`;
}

function describe({ objects, bytes }: Weight): string {
  return `${count(objects, "object")}, ${showBytes(bytes)}`;
}

function describeRange({ offset, length }: DiskRange): string {
  return `  bytes ${offset} to ${offset + length - 1} of the disk (${showBytes(length)})`;
}

function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}
