/**
 * A TLS 1.3 client whose bytes a test moves itself, and which asks its peer for new keys as often as it likes:
 * no other client at hand can be told to. By OpenSSL, as the server's side is.
 */
const SYMBOLS = {
  TLS_client_method: { parameters: [], result: "pointer" },
  SSL_CTX_new: { parameters: ["pointer"], result: "pointer" },
  SSL_new: { parameters: ["pointer"], result: "pointer" },
  SSL_set_bio: { parameters: ["pointer", "pointer", "pointer"], result: "void" },
  SSL_connect: { parameters: ["pointer"], result: "i32" },
  SSL_key_update: { parameters: ["pointer", "i32"], result: "i32" },
  SSL_do_handshake: { parameters: ["pointer"], result: "i32" },
  SSL_write: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  BIO_s_mem: { parameters: [], result: "pointer" },
  BIO_new: { parameters: ["pointer"], result: "pointer" },
  BIO_read: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  BIO_write: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
} as const;
const SSL_KEY_UPDATE_REQUESTED = 1;

const ssl = Deno.dlopen("libssl.so.3", SYMBOLS).symbols;

export class KeyUpdatingClient {
  readonly #session = ssl.SSL_new(ssl.SSL_CTX_new(ssl.TLS_client_method()));
  readonly #input = ssl.BIO_new(ssl.BIO_s_mem());
  readonly #output = ssl.BIO_new(ssl.BIO_s_mem());

  constructor() {
    ssl.SSL_set_bio(this.#session, this.#input, this.#output);
  }

  /** Trusts whoever answers. */
  async handshake(conn: Deno.Conn): Promise<void> {
    const arrived = new Uint8Array(65536);
    while (ssl.SSL_connect(this.#session) !== 1) {
      await conn.write(this.#takeOutput());
      const count = await conn.read(arrived);
      if (count === null) throw new Error("the peer has gone");
      ssl.BIO_write(this.#input, arrived, count);
    }
    await conn.write(this.#takeOutput());
  }

  /** The bytes of `count` requests for new keys, each with an answer to come, and of `text` behind them. */
  keyUpdates(count: number, text: string): Uint8Array {
    for (let n = 0; n < count; n++) {
      ssl.SSL_key_update(this.#session, SSL_KEY_UPDATE_REQUESTED);
      ssl.SSL_do_handshake(this.#session);
    }
    const bytes = new TextEncoder().encode(text);
    ssl.SSL_write(this.#session, bytes, bytes.length);
    return this.#takeOutput();
  }

  #takeOutput(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(1 << 20);
    return bytes.subarray(0, Math.max(0, ssl.BIO_read(this.#output, bytes, bytes.length)));
  }
}
