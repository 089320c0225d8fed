// @ts-check
/// <reference lib="dom" />
/** The figures of this moment, the table of clients and the one of S3's requests. */
import { element, make, setText } from "./dom.js";
import {
  NOTHING,
  showByteRate,
  showBytes,
  showCount,
  showDuration,
  showRate,
  showSeconds,
  showShare,
} from "./format.js";
import { quantile } from "./history.js";

/**
 * @import { StatusReport, S3Operation } from "../report.ts"
 * @import { History } from "./history.js"
 */

/** @type {S3Operation[]} */
const OPERATIONS = ["put", "list", "get", "head", "delete"];

/**
 * @param {number | null} value
 * @param {(value: number) => string} show
 */
function orNothing(value, show) {
  return value === null ? NOTHING : show(value);
}

/**
 * @param {StatusReport} report
 * @param {History} history
 */
export function drawFigures(report, history) {
  const { cache, clients, log, process, s3, unstored } = report;
  /** @type {(id: string, value: string, note: string) => void} */
  const figure = (id, value, note) => {
    setText(element(`tile-${id}`), value);
    setText(element(`tile-${id}-note`), note);
  };

  figure(
    "unstored",
    showBytes(unstored.bytes),
    `of ${showBytes(unstored.bytesMax)}; then writes wait`,
  );
  const filled = unstored.bytesMax > 0 ? Math.min(1, unstored.bytes / unstored.bytesMax) : 0;
  element("unstored-bar").style.inlineSize = `${filled * 100}%`;

  const isStored = unstored.bytes === 0;
  figure(
    "age",
    isStored ? NOTHING : showSeconds(unstored.oldestSeconds),
    isStored ? "everything is stored" : "waits to be stored",
  );

  const reads = cache.hits + cache.misses;
  const ahead = cache.readAheadBytes;
  const vain = ahead > 0
    ? `; ${showShare(cache.readAheadVainBytes / ahead)} read ahead in vain`
    : "";
  figure(
    "cache",
    reads > 0 ? showShare(cache.hits / reads) : NOTHING,
    reads > 0 ? `hits since the start${vain}` : "nothing was read yet",
  );

  const garbage = log.storedBytes > 0 ? 1 - log.liveBytes / log.storedBytes : 0;
  figure(
    "log",
    showBytes(log.storedBytes),
    `${showShare(Math.max(0, garbage))} of it garbage, ${showCount(log.segments)} segments`,
  );

  const isAway = s3.awaySeconds > 0;
  figure(
    "s3",
    isAway ? "away" : "answers",
    isAway ? `for ${showDuration(s3.awaySeconds)}` : `${showCount(s3.retries)} requests repeated`,
  );

  const streams = clients.reduce((sum, { inFlight }) => sum + inFlight, 0);
  figure("clients", showCount(clients.length), `${showCount(streams)} requests in flight`);

  figure(
    "process",
    orNothing(history.latest("processor"), showShare),
    `of a processor; ${showBytes(process.residentBytes)} of memory`,
  );
}

/** @param {StatusReport} report */
export function drawClients({ clients, nowMs }) {
  const rows = clients.map((client) => [
    client.isTls ? `${client.address} (TLS)` : client.address,
    showDuration((nowMs - client.connectedAtMs) / 1000, 1),
    showCount(client.inFlight),
    showBytes(client.readBytes),
    showBytes(client.writtenBytes),
  ]);
  fillTable("clients", rows);
  element("clients-table").hidden = rows.length === 0;
  element("clients-none").hidden = rows.length > 0;
}

/**
 * How often each was asked for, how long it took, since the start.
 * @param {StatusReport} report
 */
export function drawOperations({ s3, startedAtMs, nowMs }) {
  const seconds = Math.max(1, (nowMs - startedAtMs) / 1000);
  const rows = OPERATIONS.map((name) => {
    const { requests, errors, latency } = s3.operations[name];
    const within = (/** @type {number} */ q) => orNothing(quantile(latency, q), showSeconds);
    return [
      name.toUpperCase(),
      showCount(requests),
      showRate(requests / seconds),
      showCount(errors),
      within(0.5),
      within(0.99),
    ];
  });
  fillTable("operations", rows);
  setText(element("bytes-up"), showBytes(s3.bytesUp));
  setText(element("bytes-down"), showBytes(s3.bytesDown));
  setText(element("rate-up"), showByteRate(s3.bytesUp / seconds));
  setText(element("rate-down"), showByteRate(s3.bytesDown / seconds));
}

/**
 * Makes the body of a table these rows, the first cell of each its heading; rows that are there are used again.
 * @param {string} id
 * @param {string[][]} rows
 */
function fillTable(id, rows) {
  const body = element(id);
  while (body.children.length > rows.length) body.lastElementChild?.remove();
  for (const [at, texts] of rows.entries()) {
    const row = body.children[at] ?? body.appendChild(emptyRow(texts.length));
    for (const [column, text] of texts.entries()) setText(row.children[column], text);
  }
}

/** @param {number} columns */
function emptyRow(columns) {
  const cells = Array.from({ length: columns - 1 }, () => make("td"));
  return make("tr", {}, make("th", { scope: "row" }), ...cells);
}
