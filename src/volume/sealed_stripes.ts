/**
 * The bytes of stripes that batches have sealed and not copied into segments yet: they lie in the stripe's slot of the cache
 * until that is overwritten, which saves them first.
 */
import { BLOCK_BYTES } from "../limits.ts";

/** One stripe's part in a batch: which of its blocks, and where their bytes are until they are copied. */
export interface SealedStripe {
  readonly stripe: number;
  readonly slot: number;
  /** Runs of blocks inside the stripe: first, count, first, count, … */
  readonly runs: number[];
  /** The stripe's bytes as they were sealed, once the slot has been overwritten; else null. */
  saved: Uint8Array | null;
}

export class SealedStripes {
  /** By slot, those whose bytes lie there alone. */
  readonly #inSlot = new Map<number, SealedStripe[]>();
  /** A slot's bytes, shared. */
  readonly #bytesOf: (slot: number) => Uint8Array;

  constructor(bytesOf: (slot: number) => Uint8Array) {
    this.#bytesOf = bytesOf;
  }

  add(entry: SealedStripe): void {
    const entries = this.#inSlot.get(entry.slot);
    if (entries) entries.push(entry);
    else this.#inSlot.set(entry.slot, [entry]);
  }

  /** To be called before any byte of the slot changes: saves what a batch has yet to copy. */
  beforeOverwrite(slot: number): void {
    if (this.#inSlot.size === 0) return;
    const entries = this.#inSlot.get(slot);
    if (!entries) return;
    this.#inSlot.delete(slot);
    const saved = this.#bytesOf(slot).slice();
    for (const entry of entries) entry.saved = saved;
  }

  /** The bytes of a run, until `copied`. */
  bytes(entry: SealedStripe, firstBlock: number, blockCount: number): Uint8Array {
    const bytes = entry.saved ?? this.#bytesOf(entry.slot);
    return bytes.subarray(firstBlock * BLOCK_BYTES, (firstBlock + blockCount) * BLOCK_BYTES);
  }

  /** The entry's bytes are in a segment: its slot may be overwritten without saving them. */
  copied(entry: SealedStripe): void {
    entry.saved = null;
    const rest = this.#inSlot.get(entry.slot)?.filter((other) => other !== entry);
    if (rest === undefined) return;
    if (rest.length > 0) this.#inSlot.set(entry.slot, rest);
    else this.#inSlot.delete(entry.slot);
  }
}
