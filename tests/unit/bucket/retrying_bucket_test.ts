import { assert, assertEquals, assertRejects } from "@std/assert";
import { ConditionalBucket } from "../../../src/bucket/conditional_bucket.ts";
import { BucketCounts, CountingBucket } from "../../../src/bucket/counting_bucket.ts";
import { Retries } from "../../../src/bucket/retries.ts";
import { RetryingBucket } from "../../../src/bucket/retrying_bucket.ts";
import { UnavailableError, UsageError } from "../../../src/errors.ts";
import { type Logger, silentLogger } from "../../../src/logger.ts";
import { fixedChance, ManualClock, settle } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";

const bytes = new Uint8Array([1, 2, 3, 4]);
const away = new UnavailableError("HTTP 503 SlowDown");
const denied = new UnavailableError("AccessDenied; this key needs s3:PutObject", true);

/** A bucket with retries over one in memory; chance always takes the longest wait. */
function setUp(options: { serving: boolean; random?: number }) {
  const clock = new ManualClock();
  const log: string[] = [];
  const logger: Logger = { ...silentLogger, warn: (message) => log.push(message) };
  const inner = new MemoryBucket();
  const chance = fixedChance(options.random ?? 1);
  const bucket = new RetryingBucket(inner, new Retries(inner.name, { clock, chance, logger }));
  if (options.serving) bucket.startServing();
  return { clock, log, inner, bucket };
}

/** Settles as the promise did, or says "waiting". */
async function stateOf<T>(promise: Promise<T>): Promise<T | "waiting" | Error> {
  const outcome = promise.catch((error: Error) => error);
  await settle();
  return Promise.race([outcome, Promise.resolve("waiting" as const)]);
}

Deno.test("what fails is tried again, and that is counted", async () => {
  const { clock, inner, bucket } = setUp({ serving: true });
  inner.failPutsBeforeApply(2);
  inner.failGets(1);
  const put = bucket.put("a", bytes);
  await clock.advance(1000);
  assert((await put).stored);
  const get = bucket.get("a", { offset: 1, length: 2 });
  await clock.advance(1000);
  assertEquals((await get)!.bytes, bytes.subarray(1, 3));
  await bucket.list("");
  await bucket.delete(["a"]);
  assertEquals(bucket.retryCount, 3);
});

Deno.test("a put that arrived although its answer was lost is reported as not stored", async () => {
  const { clock, inner, bucket } = setUp({ serving: true });
  inner.failPutsAfterApply(1);
  const put = bucket.put("log/1", bytes, { ifAbsent: true });
  await clock.advance(1000);
  assertEquals(await put, { stored: false });
  assertEquals(inner.objects.get("log/1")!.bytes, bytes);
});

Deno.test("waits double from 100 ms to 10 s, and chance shortens them", async () => {
  for (const random of [1, 0.5]) {
    const { clock, inner, bucket } = setUp({ serving: true, random });
    inner.outage = away;
    void bucket.get("a").catch(() => {});
    for (const waitMs of [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]) {
      await settle();
      const before = inner.counts.get.requests;
      await clock.advance(waitMs * random - 1);
      assertEquals(inner.counts.get.requests, before, `${waitMs} ms, chance ${random}`);
      await clock.advance(1);
      assertEquals(inner.counts.get.requests, before + 1, `${waitMs} ms, chance ${random}`);
    }
    bucket.close();
  }
});

Deno.test("a try without an answer ends after 30 s and its bytes", async () => {
  const { clock, inner, bucket } = setUp({ serving: true, random: 0 });
  inner.hangPutsBeforeApply(2);
  // 8 MiB at 128 KiB/s: 64 s.
  const put = bucket.put("a", new Uint8Array(8 << 20));
  await clock.advance(93_999);
  assertEquals(inner.counts.put.requests, 1);
  await clock.advance(1);
  assertEquals(inner.counts.put.requests, 2);
  // nothing else was answered: a longer try would only notice later that the bucket is back
  await clock.advance(94_000);
  assert((await put).stored);
  assertEquals(clock.pending, 0);
});

Deno.test("on a line that serves others the next try has twice as long, up to eight times", async () => {
  const { clock, inner, bucket } = setUp({ serving: true, random: 0 });
  inner.hangPutsBeforeApply(5);
  const put = bucket.put("a", new Uint8Array(8 << 20));
  for (const seconds of [94, 188, 376, 752, 752]) {
    const before = inner.counts.put.requests;
    await bucket.list("");
    await clock.advance(seconds * 1000 - 1);
    assertEquals(inner.counts.put.requests, before);
    await clock.advance(1);
    assertEquals(inner.counts.put.requests, before + 1);
  }
  assert((await put).stored);
});

Deno.test("a try that hangs ends even if the bucket below does not hear the signal", async () => {
  const { clock, inner, bucket } = setUp({ serving: true, random: 0 });
  const signals: AbortSignal[] = [];
  inner.list = (_prefix, _startAfter, signal) =>
    signals.push(signal!) === 1 ? new Promise(() => {}) : Promise.resolve([]);
  const list = bucket.list("log/");
  await clock.advance(30_000);
  assertEquals(await list, []);
  assertEquals(signals.map(({ aborted }) => aborted), [true, false], "it was told");
  assertEquals(clock.pending, 0);
  inner.list = () => new Promise(() => {});
  const caller = new AbortController();
  const given = assertRejects(() => bucket.list("log/", "", caller.signal), Error, "enough");
  await settle();
  caller.abort(new Error("enough"));
  await given;
  assertEquals(clock.pending, 0);
});

Deno.test("a starting program hears at once what a person must lift", async () => {
  const { inner, bucket } = setUp({ serving: false });
  inner.outage = denied;
  const error = await assertRejects(() => bucket.put("a", bytes), UsageError);
  assertEquals(error.message, denied.message);
  assertEquals(inner.counts.put.requests, 1);
});

Deno.test("a starting program gives a bucket that is away ten seconds", async () => {
  const { clock, inner, bucket } = setUp({ serving: false });
  inner.outage = away;
  const get = bucket.get("a");
  assertEquals(await stateOf(get), "waiting");
  await clock.advance(6_000);
  assertEquals(await stateOf(get), "waiting");
  await clock.advance(4_000);
  const error = await assertRejects(() => get, UsageError);
  assert(/^HTTP 503 SlowDown \(tried for \d+ s\)$/.test(error.message), error.message);
});

Deno.test("a starting program gives a bucket that is silent ten seconds", async () => {
  const { clock, inner, bucket } = setUp({ serving: false });
  inner.hangLists(9);
  const refused = assertRejects(() => bucket.list(""), UsageError);
  await clock.advance(10_000);
  const error = await refused;
  assertEquals(error.message, "no answer within 10 s to: list * (memory:) (tried for 10 s)");
});

Deno.test("opening a bucket has the same patience", async () => {
  const clock = new ManualClock();
  const options = { clock, chance: fixedChance(1), logger: silentLogger };
  let tries = 0;
  const opening = RetryingBucket.open("s3://b", () => {
    if (++tries < 3) return Promise.reject(away);
    return Promise.resolve(new MemoryBucket());
  }, options);
  await clock.advance(1000);
  const bucket = await opening;
  assertEquals([tries, bucket.name, bucket.retryCount], [3, "memory:", 2]);
  await assertRejects(
    () => RetryingBucket.open("s3://b", () => Promise.reject(denied), options),
    UsageError,
  );
  const mistake = new TypeError("a mistake in the program");
  assertEquals(
    await assertRejects(() =>
      RetryingBucket.open("s3://b", () => Promise.reject(mistake), options)
    ),
    mistake,
  );
});

Deno.test("a running drive waits for ever, also for what a person must lift", async () => {
  const { clock, inner, bucket } = setUp({ serving: true });
  inner.outage = denied;
  const put = bucket.put("a", bytes);
  await clock.advance(3_600_000);
  assertEquals(await stateOf(put), "waiting");
  inner.outage = null;
  await clock.advance(10_000);
  assert((await put).stored);
});

Deno.test("an outage is one story in the log: begin, every 30 s, end", async () => {
  const { clock, log, inner, bucket } = setUp({ serving: true });
  inner.outage = away;
  const requests = [bucket.put("a", bytes), bucket.put("b", bytes), bucket.get("c")];
  await clock.advance(1_499);
  assertEquals(log, []);
  await clock.advance(1);
  assertEquals(log, [
    "memory: does not serve: HTTP 503 SlowDown; what needs it waits, and it is tried on and on",
  ]);
  await clock.advance(60_000);
  assertEquals(log.slice(1), [
    "memory: has not served for 32 s: HTTP 503 SlowDown; 3 requests wait",
    "memory: has not served for 62 s: HTTP 503 SlowDown; 3 requests wait",
  ]);
  inner.outage = null;
  await clock.advance(10_000);
  await Promise.all(requests);
  assertEquals(log.length, 4);
  assert(/^memory: serves again after \d\d s$/.test(log[3]), log[3]);
  await clock.advance(3_600_000);
  assertEquals([log.length, clock.pending], [4, 0]);
});

Deno.test("a bucket that is silent is an outage before the try is given up", async () => {
  const { clock, log, inner, bucket } = setUp({ serving: true, random: 0 });
  inner.hangGets(1);
  inner.hangPutsBeforeApply(1);
  const requests = [bucket.get("a", { offset: 0, length: 512 << 10 }), bucket.put("b", bytes)];
  assertEquals(clock.pending, 2, "one a try");
  await clock.advance(10_001);
  assertEquals(log, [
    "memory: does not serve: no answer for 10 s to: write b (memory:); " +
    "what needs it waits, and it is tried on and on",
  ]);
  await clock.advance(24_000);
  await Promise.all(requests);
  assertEquals(log.slice(1), ["memory: serves again after 34 s"]);
  assertEquals(clock.pending, 0);
});

Deno.test("a silent request on a bucket that serves others is no outage until it is given up", async () => {
  const { clock, log, inner, bucket } = setUp({ serving: true, random: 0 });
  inner.hangPutsBeforeApply(1);
  const put = bucket.put("b", bytes);
  await clock.advance(5_000);
  await bucket.get("a");
  await clock.advance(24_999);
  assertEquals(log, []);
  await clock.advance(2);
  await put;
  assertEquals(log.length, 2);
});

Deno.test("requests that each fail in passing are no outage, however many follow each other", async () => {
  const { clock, log, inner, bucket } = setUp({ serving: true });
  inner.failPutsBeforeApply(5); // after 0, 100, 300, 700 and 1,500 ms
  const stuck = bucket.put("a", bytes);
  await clock.advance(3_100);
  await stuck;
  assertEquals(log.length, 2, "begin and end");
  for (let n = 0; n < 1000; n++) {
    inner.failGets(1);
    void bucket.get("a");
    await clock.advance(60); // the next one fails before this one is through
  }
  assertEquals(log.length, 2);
});

Deno.test("a refusal is logged at once, and a passing 503 not at all", async () => {
  const { clock, log, inner, bucket } = setUp({ serving: true });
  inner.failGets(3);
  const get = bucket.get("a");
  await clock.advance(1000);
  assertEquals(await get, null);
  assertEquals(log, []);
  inner.outage = denied;
  const put = bucket.put("a", bytes);
  await settle();
  assertEquals(log.length, 1);
  inner.outage = null;
  await clock.advance(1000);
  await put;
  assertEquals(log[1], "memory: serves again after 0 s");
});

Deno.test("a caller's signal ends its request only, between tries and within one", async () => {
  const { clock, log, inner, bucket } = setUp({ serving: true });
  inner.outage = denied;
  const abort = new AbortController();
  const reason = new Error("iotimeout");
  const between = bucket.get("a", undefined, abort.signal);
  const other = bucket.get("b");
  await settle();
  abort.abort(reason);
  assertEquals(await stateOf(between), reason);
  assertEquals(await stateOf(other), "waiting");
  inner.outage = null;
  await clock.advance(1000);
  assertEquals(await other, null);
  assertEquals(log.length, 2);

  inner.hangGets(1);
  const second = new AbortController();
  const within = bucket.get("a", undefined, second.signal);
  await settle();
  second.abort(reason);
  assertEquals(await stateOf(within), reason);
  assertEquals(clock.pending, 0);
  assertEquals(await assertRejects(() => bucket.get("a", undefined, second.signal)), reason);
});

Deno.test("close rejects what waits and what comes, and leaves no timer", async () => {
  const { clock, inner, bucket } = setUp({ serving: true });
  inner.outage = denied;
  inner.hold("put");
  const waiting = bucket.get("a");
  const underWay = bucket.put("a", bytes);
  const states = [waiting, underWay].map((request) => request.catch((error: Error) => error));
  await settle();
  bucket.close();
  for (const state of [...states, stateOf(bucket.list(""))]) {
    const error = await state;
    assert(error instanceof UnavailableError);
    assertEquals(error.message, "memory: was closed while requests waited for it");
  }
  await settle();
  assertEquals(clock.pending, 0);
});

Deno.test("what is prepared is prepared by the innermost bucket, and counts as no request", async () => {
  const clock = new ManualClock();
  const prepared: Uint8Array[] = [];
  const inner = Object.assign(new MemoryBucket(), {
    prepare: (bytes: Uint8Array) => Promise.resolve(void prepared.push(bytes)),
  });
  const counts = new BucketCounts();
  const retries = new Retries("", { clock, chance: fixedChance(1), logger: silentLogger });
  const counting = new CountingBucket(inner, counts, clock);
  await new RetryingBucket(new ConditionalBucket(counting), retries).prepare(bytes);
  assert(prepared.length === 1 && prepared[0] === bytes, "the very array");
  assertEquals(counts.put.requests, 0);
});
