/**
 * What each command may ask for, and what it asks of the device (proto.md, "Request types").
 *
 * NBD_CMD_DISC is not here: it ends the connection, whatever its fields say. Neither is the way of a
 * read's bytes, which is the business of reads.ts.
 */

import { EXTENTS_MAX, REQUEST_BYTES_MAX } from "../limits.ts";
import type { BlockDevice, Done, Extent, Place } from "../volume/block_device.ts";
import type { Request } from "./codec.ts";
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from "./constants.ts";
import { type NbdError, REFUSAL } from "./errno.ts";

/** What the handshake settled for the requests of a connection. */
export interface Session {
  /** Writes, trims and zeroes are refused. */
  readOnly: boolean;
  /** Reads and errors are answered with structured replies. */
  structuredReplies: boolean;
  /** base:allocation was selected for the export that is served. */
  blockStatus: boolean;
}

/** What is offered to everybody. CAN_MULTI_CONN holds because all connections share one device. */
const FLAGS = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
  NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE;
const FLAGS_IF_WRITABLE = NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
  NBD_FLAG_SEND_FAST_ZERO;

/** "Transmission flags". */
export function transmissionFlags(session: Omit<Session, "blockStatus">): number {
  return FLAGS | (session.readOnly ? NBD_FLAG_READ_ONLY : FLAGS_IF_WRITABLE) |
    (session.structuredReplies ? NBD_FLAG_SEND_DF : 0);
}

/** The flags each command may carry. FUA may come with every one ("Command flags"). */
const COMMAND_FLAGS = new Map([
  [NBD_CMD_READ, NBD_CMD_FLAG_FUA],
  [NBD_CMD_WRITE, NBD_CMD_FLAG_FUA],
  [NBD_CMD_FLUSH, NBD_CMD_FLAG_FUA],
  [NBD_CMD_TRIM, NBD_CMD_FLAG_FUA],
  [NBD_CMD_CACHE, NBD_CMD_FLAG_FUA],
  [NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO],
  [NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE],
]);
/** By number. */
const COMMAND_NAMES = "read, write, disc, flush, trim, cache, write zeroes, block status".split(
  ", ",
);

/** Why the request can't be carried out as it stands, if it can't. */
export function refusalOf(
  request: Request,
  device: BlockDevice,
  session: Session,
): NbdError | undefined {
  const { type, flags, offset, length } = request;
  const allowedFlags = COMMAND_FLAGS.get(type);
  if (allowedFlags === undefined) return REFUSAL.unknownCommand;
  if ((flags & ~allowedFlags) !== 0) {
    const isFragmentable = type === NBD_CMD_READ && session.structuredReplies;
    if (!isFragmentable || (flags & ~(allowedFlags | NBD_CMD_FLAG_DF)) !== 0) {
      return REFUSAL.unknownFlag;
    }
  }
  const isPastEnd = offset + length > device.sizeBytes;
  switch (type) {
    case NBD_CMD_READ:
      if (length > REQUEST_BYTES_MAX) return REFUSAL.payloadTooLarge;
      return isPastEnd ? REFUSAL.rangePastEnd : undefined;
    case NBD_CMD_WRITE:
      if (session.readOnly) return REFUSAL.readOnly;
      if (length > REQUEST_BYTES_MAX) return REFUSAL.payloadTooLarge;
      return isPastEnd ? REFUSAL.writePastEnd : undefined;
    case NBD_CMD_FLUSH:
      return offset !== 0 || length !== 0 ? REFUSAL.flushWithRange : undefined;
    case NBD_CMD_TRIM:
      if (session.readOnly) return REFUSAL.readOnly;
      return isPastEnd ? REFUSAL.rangePastEnd : undefined;
    case NBD_CMD_CACHE:
      return isPastEnd ? REFUSAL.rangePastEnd : undefined;
    case NBD_CMD_WRITE_ZEROES: {
      if (session.readOnly) return REFUSAL.readOnly;
      if (isPastEnd) return REFUSAL.writePastEnd;
      const mustBeFast = (flags & NBD_CMD_FLAG_FAST_ZERO) !== 0 && length > 0;
      return mustBeFast && !device.zeroesFast(offset, length) ? REFUSAL.zeroNotFast : undefined;
    }
    default:
      if (!session.blockStatus) return REFUSAL.noContext;
      if (isPastEnd) return REFUSAL.rangePastEnd;
      return length === 0 ? REFUSAL.emptyStatus : undefined;
  }
}

/** Whether a request of this type changes what is on the disk. */
export function isChange(type: number): boolean {
  return type === NBD_CMD_WRITE || type === NBD_CMD_TRIM || type === NBD_CMD_WRITE_ZEROES;
}

/** The data of a write: borrowed, or where the device writes it from. */
export type Payload = Uint8Array | Place;

/**
 * Carries out a valid request, up to what FUA asks for; anything but block status, and but a read of more
 * than nothing.
 */
export function perform(device: BlockDevice, request: Request, payload: Payload): Done {
  const { type, flags, offset, length } = request;
  if (type === NBD_CMD_FLUSH) return device.flush();
  if (length === 0) return undefined;
  if (type === NBD_CMD_CACHE) return device.prefetch(offset, length);
  let done: Done;
  if (!(payload instanceof Uint8Array)) done = payload.write();
  else if (type === NBD_CMD_WRITE) done = device.write(offset, payload);
  else if (type === NBD_CMD_TRIM) done = device.trim(offset, length);
  else done = device.zero(offset, length);
  if ((flags & NBD_CMD_FLAG_FUA) === 0) return done;
  return done === undefined ? device.flush() : done.then(() => device.flush());
}

/** Carries out a valid NBD_CMD_BLOCK_STATUS. */
export function blockStatus(device: BlockDevice, { flags, offset, length }: Request): Extent[] {
  const countMax = (flags & NBD_CMD_FLAG_REQ_ONE) !== 0 ? 1 : EXTENTS_MAX;
  return device.extents(offset, length, countMax);
}

/** The request as a log line shows it. */
export function describe(
  { type, flags, offset, length }: Pick<Request, "type" | "flags" | "offset" | "length">,
): string {
  const name = COMMAND_NAMES[type] ?? `command ${type}`;
  return `${name} of ${length} bytes at ${offset}${
    flags === 0 ? "" : `, flags 0x${flags.toString(16)}`
  }`;
}
