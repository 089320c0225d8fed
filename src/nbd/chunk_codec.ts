/**
 * The chunks of structured replies, and the one reply whose form the client chose: an error's. After doc/proto.md,
 * "Structured reply chunk message" and "Structured reply types".
 */

import { type Cookie, encodeSimpleReply, encodeText, viewOf } from "./codec.ts";
import {
  CHUNK_HEADER_BYTES,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_ERROR_OFFSET,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
  NBD_STRUCTURED_REPLY_MAGIC,
  SIMPLE_REPLY_BYTES,
} from "./constants.ts";
import type { NbdError } from "./errno.ts";

/** Bytes before the data of a chunk: the chunk's header and the offset of what follows. */
export const DATA_CHUNK_HEAD_BYTES = CHUNK_HEADER_BYTES + 8;

/** Writes the header of a structured reply chunk at `at`; `bytes` is the length of the payload behind it. */
function encodeChunkHeader(
  view: DataView,
  at: number,
  type: number,
  isLast: boolean,
  { cookieHigh, cookieLow }: Cookie,
  bytes: number,
): void {
  view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, isLast ? NBD_REPLY_FLAG_DONE : 0);
  view.setUint16(at + 6, type);
  view.setInt32(at + 8, cookieHigh);
  view.setInt32(at + 12, cookieLow);
  view.setUint32(at + 16, bytes);
}

/** An offset on the disk, below 2^53. */
function setOffset(view: DataView, at: number, offset: number): void {
  view.setUint32(at, Math.floor(offset / 0x1_0000_0000));
  view.setUint32(at + 4, offset % 0x1_0000_0000);
}

/** Writes what stands before `length` bytes of data at `at`: NBD_REPLY_TYPE_OFFSET_DATA. */
export function encodeDataChunkHead(
  view: DataView,
  at: number,
  isLast: boolean,
  cookie: Cookie,
  offset: number,
  length: number,
): void {
  encodeChunkHeader(view, at, NBD_REPLY_TYPE_OFFSET_DATA, isLast, cookie, 8 + length);
  setOffset(view, at + CHUNK_HEADER_BYTES, offset);
}

/** A whole chunk: NBD_REPLY_TYPE_OFFSET_HOLE. */
export function encodeHoleChunk(
  cookie: Cookie,
  isLast: boolean,
  offset: number,
  length: number,
): Uint8Array {
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES + 12);
  const view = viewOf(bytes);
  encodeChunkHeader(view, 0, NBD_REPLY_TYPE_OFFSET_HOLE, isLast, cookie, 12);
  setOffset(view, CHUNK_HEADER_BYTES, offset);
  view.setUint32(CHUNK_HEADER_BYTES + 8, length);
  return bytes;
}

/** A whole chunk, the last: NBD_REPLY_TYPE_NONE. */
export function encodeNoneChunk(cookie: Cookie): Uint8Array {
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES);
  encodeChunkHeader(viewOf(bytes), 0, NBD_REPLY_TYPE_NONE, true, cookie, 0);
  return bytes;
}

/** A whole chunk, the only one: NBD_REPLY_TYPE_BLOCK_STATUS of base:allocation. */
export function encodeBlockStatusChunk(
  cookie: Cookie,
  contextId: number,
  extents: { lengthBytes: number; isHole: boolean }[],
): Uint8Array {
  const payload = 4 + 8 * extents.length;
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES + payload);
  const view = viewOf(bytes);
  encodeChunkHeader(view, 0, NBD_REPLY_TYPE_BLOCK_STATUS, true, cookie, payload);
  view.setUint32(CHUNK_HEADER_BYTES, contextId);
  extents.forEach(({ lengthBytes, isHole }, index) => {
    const at = CHUNK_HEADER_BYTES + 4 + 8 * index;
    view.setUint32(at, lengthBytes);
    view.setUint32(at + 4, isHole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0);
  });
  return bytes;
}

/**
 * A whole chunk: NBD_REPLY_TYPE_ERROR; or, with the offset at which the error occurred,
 * NBD_REPLY_TYPE_ERROR_OFFSET.
 */
export function encodeErrorChunk(
  cookie: Cookie,
  isLast: boolean,
  { errno, text }: NbdError,
  offset?: number,
): Uint8Array<ArrayBuffer> {
  const textBytes = encodeText(text);
  const payload = 6 + textBytes.length + (offset === undefined ? 0 : 8);
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES + payload);
  const view = viewOf(bytes);
  const type = offset === undefined ? NBD_REPLY_TYPE_ERROR : NBD_REPLY_TYPE_ERROR_OFFSET;
  encodeChunkHeader(view, 0, type, isLast, cookie, payload);
  view.setUint32(CHUNK_HEADER_BYTES, errno);
  view.setUint16(CHUNK_HEADER_BYTES + 4, textBytes.length);
  bytes.set(textBytes, CHUNK_HEADER_BYTES + 6);
  if (offset !== undefined) setOffset(view, bytes.length - 8, offset);
  return bytes;
}

/** The whole reply to a request that failed, in the form that was negotiated. */
export function errorReply(
  isStructured: boolean,
  cookie: Cookie,
  error: NbdError,
): Uint8Array<ArrayBuffer> {
  if (isStructured) return encodeErrorChunk(cookie, true, error);
  const bytes = new Uint8Array(SIMPLE_REPLY_BYTES);
  encodeSimpleReply(viewOf(bytes), 0, error.errno, cookie);
  return bytes;
}
