import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DamageError, FencedError } from "../../../src/errors.ts";
import { silentLogger } from "../../../src/logger.ts";
import { Checkpointer, listCheckpoints } from "../../../src/volume/checkpoint.ts";
import { checkpointKey } from "../../../src/volume/checkpoint_format.ts";
import { readState, recover } from "../../../src/volume/recovery.ts";
import { parseSegmentHead, SegmentBuilder, segmentKey } from "../../../src/volume/segment.ts";
import { settle } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { blocks, firstBytes, logKeys, openVolume, rememberingLogger } from "./open_volume.ts";

const BLOCKS = 4;
const WRITERS = ["", "a", "b", "c", "d", "e"].map((digit) => digit.repeat(32));

interface Told {
  epoch?: number;
  storedUpTo?: number;
  last?: boolean;
}

/** Stores a segment that fills stripe `seq` and stripe 0; the writer's id goes by its epoch. */
async function put(bucket: MemoryBucket, seq: number, told: Told = {}): Promise<void> {
  const { epoch = 1, storedUpTo = seq - 1, last = true } = told;
  const builder = new SegmentBuilder(new Uint8Array(64 * 1024), 2);
  builder.addData(seq * BLOCKS, blocks(BLOCKS, seq));
  builder.addData(0, blocks(BLOCKS, seq));
  const writer = WRITERS[epoch];
  const bytes = builder.finish({ seq, epoch, writer, storedUpTo, lastOfBatch: last });
  await bucket.put(segmentKey(seq), bytes);
}

const open = (bucket: MemoryBucket, logger = rememberingLogger(), writer = "f".repeat(32)) =>
  recover({ bucket, blocksPerStripe: BLOCKS, logger }, writer);

/** The stripes from 1 to 9 that are mapped, and the seq that has stripe 0. */
async function found(bucket: MemoryBucket) {
  const { map, writer, lastSeq } = await open(bucket);
  map.checkInvariants();
  const stripes = [1, 2, 3, 4, 5, 6, 7, 8, 9].filter((stripe) => map.isMapped(stripe));
  return { stripes, newest: map.base(0)?.seq, epoch: writer.epoch, lastSeq };
}

function epochAt(bucket: MemoryBucket, seq: number): number {
  const { bytes } = bucket.objects.get(segmentKey(seq))!;
  return parseSegmentHead(segmentKey(seq), bytes, bytes.length).epoch;
}

Deno.test("an empty bucket is claimed in epoch 1 with segment 1", async () => {
  const bucket = new MemoryBucket();
  assertEquals(await found(bucket), { stripes: [], newest: undefined, epoch: 1, lastSeq: 1 });
  assertEquals(epochAt(bucket, 1), 1);
});

Deno.test("the log counts up to its first gap; what lies behind is a leftover", async () => {
  const bucket = new MemoryBucket();
  for (const seq of [1, 2, 3]) await put(bucket, seq);
  for (const seq of [5, 6]) await put(bucket, seq, { storedUpTo: 3 });
  assertEquals(await found(bucket), { stripes: [1, 2, 3], newest: 3, epoch: 2, lastSeq: 4 });
  // the next opening ends at the leftovers too, and takes the first one's place
  assertEquals(await found(bucket), { stripes: [1, 2, 3], newest: 3, epoch: 3, lastSeq: 5 });
  assertEquals([epochAt(bucket, 5), epochAt(bucket, 6)], [3, 1]);
});

Deno.test("a batch whose last segment is missing counts for nothing", async () => {
  const bucket = new MemoryBucket();
  await put(bucket, 1);
  await put(bucket, 2, { last: false });
  await put(bucket, 3, { last: false });
  assertEquals(await found(bucket), { stripes: [1], newest: 1, epoch: 2, lastSeq: 4 });
  // and is not brought to life by what the next writer stores
  await put(bucket, 5, { epoch: 2 });
  assertEquals(await found(bucket), { stripes: [1, 5], newest: 5, epoch: 3, lastSeq: 6 });
});

Deno.test("a batch of several segments counts when all are there", async () => {
  const bucket = new MemoryBucket();
  await put(bucket, 1, { last: false });
  await put(bucket, 2, { last: false });
  await put(bucket, 3);
  assertEquals((await found(bucket)).stripes, [1, 2, 3]);
});

Deno.test("the last segment of a batch, left behind after a takeover, does not complete it", async () => {
  const bucket = new MemoryBucket();
  await put(bucket, 1, { last: false });
  await put(bucket, 2, { epoch: 2 });
  await put(bucket, 3, { epoch: 1, storedUpTo: 0 }); // arrived late
  assertEquals(await found(bucket), { stripes: [2], newest: 2, epoch: 3, lastSeq: 3 });
});

Deno.test("a segment that is missing though it was known stored is damage, and named", async () => {
  const bucket = new MemoryBucket();
  for (const seq of [1, 2, 3, 4, 5]) await put(bucket, seq);
  bucket.objects.delete(segmentKey(3));
  const before = [...bucket.objects.keys()];
  const error = await assertRejects(() => open(bucket), DamageError);
  assertStringIncludes(error.message, segmentKey(3));
  assertEquals([...bucket.objects.keys()], before, "nothing was touched");
});

Deno.test("the newest segment that was known stored is missed, too", async () => {
  const bucket = new MemoryBucket();
  for (const seq of [1, 2]) await put(bucket, seq);
  await put(bucket, 4, { storedUpTo: 3 });
  await assertRejects(() => open(bucket), DamageError, segmentKey(3));
});

Deno.test("the first of all segments missing is damage too", async () => {
  const bucket = new MemoryBucket();
  for (const seq of [1, 2, 3]) await put(bucket, seq);
  bucket.objects.delete(segmentKey(1));
  await assertRejects(() => open(bucket), DamageError, segmentKey(1));
});

Deno.test("a damaged or cut head is damage, and named", async () => {
  for (const harm of ["flip", "cut"]) {
    const bucket = new MemoryBucket();
    for (const seq of [1, 2, 3]) await put(bucket, seq);
    if (harm === "flip") bucket.flipBit(segmentKey(2), 200);
    else bucket.cut(segmentKey(2), 50);
    await assertRejects(() => open(bucket), DamageError, segmentKey(2));
    assertEquals(bucket.objects.size, 3, "nothing was touched");
  }
});

Deno.test("of two that open at once both get an epoch of their own, and the lower one is fenced", async () => {
  for (let at = 0; at < 2; at++) {
    const bucket = new MemoryBucket();
    await put(bucket, 1);
    bucket.hold("put");
    const both = [0, 1].map((who) =>
      recover(
        { bucket, blocksPerStripe: BLOCKS, logger: silentLogger },
        `${who + 1}`.repeat(32),
      )
    );
    await bucket.untilHeld(2);
    bucket.held[at].release();
    await settle();
    bucket.release("put");
    const [first, second] = await Promise.all(both);
    const epochs = [first.writer.epoch, second.writer.epoch];
    assertEquals(epochs, at === 0 ? [2, 3] : [3, 2]);
    assertEquals([epochAt(bucket, 2), epochAt(bucket, 3)], [2, 3]);
  }
});

Deno.test("a segment that the old writer stores just before the claim is not lost", async () => {
  const bucket = new MemoryBucket();
  await put(bucket, 1);
  bucket.hold("put");
  const opened = found(bucket);
  await bucket.untilHeld(1);
  const late = new MemoryBucket();
  await put(late, 2);
  bucket.objects.set(segmentKey(2), late.objects.get(segmentKey(2))!);
  bucket.release("put");
  assertEquals(await opened, { stripes: [1, 2], newest: 2, epoch: 2, lastSeq: 3 });
});

Deno.test("a gap that a living writer closes while we look behind it is no damage", async () => {
  const bucket = new MemoryBucket();
  for (const seq of [1, 2, 3, 4]) await put(bucket, seq);
  const list = bucket.list.bind(bucket);
  let early = true;
  // the list was made before 3 was stored, the look at 4 behind it
  bucket.list = async (...args) => {
    const keys = await list(...args);
    return early && keys.length > 1
      ? (early = false, keys.filter((k) => k !== segmentKey(3)))
      : keys;
  };
  assertEquals(await found(bucket), { stripes: [1, 2, 3, 4], newest: 4, epoch: 2, lastSeq: 5 });
  assertEquals(early, false);
});

Deno.test("a volume can be read without being claimed, whoever has it open", async () => {
  const bucket = await withCheckpoints();
  await put(bucket, 7, { last: false });
  const before = new Map(bucket.objects);
  const { map, lastSeq, epoch, checkpoint } = await readState({
    bucket,
    blocksPerStripe: BLOCKS,
    logger: silentLogger,
  });
  assertEquals([lastSeq, epoch, checkpoint!.seq], [7, 1, 4]);
  assertEquals([map.base(0)!.seq, map.isMapped(7)], [6, false], "7 is of an unfinished batch");
  assertEquals(bucket.objects, before);
});

/** Six segments, and checkpoints after 2 and 4. */
async function withCheckpoints() {
  const bucket = new MemoryBucket();
  for (const seq of [1, 2, 3, 4, 5, 6]) await put(bucket, seq);
  const until = async (end: number) => {
    const part = new MemoryBucket();
    for (let seq = 1; seq <= end; seq++) await put(part, seq);
    const { map } = await open(part);
    map.segments.delete(end + 1);
    return map;
  };
  const noPause = () => Promise.resolve();
  await new Checkpointer(bucket, await until(2), 1, null, noPause).store(2);
  const packs = new Map([["map/0000000002/0000", 100]]);
  const older = { seq: 2, epoch: 1, pages: new Map(), packs };
  await new Checkpointer(bucket, await until(4), 1, older, noPause).store(4);
  bucket.counts.get.requests = 0;
  return bucket;
}

Deno.test("only the log behind the newest checkpoint is read", async () => {
  const bucket = await withCheckpoints();
  const { replayed, checkpoint, map } = await open(bucket);
  assertEquals([checkpoint!.seq, replayed], [4, 2]);
  assertEquals(bucket.counts.get.requests, 4, "root, pack, two heads");
  assertEquals([1, 4, 6].map((stripe) => map.isMapped(stripe)), [true, true, true]);
  map.checkInvariants();
});

Deno.test("a log of 1,000 segments is opened with a header read each, 32 at a time", async () => {
  const bucket = new MemoryBucket();
  for (let seq = 1; seq <= 1000; seq++) await put(bucket, seq);
  const get = bucket.get.bind(bucket);
  let [underWay, most, rounds] = [0, 0, 0];
  bucket.get = async (...request) => {
    if (underWay++ === 0) rounds++;
    most = Math.max(most, underWay);
    await settle();
    try {
      return await get(...request);
    } finally {
      underWay--;
    }
  };
  const { replayed } = await open(bucket);
  assertEquals([replayed, bucket.counts.get.requests, most], [1000, 1000, 32]);
  assert(rounds <= 32, `${rounds} rounds, where 1000 / 32 would do`);
});

Deno.test("with the newest checkpoint damaged the one before it is taken, and a warning given", async () => {
  for (const key of [checkpointKey(4), "map/0000000004/0000"]) {
    const bucket = await withCheckpoints();
    bucket.flipBit(key, 300);
    const logger = rememberingLogger();
    const { checkpoint, map } = await open(bucket, logger);
    assertEquals([checkpoint!.seq, map.base(0)!.seq], [2, 6]);
    map.checkInvariants();
    assertStringIncludes(logger.warnings[0], key);
  }
});

Deno.test("with every checkpoint damaged the whole log is read, and refused if it begins late", async () => {
  const bucket = await withCheckpoints();
  for (const seq of [2, 4]) bucket.objects.delete(`map/000000000${seq}/0000`);
  const cleaned = bucket.copy();
  const { checkpoint, map } = await open(bucket);
  assertEquals([checkpoint, map.base(0)!.seq], [null, 6]);
  cleaned.objects.delete(segmentKey(1));
  const error = await assertRejects(() => open(cleaned), DamageError, segmentKey(1));
  // what is damaged is named too, and not only what can't replace it
  for (const seq of [2, 4]) assertStringIncludes(error.message, `map/000000000${seq}/0000`);
});

Deno.test("keys of another form are left alone, such as a folder made in a web console", async () => {
  for (const bucket of [await withCheckpoints(), new MemoryBucket()]) {
    const newest = (await listCheckpoints(bucket))[0];
    for (const key of ["checkpoint/", "checkpoint/0000000009.bak", "checkpoint/zzz", "log/x"]) {
      await bucket.put(key, new Uint8Array());
    }
    const logger = rememberingLogger();
    assertEquals((await open(bucket, logger)).checkpoint?.seq, newest);
    assertEquals(logger.warnings, []);
  }
});

Deno.test("a log that ends before the newest checkpoint is damage", async () => {
  const bucket = await withCheckpoints();
  bucket.flipBit("map/0000000004/0000", 300);
  for (const seq of [4, 5, 6]) bucket.objects.delete(segmentKey(seq));
  await assertRejects(() => open(bucket), DamageError, segmentKey(4));
});

Deno.test("a checkpoint that the old writer stores while we open is found, also after the claim", async () => {
  const bucket = await withCheckpoints();
  const complete = bucket.copy();
  bucket.objects.delete(checkpointKey(4));
  bucket.objects.delete("map/0000000004/0000");
  bucket.hold("put");
  const opened = open(bucket);
  await bucket.untilHeld(1); // the claim; checkpoint 2 has been read
  for (const key of [checkpointKey(4), "map/0000000004/0000"]) {
    bucket.objects.set(key, complete.objects.get(key)!);
  }
  bucket.release("put");
  const { checkpoint, map, writer, lastSeq } = await opened;
  assertEquals([checkpoint!.seq, map.base(0)!.seq], [4, 6]);
  assertEquals([writer.epoch, lastSeq], [3, 8], "it claimed once more");
  map.checkInvariants();
});

Deno.test("a checkpoint cleaned up under us is not damage", async () => {
  const bucket = await withCheckpoints();
  const complete = bucket.copy();
  bucket.objects.delete(checkpointKey(4));
  bucket.objects.delete("map/0000000004/0000");
  bucket.objects.delete(segmentKey(1)); // so that the log alone won't do
  bucket.hold("get");
  const opened = open(bucket);
  await bucket.untilHeld(1); // the root of checkpoint 2
  bucket.objects.delete(checkpointKey(2));
  for (const key of [checkpointKey(4), "map/0000000004/0000"]) {
    bucket.objects.set(key, complete.objects.get(key)!);
  }
  bucket.release("get");
  assertEquals((await opened).checkpoint!.seq, 4);
});

Deno.test("a paused writer that goes on after a takeover stores and answers nothing", async () => {
  const { volume: old, bucket } = await openVolume();
  old.write(0, blocks(1, 1));
  await old.flush();
  bucket.hold("put");
  old.write(0, blocks(1, 2));
  const flushed = old.flush()!;
  await bucket.untilHeld(1);
  const paused = bucket.held.splice(0);
  bucket.release("put");
  const { volume: next } = await openVolume({ takeover: true }, { bucket });
  assertEquals(await firstBytes(next, 0, 1), [1]);
  for (const request of paused) request.release();
  await assertRejects(() => flushed, FencedError);
  next.write(0, blocks(1, 3));
  await next.flush();
  next.abandon();
  const { volume: third } = await openVolume({ takeover: true }, { bucket });
  assertEquals(await firstBytes(third, 0, 1), [3]);
  third.abandon();
});

Deno.test("a claim replaces a leftover, and the writer goes on over those behind it", async () => {
  const { volume: old, bucket } = await openVolume();
  bucket.hold("put");
  for (let at = 0; at < 3; at++) {
    old.write(at * 16384, blocks(4, 1));
    old.flush()!.catch(() => {});
    await bucket.untilHeld(at + 1);
  }
  for (const request of bucket.held.slice(1)) request.release(); // 3 and 4 arrive, 2 never does
  await settle();
  old.abandon();
  bucket.held.splice(0);
  bucket.release("put");
  assertEquals(logKeys(bucket).map((key) => Number(key.slice(4))), [1, 3, 4]);
  const { volume } = await openVolume({ takeover: true }, { bucket });
  assert(volume.tryRead(0, blocks(12, 0)));
  for (let at = 0; at < 4; at++) {
    volume.write(0, blocks(1, 10 + at));
    await volume.flush();
  }
  volume.abandon();
  assertEquals([2, 3, 4, 5, 6].map((seq) => epochAt(bucket, seq)), [2, 2, 2, 2, 2]);
  const { volume: next } = await openVolume({ takeover: true }, { bucket });
  assertEquals(await firstBytes(next, 0, 5), [13, 0, 0, 0, 0]);
  next.abandon();
});
