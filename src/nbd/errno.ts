/**
 * The one table from what went wrong to the number a client is told.
 *
 * proto.md, "Error values", allows a few numbers only. ESHUTDOWN is left out on purpose: the Linux
 * kernel hands it to the file system as EIO, which aborts a journal, whereas a closed connection is
 * attached again. So a server that stops closes, and says nothing.
 */

import { NBD_EINVAL, NBD_EIO, NBD_ENOSPC, NBD_ENOTSUP } from "./constants.ts";

export const ERRNO = {
  // The request can't be carried out as it stands.
  readPastEnd: NBD_EINVAL,
  trimPastEnd: NBD_EINVAL,
  writePastEnd: NBD_ENOSPC,
  zeroPastEnd: NBD_ENOSPC,
  flushWithRange: NBD_EINVAL,
  payloadTooLarge: NBD_EINVAL,
  unknownCommand: NBD_EINVAL,
  unknownFlag: NBD_EINVAL,
  zeroNotFast: NBD_ENOTSUP,
  // The device tried and could not: whatever class of src/errors.ts it threw (damage, time-out,
  // fenced, bucket away) or a fault of ours, there is one thing to tell the client.
  deviceFailed: NBD_EIO,
} as const;
