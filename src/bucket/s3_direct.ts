/**
 * GET and PUT of an object without the SDK's middleware, which takes more processor time for 64 KiB than all else of the
 * request together: signed here (AWS Signature Version 4) and sent on connections of our own (http_client.ts).
 *
 * Where the bucket is and what a signature is made out to (region, service) is not decided here, but taken from the
 * requests that the SDK makes: the one that opens the bucket, and any later one that was sent elsewhere. Keys
 * and the correction of a wrong clock are the SDK's too. Whatever is not a success is handed to the SDK, as the answer to
 * its own command: it knows all errors, and what a redirect or a wrong clock means.
 */
import { createHash, createHmac, type Hash } from "node:crypto";
import { crc32 } from "node:zlib";
import type { S3Client } from "@aws-sdk/client-s3";
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import type { HttpClient } from "./http_client.ts";
import type { HttpAnswer } from "./http_connection.ts";
import { traceRequest } from "./request_trace.ts";
import { encode, type SdkRequest } from "./s3_http.ts";
import { sha256, sha256Now } from "./sha256.ts";

/** What the SDK's requests are made out to. */
interface Address {
  /** `https://host:port` */
  origin: string;
  /** As in the signature: with the port unless it is the protocol's own. */
  host: string;
  /** Of the bucket, without a slash at its end: nothing, or `/bucket`. */
  path: string;
  /** `region/s3/aws4_request` */
  scope: string;
}

const NOTHING_SHA256 = sha256Now("");

export class DirectRequests {
  readonly #client: S3Client;
  readonly #http: Pick<HttpClient, "request" | "isStuck">;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #address?: Address;
  /** `fetch`, and so the SDK, goes by the proxy that these name. */
  readonly #isProxied = ["http_proxy", "https_proxy", "all_proxy"]
    .some((name) => Deno.env.get(name) || Deno.env.get(name.toUpperCase()));
  /** What guards bodies that were prepared. */
  readonly #guards = new WeakMap<Uint8Array, Record<string, string>>();
  /** Begins a day's signatures, and what it was made from. */
  #signing = { madeFrom: "", ...beginHmac(new Uint8Array(0)) };

  constructor(
    client: S3Client,
    http: Pick<HttpClient, "request" | "isStuck">,
    clock: Clock,
    logger: Logger,
  ) {
    this.#client = client;
    this.#http = http;
    this.#clock = clock;
    this.#logger = logger;
    client.middlewareStack.add(
      (next) => (args) => {
        const { Key } = args.input as { Key?: string };
        this.#address = addressOf(args.request as SdkRequest, Key);
        return next(args);
      },
      { step: "finalizeRequest", name: "learnAddress", priority: "low" },
    );
  }

  /** Hashes a body before it is sent, by each try of its PUT. The protocol stays the same wherever it is sent. */
  async prepare(body: Uint8Array): Promise<void> {
    if (this.#address) this.#guards.set(body, await guardsOf(this.#address, body));
  }

  /**
   * Makes one request, if it is known how; else undefined.
   *
   * @param headers their names in lower case
   */
  async send(
    method: "GET" | "PUT",
    key: string,
    headers: Record<string, string>,
    body: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<HttpAnswer | undefined> {
    const address = this.#address;
    if (!address || this.#isProxied || this.#http.isStuck) return undefined;
    const path = `${address.path}/${key.split("/").map(encode).join("/")}`;
    const guards = (body && this.#guards.get(body)) ?? await guardsOf(address, body);
    const all = { ...headers, ...guards };
    const signed = await this.#sign(address, method, path, all);
    const answer = this.#http.request(
      address.origin,
      { method, path, headers: signed, body },
      signal,
    );
    traceRequest(answer, `${method} ${address.origin}${path}`, this.#clock, this.#logger);
    return await answer;
  }

  /** Adds what a signed request has besides (SigV4, "Create a signed AWS API request"). */
  async #sign(
    { host, scope }: Address,
    method: string,
    path: string,
    headers: Record<string, string>,
  ): Promise<Record<string, string>> {
    const { credentials, systemClockOffset } = this.#client.config;
    const { accessKeyId, secretAccessKey, sessionToken } = await credentials();
    const now = new Date(this.#clock.now() + systemClockOffset);
    const time = now.toISOString().replace(/[-:]|\.\d+/g, ""); // 20261124T163000Z
    const day = time.slice(0, 8);
    const all: Record<string, string> = {
      ...headers,
      host,
      "x-amz-date": time,
    };
    if (sessionToken) all["x-amz-security-token"] = sessionToken;
    const names = Object.keys(all).sort();
    const lines = names.map((name) => `${name}:${all[name]}\n`).join("");
    const signedHeaders = names.join(";");
    const canonical = `${method}\n${path}\n\n${lines}\n${signedHeaders}\n${
      all["x-amz-content-sha256"]
    }`;
    const toSign = `AWS4-HMAC-SHA256\n${time}\n${day}/${scope}\n${sha256Now(canonical)}`;
    const { inner, outer } = this.#signingOf(day, scope, secretAccessKey);
    const hashed = inner.copy().update(toSign).digest();
    const signature = outer.copy().update(hashed).digest("hex");
    all.authorization = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${day}/${scope}, ` +
      `SignedHeaders=${signedHeaders}, Signature=${signature}`;
    return all;
  }

  #signingOf(day: string, scope: string, secret: string): HmacBegun {
    const madeFrom = `${day}/${scope}/${secret}`;
    if (this.#signing.madeFrom !== madeFrom) {
      const parts = [day, ...scope.split("/")];
      const key = parts.reduce(hmac, new TextEncoder().encode(`AWS4${secret}`));
      this.#signing = { madeFrom, ...beginHmac(key) };
    }
    return this.#signing;
  }
}

/** Undefined if the bucket takes another kind of signature (S3 Express has one). */
function addressOf(request: SdkRequest, key?: string): Address | undefined {
  const { protocol, hostname, port, headers } = request;
  const scope = /Credential=[^,]*?\/\d{8}\/([^/,]+\/s3\/aws4_request),/.exec(
    headers.authorization ?? "",
  )?.[1];
  if (!scope || headers["x-amz-s3session-token"]) return undefined;
  const keyPath = key === undefined ? "" : key.split("/").map(encode).join("/");
  const path = request.path.slice(0, request.path.length - keyPath.length).replace(/\/$/, "");
  const origin = `${protocol}//${hostname}${port ? `:${port}` : ""}`;
  return { origin, host: new URL(origin).host, path, scope };
}

/**
 * What guards a body on its way. Over HTTP the signature has to cover it. Over HTTPS nobody can change it: a CRC-32,
 * which costs a tenth of a SHA-256, finds what happens to it before and behind (as the AWS command line does it).
 */
async function guardsOf(
  { origin }: Address,
  body?: Uint8Array,
): Promise<Record<string, string>> {
  if (!body) return { "x-amz-content-sha256": NOTHING_SHA256 };
  if (origin.startsWith("http:")) return { "x-amz-content-sha256": await sha256(body) };
  return { "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-checksum-crc32": crc32Of(body) };
}

/** CRC-32 as S3 has it: in base64, the highest byte first. */
function crc32Of(body: Uint8Array): string {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, crc32(body));
  return bytes.toBase64();
}

function hmac(key: Uint8Array, text: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(createHmac("sha256", key).update(text).digest());
}

/** HMAC-SHA256 up to the text, from where each text goes on (RFC 2104): half of what it takes from the start. */
interface HmacBegun {
  inner: Hash;
  outer: Hash;
}

/** @param key up to 64 bytes */
function beginHmac(key: Uint8Array): HmacBegun {
  const begin = (pad: number) =>
    createHash("sha256").update(new Uint8Array(64).map((_, at) => (key[at] ?? 0) ^ pad));
  return { inner: begin(0x36), outer: begin(0x5c) };
}
