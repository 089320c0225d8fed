import { assert, assertEquals, assertRejects } from "@std/assert";
import { UnavailableError } from "../../../src/errors.ts";
import { testBucketContract } from "../../support/bucket_contract.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";

const bytes = new Uint8Array([1, 2, 3, 4]);

Deno.test("a memory bucket keeps the contract", async (t) => {
  await testBucketContract(t, () => Promise.resolve(new MemoryBucket()));
});

Deno.test("puts fail before and after they are applied, in the order that was asked for", async () => {
  const bucket = new MemoryBucket();
  bucket.failPutsBeforeApply(1);
  bucket.failPutsAfterApply(1);
  await assertRejects(() => bucket.put("a", bytes), UnavailableError);
  assertEquals(bucket.objects.size, 0);
  await assertRejects(() => bucket.put("a", bytes), UnavailableError);
  assertEquals(bucket.objects.size, 1);
  assertEquals(await bucket.put("a", bytes, { ifAbsent: true }), { stored: false });
  assertEquals(bucket.counts.put, { requests: 3, bytes: 8 });
  assertEquals(bucket.counts.failed, 2);
});

Deno.test("truncated gets give half the bytes and the true size", async () => {
  const bucket = new MemoryBucket();
  await bucket.put("a", bytes);
  bucket.truncateGets(1);
  const found = await bucket.get("a");
  assertEquals([found!.bytes.length, found!.size], [2, 4]);
  assertEquals((await bucket.get("a"))!.bytes, bytes);
});

Deno.test("a hanging put ends with its signal", async () => {
  const bucket = new MemoryBucket();
  bucket.hangPutsAfterApply(1);
  const abort = new AbortController();
  const put = bucket.put("a", bytes, undefined, abort.signal);
  const reason = new Error("enough");
  abort.abort(reason);
  assertEquals(await assertRejects(() => put), reason);
});

Deno.test("held puts take effect when they are let go, in any order", async () => {
  const bucket = new MemoryBucket();
  bucket.hold("put");
  const first = bucket.put("1", bytes);
  const second = bucket.put("2", bytes);
  await bucket.untilHeld(2);
  bucket.held[1].release();
  assert((await second).stored);
  assertEquals([...bucket.objects.keys()], ["2"]);
  bucket.held[0].fail();
  await assertRejects(() => first, UnavailableError);
  bucket.release("put");
  assert((await bucket.put("1", bytes)).stored);
});
