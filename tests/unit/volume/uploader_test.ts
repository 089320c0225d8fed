import { assert, assertEquals, assertRejects } from "@std/assert";
import type { PutCondition, PutResult } from "../../../src/bucket/bucket.ts";
import { DamageError, FencedError } from "../../../src/errors.ts";
import { SEGMENTS_UNSTORED_MAX } from "../../../src/limits.ts";
import { parseSegmentHead, SegmentBuilder, segmentKey } from "../../../src/volume/segment.ts";
import { storeSegment, Uploader, type Writer } from "../../../src/volume/uploader.ts";
import { settle } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { stateOf } from "./open_volume.ts";

const OURS: Writer = { epoch: 5, id: "a".repeat(32) };

function segmentOf(
  writer: Writer,
  seq: number,
  buffer: Uint8Array = new Uint8Array(256),
): Uint8Array {
  const header = { seq, epoch: writer.epoch, writer: writer.id, storedUpTo: 0, lastOfBatch: true };
  return new SegmentBuilder(buffer, 0).finish(header);
}

function writerAt(bucket: MemoryBucket, seq: number): Writer {
  const key = segmentKey(seq);
  const { bytes } = bucket.objects.get(key)!;
  const { epoch, writer } = parseSegmentHead(key, bytes, bytes.length);
  return { epoch, id: writer };
}

const store = (bucket: MemoryBucket) =>
  storeSegment(bucket, 1, segmentOf(OURS, 1), OURS, OURS.epoch);

Deno.test("a segment whose first PUT arrived although its answer was lost is stored", async () => {
  /** Makes a failed put again, as RetryingBucket does. */
  class Retrying extends MemoryBucket {
    override async put(
      key: string,
      bytes: Uint8Array,
      condition?: PutCondition,
    ): Promise<PutResult> {
      try {
        return await super.put(key, bytes, condition);
      } catch {
        return await super.put(key, bytes, condition);
      }
    }
  }
  const bucket = new Retrying();
  bucket.failPutsAfterApply(1);
  assertEquals(await store(bucket), undefined);
  assertEquals(writerAt(bucket, 1), OURS);
});

Deno.test("a dead writer's leftover is replaced", async () => {
  const bucket = new MemoryBucket();
  await bucket.put(segmentKey(1), segmentOf({ epoch: 4, id: "b".repeat(32) }, 1));
  assertEquals(await store(bucket), undefined);
  assertEquals(writerAt(bucket, 1), OURS);
});

Deno.test("a segment of a writer with the same or a higher epoch stays, and is named", async () => {
  for (const epoch of [5, 6]) {
    const bucket = new MemoryBucket();
    const other = { epoch, id: "c".repeat(32) };
    await bucket.put(segmentKey(1), segmentOf(other, 1));
    assertEquals((await store(bucket))!.by.epoch, epoch);
    assertEquals(writerAt(bucket, 1), other);
  }
});

Deno.test("a leftover that a third writer replaces between our look and our PUT is not overwritten", async () => {
  const bucket = new MemoryBucket();
  await bucket.put(segmentKey(1), segmentOf({ epoch: 4, id: "b".repeat(32) }, 1));
  bucket.hold("put");
  const stored = store(bucket);
  await bucket.untilHeld(1);
  bucket.held[0].release(); // the first PUT: refused
  await bucket.untilHeld(1); // the second one, over the leftover
  const third = { epoch: 6, id: "d".repeat(32) };
  bucket.objects.set(segmentKey(1), { bytes: segmentOf(third, 1), etag: "third" });
  bucket.release("put");
  assertEquals((await stored)!.by.writer, third.id);
  assertEquals(writerAt(bucket, 1), third);
});

Deno.test("a leftover that is gone when we look leaves the place free", async () => {
  const bucket = new MemoryBucket();
  await bucket.put(segmentKey(1), segmentOf({ epoch: 4, id: "b".repeat(32) }, 1));
  bucket.hold("get");
  const stored = store(bucket);
  await bucket.untilHeld(1);
  bucket.objects.delete(segmentKey(1));
  bucket.release("get");
  assertEquals(await stored, undefined);
  assertEquals(writerAt(bucket, 1), OURS);
});

Deno.test("what is no segment under our number is damage, and not overwritten", async () => {
  const bucket = new MemoryBucket();
  await bucket.put(segmentKey(1), new Uint8Array(100));
  await assertRejects(() => store(bucket), DamageError, segmentKey(1));
  assertEquals(bucket.objects.get(segmentKey(1))!.bytes, new Uint8Array(100));
});

const fill = (seq: number, buffer: Uint8Array) => segmentOf(OURS, seq, buffer);

Deno.test("all is stored up to the first PUT that is still on its way", async () => {
  const bucket = new MemoryBucket();
  const uploader = new Uploader(bucket, OURS, 3, 10);
  bucket.hold("put");
  const stored = [1, 2, 3].map(() => uploader.store(fill));
  await bucket.untilHeld(3);
  assertEquals([uploader.storedUpTo, uploader.hasSlot], [10, false]);
  bucket.held[2].release();
  bucket.held[0].release();
  await Promise.all([stored[0], stored[2]]);
  assertEquals([uploader.storedUpTo, uploader.hasSlot], [11, true]);
  bucket.release("put");
  await stored[1];
  assertEquals(uploader.storedUpTo, 13);
});

Deno.test("a PUT that hangs lets others pass, but not so many that a gap could hide", async () => {
  const bucket = new MemoryBucket();
  const uploader = new Uploader(bucket, OURS, 2, 0);
  bucket.hold("put");
  const hanging = uploader.store(fill);
  await bucket.untilHeld(1);
  let begun = 1;
  while (uploader.hasRoom) {
    const stored = uploader.store(fill);
    begun++;
    await bucket.untilHeld(2);
    bucket.held[1].release();
    await stored;
    assert(begun <= SEGMENTS_UNSTORED_MAX, "unbounded");
  }
  assertEquals(begun, SEGMENTS_UNSTORED_MAX);
  assertEquals(await stateOf(hanging), "pending");
  bucket.release("put");
  await hanging;
  assertEquals([uploader.hasRoom, uploader.storedUpTo], [true, SEGMENTS_UNSTORED_MAX]);
});

Deno.test("a place that is taken fences the writer, and says by which epoch", async () => {
  const bucket = new MemoryBucket();
  await bucket.put(segmentKey(11), segmentOf({ epoch: 7, id: "b".repeat(32) }, 11));
  const uploader = new Uploader(bucket, OURS, 1, 10);
  await assertRejects(() => uploader.store(fill), FencedError, "log/0000000011 has epoch 7");
  assertEquals(uploader.storedUpTo, 10);
  await settle();
});

/** Prepares what the test lets it, oldest first. */
class PreparingBucket extends MemoryBucket {
  readonly preparing: PromiseWithResolvers<void>[] = [];

  prepare(): Promise<void> {
    const prepared = Promise.withResolvers<void>();
    this.preparing.push(prepared);
    return prepared.promise;
  }
}

Deno.test("while all PUTs are under way one segment more is filled and prepared; its PUT begins when one has ended", async () => {
  const bucket = new PreparingBucket();
  const uploader = new Uploader(bucket, OURS, 2, 10);
  bucket.hold("put");
  const stored = [11, 12].map(() => uploader.store(fill));
  for (const { resolve } of bucket.preparing) resolve();
  await bucket.untilHeld(2);
  assertEquals([uploader.hasRoom, uploader.hasSlot], [true, false]);
  stored.push(uploader.store(fill));
  assertEquals([uploader.hasRoom, bucket.preparing.length], [false, 3]);
  bucket.preparing[2].resolve();
  await settle();
  assertEquals(bucket.counts.put.requests, 2);
  bucket.held[1].release();
  await stored[1];
  await bucket.untilHeld(2);
  assertEquals(bucket.held.map(({ key }) => key), [11, 13].map(segmentKey));
  assertEquals([uploader.hasRoom, uploader.hasSlot], [true, false]);
  bucket.release("put");
  await Promise.all(stored);
  assertEquals(uploader.storedUpTo, 13);
});

Deno.test("a segment that is prepared later than the next one is PUT before it all the same", async () => {
  const bucket = new PreparingBucket();
  const uploader = new Uploader(bucket, OURS, 1, 10);
  const stored = [11, 12].map(() => uploader.store(fill));
  bucket.preparing[1].resolve();
  await settle();
  assertEquals(bucket.counts.put.requests, 0);
  bucket.preparing[0].resolve();
  await Promise.all(stored);
  assertEquals(uploader.storedUpTo, 12);
});

Deno.test("a segment that can't be prepared is not PUT, and said at once, whether it waits or not", async () => {
  for (const waits of [false, true]) {
    const bucket = new PreparingBucket();
    const uploader = new Uploader(bucket, OURS, 1, 10);
    if (waits) uploader.store(fill);
    const stored = uploader.store(fill);
    bucket.preparing.at(-1)!.reject(new Error("no memory"));
    await assertRejects(() => stored, Error, "no memory");
    assertEquals(bucket.counts.put.requests, 0);
  }
});

Deno.test("what waits is not PUT any more once the uploader is stopped", async () => {
  const bucket = new MemoryBucket();
  const uploader = new Uploader(bucket, OURS, 1, 10);
  bucket.hold("put");
  const first = uploader.store(fill);
  const second = uploader.store(fill);
  await bucket.untilHeld(1);
  uploader.stop();
  bucket.release("put");
  await first;
  assertEquals([await stateOf(second), bucket.counts.put.requests], ["pending", 1]);
});
