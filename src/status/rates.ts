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
