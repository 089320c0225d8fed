/**
 * The keys of config.ini, in one table: section, name, default, unit and what the key is for. Parsing,
 * suggestions, `elasticdrive check-config` and the test of config.ini.example are all driven by it, so
 * a new key is a new row here (and a field of `Values`).
 *
 * A row's `kind` turns the text of the file into a value and back into text to show, and knows how to
 * say what is allowed. Rules that need two keys at once are in config.ts.
 */

import {
  BLOCK_BYTES,
  GIB,
  KEY_ID_SHOWN_CHARS,
  KIB,
  MIB,
  STRIPE_BYTES_DEFAULT,
  STRIPE_BYTES_MAX,
  STRIPE_BYTES_MIN,
  TIB,
  VOLUME_BYTES_MAX,
} from "./limits.ts";
import { showBytes } from "./progress.ts";

export type Section = "s3" | "server";
export const SECTIONS: readonly Section[] = ["s3", "server"];

/** Where the volume's objects live. */
export type BucketLocation =
  | { readonly kind: "s3"; readonly name: string }
  | { readonly kind: "directory"; readonly path: string };

/** Where the status service listens. */
export interface StatusAddress {
  readonly hostname: string;
  readonly port: number;
}

/** The value of `status` that is no address. */
export const STATUS_OFF = "off";
/** The value of `journal` that is no path. */
export const JOURNAL_OFF = "off";

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

/** How a value is written. */
export interface Kind<T> {
  /** The value, or undefined when the text is not allowed. */
  parse(text: string): T | undefined;
  /** The value as `check-config` prints it. */
  show(value: T): string;
  /** Completes "allowed: "; names the unit, where there is one. */
  readonly allowed: string;
}

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

/** Timers hold their delay in 31 bits of milliseconds: 24.8 days. */
const TIMER_SECONDS_MAX = 2_000_000;

const UNITS: Record<string, number> = { "": 1, k: KIB, m: MIB, g: GIB, t: TIB };

/** The bytes of "4096", "64K", "64k", "64KB" or "64KiB" (all 1024s), or undefined. */
function parseSize(text: string): number | undefined {
  const found = /^(\d+)\s*(?:([kmgt]?)(?:i?b)?)$/i.exec(text);
  return found ? Number(found[1]) * UNITS[found[2].toLowerCase()] : undefined;
}

function within(value: number | undefined, min: number, max: number): number | undefined {
  return value !== undefined && value >= min && value <= max ? value : undefined;
}

function size(min: number, max: number): Kind<number> {
  return {
    parse: (text) => within(parseSize(text), min, max),
    show: (bytes) => bytes < KIB ? `${bytes} bytes` : `${bytes} bytes (${showBytes(bytes)})`,
    allowed: `${showBytes(min)} to ${showBytes(max)}, in bytes or with K, M, G or T`,
  };
}

const stripeSize: Kind<number> = {
  ...size(STRIPE_BYTES_MIN, STRIPE_BYTES_MAX),
  parse(text) {
    const bytes = within(parseSize(text), STRIPE_BYTES_MIN, STRIPE_BYTES_MAX);
    return bytes !== undefined && (bytes & (bytes - 1)) === 0 ? bytes : undefined;
  },
  allowed: `a power of two from ${STRIPE_BYTES_MIN} to ${showBytes(STRIPE_BYTES_MAX)}`,
};

/** Whole numbers; `unit` is shown behind them. */
function count(min: number, max: number, unit: string, zero?: string): Kind<number> {
  return {
    parse: (text) => /^\d+$/.test(text) ? within(Number(text), min, max) : undefined,
    show: (value) => value === 0 && zero ? zero : `${value}${unit && ` ${unit}`}`,
    allowed: `a whole number from ${min} to ${max}`,
  };
}

/** Seconds in the file, with a fraction if need be; milliseconds as a value. `zero` is what 0 means, if it is allowed. */
function seconds(min: number, zero?: string): Kind<number> {
  return {
    parse(text) {
      if (!/^\d+(\.\d+)?$/.test(text)) return undefined;
      if (zero && Number(text) === 0) return 0;
      const value = within(Number(text), min, TIMER_SECONDS_MAX);
      return value === undefined ? undefined : Math.round(value * 1000);
    },
    show: (ms) => ms === 0 && zero ? zero : `${ms / 1000} seconds`,
    allowed: `${min} to ${TIMER_SECONDS_MAX} seconds${zero ? `, or 0: ${zero}` : ""}`,
  };
}

const YES = ["1", "yes", "true", "on"];
const NO = ["0", "no", "false", "off"];

const boolean: Kind<boolean> = {
  parse(text) {
    if (YES.includes(text.toLowerCase())) return true;
    return NO.includes(text.toLowerCase()) ? false : undefined;
  },
  show: (value) => value ? "yes" : "no",
  allowed: [...YES, ...NO].join(", "),
};

function text(pattern: RegExp, allowed: string): Kind<string> {
  return {
    parse: (text) => pattern.test(text) ? text : undefined,
    show: (value) => value,
    allowed,
  };
}

const PATH_WITHOUT = "without ~, quotes or a # comment behind it, up to 1,000 characters";
/** Relative to the folder of the file, as is the path of `BUCKET=file:`; ~ and quotes are the shell's. */
const path = text(/^(?![~"'])(?!.*\s[#;])[^\0]{1,1000}$/, `a path (${PATH_WITHOUT})`);

/** So that a key cut in two, pasted with its label or put in quotes is found here and not by S3. */
const awsKey = text(/^(?!.*["'])[!-~]+$/, "characters of ASCII without spaces or quotes");

/**
 * S3's naming rules for general purpose buckets. Names with capitals or underscores, which some old
 * buckets and some other stores have, are left out: S3 creates none, and not every store finds them
 * by host name.
 */
const BUCKET_NAME = /^(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;

const bucket: Kind<BucketLocation> = {
  parse(text) {
    // Two slashes would begin a host name, as in file://host/path.
    const directory = /^file:(?!\/\/[^/])(.+)$/i.exec(text)?.[1];
    if (directory && path.parse(directory)) return { kind: "directory", path: directory };
    return BUCKET_NAME.test(text) ? { kind: "s3", name: text } : undefined;
  },
  show: (value) => value.kind === "s3" ? value.name : `file:${value.path}`,
  allowed: "3 to 63 lower-case letters, digits, dots and hyphens, beginning and ending with a " +
    "letter or digit, no two dots in a row, no IP address; or file:/path for a directory " +
    `(${PATH_WITHOUT})`,
};

const endpoint: Kind<string> = {
  parse(text) {
    const url = /^https?:\/\/\S+$/i.test(text) && URL.parse(text);
    if (!url || url.username || url.password || url.search || url.hash) return undefined;
    return url.href.replace(/\/$/, "");
  },
  show: (value) => value,
  allowed:
    "a URL such as https://s3.example.com or http://127.0.0.1:9000, without a password, ? or #",
};

/** Parts that would leave the prefix in a directory (`..`), or name two keys the same, are not allowed. */
const prefix: Kind<string> = {
  parse(text) {
    const path = text.replace(/\/$/, "");
    const parts = path.split("/");
    const fine = parts.every((part) =>
      /^[A-Za-z0-9!_.*'()-]+$/.test(part) && !/^\.\.?$/.test(part)
    );
    return fine && path.length <= 512 ? `${path}/` : undefined;
  },
  show: (value) => value,
  allowed: "up to 512 letters, digits and !_.*'()- in parts divided by /, not beginning with /",
};

const storageClass = text(
  /^(?!(?:GLACIER|DEEP_ARCHIVE)$)[A-Za-z0-9_-]+$/i,
  "a class whose objects can be read at once, such as STANDARD, STANDARD_IA or GLACIER_IR " +
    "(not GLACIER, DEEP_ARCHIVE)",
);

const hostname: Kind<string> = {
  parse(text) {
    const host = /^\[(.+)\]$/.exec(text)?.[1] ?? text;
    const isIp6 = /^[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*$/i.test(host);
    return isIp6 || /^[A-Za-z0-9.-]+$/.test(host) ? host : undefined;
  },
  show: (value) => value,
  allowed: "one IP address or host name; the port has a key of its own",
};

const PORT_MAX = 65_535;

/** `host:port`, with an IPv6 address in brackets, or the port of 127.0.0.1 alone. */
const status: Kind<StatusAddress | typeof STATUS_OFF> = {
  parse(text) {
    if (text.toLowerCase() === STATUS_OFF) return STATUS_OFF;
    const parts = /^(?:(\[[^\]]+\]|[^:\[\]]+):)?(\d{1,5})$/.exec(text);
    const host = parts && hostname.parse(parts[1] ?? "127.0.0.1");
    const port = Number(parts?.[2]);
    return host && port <= PORT_MAX ? { hostname: host, port } : undefined;
  },
  show: (value) => value === STATUS_OFF ? STATUS_OFF : showAddress(value),
  allowed: "a port, an address and a port such as 127.0.0.1:9998 or [::1]:9998, or off; " +
    "port 0 is any free one",
};

/** As it stands in a URL. */
export function showAddress({ hostname, port }: StatusAddress): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

const journal: Kind<string> = {
  ...path,
  parse: (text) => text.toLowerCase() === JOURNAL_OFF ? JOURNAL_OFF : path.parse(text),
  allowed: `${path.allowed}, or off`,
};

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
