/**
 * What it costs to count requests: the same server from source, with and without, in slices of a fifth of a second by
 * turns. The processor time of a request is compared, round by round: on a machine that does other things too it says
 * more than the throughput. A second server that does not count shows what differs without any reason.
 */
import { HeardLines } from "../support/heard_lines.ts";
import { Scratch } from "../support/scratch.ts";
import { median } from "./fio.ts";
import { SteadyReads } from "./steady_reads.ts";
import type { Row } from "./table.ts";
import { threadSeconds } from "./usage.ts";

const PROGRAM = new URL("counting_server.ts", import.meta.url).pathname;
const KINDS = ["counted", "uncounted", "control"] as const;
const ORDERS = KINDS.flatMap((first) =>
  KINDS.filter((kind) => kind !== first).map((second) => [
    first,
    second,
    KINDS.find((kind) => kind !== first && kind !== second)!,
  ])
);
const ROUNDS = 102;
/** Not looked at: the servers compile what is hot. */
const WARM_ROUNDS = 10;
const SLICE_MS = 200;
const SHARE_MAX = 0.02;

interface Server extends AsyncDisposable {
  pid: number;
  path: string;
}

export async function benchCounting(): Promise<Row[]> {
  await using scratch = await Scratch.make();
  await using counted = await start(scratch.file("counted.sock"), "counted");
  await using uncounted = await start(scratch.file("uncounted.sock"), "uncounted");
  await using control = await start(scratch.file("control.sock"), "uncounted");
  const servers = { counted, uncounted, control };
  const rows: Row[] = [];
  for (const depth of [32, 1]) rows.push(await compare(servers, depth));
  return rows;
}

async function compare(
  servers: Record<typeof KINDS[number], Server>,
  depth: number,
): Promise<Row> {
  const clients = {
    counted: await SteadyReads.connect(servers.counted.path, depth),
    uncounted: await SteadyReads.connect(servers.uncounted.path, depth),
    control: await SteadyReads.connect(servers.control.path, depth),
  };
  const more: number[] = [];
  const chance: number[] = [];
  const costs: number[] = [];
  for (let round = -WARM_ROUNDS; round < ROUNDS; round++) {
    const cost = { counted: 0, uncounted: 0, control: 0 };
    // in all six orders, so that none profits from what was there before it
    for (const kind of ORDERS[(round + WARM_ROUNDS) % ORDERS.length]) {
      const before = threadSeconds(servers[kind].pid);
      const requests = await clients[kind].run(SLICE_MS);
      cost[kind] = (threadSeconds(servers[kind].pid) - before) / requests;
    }
    if (round < 0) continue;
    more.push(cost.counted / cost.uncounted - 1);
    chance.push(cost.control / cost.uncounted - 1);
    costs.push(cost.uncounted);
  }
  for (const kind of KINDS) clients[kind].close();
  return {
    what: `counting, at cached reads of 4 KiB at depth ${depth}, one connection`,
    result: `**${percent(median(more))}** more than ${
      (median(costs) * 1e6).toFixed(1)
    } µs of processor time (${quartiles(more)}); by chance alone ${percent(median(chance))} (${
      quartiles(chance)
    })`,
    target: `at most ${percent(SHARE_MAX)}`,
    met: median(more) <= SHARE_MAX,
  };
}

async function start(path: string, kind: "counted" | "uncounted"): Promise<Server> {
  const lock = ["--lock=deno.lock", "--frozen"];
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", ...lock, "--allow-all", PROGRAM, path, kind],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const said = new HeardLines(child.stdout, "counting_server.ts");
  await said.until(/^ready/, 60);
  return {
    pid: child.pid,
    path,
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.status;
      await said.ended;
    },
  };
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

function quartiles(values: number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => percent(sorted[Math.round((sorted.length - 1) * share)]);
  return `${at(1 / 4)} to ${at(3 / 4)}`;
}
