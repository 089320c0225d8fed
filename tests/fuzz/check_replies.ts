/** Holds what a server has sent against what it owed; anything that the protocol does not allow throws. */
import { Buffer } from "node:buffer";
import { REPLY_BUFFER_BYTES } from "../../src/limits.ts";
import { encodeGreeting } from "../../src/nbd/codec.ts";
import * as nbd from "../../src/nbd/constants.ts";
import type { Asked, Expected, Owed } from "./reference.ts";

/** Content of reads is compared only where it is known: nothing is held back. */
export interface Strictness {
  /** Everything that was owed has to be there. */
  isComplete: boolean;
  knowsContents: boolean;
}

/** Returns how many requests were answered. */
export function checkReplies(
  bytes: Uint8Array,
  expected: Expected,
  sizeBytes: number,
  strictness: Strictness,
): number {
  const replies = new Replies(bytes, expected, sizeBytes, strictness);
  try {
    replies.checkHandshake();
    replies.checkTransmission();
  } catch (error) {
    if (!(error instanceof Ended)) throw error;
    if (strictness.isComplete) fail(`the server sent too little: ${error.message}`);
  }
  return replies.answered;
}

/** What was sent ends in the middle of what is looked at. */
class Ended extends Error {}

function fail(what: string): never {
  throw new Error(what);
}

interface Open {
  asked: Asked;
  /** Of a structured reply to a read: ranges that came as content, in bytes from the disk's start. */
  ranges: [number, number][];
  /** Others have the same cookie: whose chunks are whose can't be known. */
  isAmbiguous: boolean;
  errno: number;
}

class Replies {
  answered = 0;
  #at = 0;
  /** By cookie; several with one cookie are answered in any order. */
  readonly #open = new Map<bigint, Open[]>();

  constructor(
    private readonly bytes: Uint8Array,
    private readonly expected: Expected,
    private readonly sizeBytes: number,
    private readonly strictness: Strictness,
  ) {
    for (const asked of expected.requests) {
      const same = this.#open.get(asked.cookie) ?? [];
      this.#open.set(asked.cookie, same);
      same.push({ asked, ranges: [], errno: 0, isAmbiguous: false });
      for (const one of same) one.isAmbiguous = same.length > 1;
    }
  }

  #take(count: number, what: string): Uint8Array {
    if (this.#at + count > this.bytes.length) throw new Ended(what);
    this.#at += count;
    return this.bytes.subarray(this.#at - count, this.#at);
  }

  // ---- Handshake

  checkHandshake(): void {
    const greeting = this.#take(18, "the greeting");
    if (!equal(greeting, encodeGreeting())) fail("that is no greeting");
    for (const owed of this.expected.options) this.#checkOption(owed);
    const { exportAnswer } = this.expected;
    if (exportAnswer === undefined) return;
    const answer = viewOf(this.#take(exportAnswer.length, "the export"));
    this.#checkExport(answer, 0, exportAnswer.transmissionFlags);
  }

  #checkOption(owed: Owed): void {
    const what = `option ${owed.option}`;
    const infos: number[] = [];
    for (;;) {
      const head = viewOf(this.#take(20, `the reply to ${what}`));
      if (head.getBigUint64(0) !== 0x3e889045565a9n) fail(`${what}: no reply magic`);
      if (head.getUint32(8) !== owed.option) {
        fail(`${what}: a reply to option ${head.getUint32(8)}`);
      }
      const type = head.getUint32(12);
      const data = this.#take(head.getUint32(16), `the data of the reply to ${what}`);
      if (data.length >= 4096) {
        fail(`${what}: ${data.length} bytes of data, which old clients drop`);
      }
      if (type === nbd.NBD_REP_ACK || type >= 0x80000000) {
        if (!owed.finals.includes(type)) fail(`${what}: ends with ${type.toString(16)}`);
        if (type === nbd.NBD_REP_ACK) this.#checkInfos(owed, infos);
        else if (infos.length > 0) fail(`${what}: information and then an error`);
        return;
      }
      infos.push(this.#checkInfo(owed, type, data));
    }
  }

  /** One reply that is not the last; returns what identifies it. */
  #checkInfo(owed: Owed, type: number, data: Uint8Array): number {
    const { option } = owed;
    const view = viewOf(data);
    if (option === nbd.NBD_OPT_LIST && type === nbd.NBD_REP_SERVER) {
      if (view.getUint32(0) > data.length - 4) fail("a name longer than its reply");
      return 0;
    }
    const isInfo = option === nbd.NBD_OPT_INFO || option === nbd.NBD_OPT_GO;
    if (isInfo && type === nbd.NBD_REP_INFO) {
      const info = view.getUint16(0);
      if (info === nbd.NBD_INFO_EXPORT) this.#checkExport(view, 2, owed.transmissionFlags);
      else if (!owed.infos.includes(info)) fail(`information ${info}, which was not asked for`);
      return info;
    }
    const isContext = option === nbd.NBD_OPT_SET_META_CONTEXT ||
      option === nbd.NBD_OPT_LIST_META_CONTEXT;
    if (isContext && type === nbd.NBD_REP_META_CONTEXT) {
      if (new TextDecoder().decode(data.subarray(4)) !== "base:allocation") fail("what context?");
      return view.getUint32(0);
    }
    return fail(`option ${option}: a reply of type ${type.toString(16)}`);
  }

  #checkInfos(owed: Owed, infos: number[]): void {
    if (new Set(infos).size < infos.length) fail(`option ${owed.option}: information came twice`);
    switch (owed.option) {
      case nbd.NBD_OPT_LIST:
      case nbd.NBD_OPT_INFO:
      case nbd.NBD_OPT_GO:
        if (!infos.includes(0)) fail(`option ${owed.option}: no information`);
        return;
      case nbd.NBD_OPT_LIST_META_CONTEXT:
      case nbd.NBD_OPT_SET_META_CONTEXT:
        if (infos.length !== owed.infos.length) fail(`${infos.length} contexts`);
        return;
      default:
        if (infos.length > 0) fail(`option ${owed.option}: unasked information`);
    }
  }

  #checkExport(view: DataView, at: number, flags: number): void {
    if (view.getBigUint64(at) !== BigInt(this.sizeBytes)) fail("a wrong size");
    const found = view.getUint16(at + 8);
    if (found !== flags) fail(`flags 0x${found.toString(16)}, not 0x${flags.toString(16)}`);
  }

  // ---- Transmission

  checkTransmission(): void {
    while (this.#at < this.bytes.length) {
      const magic = viewOf(this.#take(4, "the magic of a reply")).getUint32(0);
      if (magic === nbd.NBD_SIMPLE_REPLY_MAGIC) this.#simple();
      else if (magic === nbd.NBD_STRUCTURED_REPLY_MAGIC) this.#chunk();
      else fail(`that is no reply: ${magic.toString(16)}`);
    }
    const left = [...this.#open.values()].flat();
    if (this.strictness.isComplete && left.length > 0) {
      fail(`${left.length} requests were not answered, the first: ${show(left[0].asked)}`);
    }
  }

  #find(cookie: bigint, fits: (asked: Asked) => boolean): Open {
    const open = this.#open.get(cookie);
    if (open === undefined) fail(`a reply to ${cookie}, which nobody asked, or a second one`);
    return open.find(({ asked }) => fits(asked)) ??
      fail(`an answer that does not fit ${open.map(({ asked }) => show(asked)).join(" or ")}`);
  }

  #close(open: Open): void {
    this.answered++;
    const { cookie } = open.asked;
    const left = this.#open.get(cookie)!.filter((other) => other !== open);
    if (left.length === 0) this.#open.delete(cookie);
    else this.#open.set(cookie, left);
  }

  #simple(): void {
    const head = viewOf(this.#take(12, "a simple reply"));
    const errno = head.getUint32(0);
    const open = this.#find(head.getBigUint64(4), ({ type, errnos }) => {
      // "Simple reply message": not to a read, once structured replies are agreed on, nor with data
      const needsChunks = this.expected.structured && type === nbd.NBD_CMD_READ;
      if (needsChunks || (errno === 0 && type === nbd.NBD_CMD_BLOCK_STATUS)) return false;
      return fitsErrno(errnos, errno);
    });
    const { type, length } = open.asked;
    if (type === nbd.NBD_CMD_READ && errno === 0) {
      this.#checkData(open.asked, open.asked.offset, this.#take(length, "the data of a read"));
    }
    this.#close(open);
  }

  #chunk(): void {
    const head = viewOf(this.#take(16, "a chunk"));
    const [flags, type] = [head.getUint16(0), head.getUint16(2)];
    if (!this.expected.structured) fail("a chunk, and structured replies were not agreed on");
    if (flags > 1) fail(`chunk flags ${flags}`);
    const data = this.#take(head.getUint32(12), "the payload of a chunk");
    const isError = type >= 2 ** 15;
    const wanted = (asked: Asked) => {
      if (isError) return fitsErrno(asked.errnos, viewOf(data).getUint32(0));
      if (type === nbd.NBD_REPLY_TYPE_BLOCK_STATUS) return asked.type === nbd.NBD_CMD_BLOCK_STATUS;
      return asked.type === nbd.NBD_CMD_READ;
    };
    const open = this.#find(head.getBigUint64(4), wanted);
    const isDone = (flags & nbd.NBD_REPLY_FLAG_DONE) !== 0;
    if (isError) this.#error(open, type, data);
    else if (type === nbd.NBD_REPLY_TYPE_BLOCK_STATUS) this.#blockStatus(open, data, isDone);
    else this.#content(open, type, data);
    if (!isDone) return;
    if (open.asked.type === nbd.NBD_CMD_READ) this.#checkRanges(open);
    this.#close(open);
  }

  #error(open: Open, type: number, data: Uint8Array): void {
    const view = viewOf(data);
    const textBytes = view.getUint16(4);
    const hasOffset = type === nbd.NBD_REPLY_TYPE_ERROR_OFFSET;
    if (!hasOffset && type !== nbd.NBD_REPLY_TYPE_ERROR) fail(`an error chunk of type ${type}`);
    if (data.length !== 6 + textBytes + (hasOffset ? 8 : 0)) fail("an error of a wrong length");
    open.errno = view.getUint32(0);
    if (!hasOffset) return;
    const { offset, length } = open.asked;
    const at = Number(view.getBigUint64(data.length - 8));
    if (at < offset || at >= offset + length) fail(`an error at ${at}: ${show(open.asked)}`);
  }

  #content(open: Open, type: number, data: Uint8Array): void {
    if (type === nbd.NBD_REPLY_TYPE_NONE) {
      if (data.length > 0) fail("NBD_REPLY_TYPE_NONE with a payload");
      return;
    }
    const isHole = type === nbd.NBD_REPLY_TYPE_OFFSET_HOLE;
    if (!isHole && type !== nbd.NBD_REPLY_TYPE_OFFSET_DATA) fail(`a chunk of type ${type}`);
    const view = viewOf(data);
    const offset = Number(view.getBigUint64(0));
    const length = isHole ? view.getUint32(8) : data.length - 8;
    if (isHole && data.length !== 12) fail("a hole of a wrong length");
    if (length === 0) fail("a chunk of no bytes");
    const { asked } = open;
    const isInside = offset >= asked.offset && offset + length <= asked.offset + asked.length;
    if (!isInside) fail(`a chunk of ${length} at ${offset} in answer to ${show(asked)}`);
    open.ranges.push([offset, offset + length]);
    this.#checkData(asked, offset, isHole ? new Uint8Array(length) : data.subarray(8));
  }

  /** Content chunks don't overlap, and without an error they cover everything. */
  #checkRanges({ asked, ranges, errno, isAmbiguous }: Open): void {
    if (isAmbiguous) return;
    const sorted = ranges.toSorted(([a], [b]) => a - b);
    let end = asked.offset;
    let covered = 0;
    for (const [from, to] of sorted) {
      if (from < end) fail(`chunks overlap: ${show(asked)}`);
      covered += to - from;
      end = to;
    }
    const isFailure = errno !== 0;
    if (isFailure !== asked.errnos.length > 0) fail(`errno ${errno} to ${show(asked)}`);
    if (!isFailure && covered !== asked.length) fail(`${covered} bytes came for ${show(asked)}`);
    const isWhole = (asked.flags & nbd.NBD_CMD_FLAG_DF) !== 0;
    if (isWhole && ranges.length > 1) fail(`${ranges.length} chunks with DF: ${show(asked)}`);
  }

  #checkData(asked: Asked, offset: number, found: Uint8Array): void {
    // one too large for the buffer of replies is answered later, and may find what was written meanwhile
    const isLater = asked.length + 28 > REPLY_BUFFER_BYTES;
    if (!this.strictness.knowsContents || (isLater && !asked.isLast)) return;
    const from = offset - asked.offset;
    const wanted = asked.data!.subarray(from, from + found.length);
    if (!equal(found, wanted)) fail(`wrong data at ${offset}: ${show(asked)}`);
  }

  #blockStatus(open: Open, data: Uint8Array, isDone: boolean): void {
    const { asked } = open;
    const view = viewOf(data);
    if (!isDone || asked.errnos.length > 0) fail(`a block status: ${show(asked)}`);
    if (view.getUint32(0) !== 1) fail("a context that nobody selected");
    const count = (data.length - 4) / 8;
    if (!Number.isInteger(count) || count === 0) fail("extents of a wrong length");
    if (count > 1 && asked.flags & nbd.NBD_CMD_FLAG_REQ_ONE) fail("several extents with REQ_ONE");
    let at = asked.offset;
    for (let i = 0; i < count; i++) {
      const [length, state] = [view.getUint32(4 + 8 * i), view.getUint32(8 + 8 * i)];
      if (length === 0 || state > 3) fail(`extent ${i}: ${length} bytes in state ${state}`);
      at += length;
    }
    if (at > asked.offset + asked.length) fail(`extents past the range: ${show(asked)}`);
  }
}

function fitsErrno(errnos: number[], errno: number): boolean {
  return errnos.length === 0 ? errno === nbd.NBD_OK : errnos.includes(errno);
}

function show({ type, flags, offset, length, errnos }: Asked): string {
  return `command ${type} flags ${flags} offset ${offset} length ${length} (to be answered with ${
    errnos.join(" or ") || "success"
  })`;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
