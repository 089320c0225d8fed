/**
 * S3Bucket against answers, and silences, that a real server gives only on a bad day.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { ConditionRefusedError, type PutCondition } from "../../src/bucket/bucket.ts";
import { RetryingBucket } from "../../src/bucket/retrying_bucket.ts";
import { S3Bucket, type S3Options } from "../../src/bucket/s3_bucket.ts";
import { s3Failure } from "../../src/bucket/s3_errors.ts";
import { systemChance, systemClock } from "../../src/clock.ts";
import { UnavailableError, UsageError } from "../../src/errors.ts";
import { silentLogger } from "../../src/logger.ts";
import { type FakeAnswer, type FakeRequest, startFakeS3 } from "../support/fake_s3.ts";

const deps = { clock: systemClock, chance: systemChance, logger: silentLogger };
const bytes = new TextEncoder().encode("0123456789");
const emptyList = { body: "<ListBucketResult></ListBucketResult>" };

const optionsFor = (endpoint: string, more: Partial<S3Options> = {}): S3Options => ({
  bucket: "drive",
  prefix: "",
  endpoint,
  pathStyle: true,
  accessKeyId: "testaccess",
  secretAccessKey: "testsecret",
  ...more,
});

/** Opens a bucket on a server that answers an empty list, and everything else as told. */
async function withFake(
  answer: (request: FakeRequest) => FakeAnswer,
  test: (bucket: S3Bucket, server: Awaited<ReturnType<typeof startFakeS3>>) => Promise<void>,
  more: Partial<S3Options> = {},
): Promise<void> {
  await using server = await startFakeS3((request) =>
    request.path.includes("list-type=2") ? emptyList : answer(request)
  );
  const bucket = await S3Bucket.open(optionsFor(server.endpoint, more), deps);
  try {
    await test(bucket, server);
  } finally {
    bucket.close();
  }
}

/** The last request but for lists. */
const last = (server: { requests: readonly FakeRequest[] }) => server.requests.at(-1)!;
const s3Error = (status: number, code: string) => ({
  status,
  body: `<Error><Code>${code}</Code></Error>`,
});

Deno.test("an endpoint that can't be reached is named, with what to check", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = listener.addr.port;
  listener.close();
  const cases = {
    [`http://127.0.0.1:${port}`]: "nobody listens there: check ENDPOINT",
    "http://no-such-host.invalid": "the host name is not known: check ENDPOINT",
  };
  for (const [endpoint, text] of Object.entries(cases)) {
    const open = () => S3Bucket.open(optionsFor(endpoint), deps);
    const error = await assertRejects(open, UnavailableError);
    assertEquals(error.permanent, endpoint.endsWith(".invalid"), "no such host");
    const start = `can't open the bucket (s3://drive at ENDPOINT ${endpoint}): ${text}`;
    assert(error.message.startsWith(start), error.message);
    assert(!error.message.includes("error sending request"), error.message);
  }
});

Deno.test("without an endpoint it is the region that is named; one that can't be any is refused at once", async () => {
  const { endpoint: _, ...atAws } = optionsFor("http://unused", { region: "not a region" });
  const error = await assertRejects(() => S3Bucket.open(atAws, deps), UnavailableError);
  assert(error.permanent);
  assert(
    error.message.includes('at AWS): "not a region" is no region; allowed in REGION'),
    error.message,
  );
  const operation = { what: "open the bucket", permission: "s3:ListBucket" };
  const target = { name: "s3://drive at AWS", bucket: "drive", region: "nowhere-1" };
  const hostSetting = 'the region "nowhere-1"';
  for (
    const [said, permanent] of [
      ["Name or service not known", true],
      ["Temporary failure in name resolution", false],
    ] as const
  ) {
    const silence = new Error(`(Connect): dns error: ${said}`);
    const failure = s3Failure(silence, operation, { ...target, hostSetting, clock: systemClock });
    assertEquals(failure.permanent, permanent, said);
    assert(failure.message.includes('known: check the region "nowhere-1" and'), failure.message);
  }
});

Deno.test("an endpoint that is a web server, not S3, is not taken for a bucket", async () => {
  await using server = await startFakeS3(() => ({ status: 404, body: "<html>Not here</html>" }));
  const open = () => S3Bucket.open(optionsFor(server.endpoint), deps);
  const error = await assertRejects(open, UnavailableError);
  assert(error.message.includes("HTTP 404"), error.message);
});

Deno.test("a server that accepts and never answers is given up at the deadline", async () => {
  await using server = await startFakeS3(() => ({ hang: true }));
  const open = (signal: AbortSignal) => S3Bucket.open(optionsFor(server.endpoint), deps, signal);
  const patient = { ...deps, tryMsBase: 50, clock: hurried(100) };
  const error = await assertRejects(
    () => RetryingBucket.open("s3://drive", open, patient),
    UsageError,
  );
  assert(
    /^no answer within 0 s to: opening the bucket \(s3:\/\/drive\)/.test(error.message),
    error.message,
  );
  await server.until(() => server.connections.size === 0);
});

/** A clock on which time passes `factor` times as fast between one look and the next. */
function hurried(factor: number) {
  return { ...systemClock, monotonic: () => systemClock.monotonic() * factor };
}

Deno.test("an answer cut short is an error, never a shorter object", async () => {
  const answers: FakeAnswer[] = [
    { body: "0123456789", cutAfter: 4 },
    { body: "0123456789", cutAfter: 0 },
    { body: "01234", contentLength: 10, cutAfter: 5 },
  ];
  for (const answer of answers) {
    await withFake(() => answer, async (bucket) => {
      const error = await assertRejects(() => bucket.get("log/1"), UnavailableError);
      assert(!error.permanent);
      assert(/^can't read log\/1 .*: .* after \d+ of 10 bytes/.test(error.message), error.message);
    });
  }
});

Deno.test("an answer that stops midway ends with the signal, and its connection with it", async () => {
  await withFake(
    () => ({ body: "0123456789", cutAfter: 4, hang: true }),
    async (bucket, server) => {
      const abort = new AbortController();
      const get = bucket.get("log/1", undefined, abort.signal);
      await server.until(() => server.answered === 2);
      assertEquals(server.connections.size, 2, "the SDK's, which listed, rests");
      const reason = new Error("deadline");
      abort.abort(reason);
      assertEquals(await assertRejects(() => get), reason);
      await server.until(() => server.connections.size === 1);
    },
  );
});

Deno.test("a server that ignores ranges, or answers another one, is found out", async () => {
  await withFake(() => ({ body: "0123456789" }), async (bucket) => {
    const found = await bucket.get("a", { offset: 2, length: 3 });
    assertEquals([new TextDecoder().decode(found!.bytes), found!.size], ["234", 10]);
  });
  const answer = {
    status: 206,
    body: "012",
    headers: { "Content-Range": "bytes 0-2/10" },
  };
  await withFake(() => answer, async (bucket) => {
    await assertRejects(
      () => bucket.get("a", { offset: 2, length: 3 }),
      UnavailableError,
      "for another range",
    );
  });
});

Deno.test("S3's answers to conditions are read as AWS means them", async () => {
  const cases: [FakeAnswer, string][] = [
    [s3Error(404, "NoSuchKey"), "not stored"],
    [s3Error(409, "ConditionalRequestConflict"), "HTTP 409 ConditionalRequestConflict"],
    [s3Error(501, "NotImplemented"), "the server does not know this request (HTTP 501)"],
    [s3Error(503, "SlowDown"), "HTTP 503 SlowDown"],
  ];
  for (const [answer, expected] of cases) {
    await withFake(() => answer, async (bucket) => {
      const put = bucket.put("a", bytes, { ifMatch: "v1" });
      const outcome = await put.then((r) => r.stored ? "stored" : "not stored", (e) => e.message);
      assert(outcome.includes(expected), outcome);
    });
  }
});

Deno.test("only what says that conditions are not known is taken for a refusal of them", async () => {
  const cases: [number, string, boolean][] = [
    [501, "NotImplemented", true],
    [405, "MethodNotAllowed", true],
    [400, "InvalidArgument", true],
    [400, "ExpiredToken", false],
    [400, "RequestTimeout", false],
    [403, "AccessDenied", false],
    [409, "ConditionalRequestConflict", false],
    [503, "SlowDown", false],
  ];
  for (const [status, code, isRefusal] of cases) {
    await withFake(() => s3Error(status, code), async (bucket) => {
      const failure = (condition?: PutCondition) =>
        assertRejects(() => bucket.put("a", bytes, condition), UnavailableError);
      assertEquals(await failure({ ifAbsent: true }) instanceof ConditionRefusedError, isRefusal);
      assert(!(await failure() instanceof ConditionRefusedError), "a put without a condition");
    });
  }
});

Deno.test("If-Match is sent in the form that the server is seen to accept", async () => {
  for (const [accepted, sent] of [['"v1"', ['"v1"', '"v1"']], ["v1", ['"v1"', "v1", "v1"]]]) {
    const seen: string[] = [];
    const server = (request: FakeRequest): FakeAnswer => {
      if (request.method === "HEAD") return { headers: { ETag: '"v1"' } };
      seen.push(request.headers["if-match"]);
      if (request.headers["if-match"] !== accepted) return s3Error(412, "PreconditionFailed");
      return { headers: { ETag: '"v1"' } };
    };
    await withFake(server, async (bucket) => {
      assertEquals(await bucket.put("a", bytes, { ifMatch: "v1" }), { stored: true, etag: "v1" });
      assertEquals(await bucket.put("a", bytes, { ifMatch: "v1" }), { stored: true, etag: "v1" });
      assertEquals(seen, sent);
      assertEquals(await bucket.put("a", bytes, { ifMatch: "v0" }), { stored: false });
      assertEquals(seen.length, sent.length + 1, "a refusal by a known server is asked once");
    });
  }
});

Deno.test("a delete that S3 refuses for one key is an error that names it", async () => {
  const body =
    "<DeleteResult><Error><Key>log/2</Key><Code>AccessDenied</Code></Error></DeleteResult>";
  await withFake(() => ({ body }), async (bucket, server) => {
    const error = await assertRejects(() => bucket.delete(["log/1", "log/2"]), UnavailableError);
    assert(error.message.startsWith("can't delete log/2 (s3://drive"), error.message);
    assert(error.message.includes("permission s3:DeleteObject"), error.message);
    assert(error.permanent);
    assert(last(server).headers["content-md5"], "older servers want Content-MD5");
  });
});

Deno.test("the storage class is asked for segments only", async () => {
  const stored = { headers: { ETag: '"v1"' } };
  await withFake(() => stored, async (bucket, server) => {
    await bucket.put("log/0000000001", bytes);
    assertEquals(last(server).headers["x-amz-storage-class"], "STANDARD_IA");
    await bucket.put("lease.json", bytes);
    assertEquals(last(server).headers["x-amz-storage-class"], undefined);
  }, { storageClass: "STANDARD_IA", prefix: "disk" });
});

Deno.test("a bucket in another region is found there, and asked there from then on", async () => {
  const regions: string[] = [];
  await using server = await startFakeS3((request) => {
    const region = /Credential=[^/]+\/\d+\/([^/]+)\//.exec(request.headers.authorization)![1];
    regions.push(region);
    const headers = { "x-amz-bucket-region": "eu-west-1" };
    return region === "eu-west-1"
      ? { ...emptyList, headers }
      : { ...s3Error(301, "PermanentRedirect"), headers };
  });
  const bucket = await S3Bucket.open(optionsFor(server.endpoint), deps);
  await bucket.list("log/");
  assertEquals(regions, ["us-east-1", "eu-west-1", "eu-west-1"]);
  bucket.close();
});

Deno.test("the region of a bucket that is made goes to AWS in the way it wants", async () => {
  const made: string[] = [];
  for (const region of ["us-east-1", "eu-central-1"]) {
    let there = false;
    await using server = await startFakeS3((request) => {
      if (request.method !== "PUT") return there ? emptyList : s3Error(404, "NoSuchBucket");
      made.push(request.body);
      there = true;
      return {};
    });
    (await S3Bucket.open(optionsFor(server.endpoint, { region }), deps)).close();
  }
  assert(!made[0].includes("LocationConstraint"), made[0]);
  assert(made[1].includes("<LocationConstraint>eu-central-1</LocationConstraint>"), made[1]);
});

Deno.test("an answer that is an error is not asked for a second time to be understood", async () => {
  await withFake(() => s3Error(503, "SlowDown"), async (bucket, server) => {
    const before = server.requests.length;
    await assertRejects(() => bucket.get("a"), UnavailableError, "SlowDown");
    await assertRejects(() => bucket.put("a", bytes), UnavailableError, "SlowDown");
    assertEquals(server.requests.slice(before).map(({ method }) => method), ["GET", "PUT"]);
  });
});
