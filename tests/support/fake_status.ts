/**
 * A status service that says what a test tells it to: the page, under the policy that the real one sends, and a
 * report that the test may change at any time.
 */
import { PAGE } from "../../src/status/page.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { idleReport } from "./status_report.ts";

const POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; " +
  "connect-src 'self'; img-src data:";

export class FakeStatus implements AsyncDisposable {
  /** What is asked for next is told this. */
  report: StatusReport = idleReport();
  /** Called before each report, to let something happen. */
  onAsked: () => void = () => {};
  /** Answers 503 rather than with a report. */
  isDown = false;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor() {
    const options = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
    this.#server = Deno.serve(options, (request) => this.#answer(new URL(request.url).pathname));
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/`;
  }

  #answer(path: string): Response {
    const headers = { "content-security-policy": POLICY };
    if (path === "/") {
      return new Response(PAGE, { headers: { ...headers, "content-type": "text/html" } });
    }
    if (path !== "/status.json") return new Response(null, { status: 404 });
    if (this.isDown) return new Response(null, { status: 503 });
    this.onAsked();
    this.report.nowMs = Date.now();
    return Response.json(this.report, { headers });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}
