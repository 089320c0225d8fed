/**
 * The one table from what went wrong to what a client is told: the number, and for clients of structured
 * replies the words.
 *
 * proto.md, "Error values", allows a few numbers only. ESHUTDOWN is left out on purpose: the Linux
 * kernel hands it to the file system as EIO, which aborts a journal, whereas a closed connection is
 * attached again. So a server that stops closes, and says nothing.
 */

import { NBD_EINVAL, NBD_EIO, NBD_ENOSPC, NBD_ENOTSUP, NBD_EPERM } from "./constants.ts";

export interface NbdError {
  /** An NBD_E... number. */
  readonly errno: number;
  /** For people. */
  readonly text: string;
}

/** Requests that can't be carried out as they stand. */
export const REFUSAL = {
  rangePastEnd: { errno: NBD_EINVAL, text: "the range ends behind the end of the disk" },
  writePastEnd: { errno: NBD_ENOSPC, text: "the range ends behind the end of the disk" },
  flushWithRange: { errno: NBD_EINVAL, text: "a flush takes no offset and no length" },
  payloadTooLarge: { errno: NBD_EINVAL, text: "a payload may have 32 MiB at most" },
  unknownCommand: { errno: NBD_EINVAL, text: "this server does not know the command" },
  unknownFlag: { errno: NBD_EINVAL, text: "the command does not take one of its flags" },
  readOnly: { errno: NBD_EPERM, text: "the disk is served read-only" },
  zeroNotFast: { errno: NBD_ENOTSUP, text: "zeroing would be no faster than writing" },
  noContext: { errno: NBD_EINVAL, text: "no metadata context was selected for this export" },
  emptyStatus: { errno: NBD_EINVAL, text: "a block status of no bytes" },
} as const satisfies Record<string, NbdError>;

/**
 * The device tried and could not: whatever class of src/errors.ts it threw (damage, time-out, fenced,
 * bucket away), or a fault of ours, there is one number for it.
 */
export function deviceError(text: string): NbdError {
  return { errno: NBD_EIO, text };
}
