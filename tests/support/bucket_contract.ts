/**
 * What every Bucket does, as one suite: run against the memory bucket, a directory and a real S3 server, so
 * that a volume tested on one of them is tested for all.
 */
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import type { Bucket, PutResult } from "../../src/bucket/bucket.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const bytesOf = (text: string) => encoder.encode(text);

async function textAt(bucket: Bucket, key: string): Promise<string | null> {
  const found = await bucket.get(key);
  return found && decoder.decode(found.bytes);
}

function etagOf(result: PutResult): string {
  assert(result.stored, "the put was refused");
  return result.etag;
}

/** All keys below `prefix`, page by page. */
export async function keysBelow(bucket: Bucket, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  while (true) {
    const page = await bucket.list(prefix, keys.at(-1));
    if (page.length === 0) return keys;
    keys.push(...page);
  }
}

/** Runs the suite as steps of `t`; `open` gives an empty bucket each time. */
export async function testBucketContract(
  t: Deno.TestContext,
  open: () => Promise<Bucket>,
): Promise<void> {
  for (const [name, test] of Object.entries(contract)) {
    await t.step(name, async () => {
      const bucket = await open();
      try {
        await test(bucket);
      } finally {
        bucket.close();
      }
    });
  }
}

const contract: Record<string, (bucket: Bucket) => Promise<void>> = {
  "what was put is got, whole, with its size": async (bucket) => {
    await bucket.put("log/0000000001", bytesOf("hello"));
    const found = await bucket.get("log/0000000001");
    assertEquals(decoder.decode(found!.bytes), "hello");
    assertEquals(found!.size, 5);
  },

  "a key that was never put, or only begins another, is null": async (bucket) => {
    await bucket.put("log/0000000001", bytesOf("x"));
    assertEquals(await bucket.get("log/0000000002"), null);
    assertEquals(await bucket.get("log"), null);
    assertEquals(await bucket.get("nowhere/at/all"), null);
    assertEquals(await bucket.get("nowhere", { offset: 0, length: 10 }), null);
    assertEquals(await bucket.get("log/0000000001/below"), null);
  },

  "a range gives its bytes, cut at the end of the object": async (bucket) => {
    await bucket.put("a", bytesOf("0123456789"));
    const range = async (offset: number, length: number) => {
      const found = await bucket.get("a", { offset, length });
      assertEquals(found!.size, 10, `size with range ${offset}+${length}`);
      return decoder.decode(found!.bytes);
    };
    assertEquals(await range(0, 10), "0123456789");
    assertEquals(await range(2, 3), "234");
    assertEquals(await range(8, 100), "89");
    assertEquals(await range(0, 1), "0");
    assertEquals(await range(10, 1), "");
    assertEquals(await range(4000, 5), "");
    assertEquals(await range(3, 0), "");
  },

  "an empty object is an object": async (bucket) => {
    await bucket.put("empty", new Uint8Array(0));
    const found = await bucket.get("empty");
    assertEquals([found!.bytes.length, found!.size], [0, 0]);
    assertEquals((await bucket.get("empty", { offset: 0, length: 9 }))!.bytes.length, 0);
    assertEquals(await bucket.list(""), ["empty"]);
  },

  "eight MiB come back as they were, also in part": async (bucket) => {
    const big = new Uint8Array(8 << 20);
    for (let i = 0; i < big.length; i += 65536) crypto.getRandomValues(big.subarray(i, i + 65536));
    await bucket.put("big", big);
    assertEquals((await bucket.get("big"))!.bytes, big);
    const part = await bucket.get("big", { offset: 1_000_001, length: 2_000_000 });
    assertEquals(part!.bytes, big.subarray(1_000_001, 3_000_001));
  },

  "a put without condition replaces, and the etag changes": async (bucket) => {
    const first = etagOf(await bucket.put("a", bytesOf("one")));
    assertEquals((await bucket.get("a"))!.etag, first);
    const second = etagOf(await bucket.put("a", bytesOf("two")));
    assertNotEquals(second, first);
    const found = await bucket.get("a", { offset: 1, length: 1 });
    assertEquals([found!.etag, decoder.decode(found!.bytes)], [second, "w"]);
  },

  "ifAbsent stores once": async (bucket) => {
    assert((await bucket.put("log/1", bytesOf("one"), { ifAbsent: true })).stored);
    assertEquals(await bucket.put("log/1", bytesOf("two"), { ifAbsent: true }), { stored: false });
    assertEquals(await textAt(bucket, "log/1"), "one");
    await bucket.delete(["log/1"]);
    assert((await bucket.put("log/1", bytesOf("three"), { ifAbsent: true })).stored);
  },

  "ifMatch replaces that version only": async (bucket) => {
    const first = etagOf(await bucket.put("a", bytesOf("one")));
    const second = etagOf(await bucket.put("a", bytesOf("two"), { ifMatch: first }));
    assertEquals(await bucket.put("a", bytesOf("three"), { ifMatch: first }), { stored: false });
    assertEquals(await textAt(bucket, "a"), "two");
    assert((await bucket.put("a", bytesOf("four"), { ifMatch: second })).stored);
    assertEquals(await textAt(bucket, "a"), "four");
  },

  "ifMatch on a key that is not there stores nothing": async (bucket) => {
    const etag = etagOf(await bucket.put("a", bytesOf("one")));
    await bucket.delete(["a"]);
    assertEquals(await bucket.put("a", bytesOf("two"), { ifMatch: etag }), { stored: false });
    assertEquals(await bucket.put("folder/b", bytesOf("x"), { ifMatch: etag }), { stored: false });
    assertEquals(await bucket.get("a"), null);
    assertEquals(await bucket.list(""), []);
  },

  "of 16 that create one key at once, one succeeds": async (bucket) => {
    for (let round = 0; round < 20; round++) {
      const tries = Array.from(
        { length: 16 },
        (_, n) => bucket.put(`race/${round}`, bytesOf(`writer ${n}`), { ifAbsent: true }),
      );
      const winners = (await Promise.all(tries)).flatMap((r, n) => r.stored ? [n] : []);
      assertEquals(winners.length, 1, `round ${round}: winners ${winners}`);
      assertEquals(await textAt(bucket, `race/${round}`), `writer ${winners[0]}`);
    }
  },

  "of 16 that replace one version at once, one succeeds": async (bucket) => {
    let etag = etagOf(await bucket.put("race", bytesOf("start")));
    for (let round = 0; round < 20; round++) {
      const tries = Array.from(
        { length: 16 },
        (_, n) => bucket.put("race", bytesOf(`round ${round} writer ${n}`), { ifMatch: etag }),
      );
      const results = await Promise.all(tries);
      const winners = results.flatMap((r, n) => r.stored ? [n] : []);
      assertEquals(winners.length, 1, `round ${round}: winners ${winners}`);
      etag = etagOf(results[winners[0]]);
      assertEquals(await textAt(bucket, "race"), `round ${round} writer ${winners[0]}`);
    }
  },

  "delete removes, and a key that is not there is no error": async (bucket) => {
    await bucket.put("log/1", bytesOf("x"));
    await bucket.put("log/2", bytesOf("y"));
    await bucket.delete(["log/1", "log/never", "nowhere/at/all"]);
    assertEquals(await bucket.get("log/1"), null);
    assertEquals(await textAt(bucket, "log/2"), "y");
    await bucket.delete(["log/1", "log/2"]);
    assertEquals(await bucket.list(""), []);
    assert((await bucket.put("log/1", bytesOf("again"))).stored);
  },

  "list gives the keys below a prefix in byte order": async (bucket) => {
    const keys = ["log/0000000002", "log/0000000010", "log-old", "map/7/1", "map/10/1", "logs"];
    for (const key of keys) await bucket.put(key, bytesOf(key));
    assertEquals(
      await bucket.list(""),
      ["log-old", "log/0000000002", "log/0000000010", "logs", "map/10/1", "map/7/1"],
    );
    assertEquals(await bucket.list("log/"), ["log/0000000002", "log/0000000010"]);
    assertEquals((await bucket.list("log/00000000", "log/0000000002")).length, 1);
    assertEquals(await bucket.list("map/", "map/10/1"), ["map/7/1"]);
    assertEquals((await bucket.list("map/", "map/10/0")).length, 2);
    assertEquals((await bucket.list("map/", "aaa")).length, 2);
    assertEquals(await bucket.list("map/", "map/7/1"), []);
    assertEquals(await bucket.list("nothing/"), []);
  },

  "list goes on after 1,000 keys, and sees what changed meanwhile": async (bucket) => {
    const key = (n: number) => `log/${String(n).padStart(10, "0")}`;
    for (let n = 0; n < 2100; n += 100) {
      await Promise.all(
        Array.from({ length: 100 }, (_, i) => bucket.put(key(n + i), new Uint8Array(0))),
      );
    }
    assertEquals(await keysBelow(bucket, "log/"), Array.from({ length: 2100 }, (_, n) => key(n)));
    const page = await bucket.list("log/");
    assertEquals(page[0], key(0));
    await bucket.put(`${key(1500)}-new`, new Uint8Array(0));
    await bucket.delete([key(1000)]);
    const next = await bucket.list("log/", key(999));
    assertEquals(next[0], key(1001));
    assert(next.includes(`${key(1500)}-new`));
    for (let keys; (keys = await bucket.list("log/")).length > 0;) {
      await bucket.delete(keys.slice(0, 1000));
    }
  },

  "an aborted request rejects with the signal's reason": async (bucket) => {
    const reason = new Error("given up");
    const signal = AbortSignal.abort(reason);
    for (
      const request of [
        () => bucket.get("a", undefined, signal),
        () => bucket.put("a", bytesOf("x"), undefined, signal),
      ]
    ) {
      assertEquals(await assertRejects(request), reason);
    }
  },
};
