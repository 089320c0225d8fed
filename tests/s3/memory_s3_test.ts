/** The S3 server that clients are measured against answers as S3 does, is as far away as was set, and counts right. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { S3Bucket } from "../../src/bucket/s3_bucket.ts";
import { systemClock } from "../../src/clock.ts";
import { UnavailableError } from "../../src/errors.ts";
import { silentLogger } from "../../src/logger.ts";
import { testBucketContract } from "../support/bucket_contract.ts";
import { type MemoryS3, startMemoryS3 } from "../support/start_memory_s3.ts";

const KIB = 1024;
const bytes = crypto.getRandomValues(new Uint8Array(64 * KIB));

function open(s3: MemoryS3, bucket: string): Promise<S3Bucket> {
  const options = { ...s3, bucket, prefix: "", pathStyle: true };
  return S3Bucket.open(options, { clock: systemClock, logger: silentLogger });
}

async function ms(act: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await act();
  return performance.now() - begin;
}

Deno.test("memory_s3", async (t) => {
  await using s3 = await startMemoryS3();
  let opened = 0;
  await testBucketContract(t, () => open(s3, `contract-${++opened}`));

  const bucket = await open(s3, "measured");

  await t.step("requests and bytes are counted by kind", async () => {
    await s3.resetCounts();
    await bucket.put("a", bytes);
    await bucket.get("a", { offset: 100, length: 50 });
    await bucket.get("none");
    await bucket.list("");
    await bucket.delete(["a"]);
    assertEquals(await s3.counts(), {
      requests: { GET: 2, PUT: 1, HEAD: 0, LIST: 1, DELETE: 1, other: 0 },
      refused: 0,
      bytesUp: bytes.length,
      bytesDown: 50,
    });
  });

  await t.step("a body that is cut off stores nothing", async () => {
    const { hostname, port } = new URL(s3.endpoint);
    using connection = await Deno.connect({ hostname, port: Number(port) });
    const head = "PUT /measured/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf";
    await connection.write(new TextEncoder().encode(head));
    await connection.closeWrite();
    await connection.read(new Uint8Array(KIB));
    assertEquals(await bucket.get("cut"), null);
  });

  await t.step("an answer is as late as was set", async () => {
    await s3.set({ latencyMs: 100 });
    assert(await ms(() => bucket.put("late", bytes)) >= 99);
    assert(await ms(() => bucket.get("late")) >= 99);
    await s3.set({ latencyMs: 0 });
  });

  await t.step("bytes pass no faster than was set, on a connection and in all", async () => {
    await bucket.put("slow", bytes);
    await s3.set({ connectionBytesPerSecond: 320 * KIB });
    assert(await ms(() => bucket.put("slow", bytes)) >= 195);
    assert(await ms(() => bucket.get("slow")) >= 195);
    await s3.set({ connectionBytesPerSecond: 0, bytesPerSecond: 640 * KIB });
    assert(await ms(() => Promise.all([bucket.get("slow"), bucket.get("slow")])) >= 195);
    await s3.set({ bytesPerSecond: 0 });
  });

  await t.step("a request that is refused did nothing, and is counted", async () => {
    await s3.set({ refusals: 1 });
    await s3.resetCounts();
    await assertRejects(() => bucket.put("refused", bytes), UnavailableError);
    assertEquals((await s3.counts()).refused, 1);
    await s3.set({ refusals: 0 });
    assertEquals(await bucket.get("refused"), null);
  });
  bucket.close();
});
