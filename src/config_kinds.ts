/**
 * The kinds of values in config.ini: each turns the text of the file into a value and back into text to show, and knows
 * how to say what is allowed. Which key has which is in config_keys.ts.
 */

import { GIB, KIB, MIB, STRIPE_BYTES_MAX, STRIPE_BYTES_MIN, TIB } from "./limits.ts";
import { showBytes } from "./progress.ts";

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

/** How a value is written. */
export interface Kind<T> {
  /** The value, or undefined when the text is not allowed. */
  parse(text: string): T | undefined;
  /** The value as `check-config` prints it. */
  show(value: T): string;
  /** Completes "allowed: "; names the unit, where there is one. */
  readonly allowed: string;
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

export function size(min: number, max: number): Kind<number> {
  return {
    parse: (text) => within(parseSize(text), min, max),
    show: (bytes) => bytes < KIB ? `${bytes} bytes` : `${bytes} bytes (${showBytes(bytes)})`,
    allowed: `${showBytes(min)} to ${showBytes(max)}, in bytes or with K, M, G or T`,
  };
}

export const stripeSize: Kind<number> = {
  ...size(STRIPE_BYTES_MIN, STRIPE_BYTES_MAX),
  parse(text) {
    const bytes = within(parseSize(text), STRIPE_BYTES_MIN, STRIPE_BYTES_MAX);
    return bytes !== undefined && (bytes & (bytes - 1)) === 0 ? bytes : undefined;
  },
  allowed: `a power of two from ${STRIPE_BYTES_MIN} to ${showBytes(STRIPE_BYTES_MAX)}`,
};

/** Whole numbers; `unit` is shown behind them. */
export function count(min: number, max: number, unit: string, zero?: string): Kind<number> {
  return {
    parse: (text) => /^\d+$/.test(text) ? within(Number(text), min, max) : undefined,
    show: (value) => value === 0 && zero ? zero : `${value}${unit && ` ${unit}`}`,
    allowed: `a whole number from ${min} to ${max}`,
  };
}

/** Seconds in the file, with a fraction if need be; milliseconds as a value. `zero` is what 0 means, if it is allowed. */
export function seconds(min: number, zero?: string): Kind<number> {
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

export const boolean: Kind<boolean> = {
  parse(text) {
    if (YES.includes(text.toLowerCase())) return true;
    return NO.includes(text.toLowerCase()) ? false : undefined;
  },
  show: (value) => value ? "yes" : "no",
  allowed: [...YES, ...NO].join(", "),
};

export function text(pattern: RegExp, allowed: string): Kind<string> {
  return {
    parse: (text) => pattern.test(text) ? text : undefined,
    show: (value) => value,
    allowed,
  };
}

const PATH_WITHOUT = "without ~, quotes or a # comment behind it, up to 1,000 characters";
/** Relative to the folder of the file, as is the path of `BUCKET=file:`; ~ and quotes are the shell's. */
export const path = text(/^(?![~"'])(?!.*\s[#;])[^\0]{1,1000}$/, `a path (${PATH_WITHOUT})`);

/** So that a key cut in two, pasted with its label or put in quotes is found here and not by S3. */
export const awsKey = text(/^(?!.*["'])[!-~]+$/, "characters of ASCII without spaces or quotes");

/**
 * S3's naming rules for general purpose buckets. Names with capitals or underscores, which some old
 * buckets and some other stores have, are left out: S3 creates none, and not every store finds them
 * by host name.
 */
const BUCKET_NAME = /^(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;

export const bucket: Kind<BucketLocation> = {
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

export const endpoint: Kind<string> = {
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
export const prefix: Kind<string> = {
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

export const storageClass = text(
  /^(?!(?:GLACIER|DEEP_ARCHIVE)$)[A-Za-z0-9_-]+$/i,
  "a class whose objects can be read at once, such as STANDARD, STANDARD_IA or GLACIER_IR " +
    "(not GLACIER, DEEP_ARCHIVE)",
);

export const hostname: Kind<string> = {
  parse(text) {
    const host = /^\[(.+)\]$/.exec(text)?.[1] ?? text;
    const isIp6 = /^[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*$/i.test(host);
    return isIp6 || /^[A-Za-z0-9.-]+$/.test(host) ? host : undefined;
  },
  show: (value) => value,
  allowed: "one IP address or host name; the port has a key of its own",
};

export const PORT_MAX = 65_535;

/** `host:port`, with an IPv6 address in brackets, or the port of 127.0.0.1 alone. */
export const status: Kind<StatusAddress | typeof STATUS_OFF> = {
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

export const journal: Kind<string> = {
  ...path,
  parse: (text) => text.toLowerCase() === JOURNAL_OFF ? JOURNAL_OFF : path.parse(text),
  allowed: `${path.allowed}, or off`,
};
