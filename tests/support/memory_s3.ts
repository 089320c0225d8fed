/**
 * memory_s3.ts: an S3 server that keeps its objects in memory, to measure clients against: `startMemoryS3` of
 * start_memory_s3.ts runs it in a process of its own.
 *
 * It answers as S3 does where an answer depends on what is stored: ranges, conditions (atomically: each is decided in
 * one turn), ETags, lists in byte order. It looks at no signature and knows one kind of address, endpoint/bucket/key;
 * buckets need not be created. A body shorter than announced stores nothing. Whether a client signs and checks as it
 * must is shown at a real server (support/ceph.ts).
 *
 * How far away and how fast it is, is set while it runs. The latency is what S3's time to the first byte is: a GET
 * waits so long before its answer, a PUT when its body has arrived. Rates count the bodies' bytes. A request is
 * refused (503 SlowDown) before anything is done.
 *
 * `POST /-/settings` takes a JSON of `Settings`, parts of it too. `GET /-/counts` answers with `Counts`, `DELETE
 * /-/counts` sets them to zero. `DELETE /-/NAME` forgets a bucket with all that is in it. No bucket is called "-".
 */

export interface Settings {
  latencyMs: number;
  /** Bytes a second in each direction together; 0 is no limit. */
  connectionBytesPerSecond: number;
  /** Of all connections. */
  bytesPerSecond: number;
  /** Share of requests that get a 503, from 0 to 1. */
  refusals: number;
}

export const KINDS = ["GET", "PUT", "HEAD", "LIST", "DELETE", "other"] as const;
export type Kind = typeof KINDS[number];

/** Requests answered, refusals included, and bytes of bodies: objects, not XML. */
export interface Counts {
  requests: Record<Kind, number>;
  refused: number;
  bytesUp: number;
  bytesDown: number;
}

interface StoredObject {
  bytes: Uint8Array<ArrayBuffer>;
  etag: string;
  modified: Date;
  /** Content-Type and `x-amz-meta-*`. */
  headers: [string, string][];
}

type Bucket = Map<string, StoredObject>;

const PACED_CHUNK_BYTES = 64 * 1024;
/** From here on a body's memory is used again. */
const LARGE_BYTES = 1024 * 1024;
const KEYS_MAX = 1000;
const REFUSED_FOR_NOW = [503, "SlowDown", "Please reduce your request rate."] as const;

const settings: Settings = {
  latencyMs: 0,
  connectionBytesPerSecond: 0,
  bytesPerSecond: 0,
  refusals: 0,
};
let counts = noCounts();
const buckets = new Map<string, Bucket>();
let etagsMade = 0;

function noCounts(): Counts {
  const requests = Object.fromEntries(KINDS.map((kind) => [kind, 0])) as Counts["requests"];
  return { requests, refused: 0, bytesUp: 0, bytesDown: 0 };
}

// ---- rates

/** When the bytes so far have passed, at the rate that was set. */
class Pace {
  #freeAtMs = 0;

  /** Resolves when so many more bytes have passed. */
  async pass(bytes: number, bytesPerSecond: number): Promise<void> {
    if (bytesPerSecond === 0) return;
    const now = performance.now();
    this.#freeAtMs = Math.max(this.#freeAtMs, now) + bytes / bytesPerSecond * 1000;
    await sleep(this.#freeAtMs - now);
  }
}

const ofAll = new Pace();

/** Timers are as fine as a millisecond; what is less is made up for by the next wait, which counts from the same clock. */
async function sleep(ms: number): Promise<void> {
  if (ms >= 1) await new Promise((resolve) => setTimeout(resolve, ms));
}

function isPaced(): boolean {
  return settings.connectionBytesPerSecond > 0 || settings.bytesPerSecond > 0;
}

async function pass(bytes: number, ofConnection: Pace): Promise<void> {
  await Promise.all([
    ofConnection.pass(bytes, settings.connectionBytesPerSecond),
    ofAll.pass(bytes, settings.bytesPerSecond),
  ]);
}

// ---- bodies

/**
 * Memory of large objects that are forgotten, whose buckets nobody reads any more. Fresh memory costs the kernel more than
 * the bytes that come into it, and the server shares the processors of those who are measured.
 */
const forgotten: ArrayBuffer[] = [];

function memory(bytes: number): ArrayBuffer {
  if (bytes < LARGE_BYTES) return new ArrayBuffer(bytes);
  const index = forgotten.findIndex(({ byteLength }) => byteLength >= bytes);
  if (index >= 0) return forgotten.splice(index, 1)[0];
  return new ArrayBuffer(Math.ceil(bytes / LARGE_BYTES) * LARGE_BYTES);
}

function forget(bucketName: string): void {
  for (const { bytes: { buffer } } of buckets.get(bucketName)?.values() ?? []) {
    if (buffer.byteLength >= LARGE_BYTES) forgotten.push(buffer);
  }
  buckets.delete(bucketName);
}

/** The request's body; null if it is not as long as announced. */
async function receive(request: Request, pace: Pace): Promise<Uint8Array<ArrayBuffer> | null> {
  const announced = request.headers.get("content-length");
  if (request.body === null) return announced === "0" ? new Uint8Array(0) : null;
  if (announced === null) return null;
  const length = Number(announced);
  // a byte more would be read into the one behind it
  let buffer = memory(length + 1);
  let done = 0;
  try {
    const reader = request.body.getReader({ mode: "byob" });
    while (done <= length) {
      // takes the memory away and gives it back
      const { value, done: isOver } = await reader.read(new Uint8Array(buffer, done));
      if (value) buffer = value.buffer;
      if (isOver || !value) break;
      if (isPaced()) await pass(value.length, pace);
      done += value.length;
    }
  } catch {
    return null;
  }
  return done === length ? new Uint8Array(buffer, 0, length) : null;
}

function paced(bytes: Uint8Array<ArrayBuffer>, pace: Pace): BodyInit {
  if (!isPaced()) return bytes;
  let done = 0;
  return new ReadableStream({
    type: "bytes",
    async pull(controller) {
      const chunk = bytes.slice(done, done + PACED_CHUNK_BYTES);
      await pass(chunk.length, pace);
      done += chunk.length;
      controller.enqueue(chunk);
      if (done === bytes.length) controller.close();
    },
  });
}

// ---- answers

function xml(status: number, text: string): Response {
  const body = `<?xml version="1.0" encoding="UTF-8"?>\n${text}`;
  return new Response(body, { status, headers: { "content-type": "application/xml" } });
}

function refusal(status: number, code: string, message: string): Response {
  return xml(status, `<Error><Code>${code}</Code><Message>${message}</Message></Error>`);
}

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

function unescape(text: string): string {
  const names: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
  return text.replace(
    /&(?:#(\d+)|(\w+));/g,
    (_, code, name) => code ? String.fromCodePoint(Number(code)) : names[name],
  );
}

function quoted(etag: string): string {
  return `"${etag}"`;
}

/** Whether If-Match and If-None-Match hold for what is there (RFC 9110, sections 13.1.1 and 13.1.2). */
function conditionHolds(headers: Headers, found: StoredObject | undefined): boolean {
  const names = (header: string) => header === "*" || header.replace(/"/g, "") === found?.etag;
  const ifMatch = headers.get("if-match");
  const ifNoneMatch = headers.get("if-none-match");
  if (ifMatch !== null && !(found && names(ifMatch))) return false;
  return !(ifNoneMatch !== null && found && names(ifNoneMatch));
}

async function put(request: Request, bucket: Bucket, key: string, pace: Pace): Promise<Response> {
  const bytes = await receive(request, pace);
  if (!bytes) return refusal(400, "IncompleteBody", "The body is not as long as announced.");
  await sleep(settings.latencyMs);
  const { headers } = request;
  const found = bucket.get(key);
  if (!found && headers.has("if-match")) {
    return refusal(404, "NoSuchKey", "The specified key does not exist.");
  }
  if (!conditionHolds(headers, found)) {
    return refusal(412, "PreconditionFailed", "A condition does not hold.");
  }
  const md5 = headers.get("content-md5");
  // An ETag is the MD5 for some kinds of objects only (API reference, "Object"); clients that count on it send it.
  const etag = md5 === null
    ? `${(++etagsMade).toString(16).padStart(32, "0")}-1`
    : Array.from(atob(md5), (c) => c.charCodeAt(0).toString(16).padStart(2, "0")).join("");
  const kept = [...headers].filter(([name]) =>
    name === "content-type" || name === "content-encoding" || name.startsWith("x-amz-meta-")
  );
  bucket.set(key, { bytes, etag, modified: new Date(), headers: kept });
  counts.bytesUp += bytes.length;
  return new Response(null, { headers: { etag: quoted(etag) } });
}

async function get(request: Request, bucket: Bucket, key: string, pace: Pace): Promise<Response> {
  await sleep(settings.latencyMs);
  const found = bucket.get(key);
  const isHead = request.method === "HEAD";
  if (!found) {
    if (isHead) return new Response(null, { status: 404 });
    return refusal(404, "NoSuchKey", "The specified key does not exist.");
  }
  const { bytes, etag, modified } = found;
  const headers = new Headers([
    ...found.headers,
    ["etag", quoted(etag)],
    ["last-modified", modified.toUTCString()],
    ["accept-ranges", "bytes"],
  ]);
  if (!conditionHolds(request.headers, found)) {
    const isNotModified = request.headers.has("if-none-match");
    return new Response(null, { status: isNotModified ? 304 : 412, headers });
  }
  if (isHead) {
    headers.set("content-length", `${bytes.length}`);
    return new Response(null, { headers });
  }
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.get("range") ?? "");
  const first = Number(range?.[1] ?? 0);
  const end = Math.min(range?.[2] ? Number(range[2]) + 1 : Infinity, bytes.length);
  if (range && first >= bytes.length) {
    return refusal(416, "InvalidRange", "The requested range is not satisfiable");
  }
  const part = bytes.subarray(first, end);
  headers.set("content-length", `${part.length}`);
  if (range) headers.set("content-range", `bytes ${first}-${end - 1}/${bytes.length}`);
  counts.bytesDown += part.length;
  return new Response(paced(part, pace), { status: range ? 206 : 200, headers });
}

/** ListObjectsV2, and the older ListObjects, without delimiters. */
function list(bucket: Bucket, query: URLSearchParams): Response {
  const prefix = query.get("prefix") ?? "";
  const after = query.get("continuation-token") ?? query.get("start-after") ??
    query.get("marker") ?? "";
  const most = Math.min(Number(query.get("max-keys") ?? KEYS_MAX), KEYS_MAX);
  const keys = [...bucket.keys()].filter((key) => key.startsWith(prefix) && key > after).sort();
  const page = keys.slice(0, most);
  const isTruncated = page.length < keys.length;
  const contents = page.map((key) => {
    const { bytes, etag, modified } = bucket.get(key)!;
    return `<Contents><Key>${escape(key)}</Key><LastModified>${modified.toISOString()}` +
      `</LastModified><ETag>${escape(quoted(etag))}</ETag><Size>${bytes.length}</Size>` +
      `<StorageClass>STANDARD</StorageClass></Contents>`;
  });
  const next = isTruncated
    ? `<NextContinuationToken>${escape(page.at(-1) ?? "")}</NextContinuationToken>`
    : "";
  return xml(
    200,
    `<ListBucketResult><Prefix>${escape(prefix)}</Prefix><KeyCount>${page.length}</KeyCount>` +
      `<MaxKeys>${most}</MaxKeys><IsTruncated>${isTruncated}</IsTruncated>${next}` +
      `${contents.join("")}</ListBucketResult>`,
  );
}

async function deleteMany(request: Request, bucket: Bucket): Promise<Response> {
  for (const [, key] of (await request.text()).matchAll(/<Key>(.*?)<\/Key>/gs)) {
    bucket.delete(unescape(key));
  }
  return xml(200, "<DeleteResult></DeleteResult>");
}

// ---- requests

function kindOf({ method }: Request, key: string, query: URLSearchParams): Kind {
  if (key === "") {
    if (method === "POST" && query.has("delete")) return "DELETE";
    return method === "GET" && !query.has("location") && !query.has("versioning")
      ? "LIST"
      : "other";
  }
  return KINDS.find((kind) => kind === method) ?? "other";
}

async function serve(request: Request, pace: Pace): Promise<Response> {
  const url = new URL(request.url);
  const [bucketName, ...keyParts] = url.pathname.slice(1).split("/").map(decodeURIComponent);
  const key = keyParts.join("/");
  if (bucketName === "-") return await control(request, key);
  const kind = kindOf(request, key, url.searchParams);
  counts.requests[kind]++;
  if (Math.random() < settings.refusals) {
    counts.refused++;
    await request.body?.cancel();
    return refusal(...REFUSED_FOR_NOW);
  }
  let bucket = buckets.get(bucketName);
  if (!bucket) buckets.set(bucketName, bucket = new Map());
  if (kind === "PUT") return await put(request, bucket, key, pace);
  if (kind === "GET" || kind === "HEAD") return await get(request, bucket, key, pace);
  await sleep(settings.latencyMs);
  if (kind === "LIST") return list(bucket, url.searchParams);
  if (kind === "DELETE" && key === "") return await deleteMany(request, bucket);
  if (kind === "DELETE") {
    bucket.delete(key);
    return new Response(null, { status: 204 });
  }
  if (url.searchParams.has("location")) return xml(200, "<LocationConstraint/>");
  if (url.searchParams.has("versioning")) return xml(200, "<VersioningConfiguration/>");
  if (request.method === "PUT" || request.method === "HEAD") return new Response(null);
  return refusal(501, "NotImplemented", `${request.method} is not known here.`);
}

async function control(request: Request, what: string): Promise<Response> {
  if (what === "settings") Object.assign(settings, await request.json());
  else if (what !== "counts") forget(what);
  else if (request.method === "DELETE") counts = noCounts();
  return Response.json(what === "settings" ? settings : counts);
}

if (import.meta.main) {
  // by the client's port: Deno.serve says no more of a connection
  const paces = new Map<number, Pace>();
  Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ port }) => Deno.stdout.writeSync(new TextEncoder().encode(`ready ${port}\n`)),
  }, (request, { remoteAddr: { port } }) => {
    let pace = paces.get(port);
    if (!pace) paces.set(port, pace = new Pace());
    return serve(request, pace);
  });
}
