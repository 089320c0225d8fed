/**
 * What a comparison came to, as Markdown: a table with every figure, and one for the README with the figure that each
 * work is about. Figures are medians of the rounds.
 */
import { MIB } from "../../src/limits.ts";
import { BARE_WORKS } from "./bare.ts";
import { median } from "./fio.ts";
import type { Result, Round } from "./peers.ts";

/** What has to be known of the peers to read any of it. */
export const DURABLE =
  "A durable write is one that was flushed to the bucket. s3backer's flush and fsync return early, before anything " +
  "is stored: it runs with `--blockCacheSync`, its synchronous setting, and answers a write when that is stored, as " +
  "nbdkit's S3 plugin always does. Where a work flushes, its times are therefore those of a write and a flush together.";

/** Of all rounds, in the work's own unit; NaN if there are none. */
export function headline(result: Result): number {
  return median(headlines(result));
}

function headlines({ figure, rounds }: Result): number[] {
  return rounds.map(({ bytesPerSecond, requestsPerSecond, seconds, p50Ms }) => ({
    "MB/s": bytesPerSecond / 1e6,
    "requests/s": requestsPerSecond,
    "s": seconds,
    "ms": p50Ms,
  }[figure]));
}

/** Three significant digits, as a person would write them. */
export function show(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value >= 1000) return Math.round(value).toLocaleString("en");
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** The median, and the least and the most. */
function spread(result: Result): string {
  const values = headlines(result);
  if (values.length === 0) return result.failure ?? "";
  const around = values.length === 1
    ? ""
    : ` (${show(Math.min(...values))} to ${show(Math.max(...values))})`;
  const after = result.failure ? `, then ${result.failure}` : "";
  return `**${show(median(values))}** ${result.figure}${around}${after}`;
}

function table(head: string[], lines: string[][]): string {
  const rule = head.map((_, column) => column === 0 ? "---" : "---:");
  return [head, rule, ...lines].map((cells) => `| ${cells.join(" | ")} |`).join("\n") + "\n";
}

/** Every figure: a line for each work, and one for each who did it. */
export function comparison(results: Result[]): string {
  const head = [
    ...[
      "who",
      "median (least to most)",
      "MB/s",
      "p50 / p99 ms",
      "PUTs / GETs / all S3 requests a GiB",
    ],
    ...["bytes up / down a byte", "processor s a GiB", "peak MiB"],
  ];
  const lines: string[][] = [];
  let work = "";
  for (const result of results) {
    if (result.work !== work) lines.push([`**${result.what}**`, ...head.slice(1).map(() => "")]);
    work = result.work;
    const of = (...figures: (keyof Round)[]) =>
      figures.map((figure) => show(median(result.rounds.map((round) => round[figure])))).join(
        " / ",
      );
    lines.push([
      result.contender,
      spread(result),
      show(median(result.rounds.map(({ bytesPerSecond }) => bytesPerSecond / 1e6))),
      of("p50Ms", "p99Ms"),
      of("s3Puts", "s3Gets", "s3Requests"),
      of("upPerByte", "downPerByte"),
      of("processorSeconds"),
      show(median(result.rounds.map(({ peakBytes }) => peakBytes / MIB))),
    ]);
  }
  return table(head, lines);
}

/** A line for each work and a column for each who did it; bare requests are the other table's. */
export function summary(results: Result[]): string {
  const done = results.filter(({ work }) => !(work in BARE_WORKS));
  const contenders = [...new Set(done.map(({ contender }) => contender))];
  const works = [...new Set(done.map(({ work }) => work))];
  const lines = works.map((work) => {
    const ofWork = done.filter((result) => result.work === work);
    const cells = contenders.map((contender) => {
      const result = ofWork.find((result) => result.contender === contender);
      if (!result) return "";
      if (result.rounds.length === 0) return result.failure ?? "";
      return show(headline(result));
    });
    return [`${ofWork[0].what}, ${ofWork[0].figure}`, ...cells];
  });
  return table(["", ...contenders], lines);
}
