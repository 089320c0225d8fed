/** What happened between two reports of one process, or since it began. */
import type { HistogramReport, OperationReport, StatusReport } from "./report.ts";

/** Both are of the same process, if there are two. */
export interface Span {
  now: StatusReport;
  before?: StatusReport;
}

export function secondsOf({ now, before }: Span): number {
  return Math.max(0.001, (now.nowMs - (before?.nowMs ?? now.startedAtMs)) / 1000);
}

/** How much a count grew in a second. */
export function rateOf(span: Span, count: (report: StatusReport) => number): number {
  return (count(span.now) - (span.before ? count(span.before) : 0)) / secondsOf(span);
}

/** The requests of one kind that were answered in the span. */
export function latencyOf(
  { now, before }: Span,
  operation: (report: StatusReport) => OperationReport,
): HistogramReport {
  const latency = operation(now).latency;
  if (!before) return latency;
  const earlier = operation(before).latency;
  return {
    bounds: latency.bounds,
    counts: latency.counts.map((count, at) => count - earlier.counts[at]),
    seconds: latency.seconds - earlier.seconds,
  };
}

/**
 * The seconds that a share `q` of the requests took at most; undefined of none. As Prometheus does it: a bucket's
 * requests are spread evenly over it, and past the last bound it is that bound.
 */
export function quantile({ bounds, counts }: HistogramReport, q: number): number | undefined {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return undefined;
  let left = q * total;
  for (const [at, upper] of bounds.entries()) {
    const lower = at === 0 ? 0 : bounds[at - 1];
    if (counts[at] > 0 && left <= counts[at]) return lower + (upper - lower) * left / counts[at];
    left -= counts[at];
  }
  return bounds.at(-1);
}
