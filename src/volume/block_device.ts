/**
 * The disk as src/nbd sees it: bytes at offsets, and nothing about buckets.
 *
 * Callers check ranges: every offset and length lies inside `sizeBytes`, a length is never 0. Any
 * alignment is allowed. Failures are the classes of src/errors.ts.
 */

/** `undefined`: done, in the same turn. A promise: done, or failed, when it settles. */
export type Done = Promise<void> | undefined;

/** A run of bytes that are all stored, or all not: those read as zeroes. */
export interface Extent {
  lengthBytes: number;
  isHole: boolean;
}

/** Memory of the device for the data of one write while it arrives: nobody reads, and nothing stores, what is in it. */
export interface Place {
  /** In bytes, over all parts. */
  readonly length: number;
  /** To be filled, one after the other. */
  readonly parts: readonly Uint8Array[];
  /** What `BlockDevice.write` does, with the data that lies here. If it returns, the place is used up. */
  write(): Done;
  /** Gives the place back, unless it is used up. */
  giveUp(): void;
}

export interface BlockDevice {
  /** The export's size in bytes; it does not change while the device is open. */
  readonly sizeBytes: number;
  /** The size, in bytes, of the requests that suit best. */
  readonly preferredBytes: number;
  /**
   * Fills `target` from `offset` if that needs no waiting; else returns false, having left
   * anything in `target`, and the caller uses `read`.
   */
  tryRead(offset: number, target: Uint8Array): boolean;
  /**
   * The range's bytes where they lie, one part after the other, for a caller who uses them in the same turn and
   * changes none; undefined where they don't all lie in memory: zeroes need not.
   */
  lend(offset: number, length: number): Uint8Array[] | undefined;
  /** Fills `target` from `offset`. */
  read(offset: number, target: Uint8Array): Promise<void>;
  /**
   * Writes `data` at `offset` into memory; it is stored by a later `flush`. `data` is borrowed for
   * the call only: an implementation that has to wait copies it before it returns.
   * Overlapping writes take effect in the order of the calls.
   */
  write(offset: number, data: Uint8Array): Done;
  /**
   * A place for the data of a write that has begun to arrive, so that it need not be copied; to be written or given up.
   * Undefined where that is not offered, or not now: then `write` it is.
   */
  place?(offset: number, length: number): Place | undefined;
  /**
   * Makes the changes that `act` makes, before anybody else makes any, so that a crash leaves all of them or none. `act`
   * asks for no flush. If it fails, so does the device.
   */
  together?(act: () => Promise<void>): Promise<void>;
  /** Gives up the whole blocks inside the range: they read as zeroes. */
  trim(offset: number, length: number): Done;
  /** Makes the range read as zeroes, to the byte. */
  zero(offset: number, length: number): Done;
  /**
   * Whether `zero` would now make the range read as zeroes without waiting and without storing any byte
   * of it; false also where that is not known.
   */
  zeroesFast(offset: number, length: number): boolean;
  /**
   * Brings the range nearer, so that reads of it need not wait, as far as there is room for it. Rejects
   * when what was asked for can't be had.
   */
  prefetch(offset: number, length: number): Done;
  /**
   * What the range consists of, from `offset` on, without asking the bucket: at least one extent and at
   * most `countMax`, none longer than what is left of the range, no two neighbours alike. They end
   * before the range does when there are more of them, or when looking further would take too long.
   */
  extents(offset: number, length: number, countMax: number): Extent[];
  /** Done when everything acknowledged before the call is stored in the bucket. */
  flush(): Done;
}
