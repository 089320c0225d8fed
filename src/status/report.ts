/**
 * What a drive says of itself: the one shape behind `/status.json`, `/metrics`, the page and `elasticdrive status`.
 *
 * Counts begin at 0 with the process and only grow, so that whoever asks twice has a rate; `startedAtMs` tells a
 * restart from a count that went back. Bytes are bytes and times are seconds, but where a name says otherwise.
 */
import type { ConnectedClient } from "../nbd/server.ts";
import type { VolumeFigures } from "../volume/figures.ts";

/** How many took how long: `counts[i]` took at most `bounds[i]` seconds, the last one more than every bound. */
export interface HistogramReport {
  /** Upper bounds in seconds, ascending. */
  bounds: number[];
  /** Not cumulative; one more than there are bounds. */
  counts: number[];
  /** All of them together. */
  seconds: number;
}

/** Requests of one kind. */
export interface OperationReport {
  requests: number;
  /** Of these, how many failed. */
  errors: number;
  /** Payload, in the direction in which the kind has one; 0 for kinds without. */
  bytes: number;
  latency: HistogramReport;
}

/** NBD's commands, as metrics and page name them. */
export type Command =
  | "read"
  | "write"
  | "flush"
  | "trim"
  | "write_zeroes"
  | "cache"
  | "block_status";

/** S3's operations. Each try is one request: that is what is billed. */
export type S3Operation = "get" | "put" | "head" | "list" | "delete";

/** US dollars: of S3 Standard in us-east-1, or nothing for a directory. */
export interface Prices {
  gibMonth: number;
  thousandPuts: number;
  thousandGets: number;
  gibDown: number;
}

export interface StatusReport extends VolumeFigures {
  version: string;
  /** Of the process, since 1970; both are of the server's clock. */
  startedAtMs: number;
  nowMs: number;
  /** Why the drive is not well, or null: what `/healthz` answers 503 for. */
  trouble: string | null;
  isFenced: boolean;
  volume: {
    /** The bucket, as the log calls it. */
    name: string;
    uuid: string;
    bytes: number;
    stripeBytes: number;
    epoch: number;
    isReadOnly: boolean;
  };
  clients: ConnectedClient[];
  commands: Record<Command, OperationReport>;
  s3: {
    operations: Record<S3Operation, OperationReport>;
    retries: number;
    bytesUp: number;
    bytesDown: number;
    /** How long requests have been failing; 0 when S3 answers. */
    awaySeconds: number;
    /** Why they fail; null when S3 answers. */
    awayReason: string | null;
  };
  process: {
    cpuSeconds: number;
    residentBytes: number;
  };
  /** What an estimate of the bill is made with. */
  prices: Prices;
}
