/**
 * `deno task bench [--quick] [--latency=MS] [part ...]`: measures the compiled program and prints the README's
 * table. Nothing here fails a test: these are figures of one machine at one time, as ratios against a peer in the
 * same run where speed is concerned.
 *
 * The part `peers` compares the drive with what else Debian has at S3 servers that are 0, 30 and 100 ms away, or
 * MS, and writes what it found below tests/bench/results; a single work of it (works.ts, bare.ts) is a part too,
 * which writes nothing. `--quick` has one short round of each, for who works on the drive.
 */
import { parseArgs } from "@std/cli/parse-args";
import { installPackages } from "../support/debian_packages.ts";
import { BARE_WORKS } from "./bare.ts";
import { benchBeside } from "./beside.ts";
import { benchCounting } from "./counting.ts";
import { benchFlush } from "./flush.ts";
import { benchHot } from "./hot.ts";
import { benchOpening } from "./opening.ts";
import { measurePeers } from "./peers.ts";
import { benchReclaim } from "./reclaim.ts";
import { benchReplay } from "./replay.ts";
import { chart, comparison } from "./report.ts";
import { benchStored } from "./stored.ts";
import { markdown, type Row } from "./table.ts";
import { rowsOf } from "./targets.ts";
import { benchTls } from "./tls.ts";
import { WORKS } from "./works.ts";

const PARTS: Record<string, () => Promise<Row[]>> = {
  hot: benchHot,
  counting: benchCounting,
  beside: benchBeside,
  tls: benchTls,
  stored: benchStored,
  flush: benchFlush,
  opening: benchOpening,
  replay: benchReplay,
  reclaim: benchReclaim,
  peers: () => benchPeers([]),
};

/** Debian 12's names, for the peers and what asks them. */
const PACKAGES = ["fio", "nbdkit", "nbdkit-plugin-python", "python3-boto3", "s3backer", "procps"];
const RESULTS = new URL("results/", import.meta.url).pathname;
const FULL = { rounds: 5, secondsMax: 10 };
const QUICK = { rounds: 1, secondsMax: 3 };

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

const { quick, latency, _: words } = parseArgs(Deno.args, {
  boolean: ["quick"],
  string: ["latency"],
});

/** All works, or some of them. */
async function benchPeers(works: string[]): Promise<Row[]> {
  await installPackages(PACKAGES);
  const rows: Row[] = [];
  for (const latencyMs of latency === undefined ? [0, 30, 100] : [Number(latency)]) {
    const options = { ...(quick ? QUICK : FULL), latencyMs, works };
    const results = await measurePeers(options, print);
    const table = comparison(results);
    print(`\n${latencyMs} ms away:\n\n${table}`);
    rows.push(...rowsOf(results, latencyMs));
    if (works.length > 0) continue;
    const title = `Throughput against an S3 server ${latencyMs} ms away`;
    await Deno.mkdir(RESULTS, { recursive: true });
    await Deno.writeTextFile(`${RESULTS}peers-${latencyMs}ms.md`, table);
    await Deno.writeTextFile(`${RESULTS}peers-${latencyMs}ms.svg`, chart(results, title));
  }
  return rows;
}

const workNames = [...Object.keys(BARE_WORKS), ...WORKS.map(({ name }) => name)];
const wanted = words.length > 0 ? words.map(String) : Object.keys(PARTS);
const parts = wanted.filter((name) => !workNames.includes(name));
for (const name of parts) {
  const names = [...Object.keys(PARTS), ...workNames].join(", ");
  if (!PARTS[name]) throw new Error(`no part "${name}"; there are ${names}`);
}
const works = wanted.filter((name) => workNames.includes(name));
const rows: Row[] = [];
for (const name of parts) rows.push(...await PARTS[name]());
if (works.length > 0) rows.push(...await benchPeers(works));
print(markdown(rows));
