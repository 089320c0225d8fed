/**
 * `deno task bench [--quick] [--resume] [--latency=MS] [part ...]`: measures the compiled program and prints the README's
 * table. Nothing here fails a test: these are figures of one machine at one time, as ratios against a peer in the
 * same run where speed is concerned.
 *
 * The part `peers` compares the drive with what else Debian has at S3 servers that are 30, 0 and 100 ms away, or
 * MS, and writes what it found into tests/bench/results and the README (results.ts). A single work of it (works.ts,
 * bare.ts) is a part too, which writes nothing. `--quick` has one short round of each, for who works on the drive; what
 * it finds goes into dist/bench.
 *
 * A run of `peers` that was cut off goes on behind the last work that it had done with `--resume`.
 */
import { parseArgs } from "@std/cli/parse-args";
import { installPackages } from "../support/debian_packages.ts";
import { PROGRAM } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { benchBeside } from "./beside.ts";
import { benchCounting } from "./counting.ts";
import { benchFetched } from "./fetched.ts";
import { benchFlush } from "./flush.ts";
import { benchHot } from "./hot.ts";
import { benchOpening } from "./opening.ts";
import { Peers, WORK_NAMES } from "./peers.ts";
import { benchReclaim } from "./reclaim.ts";
import { benchReplay } from "./replay.ts";
import { comparison, DURABLE } from "./report.ts";
import { KeptResults, README_LATENCY_MS, writeReport } from "./results.ts";
import { endChildrenWithUs } from "./server_process.ts";
import { benchScale } from "./scale.ts";
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
  fetched: benchFetched,
  opening: benchOpening,
  replay: benchReplay,
  reclaim: benchReclaim,
  scale: benchScale,
  peers: () => benchPeers([]),
};

/** Debian 12's names, for the peers and what asks them. */
const PACKAGES = [
  ...["nbdkit", "nbdkit-plugin-python", "python3-boto3", "s3backer", "fuse3"],
  ...["fio", "python3-libnbd", "libnbd-bin", "qemu-utils", "e2fsprogs"],
];
/** For the other parts: a real S3 server, certificates, and a library for fio. */
const MORE_PACKAGES = [
  ...["ceph-mon", "ceph-osd", "ceph-common", "radosgw", "curl", "openssl", "gcc", "libc6-dev"],
];
/** The first is the one that the targets are for, and that works are done at to which S3 is all the same. */
const LATENCIES_MS = [README_LATENCY_MS, 0, 100];
/** Bare requests are theirs. */
const ALL_WORKS = WORKS.map(({ name }) => name);
const LOCAL_WORKS = new Set(WORKS.filter(({ isLocal }) => isLocal).map(({ name }) => name));
const FULL = { rounds: 3, secondsMax: 2, deadlineS: 60 };
const QUICK = { rounds: 1, secondsMax: 2, deadlineS: 10 };

const COMPILE_S = 600;

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

const { quick, resume, latency, _: words } = parseArgs(Deno.args, {
  boolean: ["quick", "resume"],
  string: ["latency"],
});

/** A program that is there may be one that someone put there to be measured. */
async function compileIfMissing(): Promise<void> {
  const made = await Deno.stat(PROGRAM).catch(() => undefined);
  if (made) return print(`measures ${PROGRAM}, compiled ${made.mtime?.toISOString()}`);
  await run(Deno.execPath(), ["run", "--allow-all", ".ci/compile.ts"], { deadlineS: COMPILE_S });
}

/** All works, or some of them, which leave no trace. */
async function benchPeers(works: string[]): Promise<Row[]> {
  await using peers = await Peers.start(print);
  const latenciesMs = latency === undefined ? LATENCIES_MS : [Number(latency)];
  const rows: Row[] = [];
  for (const latencyMs of latenciesMs) {
    const begunMs = performance.now();
    const options = { ...(quick ? QUICK : FULL), latencyMs };
    const kept = works.length > 0
      ? KeptResults.passing()
      : await KeptResults.open(latencyMs, resume);
    const isDue = (name: string) => latencyMs === latenciesMs[0] || !LOCAL_WORKS.has(name);
    for (const work of (works.length > 0 ? works : ALL_WORKS).filter(isDue)) {
      if (!kept.has(work)) await kept.add(await peers.measure(work, options));
    }
    const minutes = ((performance.now() - begunMs) / 60_000).toFixed(1);
    print(`\n${latencyMs} ms away, ${minutes} minutes. ${DURABLE}\n\n${comparison(kept.results)}`);
    // they are for one latency; who asks for another one wants to see how they do there
    const isAimedAt = latencyMs === README_LATENCY_MS || latency !== undefined;
    const targets = isAimedAt ? rowsOf(kept.results) : [];
    if (works.length === 0) {
      if (latencyMs === README_LATENCY_MS) targets.push(...await benchBeside());
      await writeReport(kept.results, targets, options, quick);
    }
    rows.push(...targets);
  }
  return rows;
}

// what is beside.ts's is among the targets of `peers`
const all = Object.keys(PARTS).filter((name) => name !== "beside");
const wanted = words.length > 0 ? words.map(String) : all;
const works = wanted.filter((name) => WORK_NAMES.includes(name));
const parts = wanted.filter((name) => !works.includes(name));
for (const name of parts) {
  const names = [...Object.keys(PARTS), ...WORK_NAMES].join(", ");
  if (!PARTS[name]) throw new Error(`no part "${name}"; there are ${names}`);
}
const isOfPeers = parts.every((name) => name === "peers");
endChildrenWithUs();
await installPackages(isOfPeers ? PACKAGES : [...PACKAGES, ...MORE_PACKAGES]);
await compileIfMissing();
const rows: Row[] = [];
for (const name of parts) rows.push(...await PARTS[name]());
if (works.length > 0) rows.push(...await benchPeers(works));
print(markdown(rows));
