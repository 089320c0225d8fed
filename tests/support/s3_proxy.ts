/**
 * A proxy between a drive and its S3 server that does to each request what the test says:
 * `await using proxy = startS3Proxy(ceph.endpoint);  proxy.treat = (request) => "lose answer";`
 *
 * What it passes on it passes on unchanged, byte for byte, so that signatures hold: they cover the Host
 * header, which names the proxy, and the server takes any. Each connection of the drive has one of its own to
 * the server.
 */

export interface ProxiedRequest {
  method: string;
  /** With the bucket and without the query: `/drive-1/log/0000000001`. */
  path: string;
  query: string;
  /** Names in lower case. */
  headers: Record<string, string>;
  /** Of the body. */
  bytes: number;
}

/** An S3 error that the proxy gives itself; the request is not passed on. */
export interface ErrorAnswer {
  status: number;
  code: string;
}

/**
 * What happens to a request.
 *
 * | treatment     | the server gets                  | the drive gets                               |
 * | ------------- | -------------------------------- | -------------------------------------------- |
 * | "pass"        | all of it                        | the answer                                   |
 * | "reset"       | nothing                          | a closed connection, reset if there is a body |
 * | "cut request" | its head, and half of its body   | a closed connection                          |
 * | "lose answer" | all of it, and applies it        | a closed connection                          |
 * | "cut answer"  | all of it, and applies it        | the answer without the second half of its body, or, if it has none, of its head |
 * | "hang"        | nothing                          | nothing, until it gives up                   |
 * | ErrorAnswer   | nothing                          | this error                                   |
 */
export type Treatment =
  | "pass"
  | "reset"
  | "cut request"
  | "lose answer"
  | "cut answer"
  | "hang"
  | ErrorAnswer;

type Treat = (request: ProxiedRequest) => Treatment | Promise<Treatment>;

/** The connection has come to its end, as it was to, or because the other side went. */
class Closed extends Error {}

export function startS3Proxy(serverEndpoint: string): S3Proxy {
  return new S3Proxy(serverEndpoint);
}

export class S3Proxy implements AsyncDisposable {
  /** Asked for every request when its head has arrived; the request waits until it is answered. */
  treat: Treat = () => "pass";
  /** Called when the server's answer to a request has arrived whole at the drive. */
  onServed: (request: ProxiedRequest) => void = () => {};

  readonly #server: URL;
  readonly #port: number;
  readonly #connections = new Set<Deno.Conn>();
  readonly #served = new Set<Promise<void>>();
  #listener: Deno.TcpListener | null = null;
  #change = Promise.withResolvers<void>();

  constructor(serverEndpoint: string) {
    this.#server = new URL(serverEndpoint);
    this.#listener = this.#listen(0);
    this.#port = this.#listener.addr.port;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Closes every connection and refuses new ones. */
  refuse(): void {
    this.#listener?.close();
    this.#listener = null;
    this.cutConnections();
  }

  /** Takes connections again, at the same port. */
  accept(): void {
    this.#listener ??= this.#listen(this.#port);
  }

  /** Closes every connection there is. */
  cutConnections(): void {
    for (const connection of this.#connections) close(connection);
  }

  /** Resolves when `condition` holds; it is looked at whenever a request arrives or has been served. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await this.#change.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.refuse();
    await Promise.all(this.#served);
  }

  #listen(port: number): Deno.TcpListener {
    const listener = Deno.listen({ hostname: "127.0.0.1", port });
    this.#track(this.#acceptAll(listener));
    return listener;
  }

  async #acceptAll(listener: Deno.TcpListener): Promise<void> {
    for await (const connection of listener) this.#track(this.#serve(connection));
  }

  #track(work: Promise<void>): void {
    this.#served.add(work);
    work.finally(() => this.#served.delete(work));
  }

  async #serve(drive: Deno.TcpConn): Promise<void> {
    const { hostname, port } = this.#server;
    this.#connections.add(drive);
    let server: Deno.TcpConn | null = null;
    try {
      server = await Deno.connect({ hostname, port: Number(port) });
      this.#connections.add(server);
      // else a body that follows its head waits for the head's acknowledgement, 40 ms
      for (const connection of [drive, server]) connection.setNoDelay(true);
      const exchange = new Exchange(drive, server);
      for (let request; (request = await exchange.nextRequest());) {
        this.#changed();
        await exchange.perform(request, await this.treat(request));
        this.onServed(request);
        this.#changed();
      }
    } catch (error) {
      if (!isConnectionError(error)) throw error;
    } finally {
      for (const connection of [drive, server]) {
        if (!connection) continue;
        this.#connections.delete(connection);
        close(connection);
      }
    }
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }
}

/** Requests of one connection, one after the other. */
class Exchange {
  readonly #drive: Incoming;
  readonly #server: Incoming;
  #head = "";

  constructor(drive: Deno.Conn, server: Deno.Conn) {
    this.#drive = new Incoming(drive);
    this.#server = new Incoming(server);
  }

  /** Reads a head; null when the drive has closed its side. */
  async nextRequest(): Promise<ProxiedRequest | null> {
    const head = await this.#drive.head();
    if (head === null) return null;
    this.#head = head;
    const [method, target] = head.split(" ", 2);
    const [path, query = ""] = target.split("?");
    const headers = headersOf(head);
    return { method, path, query, headers, bytes: Number(headers["content-length"] ?? 0) };
  }

  /** @throws Closed if the treatment ends the connection */
  async perform(request: ProxiedRequest, treatment: Treatment): Promise<void> {
    if (typeof treatment === "object") return await this.#answer(request, treatment);
    switch (treatment) {
      case "reset":
        throw new Closed();
      case "hang":
        return await this.#drive.skip(Infinity); // ends with the connection
      case "cut request":
        await this.#server.send(encode(this.#head));
        await this.#drive.copy(request.bytes >> 1, this.#server);
        throw new Closed();
    }
    await this.#server.send(encode(this.#head));
    await this.#drive.copy(request.bytes, this.#server);
    await this.#passAnswer(request, treatment);
  }

  async #answer(request: ProxiedRequest, { status, code }: ErrorAnswer): Promise<void> {
    await this.#drive.skip(request.bytes);
    const body = request.method === "HEAD"
      ? ""
      : `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code></Error>`;
    await this.#drive.send(encode(
      `HTTP/1.1 ${status} ${code}\r\nContent-Type: application/xml\r\n` +
        `Date: ${new Date().toUTCString()}\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    ));
  }

  async #passAnswer(request: ProxiedRequest, treatment: Treatment): Promise<void> {
    const head = await this.#server.head();
    if (head === null || treatment === "lose answer") throw new Closed();
    const headers = headersOf(head);
    const status = Number(head.split(" ", 2)[1]);
    const isEmpty = request.method === "HEAD" || status === 204 || status === 304;
    const length = isEmpty ? 0 : Number(headers["content-length"] ?? 0);
    if (treatment === "cut answer") {
      const isBare = length === 0;
      await this.#drive.send(encode(isBare ? head.slice(0, head.length >> 1) : head));
      await this.#server.copy(length >> 1, this.#drive);
      throw new Closed();
    }
    await this.#drive.send(encode(head));
    if (!isEmpty && headers["transfer-encoding"] === "chunked") {
      await this.#server.copyChunks(this.#drive);
    } else {
      await this.#server.copy(length, this.#drive);
    }
    if (headers.connection?.toLowerCase() === "close") throw new Closed();
  }
}

/** What arrives on a connection, read in pieces of a message; and the way back. */
class Incoming {
  readonly #connection: Deno.Conn;
  readonly #buffer = new Uint8Array(256 * 1024);
  /** What has arrived and is not used: a part of the buffer. */
  #rest = new Uint8Array(0);

  constructor(connection: Deno.Conn) {
    this.#connection = connection;
  }

  /** Up to and with the empty line; null if the connection ends before its first byte. */
  async head(): Promise<string | null> {
    return await this.#until("\r\n\r\n");
  }

  /** Passes on so many bytes. */
  async copy(bytes: number, to: Incoming): Promise<void> {
    await this.#take(bytes, (part) => to.send(part));
  }

  async skip(bytes: number): Promise<void> {
    await this.#take(bytes, () => Promise.resolve());
  }

  /** A body in chunks (RFC 9112, section 7.1), with its last one and no trailers. */
  async copyChunks(to: Incoming): Promise<void> {
    for (;;) {
      const line = await this.#until("\r\n");
      if (line === null) throw new Closed();
      await to.send(encode(line));
      const bytes = parseInt(line, 16);
      await this.copy(bytes + 2, to);
      if (bytes === 0) return;
    }
  }

  async send(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      done += await this.#connection.write(bytes.subarray(done));
    }
  }

  async #take(bytes: number, use: (part: Uint8Array) => Promise<void>): Promise<void> {
    for (let left = bytes; left > 0;) {
      if (this.#rest.length === 0 && !await this.#more()) throw new Closed();
      const part = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(part.length);
      left -= part.length;
      await use(part);
    }
  }

  async #until(end: string): Promise<string | null> {
    let text = "";
    while (!text.includes(end)) {
      if (this.#rest.length === 0 && !await this.#more()) {
        if (text === "") return null;
        throw new Closed();
      }
      // line by line, so that nothing of what comes behind is taken
      const at = this.#rest.indexOf(10) + 1 || this.#rest.length;
      text += new TextDecoder("latin1").decode(this.#rest.subarray(0, at));
      this.#rest = this.#rest.subarray(at);
    }
    return text;
  }

  async #more(): Promise<boolean> {
    const count = await this.#connection.read(this.#buffer);
    this.#rest = this.#buffer.subarray(0, count ?? 0);
    return count !== null;
  }
}

function headersOf(head: string): Record<string, string> {
  const lines = head.trimEnd().split("\r\n").slice(1);
  return Object.fromEntries(lines.map((line) => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  }));
}

/** Heads are ASCII. */
function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function isConnectionError(error: unknown): boolean {
  return [
    Closed,
    Deno.errors.BadResource,
    Deno.errors.BrokenPipe,
    Deno.errors.ConnectionReset,
    Deno.errors.ConnectionRefused,
    Deno.errors.ConnectionAborted,
    Deno.errors.Interrupted,
    Deno.errors.NotConnected,
  ].some((type) => error instanceof type);
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch { /* closed already */ }
}
