import { assertEquals, assertThrows } from "@std/assert";
import { DamageError } from "../../../src/errors.ts";
import { SEGMENT_HEAD_BYTES_MAX, SEGMENT_RECORDS_MAX } from "../../../src/limits.ts";
import {
  openPart,
  parseSegmentHead,
  partOf,
  partsOf,
  RECORD_DATA,
  RECORD_PREFIX_BYTES,
  RECORD_ZEROES,
  SEGMENT_BYTES_MAX,
  SegmentBuilder,
  segmentKey,
  type SegmentRecord,
  seqOfKey,
} from "../../../src/volume/segment.ts";
import { blocks } from "./open_volume.ts";

const FAR_BLOCK = 2 ** 37 + 5;
const HEADER = {
  seq: 2 ** 32 + 3,
  epoch: 2 ** 33 + 9,
  writer: "0123456789abcdef0123456789abcdef",
  storedUpTo: 2 ** 32 + 1,
  lastOfBatch: true,
};
const KEY = segmentKey(HEADER.seq);

/** Two data records and a run of zeroes. */
function segment() {
  const builder = new SegmentBuilder(new Uint8Array(64 * 1024), 3);
  builder.addData(7, blocks(2, 0xa5));
  builder.addZeroes(100, 2 ** 34);
  builder.addData(FAR_BLOCK, blocks(1, 0x5a));
  return { bytes: builder.finish(HEADER), records: builder.records };
}

function open(bytes: Uint8Array, record: SegmentRecord): Uint8Array {
  const end = record.offset + RECORD_PREFIX_BYTES + record.storedBytes;
  const part = bytes.subarray(record.offset, end);
  return openPart(KEY, record.offset, record.firstBlock, record.storedBytes, part);
}

Deno.test("a segment's head brings back header and records", () => {
  const { bytes, records } = segment();
  const head = parseSegmentHead(KEY, bytes, bytes.length);
  assertEquals(head, { ...HEADER, objectBytes: bytes.length, records });
  assertEquals(records.map((r) => r.kind), [RECORD_DATA, RECORD_ZEROES, RECORD_DATA]);
  assertEquals(records.map((r) => r.blockCount), [2, 2 ** 34, 1]);
});

Deno.test("a segment's records bring back their bytes", () => {
  const { bytes, records } = segment();
  assertEquals(open(bytes, records[0]), blocks(2, 0xa5));
  assertEquals(open(bytes, records[2]), blocks(1, 0x5a));
});

Deno.test("a segment built in a buffer used before is the same, to the byte", () => {
  const buffer = new Uint8Array(64 * 1024).fill(0xff);
  const builder = new SegmentBuilder(buffer, 3);
  builder.addData(7, blocks(2, 0xa5));
  builder.addZeroes(100, 2 ** 34);
  builder.addData(FAR_BLOCK, blocks(1, 0x5a));
  assertEquals(builder.finish(HEADER), segment().bytes);
});

Deno.test("every flipped bit of header and index is found, and the key named", () => {
  const { bytes, records } = segment();
  for (let bit = 0; bit < records[0].offset * 8; bit++) {
    const damaged = bytes.slice();
    damaged[bit >> 3] ^= 1 << (bit & 7);
    assertThrows(() => parseSegmentHead(KEY, damaged, damaged.length), DamageError, KEY);
  }
});

Deno.test("a segment cut anywhere, or longer than it was written, is found", () => {
  const { bytes } = segment();
  for (let length = 0; length < bytes.length; length++) {
    const cut = bytes.subarray(0, length);
    assertThrows(() => parseSegmentHead(KEY, cut, length), DamageError, KEY);
  }
  assertThrows(() => parseSegmentHead(KEY, bytes, bytes.length + 1), DamageError, KEY);
});

Deno.test("every flipped bit of a record is found, and key and offset named", () => {
  const { bytes, records: [record] } = segment();
  const end = record.offset + RECORD_PREFIX_BYTES + record.storedBytes;
  for (let bit = record.offset * 8; bit < end * 8; bit++) {
    const at = bit >> 3;
    bytes[at] ^= 1 << (bit & 7);
    assertThrows(() => open(bytes, record), DamageError, `${KEY} at offset ${record.offset}`);
    bytes[at] ^= 1 << (bit & 7);
  }
  assertEquals(open(bytes, record), blocks(2, 0xa5));
});

Deno.test("a record that is cut, or another one, is found", () => {
  const { bytes, records: [first, , second] } = segment();
  for (let length = 0; length < RECORD_PREFIX_BYTES + first.storedBytes; length += 7) {
    const part = bytes.subarray(first.offset, first.offset + length);
    assertThrows(() => openPart(KEY, 0, 7, first.storedBytes, part), DamageError, KEY);
  }
  assertThrows(() => open(bytes, { ...second, firstBlock: 7 }), DamageError, "the record of block");
});

Deno.test("a record's parts are where they are said to be, and each is checked by itself", () => {
  const [partBytes, block] = [8192, 4096];
  const data = blocks(5, 0);
  for (let at = 0; at < 5; at++) data.fill(at + 1, at * block, (at + 1) * block);
  const builder = new SegmentBuilder(new Uint8Array(64 * 1024), 2, partBytes);
  builder.addData(7, data);
  builder.addData(50, blocks(1, 9)); // no longer than a part: as without them
  const bytes = builder.finish(HEADER);
  const { records: [long, short] } = parseSegmentHead(KEY, bytes, bytes.length);
  assertEquals([long.blockCount, long.storedBytes], [5, 5 * block + 2 * RECORD_PREFIX_BYTES]);
  assertEquals(short.offset, long.offset + RECORD_PREFIX_BYTES + long.storedBytes);
  assertEquals(open(bytes, short), blocks(1, 9));
  assertEquals(partsOf(short, partBytes), [short]);
  const parts = partsOf(long, partBytes).map((part, number) => {
    assertEquals(part, partOf(long, number, partBytes));
    return { ...part, firstBlock: 7 + 2 * number };
  });
  assertEquals(parts.map(({ storedBytes }) => storedBytes), [8192, 8192, 4096]);
  const opened = (number: number) => open(bytes, parts[number]);
  for (const number of [0, 1, 2]) {
    assertEquals(opened(number), data.subarray(number * partBytes, (number + 1) * partBytes));
  }
  for (const [number, { offset, storedBytes }] of parts.entries()) {
    const end = offset + RECORD_PREFIX_BYTES + storedBytes;
    for (let bit = offset * 8; bit < end * 8; bit += number === 1 ? 1 : 501) {
      bytes[bit >> 3] ^= 1 << (bit & 7);
      assertThrows(() => opened(number), DamageError, `${KEY} at offset ${offset}`);
      if (bit % 64 === 0) opened((number + 1) % 3);
      bytes[bit >> 3] ^= 1 << (bit & 7);
    }
  }
});

Deno.test("8 MiB in parts of a block fit the buffer of a segment", () => {
  const builder = new SegmentBuilder(new Uint8Array(SEGMENT_BYTES_MAX), 2, 4096);
  builder.addData(0, blocks(1024, 1));
  builder.addData(1024, blocks(1024, 2));
  const bytes = builder.finish(HEADER);
  const { records: [, last] } = parseSegmentHead(KEY, bytes, bytes.length);
  const part = { ...partOf(last, 1023, 4096), firstBlock: 2047 };
  assertEquals(open(bytes, part), blocks(1, 2));
});

Deno.test("a segment under another key is found", () => {
  const { bytes } = segment();
  const other = segmentKey(HEADER.seq + 1);
  assertThrows(() => parseSegmentHead(other, bytes, bytes.length), DamageError, other);
});

Deno.test("head and index of a segment with as many records as there may be fit one GET", () => {
  const builder = new SegmentBuilder(new Uint8Array(SEGMENT_BYTES_MAX), SEGMENT_RECORDS_MAX);
  for (let at = 0; at < SEGMENT_RECORDS_MAX; at++) {
    if (at < 2048) builder.addData(2 * at, blocks(1, at & 255));
    else builder.addZeroes(2 * at, 1);
  }
  const bytes = builder.finish(HEADER);
  const head = parseSegmentHead(KEY, bytes.subarray(0, SEGMENT_HEAD_BYTES_MAX), bytes.length);
  assertEquals(head.records, builder.records);
});

Deno.test("keys of segments sort as their numbers do", () => {
  assertEquals(segmentKey(42), "log/0000000042");
  assertEquals(seqOfKey(segmentKey(9_999_999_999)), 9_999_999_999);
  assertEquals(seqOfKey("log/42"), undefined);
  assertEquals(seqOfKey("log/00000000421"), undefined);
});
