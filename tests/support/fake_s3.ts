/**
 * An HTTP server on a raw socket, for answers that no real S3 server gives when asked: broken bodies, wrong
 * lengths, silence, redirects. It knows nothing of S3; the test says what it answers.
 */

export interface FakeRequest {
  method: string;
  /** With its query. */
  path: string;
  /** Names in lower case. */
  headers: Record<string, string>;
  body: string;
}

/** `cutAfter`: close the connection after so many bytes of the body. `hang`: answer nothing (more). */
export interface FakeAnswer {
  status?: number;
  headers?: Record<string, string>;
  body?: string;
  /** Announced length, if it is not the body's. */
  contentLength?: number;
  cutAfter?: number;
  hang?: boolean;
}

export interface FakeS3 extends AsyncDisposable {
  readonly endpoint: string;
  /** Connections open now. */
  readonly connections: ReadonlySet<Deno.Conn>;
  readonly requests: readonly FakeRequest[];
  /** Answers sent, the cut ones too. */
  readonly answered: number;
  /** Resolves when `condition` holds; it is looked at whenever one of the above changes. */
  until(condition: () => boolean): Promise<void>;
}

export function startFakeS3(answer: (request: FakeRequest) => FakeAnswer): Promise<FakeS3> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const connections = new Set<Deno.Conn>();
  const requests: FakeRequest[] = [];
  let answered = 0;
  let change = Promise.withResolvers<void>();
  const changed = () => {
    change.resolve();
    change = Promise.withResolvers();
  };

  const serve = async (connection: Deno.Conn) => {
    connections.add(connection);
    changed();
    const reader = new RequestReader(connection);
    for (let request; (request = await reader.next());) {
      requests.push(request);
      changed();
      const sent = () => {
        answered++;
        changed();
      };
      if (!await send(connection, answer(request), sent)) break;
    }
    connections.delete(connection);
    close(connection);
    changed();
  };
  const accepting = (async () => {
    for await (const connection of listener) void serve(connection).catch(() => close(connection));
  })();

  return Promise.resolve({
    endpoint: `http://127.0.0.1:${listener.addr.port}`,
    connections,
    requests,
    get answered() {
      return answered;
    },
    async until(condition) {
      while (!condition()) await change.promise;
    },
    async [Symbol.asyncDispose]() {
      listener.close();
      for (const connection of connections) close(connection);
      await accepting;
    },
  });
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // closed already
  }
}

/** False when the connection is to be closed. */
async function send(
  connection: Deno.Conn,
  answer: FakeAnswer,
  sent: () => void,
): Promise<boolean> {
  const { status = 200, headers = {}, body = "", contentLength, cutAfter } = answer;
  const bytes = new TextEncoder().encode(body);
  if (!answer.hang || cutAfter !== undefined) {
    const lines = [`HTTP/1.1 ${status} Status`, `Content-Length: ${contentLength ?? bytes.length}`];
    for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
    await writeAll(connection, new TextEncoder().encode(lines.join("\r\n") + "\r\n\r\n"));
    await writeAll(connection, bytes.subarray(0, cutAfter));
    sent();
  }
  // Silence lasts until the client goes.
  if (answer.hang) { while (await connection.read(new Uint8Array(65536)) !== null); }
  return cutAfter === undefined && !answer.hang;
}

async function writeAll(connection: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) done += await connection.write(bytes.subarray(done));
}

class RequestReader {
  #rest = new Uint8Array(0);
  constructor(readonly connection: Deno.Conn) {}

  /** The next request; null when the client has gone. */
  async next(): Promise<FakeRequest | null> {
    let end;
    while ((end = this.#endOfHead()) < 0) if (!await this.#more()) return null;
    const [first, ...lines] = new TextDecoder().decode(this.#rest.subarray(0, end)).split("\r\n");
    this.#rest = this.#rest.subarray(end + 4);
    const headers = Object.fromEntries(lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }));
    const length = Number(headers["content-length"] ?? 0);
    while (this.#rest.length < length) if (!await this.#more()) return null;
    const body = new TextDecoder().decode(this.#rest.subarray(0, length));
    this.#rest = this.#rest.subarray(length);
    const [method, path] = first.split(" ");
    return { method, path, headers, body };
  }

  #endOfHead(): number {
    for (let i = 0; i + 3 < this.#rest.length; i++) {
      if (this.#rest[i] === 13 && this.#rest[i + 1] === 10 && this.#rest[i + 2] === 13) return i;
    }
    return -1;
  }

  async #more(): Promise<boolean> {
    const chunk = new Uint8Array(65536);
    const n = await this.connection.read(chunk).catch(() => null);
    if (n === null) return false;
    const joined = new Uint8Array(this.#rest.length + n);
    joined.set(this.#rest);
    joined.set(chunk.subarray(0, n), this.#rest.length);
    this.#rest = joined;
    return true;
  }
}
