import { assert, assertEquals, assertRejects } from "@std/assert";
import { ConditionRefusedError } from "../../../src/bucket/bucket.ts";
import { ConditionalBucket } from "../../../src/bucket/conditional_bucket.ts";
import { UnavailableError } from "../../../src/errors.ts";
import { testBucketContract } from "../../support/bucket_contract.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";

const bytesOf = (text: string) => new TextEncoder().encode(text);
const KEY = "volume.json";

type Conditions = MemoryBucket["conditions"];

/** A store that treats conditions so, with one object in it. */
async function setUp(conditions: Partial<Conditions>) {
  const store = new MemoryBucket();
  await store.put(KEY, bytesOf("what is there"));
  Object.assign(store.conditions, conditions);
  return { store, bucket: new ConditionalBucket(store) };
}

const textAt = (store: MemoryBucket, key: string) => {
  const object = store.objects.get(key);
  return object && new TextDecoder().decode(object.bytes);
};

const UNCONDITIONAL: [Partial<Conditions>, string[]][] = [
  [{ ifAbsent: "ignored", ifMatch: "ignored" }, ["If-None-Match", "If-Match"]],
  [{ ifAbsent: "refused", ifMatch: "refused" }, ["If-None-Match", "If-Match"]],
  [{ ifMatch: "refused" }, ["If-Match"]],
  [{ ifMatch: "ignored" }, ["If-Match"]],
  [{ ifAbsent: "ignored" }, ["If-None-Match"]],
  [{ ifAbsent: "ignored", ifMatch: "refused" }, ["If-None-Match", "If-Match"]],
];

Deno.test("where the store honours conditions the contract is kept", async (t) => {
  await testBucketContract(t, () => Promise.resolve(new ConditionalBucket(new MemoryBucket())));
});

Deno.test("a store that honours conditions is left as it was, and asked as before", async () => {
  const { store, bucket } = await setUp({});
  const before = store.objects.get(KEY);
  assertEquals(await bucket.probeConditions(KEY), []);
  assertEquals(store.objects.get(KEY), before);
  const gets = store.counts.get.requests;
  await bucket.put("a", bytesOf("1"), { ifAbsent: true });
  assertEquals(store.counts.get.requests, gets, "no look is taken");
});

Deno.test("what a store ignores or refuses is found out, and its object keeps its bytes", async () => {
  for (const [conditions, missing] of UNCONDITIONAL) {
    const { store, bucket } = await setUp(conditions);
    assertEquals(await bucket.probeConditions(KEY), missing);
    assertEquals(textAt(store, KEY), "what is there");
  }
});

Deno.test("conditions that the store does not honour are kept by a look before the put", async () => {
  for (const [conditions] of UNCONDITIONAL) {
    const { store, bucket } = await setUp(conditions);
    await bucket.probeConditions(KEY);
    const first = await bucket.put("a", bytesOf("1"), { ifAbsent: true });
    assert(first.stored);
    assertEquals(await bucket.put("a", bytesOf("2"), { ifAbsent: true }), { stored: false });
    const second = await bucket.put("a", bytesOf("3"), { ifMatch: first.etag });
    assert(second.stored);
    for (const etag of [first.etag, "f".repeat(32)]) {
      assertEquals(await bucket.put("a", bytesOf("4"), { ifMatch: etag }), { stored: false });
    }
    assertEquals(await bucket.put("none", bytesOf("5"), { ifMatch: "v1" }), { stored: false });
    assertEquals([textAt(store, "a"), textAt(store, "none")], ["3", undefined]);
  }
});

Deno.test("a refusal is understood before the probe too: somebody has to create the object", async () => {
  const { store, bucket } = await setUp({ ifAbsent: "refused", ifMatch: "refused" });
  assert((await bucket.put("new", bytesOf("1"), { ifAbsent: true })).stored);
  assertEquals(await bucket.put("new", bytesOf("2"), { ifAbsent: true }), { stored: false });
  assertEquals(await bucket.probeConditions("new"), ["If-None-Match", "If-Match"]);
  assertEquals(textAt(store, "new"), "1");
});

Deno.test("after the probe a refusal is an error: a running drive does not get less safe unheard", async () => {
  const { store, bucket } = await setUp({});
  await bucket.probeConditions(KEY);
  store.conditions.ifAbsent = "refused";
  const error = await assertRejects(
    () => bucket.put("a", bytesOf("1"), { ifAbsent: true }),
    ConditionRefusedError,
  );
  assert(error instanceof UnavailableError && error.permanent);
  assertEquals(textAt(store, "a"), undefined);
});

Deno.test("each try looks anew: one whose answer was lost is not stored twice", async () => {
  const { store, bucket } = await setUp({ ifAbsent: "ignored" });
  await bucket.probeConditions(KEY);
  store.failPutsAfterApply(1);
  await assertRejects(() => bucket.put("a", bytesOf("1"), { ifAbsent: true }), UnavailableError);
  assertEquals(await bucket.put("a", bytesOf("2"), { ifAbsent: true }), { stored: false });
  assertEquals(textAt(store, "a"), "1");
});
