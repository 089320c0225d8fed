/** HTTP by HttpClient, against servers that say and do what the test wants, byte by byte. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { HttpClient } from "../../../src/bucket/http_client.ts";
import type { HttpRequest } from "../../../src/bucket/http_connection.ts";
import {
  HTTP_BODY_BYTES_UNKNOWN_MAX,
  HTTP_HEAD_BYTES_MAX,
  HTTP_STUCK_MAX,
  MIB,
  S3_IDLE_MS_MAX,
} from "../../../src/limits.ts";
import { ManualClock } from "../../support/manual_clock.ts";

const GET: HttpRequest = { method: "GET", path: "/a", headers: { host: "x" } };
const text = (bytes: Uint8Array) => new TextDecoder("latin1").decode(bytes);
const bytesOf = (text: string) => new TextEncoder().encode(text);

/** A server for `test`; each connection is `serve`'s, and `connections` lists them. */
async function withServer(
  serve: (connection: Deno.Conn, number: number) => Promise<unknown>,
  test: (request: (request?: HttpRequest, signal?: AbortSignal) => Promise<string>, around: {
    client: HttpClient;
    clock: ManualClock;
    connections: Deno.Conn[];
  }) => Promise<void>,
): Promise<void> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const connections: Deno.Conn[] = [];
  const served: Promise<unknown>[] = [];
  const accepting = (async () => {
    for await (const connection of listener) {
      served.push(serve(connection, connections.push(connection)).catch(() => {}));
    }
  })();
  const clock = new ManualClock();
  const client = new HttpClient(clock);
  const origin = `http://127.0.0.1:${listener.addr.port}`;
  const request = async (what = GET, signal?: AbortSignal) => {
    const { status, body } = await client.request(origin, what, signal);
    return `${status} ${text(body)}`;
  };
  try {
    await test(request, { client, clock, connections });
  } finally {
    client.close();
    listener.close();
    for (const connection of connections) {
      try {
        connection.close();
      } catch { /* by the test, already */ }
    }
    await accepting;
    await Promise.all(served);
  }
}

/** Reads a request up to the end of its head; null at the connection's end. */
async function readHead(connection: Deno.Conn): Promise<string | null> {
  let head = "";
  while (!head.endsWith("\r\n\r\n")) {
    const byte = new Uint8Array(1);
    if (await connection.read(byte) === null) return null;
    head += text(byte);
  }
  return head;
}

/** Answers every request of a connection with the same bytes, given to the network in these pieces. */
function answering(...pieces: string[]) {
  return async (connection: Deno.Conn) => {
    while (await readHead(connection) !== null) {
      for (const piece of pieces) await connection.write(bytesOf(piece));
    }
  };
}

Deno.test("an answer is the same wherever the network parts it, and however its length is told", async () => {
  const answers = {
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": "200 hello",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nmore: z\r\n\r\n":
      "404 hello",
    "HTTP/1.1 204 \r\n\r\n": "204 ",
  };
  for (const [answer, expected] of Object.entries(answers)) {
    await withServer(answering(...answer), async (request, { connections }) => {
      assertEquals([await request(), await request()], [expected, expected]);
      assertEquals(connections.length, 1, "the connection is used again");
    });
    await withServer(answering(answer), async (request) => assertEquals(await request(), expected));
  }
});

Deno.test("an answer without a length ends with its connection", async () => {
  const serve = async (connection: Deno.Conn) => {
    await readHead(connection);
    await connection.write(bytesOf("HTTP/1.0 200 OK\r\n\r\nhello"));
    connection.close();
  };
  await withServer(serve, async (request, { connections }) => {
    assertEquals([await request(), await request()], ["200 hello", "200 hello"]);
    assertEquals(connections.length, 2);
  });
});

Deno.test("a connection that rested and was closed by the server is replaced, one that broke off is not", async () => {
  const serve = async (connection: Deno.Conn, number: number) => {
    await readHead(connection);
    await connection.write(bytesOf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"));
    await readHead(connection);
    if (number === 2) await connection.write(bytesOf("HTTP/1.1 2"));
    connection.close();
  };
  await withServer(serve, async (request, { connections }) => {
    assertEquals([await request(), await request()], ["200 1", "200 1"]);
    assertEquals(connections.length, 2);
    await assertRejects(() => request(), Error, "closed before message");
    assertEquals(connections.length, 2);
  });
});

Deno.test("a connection that is to be closed, or on which more came than the answer, is not used again", async () => {
  const answers = [
    "HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 1\r\n\r\n1",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3",
  ];
  const serve = async (connection: Deno.Conn, number: number) => {
    while (await readHead(connection) !== null) {
      await connection.write(bytesOf(answers[number - 1]));
    }
  };
  await withServer(serve, async (request, { connections }) => {
    assertEquals([await request(), await request(), await request()], ["200 1", "200 2", "200 3"]);
    assertEquals(connections.length, 3);
  });
});

Deno.test("a connection that has rested for long is not trusted", async () => {
  const answer = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  await withServer(answer, async (request, { clock, connections }) => {
    await request();
    await clock.advance(S3_IDLE_MS_MAX);
    await request();
    assertEquals(connections.length, 1);
    await clock.advance(S3_IDLE_MS_MAX + 1);
    await request();
    assertEquals(connections.length, 2);
  });
});

Deno.test("what is no answer is an error that says so", async () => {
  const cases = {
    "SSH-2.0-OpenSSH\r\n\r\n": 'no HTTP/1.1 is spoken there: it begins with "SSH-2.0-OpenSSH"',
    "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n": "Content-Length: 1, 2",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n": "Transfer-Encoding: gzip",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n": 'chunk of "-1" bytes',
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00200000\r\n": "body is longer",
    "HTTP/1.1 404 Not Found\r\nContent-Length: 1048577\r\n\r\n": "body is longer than 1048576",
    "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n": "body is longer than 5368709120",
    "HTTP/1.1 200 OK\r\n: x\r\n\r\n": "without a name",
    [`HTTP/1.1 200 ${"x".repeat(HTTP_HEAD_BYTES_MAX)}`]: "head is longer",
    [`HTTP/1.1 200 OK\r\n\r\n${"x".repeat(HTTP_BODY_BYTES_UNKNOWN_MAX + 1)}`]: "body is longer",
  };
  for (const [answer, message] of Object.entries(cases)) {
    await withServer(answering(answer), async (request) => {
      await assertRejects(() => request(), Error, message);
    });
  }
});

Deno.test("a body arrives as it is, whatever its size", async () => {
  const head = HTTP_HEAD_BYTES_MAX;
  for (const size of [0, 1, head, head + 1, 2 * head, 2 * head + 1, 3 * MIB + 1]) {
    const body = Uint8Array.from({ length: size }, (_, at) => at * 31 >> 3);
    let received: Uint8Array | undefined;
    const serve = async (connection: Deno.Conn) => {
      const head = await readHead(connection);
      const bytes = new Uint8Array(Number(/content-length: (\d+)/.exec(head!)![1]));
      for (let done = 0; done < bytes.length;) {
        done += (await connection.read(bytes.subarray(done)))!;
      }
      received = bytes;
      await connection.write(bytesOf("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    };
    await withServer(serve, async (request) => {
      assertEquals(await request({ ...GET, method: "PUT", body }), "200 ");
      assertEquals(received!.length, size);
      assert(received!.every((byte, at) => byte === body[at]));
    });
  }
});

Deno.test("an error that comes before the body has been taken is the answer", async () => {
  const serve = async (connection: Deno.Conn) => {
    await readHead(connection);
    await connection.write(bytesOf("HTTP/1.1 503 Slow Down\r\nContent-Length: 1\r\n\r\n!"));
  };
  const put: HttpRequest = { ...GET, method: "PUT", body: new Uint8Array(64 * MIB) };
  await withServer(serve, async (request, { connections }) => {
    assertEquals(await request(put), "503 !");
    assertEquals(await request(put), "503 !");
    assertEquals(connections.length, 2, "what is left of a body is not taken for a request");
  });
});

Deno.test("memory that is used again after an abort never completes the body that it held", async () => {
  const body = new Uint8Array(64 * MIB).fill(1);
  await withServer(readHead, async (request, { connections }) => {
    const abort = new AbortController();
    const put = request({ ...GET, method: "PUT", body }, abort.signal);
    while (connections.length === 0) await new Promise((resolve) => setTimeout(resolve));
    const [server] = connections;
    const first = new Uint8Array(MIB);
    let received = (await server.read(first))!; // of a body that it does not read on
    const reason = new Error("deadline");
    abort.abort(reason);
    assertEquals(await assertRejects(() => put), reason);
    body.fill(2);
    for (const chunk = new Uint8Array(MIB);;) {
      const count = await server.read(chunk).catch(() => null);
      if (count === null) break;
      received += count;
    }
    assert(received < body.length, `${received} bytes`);
  });
});

Deno.test("writes that were left to themselves are counted until they have ended", async () => {
  const put: HttpRequest = { ...GET, method: "PUT", body: new Uint8Array(64 * MIB) };
  await withServer(readHead, async (request, { client, connections }) => {
    const abort = new AbortController();
    const puts = Array.from({ length: HTTP_STUCK_MAX }, () => request(put, abort.signal));
    while (connections.length < HTTP_STUCK_MAX) await new Promise((resolve) => setTimeout(resolve));
    assert(!client.isStuck);
    // each is being sent: nobody reads, and sockets take less than such a body
    abort.abort(new Error("deadline"));
    assert(client.isStuck);
    for (const { status } of await Promise.allSettled(puts)) assertEquals(status, "rejected");
    for (const connection of connections) connection.close();
    while (client.isStuck) await new Promise((resolve) => setTimeout(resolve));
  });
});
