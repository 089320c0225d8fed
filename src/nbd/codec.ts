/**
 * Bytes to messages and back, after doc/proto.md. Knows no socket and keeps no state: whoever calls
 * holds the bytes.
 *
 * A parser takes bytes that may end anywhere and says "not all here yet" until they suffice, so it
 * does not matter how a stream was cut. What can't be the protocol at all is a `ProtocolError`, after
 * which nothing that follows can be understood and the connection has to go.
 *
 * All integers are big-endian. The request and its simple reply are on the hot path: they go through
 * a record that is used again for every request, and the 64-bit cookie, which only comes back as it
 * was, stays two 32-bit halves.
 */

import { TEXT_BYTES_MAX } from "../limits.ts";
import {
  EXPORT_NAME_ZEROES_BYTES,
  IHAVEOPT_HIGH,
  IHAVEOPT_LOW,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_EXPORT,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  NBD_REP_MAGIC_HIGH,
  NBD_REP_MAGIC_LOW,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  REQUEST_HEADER_BYTES,
  STRING_BYTES_MAX,
} from "./constants.ts";

/** The peer does not speak the protocol, or broke a rule after which the connection must end. */
export class ProtocolError extends Error {
  override name = "ProtocolError";
}

export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEADER_BYTES = 16;

const encoder = new TextEncoder();
// a byte order mark is a character of the name like any other
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

// ---- Handshake: what the server says

/** "Newstyle negotiation": the first 18 bytes of every connection. */
export function encodeGreeting(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(18);
  const view = viewOf(bytes);
  view.setUint32(0, NBD_MAGIC_HIGH);
  view.setUint32(4, NBD_MAGIC_LOW);
  view.setUint32(8, IHAVEOPT_HIGH);
  view.setUint32(12, IHAVEOPT_LOW);
  view.setUint16(16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
  return bytes;
}

/** "Fixed newstyle negotiation": one reply to `option`, of `type` NBD_REP_..., with `data` behind it. */
export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(20 + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, NBD_REP_MAGIC_HIGH);
  view.setUint32(4, NBD_REP_MAGIC_LOW);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, data.length);
  bytes.set(data, 20);
  return bytes;
}

/** A text as it travels in names and reasons: UTF-8, cut between two characters at TEXT_BYTES_MAX. */
export function encodeText(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(TEXT_BYTES_MAX);
  return bytes.slice(0, encoder.encodeInto(text, bytes).written);
}

/** The data of NBD_REP_SERVER: a name, and a description for people. */
export function encodeServer(name: string, description: string): Uint8Array<ArrayBuffer> {
  const nameBytes = encodeText(name);
  const descriptionBytes = encodeText(description);
  const bytes = new Uint8Array(4 + nameBytes.length + descriptionBytes.length);
  viewOf(bytes).setUint32(0, nameBytes.length);
  bytes.set(nameBytes, 4);
  bytes.set(descriptionBytes, 4 + nameBytes.length);
  return bytes;
}

/** The data of NBD_REP_INFO with NBD_INFO_EXPORT. */
export function encodeInfoExport(
  sizeBytes: number,
  transmissionFlags: number,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12);
  const view = viewOf(bytes);
  view.setUint16(0, NBD_INFO_EXPORT);
  view.setBigUint64(2, BigInt(sizeBytes));
  view.setUint16(10, transmissionFlags);
  return bytes;
}

/** The data of NBD_REP_INFO with NBD_INFO_NAME or NBD_INFO_DESCRIPTION. */
export function encodeInfoText(type: number, text: string): Uint8Array<ArrayBuffer> {
  const textBytes = encodeText(text);
  const bytes = new Uint8Array(2 + textBytes.length);
  viewOf(bytes).setUint16(0, type);
  bytes.set(textBytes, 2);
  return bytes;
}

/** The data of NBD_REP_INFO with NBD_INFO_BLOCK_SIZE; three sizes in bytes. */
export function encodeInfoBlockSize(
  minimum: number,
  preferred: number,
  maximum: number,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(14);
  const view = viewOf(bytes);
  view.setUint16(0, NBD_INFO_BLOCK_SIZE);
  view.setUint32(2, minimum);
  view.setUint32(6, preferred);
  view.setUint32(10, maximum);
  return bytes;
}

/** The data of NBD_REP_META_CONTEXT. */
export function encodeMetaContext(id: number, name: string): Uint8Array<ArrayBuffer> {
  const nameBytes = encodeText(name);
  const bytes = new Uint8Array(4 + nameBytes.length);
  viewOf(bytes).setUint32(0, id);
  bytes.set(nameBytes, 4);
  return bytes;
}

/** The answer to NBD_OPT_EXPORT_NAME, which has no header. */
export function encodeExport(
  sizeBytes: number,
  transmissionFlags: number,
  noZeroes: boolean,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(10 + (noZeroes ? 0 : EXPORT_NAME_ZEROES_BYTES));
  const view = viewOf(bytes);
  view.setBigUint64(0, BigInt(sizeBytes));
  view.setUint16(8, transmissionFlags);
  return bytes;
}

// ---- Handshake: what the client says

export interface OptionHeader {
  option: number;
  /** Bytes of data that follow. */
  length: number;
}

/** The header of the option at the start of `bytes`; undefined while it is not all there. */
export function parseOptionHeader(bytes: Uint8Array): OptionHeader | undefined {
  if (bytes.length < OPTION_HEADER_BYTES) return undefined;
  const view = viewOf(bytes);
  if (view.getUint32(0) !== IHAVEOPT_HIGH || view.getUint32(4) !== IHAVEOPT_LOW) {
    throw new ProtocolError("an option must begin with IHAVEOPT");
  }
  return { option: view.getUint32(8), length: view.getUint32(12) };
}

/** What NBD_OPT_INFO and NBD_OPT_GO ask for. */
export interface ExportRequest {
  name: string;
  /** NBD_INFO_... numbers; those that are not known are to be ignored. */
  infos: number[];
}

/** The data of NBD_OPT_INFO or NBD_OPT_GO; undefined when the lengths in it don't add up. */
export function parseExportRequest(data: Uint8Array): ExportRequest | undefined {
  if (data.length < 6) return undefined;
  const view = viewOf(data);
  const nameLength = view.getUint32(0);
  if (nameLength > STRING_BYTES_MAX || data.length < 6 + nameLength) return undefined;
  const count = view.getUint16(4 + nameLength);
  if (data.length !== 6 + nameLength + 2 * count) return undefined;
  const infos = Array.from({ length: count }, (_, i) => view.getUint16(6 + nameLength + 2 * i));
  return { name: parseText(data.subarray(4, 4 + nameLength)), infos };
}

/** What NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT ask for. */
export interface MetaContextRequest {
  exportName: string;
  queries: string[];
}

/** The data of the options on metadata contexts; undefined when the lengths in it don't add up. */
export function parseMetaContextRequest(data: Uint8Array): MetaContextRequest | undefined {
  const view = viewOf(data);
  let at = 0;
  const text = () => {
    if (data.length < at + 4) return undefined;
    const length = view.getUint32(at);
    if (length > STRING_BYTES_MAX || data.length < at + 4 + length) return undefined;
    at += 4 + length;
    return parseText(data.subarray(at - length, at));
  };
  const exportName = text();
  if (exportName === undefined || data.length < at + 4) return undefined;
  const count = view.getUint32(at);
  at += 4;
  const queries: string[] = [];
  while (queries.length < count) {
    const query = text();
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return at === data.length ? { exportName, queries } : undefined;
}

/** The data of NBD_OPT_EXPORT_NAME. */
export function parseText(data: Uint8Array): string {
  return decoder.decode(data);
}

// ---- Transmission

/** What a client calls a request: 64 bits, which come back as they were. */
export interface Cookie {
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

/** One request; a connection has one of these and fills it again and again. */
export class Request implements Cookie {
  flags = 0;
  type = 0;
  cookieHigh = 0;
  cookieLow = 0;
  /** Exact below 2^53; beyond it only known to be beyond every export. */
  offset = 0;
  length = 0;
}

/**
 * Parses the request header that begins at `at` of the bytes behind `view` and ends before `end`, into
 * `request`. False: not all of it is there yet.
 */
export function parseRequest(view: DataView, at: number, end: number, request: Request): boolean {
  const available = end - at;
  if (available >= 4 && view.getUint32(at) !== NBD_REQUEST_MAGIC) {
    throw new ProtocolError("a request must begin with NBD_REQUEST_MAGIC");
  }
  if (available < REQUEST_HEADER_BYTES) return false;
  request.flags = view.getUint16(at + 4);
  request.type = view.getUint16(at + 6);
  request.cookieHigh = view.getInt32(at + 8);
  request.cookieLow = view.getInt32(at + 12);
  request.offset = view.getUint32(at + 16) * 0x1_0000_0000 + view.getUint32(at + 20);
  request.length = view.getUint32(at + 24);
  return true;
}

/** Writes the 16 bytes of a simple reply at `at`: `errno` is NBD_OK or an NBD_E... number. */
export function encodeSimpleReply(
  view: DataView,
  at: number,
  errno: number,
  { cookieHigh, cookieLow }: Cookie,
): void {
  view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, errno);
  view.setInt32(at + 8, cookieHigh);
  view.setInt32(at + 12, cookieLow);
}
