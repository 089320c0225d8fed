/**
 * How the SDK's requests go over the wire: by `fetch`, on a pool of connections of this bucket's own.
 *
 * Not by the SDK's NodeHttpHandler, because node:http in Deno 2.7 does not bear faults: a body that is cut off is
 * never reported to its reader but rejects a promise that nobody holds, which ends the program; destroying a
 * body does the same; `destroy` of an Agent leaves its connections open; and whatever fails in TLS is called
 * "connection error". `fetch` reports each of these (tests/s3/s3_faults_test.ts). Not by the SDK's FetchHttpHandler,
 * because it follows redirects, which are signed for another host, and has no pool to close.
 */
import type { Clock } from "../clock.ts";
import { messageOf, UsageError } from "../errors.ts";
import { S3_IDLE_SOCKETS_MAX } from "../limits.ts";
import type { Logger } from "../logger.ts";
import type { HttpAnswer } from "./http_connection.ts";
import { traceRequest } from "./request_trace.ts";

/** The parts that are used here of what the SDK hands over. */
export interface SdkRequest {
  method: string;
  protocol: string;
  hostname: string;
  port?: number;
  path: string;
  query?: Record<string, string | string[] | null>;
  headers: Record<string, string>;
  body?: unknown;
}

interface SdkResponse {
  statusCode: number;
  reason: string;
  headers: Record<string, string>;
  body: ReadableStream<Uint8Array>;
}

/** What a command is sent with. */
export interface HandleOptions {
  abortSignal?: unknown;
  /** Taken for the answer, once: a second request, to where a redirect points, is a real one. */
  answers?: HttpAnswer[];
}

export class FetchHandler {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly metadata = { handlerProtocol: "http/1.1" };
  readonly #pool: Deno.HttpClient;

  /** @throws UsageError if the environment names certificate authorities that are not to be had */
  constructor(clock: Clock, logger: Logger) {
    this.#clock = clock;
    this.#logger = logger;
    try {
      // one connection a request under way: over a single one they would share its losses
      const options = { poolMaxIdlePerHost: S3_IDLE_SOCKETS_MAX, http2: false };
      this.#pool = Deno.createHttpClient(options);
    } catch (error) {
      const from = "DENO_TLS_CA_STORE and DENO_CERT in the environment";
      throw new UsageError(`no certificate authorities (${from}): ${messageOf(error)}`);
    }
  }

  /** One request. The signal ends it at any time, its body included, and closes its connection. */
  async fetch(
    url: string,
    method: string,
    headers: Record<string, string>,
    body: unknown,
    signal?: AbortSignal,
  ): Promise<Response> {
    const answer = fetch(url, {
      method,
      // Without it `fetch` offers gzip, and what it unpacks has another length than was announced.
      headers: { ...headers, "accept-encoding": "identity" },
      body: method === "GET" || method === "HEAD" ? undefined : body as BodyInit,
      redirect: "manual",
      signal,
      client: this.#pool,
    });
    traceRequest(answer, `${method} ${url}`, this.#clock, this.#logger);
    return await answer;
  }

  /** One request of the SDK's; or what it came to already, if it was sent without the SDK. */
  async handle(
    request: SdkRequest,
    options: HandleOptions = {},
  ): Promise<{ response: SdkResponse }> {
    const { protocol, hostname, port, path, method, headers, body } = request;
    const url = `${protocol}//${hostname}${port ? `:${port}` : ""}${path}${queryOf(request)}`;
    const answer = options.answers?.pop();
    if (answer) {
      const { status, reason, headers, body } = answer;
      const stream = new Blob([body as BlobPart]).stream();
      return { response: { statusCode: status, reason, headers, body: stream } };
    }
    const signal = options.abortSignal as AbortSignal | undefined;
    const response = await this.fetch(url, method, headers, body, signal);
    return {
      response: {
        statusCode: response.status,
        reason: response.statusText,
        headers: Object.fromEntries(response.headers),
        body: response.body ?? new Blob([]).stream(),
      },
    };
  }

  /** Closes the connections. */
  destroy(): void {
    this.#pool.close();
  }

  /** Of the SDK's interface, for settings that this handler has none of. */
  updateHttpClientConfig(): void {}
  httpHandlerConfigs(): Record<string, never> {
    return {};
  }
}

function queryOf({ query = {} }: SdkRequest): string {
  const pairs: string[] = [];
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      pairs.push(one === null ? encode(name) : `${encode(name)}=${encode(one)}`);
    }
  }
  return pairs.length > 0 ? `?${pairs.join("&")}` : "";
}

/** As the signature has it (RFC 3986; SigV4, "URI encode"). */
export function encode(text: string): string {
  return encodeURIComponent(text)
    .replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}
