/**
 * The status service: HTTP, GET only, and nothing that changes the drive.
 *
 * | path           | what                            |
 * | -------------- | ------------------------------- |
 * | `/`            | a page for people               |
 * | `/status.json` | the report of report.ts         |
 * | `/metrics`     | the same for Prometheus         |
 * | `/healthz`     | 200 "ok", or 503 and the reason |
 *
 * It listens before anything else is touched, and says "opening" until the drive serves. A browser that a page of
 * somebody else has talked into asking (DNS rebinding) names that page's host: on loopback only this machine's
 * names are answered.
 */
import type { Clock } from "../clock.ts";
import { messageOf, UsageError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { type HttpAnswer, type HttpRequest, HttpServer } from "./http.ts";
import { METRICS_TYPE, metricsOf } from "./metrics.ts";
import { PAGE } from "./page.ts";
import type { StatusReport } from "./report.ts";

const HEADERS = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; " +
    "style-src 'unsafe-inline'; connect-src 'self'; img-src data:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
};
const LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"];

export interface StatusOptions {
  hostname: string;
  port: number;
  /** Whether only this machine can reach the address. */
  isLoopback: boolean;
  clock: Clock;
  logger: Logger;
}

export class StatusServer {
  readonly url: string;
  readonly #server: HttpServer;
  /** Undefined: whatever host a request names will do. */
  readonly #names: string[] | undefined;
  readonly #logger: Logger;
  #report: (() => StatusReport) | undefined = undefined;

  /** Listens; port 0 takes a free one. Throws `UsageError`. */
  constructor({ hostname, port, isLoopback, clock, logger }: StatusOptions) {
    const shown = hostname.includes(":") ? `[${hostname}]` : hostname;
    const listener = listen(hostname, port, shown);
    this.url = `http://${shown}:${listener.addr.port}/`;
    this.#names = isLoopback ? [...LOOPBACK_NAMES, shown.toLowerCase()] : undefined;
    this.#logger = logger;
    this.#server = new HttpServer(listener, (request) => this.#answer(request), { clock, logger });
  }

  /** From now on there is something to report. */
  startServing(report: () => StatusReport): void {
    this.#report = report;
  }

  close(): void {
    this.#server.close();
  }

  #answer(request: HttpRequest | undefined): HttpAnswer {
    if (request === undefined) return text(400, "this is no HTTP request");
    const { method, path, host } = request;
    if (this.#names?.includes(host) === false) {
      return text(403, `this is not ${host || "a request that names no host"}; ask ${this.url}`);
    }
    if (method !== "GET") {
      return text(405, `${method} is not answered here; allowed: GET`, { allow: "GET" });
    }
    if (path === "/") return answer(200, "text/html; charset=utf-8", PAGE);
    if (path !== "/status.json" && path !== "/metrics" && path !== "/healthz") {
      return text(404, "there is /, /status.json, /metrics and /healthz");
    }
    try {
      return this.#answerReport(path);
    } catch (error) {
      this.#logger.error(`${path}, this should not happen: ${(error as Error).stack}`, "status");
      return text(500, "this should not happen; the log says more");
    }
  }

  #answerReport(path: "/status.json" | "/metrics" | "/healthz"): HttpAnswer {
    if (this.#report === undefined) return text(503, "opening: the drive does not serve yet");
    const report = this.#report();
    if (path === "/status.json") return answer(200, "application/json", JSON.stringify(report));
    if (path === "/metrics") return answer(200, METRICS_TYPE, metricsOf(report));
    return report.trouble === null ? text(200, "ok") : text(503, report.trouble);
  }
}

function answer(
  status: number,
  type: string,
  body: string,
  headers: Record<string, string> = {},
): HttpAnswer {
  return { status, headers: { "content-type": type, ...HEADERS, ...headers }, body };
}

/** A line for people. */
function text(status: number, message: string, headers?: Record<string, string>): HttpAnswer {
  return answer(status, "text/plain; charset=utf-8", `${message}\n`, headers);
}

function listen(hostname: string, port: number, shown: string): Deno.TcpListener {
  try {
    return Deno.listen({ hostname, port });
  } catch (error) {
    const reason = error instanceof Deno.errors.AddrInUse ? "it is in use" : messageOf(error);
    throw new UsageError(
      `can't serve status on ${shown}:${port}: ${reason}; ` +
        "set status in [server] to another address and port, or to off",
      { key: "status" },
    );
  }
}
