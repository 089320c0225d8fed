/**
 * `deno task microbench [--rounds=N] [REF]`: what the innermost parts take, beside what they took at REF, a commit or
 * branch (main if none is named): `deno task microbench HEAD~1` before a push shows what the last commit made slower.
 *
 * Both are measured by the bench files of this work tree, by turns and in the same minute, each in processes of their
 * own; the least time a round is compared, since what else the machine does only ever adds. A ratio above 1 is slower
 * than REF; one within the spread of its rounds is noise. Nothing fails by it.
 */
import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { median } from "../fio.ts";

const ROOT = new URL("../../../", import.meta.url).pathname;
const FOLDER = "tests/bench/micro";

const { rounds: roundsWanted, _: words } = parseArgs(Deno.args, { string: ["rounds"] });
const ref = String(words[0] ?? "main");
const rounds = Number(roundsWanted ?? 5);

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

async function output(program: string, args: string[], cwd: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args, cwd }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (!success) throw new Error(`${program} ${args.join(" ")}: ${text(stderr)}`);
  return text(stdout);
}

/** What `deno bench --json` prints, as far as it is read here. */
interface Report {
  benches: { name: string; results: { ok?: { min: number } }[] }[];
}

/** The least nanoseconds of each benchmark of a file, in the source tree at `root`; none if that has another interface. */
async function measure(root: string, file: string): Promise<Map<string, number>> {
  const least = new Map<string, number>();
  const args = ["bench", "--json", "--no-check", "--allow-all", join(FOLDER, file)];
  const printed = await output(Deno.execPath(), args, root).catch((error) => {
    if (root === ROOT) throw error;
    return '{"benches":[]}';
  });
  for (const { name, results } of (JSON.parse(printed) as Report).benches) {
    const found = results[0].ok;
    if (found) least.set(name, found.min);
  }
  return least;
}

/** A row: this tree, REF, and the ratio of the two with its spread over the rounds. */
function row(name: string, ours: number[], theirs: number[]): string {
  const us = (ns: number[]) => (median(ns) / 1000).toFixed(1);
  if (theirs.length === 0) return `| ${name} | ${us(ours)} | — | — |`;
  const ratios = ours.map((ns, round) => ns / theirs[round]).sort((a, b) => a - b);
  const spread = `${ratios[0].toFixed(2)} to ${ratios.at(-1)!.toFixed(2)}`;
  return `| ${name} | ${us(ours)} | ${us(theirs)} | **${median(ratios).toFixed(2)}** (${spread}) |`;
}

/** Measures all files in both trees, and prints a row for each benchmark. */
async function compare(base: string): Promise<void> {
  print(`| least time, µs | here | ${ref} | here / ${ref} |\n| --- | --- | --- | --- |`);
  const files = [...Deno.readDirSync(join(ROOT, FOLDER))].map(({ name }) => name)
    .filter((name) => name.endsWith("_bench.ts")).sort();
  for (const file of files) {
    const found: Record<string, Map<string, number[]>> = { [ROOT]: new Map(), [base]: new Map() };
    for (let round = 0; round < rounds; round++) {
      for (const root of round % 2 === 0 ? [ROOT, base] : [base, ROOT]) {
        for (const [name, ns] of await measure(root, file)) {
          found[root].set(name, [...found[root].get(name) ?? [], ns]);
        }
      }
    }
    for (const [name, ours] of found[ROOT]) print(row(name, ours, found[base].get(name) ?? []));
  }
}

const base = await Deno.makeTempDir({ prefix: "elasticdrive-microbench-" });
try {
  await output("git", ["archive", `--output=${base}/tree.tar`, ref], ROOT);
  await output("tar", ["-xf", "tree.tar"], base);
  await Deno.remove(join(base, FOLDER), { recursive: true }).catch(() => {});
  await output("cp", ["-r", join(ROOT, FOLDER), join(base, "tests/bench/")], ROOT);
  await compare(base);
} finally {
  await Deno.remove(base, { recursive: true });
}
