/**
 * What is counted while the drive works: plain numbers and arrays of them, which only grow, so that counting takes no
 * memory and next to no time. Whoever wants to know reads them when he asks.
 */

/** Upper bounds of the buckets, in seconds: from a cached read to an outage. */
const LATENCY_BOUNDS_S = Float64Array.of(
  ...[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05],
  ...[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
);

/** How many took how long. */
export class Histogram {
  readonly bounds = LATENCY_BOUNDS_S;
  /** By bucket, not cumulative; the last one is for what took more than every bound. */
  readonly counts = new Float64Array(LATENCY_BOUNDS_S.length + 1);
  /** All of them together. */
  seconds = 0;

  /** `times` that took so many seconds each. */
  add(seconds: number, times = 1): void {
    let bucket = 0;
    while (bucket < LATENCY_BOUNDS_S.length && seconds > LATENCY_BOUNDS_S[bucket]) bucket++;
    this.counts[bucket] += times;
    this.seconds += seconds * times;
  }
}

/** Requests of one kind that have been answered. */
export class OperationCounts {
  requests = 0;
  /** Of these, how many failed. */
  errors = 0;
  /** Payload of those that did not fail. */
  bytes = 0;
  readonly latency = new Histogram();
}
