/**
 * One case of scale.ts, in a process of its own so that its memory can be told: prints a line of JSON.
 *
 *   make DIRECTORY SHAPE     a volume with a checkpoint
 *   use DIRECTORY SHAPE      opens it, changes it until a checkpoint is stored, trims much of it in pieces, then all of it
 *   reclaim SEGMENTS         opens a volume that is mostly garbage, and waits until reclaim has done its work
 */
import { DirectoryBucket } from "../../src/bucket/directory_bucket.ts";
import { systemChance, systemClock, Turn } from "../../src/clock.ts";
import {
  BLOCK_BYTES,
  CHECKPOINT_SEGMENTS,
  MAP_PAGE_STRIPES,
  MIB,
  PATCHES_MAX,
  SEAL_STRIPES_MAX,
  SEGMENTS_SMALL_MAX,
  TURN_MS_MAX,
} from "../../src/limits.ts";
import { silentLogger } from "../../src/logger.ts";
import { LEASE_KEY } from "../../src/volume/lease.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { openVolumeIn, openVolumeOf } from "./directory_volume.ts";
import { type Shape, storeCheckpoint, SyntheticLog } from "./synthetic_log.ts";
import { TurnMeter, type Turns } from "./turns.ts";
import { peakMemoryBytes, processorSeconds } from "./usage.ts";

const CACHE_BYTES = 64 * MIB;
/** Blocks of one flush of the client that writes while a checkpoint is stored. */
const BLOCKS_A_FLUSH = 256;
/** Runs that are trimmed, and stripes of each: less than a page of the map, and as many as are sealed together. */
const TRIM_RUNS_MAX = SEAL_STRIPES_MAX / 2;
const TRIM_RUN_STRIPES = MAP_PAGE_STRIPES / 2;
/** What a client sends at a time. */
const TRIMS_A_TURN = 64;
const IDLE_MS = 2000;
const SETTLE_MS = 3000;

export interface Made {
  mapBytes: number;
  checkpointBytes: number;
}

export interface Used {
  openSeconds: number;
  openCpuSeconds: number;
  residentBytes: number;
  peakBytes: number;
  idle: Turns;
  checkpoint: Turns & { seconds: number };
  trimInRuns: Turns & { runs: number };
  trim: Turns;
}

export interface Reclaimed {
  seconds: number;
  cpuSeconds: number;
  peakBytes: number;
  segmentsLeft: number;
  requests: SyntheticLog["requests"];
  turns: Turns;
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

function bytesBelow(path: string): number {
  let bytes = 0;
  for (const { name, isDirectory } of Deno.readDirSync(path)) {
    const below = `${path}/${name}`;
    bytes += isDirectory ? bytesBelow(below) : Deno.statSync(below).size;
  }
  return bytes;
}

async function make(path: string, shape: Shape): Promise<Made> {
  const { volumeBytes, stripeBytes } = shape;
  await (await openVolumeIn(path, { volumeBytes, stripeBytes, cacheStripes: 16 })).close();
  const around = { clock: systemClock, chance: systemChance, logger: silentLogger };
  const bucket = await DirectoryBucket.open(path, around);
  const mapBytes = await storeCheckpoint(bucket, shape);
  await bucket.delete([LEASE_KEY]); // as after a crash: the first checkpoint stores all of the map
  return {
    mapBytes,
    checkpointBytes: bytesBelow(`${path}/map`) + bytesBelow(`${path}/checkpoint`),
  };
}

async function use(path: string, { volumeBytes, stripeBytes }: Shape): Promise<Used> {
  const startedAt = performance.now();
  const cpuSeconds = processorSeconds(Deno.pid);
  const volume = await openVolumeIn(path, { stripeBytes, cacheStripes: CACHE_BYTES / stripeBytes });
  const openSeconds = (performance.now() - startedAt) / 1000;
  const openCpuSeconds = processorSeconds(Deno.pid) - cpuSeconds;
  const residentBytes = Deno.memoryUsage().rss;
  const hotRead = await hotReader(volume);

  let meter = new TurnMeter(hotRead);
  await sleep(IDLE_MS);
  const idle = meter.end();
  const before = checkpoints(path);
  const data = new Uint8Array(BLOCK_BYTES).fill(1);
  const blocks = volumeBytes / BLOCK_BYTES;
  // gives way as a connection does that has so many requests at once
  const write = async (count: number) => {
    const turn = new Turn(systemClock, TURN_MS_MAX);
    for (let n = 0; n < count; n++) {
      await volume.write(Math.floor(Math.random() * blocks) * BLOCK_BYTES, data);
      if (turn.isOver) await turn.next();
    }
    await volume.flush();
  };
  for (let flush = 0; flush < CHECKPOINT_SEGMENTS - 10; flush++) await write(1);
  meter = new TurnMeter(hotRead);
  const checkpointAt = performance.now();
  for (let flushes = 0; checkpoints(path) === before; flushes++) {
    // with more patches than PATCHES_MAX stripes would be fetched, and they are not there
    if (flushes * BLOCKS_A_FLUSH < PATCHES_MAX / 2) await write(BLOCKS_A_FLUSH);
    else await sleep(10);
  }
  const seconds = (performance.now() - checkpointAt) / 1000;
  const checkpoint = { ...meter.end(), seconds };
  meter = new TurnMeter(() => {});
  const runBytes = TRIM_RUN_STRIPES * stripeBytes;
  let runs = 0;
  // a stripe apart, or they would be one
  for (
    let at = 0;
    at + runBytes <= volumeBytes && runs < TRIM_RUNS_MAX;
    at += runBytes + stripeBytes
  ) {
    await volume.trim(at, runBytes);
    if (++runs % TRIMS_A_TURN === 0) await sleep(0);
  }
  await volume.flush();
  await sleep(SETTLE_MS);
  const trimInRuns = { ...meter.end(), runs };
  meter = new TurnMeter(() => {});
  await volume.trim(0, volumeBytes);
  await volume.flush();
  await sleep(SETTLE_MS);
  const trim = meter.end();
  const peakBytes = peakMemoryBytes(Deno.pid);
  return {
    openSeconds,
    openCpuSeconds,
    residentBytes,
    peakBytes,
    idle,
    checkpoint,
    trimInRuns,
    trim,
  };
}

/** The roots there are, as one text. */
function checkpoints(path: string): string {
  return [...Deno.readDirSync(`${path}/checkpoint`)].map(({ name }) => name).sort().join();
}

/** Reads a block that is in the cache; if others have pushed it out, it is written anew: what it lay in is not there. */
async function hotReader(volume: Volume): Promise<() => void> {
  const block = new Uint8Array(BLOCK_BYTES);
  await volume.write(0, block.fill(1));
  await volume.flush();
  return () => {
    if (!volume.tryRead(0, block)) volume.write(0, block.fill(1));
  };
}

async function reclaim(segments: number): Promise<Reclaimed> {
  const log = new SyntheticLog();
  const options = { stripeBytes: BLOCK_BYTES, cacheStripes: CACHE_BYTES / BLOCK_BYTES };
  const volumeBytes = 16 * segments * BLOCK_BYTES;
  await (await openVolumeOf(log, { ...options, volumeBytes })).close();
  await log.fill(segments);
  const startedAt = performance.now();
  const cpuSeconds = processorSeconds(Deno.pid);
  const volume = await openVolumeOf(log, options);
  const meter = new TurnMeter(() => {}); // while it is opened nobody is served
  // it ends with few small segments left, and what was moved is deleted behind the second checkpoint
  while (log.segmentCount > SEGMENTS_SMALL_MAX) await sleep(50);
  const turns = meter.end();
  const seconds = (performance.now() - startedAt) / 1000;
  const used = processorSeconds(Deno.pid) - cpuSeconds;
  volume.abandon();
  return {
    seconds,
    cpuSeconds: used,
    peakBytes: peakMemoryBytes(Deno.pid),
    segmentsLeft: log.segmentCount,
    requests: log.requests,
    turns,
  };
}

const [verb, first, shape] = Deno.args;
const result = verb === "make"
  ? await make(first, JSON.parse(shape))
  : verb === "use"
  ? await use(first, JSON.parse(shape))
  : await reclaim(Number(first));
Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(result) + "\n"));
Deno.exit();
