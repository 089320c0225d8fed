/**
 * The disk as src/nbd sees it: bytes at offsets, and nothing about buckets.
 *
 * Callers check ranges: every offset and length lies inside `sizeBytes`, a length is never 0. Any
 * alignment is allowed. Failures are the classes of src/errors.ts.
 */

/** `undefined`: done, in the same turn. A promise: done, or failed, when it settles. */
export type Done = Promise<void> | undefined;

export interface BlockDevice {
  /** The export's size in bytes; it does not change while the device is open. */
  readonly sizeBytes: number;
  /** The smallest request that needs no read-modify-write, and the one that suits best, in bytes. */
  readonly blockBytes: number;
  readonly preferredBytes: number;
  /**
   * Fills `target` from `offset` if that needs no waiting; else returns false, having left
   * anything in `target`, and the caller uses `read`.
   */
  tryRead(offset: number, target: Uint8Array): boolean;
  /** Fills `target` from `offset`. */
  read(offset: number, target: Uint8Array): Promise<void>;
  /**
   * Writes `data` at `offset` into memory; it is stored by a later `flush`. `data` is borrowed for
   * the call only: an implementation that has to wait copies it before it returns.
   * Overlapping writes take effect in the order of the calls.
   */
  write(offset: number, data: Uint8Array): Done;
  /** Gives up the whole blocks inside the range: they read as zeroes. */
  trim(offset: number, length: number): Done;
  /** Makes the range read as zeroes, to the byte. */
  zero(offset: number, length: number): Done;
  /** Done when everything acknowledged before the call is stored in the bucket. */
  flush(): Done;
}
