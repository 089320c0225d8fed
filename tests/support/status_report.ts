/** A drive's report as a test wants it: a healthy, idle drive with some of its numbers changed. */
import type {
  Command,
  HistogramReport,
  OperationReport,
  S3Operation,
  StatusReport,
} from "../../src/status/report.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** Bounds of the histograms, in seconds. */
export const BOUNDS = [0.001, 0.01, 0.1, 1];

const COMMANDS: Command[] = [
  "read",
  "write",
  "flush",
  "trim",
  "write_zeroes",
  "cache",
  "block_status",
];
const OPERATIONS: S3Operation[] = ["get", "put", "head", "list", "delete"];

function idle(): OperationReport {
  const latency: HistogramReport = { bounds: BOUNDS, counts: [0, 0, 0, 0, 0], seconds: 0 };
  return { requests: 0, errors: 0, bytes: 0, latency };
}

function idleOf<Name extends string>(names: Name[]): Record<Name, OperationReport> {
  return Object.fromEntries(names.map((name) => [name, idle()])) as Record<Name, OperationReport>;
}

/** A drive of 1 TiB that began when it was asked, and has done nothing. */
export function idleReport(): StatusReport {
  return {
    version: "1.2.3",
    startedAtMs: Date.now(),
    nowMs: Date.now(),
    trouble: null,
    isFenced: false,
    volume: {
      name: "s3://my-disk",
      uuid: "0a1b2c3d-0000-4000-8000-000000000000",
      bytes: 1024 * GIB,
      stripeBytes: 64 * KIB,
      epoch: 7,
      isReadOnly: false,
    },
    clients: [],
    commands: idleOf(COMMANDS),
    cache: { bytes: 0, hits: 0, misses: 0, readAheadBytes: 0, readAheadVainBytes: 0 },
    unstored: { bytes: 0, bytesMax: 256 * MIB, oldestSeconds: 0 },
    log: { liveBytes: 0, storedBytes: 0, segments: 0, checkpoints: 0, reclaimedBytes: 0 },
    s3: {
      operations: idleOf(OPERATIONS),
      retries: 0,
      bytesUp: 0,
      bytesDown: 0,
      awaySeconds: 0,
      awayReason: null,
    },
    process: { cpuSeconds: 0, residentBytes: 128 * MIB },
    map: { cellBytes: GIB, cells: ".".repeat(1024) },
    prices: { gibMonth: 0.023, thousandPuts: 0.005, thousandGets: 0.0004, gibDown: 0.09 },
  };
}

/** Counts `requests` more of a kind, each in `latency` seconds and with so many bytes. */
export function happen(
  operation: OperationReport,
  requests: number,
  latency: number,
  bytes = 0,
): void {
  operation.requests += requests;
  operation.bytes += requests * bytes;
  operation.latency.seconds += requests * latency;
  const slot = BOUNDS.findIndex((bound) => latency <= bound);
  operation.latency.counts[slot === -1 ? BOUNDS.length : slot] += requests;
}
