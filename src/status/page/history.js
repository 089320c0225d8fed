// @ts-check
/**
 * What the drive said since the page was opened, as columns of numbers that a chart can draw.
 *
 * A report only has counts that grow, so a rate takes two of them. Between the reports of two processes, and over a
 * time without an answer, there is none: the columns have a null there, the charts a gap, and nothing is negative.
 *
 * @import { StatusReport, HistogramReport, S3Operation } from "../report.ts"
 */

/** How long is kept: the longest time that can be shown. */
const KEPT_SECONDS = 3600;
/** Quantiles and shares are of the requests in so many seconds: one second has too few to say anything. */
export const WINDOW_SECONDS = 10;

/**
 * A report and those it is compared with: the one before it, and the first of the window. Without these, of a process
 * that has just been heard of, there are no rates.
 * @typedef {{ now: StatusReport, before?: StatusReport, first?: StatusReport }} Compared
 * @typedef {(reports: Compared) => number | null} Metric
 */

/**
 * How much a count grew in a second.
 * @param {(report: StatusReport) => number} count
 * @returns {Metric}
 */
function rate(count) {
  return ({ now, before }) =>
    before ? (count(now) - count(before)) / ((now.nowMs - before.nowMs) / 1000) : null;
}

/**
 * What `of` made up of `all` that happened within the window.
 * @param {(report: StatusReport) => number} of
 * @param {(report: StatusReport) => number} all
 * @returns {Metric}
 */
function share(of, all) {
  return ({ now, first }) => {
    const total = first ? all(now) - all(first) : 0;
    return first && total > 0 ? (of(now) - of(first)) / total : null;
  };
}

/**
 * The seconds that a share `q` of the requests of the window took at most.
 * @param {(report: StatusReport) => HistogramReport} histogram
 * @param {number} q
 * @returns {Metric}
 */
function latency(histogram, q) {
  return ({ now, first }) => {
    if (!first) return null;
    const { bounds, counts } = histogram(now);
    const earlier = histogram(first).counts;
    return quantile({ bounds, counts: counts.map((count, at) => count - earlier[at]) }, q);
  };
}

/**
 * As Prometheus does it: within the bucket it falls in a quantile is where it would be if the bucket's requests were
 * spread evenly; past the last bound it is that bound. Null of nothing.
 * @param {Pick<HistogramReport, "bounds" | "counts">} histogram
 * @param {number} q
 */
export function quantile({ bounds, counts }, q) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let left = q * total;
  for (const [at, upper] of bounds.entries()) {
    const lower = at === 0 ? 0 : bounds[at - 1];
    if (left <= counts[at]) return lower + (upper - lower) * (left / counts[at] || 0);
    left -= counts[at];
  }
  return bounds.at(-1) ?? null;
}

/** @param {S3Operation} name */
function s3Median(name) {
  return latency((report) => report.s3.operations[name].latency, 0.5);
}

/** @type {Record<string, Metric>} */
const METRICS = {
  readBytes: rate((report) => report.commands.read.bytes),
  writeBytes: rate((report) => report.commands.write.bytes),
  readRequests: rate((report) => report.commands.read.requests),
  writeRequests: rate((report) => report.commands.write.requests),
  flushMedian: latency((report) => report.commands.flush.latency, 0.5),
  flushTail: latency((report) => report.commands.flush.latency, 0.99),
  s3Get: s3Median("get"),
  s3Put: s3Median("put"),
  s3Head: s3Median("head"),
  s3List: s3Median("list"),
  s3Delete: s3Median("delete"),
  hits: share(({ cache }) => cache.hits, ({ cache }) => cache.hits + cache.misses),
  unstored: ({ now }) => now.unstored.bytes,
  unstoredMax: ({ now }) => now.unstored.bytesMax,
  age: ({ now }) => now.unstored.oldestSeconds,
  live: ({ now }) => now.log.liveBytes,
  stored: ({ now }) => now.log.storedBytes,
  processor: rate((report) => report.process.cpuSeconds),
};

export class History {
  /** Seconds since 1970 by this browser's clock, ascending. @type {number[]} */
  times = [];
  /** By metric, a value for each time. @type {Record<string, (number | null)[]>} */
  columns = Object.fromEntries(Object.keys(METRICS).map((name) => [name, []]));
  /** Of the process that runs now, as many as the window needs, oldest first. @type {StatusReport[]} */
  #recent = [];

  /**
   * @param {number} time
   * @param {StatusReport} report
   */
  add(time, report) {
    const before = this.#recent.at(-1);
    if (before && !isSuccessor(report, before)) this.miss((time + (this.times.at(-1) ?? time)) / 2);
    const windowStartMs = report.nowMs - WINDOW_SECONDS * 1000;
    const recent = this.#recent;
    while (recent.length > 1 && recent[1].nowMs <= windowStartMs) recent.shift();
    this.#push(time, { now: report, before: recent.at(-1), first: recent[0] });
    recent.push(report);
  }

  /**
   * There was no answer: the lines end here.
   * @param {number} time
   */
  miss(time) {
    this.#recent = [];
    this.#push(time, undefined);
  }

  /** The newest value of a metric. @param {string} name */
  latest(name) {
    return this.columns[name].at(-1) ?? null;
  }

  /**
   * @param {number} time
   * @param {Compared | undefined} reports
   */
  #push(time, reports) {
    this.times.push(time);
    for (const [name, metric] of Object.entries(METRICS)) {
      this.columns[name].push(reports ? metric(reports) : null);
    }
    const old = this.times.findIndex((kept) => kept >= time - KEPT_SECONDS);
    for (const column of [this.times, ...Object.values(this.columns)]) column.splice(0, old);
  }
}

/**
 * Whether a report is a later one of the same process. (A server's clock that was set back makes it none.)
 * @param {StatusReport} report
 * @param {StatusReport} before
 */
function isSuccessor(report, before) {
  return report.startedAtMs === before.startedAtMs && report.nowMs > before.nowMs;
}
