/** Requests without the SDK's middleware are signed as AWS's own examples are, and go where the SDK's went last. */
import { assertEquals, assertNotEquals } from "@std/assert";
import { ListObjectsV2Command } from "@aws-sdk/client-s3";
import { createClient, type S3Options } from "../../../src/bucket/s3_client.ts";
import type { HttpRequest } from "../../../src/bucket/http_connection.ts";
import { DirectRequests } from "../../../src/bucket/s3_direct.ts";
import { FetchHandler } from "../../../src/bucket/s3_http.ts";
import { sha256, sha256Now } from "../../../src/bucket/sha256.ts";
import { silentLogger } from "../../../src/logger.ts";
import { ManualClock } from "../../support/manual_clock.ts";

interface Sent {
  url: string;
  headers: Record<string, string>;
}

/** Answers everything with nothing. */
class SilentHandler extends FetchHandler {
  override fetch(): Promise<Response> {
    return Promise.resolve(new Response("<ListBucketResult/>"));
  }
}

/** The same, and remembers it. */
class SilentClient {
  readonly isStuck = false;
  readonly sent: Sent[] = [];

  request(origin: string, { path, headers }: HttpRequest) {
    this.sent.push({ url: origin + path, headers });
    return Promise.resolve({ status: 200, reason: "OK", headers: {}, body: new Uint8Array(0) });
  }
}

/** "Signature Calculations for the Authorization Header" of the S3 API reference, all its examples. */
const EXAMPLE: S3Options = {
  bucket: "examplebucket",
  prefix: "",
  endpoint: "https://s3.amazonaws.com",
  pathStyle: false,
  region: "us-east-1",
  accessKeyId: "AKIAIOSFODNN7EXAMPLE",
  secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};

async function opened(options: S3Options) {
  const http = new SilentClient();
  const clock = new ManualClock(Date.UTC(2013, 4, 24));
  const client = createClient(options, new SilentHandler(clock, silentLogger));
  const direct = new DirectRequests(client, http, clock, silentLogger);
  const before = await direct.send("GET", "too-early", {}, undefined);
  assertEquals([before, http.sent.length], [undefined, 0]);
  await client.send(new ListObjectsV2Command({ Bucket: options.bucket }));
  return { direct, client, clock, sent: http.sent, close: () => client.destroy() };
}

function signatureOf({ headers }: Sent): string | undefined {
  return /Signature=(.*)/.exec(headers.authorization)?.[1];
}

Deno.test("a GET of a range has the signature that AWS's example has", async () => {
  const { direct, sent, close } = await opened(EXAMPLE);
  await direct.send("GET", "test.txt", { range: "bytes=0-9" }, undefined);
  assertEquals(sent[0].url, "https://examplebucket.s3.amazonaws.com/test.txt");
  assertEquals(
    signatureOf(sent[0]),
    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
  );
  close();
});

Deno.test("so has a PUT, with a key that has to be encoded and headers of its own", async () => {
  const { direct, sent, close } = await opened({ ...EXAMPLE, endpoint: "http://s3.amazonaws.com" });
  const body = new TextEncoder().encode("Welcome to Amazon S3.");
  const headers = {
    date: "Fri, 24 May 2013 00:00:00 GMT",
    "x-amz-storage-class": "REDUCED_REDUNDANCY",
  };
  await direct.send("PUT", "test$file.text", headers, body);
  assertEquals(sent[0].url, "http://examplebucket.s3.amazonaws.com/test%24file.text");
  assertEquals(
    signatureOf(sent[0]),
    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
  );
  close();
});

Deno.test("with a path style the bucket is in the path, and a session's token is sent and signed", async () => {
  const { direct, sent, close } = await opened({
    ...EXAMPLE,
    endpoint: "http://127.0.0.1:9000",
    pathStyle: true,
    sessionToken: "token",
  });
  await direct.send("GET", "a b/c", {}, undefined);
  assertEquals(sent[0].url, "http://127.0.0.1:9000/examplebucket/a%20b/c");
  assertEquals(sent[0].headers["x-amz-security-token"], "token");
  assertEquals(
    /SignedHeaders=([^,]*)/.exec(sent[0].headers.authorization)?.[1],
    "host;x-amz-content-sha256;x-amz-date;x-amz-security-token",
  );
  close();
});

Deno.test("over HTTPS a body has a CRC-32 that is signed, and is not signed itself", async () => {
  const { direct, sent, close } = await opened(EXAMPLE);
  await direct.send("PUT", "a", {}, new TextEncoder().encode("123456789"));
  const { headers } = sent[0];
  assertEquals(headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
  assertEquals(headers["x-amz-checksum-crc32"], "y/Q5Jg=="); // cbf43926, the check value of CRC-32
  assertEquals(
    /SignedHeaders=([^,]*)/.exec(headers.authorization)?.[1],
    "host;x-amz-checksum-crc32;x-amz-content-sha256;x-amz-date",
  );
  close();
});

Deno.test("a signature goes by the day, the clock's correction and the keys of its own moment", async () => {
  const dayMs = 86_400_000;
  const long = await opened(EXAMPLE);
  const sentBy = async ({ direct, sent }: typeof long) => {
    await direct.send("GET", "a", {}, undefined);
    return sent.at(-1)!;
  };
  await sentBy(long);
  await long.clock.advance(dayMs);
  const fresh = await opened(EXAMPLE);
  fresh.client.config.systemClockOffset = dayMs;
  const before = await sentBy(long);
  assertEquals(before, await sentBy(fresh));
  assertEquals(before.headers["x-amz-date"], "20130525T000000Z");
  const secretAccessKey = "another";
  const rotated = await opened({ ...EXAMPLE, secretAccessKey });
  const keys = await rotated.client.config.credentials();
  rotated.client.config.systemClockOffset = dayMs;
  long.client.config.credentials = () => Promise.resolve(keys);
  const last = await sentBy(long);
  assertEquals(last, await sentBy(rotated));
  assertNotEquals(signatureOf(last), signatureOf(before));
  for (const { close } of [long, fresh, rotated]) close();
});

Deno.test("a body that was prepared is not hashed again, however often it is sent", async () => {
  for (const endpoint of ["http://s3.amazonaws.com", "https://s3.amazonaws.com"]) {
    const { direct, sent, close } = await opened({ ...EXAMPLE, endpoint });
    const body = new TextEncoder().encode("123456789");
    await direct.send("PUT", "a", {}, body);
    await direct.prepare(body);
    body.fill(0); // nobody may, but it shows
    await direct.send("PUT", "a", {}, body);
    await direct.send("PUT", "a", {}, body);
    assertEquals(sent.slice(1), [sent[0], sent[0]]);
    close();
  }
});

Deno.test("a long body is hashed to what a short one would be", async () => {
  const body = crypto.getRandomValues(new Uint8Array(65536));
  const long = new Uint8Array(8 * 1024 * 1024);
  for (let at = 0; at < long.length; at += body.length) long.set(body, at);
  assertEquals(await sha256(long), sha256Now(long));
  assertEquals(await sha256(body), sha256Now(body));
});
