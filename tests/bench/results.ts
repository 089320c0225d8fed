/**
 * Where a comparison is kept: as it grows in dist/bench, so that a run that was cut off can go on; then as tables and
 * charts in tests/bench/results, and between the two marks of the README.
 */
import { dirname } from "node:path";
import { run } from "../support/programs.ts";
import { chart } from "./chart.ts";
import type { PeersOptions, Result } from "./peers.ts";
import { comparison, DURABLE, summary } from "./report.ts";
import { markdown, type Row } from "./table.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const README = `${ROOT}README.md`;
const BEGIN = "<!-- written by deno task bench: begin -->";
const END = "<!-- written by deno task bench: end -->";
/** What the README is about. */
export const README_LATENCY_MS = 30;

/** Results so far, of all works at one latency. */
export class KeptResults {
  readonly #file: string | undefined;
  readonly results: Result[];

  private constructor(results: Result[], file?: string) {
    this.results = results;
    this.#file = file;
  }

  /** Of works that leave no trace. */
  static passing(): KeptResults {
    return new KeptResults([]);
  }

  /** Begins anew unless `resume`. */
  static async open(latencyMs: number, resume: boolean): Promise<KeptResults> {
    const file = `${ROOT}dist/bench/peers-${latencyMs}ms.json`;
    await Deno.mkdir(dirname(file), { recursive: true });
    const text = resume ? await Deno.readTextFile(file).catch(() => "[]") : "[]";
    // JSON has no NaN
    return new KeptResults(JSON.parse(text, (_, value) => value ?? NaN), file);
  }

  has(work: string): boolean {
    return this.results.some((result) => result.work === work);
  }

  async add(results: Result[]): Promise<void> {
    this.results.push(...results);
    if (this.#file) await Deno.writeTextFile(this.#file, JSON.stringify(this.results));
  }
}

/** Writes table and chart, and what the README is about into the README; of a quick run, into dist/bench. */
export async function writeReport(
  results: Result[],
  rows: Row[],
  { latencyMs, rounds, secondsMax }: PeersOptions,
  isQuick: boolean,
): Promise<void> {
  const folder = `${ROOT}${isQuick ? "dist/bench" : "tests/bench/results"}`;
  await Deno.mkdir(folder, { recursive: true });
  const name = `peers-${latencyMs}ms`;
  const title = `Disks in a bucket ${latencyMs} ms away`;
  const how = `${navigator.hardwareConcurrency} cores, the S3 server on the same machine ` +
    `${latencyMs} ms away; by turns, ${rounds} round${
      rounds === 1 ? "" : "s"
    } of ${secondsMax} s each.`;
  const targets = rows.length > 0 ? `${markdown(rows)}\n\n` : "";
  const [table, picture] = [`${folder}/${name}.md`, `${folder}/${name}.svg`];
  const files = [table, picture];
  const about = `${how} ${DURABLE}`;
  await Deno.writeTextFile(picture, chart(results, title));
  await Deno.writeTextFile(
    table,
    `# ${title}\n\n${about}\n\n![chart](${name}.svg)\n\n${targets}${comparison(results)}`,
  );
  if (!isQuick && latencyMs === README_LATENCY_MS) {
    const short = `${about}\n\n![${title}](tests/bench/results/${name}.svg)\n\n` +
      `${summary(results)}\n${targets}`;
    const text = await Deno.readTextFile(README);
    await Deno.writeTextFile(README, between(text, short));
    files.push(README);
  }
  // as `deno task check` wants them
  await run(Deno.execPath(), ["fmt", "--quiet", "--line-width=100", "--no-config", ...files]);
}

/** The text with something else between the marks. */
export function between(text: string, content: string): string {
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`README.md has no "${BEGIN}" before "${END}"`);
  return `${text.slice(0, begin)}${BEGIN}\n\n${content}\n\n${text.slice(end)}`;
}
