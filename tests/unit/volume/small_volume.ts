/**
 * A volume so small that every bit of its objects can be flipped in turn: 8 blocks, of which three hold data, in
 * stripes of two. Bases and patches, patches of zeroes, two checkpoints and what lies between and behind them,
 * a batch of two segments, claims, a leftover.
 */
import { silentLogger } from "../../../src/logger.ts";
import { Lease } from "../../../src/volume/lease.ts";
import { parseSegmentHead, SegmentBuilder, segmentKey } from "../../../src/volume/segment.ts";
import type { VolumeOptions } from "../../../src/volume/volume_options.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { blocks, hostNamed, openVolume } from "./open_volume.ts";

const BLOCK = 4096;

export const SMALL: Partial<VolumeOptions> = {
  stripeBytes: 2 * BLOCK,
  volumeBytes: 8 * BLOCK,
  cacheStripes: 16, // none has to be evicted
};

/** What the disk holds. */
export const EXPECTED = new Uint8Array(8 * BLOCK);
for (const [block, value] of [1, 5, 3].entries()) EXPECTED.set(blocks(1, value), block * BLOCK);

/** The newest segment; a leftover lies two behind it. */
const LAST_SEQ = 7;

/** What a crash leaves: two clean lives, each with its checkpoint, and a third one that died. */
export async function crashedVolume(): Promise<MemoryBucket> {
  const bucket = new MemoryBucket();
  const { volume: first } = await openVolume(SMALL, { bucket });
  first.write(0, blocks(1, 1));
  first.write(BLOCK, blocks(1, 2));
  await first.close();
  const { volume: second } = await openVolume(SMALL, { bucket });
  await second.trim(BLOCK, BLOCK);
  second.write(2 * BLOCK, blocks(1, 3));
  await second.close();
  const { volume: third, clock } = await openVolume(SMALL, { bucket });
  third.abandon();
  await storeLastBatch(bucket, clock);
  return bucket;
}

/** The same after one life more, which ended well. */
export async function stoppedVolume(crashed: MemoryBucket): Promise<MemoryBucket> {
  const bucket = crashed.copy();
  const { volume } = await openVolume(SMALL, { bucket });
  await volume.trim(4 * BLOCK, BLOCK);
  await volume.close();
  return bucket;
}

/** The same after another one, which wrote a stripe anew: segments that an older checkpoint names are deleted. */
export async function reclaimedVolume(stopped: MemoryBucket): Promise<MemoryBucket> {
  const bucket = stopped.copy();
  const { volume } = await openVolume(SMALL, { bucket });
  volume.write(0, EXPECTED.subarray(0, 2 * BLOCK));
  await volume.close();
  return bucket;
}

/** The third life's work: batches of several segments hold 8 MiB, so a small one is made by hand. */
async function storeLastBatch(bucket: MemoryBucket, clock: ManualClock): Promise<void> {
  const { bytes } = bucket.objects.get(segmentKey(5))!;
  const { epoch, writer } = parseSegmentHead(segmentKey(5), bytes, bytes.length);
  const put = async (
    seq: number,
    lastOfBatch: boolean,
    records: number,
    fill: (builder: SegmentBuilder) => void,
  ) => {
    const builder = new SegmentBuilder(new Uint8Array(2 * BLOCK), records);
    fill(builder);
    const header = { seq, epoch, writer, storedUpTo: 5, lastOfBatch };
    await bucket.put(segmentKey(seq), builder.finish(header));
  };
  await put(6, false, 1, (builder) => builder.addZeroes(5, 2));
  await put(LAST_SEQ, true, 1, (builder) => builder.addData(1, blocks(1, 5)));
  await put(LAST_SEQ + 2, true, 1, (builder) => builder.addZeroes(0, 8));
  const around = { bucket, host: hostNamed("here"), clock, logger: silentLogger };
  const fenced = (error: Error) => {
    throw error;
  };
  const told = () => LAST_SEQ;
  const lease = new Lease(
    around,
    { epoch, id: writer },
    told,
    { unbrokenSince: epoch, releasedSince: epoch },
    fenced,
  );
  await lease.acquire(null);
  lease.stop();
}
