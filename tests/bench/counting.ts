/** What it costs to count requests: the same server from source, with and without, by turns. */
import { HeardLines } from "../support/heard_lines.ts";
import { Scratch } from "../support/scratch.ts";
import { median, runFio } from "./fio.ts";
import { fill, SET_BYTES } from "./hot.ts";
import type { Row } from "./table.ts";
import { threadSeconds } from "./usage.ts";

const PROGRAM = new URL("counting_server.ts", import.meta.url).pathname;
const KINDS = ["counted", "uncounted"] as const;
const ROUNDS = 40;
const SECONDS = 1;
const SHARE_MAX = 0.02;

interface Server extends AsyncDisposable {
  pid: number;
  uri: string;
}

export async function benchCounting(): Promise<Row[]> {
  await using scratch = await Scratch.make();
  await using counted = await start(scratch.file("counted.sock"), "counted");
  await using uncounted = await start(scratch.file("uncounted.sock"), "uncounted");
  const servers = { counted, uncounted };
  const rows: Row[] = [];
  for (const depth of [32, 1]) {
    const costs: number[] = [];
    const rates: number[] = [];
    for (let round = 0; round <= ROUNDS; round++) {
      const cost = { counted: 0, uncounted: 0 };
      const rate = { counted: 0, uncounted: 0 };
      // each is first as often as the other
      for (const kind of round % 2 === 0 ? KINDS : KINDS.toReversed()) {
        const { uri, pid } = servers[kind];
        const before = threadSeconds(pid);
        const { requests, seconds } = await runFio(uri, [
          ...["rw=randread", "bs=4k", `iodepth=${depth}`, `size=${SET_BYTES}`, "time_based=1"],
          ...["norandommap=1", `runtime=${SECONDS}`],
        ]);
        cost[kind] = (threadSeconds(pid) - before) / requests;
        rate[kind] = requests / seconds;
      }
      if (round === 0) continue; // compiles
      costs.push(cost.counted / cost.uncounted - 1);
      rates.push(1 - rate.counted / rate.uncounted);
    }
    rows.push({
      what: `counting, at randread 4 KiB at depth ${depth}, cached, one connection`,
      result: `**${percent(median(costs))}** more processor time a request (quartiles ${
        quartiles(costs)
      }), ${percent(median(rates))} of the throughput (${quartiles(rates)}); ${ROUNDS} rounds`,
      target: `at most ${percent(SHARE_MAX)}`,
      met: median(costs) <= SHARE_MAX,
    });
  }
  return rows;
}

async function start(path: string, kind: typeof KINDS[number]): Promise<Server> {
  const lock = ["--lock=deno.lock", "--frozen"];
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", ...lock, "--allow-all", PROGRAM, path, kind],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const said = new HeardLines(child.stdout, "counting_server.ts");
  await said.until(/^ready/, 60);
  const uri = `nbd+unix:///?socket=${path}`;
  await fill(uri);
  return {
    pid: child.pid,
    uri,
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
