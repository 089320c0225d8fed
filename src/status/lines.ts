/** A report in lines for a terminal: how the drive is, then what is asked of it and of S3. */
import type { ConnectedClient } from "../nbd/server.ts";
import { showBytes, showCount, showSeconds } from "../progress.ts";
import { billOf } from "./bill.ts";
import { quantile } from "./page/history.js";
import { latencyOf, rateOf, secondsOf, type Span } from "./rates.ts";
import type { Command, OperationReport, S3Operation, StatusReport } from "./report.ts";

/** Rates are of the span: since the process began, if there is no report before. */
export function reportLines(span: Span): string[] {
  const { now } = span;
  const { volume, version } = now;
  const readOnly = volume.isReadOnly ? ", read-only" : "";
  const up = showSeconds((now.nowMs - now.startedAtMs) / 1000);
  return [
    `${volume.name}: ${showBytes(volume.bytes)} in stripes of ${showBytes(volume.stripeBytes)}` +
    `${readOnly}, epoch ${volume.epoch}, version ${version}, up ${up}`,
    now.trouble === null ? "healthy" : `NOT WELL: ${now.trouble}`,
    "",
    ...partLines(span),
    "",
    ...operationLines(span),
  ].map((line) => line.replace(/\p{Cc}/gu, " "));
}

function partLines(span: Span): string[] {
  const { clients } = span.now;
  const rows: [string, string][] = [
    ["unstored", unstored(span.now)],
    ["log", log(span.now)],
    ["cache", cache(span.now)],
    ["S3", s3(span)],
    ["process", ownUse(span)],
    ["bill", bill(span.now)],
    ["clients", clients.length === 0 ? "none" : client(clients[0])],
    ...clients.slice(1).map((each): [string, string] => ["", client(each)]),
  ];
  return rows.map(([label, text]) => `${label.padEnd(9)} ${text}`);
}

function unstored({ unstored: { bytes, bytesMax, oldestSeconds } }: StatusReport): string {
  const age = bytes === 0 ? "" : `, the oldest for ${showSeconds(oldestSeconds)}`;
  return `${showBytes(bytes)} of at most ${showBytes(bytesMax)}${age}`;
}

function log(
  { log: { storedBytes, liveBytes, segments, checkpoints, reclaimedBytes } }: StatusReport,
) {
  return `${showBytes(storedBytes)} in ${showCount(segments, "segment")}, ` +
    `${showBytes(liveBytes)} of it live; ${showCount(checkpoints, "checkpoint")}, ` +
    `${showBytes(reclaimedBytes)} given back`;
}

function cache({ cache }: StatusReport): string {
  const asked = cache.hits + cache.misses;
  const found = asked === 0 ? "" : `, ${percent(cache.hits / asked)} of what was read was there`;
  const ahead = cache.readAheadBytes === 0
    ? ""
    : `; ${showBytes(cache.readAheadBytes)} read ahead, ` +
      `${percent(cache.readAheadVainBytes / cache.readAheadBytes)} in vain`;
  return `${showBytes(cache.bytes)}${found}${ahead}`;
}

function s3(span: Span): string {
  const { awaySeconds, awayReason, retries } = span.now.s3;
  // trouble says it, too
  const reason = span.now.trouble === null && awayReason !== null ? ` (${awayReason})` : "";
  const state = awaySeconds === 0 ? "answers" : `AWAY for ${showSeconds(awaySeconds)}${reason}`;
  const up = rateOf(span, ({ s3 }) => s3.bytesUp);
  const down = rateOf(span, ({ s3 }) => s3.bytesDown);
  return `${state}; ${perSecond(up)} up, ${perSecond(down)} down; ${retries} tried again`;
}

function ownUse(span: Span): string {
  const share = rateOf(span, ({ process }) => process.cpuSeconds);
  const { residentBytes } = span.now.process;
  return `${showBytes(residentBytes)} of memory, ${percent(share)} of a processor`;
}

function bill(report: StatusReport): string {
  if (report.volume.name.startsWith("file:")) return "none: a directory of this machine";
  const { sum, storage, requests, traffic, isRough } = billOf(report);
  return `about $${sum.toFixed(2)} a month: storage $${storage.toFixed(2)}, requests ` +
    `$${requests.toFixed(2)}, traffic $${traffic.toFixed(2)}` +
    (isRough ? "; a rough guess so soon after the start" : "");
}

function client({ address, isTls, inFlight, readBytes, writtenBytes }: ConnectedClient): string {
  return `${address}${isTls ? " (TLS)" : ""}: ${showBytes(readBytes)} read, ` +
    `${showBytes(writtenBytes)} written, ${inFlight} in flight`;
}

// ---- the table of operations

const HEADS = ["requests", "a second", "bytes/s", "p50", "p99", "errors"];

function operationLines(span: Span): string[] {
  const since = span.before ? `in ${showSeconds(secondsOf(span))}` : "since the start";
  const rows = [[since, ...HEADS]];
  for (const name of Object.keys(span.now.commands) as Command[]) {
    rows.push(...operationRow(name, span, ({ commands }) => commands[name]));
  }
  for (const name of Object.keys(span.now.s3.operations) as S3Operation[]) {
    rows.push(...operationRow(`S3 ${name}`, span, ({ s3 }) => s3.operations[name]));
  }
  // wide enough that hardly anything moves from one look to the next
  const widths = rows[0].map((_, at) => Math.max(9, ...rows.map((row) => row[at].length)));
  return rows.map((row) =>
    row.map((cell, at) => at === 0 ? cell.padEnd(widths[at]) : cell.padStart(widths[at])).join("  ")
  );
}

/** None for what was never asked. */
function operationRow(
  name: string,
  span: Span,
  operation: (report: StatusReport) => OperationReport,
): string[][] {
  const { requests, errors } = operation(span.now);
  if (requests === 0) return [];
  const latency = latencyOf(span, operation);
  return [[
    name,
    String(requests),
    rateOf(span, (report) => operation(report).requests).toFixed(1),
    showBytes(Math.round(rateOf(span, (report) => operation(report).bytes))),
    showLatency(quantile(latency, 0.5)),
    showLatency(quantile(latency, 0.99)),
    String(errors),
  ]];
}

function showLatency(seconds: number | null): string {
  if (seconds === null) return "-";
  if (seconds >= 1) return `${seconds.toFixed(1)} s`;
  const ms = seconds * 1000;
  return `${ms >= 10 ? ms.toFixed(0) : ms.toFixed(2)} ms`;
}

function perSecond(bytes: number): string {
  return `${showBytes(Math.round(bytes))}/s`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
