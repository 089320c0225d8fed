/**
 * The drive and its peers at the same work, against one S3 server that is as far away as is asked for, by turns:
 * round after round, each begins anew on what was stored. Beside them, bare requests of the drive's own S3 client.
 */
import { GIB } from "../../src/limits.ts";
import { run } from "../support/programs.ts";
import type { Counts } from "../support/memory_s3.ts";
import { type MemoryS3, startMemoryS3 } from "../support/start_memory_s3.ts";
import { type Bare, BARE_BUCKET, BARE_WORKS, type BareWork } from "./bare.ts";
import { BLOCK_BYTES_DEFAULT, CONTENDERS, type DiskOptions } from "./contenders.ts";
import { median, runFio } from "./fio.ts";
import { peakMemoryBytes, processorSeconds } from "./usage.ts";
import { fill, perform, type Work, WORKS } from "./works.ts";

export interface PeersOptions {
  latencyMs: number;
  rounds: number;
  /** Of one work of one contender in one round, preparations not counted. */
  secondsMax: number;
  /** Names of works and of bare requests; all if there are none. */
  works: string[];
}

/** One round of one contender at one work; the figures by which they are compared. */
export interface Round {
  bytesPerSecond: number;
  requestsPerSecond: number;
  p50Ms: number;
  p99Ms: number;
  /** By byte of work; all else of S3's is by GiB of it. */
  upPerByte: number;
  downPerByte: number;
  s3Puts: number;
  s3Gets: number;
  s3Requests: number;
  processorSeconds: number;
  peakBytes: number;
}

export interface Result {
  work: string;
  what: string;
  contender: string;
  rounds: Round[];
}

export async function measurePeers(
  options: PeersOptions,
  say: (line: string) => void,
): Promise<Result[]> {
  await using s3 = await startMemoryS3();
  const isWanted = (name: string) => options.works.length === 0 || options.works.includes(name);
  const results: Result[] = [];
  for (const work of Object.keys(BARE_WORKS) as BareWork[]) {
    if (!isWanted(work)) continue;
    results.push(await measureBare(s3, work, options));
    say(describe(results.at(-1)!));
  }
  for (const work of WORKS.filter(({ name }) => isWanted(name))) {
    for (const result of await measureWork(s3, work, options)) {
      results.push(result);
      say(describe(result));
    }
  }
  return results;
}

/** One line for who watches. */
function describe({ what, contender, rounds }: Result): string {
  const rates = rounds.map(({ bytesPerSecond }) => (bytesPerSecond / 1e6).toFixed(1));
  return `${what}: ${contender}: ${rates.join(", ")} MB/s, p50 ${
    median(rounds.map(({ p50Ms }) => p50Ms)).toFixed(2)
  } ms, p99 ${median(rounds.map(({ p99Ms }) => p99Ms)).toFixed(2)} ms`;
}

async function measureWork(s3: MemoryS3, work: Work, options: PeersOptions): Promise<Result[]> {
  const { name, what, filledBytes } = work;
  const results = Object.keys(CONTENDERS).map((contender): Result => {
    return { work: name, what, contender, rounds: [] };
  });
  const bucketOf = ({ contender }: Result) => `${name}-${contender.toLowerCase()}`;
  for (let round = 0; round < options.rounds; round++) {
    for (const result of results) {
      const disk = {
        s3,
        bucketName: bucketOf(result),
        sizeBytes: work.sizeBytes,
        blockBytes: work.peerBlockBytes ?? BLOCK_BYTES_DEFAULT,
      };
      if (round === 0 && filledBytes) await fillDisk(result.contender, disk, filledBytes);
      result.rounds.push(await measureRound(result.contender, disk, work, options));
      if (!filledBytes) await s3.forget(disk.bucketName);
    }
  }
  for (const result of results) await s3.forget(bucketOf(result));
  return results;
}

async function fillDisk(contender: string, disk: DiskOptions, bytes: number): Promise<void> {
  await using started = await CONTENDERS[contender](disk);
  await fill(started, bytes);
  await started.stop();
}

async function measureRound(
  contender: string,
  disk: DiskOptions,
  work: Work,
  { latencyMs, secondsMax }: PeersOptions,
): Promise<Round> {
  const { s3 } = disk;
  await using started = await CONTENDERS[contender](disk);
  if (work.warm) await runFio(started.uri, work.warm);
  await s3.set({ latencyMs });
  await s3.resetCounts();
  const before = processorSeconds(started.pid);
  const done = await perform(work, started, secondsMax);
  const used = processorSeconds(started.pid) - before;
  const counts = await s3.counts();
  const peakBytes = peakMemoryBytes(started.pid);
  await s3.set({ latencyMs: 0 });
  await started.stop();
  return roundOf({ ...done, processorSeconds: used, peakBytes }, counts);
}

async function measureBare(s3: MemoryS3, work: BareWork, options: PeersOptions): Promise<Result> {
  const { bytes, atOnce } = BARE_WORKS[work];
  const what = `bare ${work.split("-")[0].toUpperCase()}s of ${
    bytes / 1024
  } KiB, ${atOnce} at once`;
  const rounds: Round[] = [];
  await s3.set({ latencyMs: options.latencyMs });
  for (let round = 0; round < options.rounds; round++) {
    await s3.resetCounts();
    const bare: Bare = JSON.parse(
      await run(Deno.execPath(), [
        ...["run", "--lock=deno.lock", "--frozen", "--allow-all"],
        new URL("bare.ts", import.meta.url).pathname,
        ...[s3.endpoint, work, `${options.secondsMax}`],
      ]),
    );
    rounds.push(roundOf(bare, await s3.counts()));
    await s3.forget(BARE_BUCKET);
  }
  await s3.set({ latencyMs: 0 });
  return { work, what, contender: "bare S3 client", rounds };
}

function roundOf(done: Bare, { requests, bytesUp, bytesDown }: Counts): Round {
  const { bytes, seconds, p50Ms, p99Ms, peakBytes } = done;
  const gib = bytes / GIB;
  const all = Object.values(requests).reduce((sum, count) => sum + count, 0);
  return {
    bytesPerSecond: bytes / seconds,
    requestsPerSecond: done.requests / seconds,
    p50Ms,
    p99Ms,
    upPerByte: bytesUp / bytes,
    downPerByte: bytesDown / bytes,
    s3Puts: requests.PUT / gib,
    s3Gets: requests.GET / gib,
    s3Requests: all / gib,
    processorSeconds: done.processorSeconds / gib,
    peakBytes,
  };
}
