import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import {
  STATUS_ANSWER_BYTES_MAX,
  STATUS_CONNECTIONS_MAX,
  STATUS_REQUEST_MS_MAX,
} from "../../../src/limits.ts";
import { silentLogger } from "../../../src/logger.ts";
import type { StatusReport } from "../../../src/status/report.ts";
import { StatusServer } from "../../../src/status/server.ts";
import { ManualClock } from "../../support/manual_clock.ts";

interface Served extends Disposable {
  server: StatusServer;
  clock: ManualClock;
  port: number;
}

function serve(hostname = "127.0.0.1", isLoopback = true): Served {
  const clock = new ManualClock();
  const options = { hostname, port: 0, isLoopback, clock, logger: silentLogger };
  const server = new StatusServer(options);
  const port = Number(new URL(server.url).port);
  return { server, clock, port, [Symbol.dispose]: () => server.close() };
}

/** Sends these bytes and takes all that comes until the server ends the connection. */
async function ask(port: number, request: string): Promise<string> {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(new TextEncoder().encode(request));
  return await new Response(conn.readable).text();
}

function get(path: string, host = "localhost"): string {
  return `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`;
}

/** All that is looked at of a report where its contents don't matter. */
const report = (trouble: string | null) => ({ trouble }) as StatusReport;

Deno.test("until the drive serves, its state is that it is opening", async () => {
  using served = serve();
  const { server, port } = served;
  for (const path of ["/healthz", "/status.json", "/metrics"]) {
    const answer = await ask(port, get(path));
    assertMatch(answer, /^HTTP\/1\.1 503 Service Unavailable\r\n/);
    assertStringIncludes(answer, "\r\n\r\nopening: ");
  }
  server.startServing(() => report(null));
  assertMatch(await ask(port, get("/healthz")), /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nok\n$/);
});

Deno.test("who is not well answers 503, and why", async () => {
  using served = serve();
  served.server.startServing(() => report("fenced by another"));
  const answer = await ask(served.port, get("/healthz"));
  assertMatch(answer, /^HTTP\/1\.1 503 [^]*\r\n\r\nfenced by another\n$/);
});

Deno.test("the page and the report are not kept, not taken for something else, and load nothing", async () => {
  using served = serve();
  served.server.startServing(() => report(null));
  const page = await ask(served.port, get("/?from=somewhere"));
  const json = await ask(served.port, get("/status.json"));
  assertMatch(page, /^HTTP\/1\.1 200 OK\r\n[^]*content-type: text\/html; charset=utf-8\r\n/);
  assertStringIncludes(page, "\r\n\r\n<!doctype html>");
  assertMatch(json, /content-type: application\/json\r\n[^]*\r\n\r\n\{"trouble":null\}$/);
  assert(page.length <= STATUS_ANSWER_BYTES_MAX);
  for (const answer of [page, json]) {
    assertStringIncludes(answer, "cache-control: no-store\r\n");
    assertStringIncludes(answer, "x-content-type-options: nosniff\r\n");
    assertStringIncludes(answer, "content-security-policy: default-src 'none'; ");
    assertStringIncludes(answer, "connection: close\r\n");
  }
});

Deno.test("nothing but GET of what there is, is answered otherwise than with what is allowed", async () => {
  using served = serve();
  for (
    const [request, status, text] of [
      ["POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405, "allowed: GET"],
      ["HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "allowed: GET"],
      [get("/favicon.ico"), 404, "there is /, /status.json, /metrics and /healthz"],
      [get("//localhost/../x"), 404, "there is /"],
      ["hello\r\n\r\n", 400, "no HTTP request"],
      [`GET /${"x".repeat(9000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`, 400, "no HTTP request"],
    ] as const
  ) {
    const answer = await ask(served.port, request);
    assertMatch(answer, new RegExp(`^HTTP/1\\.1 ${status} `), request.slice(0, 100));
    assertStringIncludes(answer, text);
    assertEquals(answer.includes("\r\nallow: GET\r\n"), status === 405);
  }
});

Deno.test("on loopback only this machine's names are answered", async () => {
  using served = serve("127.0.0.1");
  for (const host of ["localhost", "LOCALHOST:80", "127.0.0.1:9998", "[::1]:1"]) {
    assertMatch(await ask(served.port, get("/", host)), /^HTTP\/1\.1 200 /, host);
  }
  for (
    const host of ["evil.example", "localhost.evil.example:9998", "127.0.0.1.evil.example", ""]
  ) {
    assertMatch(await ask(served.port, get("/", host)), /^HTTP\/1\.1 403 /, host);
  }
  assertMatch(await ask(served.port, "GET / HTTP/1.0\r\n\r\n"), /^HTTP\/1\.1 403 /);
  using everywhere = serve("0.0.0.0", false);
  assertMatch(await ask(everywhere.port, get("/", "nas.example")), /^HTTP\/1\.1 200 /);
});

Deno.test("an address of IPv6 stands in brackets, and is answered by its name", async () => {
  using served = serve("::1");
  assertEquals(served.server.url, `http://[::1]:${served.port}/`);
  const response = await fetch(served.server.url);
  assertEquals(response.status, 200);
  await response.body?.cancel();
});

Deno.test("an address that is taken is refused, and the way out is said", () => {
  using served = serve();
  const { port } = served;
  const options = { hostname: "127.0.0.1", isLoopback: true, logger: silentLogger };
  const error = assertThrows(
    () => new StatusServer({ ...options, port, clock: new ManualClock() }),
    UsageError,
  );
  assertEquals(
    error.message,
    `can't serve status on 127.0.0.1:${port}: it is in use; ` +
      "set status in [server] to another address and port, or to off",
  );
});

Deno.test("who says nothing is cut off in time", async () => {
  using served = serve();
  const { clock, port } = served;
  using silent = await Deno.connect({ hostname: "127.0.0.1", port });
  await silent.write(new TextEncoder().encode("GET / HT"));
  while (clock.pending === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  await clock.advance(STATUS_REQUEST_MS_MAX);
  assertEquals(await silent.read(new Uint8Array(1)).catch(() => null), null);
});

Deno.test("of too many that say nothing the oldest gives way, and who asks is answered", async () => {
  using served = serve();
  const { clock, port } = served;
  const silent: Deno.Conn[] = [];
  for (let i = 0; i < STATUS_CONNECTIONS_MAX; i++) {
    silent.push(await Deno.connect({ hostname: "127.0.0.1", port }));
  }
  while (clock.pending < STATUS_CONNECTIONS_MAX) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assertMatch(await ask(port, get("/")), /^HTTP\/1\.1 200 /);
  assertEquals(await silent[0].read(new Uint8Array(1)).catch(() => null), null);
  assert(clock.pending <= STATUS_CONNECTIONS_MAX);
  for (const conn of silent) conn.close();
});
