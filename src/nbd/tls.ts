/**
 * A connection that begins in clear and goes on in TLS: what NBD_OPT_STARTTLS makes of a socket.
 *
 * Promises
 * - What was read in clear stays read, everything behind it is TLS: no byte is taken for both. TLS bytes leave
 *   in the order in which they were made, one write of the socket at a time.
 * - Bounded memory: TLS_READ_BYTES of what has arrived, TLS_WRITE_BYTES of what is to leave. `write`
 *   waits for the socket, so it stops who writes. `read` waits for no write: what TLS answers by itself (to a key
 *   update) is little (openssl.ts).
 * - However it ends, `close` gives everything back.
 * Assumes: one `read` and one `write` at a time. That a stream ends without a close_notify is no error: NBD
 * says by itself when a client is done.
 */

import { TLS_READ_BYTES, TLS_WRITE_BYTES } from "../limits.ts";
import type { TlsContext, TlsSession } from "./openssl.ts";
import { type Socket, writeAll } from "./socket.ts";

export class TlsSocket implements Socket {
  readonly #conn: Socket;
  readonly #context: TlsContext;
  #session: TlsSession | undefined = undefined;
  emptied = 0;
  #arrived = new Uint8Array(0);
  #leaving = new Uint8Array(0);
  /** Of what the session has made to be sent; undefined when all of it has left. */
  #sending: Promise<void> | undefined = undefined;

  constructor(conn: Socket, context: TlsContext) {
    this.#conn = conn;
    this.#context = context;
  }

  /** Whether what is read and written from now on is protected. */
  get isSecure(): boolean {
    return this.#session !== undefined;
  }

  /** Waits for the client's TLS handshake. Throws `ProtocolError` when it fails, or what the socket throws. */
  async startTls(): Promise<void> {
    const session = this.#session = this.#context.newSession();
    this.#arrived = new Uint8Array(TLS_READ_BYTES);
    this.#leaving = new Uint8Array(TLS_WRITE_BYTES);
    for (;;) {
      const isComplete = session.accept();
      await this.#send(session);
      if (isComplete) return;
      if (!(await this.#receive(session))) throw new Deno.errors.UnexpectedEof("in TLS handshake");
    }
  }

  async read(bytes: Uint8Array): Promise<number | null> {
    const session = this.#session;
    if (session === undefined) {
      const count = await this.#conn.read(bytes);
      this.#noteWhetherEmptied(count, bytes);
      return count;
    }
    for (;;) {
      const count = session.read(bytes);
      // a socket that takes nothing any more says so to who reads and writes
      this.#send(session).catch(() => {});
      if (count !== 0) return count;
      if (!(await this.#receive(session))) return null;
    }
  }

  /** Takes as much as may be under way; how much. */
  async write(bytes: Uint8Array): Promise<number> {
    const session = this.#session;
    if (session === undefined) return await this.#conn.write(bytes);
    const piece = bytes.subarray(0, TLS_WRITE_BYTES);
    session.write(piece);
    await this.#send(session);
    return piece.length;
  }

  async closeWrite(): Promise<void> {
    const session = this.#session;
    if (session !== undefined) {
      session.end();
      await this.#send(session);
    }
    await this.#conn.closeWrite();
  }

  /** Closes at once; a close_notify, or the alert that says what was wrong, leaves if the socket has room for it. */
  close(): void {
    const session = this.#session;
    if (session !== undefined) {
      session.end();
      this.#send(session).catch(() => {});
      session.free();
    }
    this.#conn.close();
  }

  #noteWhetherEmptied(count: number | null, space: Uint8Array): void {
    if (count !== null && count < space.length) this.emptied++;
  }

  /** Reads TLS bytes from the socket; false at its end. */
  async #receive(session: TlsSession): Promise<boolean> {
    const count = await this.#conn.read(this.#arrived);
    this.#noteWhetherEmptied(count, this.#arrived);
    if (count === null) return false;
    session.feed(this.#arrived.subarray(0, count));
    return true;
  }

  /** Resolves when everything the session has made so far has left. */
  #send(session: TlsSession): Promise<void> {
    if (this.#sending !== undefined) return this.#sending;
    const count = session.takeOutput(this.#leaving);
    return count === 0 ? Promise.resolve() : this.#sending = this.#sendAll(session, count);
  }

  async #sendAll(session: TlsSession, first: number): Promise<void> {
    try {
      for (let count = first; count > 0; count = session.takeOutput(this.#leaving)) {
        await writeAll(this.#conn, this.#leaving.subarray(0, count));
      }
    } finally {
      this.#sending = undefined;
    }
  }
}
