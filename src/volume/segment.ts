/**
 * A segment: one immutable object of the log, `log/<seq>`.
 *
 *   header (72 bytes) │ index (28 bytes a record) │ records, back to back
 *
 * Everything is little-endian. Header and index lie in the first SEGMENT_HEAD_BYTES_MAX bytes, so that
 * one ranged GET tells all that opening needs. A data record is one part or several, back to back,
 * each of them bytes behind a prefix of its own, so that one ranged GET of a part can be checked without
 * the index. A zero record has no bytes.
 *
 * Every part of a record has `partBytes` of its bytes, the last one what is left. That is a property of the
 * volume (volume_info.ts), so where the part of a block lies follows from the place of the record (`partOf`):
 * with parts of 16 KiB the fifth block's is the second part, 16 + 16,384 bytes behind the first. Of a volume
 * that says nothing of parts every record is one.
 *
 * | header at | size | what                                                                 |
 * | --------- | ---- | -------------------------------------------------------------------- |
 * | 0         | 8    | magic "EDRVSEG1"                                                     |
 * | 8         | 2    | format version                                                       |
 * | 10        | 2    | flags: bit 0 last of its batch; the others 0, kept for compression and encryption |
 * | 12        | 4    | records                                                              |
 * | 16        | 8    | seq                                                                  |
 * | 24        | 8    | epoch of the writer                                                  |
 * | 32        | 16   | uuid of the writer                                                   |
 * | 48        | 8    | the seq up to which the writer knew all segments stored              |
 * | 56        | 4    | index bytes                                                          |
 * | 60        | 4    | CRC-32 of the index                                                  |
 * | 64        | 4    | bytes of the whole object                                            |
 * | 68        | 4    | CRC-32 of the 68 bytes before                                        |
 *
 * | index entry at | size | what                                    |
 * | -------------- | ---- | --------------------------------------- |
 * | 0              | 8    | first block                             |
 * | 8              | 8    | blocks                                  |
 * | 16             | 4    | offset of the record's first prefix     |
 * | 20             | 4    | stored bytes behind that prefix: data,  |
 * |                |      | and the prefixes of all other parts     |
 * | 24             | 4    | kind: 1 data, 2 zeroes                  |
 *
 * | part prefix at | size | what                                   |
 * | -------------- | ---- | -------------------------------------- |
 * | 0              | 4    | CRC-32 of all that follows in the part |
 * | 4              | 4    | data bytes of the part                 |
 * | 8              | 8    | its first block                        |
 */
import { crc32 } from "node:zlib";
import { DamageError } from "../errors.ts";
import {
  BLOCK_BYTES,
  SEGMENT_DATA_BYTES_MAX,
  SEGMENT_HEAD_BYTES_MAX,
  SEGMENT_RECORDS_MAX,
  STRIPE_BYTES_MAX,
  VOLUME_BYTES_MAX,
} from "../limits.ts";

const FORMAT_VERSION = 1;
export const SEGMENT_HEADER_BYTES = 72;
export const INDEX_ENTRY_BYTES = 28;
export const RECORD_PREFIX_BYTES = 16;
/** What a segment with so many bytes of data takes at most: each part has a prefix, and there are no more than blocks. */
export function segmentBytesFor(dataBytes: number): number {
  return SEGMENT_HEAD_BYTES_MAX + dataBytes + SEGMENT_RECORDS_MAX * RECORD_PREFIX_BYTES;
}
export const SEGMENT_BYTES_MAX = segmentBytesFor(SEGMENT_DATA_BYTES_MAX);

const MAGIC = new TextEncoder().encode("EDRVSEG1");
const FLAG_LAST_OF_BATCH = 1;

export const RECORD_DATA = 1;
export const RECORD_ZEROES = 2;

/** A run of blocks and where its bytes lie in its segment. */
export interface SegmentRecord {
  kind: typeof RECORD_DATA | typeof RECORD_ZEROES;
  firstBlock: number;
  blockCount: number;
  /** Of the record's first prefix, from the object's begin; 0 for zeroes. */
  offset: number;
  /** Bytes behind that prefix; 0 for zeroes. */
  storedBytes: number;
}

export interface SegmentHeader {
  seq: number;
  epoch: number;
  /** 32 hexadecimal digits. */
  writer: string;
  /** Every segment up to this seq was stored when this one was filled. */
  storedUpTo: number;
  lastOfBatch: boolean;
}

/** What opening reads of a segment. */
export interface SegmentHead extends SegmentHeader {
  objectBytes: number;
  records: SegmentRecord[];
}

export const LOG_PREFIX = "log/";

/** The key of the segment `seq`: ten digits, so that keys sort as numbers do. */
export function segmentKey(seq: number): string {
  return `${LOG_PREFIX}${String(seq).padStart(10, "0")}`;
}

/** The seq in a key of `segmentKey`'s form, or undefined. */
export function seqOfKey(key: string): number | undefined {
  const match = /^log\/(\d{10})$/.exec(key);
  return match ? Number(match[1]) : undefined;
}

export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Fills a buffer with a segment whose number of records is known before its first is added. */
export class SegmentBuilder {
  readonly records: SegmentRecord[] = [];
  readonly #buffer: Uint8Array;
  readonly #view: DataView;
  readonly #recordCount: number;
  readonly #partBytes: number;
  #end: number;

  /**
   * @param buffer at least SEGMENT_BYTES_MAX, or as much as the records need
   * @param partBytes data in one part; no record has more than a stripe of it
   */
  constructor(buffer: Uint8Array, recordCount: number, partBytes = STRIPE_BYTES_MAX) {
    if (recordCount > SEGMENT_RECORDS_MAX) throw new Error(`${recordCount} records in a segment`);
    this.#buffer = buffer;
    this.#view = viewOf(buffer);
    this.#recordCount = recordCount;
    this.#partBytes = partBytes;
    this.#end = SEGMENT_HEADER_BYTES + recordCount * INDEX_ENTRY_BYTES;
  }

  addZeroes(firstBlock: number, blockCount: number): void {
    this.records.push({ kind: RECORD_ZEROES, firstBlock, blockCount, offset: 0, storedBytes: 0 });
  }

  /** Copies `data`, whole blocks from `firstBlock` on. */
  addData(firstBlock: number, data: Uint8Array): void {
    const offset = this.#end;
    for (let at = 0; at < data.length; at += this.#partBytes) {
      this.#addPart(firstBlock + at / BLOCK_BYTES, data.subarray(at, at + this.#partBytes));
    }
    this.records.push({
      kind: RECORD_DATA,
      firstBlock,
      blockCount: data.length / BLOCK_BYTES,
      offset,
      storedBytes: this.#end - offset - RECORD_PREFIX_BYTES,
    });
  }

  #addPart(firstBlock: number, data: Uint8Array): void {
    const offset = this.#end;
    this.#end += RECORD_PREFIX_BYTES + data.length;
    this.#view.setUint32(offset + 4, data.length, true);
    setUint64(this.#view, offset + 8, firstBlock);
    this.#buffer.set(data, offset + RECORD_PREFIX_BYTES);
    this.#view.setUint32(offset, crc32(this.#buffer.subarray(offset + 4, this.#end)), true);
  }

  /** Writes index and header; returns the object's bytes, a part of the buffer. */
  finish(header: SegmentHeader): Uint8Array {
    if (this.records.length !== this.#recordCount) {
      throw new Error(`${this.records.length} records where ${this.#recordCount} were announced`);
    }
    const view = this.#view;
    let at = SEGMENT_HEADER_BYTES;
    for (const record of this.records) {
      setUint64(view, at, record.firstBlock);
      setUint64(view, at + 8, record.blockCount);
      view.setUint32(at + 16, record.offset, true);
      view.setUint32(at + 20, record.storedBytes, true);
      view.setUint32(at + 24, record.kind, true);
      at += INDEX_ENTRY_BYTES;
    }
    this.#buffer.set(MAGIC, 0);
    view.setUint16(8, FORMAT_VERSION, true);
    view.setUint16(10, header.lastOfBatch ? FLAG_LAST_OF_BATCH : 0, true);
    view.setUint32(12, this.#recordCount, true);
    setUint64(view, 16, header.seq);
    setUint64(view, 24, header.epoch);
    for (let i = 0; i < 16; i++) {
      view.setUint8(32 + i, parseInt(header.writer.slice(2 * i, 2 * i + 2), 16));
    }
    setUint64(view, 48, header.storedUpTo);
    view.setUint32(56, at - SEGMENT_HEADER_BYTES, true);
    view.setUint32(60, crc32(this.#buffer.subarray(SEGMENT_HEADER_BYTES, at)), true);
    view.setUint32(64, this.#end, true);
    view.setUint32(68, crc32(this.#buffer.subarray(0, 68)), true);
    return this.#buffer.subarray(0, this.#end);
  }
}

/**
 * Reads header and index from the first bytes of the object `key`; `objectBytes` is its whole size.
 *
 * @throws DamageError naming the key if anything is not as it was written.
 */
export function parseSegmentHead(key: string, bytes: Uint8Array, objectBytes: number): SegmentHead {
  const damaged = (what: string) => new DamageError(`${key}: ${what}`);
  if (bytes.length < SEGMENT_HEADER_BYTES) {
    throw damaged(`a segment has at least ${SEGMENT_HEADER_BYTES} bytes, this one ${objectBytes}`);
  }
  const view = viewOf(bytes);
  if (!MAGIC.every((byte, at) => bytes[at] === byte)) throw damaged("not a segment (wrong magic)");
  checkCrc(damaged, "header", view.getUint32(68, true), bytes.subarray(0, 68));
  const version = view.getUint16(8, true);
  const flags = view.getUint16(10, true);
  if (version !== FORMAT_VERSION || (flags & ~FLAG_LAST_OF_BATCH) !== 0) {
    throw damaged(`format version ${version}, flags ${flags}: this program reads version 1 only`);
  }
  if (view.getUint32(64, true) !== objectBytes) {
    throw damaged(`${view.getUint32(64, true)} bytes were written, ${objectBytes} are there`);
  }
  const recordCount = view.getUint32(12, true);
  const indexEnd = SEGMENT_HEADER_BYTES + view.getUint32(56, true);
  if (
    indexEnd !== SEGMENT_HEADER_BYTES + recordCount * INDEX_ENTRY_BYTES || indexEnd > bytes.length
  ) {
    throw damaged(`the index of ${recordCount} records ends at ${indexEnd}`);
  }
  checkCrc(
    damaged,
    "index",
    view.getUint32(60, true),
    bytes.subarray(SEGMENT_HEADER_BYTES, indexEnd),
  );
  const head: SegmentHead = {
    seq: getUint64(view, 16),
    epoch: getUint64(view, 24),
    writer: hex(bytes.subarray(32, 48)),
    storedUpTo: getUint64(view, 48),
    lastOfBatch: (flags & FLAG_LAST_OF_BATCH) !== 0,
    objectBytes,
    records: [],
  };
  if (segmentKey(head.seq) !== key) throw damaged(`holds segment ${head.seq}`);
  for (let at = SEGMENT_HEADER_BYTES; at < indexEnd; at += INDEX_ENTRY_BYTES) {
    const kind = view.getUint32(at + 24, true);
    if (kind !== RECORD_DATA && kind !== RECORD_ZEROES) throw damaged(`a record of kind ${kind}`);
    const record: SegmentRecord = {
      kind,
      firstBlock: getUint64(view, at),
      blockCount: getUint64(view, at + 8),
      offset: view.getUint32(at + 16, true),
      storedBytes: view.getUint32(at + 20, true),
    };
    if (!isPossible(record, objectBytes)) throw damaged(`a record ${JSON.stringify(record)}`);
    head.records.push(record);
  }
  return head;
}

/** Whether a record is of blocks that a volume may have, and in its object. */
function isPossible(record: SegmentRecord, objectBytes: number): boolean {
  const { kind, firstBlock, blockCount, offset, storedBytes } = record;
  const dataBytes = blockCount * BLOCK_BYTES;
  if (blockCount === 0 || firstBlock * BLOCK_BYTES + dataBytes > VOLUME_BYTES_MAX) return false;
  if (kind === RECORD_ZEROES) return true;
  return dataBytes <= STRIPE_BYTES_MAX && dataBytes <= storedBytes &&
    offset + RECORD_PREFIX_BYTES + storedBytes <= objectBytes;
}

/** Where part `number` of a record lies, counted from 0; a record that is one part lies where that does. */
export function partOf<T extends { offset: number; storedBytes: number }>(
  record: T,
  number: number,
  partBytes: number,
): T {
  const begin = number * (RECORD_PREFIX_BYTES + partBytes);
  return {
    ...record,
    offset: record.offset + begin,
    storedBytes: Math.min(partBytes, record.storedBytes - begin),
  };
}

/** Where all its parts lie, in order. */
export function partsOf<T extends { offset: number; storedBytes: number }>(
  record: T,
  partBytes: number,
): T[] {
  const recordBytes = RECORD_PREFIX_BYTES + record.storedBytes;
  const length = Math.ceil(recordBytes / (RECORD_PREFIX_BYTES + partBytes));
  return Array.from({ length }, (_, number) => partOf(record, number, partBytes));
}

/**
 * Checks a part as a ranged GET brought it, prefix included, and returns its data.
 *
 * @throws DamageError naming key, offset and both checksums.
 */
export function openPart(
  key: string,
  offset: number,
  firstBlock: number,
  dataBytes: number,
  bytes: Uint8Array,
): Uint8Array {
  const damaged = (what: string) => new DamageError(`${key} at offset ${offset}: ${what}`);
  if (bytes.length !== RECORD_PREFIX_BYTES + dataBytes) {
    throw damaged(
      `the record has ${RECORD_PREFIX_BYTES + dataBytes} bytes, ${bytes.length} are there`,
    );
  }
  const view = viewOf(bytes);
  checkCrc(damaged, "record", view.getUint32(0, true), bytes.subarray(4));
  if (view.getUint32(4, true) !== dataBytes) {
    throw damaged(`a record of ${view.getUint32(4, true)} bytes where ${dataBytes} were stored`);
  }
  if (getUint64(view, 8) !== firstBlock) {
    throw damaged(`the record of block ${getUint64(view, 8)} where ${firstBlock} was stored`);
  }
  return bytes.subarray(RECORD_PREFIX_BYTES);
}

/** Throws what `damaged` makes of it if `bytes` have another CRC-32 than `expected`. */
export function checkCrc(
  damaged: (what: string) => Error,
  part: string,
  expected: number,
  bytes: Uint8Array,
): void {
  const found = crc32(bytes);
  if (found === expected) return;
  const digits = (crc: number) => crc.toString(16).padStart(8, "0");
  throw damaged(`${part} is damaged: CRC-32 ${digits(expected)} expected, ${digits(found)} found`);
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
