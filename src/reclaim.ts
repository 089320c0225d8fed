/** Space given back on request: `elasticdrive reclaim`, and SIGUSR1 to a drive that serves. */
import type { RetryingBucket } from "./bucket/retrying_bucket.ts";
import type { Chance } from "./clock.ts";
import { messageOf, UsageError } from "./errors.ts";
import type { Logger } from "./logger.ts";
import { Progress, type ProgressOptions, showBytes, showCount } from "./progress.ts";
import { ReadingProgress } from "./reading_progress.ts";
import { type Host, readTenancy } from "./volume/lease.ts";
import type { Reclaimed } from "./volume/reclaim.ts";
import { Volume } from "./volume/volume.ts";
import type { VolumeOptions } from "./volume/volume_options.ts";

export interface ReclaimSurroundings extends ProgressOptions {
  host: Host;
  chance: Chance;
  /** Resolves when the user wants no more. */
  interrupted: Promise<void>;
  /** Takes a line of the report. */
  print: (line: string) => void;
}

/**
 * Opens the volume, has it give back all it can, and closes it.
 *
 * @throws UsageError if a drive has it open, or has ended with something that its next start may store after all
 */
export async function reclaimAndReport(
  bucket: RetryingBucket,
  options: VolumeOptions,
  around: ReclaimSurroundings,
): Promise<void> {
  await refuseUnlessReleased(bucket, around);
  const volume = await openToReclaim(bucket, options, around);
  const reclaimed = await reclaim(volume, around);
  await volume.close();
  if (reclaimed) around.print(describe(reclaimed));
  else around.print("stopped before the end: a drive, or another reclaim, goes on from here");
}

/** A drive that serves gives back all it can when it gets SIGUSR1, as slowly as it always does. */
export function reclaimOnSignal(volume: Volume, logger: Logger): void {
  Deno.addSignalListener("SIGUSR1", async () => {
    logger.info("reclaim: asked for by SIGUSR1");
    try {
      logger.info(`reclaim: ${describe(await volume.reclaim(() => {}))}`);
    } catch (error) {
      logger.warn(`reclaim: ended early: ${messageOf(error)}`);
    }
  });
}

/** What a drive that died has not stored may be in its journal: the next one that serves must come first. */
async function refuseUnlessReleased(
  bucket: RetryingBucket,
  { host, clock }: ReclaimSurroundings,
): Promise<void> {
  const tenancy = await readTenancy(bucket, host, clock);
  if (!tenancy || tenancy.state === "released") return;
  const { what, state, holder } = tenancy;
  if (state === "held") {
    throw new UsageError(
      `${what}, and there can be one writer only; to have that one reclaim: ` +
        `kill -USR1 ${holder.pid} on ${holder.host}`,
    );
  }
  throw new UsageError(`${what} and did not end cleanly; start the drive once, then stop it`);
}

async function openToReclaim(
  bucket: RetryingBucket,
  options: VolumeOptions,
  around: ReclaimSurroundings,
): Promise<Volume> {
  using reading = await ReadingProgress.begin(around);
  const volume = await Volume.open({ ...options, volumeBytes: undefined }, {
    ...around,
    bucket,
    onReading: reading.onReading,
    onFailure: () => {}, // whoever waits for the volume hears of it
  });
  bucket.startServing();
  return volume;
}

/** Undefined if it was interrupted. */
async function reclaim(
  volume: Volume,
  around: ReclaimSurroundings,
): Promise<Reclaimed | undefined> {
  using progress = await Progress.begin("reclaiming", around);
  const done = volume.reclaim((done, all) => progress.update(done, all));
  done.catch(() => {}); // once it is interrupted, what closes the volume hears of a failure
  return await Promise.race([done, around.interrupted.then(() => undefined)]);
}

function describe({ freedBytes, storedBytes, liveBytes, segments }: Reclaimed): string {
  const freed = freedBytes > 0 ? `${showBytes(freedBytes)} given back` : "nothing to give back";
  return `${freed}: ${showBytes(storedBytes)} are stored in ${showCount(segments, "segment")}, ` +
    `${showBytes(liveBytes)} of them live`;
}
