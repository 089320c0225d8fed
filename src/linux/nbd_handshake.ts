/**
 * The client's side of the handshake: what has to be said and heard before a connection can be handed to the kernel
 * (proto.md, "Newstyle negotiation" and "Option types", NBD_OPT_GO). Nothing is asked for that the kernel does not
 * know: no structured replies, no TLS.
 */
import { UsageError } from "../errors.ts";
import { OPTION_BYTES_MAX } from "../limits.ts";
import {
  IHAVEOPT_HIGH,
  IHAVEOPT_LOW,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  NBD_OPT_GO,
  NBD_REP_ACK,
  NBD_REP_INFO,
  NBD_REP_MAGIC_HIGH,
  NBD_REP_MAGIC_LOW,
} from "../nbd/constants.ts";

const GREETING_BYTES = 18;
const REPLY_HEADER_BYTES = 20;
const NBD_REP_FLAG_ERROR = 0x80000000;

/** A connection, as far as the handshake needs it. */
export interface Wire {
  send(bytes: Uint8Array<ArrayBuffer>): void;
  /** So many bytes, or fewer at the end of the stream. */
  receiveAll(bytes: number): Uint8Array;
}

/** What the server says of its default export. */
export interface OfferedExport {
  sizeBytes: number;
  transmissionFlags: number;
  description: string;
}

/**
 * Negotiates the default export; transmission has begun when this returns. Throws a UsageError if the server refuses,
 * goes, or speaks something else.
 */
export function negotiateExport(wire: Wire): OfferedExport {
  const greeting = take(wire, GREETING_BYTES);
  const isNewstyle = greeting.getUint32(0) === NBD_MAGIC_HIGH &&
    greeting.getUint32(4) === NBD_MAGIC_LOW && greeting.getUint32(8) === IHAVEOPT_HIGH &&
    greeting.getUint32(12) === IHAVEOPT_LOW;
  if (!isNewstyle || (greeting.getUint16(16) & NBD_FLAG_FIXED_NEWSTYLE) === 0) {
    throw new UsageError("what listens there is no NBD server of the fixed newstyle kind");
  }
  wire.send(encodeGo());
  const offered: Partial<OfferedExport> = {};
  for (;;) {
    const { type, data } = takeReply(wire);
    if (type === NBD_REP_ACK) break;
    if (type >= NBD_REP_FLAG_ERROR) {
      const reason = textOf(data) || `NBD error 0x${type.toString(16)}`;
      throw new UsageError(`the server refuses: ${reason}`);
    }
    if (type === NBD_REP_INFO) learn(offered, data);
  }
  const { sizeBytes, transmissionFlags, description = "" } = offered;
  if (sizeBytes === undefined || transmissionFlags === undefined) {
    throw new UsageError("the server does not say how large the disk is");
  }
  return { sizeBytes, transmissionFlags, description };
}

/** The client's flags, and NBD_OPT_GO for the export "" with NBD_INFO_DESCRIPTION asked for. */
function encodeGo(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(28);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
  view.setUint32(4, IHAVEOPT_HIGH);
  view.setUint32(8, IHAVEOPT_LOW);
  view.setUint32(12, NBD_OPT_GO);
  view.setUint32(16, 8); // bytes that follow
  view.setUint32(20, 0); // of the name
  view.setUint16(24, 1); // things asked for
  view.setUint16(26, NBD_INFO_DESCRIPTION);
  return bytes;
}

function takeReply(wire: Wire): { type: number; data: DataView } {
  const header = take(wire, REPLY_HEADER_BYTES);
  const length = header.getUint32(16);
  const isReply = header.getUint32(0) === NBD_REP_MAGIC_HIGH &&
    header.getUint32(4) === NBD_REP_MAGIC_LOW && header.getUint32(8) === NBD_OPT_GO;
  if (!isReply || length > OPTION_BYTES_MAX) {
    throw new UsageError("the server answers with something else than a reply to NBD_OPT_GO");
  }
  return { type: header.getUint32(12), data: take(wire, length) };
}

function learn(offered: Partial<OfferedExport>, data: DataView): void {
  const info = data.byteLength < 2 ? undefined : data.getUint16(0);
  if (info === NBD_INFO_DESCRIPTION) offered.description = textOf(data, 2);
  if (info !== NBD_INFO_EXPORT || data.byteLength !== 12) return;
  offered.sizeBytes = Number(data.getBigUint64(2));
  offered.transmissionFlags = data.getUint16(10);
}

function textOf(data: DataView, from = 0): string {
  return new TextDecoder().decode(
    new Uint8Array(data.buffer, data.byteOffset + from, data.byteLength - from),
  );
}

function take(wire: Wire, bytes: number): DataView {
  const found = bytes === 0 ? new Uint8Array(0) : wire.receiveAll(bytes);
  if (found.length < bytes) throw new UsageError("the server closed the connection");
  return new DataView(found.buffer, found.byteOffset, bytes);
}
