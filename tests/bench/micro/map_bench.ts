import { RECORD_DATA, RECORD_ZEROES, type SegmentRecord } from "../../../src/volume/segment.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";

const BLOCKS = 16;
/** A fourth of a TiB with stripes of 64 KiB. */
const STRIPES = 4 * 1024 * 1024;
const SEGMENT_BYTES = 8_394_312;

function record(stripe: number, firstBlock: number, blockCount: number): SegmentRecord {
  return {
    kind: RECORD_DATA,
    firstBlock: stripe * BLOCKS + firstBlock,
    blockCount,
    offset: 3656 + stripe % 128 * 65_552,
    storedBytes: blockCount * 4096,
  };
}

/** The same stripes every time, all over the disk. */
const scattered = (n: number) => n * 40_503_011 % STRIPES;

const map = new StripeMap(BLOCKS);
let seq = 0;
for (let stripe = 0; stripe < STRIPES; stripe += 128) {
  const records = Array.from({ length: 128 }, (_, at) => record(stripe + at, 0, BLOCKS));
  map.apply(++seq, SEGMENT_BYTES, records);
}
const inOrder = Array.from({ length: 128 }, (_, at) => record(at, 0, BLOCKS));
const atRandom = Array.from({ length: 2048 }, (_, n) => record(scattered(n), 0, BLOCKS));
const patches = Array.from({ length: 2048 }, (_, n) => record(scattered(n + 4000), n % 16, 1));

/** Applies the same records once more; what had them before is dead, and leaves the table. */
function applier(records: SegmentRecord[]): () => void {
  let before = 0;
  return () => {
    map.apply(++seq, SEGMENT_BYTES, records);
    map.segments.delete(before);
    before = seq;
  };
}

Deno.bench("map: a segment of 128 stripes in order", applier(inOrder));
Deno.bench("map: a segment of 2,048 stripes at random", applier(atRandom));
Deno.bench("map: a segment of 2,048 blocks at random", applier(patches));

Deno.bench("map: 2,048 lookups at random", () => {
  for (let n = 0; n < 2048; n++) map.base(scattered(n));
});

const zeroes = { firstBlock: 0, blockCount: 4096 * BLOCKS, offset: 0, storedBytes: 0 };
const zeroPage = applier([{ kind: RECORD_ZEROES, ...zeroes }, record(0, 0, BLOCKS)]);

Deno.bench("map: zeroes over a page, and a stripe there anew", () => {
  zeroPage();
  map.settle(Infinity);
});
