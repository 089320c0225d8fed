/**
 * HTTP/1.1 on one connection: a request, then its answer, then perhaps the next (RFC 9112).
 *
 * Why not `fetch`: it copies a body twice into fresh memory, which took 0.9 s of processor time a GiB, where sending it
 * as it lies takes 0.2. It is spoken here as far as GET and PUT of an S3 object need it; all else is left to the SDK
 * and `fetch`.
 *
 * Deno can't end a write that has begun, so one may go on after `close`, until the server reads or is gone
 * (`isSending`). By then the body's memory may hold something else. Hence the end of a body is always sent from a
 * copy: either all of it is as it was when it was given, or the server never gets as many bytes as were announced.
 */
import {
  HTTP_BODY_BYTES_MAX,
  HTTP_BODY_BYTES_UNKNOWN_MAX,
  HTTP_HEAD_BYTES_MAX,
  HTTP_WRITE_BYTES,
} from "../limits.ts";

export interface HttpRequest {
  method: "GET" | "PUT";
  /** From the first slash on, encoded. */
  path: string;
  /** Host among them; Content-Length is added. */
  headers: Record<string, string>;
  body?: Uint8Array;
}

export interface HttpAnswer {
  status: number;
  reason: string;
  /** Names in lower case. */
  headers: Record<string, string>;
  body: Uint8Array;
}

type Head = Omit<HttpAnswer, "body">;

const latin1 = new TextDecoder("latin1");
const encoder = new TextEncoder();
const LINE_END = encoder.encode("\r\n");
const HEAD_END = encoder.encode("\r\n\r\n");

export class HttpConnection {
  readonly #socket: Deno.Conn;
  /** What has been read and not used yet lies from `#from` up to `#to`. */
  readonly #buffer = new Uint8Array(HTTP_HEAD_BYTES_MAX);
  #from = 0;
  #to = 0;
  /** Settles when nothing is being sent. */
  #sent: Promise<void> = Promise.resolve();
  /** A request is being sent. */
  isSending = false;
  /** Any byte of the newest request's answer has come. */
  hasAnswered = false;
  /** The next request can be made here. */
  isReusable = true;

  constructor(socket: Deno.Conn) {
    this.#socket = socket;
  }

  /** Ends whatever is under way, but for a write; resolves when that has ended, too. */
  close(): Promise<void> {
    this.isReusable = false;
    this.#socket.close();
    return this.#sent;
  }

  /** Makes one request. Whatever it throws, the connection is to be closed then. */
  async exchange(request: HttpRequest): Promise<HttpAnswer> {
    this.hasAnswered = false;
    this.isSending = true;
    let failure: unknown;
    this.#sent = this.#send(request)
      .catch((error) => failure = error)
      .then(() => void (this.isSending = false));
    try {
      const answer = await this.#readAnswer();
      // A success is an answer to all of the body, so its last write has ended; an error may come before.
      if (answer.status < 300) await this.#sent;
      if (this.isSending || failure || this.#from < this.#to) this.isReusable = false;
      return answer;
    } catch (error) {
      // who was hung up on while he spoke knows more of why
      throw failure ?? error;
    }
  }

  // ---- the request

  async #send({ method, path, headers, body = new Uint8Array(0) }: HttpRequest): Promise<void> {
    let lines = `${method} ${path} HTTP/1.1\r\n`;
    for (const name of Object.keys(headers)) lines += `${name}: ${headers[name]}\r\n`;
    if (method === "PUT") lines += `content-length: ${body.length}\r\n`;
    const head = encoder.encode(lines + "\r\n");
    // a small body goes with the head, in one packet if it fits
    const begin = body.subarray(0, HTTP_HEAD_BYTES_MAX);
    await this.#write(begin.length === 0 ? head : joined([head, begin]));
    const last = Math.max(begin.length, body.length - HTTP_HEAD_BYTES_MAX);
    for (let at = begin.length; at < last; at += HTTP_WRITE_BYTES) {
      await this.#write(body.subarray(at, Math.min(at + HTTP_WRITE_BYTES, last)));
    }
    if (last < body.length) await this.#write(body.slice(last));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      done += await this.#socket.write(bytes.subarray(done));
    }
  }

  // ---- the answer

  async #readAnswer(): Promise<HttpAnswer> {
    let head: Head;
    // 1xx announce the answer (RFC 9110, section 15.2)
    do head = parseHead(await this.#readUntil(HEAD_END)); while (head.status < 200);
    const { status, headers } = head;
    if (/\bclose\b/i.test(headers.connection ?? "")) this.isReusable = false;
    return { ...head, body: await this.#readBody(status, headers) };
  }

  /** Its length is told in one of these ways (RFC 9112, section 6.3). */
  async #readBody(status: number, headers: Record<string, string>): Promise<Uint8Array> {
    if (status === 204 || status === 304) return new Uint8Array(0);
    const encoding = headers["transfer-encoding"];
    if (encoding?.toLowerCase() === "chunked") return await this.#readChunked();
    if (encoding !== undefined) throw new Error(`the server sent Transfer-Encoding: ${encoding}`);
    const length = headers["content-length"];
    if (length === undefined) return await this.#readToEnd();
    if (!/^\d+$/.test(length)) throw new Error(`the server sent Content-Length: ${length}`);
    const most = status < 300 ? HTTP_BODY_BYTES_MAX : HTTP_BODY_BYTES_UNKNOWN_MAX;
    if (Number(length) > most) throw tooLong("body", most);
    return await this.#readExactly(Number(length));
  }

  /** Straight into the array that is returned. */
  async #readExactly(length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    let done = Math.min(length, this.#to - this.#from);
    bytes.set(this.#buffer.subarray(this.#from, this.#from + done));
    this.#from += done;
    while (done < length) {
      const count = await this.#socket.read(bytes.subarray(done)).catch((cause) => {
        throw new Error(`the answer broke off after ${done} of ${length} bytes`, { cause });
      });
      if (count === null) throw new Error(`the answer ended after ${done} of ${length} bytes`);
      done += count;
    }
    return bytes;
  }

  async #readChunked(): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for (;;) {
      const line = await this.#readUntil(LINE_END);
      const size = /^[0-9a-f]{1,8}(?=[ \t;]|$)/i.exec(line)?.[0];
      if (size === undefined) throw new Error(`the server sent a chunk of "${line}" bytes`);
      bytes += parseInt(size, 16);
      if (bytes > HTTP_BODY_BYTES_UNKNOWN_MAX) throw tooLong("body", HTTP_BODY_BYTES_UNKNOWN_MAX);
      if (Number(`0x${size}`) === 0) break;
      chunks.push(await this.#readExactly(parseInt(size, 16)));
      if (await this.#readUntil(LINE_END) !== "") {
        throw new Error("a chunk of the answer is longer");
      }
    }
    while (await this.#readUntil(LINE_END) !== ""); // trailers
    return joined(chunks);
  }

  async #readToEnd(): Promise<Uint8Array> {
    this.isReusable = false;
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    do {
      chunks.push(this.#buffer.slice(this.#from, this.#to));
      bytes += this.#to - this.#from;
      if (bytes > HTTP_BODY_BYTES_UNKNOWN_MAX) throw tooLong("body", HTTP_BODY_BYTES_UNKNOWN_MAX);
      this.#from = this.#to;
    } while (await this.#fill());
    return joined(chunks);
  }

  /** The text up to `mark`, without it: what follows may be a body, and is not decoded. */
  async #readUntil(mark: Uint8Array): Promise<string> {
    for (;;) {
      const at = this.#find(mark);
      if (at >= 0) {
        const text = latin1.decode(this.#buffer.subarray(this.#from, at));
        this.#from = at + mark.length;
        return text;
      }
      if (this.#to - this.#from === this.#buffer.length) {
        throw tooLong("head", this.#buffer.length);
      }
      if (!await this.#fill()) throw new Error("connection closed before message completed");
    }
  }

  /** Where in the buffer the first `mark` of what has been read begins; -1 if it has not come whole. */
  #find(mark: Uint8Array): number {
    const read = this.#buffer.subarray(this.#from, this.#to);
    let at = read.indexOf(mark[0]);
    while (at >= 0 && !mark.every((byte, index) => read[at + index] === byte)) {
      at = read.indexOf(mark[0], at + 1);
    }
    return at < 0 ? -1 : this.#from + at;
  }

  /** Reads what has come; false at the connection's end. */
  async #fill(): Promise<boolean> {
    this.#buffer.copyWithin(0, this.#from, this.#to);
    this.#to -= this.#from;
    this.#from = 0;
    const count = await this.#socket.read(this.#buffer.subarray(this.#to));
    if (count === null) return false;
    this.hasAnswered = true;
    this.#to += count;
    return true;
  }
}

function parseHead(text: string): Head {
  const [first, ...lines] = text.split("\r\n");
  const status = /^HTTP\/1\.[01] ([1-9]\d\d)(?: (.*))?$/.exec(first);
  if (!status) {
    throw new Error(`no HTTP/1.1 is spoken there: it begins with "${first.slice(0, 80)}"`);
  }
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`the server sent a header without a name: "${line}"`);
    const name = line.slice(0, colon).toLowerCase();
    const value = line.slice(colon + 1).trim();
    headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
  }
  return { status: Number(status[1]), reason: status[2] ?? "", headers };
}

function tooLong(part: string, most: number): Error {
  return new Error(`the answer's ${part} is longer than ${most} bytes`);
}

function joined(chunks: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
