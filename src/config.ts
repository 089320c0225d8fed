/**
 * The configuration: reads the text of a config.ini, checks it and says what came out.
 *
 * It is read here, line by line, rather than by an INI library, because every mistake must name its
 * line: `[section]`, `key = value`, and lines that begin with `#` or `;` for comments. There are no
 * comments behind a value (a secret may contain `#`) and quotes are part of the value. The mistakes of
 * a file are reported together, in one `UsageError` with a line of text for each; no message contains a
 * secret. A file of the original program is accepted as it is.
 */

import { basename, dirname, join, resolve } from "node:path";
import { DamageError, UsageError } from "./errors.ts";
import {
  type Field,
  FIELDS,
  type Given,
  type Key,
  KEYS,
  type Section,
  SECTIONS,
  type Values,
} from "./config_keys.ts";
import { JOURNAL_OFF, showAddress, STATUS_OFF } from "./config_kinds.ts";
import { cut, isName, mayHoldSecret, suggest } from "./config_quotes.ts";
import { BLOCK_BYTES, STRIPE_BYTES_DEFAULT, TIB, VOLUME_BYTES_DEFAULT } from "./limits.ts";
import { showBytes } from "./progress.ts";

/** The resolved configuration: every default applied, every path absolute. */
export interface Settings extends Omit<Values, "listen" | "ioTimeoutMs"> {
  /** "", or what every key begins with, ending in "/". */
  readonly prefix: string;
  readonly pathStyle: boolean;
  /** Where TCP connections are taken, at `port`; undefined when only `socket` is served. */
  readonly listen: string | undefined;
  /** Undefined: requests wait for the bucket for ever. */
  readonly ioTimeoutMs: number | undefined;
  /** The file all this was read from; undefined for the built-in configuration. */
  readonly file?: string;
  /** The line of the file that each key was given in; the other keys have their defaults. */
  readonly lines: Readonly<Partial<Record<Field, number>>>;
}

/** Keys that mean nothing to a directory. The AWS keys do neither, but stay in a file switched to `file:` for a trial. */
const S3_ONLY: readonly Field[] = ["endpoint", "region", "pathStyle", "storageClass"];
/** What sockaddr_un has room for before its zero. */
const SOCKET_PATH_BYTES_MAX = 107;

/** Of a file that is no config.ini at all. */
const MISTAKES_SHOWN_MAX = 30;

/** The values of a file and where they stand; a key whose value is not allowed has a line but no value. */
interface Found {
  readonly values: { -readonly [F in Field]?: Given[F] };
  readonly lines: Partial<Record<Field, number>>;
}

/** Collects what is wrong with a file, so that all of it is said at once. */
class Mistakes {
  readonly #fileName: string;
  readonly #list: { line: number; message: string }[] = [];

  constructor(fileName: string) {
    this.#fileName = fileName;
  }

  /** Line 0 is the file as a whole. */
  add(line: number | undefined, message: string): void {
    this.#list.push({ line: line ?? 0, message });
  }

  throwIfAny(): void {
    if (this.#list.length === 0) return;
    const sorted = this.#list.toSorted((a, b) => a.line - b.line);
    const place = (line: number) => line ? `${this.#fileName}:${line}` : this.#fileName;
    const lines = sorted.slice(0, MISTAKES_SHOWN_MAX).map((m) => `${place(m.line)}: ${m.message}`);
    const more = sorted.length - lines.length;
    if (more > 0) lines.push(`${this.#fileName}: ${more} more`);
    throw new UsageError(lines.join("\n"));
  }
}

/**
 * Reads the text of a configuration file. Relative paths in it are taken from the file's folder.
 * Throws a `UsageError` that names every mistake, one a line, with file, line, what was found and what
 * is allowed.
 */
export function parseConfig(text: string, fileName: string): Settings {
  const mistakes = new Mistakes(fileName);
  const found = readLines(text, mistakes);
  resolvePaths(found.values, dirname(resolve(fileName)));
  checkTogether(found, mistakes);
  mistakes.throwIfAny();
  return settle(found, fileName);
}

/** What the program does without a config.ini: a 1 GiB disk in the directory `elasticdrive-data` in `dir`. */
export function defaultSettings(dir: string): Settings {
  const bucket = { kind: "directory", path: resolve(dir, "elasticdrive-data") } as const;
  return settle({ values: { bucket, volumeBytes: VOLUME_BYTES_DEFAULT }, lines: {} });
}

/** What NBD clients may call the disk: the bucket's name, or the directory's, with the prefix. */
export function volumeName({ bucket, prefix }: Settings): string {
  const name = bucket.kind === "s3" ? bucket.name : basename(bucket.path);
  return prefix === "" ? name : `${name}/${prefix.slice(0, -1)}`;
}

/** The volume as the log names it, and what a drive says of itself. */
export function bucketName(settings: Settings): string {
  const { bucket, prefix } = settings;
  if (bucket.kind === "s3") return `s3://${volumeName(settings)}`;
  return `file:${join(bucket.path, prefix).replace(/(?<=.)\/$/, "")}`;
}

function readLines(text: string, mistakes: Mistakes): Found {
  const found: Found = { values: {}, lines: {} };
  let section: Section | "unknown" | undefined;
  const lines = text.replace(/^\uFEFF/, "").split(/\r\n|\r|\n/);
  for (const [index, whole] of lines.entries()) {
    const line = index + 1;
    const content = whole.trim();
    if (content === "" || /^[#;]/.test(content)) continue;
    if (content.includes("\uFFFD")) {
      mistakes.add(line, "not all of this is UTF-8; allowed: a file in UTF-8");
      continue;
    }

    const header = /^\[(.*)\]$/.exec(content);
    if (header) {
      section = readSection(header[1].trim(), line, mistakes);
      continue;
    }
    const equals = content.indexOf("=");
    if (equals < 1) {
      const word = content.split(/[\s:]/, 1)[0];
      const what = isName(word.replace("[", "")) ? `"${word} ..."` : "this";
      mistakes.add(line, `${what} is neither [section] nor key = value nor a # comment`);
    } else if (section !== "unknown") {
      const name = content.slice(0, equals).trim();
      const value = content.slice(equals + 1).trim();
      readKey(found, section, name, value, line, mistakes);
    }
  }
  return found;
}

/** Of a section nobody knows the keys are not looked at: its name is the one mistake to correct. */
function readSection(name: string, line: number, mistakes: Mistakes): Section | "unknown" {
  const section = SECTIONS.find((known) => known === name.toLowerCase());
  if (section) return section;
  const what = isName(name) ? `section [${name}]` : "section";
  mistakes.add(line, `unknown ${what}; ${suggest(name, SECTIONS, (s) => `[${s}]`)}`);
  return "unknown";
}

function readKey<F extends Field>(
  found: Found,
  section: Section | undefined,
  name: string,
  value: string,
  line: number,
  mistakes: Mistakes,
): void {
  const field = FIELDS.find((f) => KEYS[f].name.toLowerCase() === name.toLowerCase()) as
    | F
    | undefined;
  if (!field) {
    const names = FIELDS.map((f) => KEYS[f]).filter((k) => !section || k.section === section);
    const place = section ? ` in [${section}]` : "";
    const hint = suggest(name, names.map((k) => k.name), (n) => n);
    const what = isName(name) ? `key "${name}"` : "key";
    return mistakes.add(line, `unknown ${what}${place}; ${hint}`);
  }
  const key: Key<Given[F]> = KEYS[field];
  const first = found.lines[field];
  if (first) {
    return mistakes.add(line, `${key.name} is given a second time; the first is in line ${first}`);
  }
  found.lines[field] = line;
  if (key.section !== section) {
    const place = section ? `in [${section}]` : "before any section";
    mistakes.add(line, `${key.name} stands ${place}; it belongs in [${key.section}]`);
  }
  if (value === "") {
    return mistakes.add(line, `${key.name} has no value; allowed: ${key.kind.allowed}`);
  }
  found.values[field] = key.kind.parse(value);
  if (found.values[field] === undefined) {
    const isShown = key.secretExceptLast === undefined && !mayHoldSecret(value);
    const what = isShown ? `"${cut(value)}"` : "what it is (not shown)";
    mistakes.add(line, `${key.name} can't be ${what}; allowed: ${key.kind.allowed}`);
  }
}

function resolvePaths(values: Found["values"], folder: string): void {
  if (values.bucket?.kind === "directory") {
    values.bucket = { kind: "directory", path: resolve(folder, values.bucket.path) };
  }
  for (const field of ["socket", "tlsCert", "tlsKey", "tlsCa", "journal"] as const) {
    const path = values[field];
    if (path && path !== JOURNAL_OFF) values[field] = resolve(folder, path);
  }
}

/** The rules that take more than one key. A key that is wrong by itself is not held against another. */
function checkTogether({ values, lines }: Found, mistakes: Mistakes): void {
  const { bucket, stripeBytes, volumeBytes, cacheStripes, socket } = values;
  if (!lines.bucket) {
    mistakes.add(
      0,
      `[s3] BUCKET is missing: ${KEYS.bucket.doc}; allowed: ${KEYS.bucket.kind.allowed}`,
    );
  }
  checkPair("accessKeyId", "secretAccessKey", lines, mistakes);
  if (bucket?.kind === "directory") {
    for (const field of S3_ONLY.filter((f) => lines[f])) {
      const { name } = KEYS[field];
      mistakes.add(lines[field], `${name} means nothing to a BUCKET=file: directory; remove it`);
    }
  }
  const folders = {
    bucket: bucket?.kind === "directory" ? bucket.path : "",
    journal: values.journal ?? "",
  };
  for (const field of ["bucket", "journal"] as const) {
    if (!/^\/(dev|proc|sys)(\/|$)/.test(folders[field])) continue;
    const { name } = KEYS[field];
    const why =
      "Deno opens no files of a program's own in /dev, /proc and /sys; /run is in memory, too";
    mistakes.add(lines[field], `${name} can't be in ${folders[field]}: ${why}`);
  }
  const unit = stripeBytes ?? BLOCK_BYTES;
  if (volumeBytes && (stripeBytes || !lines.stripeBytes) && volumeBytes % unit !== 0) {
    const below = volumeBytes - volumeBytes % unit;
    mistakes.add(
      lines.volumeBytes,
      `VOLUMESIZE can't be ${volumeBytes}; allowed: a multiple of ` +
        `${stripeBytes ? "STRIPE" : "the block"} (${unit} bytes), such as ` +
        `${below ? `${below} or ` : ""}${below + unit}`,
    );
  }
  const stripe = stripeBytes ?? STRIPE_BYTES_DEFAULT;
  if (cacheStripes && cacheStripes * stripe >= TIB) {
    mistakes.add(
      lines.cacheStripes,
      `cachesize can't be ${cacheStripes}: that many stripes of ${stripe} bytes are ` +
        `${showBytes(cacheStripes * stripe)} of memory; allowed: up to ${TIB / stripe - 1}`,
    );
  }
  if (socket && new TextEncoder().encode(socket).length > SOCKET_PATH_BYTES_MAX) {
    const allowed = `a path of at most ${SOCKET_PATH_BYTES_MAX} bytes`;
    mistakes.add(lines.socket, `socket can't be "${socket}"; allowed: ${allowed}`);
  }
  checkWhoMayConnect({ values, lines }, mistakes);
}

function checkPair(one: Field, other: Field, lines: Found["lines"], mistakes: Mistakes): void {
  if (!lines[one] === !lines[other]) return;
  const [given, missing] = lines[one] ? [one, other] : [other, one];
  mistakes.add(
    lines[given],
    `${KEYS[given].name} is given without ${KEYS[missing].name}; allowed: both, or neither for ` +
      KEYS[one].absent,
  );
}

/** Nobody opens the disk to a network by mistake, and no line about that is without effect. */
function checkWhoMayConnect({ values, lines }: Found, mistakes: Mistakes): void {
  checkPair("tlsCert", "tlsKey", lines, mistakes);
  if (lines.tlsCa && !lines.tlsCert) {
    mistakes.add(lines.tlsCa, "tlsca is given without tlscert and tlskey; allowed: all three");
  }
  if (lines.tlsCert && !isTcp({ values, lines })) {
    mistakes.add(
      lines.tlsCert,
      "tlscert means nothing to a socket, which only its owner can open; " +
        "allowed: with port or listen, which add TCP",
    );
  }
  const { status } = values;
  const isStatusPublic = status && status !== STATUS_OFF && !isLoopback(status.hostname);
  if (isStatusPublic && !values.insecure) {
    mistakes.add(
      lines.status,
      `status can't be ${showAddress(status)} as it is: whoever reaches it could read how the ` +
        "drive is; allowed: 127.0.0.1, ::1 or localhost; or with insecure = yes; or off",
    );
  }
  if (lines.tlsCert && values.insecure && !isStatusPublic) {
    mistakes.add(lines.insecure, "insecure means nothing with tlscert; remove one of them");
  }
  const { listen } = values;
  if (listen && !isLoopback(listen) && !lines.tlsCert && !values.insecure) {
    mistakes.add(
      lines.listen,
      `listen can't be ${listen} as it is: whoever reaches it could read and write the disk; ` +
        "allowed: 127.0.0.1, ::1 or localhost; or with tlscert and tlskey; or with insecure = yes",
    );
  }
}

/**
 * TCP would open the disk to every user of the machine, the socket only to its owner: so who asks for
 * the socket gets no TCP unless a line of the file says so.
 */
function isTcp({ values, lines }: Found): boolean {
  return !values.socket || !!lines.listen || !!lines.port;
}

/** Whether only this machine can reach an address; of a name only "localhost" is known. */
export function isLoopback(host: string): boolean {
  const name = URL.parse(`http://${host.includes(":") ? `[${host}]` : host}`)?.hostname ?? "";
  return name === "localhost" || name === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(name);
}

/** Applies the defaults, those of the table and those that depend on another key. */
function settle({ values: given, lines }: Found, file?: string): Settings {
  const values = { ...tableDefaults(), ...given } as Values;
  const { bucket } = values;
  // A certificate for *.s3.amazonaws.com covers no bucket with a dot in its name.
  const isDotted = bucket.kind === "s3" && bucket.name.includes(".");
  return {
    ...values,
    prefix: values.prefix ?? "",
    pathStyle: values.pathStyle ?? (values.endpoint !== undefined || isDotted),
    listen: isTcp({ values, lines }) ? values.listen : undefined,
    ioTimeoutMs: values.ioTimeoutMs || undefined,
    file,
    lines,
  };
}

function tableDefaults(): Found["values"] {
  const withDefault = FIELDS.filter((field) => KEYS[field].default !== undefined);
  return Object.fromEntries(
    withDefault.map((field) => [field, KEYS[field].kind.parse(KEYS[field].default!)]),
  );
}

/**
 * The error with the file and line of the key that it is about, as those have that are found in the file itself;
 * damage, with the bucket it is in.
 */
export function withPlace(error: unknown, settings: Settings): unknown {
  if (error instanceof DamageError) {
    const hint = "elasticdrive check says what is damaged";
    return new DamageError(`${bucketName(settings)}: ${error.message}; ${hint}`, { cause: error });
  }
  const { file, lines } = settings;
  if (!(error instanceof UsageError) || error.key === undefined || file === undefined) return error;
  const field = FIELDS.find((f) => KEYS[f].name === error.key);
  const line = field && lines[field];
  return new UsageError(`${file}${line ? `:${line}` : ""}: ${error.message}`, { cause: error });
}

/** Every setting with its value, its unit and where it comes from, a line each; secrets hidden. */
export function describe(settings: Settings): string[] {
  const lines = [settings.file ?? "no config.ini: the built-in configuration"];
  for (const section of SECTIONS) {
    lines.push(`[${section}]`);
    for (const field of FIELDS.filter((f) => KEYS[f].section === section)) {
      const line = settings.lines[field];
      const assignment = `${KEYS[field].name} = ${showValue(settings, field)}`;
      lines.push(`  ${assignment.padEnd(56)}  ${line ? `line ${line}` : "default"}`);
    }
  }
  return lines;
}

function showValue<F extends Field>(settings: Settings, field: F): string {
  const key: Key<Given[F]> = KEYS[field];
  if (settings.listen === undefined && (field === "listen" || field === "port")) {
    return "(none, because socket is given)";
  }
  const isS3Only = S3_ONLY.includes(field) || key.secretExceptLast !== undefined;
  if (isS3Only && settings.bucket.kind === "directory") return "(not used)";
  const value = settings[field] ?? (key.default ? key.kind.parse(key.default) : undefined);
  if (value === undefined || value === "") return `(${key.absent})`;
  if (key.secretExceptLast === undefined) return key.kind.show(value as Given[F]);
  const shown = String(value);
  return `****${shown.slice(shown.length - key.secretExceptLast)}`;
}
