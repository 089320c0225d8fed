/**
 * What a server has to make of the bytes that a client sends, whatever they are: which replies it owes, which changes of
 * the disk, and how it ends. Written from doc/proto.md and apart from src/nbd, with which it shares the
 * numbers' names only.
 *
 * Where proto.md leaves a choice all of it is allowed, except for what this server promises: see `errnosOf`.
 */
import * as nbd from "../../src/nbd/constants.ts";

const MIB = 1 << 20;
const REQUEST_BYTES_MAX = 32 * MIB;
const OPTION_BYTES_MAX = 16 * 1024;
const OPTIONS_MAX = 64;
const IHAVEOPT = 0x49484156454f5054n;

/** Of those that may have too much data and a reply for it; who asks for any other is told so first of all. */
const KNOWN_OPTIONS = [
  nbd.NBD_OPT_LIST,
  nbd.NBD_OPT_INFO,
  nbd.NBD_OPT_GO,
  nbd.NBD_OPT_STRUCTURED_REPLY,
  nbd.NBD_OPT_LIST_META_CONTEXT,
  nbd.NBD_OPT_SET_META_CONTEXT,
];

export interface Disk {
  name: string;
  sizeBytes: number;
  blockBytes: number;
  readOnly: boolean;
  /** NBD_OPT_STARTTLS has been answered already. */
  isSecure?: boolean;
  /** What zeroing is fast is known: that of whole blocks; else any may be, or not. */
  isFastKnown: boolean;
  /** No request that touches these bytes succeeds. */
  bad: { start: number; end: number };
}

/** The replies owed to one option. */
export interface Owed {
  option: number;
  /** What its last reply may be. */
  finals: number[];
  /** Of information the types that may come, or of contexts the one. */
  infos: number[];
  transmissionFlags: number;
}

export interface Change {
  verb: "write" | "trim" | "zero";
  offset: number;
  length: number;
  data: Uint8Array | undefined;
}

export interface Asked {
  cookie: bigint;
  type: number;
  flags: number;
  offset: number;
  length: number;
  /** What may be answered. */
  errnos: number[];
  /** What a read finds, if all before it has been done. */
  data: Uint8Array | undefined;
  /** No change comes after it: also a read that is answered later finds just that. */
  isLast: boolean;
}

export interface Expected {
  options: Owed[];
  /** The answer to NBD_OPT_EXPORT_NAME: its length, and its flags. */
  exportAnswer: { length: number; transmissionFlags: number } | undefined;
  structured: boolean;
  /** The context's id was agreed on. */
  blockStatus: boolean;
  requests: Asked[];
  /** What reaches the device, in order; "flush" stands for itself. */
  device: (Change | "flush")[];
  /** "cut": the bytes can't be NBD, and replies that were owed may not come any more. */
  end: "cut" | "eof" | "disc" | "abort";
  /** A change was asked for that the server may make or refuse. */
  isOpen: boolean;
  /** What the client sent behind that, which nobody reads. */
  restBytes: number;
}

/** What is left of the stream is not a whole message. */
class Incomplete extends Error {}
/** It can't be one. */
class Breach extends Error {}

export function interpret(bytes: Uint8Array, disk: Disk, contents: Uint8Array): Expected {
  const reference = new Reference(bytes, disk, contents);
  try {
    reference.negotiate();
    reference.expected.restBytes = bytes.length - reference.at;
  } catch (error) {
    if (error instanceof Breach) reference.expected.end = "cut";
    else if (!(error instanceof Incomplete)) throw error;
  }
  const { requests } = reference.expected;
  const lastChange = requests.findLastIndex((asked) => isChange(asked.type));
  requests.forEach((asked, index) => asked.isLast = index > lastChange);
  return reference.expected;
}

function isChange(type: number): boolean {
  return type === nbd.NBD_CMD_WRITE || type === nbd.NBD_CMD_TRIM ||
    type === nbd.NBD_CMD_WRITE_ZEROES;
}

class Reference {
  readonly expected: Expected = {
    options: [],
    exportAnswer: undefined,
    structured: false,
    blockStatus: false,
    requests: [],
    device: [],
    end: "eof",
    isOpen: false,
    restBytes: 0,
  };
  readonly #view: DataView;
  /** How far it has read. */
  at = 0;
  #flags = 0;
  #contextOf: string | undefined;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly disk: Disk,
    private readonly contents: Uint8Array,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  #need(count: number): void {
    if (this.at + count > this.bytes.length) throw new Incomplete();
  }

  negotiate(): void {
    this.#need(4);
    this.#flags = this.#view.getUint32(0);
    this.at = 4;
    if (this.#flags > 3) throw new Breach();
    for (let count = 0; count < OPTIONS_MAX; count++) {
      const next = this.#option();
      if (next === "abort") this.expected.end = "abort";
      if (next === "transmission") this.#transmission();
      if (next !== "haggle") return;
    }
    throw new Breach();
  }

  #option(): "haggle" | "transmission" | "abort" {
    this.#need(16);
    if (this.#view.getBigUint64(this.at) !== IHAVEOPT) throw new Breach();
    const option = this.#view.getUint32(this.at + 8);
    const length = this.#view.getUint32(this.at + 12);
    this.at += 16;
    if ((this.#flags & 1) === 0 && option !== nbd.NBD_OPT_EXPORT_NAME) throw new Breach();
    const isTooBig = length > OPTION_BYTES_MAX;
    if (isTooBig && option === nbd.NBD_OPT_EXPORT_NAME) throw new Breach();
    this.#need(length);
    const data = this.bytes.subarray(this.at, this.at + length);
    this.at += length;

    if (option === nbd.NBD_OPT_EXPORT_NAME) return this.#exportName(textOf(data));
    if (option === nbd.NBD_OPT_ABORT) return this.#owe(option, [nbd.NBD_REP_ACK]), "abort";
    if (isTooBig) {
      if (option === nbd.NBD_OPT_SET_META_CONTEXT) this.#contextOf = undefined;
      const tooBig = [nbd.NBD_REP_ERR_TOO_BIG, nbd.NBD_REP_ERR_INVALID];
      return this.#owe(
        option,
        KNOWN_OPTIONS.includes(option) ? tooBig : [this.#refusalOfUnknown(option)],
      );
    }
    switch (option) {
      case nbd.NBD_OPT_LIST:
        return this.#owe(option, [length > 0 ? nbd.NBD_REP_ERR_INVALID : nbd.NBD_REP_ACK]);
      case nbd.NBD_OPT_STRUCTURED_REPLY:
        if (length > 0) return this.#owe(option, [nbd.NBD_REP_ERR_INVALID]);
        this.expected.structured = true;
        return this.#owe(option, [nbd.NBD_REP_ACK]);
      case nbd.NBD_OPT_INFO:
      case nbd.NBD_OPT_GO:
        return this.#infoOrGo(option, data);
      case nbd.NBD_OPT_LIST_META_CONTEXT:
      case nbd.NBD_OPT_SET_META_CONTEXT:
        return this.#metaContext(option, data);
      default:
        return this.#owe(option, [this.#refusalOfUnknown(option)]);
    }
  }

  #refusalOfUnknown(option: number): number {
    const isAgain = option === nbd.NBD_OPT_STARTTLS && this.disk.isSecure;
    return isAgain ? nbd.NBD_REP_ERR_INVALID : nbd.NBD_REP_ERR_UNSUP;
  }

  #owe(option: number, finals: number[], infos: number[] = []): "haggle" {
    const transmissionFlags = this.#transmissionFlags();
    this.expected.options.push({ option, finals, infos, transmissionFlags });
    return "haggle";
  }

  #transmissionFlags(): number {
    const always = nbd.NBD_FLAG_HAS_FLAGS | nbd.NBD_FLAG_SEND_FLUSH | nbd.NBD_FLAG_SEND_FUA |
      nbd.NBD_FLAG_CAN_MULTI_CONN | nbd.NBD_FLAG_SEND_CACHE;
    const writable = nbd.NBD_FLAG_SEND_TRIM | nbd.NBD_FLAG_SEND_WRITE_ZEROES |
      nbd.NBD_FLAG_SEND_FAST_ZERO;
    return always | (this.disk.readOnly ? nbd.NBD_FLAG_READ_ONLY : writable) |
      (this.expected.structured ? nbd.NBD_FLAG_SEND_DF : 0);
  }

  #isOffered(name: string): boolean {
    return name === "" || name === this.disk.name;
  }

  #exportName(name: string): "transmission" {
    if (!this.#isOffered(name)) throw new Breach();
    const length = 10 + (this.#flags & 2 ? 0 : 124);
    this.expected.exportAnswer = { length, transmissionFlags: this.#transmissionFlags() };
    this.expected.blockStatus = this.#contextOf === name;
    return "transmission";
  }

  #infoOrGo(option: number, data: Uint8Array): "haggle" | "transmission" {
    const [name, rest] = takeString(data);
    const view = viewOf(rest);
    if (name === undefined || rest.length < 2 || rest.length !== 2 + 2 * view.getUint16(0)) {
      return this.#owe(option, [nbd.NBD_REP_ERR_INVALID]);
    }
    if (!this.#isOffered(name)) return this.#owe(option, [nbd.NBD_REP_ERR_UNKNOWN]);
    const infos = Array.from({ length: view.getUint16(0) }, (_, i) => view.getUint16(2 + 2 * i));
    this.#owe(option, [nbd.NBD_REP_ACK], infos);
    if (option === nbd.NBD_OPT_INFO) return "haggle";
    this.expected.blockStatus = this.#contextOf === name;
    return "transmission";
  }

  #metaContext(option: number, data: Uint8Array): "haggle" {
    const isSelection = option === nbd.NBD_OPT_SET_META_CONTEXT;
    if (isSelection) this.#contextOf = undefined;
    const invalid = [nbd.NBD_REP_ERR_INVALID];
    let [name, rest] = takeString(data);
    if (name === undefined || rest.length < 4) return this.#owe(option, invalid);
    const count = viewOf(rest).getUint32(0);
    rest = rest.subarray(4);
    const queries: string[] = [];
    while (queries.length < count) {
      let query: string | undefined;
      [query, rest] = takeString(rest);
      if (query === undefined) return this.#owe(option, invalid);
      queries.push(query);
    }
    const isWrong = !this.expected.structured || rest.length > 0 ||
      queries.some((query) => query.indexOf(":") < 1);
    const unknown = this.#isOffered(name) ? [] : [nbd.NBD_REP_ERR_UNKNOWN];
    if (isWrong) return this.#owe(option, [...invalid, ...unknown]);
    if (unknown.length > 0) return this.#owe(option, unknown);
    const found = queries.includes("base:allocation") ||
      (!isSelection && (queries.length === 0 || queries.includes("base:")));
    if (found && isSelection) this.#contextOf = name;
    return this.#owe(option, [nbd.NBD_REP_ACK], found ? [isSelection ? 1 : 0] : []);
  }

  #transmission(): void {
    for (;;) {
      this.#need(4);
      if (this.#view.getUint32(this.at) !== nbd.NBD_REQUEST_MAGIC) throw new Breach();
      this.#need(28);
      const view = this.#view;
      const at = this.at;
      const type = view.getUint16(at + 6);
      const length = view.getUint32(at + 24);
      const asked: Asked = {
        cookie: view.getBigUint64(at + 8),
        type,
        flags: view.getUint16(at + 4),
        offset: Number(view.getBigUint64(at + 16)),
        length,
        errnos: [],
        data: undefined,
        isLast: false,
      };
      this.at += 28;
      if (type === nbd.NBD_CMD_DISC) {
        this.expected.end = "disc";
        return;
      }
      if (type === nbd.NBD_CMD_WRITE) this.#need(length);
      asked.errnos = this.#errnosOf(asked);
      if (asked.errnos.length === 0) this.#perform(asked);
      const isRead = type === nbd.NBD_CMD_READ && asked.offset + length <= this.disk.sizeBytes;
      if (isRead) asked.data = this.contents.slice(asked.offset, asked.offset + length);
      if (type === nbd.NBD_CMD_WRITE) this.at += length;
      this.expected.requests.push(asked);
    }
  }

  /** What a request may be refused with; none: it has to succeed. */
  #errnosOf({ type, flags, offset, length }: Asked): number[] {
    const errnos = new Set<number>();
    const { sizeBytes, blockBytes, readOnly, isFastKnown, bad } = this.disk;
    const isPastEnd = offset + length > sizeBytes;
    const known = new Map([
      [nbd.NBD_CMD_READ, this.expected.structured ? nbd.NBD_CMD_FLAG_DF : 0],
      [nbd.NBD_CMD_WRITE, 0],
      [nbd.NBD_CMD_FLUSH, 0],
      [nbd.NBD_CMD_TRIM, 0],
      [nbd.NBD_CMD_CACHE, 0],
      [nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_NO_HOLE | nbd.NBD_CMD_FLAG_FAST_ZERO],
      [nbd.NBD_CMD_BLOCK_STATUS, nbd.NBD_CMD_FLAG_REQ_ONE],
    ]).get(type);
    if (known === undefined) return [nbd.NBD_EINVAL];
    if ((flags & ~(known | nbd.NBD_CMD_FLAG_FUA)) !== 0) errnos.add(nbd.NBD_EINVAL);
    if (isChange(type) && readOnly) errnos.add(nbd.NBD_EPERM);
    if (type === nbd.NBD_CMD_FLUSH) {
      if (offset !== 0 || length !== 0) errnos.add(nbd.NBD_EINVAL);
    } else if (isPastEnd) {
      const isGrowth = type === nbd.NBD_CMD_WRITE || type === nbd.NBD_CMD_WRITE_ZEROES;
      errnos.add(isGrowth ? nbd.NBD_ENOSPC : nbd.NBD_EINVAL);
    }
    if (type === nbd.NBD_CMD_READ || type === nbd.NBD_CMD_WRITE) {
      if (length > REQUEST_BYTES_MAX) errnos.add(nbd.NBD_EINVAL);
    }
    if (type === nbd.NBD_CMD_WRITE_ZEROES && (flags & nbd.NBD_CMD_FLAG_FAST_ZERO) && length > 0) {
      const isPartial = offset % blockBytes !== 0 || length % blockBytes !== 0;
      if (isPartial || !isFastKnown) errnos.add(nbd.NBD_ENOTSUP);
      if (!isFastKnown && errnos.size === 1) {
        errnos.add(nbd.NBD_OK);
        this.expected.isOpen = true;
      }
    }
    if (type === nbd.NBD_CMD_BLOCK_STATUS) {
      if (!this.expected.blockStatus || length === 0) errnos.add(nbd.NBD_EINVAL);
    }
    const isTouched = type !== nbd.NBD_CMD_FLUSH && length > 0 && offset < bad.end &&
      offset + length > bad.start;
    if (errnos.size === 0 && isTouched) errnos.add(nbd.NBD_EIO);
    return [...errnos];
  }

  #perform({ type, flags, offset, length }: Asked): void {
    const { device } = this.expected;
    if (type === nbd.NBD_CMD_FLUSH) device.push("flush");
    if (length === 0 || type === nbd.NBD_CMD_FLUSH) return;
    const end = offset + length;
    if (type === nbd.NBD_CMD_WRITE) {
      const data = this.bytes.subarray(this.at, this.at + length);
      device.push({ verb: "write", offset, length, data });
      this.contents.set(data, offset);
    } else if (type === nbd.NBD_CMD_TRIM) {
      device.push({ verb: "trim", offset, length, data: undefined });
      applyTrim(this.contents, offset, length, this.disk.blockBytes);
    } else if (type === nbd.NBD_CMD_WRITE_ZEROES) {
      device.push({ verb: "zero", offset, length, data: undefined });
      this.contents.fill(0, offset, end);
    } else {
      return;
    }
    if (flags & nbd.NBD_CMD_FLAG_FUA) device.push("flush");
  }
}

/** Does a change to a copy of the disk. */
export function apply(contents: Uint8Array, change: Change, blockBytes: number): void {
  const { verb, offset, length, data } = change;
  if (verb === "write") contents.set(data!, offset);
  else if (verb === "zero") contents.fill(0, offset, offset + length);
  else applyTrim(contents, offset, length, blockBytes);
}

function applyTrim(contents: Uint8Array, offset: number, length: number, blockBytes: number): void {
  const first = Math.ceil(offset / blockBytes) * blockBytes;
  const end = Math.floor((offset + length) / blockBytes) * blockBytes;
  if (first < end) contents.fill(0, first, end);
}

/** A string with its length before it, and what follows; undefined if that can't be. */
function takeString(data: Uint8Array): [string | undefined, Uint8Array] {
  if (data.length < 4) return [undefined, data];
  const length = viewOf(data).getUint32(0);
  if (length > 4096 || data.length < 4 + length) return [undefined, data];
  return [textOf(data.subarray(4, 4 + length)), data.subarray(4 + length)];
}

function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
