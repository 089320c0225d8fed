/**
 * HTTP as far as the status service needs it (RFC 9112): a request without a body, an answer, the end of the connection.
 *
 * Not Deno.serve, because it takes as many connections as come, keeps each for as long as its client likes, and has no
 * setting for either: some 15 KiB of the drive's memory and a file descriptor each, to be had by every user of
 * the machine. Here they are STATUS_CONNECTIONS_MAX; of too many that have not asked yet the oldest gives way, and one
 * that does not take its answer keeps its place, since Deno can't end a write that has begun.
 */
import { type Clock, sleep } from "../clock.ts";
import { messageOf } from "../errors.ts";
import { STATUS_CONNECTIONS_MAX, STATUS_HEAD_BYTES_MAX, STATUS_REQUEST_MS_MAX } from "../limits.ts";
import type { Logger } from "../logger.ts";
import { writeAll } from "../nbd/socket.ts";

export interface HttpRequest {
  method: string;
  /** Without what follows a question mark. */
  path: string;
  /** As the request names it, in lower case and without its port; "" if it names none. */
  host: string;
}

export interface HttpAnswer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

interface Connection {
  conn: Deno.Conn;
  /** It has sent all of its request. */
  hasAsked: boolean;
}

/** After a failed accept, mostly for want of file descriptors, the next is tried this much later. */
const ACCEPT_RETRY_MS = 100;
const REASONS: Record<number, string> = {
  200: "OK",
  400: "Bad Request",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  500: "Internal Server Error",
  503: "Service Unavailable",
};

export class HttpServer {
  readonly #listener: Deno.Listener;
  readonly #answer: (request: HttpRequest | undefined) => HttpAnswer;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #connections = new Set<Connection>();
  #isClosed = false;

  /** @param answer called with undefined for what is no request */
  constructor(
    listener: Deno.Listener,
    answer: (request: HttpRequest | undefined) => HttpAnswer,
    { clock, logger }: { clock: Clock; logger: Logger },
  ) {
    this.#listener = listener;
    this.#answer = answer;
    this.#clock = clock;
    this.#logger = logger;
    this.#accept();
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Cuts off who is connected. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#listener.close();
    for (const { conn } of this.#connections) closeQuietly(conn);
  }

  async #accept(): Promise<void> {
    for (;;) {
      try {
        this.#admit(await this.#listener.accept());
      } catch (error) {
        if (this.#isClosed) return;
        this.#logger.debug(() => `accepting a status connection failed: ${messageOf(error)}`);
        await sleep(this.#clock, ACCEPT_RETRY_MS);
      }
    }
  }

  #admit(conn: Deno.Conn): void {
    if (this.#connections.size >= STATUS_CONNECTIONS_MAX) {
      const oldest = [...this.#connections].find(({ hasAsked }) => !hasAsked);
      if (oldest === undefined) return closeQuietly(conn);
      closeQuietly(oldest.conn);
      this.#connections.delete(oldest);
    }
    const connection = { conn, hasAsked: false };
    this.#connections.add(connection);
    this.#live(connection);
  }

  /** The life of a connection. */
  async #live(connection: Connection): Promise<void> {
    const { conn } = connection;
    const cancel = this.#clock.after(STATUS_REQUEST_MS_MAX, () => closeQuietly(conn));
    try {
      const head = await readHead(conn);
      if (head === undefined) return;
      connection.hasAsked = true;
      await writeAll(conn, encode(this.#answer(parse(head))));
      await conn.closeWrite();
      // what has come and was not read would have the kernel take the answer back
      const rest = new Uint8Array(STATUS_HEAD_BYTES_MAX);
      while (await conn.read(rest) !== null);
    } catch (error) {
      this.#logger.debug(() => `a status connection broke: ${messageOf(error)}`);
    } finally {
      cancel();
      closeQuietly(conn);
      this.#connections.delete(connection);
    }
  }
}

/** Up to the empty line; undefined when the client ends before. Of one that is too long, what fits. */
async function readHead(conn: Deno.Conn): Promise<string | undefined> {
  const bytes = new Uint8Array(STATUS_HEAD_BYTES_MAX);
  const decoder = new TextDecoder("latin1");
  for (let length = 0;;) {
    const count = await conn.read(bytes.subarray(length));
    if (count === null) return undefined;
    length += count;
    const text = decoder.decode(bytes.subarray(0, length));
    if (text.includes("\r\n\r\n") || length === bytes.length) return text;
  }
}

/** Undefined if that is not the head of a request, or not all of it. */
function parse(text: string): HttpRequest | undefined {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const [first, ...fields] = text.slice(0, end).split("\r\n");
  const [, method, target] = /^([A-Z]+) (\S+) HTTP\/1\.[01]$/.exec(first) ?? [];
  const path = target && URL.parse(target, "http://localhost")?.pathname;
  if (!path) return undefined;
  const host = fields.map((field) => /^host:[ \t]*(\S*)[ \t]*$/i.exec(field)?.[1])
    .find((name) => name !== undefined) ?? "";
  return { method, path, host: host.replace(/:\d*$/, "").toLowerCase() };
}

function encode({ status, headers, body }: HttpAnswer): Uint8Array {
  const bytes = new TextEncoder().encode(body);
  const fields = { ...headers, "content-length": String(bytes.length), connection: "close" };
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`).join("");
  const head = new TextEncoder().encode(`HTTP/1.1 ${status} ${REASONS[status]}\r\n${lines}\r\n`);
  const answer = new Uint8Array(head.length + bytes.length);
  answer.set(head);
  answer.set(bytes, head.length);
  return answer;
}

function closeQuietly(conn: Deno.Conn): void {
  try {
    conn.close();
  } catch { /* it is closed already */ }
}
