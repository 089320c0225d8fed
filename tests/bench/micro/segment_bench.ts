import {
  openPart,
  parseSegmentHead,
  SEGMENT_BYTES_MAX,
  SegmentBuilder,
  segmentKey,
} from "../../../src/volume/segment.ts";

const HEADER = {
  seq: 1,
  epoch: 1,
  writer: "0".repeat(32),
  storedUpTo: 0,
  lastOfBatch: true,
};
const buffer = new Uint8Array(SEGMENT_BYTES_MAX);

/** A segment of so many records of so many bytes. */
function build(records: number, bytes: number): Uint8Array {
  const builder = new SegmentBuilder(buffer, records);
  const data = new Uint8Array(bytes).fill(1);
  for (let n = 0; n < records; n++) builder.addData(n * (bytes / 4096), data);
  return builder.finish(HEADER);
}

const small = build(2048, 4096).slice();
const [first] = parseSegmentHead(segmentKey(1), small, small.length).records;
const record = small.slice(first.offset, first.offset + 16 + first.storedBytes);

Deno.bench("segment: 8 MiB built of 128 stripes", () => {
  build(128, 65_536);
});

Deno.bench("segment: 8 MiB built of 2,048 blocks", () => {
  build(2048, 4096);
});

Deno.bench("segment: a head of 2,048 records parsed", () => {
  parseSegmentHead(segmentKey(1), small, small.length);
});

Deno.bench("segment: a record of 4 KiB checked", () => {
  openPart(segmentKey(1), first.offset, first.firstBlock, first.storedBytes, record);
});
