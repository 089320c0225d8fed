/**
 * What each command may ask for, and what it asks of the device (proto.md, "Request types").
 *
 * NBD_CMD_DISC is not here: it ends the connection, whatever its fields say. Neither is the way of a
 * read's bytes, which is the business of transmission.ts.
 */

import { REQUEST_BYTES_MAX } from "../limits.ts";
import type { BlockDevice, Done } from "../volume/block_device.ts";
import type { Request } from "./codec.ts";
import {
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_OK,
} from "./constants.ts";
import { ERRNO } from "./errno.ts";

/** What every export offers. CAN_MULTI_CONN holds because all connections share one device. */
export const TRANSMISSION_FLAGS = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
  NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_CAN_MULTI_CONN |
  NBD_FLAG_SEND_FAST_ZERO;

/** The flags each command may carry. FUA may come with every one ("Command flags"). */
const COMMAND_FLAGS = new Map([
  [NBD_CMD_READ, NBD_CMD_FLAG_FUA],
  [NBD_CMD_WRITE, NBD_CMD_FLAG_FUA],
  [NBD_CMD_FLUSH, NBD_CMD_FLAG_FUA],
  [NBD_CMD_TRIM, NBD_CMD_FLAG_FUA],
  [NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO],
]);
const COMMAND_NAMES = ["read", "write", "disc", "flush", "trim", "cache", "write zeroes"];

/** NBD_OK, or why the request can't be carried out as it stands. */
export function refusalOf(request: Request, device: BlockDevice): number {
  const { type, flags, offset, length } = request;
  const allowedFlags = COMMAND_FLAGS.get(type);
  if (allowedFlags === undefined) return ERRNO.unknownCommand;
  if ((flags & ~allowedFlags) !== 0) return ERRNO.unknownFlag;
  const pastEnd = offset + length > device.sizeBytes;
  switch (type) {
    case NBD_CMD_READ:
      if (length > REQUEST_BYTES_MAX) return ERRNO.payloadTooLarge;
      return pastEnd ? ERRNO.readPastEnd : NBD_OK;
    case NBD_CMD_WRITE:
      if (length > REQUEST_BYTES_MAX) return ERRNO.payloadTooLarge;
      return pastEnd ? ERRNO.writePastEnd : NBD_OK;
    case NBD_CMD_FLUSH:
      return offset !== 0 || length !== 0 ? ERRNO.flushWithRange : NBD_OK;
    case NBD_CMD_TRIM:
      return pastEnd ? ERRNO.trimPastEnd : NBD_OK;
    default:
      if (pastEnd) return ERRNO.zeroPastEnd;
      return (flags & NBD_CMD_FLAG_FAST_ZERO) !== 0 && !inWholeBlocks(offset, length, device)
        ? ERRNO.zeroNotFast
        : NBD_OK;
  }
}

/** Only then zeroing is sure to be quick; part of a block may have to be fetched first. */
function inWholeBlocks(offset: number, length: number, device: BlockDevice): boolean {
  return offset % device.blockBytes === 0 && length % device.blockBytes === 0;
}

/** Carries out a valid request, anything but a read of more than nothing, up to what FUA asks for. */
export function perform(device: BlockDevice, request: Request, payload: Uint8Array): Done {
  const { type, flags, offset, length } = request;
  if (type === NBD_CMD_FLUSH) return device.flush();
  if (length === 0) return undefined;
  let done: Done;
  if (type === NBD_CMD_WRITE) done = device.write(offset, payload);
  else if (type === NBD_CMD_TRIM) done = device.trim(offset, length);
  else done = device.zero(offset, length);
  if ((flags & NBD_CMD_FLAG_FUA) === 0) return done;
  return done === undefined ? device.flush() : done.then(() => device.flush());
}

/** The request as a log line shows it. */
export function describe({ type, flags, offset, length }: Request): string {
  const name = COMMAND_NAMES[type] ?? `command ${type}`;
  return `${name} of ${length} bytes at ${offset}${
    flags === 0 ? "" : `, flags 0x${flags.toString(16)}`
  }`;
}
