/**
 * How opening, memory, checkpoints, a trim of everything and reclaim grow with the volume, on logs that are made up
 * (synthetic_log.ts): nobody writes 16 TiB for it. A volume of 16 TiB that is mapped everywhere has stripes of 1 MiB,
 * which is as many as a TiB has of 64 KiB; with stripes of 64 KiB its map would take 3.2 GiB, and has all its pages
 * here, but one stripe of sixteen mapped.
 */
import { GIB, KIB, MIB, TIB } from "../../src/limits.ts";
import { showBytes } from "../../src/progress.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";
import type { Made, Reclaimed, Used } from "./scale_case.ts";
import type { Shape } from "./synthetic_log.ts";
import type { Row } from "./table.ts";
import type { Turns } from "./turns.ts";

const SHAPES: Omit<Shape, "order">[] = [
  { volumeBytes: 10 * GIB, stripeBytes: 64 * KIB, mappedStripes: 10 * GIB / (64 * KIB) },
  { volumeBytes: TIB, stripeBytes: 64 * KIB, mappedStripes: TIB / (64 * KIB) },
  { volumeBytes: 16 * TIB, stripeBytes: MIB, mappedStripes: 16 * TIB / MIB },
];
const SPARSE: Shape = {
  volumeBytes: 16 * TIB,
  stripeBytes: 64 * KIB,
  mappedStripes: TIB / (64 * KIB),
  order: "at random",
};
const RECLAIMED = [25_000, 50_000, 100_000];
/** No turn of the event loop may be longer: a client's request would wait for it. */
const TURN_MS_MAX = 20;

export async function benchScale(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const shape of SHAPES) {
    rows.push(...await grow({ ...shape, order: "in order" }));
    rows.push(...await grow({ ...shape, order: "at random" }));
  }
  rows.push(...await grow(SPARSE));
  for (const segments of RECLAIMED) rows.push(await benchReclaimOf(segments));
  return rows;
}

/** Runs a case in a process of its own. */
async function run<T>(...args: string[]): Promise<T> {
  const script = new URL("scale_case.ts", import.meta.url).pathname;
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--lock=deno.lock", "--frozen", "--allow-all", script, ...args],
    stderr: "inherit",
  }).output();
  if (!success) throw new Error(`${script} ${args} failed`);
  return JSON.parse(new TextDecoder().decode(stdout));
}

async function grow(shape: Shape): Promise<Row[]> {
  await using bucket = await DirectoryTestBucket.make();
  const made = await run<Made>("make", bucket.path, JSON.stringify(shape));
  const used = await run<Used>("use", bucket.path, JSON.stringify(shape));
  const { volumeBytes, stripeBytes, mappedStripes, order } = shape;
  const what = `${showBytes(volumeBytes)} in stripes of ${showBytes(stripeBytes)}, ` +
    `${mappedStripes.toLocaleString("en")} mapped ${order}`;
  const { idle, checkpoint, trimInRuns, trim } = used;
  return [{
    what,
    result:
      `opened in **${used.openSeconds.toFixed(2)} s** (${used.openCpuSeconds.toFixed(2)} of ` +
      `processor); map ${showBytes(made.mapBytes)}, process ${showBytes(used.residentBytes)}, ` +
      `at most ${showBytes(used.peakBytes)}; checkpoint ${showBytes(made.checkpointBytes)}`,
    target: "",
    met: true,
  }, {
    what: "— a checkpoint of all of it beside flushes of 256 blocks at random",
    result: `${checkpoint.seconds.toFixed(1)} s; longest turn ${turnOf(checkpoint)}; ` +
      `a hot read waits ${waitOf(checkpoint)}, without it ${waitOf(idle)}`,
    ...turnTarget(checkpoint),
  }, {
    what: `— ${trimInRuns.runs.toLocaleString("en")} runs of half a page of the map trimmed`,
    result: `longest turn ${turnOf(trimInRuns)}`,
    ...turnTarget(trimInRuns),
  }, {
    what: "— all of it trimmed",
    result: `longest turn ${turnOf(trim)}`,
    ...turnTarget(trim),
  }];
}

async function benchReclaimOf(segments: number): Promise<Row> {
  const { seconds, cpuSeconds, peakBytes, segmentsLeft, requests, turns } = await run<Reclaimed>(
    "reclaim",
    `${segments}`,
  );
  const { get, put, list, delete: deletes } = requests;
  return {
    what: `reclaim: ${segments.toLocaleString("en")} segments of 16 blocks, 2 of them live`,
    result: `${segmentsLeft.toLocaleString("en")} left after ${seconds.toFixed(0)} s ` +
      `(${cpuSeconds.toFixed(1)} of processor), ${get} GETs, ${put} PUTs, ${deletes} deletes, ` +
      `${list} lists; at most ${showBytes(peakBytes)}; longest turn ${turnOf(turns)}`,
    ...turnTarget(turns),
  };
}

function turnOf({ longestCpuMs }: Turns): string {
  return `**${longestCpuMs.toFixed(1)} ms** of processor`;
}

function waitOf({ p99Ms, longestMs }: Turns): string {
  return `${p99Ms.toFixed(1)} ms in 99 % and ${longestMs.toFixed(1)} ms at most`;
}

function turnTarget({ longestCpuMs }: Turns): { target: string; met: boolean } {
  return { target: `no turn over ${TURN_MS_MAX} ms`, met: longestCpuMs <= TURN_MS_MAX };
}
