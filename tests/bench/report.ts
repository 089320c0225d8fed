/** What a comparison came to, as the files for the README: a Markdown table and a chart. */
import { MIB } from "../../src/limits.ts";
import { median } from "./fio.ts";
import type { Result, Round } from "./peers.ts";

type Figure = keyof Round;

function middle({ rounds }: Result, figure: Figure): number {
  return median(rounds.map((round) => round[figure]));
}

/** Three significant digits, as a person would write them. */
function show(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString("en");
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function spread({ rounds }: Result, figure: Figure): string {
  const values = rounds.map((round) => round[figure]);
  return `${show(Math.min(...values) / 1e6)} to ${show(Math.max(...values) / 1e6)}`;
}

/** A line for each contender at each work; medians, of the throughput the least and the most too. */
export function comparison(results: Result[]): string {
  const lines = results.map((result) => {
    const of = (figure: Figure) => show(middle(result, figure));
    const rate = `**${show(middle(result, "bytesPerSecond") / 1e6)}**`;
    return `| ${
      [
        result.what,
        result.contender,
        result.rounds.length > 1 ? `${rate} (${spread(result, "bytesPerSecond")})` : rate,
        of("requestsPerSecond"),
        of("p50Ms"),
        of("p99Ms"),
        of("s3Puts"),
        of("s3Gets"),
        of("s3Requests"),
        of("upPerByte"),
        of("downPerByte"),
        of("processorSeconds"),
        show(middle(result, "peakBytes") / MIB),
      ].join(" | ")
    } |`;
  });
  const head = [
    ...["work", "who", "MB/s", "requests/s", "p50 ms", "p99 ms", "PUTs a GiB", "GETs a GiB"],
    ...["S3 requests a GiB", "bytes up a byte", "bytes down a byte", "processor s a GiB"],
    "peak MiB",
  ];
  const rule = head.map((_, column) => column < 2 ? "---" : "---:");
  return [`| ${head.join(" | ")} |`, `| ${rule.join(" | ")} |`, ...lines].join("\n") + "\n";
}

// ---- the chart

const COLOURS = ["#1f6feb", "#9aa4b1", "#d29922", "#6e7781"];
const LABEL_PX = 430;
const BARS_PX = 420;
const VALUE_PX = 110;
const BAR_PX = 14;
const GAP_PX = 14;

/** Throughput by work as bars, on a scale where each vertical line is ten times the one before. */
export function chart(results: Result[], title: string): string {
  const contenders = [...new Set(results.map(({ contender }) => contender))];
  const rates = results.map((result) => middle(result, "bytesPerSecond") / 1e6);
  const from = Math.floor(Math.log10(Math.min(...rates)));
  const to = Math.ceil(Math.log10(Math.max(...rates)));
  const x = (rate: number) => LABEL_PX + (Math.log10(rate) - from) / (to - from) * BARS_PX;
  const parts: string[] = [];
  const text = (left: number, y: number, content: string, anchor = "start") =>
    parts.push(`<text x="${left}" y="${y}" text-anchor="${anchor}">${content}</text>`);
  text(10, 20, title);
  contenders.forEach((contender, number) => {
    const left = LABEL_PX + number * 130;
    parts.push(`<rect x="${left}" y="32" width="12" height="12" fill="${COLOURS[number]}"/>`);
    text(left + 18, 43, contender);
  });
  let y = 60;
  const top = y;
  let work = "";
  results.forEach((result, number) => {
    if (result.work !== work) {
      y += work === "" ? 0 : GAP_PX;
      work = result.work;
      text(LABEL_PX - 10, y + 12, result.what, "end");
    }
    const colour = COLOURS[contenders.indexOf(result.contender)];
    const width = Math.max(x(rates[number]) - LABEL_PX, 1);
    parts.push(
      `<rect x="${LABEL_PX}" y="${y}" width="${width.toFixed(1)}" height="${BAR_PX - 2}" ` +
        `fill="${colour}"/>`,
    );
    text(LABEL_PX + width + 5, y + 11, show(rates[number]));
    y += BAR_PX;
  });
  for (let power = from; power <= to; power++) {
    const at = x(10 ** power).toFixed(1);
    parts.unshift(`<line x1="${at}" x2="${at}" y1="${top}" y2="${y}" stroke="#d0d7de"/>`);
    text(Number(at), y + 16, `${10 ** power} MB/s`, "middle");
  }
  const [width, height] = [LABEL_PX + BARS_PX + VALUE_PX, y + 28];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
    `font-family="sans-serif" font-size="12">\n` +
    `<rect width="${width}" height="${height}" fill="#fff"/>\n${parts.join("\n")}\n</svg>\n`;
}
