/**
 * Generic netlink messages and their bytes, after netlink(7), <linux/netlink.h> and <linux/genetlink.h>. Knows no
 * socket. What the kernel sends is checked as if anybody had sent it: lengths that don't add up are an error.
 *
 * A message is a header of 16 bytes, one of 4, and attributes; each of these is 4 bytes of length and type and a value,
 * which may be attributes in turn, padded to a multiple of 4. Numbers are in the machine's order: little-endian.
 */

const HEADER_BYTES = 16;
const GENERIC_HEADER_BYTES = 4;
const ATTRIBUTE_HEADER_BYTES = 4;
const NLMSG_ERROR = 2;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;

/** An attribute to be sent: its type, and its bytes or what is nested in it. */
export type Attribute = readonly [type: number, value: Uint8Array | readonly Attribute[]];

export function u32(value: number): Uint8Array {
  return new Uint8Array(new Uint32Array([value]).buffer);
}

export function u64(value: number): Uint8Array {
  return new Uint8Array(new BigUint64Array([BigInt(value)]).buffer);
}

export function text(value: string): Uint8Array {
  return new TextEncoder().encode(`${value}\0`);
}

/** What is asked of the kernel. */
export interface Request {
  /** The number of a family. */
  family: number;
  command: number;
  version: number;
  /** Comes back with the answers. */
  sequence: number;
  attributes: readonly Attribute[];
}

/** A request that is to be acknowledged. */
export function encodeRequest(request: Request): Uint8Array<ArrayBuffer> {
  const body = encodeAttributes(request.attributes);
  const bytes = new Uint8Array(HEADER_BYTES + GENERIC_HEADER_BYTES + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, request.family, true);
  view.setUint16(6, NLM_F_REQUEST | NLM_F_ACK, true);
  view.setUint32(8, request.sequence, true);
  view.setUint8(16, request.command);
  view.setUint8(17, request.version);
  bytes.set(body, HEADER_BYTES + GENERIC_HEADER_BYTES);
  return bytes;
}

function encodeAttributes(attributes: readonly Attribute[]): Uint8Array {
  const parts = attributes.map(([type, value]) => {
    const isNested = !(value instanceof Uint8Array);
    const data = isNested ? encodeAttributes(value) : value;
    const bytes = new Uint8Array(ATTRIBUTE_HEADER_BYTES + padded(data.length));
    const view = new DataView(bytes.buffer);
    view.setUint16(0, ATTRIBUTE_HEADER_BYTES + data.length, true);
    view.setUint16(2, isNested ? type | NLA_F_NESTED : type, true);
    bytes.set(data, ATTRIBUTE_HEADER_BYTES);
    return bytes;
  });
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** What the kernel answers. */
export interface Answer {
  sequence: number;
  /** 0: done; an error number; undefined: this is data, and more is to come. */
  errno?: number;
  attributes: Map<number, Uint8Array>;
}

/** The messages of one datagram. Throws a RangeError if its lengths don't add up. */
export function parseAnswers(bytes: Uint8Array): Answer[] {
  const answers: Answer[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = takeLength(bytes, at, HEADER_BYTES, "a message", 4);
    const view = new DataView(bytes.buffer, bytes.byteOffset + at, length);
    const sequence = view.getUint32(8, true);
    if (view.getUint16(4, true) === NLMSG_ERROR) {
      answers.push({
        sequence,
        errno: 0 - view.getInt32(HEADER_BYTES, true),
        attributes: new Map(),
      });
    } else {
      const body = bytes.subarray(at + HEADER_BYTES + GENERIC_HEADER_BYTES, at + length);
      answers.push({ sequence, attributes: parseAttributes(body) });
    }
    at += padded(length);
  }
  return answers;
}

/** Attributes by their types; the last of a type counts. Throws a RangeError as `parseAnswers` does. */
export function parseAttributes(bytes: Uint8Array): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  for (let at = 0; at < bytes.length;) {
    const length = takeLength(bytes, at, ATTRIBUTE_HEADER_BYTES, "an attribute", 2);
    const view = new DataView(bytes.buffer, bytes.byteOffset + at);
    const type = view.getUint16(2, true) & NLA_TYPE_MASK;
    found.set(type, bytes.subarray(at + ATTRIBUTE_HEADER_BYTES, at + length));
    at += padded(length);
  }
  return found;
}

/** The length that stands at `at` in `lengthBytes` bytes, of a thing whose header has `least`. */
function takeLength(
  bytes: Uint8Array,
  at: number,
  least: number,
  what: string,
  lengthBytes: 2 | 4,
): number {
  const left = bytes.length - at;
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, left);
  const length = left < least
    ? left
    : lengthBytes === 2
    ? view.getUint16(0, true)
    : view.getUint32(0, true);
  if (length < least || length > left) {
    throw new RangeError(`${what} of ${length} bytes where ${left} are left`);
  }
  return length;
}

function padded(length: number): number {
  return (length + 3) & ~3;
}
