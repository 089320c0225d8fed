/**
 * Connections to S3 that are kept for the next request: `request` takes one that rests, or makes one.
 *
 * A server closes a connection that rests when it likes, and this is found out only by the next request. A GET or PUT
 * that is not answered by a single byte on such a connection is made again on another (RFC 9110, section 9.2.2).
 */
import type { Clock } from "../clock.ts";
import { HTTP_STUCK_MAX, S3_IDLE_MS_MAX, S3_IDLE_SOCKETS_MAX } from "../limits.ts";
import { type HttpAnswer, HttpConnection, type HttpRequest } from "./http_connection.ts";

interface Idle {
  origin: string;
  connection: HttpConnection;
  sinceMs: number;
}

export class HttpClient {
  readonly #clock: Clock;
  /** Most recently used last. */
  #idle: Idle[] = [];
  /** Connections that were given up in a write that does not end. */
  #stuck = 0;
  #closed = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** So many writes hang that more should not be begun; `fetch` can end them. */
  get isStuck(): boolean {
    return this.#stuck >= HTTP_STUCK_MAX;
  }

  /** One request. The signal ends it at any time, and closes its connection. `origin`: `https://host:port`. */
  async request(origin: string, request: HttpRequest, signal?: AbortSignal): Promise<HttpAnswer> {
    for (;;) {
      signal?.throwIfAborted();
      const reused = this.#takeIdle(origin);
      const connection = reused ?? await connect(origin, signal);
      try {
        return await this.#exchange(origin, connection, request, signal);
      } catch (error) {
        signal?.throwIfAborted();
        if (!reused || connection.hasAnswered) throw error;
      }
    }
  }

  /** Closes the connections. */
  close(): void {
    this.#closed = true;
    for (const { connection } of this.#idle) connection.close();
    this.#idle = [];
  }

  async #exchange(
    origin: string,
    connection: HttpConnection,
    request: HttpRequest,
    signal?: AbortSignal,
  ): Promise<HttpAnswer> {
    let isOpen = true;
    const close = () => {
      if (isOpen) this.#giveUp(connection);
      isOpen = false;
    };
    signal?.addEventListener("abort", close, { once: true });
    if (signal?.aborted) close(); // while it was being connected
    try {
      const answer = await connection.exchange(request);
      if (!connection.isReusable || this.#closed || this.#idle.length === S3_IDLE_SOCKETS_MAX) {
        close();
      } else {
        this.#idle.push({ origin, connection, sinceMs: this.#clock.monotonic() });
      }
      return answer;
    } catch (error) {
      close();
      throw error;
    } finally {
      signal?.removeEventListener("abort", close);
    }
  }

  #giveUp(connection: HttpConnection): void {
    const ended = connection.close();
    if (!connection.isSending) return;
    this.#stuck++;
    ended.then(() => this.#stuck--);
  }

  #takeIdle(origin: string): HttpConnection | undefined {
    const oldestMs = this.#clock.monotonic() - S3_IDLE_MS_MAX;
    while (this.#idle[0]?.sinceMs < oldestMs) this.#idle.shift()!.connection.close();
    const at = this.#idle.findLastIndex((idle) => idle.origin === origin);
    return at < 0 ? undefined : this.#idle.splice(at, 1)[0].connection;
  }
}

async function connect(origin: string, signal?: AbortSignal): Promise<HttpConnection> {
  const { protocol, hostname: host, port } = new URL(origin);
  const hostname = host.replace(/^\[|\]$/g, "");
  const isTls = protocol === "https:";
  const options = { hostname, port: Number(port || (isTls ? 443 : 80)), signal };
  const socket = await Deno.connect(options);
  // else the end of a body may wait until what is before it has been acknowledged
  socket.setNoDelay(true);
  return new HttpConnection(isTls ? await Deno.startTls(socket, { hostname }) : socket);
}
