/**
 * S3Bucket against a real S3 server.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { DeleteBucketCommand } from "@aws-sdk/client-s3";
import { createClient } from "../../src/bucket/s3_client.ts";
import { S3Bucket, type S3Options } from "../../src/bucket/s3_bucket.ts";
import { RetryingBucket } from "../../src/bucket/retrying_bucket.ts";
import { FetchHandler } from "../../src/bucket/s3_http.ts";
import { systemChance, systemClock } from "../../src/clock.ts";
import { UnavailableError, UsageError } from "../../src/errors.ts";
import { silentLogger } from "../../src/logger.ts";
import { keysBelow, testBucketContract } from "../support/bucket_contract.ts";
import { type Ceph, startCeph } from "../support/ceph.ts";
import { startFakeS3 } from "../support/fake_s3.ts";

const deps = { clock: systemClock, chance: systemChance, logger: silentLogger };
const bytesOf = (text: string) => new TextEncoder().encode(text);

function optionsFor(ceph: Ceph, more: Partial<S3Options> = {}): S3Options {
  const { endpoint, accessKeyId, secretAccessKey } = ceph;
  const keys = { accessKeyId, secretAccessKey };
  return { endpoint, ...keys, bucket: "drive", prefix: "", pathStyle: true, ...more };
}

/** The message that opening with these options fails with; it must hold no secret and be one line. */
async function refusal(options: S3Options): Promise<UnavailableError> {
  const error = await assertRejects(() => S3Bucket.open(options, deps), UnavailableError);
  assert(!error.message.includes("\n"), error.message);
  assert(!error.message.includes(options.secretAccessKey ?? "\n"), error.message);
  return error;
}

Deno.test("an S3 bucket keeps the contract", async (t) => {
  await using ceph = await startCeph();
  let n = 0;
  // With retries, as the volume has it: radosgw 16 answers 500 to some who lose a race of If-Match.
  await testBucketContract(t, () => {
    const options = optionsFor(ceph, { prefix: `contract/${n++}` });
    return RetryingBucket.open("s3", (signal) => S3Bucket.open(options, deps, signal), deps);
  });
});

Deno.test("a bucket is opened", async (t) => {
  await using ceph = await startCeph({ tls: true });

  await t.step("and created when there is none, once, by whoever comes first", async () => {
    const opened = await Promise.all(
      Array.from({ length: 4 }, () => S3Bucket.open(optionsFor(ceph, { bucket: "new" }), deps)),
    );
    await opened[0].put("a", bytesOf("x"));
    assertEquals((await opened[3].get("a"))!.size, 1);
    opened.forEach((bucket) => bucket.close());
  });

  await t.step("also with a region that this server does not know", async () => {
    const options = optionsFor(ceph, { bucket: "elsewhere", region: "eu-west-1" });
    const bucket = await S3Bucket.open(options, deps);
    assertEquals(await bucket.list(""), []);
    bucket.close();
  });

  await t.step("and two prefixes in it know nothing of each other", async () => {
    const one = await S3Bucket.open(optionsFor(ceph, { prefix: "/disks//one/" }), deps);
    const two = await S3Bucket.open(optionsFor(ceph, { prefix: "disks/two" }), deps);
    const all = await S3Bucket.open(optionsFor(ceph), deps);
    assertEquals([one.name, all.name], ["s3://drive/disks/one", "s3://drive"]);
    await one.put("log/1", bytesOf("one"));
    await two.put("log/1", bytesOf("two!"));
    assertEquals(await one.list(""), ["log/1"]);
    assertEquals(await keysBelow(all, ""), ["disks/one/log/1", "disks/two/log/1"]);
    await one.delete(["log/1"]);
    assertEquals(await keysBelow(all, ""), ["disks/two/log/1"]);
    for (const bucket of [one, two, all]) bucket.close();
  });

  await t.step("not with a key that the server does not know", async () => {
    const error = await refusal(optionsFor(ceph, { accessKeyId: "nobody" }));
    assert(error.permanent);
    assertEquals(
      error.message,
      `can't open the bucket (s3://drive at ENDPOINT ${ceph.endpoint}): InvalidAccessKeyId; ` +
        "the server does not know this key: check AWS_ACCESS_KEY_ID",
    );
  });

  await t.step("not with the wrong secret", async () => {
    const error = await refusal(optionsFor(ceph, { secretAccessKey: "not-the-secret" }));
    assert(error.permanent);
    assert(error.message.includes("SignatureDoesNotMatch; "), error.message);
    assert(error.message.includes("check AWS_SECRET_ACCESS_KEY"), error.message);
  });

  await t.step("not with a key that may not list it", async () => {
    const error = await refusal(optionsFor(ceph, ceph.other));
    assert(error.permanent);
    assert(error.message.includes("AccessDenied; "), error.message);
    assert(error.message.includes("needs the permission s3:ListBucket on bucket drive"));
  });

  await t.step("not under a name that no bucket can have", async () => {
    const error = await refusal(optionsFor(ceph, { bucket: "no_such_Name!" }));
    assert(error.permanent, error.message);
    assert(error.message.includes(`can't be the name of a bucket`), error.message);
  });

  await t.step("not by TLS where none is spoken", async () => {
    const error = await refusal(
      optionsFor(ceph, { endpoint: ceph.endpoint.replace("http:", "https:") }),
    );
    assert(error.message.includes("should ENDPOINT begin with http://?"), error.message);
  });

  await t.step("not over TLS while its certificate is not trusted", async () => {
    const error = await refusal(optionsFor(ceph, { endpoint: ceph.endpointTls }));
    assert(!error.permanent);
    assert(error.message.includes("certificate is not accepted"), error.message);
  });
});

Deno.test("a running drive hears in words what a person must lift", async (t) => {
  await using ceph = await startCeph();
  const owner = await S3Bucket.open(optionsFor(ceph), deps);
  const admin = await S3Bucket.open(optionsFor(ceph, { bucket: "gone" }), deps);

  await t.step("the bucket was deleted", async () => {
    const client = createClient(optionsFor(ceph), new FetchHandler(systemClock, silentLogger));
    await client.send(new DeleteBucketCommand({ Bucket: "gone" }));
    client.destroy();
    for (
      const request of [
        () => admin.get("a"),
        () => admin.put("a", bytesOf("x"), { ifAbsent: true }),
        () => admin.put("a", bytesOf("x"), { ifMatch: "0123" }),
        () => admin.list(""),
        () => admin.delete(["a"]),
      ]
    ) {
      const error = await assertRejects(request, UnavailableError);
      assert(error.permanent, error.message);
      assert(error.message.includes("there is no bucket gone (any more)"), error.message);
    }
  });

  await t.step("a storage class that the server does not know", async () => {
    const bucket = await S3Bucket.open(optionsFor(ceph, { storageClass: "GLACIER_IR" }), deps);
    const error = await assertRejects(() => bucket.put("log/1", bytesOf("x")), UnavailableError);
    assert(error.message.includes("STORAGE_CLASS"), error.message);
    // It is asked for the log only.
    assert((await bucket.put("lease.json", bytesOf("x"))).stored);
    bucket.close();
  });

  await t.step(
    "the clock is an hour off: it is said once, and the next request passes",
    async () => {
      const warnings: string[] = [];
      const logger = { ...silentLogger, warn: (message: string) => warnings.push(message) };
      const trueNow = Date.now;
      try {
        Date.now = () => trueNow() - 3_600_000;
        (await S3Bucket.open(optionsFor(ceph), { clock: systemClock, logger })).close();
        assertEquals(warnings.length, 1);
        const warning = /^this machine's clock is (3599|3600|3601) s behind the server's: set it/;
        assert(warning.test(warnings[0]), warnings[0]);
        Date.now = () => trueNow() + 3_600_000;
        await assertRejects(() => owner.get("a"), UnavailableError, "s ahead of the server's");
        assertEquals(await owner.get("a"), null);
        await owner.put("a", new Uint8Array(3 << 20));
      } finally {
        Date.now = trueNow;
      }
      await assertRejects(() => owner.get("a"), UnavailableError, "clock was off until now");
      assertEquals((await owner.get("a"))!.size, 3 << 20);
    },
  );

  await t.step("the server was killed, and comes back", async () => {
    await ceph.kill();
    const error = await assertRejects(() => owner.get("a"), UnavailableError);
    assert(!error.permanent);
    assert(
      error.message.startsWith("can't read a (s3://drive at ENDPOINT http://127.0.0.1:"),
      error.message,
    );
    await ceph.start();
    assertEquals((await owner.get("a"))!.size, 3 << 20);
  });

  await t.step("the server is frozen: a signal ends the wait", async () => {
    await ceph.freeze();
    const enough = new Error("enough");
    const abort = new AbortController();
    const requests = [
      owner.get("a", undefined, abort.signal),
      owner.put("b", new Uint8Array(3 << 20), undefined, abort.signal),
      owner.list("", undefined, abort.signal),
    ].map((request) => assertRejects(() => request));
    abort.abort(enough);
    for (const error of await Promise.all(requests)) assertEquals(error, enough);
    await ceph.thaw();
    assertEquals((await owner.get("a"))!.size, 3 << 20);
  });
  owner.close();
  admin.close();
});

Deno.test("somebody else's bucket name is refused as a mistake in the configuration", async () => {
  await using server = await startFakeS3((request) => {
    const code = request.method === "PUT" ? ["BucketAlreadyExists", 409] : ["NoSuchBucket", 404];
    return { status: code[1] as number, body: `<Error><Code>${code[0]}</Code></Error>` };
  });
  const keys = { accessKeyId: "k", secretAccessKey: "s" };
  const options = { bucket: "taken", prefix: "", endpoint: server.endpoint, pathStyle: true };
  const error = await assertRejects(
    () => S3Bucket.open({ ...options, ...keys }, deps),
    UsageError,
  );
  assert(error.message.includes("taken belongs to somebody else: choose another BUCKET"));
});
