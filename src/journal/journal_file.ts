/**
 * One file of a journal: changes of a disk, in the order in which they arrived.
 *
 * A record is a header and, for a write, its bytes; little-endian:
 *   0: kind (u32)   4: bytes of payload (u32)   8: offset (u64)   16: length (u64)   24: payload
 *
 * Assumes: the file lies in memory (tmpfs), so that what was written is there when this process is not. The machine's
 * crash takes it along, so nothing is synced and nothing checked but that the last record is whole: a process
 * that is killed while it writes one has not acknowledged it.
 */

export const CHANGE_WRITE = 1;
export const CHANGE_TRIM = 2;
export const CHANGE_ZERO = 3;

export type ChangeKind = typeof CHANGE_WRITE | typeof CHANGE_TRIM | typeof CHANGE_ZERO;

export interface Change {
  kind: ChangeKind;
  offset: number;
  length: number;
  /** Of a write; empty for the others. */
  data: Uint8Array;
}

const HEADER_BYTES = 24;
/** A record up to this size is put together and written in one call. */
const JOIN_BYTES_MAX = 64 * 1024;

const joined = new Uint8Array(HEADER_BYTES + JOIN_BYTES_MAX);
const header = new DataView(joined.buffer, 0, HEADER_BYTES);

export class JournalFile {
  readonly #file: Deno.FsFile;
  /** Written so far. */
  bytes = 0;

  constructor(path: string) {
    this.#file = Deno.openSync(path, { append: true, createNew: true, mode: 0o600 });
  }

  /** Throws what the file system throws: then the record is not there, or not whole. */
  append({ kind, offset, length, data }: Change): void {
    header.setUint32(0, kind, true);
    header.setUint32(4, data.length, true);
    header.setBigUint64(8, BigInt(offset), true);
    header.setBigUint64(16, BigInt(length), true);
    if (data.length <= JOIN_BYTES_MAX) {
      joined.set(data, HEADER_BYTES);
      this.#write(joined.subarray(0, HEADER_BYTES + data.length));
    } else {
      this.#write(joined.subarray(0, HEADER_BYTES));
      this.#write(data);
    }
  }

  #write(bytes: Uint8Array): void {
    for (let rest = bytes; rest.length > 0;) rest = rest.subarray(this.#file.writeSync(rest));
    this.bytes += bytes.length;
  }

  close(): void {
    this.#file.close();
  }
}

/** The records of a file, up to the last whole one; each is lent until the next is asked for. */
export function* changesIn(bytes: Uint8Array): Generator<Change> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + HEADER_BYTES <= bytes.length;) {
    const payloadAt = at + HEADER_BYTES;
    const end = payloadAt + view.getUint32(at + 4, true);
    if (end > bytes.length) return;
    yield {
      kind: view.getUint32(at, true) as ChangeKind,
      offset: Number(view.getBigUint64(at + 8, true)),
      length: Number(view.getBigUint64(at + 16, true)),
      data: bytes.subarray(payloadAt, end),
    };
    at = end;
  }
}
