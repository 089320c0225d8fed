import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import type { Bucket } from "../../../src/bucket/bucket.ts";
import { DamageError, FencedError, UsageError } from "../../../src/errors.ts";
import { LEASE_EXPIRED_MS, LEASE_RENEW_MS, LEASE_WATCH_MS } from "../../../src/limits.ts";
import { LEASE_KEY } from "../../../src/volume/lease.ts";
import { segmentKey } from "../../../src/volume/segment.ts";
import { ManualClock, settle } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import {
  blocks,
  firstBytes,
  hostNamed,
  openVolume,
  rememberingLogger,
  stateOf,
} from "./open_volume.ts";

const here = hostNamed("here");
const there = hostNamed("there");

function leaseIn(bucket: MemoryBucket) {
  return JSON.parse(new TextDecoder().decode(bucket.objects.get(LEASE_KEY)!.bytes));
}

Deno.test("a second start is refused while the first lives, and told where it runs", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  await clock.advance(7000);
  const before = new Map(bucket.objects);
  const error = await assertRejects(
    () => openVolume({}, { bucket, clock, host: there }),
    UsageError,
  );
  for (const part of ["here", "pid 1", "epoch 1", "7 s ago", "--takeover"]) {
    assertStringIncludes(error.message, part);
  }
  assertEquals([...bucket.objects.keys()], [...before.keys()], "nothing was stored");
  volume.abandon();
});

Deno.test("a lease is renewed for as long as the volume is open", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  await clock.advance(20 * LEASE_EXPIRED_MS);
  await assertRejects(() => openVolume({}, { bucket, clock, host: there }), UsageError);
  volume.abandon();
});

Deno.test("a start on the same host finds a dead holder out at once", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  volume.abandon();
  const { volume: next } = await openVolume({}, { bucket, clock, host: here });
  assertEquals(next.epoch, 2);
  next.abandon();
});

Deno.test("a holder that has been silent for too long is fenced, with a warning", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  volume.abandon();
  const logger = rememberingLogger();
  await clock.advance(LEASE_EXPIRED_MS);
  await assertRejects(() => openVolume({}, { bucket, clock, host: there }), UsageError);
  await clock.advance(1000);
  const opening = openVolume({}, { bucket, clock, host: there, logger });
  await clock.advance(LEASE_WATCH_MS - 1);
  assertEquals(await stateOf(opening), "pending");
  await clock.advance(1);
  const { volume: next } = await opening;
  assertStringIncludes(logger.warnings[0], "taken to be dead");
  next.abandon();
});

Deno.test("a holder that is silent only by another machine's clock is not taken for dead", async () => {
  const { volume, bucket, clock, failures } = await openVolume({}, { host: here });
  const fast = new ManualClock(clock.startMs + 600_000);
  const opening = openVolume({}, { bucket, clock: fast, host: there });
  opening.catch(() => {});
  await clock.advance(LEASE_RENEW_MS);
  await fast.advance(LEASE_WATCH_MS);
  const error = await assertRejects(() => opening, UsageError);
  for (const part of ["600 s ago", "it lives", "--takeover"]) {
    assertStringIncludes(error.message, part);
  }
  await volume.flush();
  assertEquals(failures, []);
  volume.abandon();
});

Deno.test("of several that start at once one goes on, and the others are refused", async () => {
  const bucket = new MemoryBucket();
  const clock = new ManualClock();
  const starts = ["a", "b", "c"].map((name) =>
    openVolume({}, { bucket, clock, host: hostNamed(name) })
  );
  const ends = await Promise.allSettled(starts);
  const opened = ends.flatMap((end) => end.status === "fulfilled" ? [end.value] : []);
  const refusals = ends.flatMap((end) => end.status === "rejected" ? [end.reason] : []);
  assertEquals([opened.length, refusals.length], [1, 2]);
  for (const error of refusals) {
    assert(error instanceof UsageError, String(error));
    assertStringIncludes(error.message, "is being opened on");
  }
  await clock.advance(2 * LEASE_RENEW_MS);
  assertEquals(opened[0].failures, []);
  opened[0].volume.abandon();
});

Deno.test("an opening that fails gives the lease back, with what it said of the log", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  volume.write(0, new Uint8Array(4096).fill(1));
  await volume.close();
  const { storedUpTo } = leaseIn(bucket);
  bucket.flipBit(segmentKey(1), 100);
  for (const key of bucket.objects.keys()) {
    if (key.startsWith("checkpoint/")) bucket.objects.delete(key);
  }
  await assertRejects(() => openVolume({}, { bucket, clock, host: there }), DamageError);
  assertEquals([leaseIn(bucket).released, leaseIn(bucket).storedUpTo], [true, storedUpTo]);
});

Deno.test("a volume is unbroken while each writer on this machine stores everything before it ends", async () => {
  const bucket = new MemoryBucket();
  const clock = new ManualClock();
  const open = async (host = here, takeover = false) =>
    (await openVolume({ takeover }, { bucket, clock, host })).volume;
  const first = await open();
  assertEquals(first.unbrokenSince, first.epoch);
  await first.close();
  const second = await open();
  assertEquals(second.unbrokenSince, first.epoch);
  second.abandon(); // as a crash would
  const third = await open(here, true);
  assertEquals(third.unbrokenSince, third.epoch);
  await third.close();
  const elsewhere = await open(there);
  assertEquals(elsewhere.unbrokenSince, elsewhere.epoch);
  await elsewhere.close();
  const back = await open();
  assertEquals(back.unbrokenSince, back.epoch);
  await back.close();
});

Deno.test("an opening that fails after a crash does not make the volume look unbroken", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  volume.abandon();
  bucket.flipBit(segmentKey(1), 100);
  const damaged = () => openVolume({ takeover: true }, { bucket, clock, host: here });
  await assertRejects(damaged, DamageError);
  assertEquals(leaseIn(bucket).released, true);
  bucket.flipBit(segmentKey(1), 100);
  const { volume: next } = await openVolume({}, { bucket, clock, host: here });
  assertEquals(next.unbrokenSince, next.epoch);
  await next.close();
});

Deno.test("an opening that fails after another machine's clean stop does not make that one's history its own", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  await volume.close();
  const { volume: elsewhere } = await openVolume({}, { bucket, clock, host: there });
  await elsewhere.close();
  const { volume: back } = await openVolume({}, { bucket, clock, host: here });
  back.write(0, blocks(1, 1));
  await back.close();
  bucket.flipBit(segmentKey(1), 100);
  const checkpoints = [...bucket.objects].filter(([key]) => key.startsWith("checkpoint/"));
  for (const [key] of checkpoints) bucket.objects.delete(key);
  await assertRejects(() => openVolume({}, { bucket, clock, host: there }), DamageError);
  bucket.flipBit(segmentKey(1), 100);
  for (const [key, object] of checkpoints) bucket.objects.set(key, object);
  const { volume: again } = await openVolume({}, { bucket, clock, host: there });
  assertEquals(again.unbrokenSince, again.epoch);
  await again.close();
});

Deno.test("who reads for so long that another writer comes and goes meanwhile has not an unbroken volume", async () => {
  const { volume: first, bucket, clock } = await openVolume({}, { host: here });
  await first.close();
  const gate = Promise.withResolvers<void>();
  const slowBucket: Bucket = {
    name: bucket.name,
    get: (key, range) => bucket.get(key, range),
    put: (key, bytes, condition) => bucket.put(key, bytes, condition),
    delete: (keys) => bucket.delete(keys),
    list: (prefix, startAfter) => gate.promise.then(() => bucket.list(prefix, startAfter)),
    close() {},
  };
  const opening = openVolume({}, { bucket: slowBucket, clock, host: here });
  await settle();
  const { volume: second } = await openVolume({ takeover: true }, { bucket, clock, host: here });
  second.write(0, blocks(1, 1)); // acknowledged, and lost
  gate.resolve();
  const { volume: third } = await opening;
  second.abandon();
  assertEquals([second.epoch, third.epoch], [first.epoch + 1, first.epoch + 2]);
  assertEquals(await firstBytes(third, 0, 1), [0]);
  assertEquals(third.unbrokenSince, third.epoch);
  await third.close();
});

Deno.test("--takeover opens at once, and the first finds out when it renews its lease", async () => {
  const { volume, bucket, failures, clock } = await openVolume({}, { host: here });
  const logger = rememberingLogger();
  const next = await openVolume(
    { takeover: true },
    { bucket, host: there, logger, clock: new ManualClock() },
  );
  assertStringIncludes(logger.warnings[0], "taken over");
  assertEquals(failures, []);
  await clock.advance(LEASE_RENEW_MS);
  assertEquals(failures.length, 1);
  assertStringIncludes(
    (failures[0] as FencedError).message,
    "there (pid 1) has epoch 2, ours is 1",
  );
  await assertRejects(() => volume.read(0, new Uint8Array(1)), FencedError);
  assertEquals(clock.pending, 0, "no timer is left behind");
  assertEquals(leaseIn(bucket).epoch, 2, "and the lease is the second one's");
  next.volume.abandon();
});

Deno.test("a clean stop gives the volume back: anyone may open it at once", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  await volume.close();
  assertEquals(leaseIn(bucket).released, true);
  assertEquals(clock.pending, 0);
  const { volume: next } = await openVolume({}, { bucket, clock, host: there });
  next.abandon();
});

Deno.test("a renewal that is under way at a clean stop does not come behind it", async () => {
  const { volume, bucket, clock } = await openVolume({}, { host: here });
  bucket.hold("put");
  await clock.advance(LEASE_RENEW_MS);
  await bucket.untilHeld(1);
  let isOver = false;
  const closed = volume.close().then(() => isOver = true);
  await settle();
  for (; !isOver; await settle()) bucket.held.at(-1)?.release();
  await closed;
  bucket.release("put");
  await settle();
  assertEquals(leaseIn(bucket).released, true);
});

Deno.test("a renewal that fails does not stop the disk, and the next one is made", async () => {
  const logger = rememberingLogger();
  const { volume, bucket, clock, failures } = await openVolume({}, { host: here, logger });
  bucket.failPutsBeforeApply(1);
  await clock.advance(LEASE_RENEW_MS);
  assertEquals(logger.warnings.length, 1);
  await clock.advance(LEASE_RENEW_MS);
  assertEquals(leaseIn(bucket).renewedAt, clock.now());
  assertEquals(failures, []);
  volume.abandon();
});

Deno.test("a lease that was stored although its answer was lost is known for our own", async () => {
  const logger = rememberingLogger();
  const { volume, bucket, clock, failures } = await openVolume({}, { host: here, logger });
  bucket.failPutsAfterApply(1);
  await clock.advance(2 * LEASE_RENEW_MS);
  assertEquals(leaseIn(bucket).renewedAt, clock.now());
  assertEquals(failures, []);
  volume.abandon();
});

Deno.test("a lease that can't be read is refused and named; --takeover goes on and replaces it", async () => {
  const { volume, bucket, clock } = await openVolume();
  await volume.close();
  bucket.flipBit(LEASE_KEY, 100);
  const error = await assertRejects(() => openVolume({}, { bucket, clock }), DamageError);
  for (const part of [LEASE_KEY, "CRC-32", "--takeover"]) assertStringIncludes(error.message, part);
  const logger = rememberingLogger();
  const { volume: next } = await openVolume({ takeover: true }, { bucket, clock, logger });
  assertStringIncludes(logger.warnings[0], LEASE_KEY);
  assertEquals(leaseIn(bucket).epoch, 2);
  next.abandon();
});

Deno.test("a holder replaces its lease when that has been damaged or deleted", async () => {
  for (const harm of ["damage", "delete"]) {
    const { volume, bucket, clock, failures } = await openVolume();
    if (harm === "damage") bucket.objects.set(LEASE_KEY, { bytes: new Uint8Array(9), etag: "bad" });
    else bucket.objects.delete(LEASE_KEY);
    await clock.advance(LEASE_RENEW_MS);
    assertEquals([leaseIn(bucket).renewedAt, failures], [clock.now(), []]);
    volume.abandon();
  }
});

Deno.test("a crash's newest segment is missed once the lease has been renewed", async () => {
  for (const renewed of [true, false]) {
    const { volume, bucket, clock } = await openVolume();
    for (const value of [1, 2]) {
      volume.write(0, blocks(1, value));
      await volume.flush();
    }
    if (renewed) await clock.advance(LEASE_RENEW_MS);
    volume.abandon();
    bucket.objects.delete(segmentKey(3));
    if (renewed) {
      const error = await assertRejects(() => openVolume({}, { bucket, clock }), DamageError);
      for (const part of [segmentKey(3), LEASE_KEY]) assertStringIncludes(error.message, part);
    } else {
      // nothing in the bucket tells of it: what the README says is not promised
      const { volume: next } = await openVolume({}, { bucket, clock });
      assertEquals(await firstBytes(next, 0, 1), [1]);
      next.abandon();
    }
  }
});
