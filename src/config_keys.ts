/**
 * The keys of config.ini, in one table: section, name, default, unit and what the key is for. Parsing,
 * suggestions, `elasticdrive check-config` and the test of config.ini.example are all driven by it, so
 * a new key is a new row here (and a field of `Values`).
 *
 * What a row's `kind` does is in config_kinds.ts. Rules that need two keys at once are in config.ts.
 */

import {
  BLOCK_BYTES,
  GIB,
  KEY_ID_SHOWN_CHARS,
  STRIPE_BYTES_DEFAULT,
  STRIPE_BYTES_MIN,
  TIB,
  VOLUME_BYTES_MAX,
} from "./limits.ts";
import {
  awsKey,
  boolean,
  bucket,
  type BucketLocation,
  count,
  endpoint,
  hostname,
  journal,
  type Kind,
  path,
  PORT_MAX,
  prefix,
  seconds,
  size,
  status,
  STATUS_OFF,
  type StatusAddress,
  storageClass,
  stripeSize,
  text,
} from "./config_kinds.ts";

export type Section = "s3" | "server";
export const SECTIONS: readonly Section[] = ["s3", "server"];

/** What each key of the file may hold; `undefined` is a key that is not in the file and has no default. */
export interface Values {
  readonly accessKeyId?: string;
  readonly secretAccessKey?: string;
  readonly bucket: BucketLocation;
  readonly stripeBytes?: number;
  readonly volumeBytes?: number;
  readonly endpoint?: string;
  readonly region?: string;
  readonly prefix?: string;
  readonly pathStyle?: boolean;
  readonly storageClass?: string;
  readonly port: number;
  readonly debug: boolean;
  readonly cacheStripes: number;
  readonly cacheTtlMs: number;
  readonly listen: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsCa?: string;
  readonly insecure: boolean;
  readonly socket?: string;
  readonly readOnly: boolean;
  readonly status: StatusAddress | typeof STATUS_OFF;
  readonly journal?: string;
  readonly ioTimeoutMs: number;
  readonly uploads: number;
  readonly readaheadBytes: number;
  readonly flushAfterMs: number;
}

export type Field = keyof Values;
/** The same, each key as if it were in the file. */
export type Given = { readonly [F in Field]-?: NonNullable<Values[F]> };

/** A row of the table. */
export interface Key<T> extends Row {
  readonly section: Section;
  /** As the documentation spells it; the file may use any case. */
  readonly name: string;
  readonly kind: Kind<T>;
}

interface Row {
  /** As one would write it in the file. */
  readonly default?: string;
  /** What holds when the key is not in the file and has no default. */
  readonly absent?: string;
  readonly doc: string;
  /** Never shown, nor quoted in an error, except for this many last characters. */
  readonly secretExceptLast?: number;
}

function s3<T>(name: string, kind: Kind<T>, row: Row): Key<T> {
  return { section: "s3", name, kind, ...row };
}

function server<T>(name: string, kind: Kind<T>, row: Row): Key<T> {
  return { section: "server", name, kind, ...row };
}

/** The table, in the order of config.ini.example. */
export const KEYS: { readonly [F in Field]: Key<Given[F]> } = {
  accessKeyId: s3("AWS_ACCESS_KEY_ID", awsKey, {
    absent: "AWS's default chain: environment, shared files, instance role",
    doc: "the key to the account",
    secretExceptLast: KEY_ID_SHOWN_CHARS,
  }),
  secretAccessKey: s3("AWS_SECRET_ACCESS_KEY", awsKey, {
    absent: "AWS's default chain: environment, shared files, instance role",
    doc: "the secret that belongs to AWS_ACCESS_KEY_ID",
    secretExceptLast: 0,
  }),
  bucket: s3("BUCKET", bucket, {
    absent: "required",
    doc: "where the volume is kept; created if it does not exist",
  }),
  stripeBytes: s3("STRIPE", stripeSize, {
    absent: `what the volume has; a new one gets ${STRIPE_BYTES_DEFAULT}`,
    doc: "unit of cache and fetch; fixed when the volume is created",
  }),
  volumeBytes: s3("VOLUMESIZE", size(BLOCK_BYTES, VOLUME_BYTES_MAX), {
    absent: "what the volume has; a new one needs it",
    doc: "size of the disk; a larger one grows it",
  }),
  endpoint: s3("ENDPOINT", endpoint, {
    absent: "Amazon's, for the region",
    doc: "an S3 server other than Amazon's",
  }),
  region: s3("REGION", text(/^[A-Za-z0-9_-]{1,64}$/, "a region's name, such as eu-central-1"), {
    absent: "AWS's default chain, else us-east-1",
    doc: "where the bucket is, or is to be created",
  }),
  prefix: s3("PREFIX", prefix, {
    absent: "none",
    doc: "what all keys begin with, so that several volumes share a bucket",
  }),
  pathStyle: s3("PATH_STYLE", boolean, {
    absent: "yes with an ENDPOINT or with dots in BUCKET, else no",
    doc: "address the bucket as host/bucket rather than bucket.host",
  }),
  storageClass: s3("STORAGE_CLASS", storageClass, {
    absent: "the bucket's default, STANDARD",
    doc: "S3 storage class of the objects written",
  }),
  port: server("port", count(0, PORT_MAX, "", "0: any free port"), {
    default: "9999",
    doc: "TCP port to listen on",
  }),
  debug: server("debug", boolean, { default: "0", doc: "log every request" }),
  cacheStripes: server("cachesize", count(16, TIB / STRIPE_BYTES_MIN, "stripes"), {
    default: "1024",
    doc: "size of the cache, in stripes; up to three quarters of it are data not stored yet",
  }),
  cacheTtlMs: server("cachettl", seconds(1), {
    default: "60",
    doc: "how long a stripe stays in the cache after its last use",
  }),
  listen: server("listen", hostname, {
    default: "127.0.0.1",
    doc: "address to listen on; 0.0.0.0 is all of IPv4, :: is all",
  }),
  tlsCert: server("tlscert", path, {
    absent: "TCP in clear",
    doc: "certificate of this server, PEM; with it TCP connections must use TLS",
  }),
  tlsKey: server("tlskey", path, {
    absent: "none",
    doc: "private key of the certificate in tlscert, PEM",
  }),
  tlsCa: server("tlsca", path, {
    absent: "a client needs no certificate",
    doc: "authorities, PEM, one of which must have signed a client's certificate",
  }),
  insecure: server("insecure", boolean, {
    default: "no",
    doc: "listen without TLS on an address that other machines can reach; status too",
  }),
  socket: server("socket", path, {
    absent: "none",
    doc: "Unix socket to listen on, instead of TCP unless listen or port is given as well",
  }),
  readOnly: server("readonly", boolean, {
    default: "no",
    doc: "serve the disk without letting clients change it",
  }),
  status: server("status", status, {
    default: "127.0.0.1:9998",
    doc:
      "where a browser, Prometheus and curl are told how the drive is, without a password; or off",
  }),
  journal: server("journal", journal, {
    absent: "systemd's RUNTIME_DIRECTORY, or off without it",
    doc: "directory in memory that keeps what is not stored if the program dies; or off",
  }),
  ioTimeoutMs: server("iotimeout", seconds(0.1, "wait for ever"), {
    default: "0",
    doc: "a request that waits longer than this for the bucket fails",
  }),
  uploads: server("uploads", count(1, 64, "at once"), {
    default: "4",
    doc: "segments of 8 MiB or less that are stored at once",
  }),
  readaheadBytes: server("readahead", size(0, GIB), {
    default: "16M",
    doc: "how far a sequential reader is read ahead of; 0 is off",
  }),
  flushAfterMs: server("flushafter", seconds(0.1), {
    default: "5",
    doc: "what is written is stored after this time, also without a flush",
  }),
};

export const FIELDS = Object.keys(KEYS) as Field[];
