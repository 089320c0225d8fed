/**
 * The status service: HTTP, GET only, and nothing that changes the drive.
 *
 * | path           | what                                                                             |
 * | -------------- | -------------------------------------------------------------------------------- |
 * | `/`            | a page for people, in one document                                               |
 * | `/status.json` | the report of report.ts                                                          |
 * | `/metrics`     | the same for Prometheus                                                          |
 * | `/healthz`     | 200 "ok", or 503 and the reason                                                  |
 *
 * It listens before anything else is touched, and says "opening" until the drive serves. A browser that a page of
 * somebody else has talked into asking (DNS rebinding) names that page's host: on loopback only this machine's
 * names are answered. Every answer ends its connection, so that who only asked once leaves nothing behind.
 */
import { messageOf, UsageError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { METRICS_TYPE, metricsOf } from "./metrics.ts";
import { PAGE } from "./page.ts";
import type { StatusReport } from "./report.ts";

const HEADERS = {
  "cache-control": "no-store",
  "connection": "close",
  "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; " +
    "style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
};
const TEXT_TYPE = "text/plain; charset=utf-8";
const LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"];

export interface StatusOptions {
  hostname: string;
  port: number;
  /** Whether only this machine can reach the address. */
  isLoopback: boolean;
  logger: Logger;
}

export class StatusServer {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  /** Undefined: whatever host a request names will do. */
  readonly #names: string[] | undefined;
  readonly #logger: Logger;
  #report: (() => StatusReport) | undefined = undefined;

  /** Listens; port 0 takes a free one. Throws `UsageError`. */
  constructor({ hostname, port, isLoopback, logger }: StatusOptions) {
    const shown = hostname.includes(":") ? `[${hostname}]` : hostname;
    this.#names = isLoopback ? [...LOOPBACK_NAMES, shown.toLowerCase()] : undefined;
    this.#logger = logger;
    try {
      this.#server = Deno.serve(
        { hostname, port, onListen: () => {}, onError: (error) => this.#failed(error) },
        (request) => this.#answer(request),
      );
    } catch (error) {
      const reason = error instanceof Deno.errors.AddrInUse ? "it is in use" : messageOf(error);
      throw new UsageError(
        `can't serve status on ${shown}:${port}: ${reason}; ` +
          "set status in [server] to another address and port, or to off",
      );
    }
  }

  get url(): string {
    const { hostname, port } = this.#server.addr;
    return `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}/`;
  }

  /** From now on there is something to report. */
  startServing(report: () => StatusReport): void {
    this.#report = report;
  }

  /** Cuts off who is connected. */
  close(): void {
    this.#server.shutdown().catch(() => {});
    this.#server.unref();
  }

  #answer(request: Request): Response {
    const host = request.headers.get("host") ?? "";
    const name = host.replace(/:\d*$/, "").toLowerCase();
    if (this.#names?.includes(name) === false) {
      return text(403, `this is not ${name || "a host without a name"}; ask ${this.url}`);
    }
    if (request.method !== "GET") {
      return text(405, `${request.method} is not answered here; allowed: GET`, { allow: "GET" });
    }
    const { pathname } = new URL(request.url);
    switch (pathname) {
      case "/":
        return new Response(PAGE, {
          headers: { ...HEADERS, "content-type": "text/html; charset=utf-8" },
        });
      case "/status.json":
      case "/metrics":
      case "/healthz":
        return this.#answerReport(pathname);
      default:
        return text(404, "there is /, /status.json, /metrics and /healthz");
    }
  }

  #answerReport(pathname: "/status.json" | "/metrics" | "/healthz"): Response {
    if (this.#report === undefined) return text(503, "opening: the drive does not serve yet");
    const report = this.#report();
    if (pathname === "/healthz") {
      return report.trouble === null ? text(200, "ok") : text(503, report.trouble);
    }
    const isJson = pathname === "/status.json";
    return new Response(isJson ? JSON.stringify(report) : metricsOf(report), {
      headers: { ...HEADERS, "content-type": isJson ? "application/json" : METRICS_TYPE },
    });
  }

  #failed(error: unknown): Response {
    this.#logger.warn(`a status request failed: ${messageOf(error)}`);
    return text(500, "this should not happen; the log says more");
  }
}

function text(status: number, message: string, headers: Record<string, string> = {}): Response {
  return new Response(`${message}\n`, {
    status,
    headers: { ...HEADERS, "content-type": TEXT_TYPE, ...headers },
  });
}
