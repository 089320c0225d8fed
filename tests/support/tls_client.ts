/**
 * A TLS client whose bytes a test moves itself, and which after its handshake says whatever it is told to: OpenSSL makes
 * the handshake and reads, and with TLS 1.3 the records that are written are made here (RFC 8446, 5.2 and 7), so that they
 * can be of any kind, in any order, and wrong.
 */
import { createCipheriv, createHmac } from "node:crypto";
import { join } from "../fuzz/sessions.ts";

const SYMBOLS = {
  TLS_client_method: { parameters: [], result: "pointer" },
  SSL_CTX_new: { parameters: ["pointer"], result: "pointer" },
  SSL_CTX_free: { parameters: ["pointer"], result: "void" },
  SSL_CTX_ctrl: { parameters: ["pointer", "i32", "i64", "pointer"], result: "void" },
  SSL_CTX_set_ciphersuites: { parameters: ["pointer", "buffer"], result: "i32" },
  SSL_CTX_set_keylog_callback: { parameters: ["pointer", "function"], result: "void" },
  SSL_CTX_use_certificate_chain_file: { parameters: ["pointer", "buffer"], result: "i32" },
  SSL_CTX_use_PrivateKey_file: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  SSL_new: { parameters: ["pointer"], result: "pointer" },
  SSL_free: { parameters: ["pointer"], result: "void" },
  SSL_set_bio: { parameters: ["pointer", "pointer", "pointer"], result: "void" },
  // it calls back with the keys
  SSL_connect: { parameters: ["pointer"], result: "i32", callback: true },
  SSL_get_error: { parameters: ["pointer", "i32"], result: "i32" },
  SSL_renegotiate: { parameters: ["pointer"], result: "i32" },
  SSL_do_handshake: { parameters: ["pointer"], result: "i32" },
  SSL_read: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  SSL_write: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  BIO_s_mem: { parameters: [], result: "pointer" },
  BIO_new: { parameters: ["pointer"], result: "pointer" },
  BIO_read: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  BIO_write: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  ERR_clear_error: { parameters: [], result: "void" },
} as const;
const SSL_FILETYPE_PEM = 1;
const SSL_CTRL_SET_MAX_PROTO_VERSION = 124;
const SSL_ERROR_WANT_READ = 2;
export const TLS1_2 = 0x0303;
export const TLS1_3 = 0x0304;
/** Content types. */
export const CHANGE_CIPHER_SPEC = 20;
export const ALERT = 21;
export const HANDSHAKE = 22;
export const DATA = 23;
/** A record's header, its content's type and its tag. */
export const RECORD_OVERHEAD_BYTES = 5 + 1 + 16;

let loaded: Deno.DynamicLibrary<typeof SYMBOLS>["symbols"] | undefined;

/** Loads the library, once; it stays. A test that sees what it leaves behind has that done before it begins. */
export function loadTlsClient() {
  return loaded ??= Deno.dlopen("libssl.so.3", SYMBOLS).symbols;
}

/** What a call of the library gave; used at once. */
const taken = new Uint8Array(65_536);

type Bytes = Uint8Array<ArrayBuffer>;

export interface TlsClientOptions {
  version?: typeof TLS1_2 | typeof TLS1_3;
  /** PEM files of the client's own. */
  certificate?: string;
  key?: string;
}

/** What the server said is not what a client can go on with. */
export class HandshakeError extends Error {}

/** Trusts whoever answers. */
export class TlsClient implements Disposable {
  readonly #ssl = loadTlsClient();
  readonly #context = this.#ssl.SSL_CTX_new(this.#ssl.TLS_client_method());
  readonly #session: Deno.PointerValue;
  readonly #input = this.#ssl.BIO_new(this.#ssl.BIO_s_mem());
  readonly #output = this.#ssl.BIO_new(this.#ssl.BIO_s_mem());
  readonly #keyLog = new Deno.UnsafeCallback(
    { parameters: ["pointer", "pointer"], result: "void" },
    (_session, line) => this.#noteKey(Deno.UnsafePointerView.getCString(line!)),
  );
  readonly version: number;
  #writer: RecordWriter | undefined = undefined;

  constructor({ version = TLS1_3, certificate, key }: TlsClientOptions = {}) {
    this.version = version;
    const [ssl, context] = [this.#ssl, this.#context];
    ssl.SSL_CTX_ctrl(context, SSL_CTRL_SET_MAX_PROTO_VERSION, BigInt(version), null);
    ssl.SSL_CTX_set_ciphersuites(context, cString("TLS_AES_128_GCM_SHA256"));
    ssl.SSL_CTX_set_keylog_callback(context, this.#keyLog.pointer);
    if (certificate !== undefined && key !== undefined) {
      ssl.SSL_CTX_use_certificate_chain_file(context, cString(certificate));
      ssl.SSL_CTX_use_PrivateKey_file(context, cString(key), SSL_FILETYPE_PEM);
    }
    this.#session = ssl.SSL_new(context);
    ssl.SSL_set_bio(this.#session, this.#input, this.#output);
  }

  /** Goes on with the handshake after what the server sent: what is to be sent now, and whether that was all. */
  advance(received: Uint8Array = new Uint8Array(0)): { flight: Bytes; isOver: boolean } {
    this.#feed(received);
    this.#ssl.ERR_clear_error();
    const result = this.#ssl.SSL_connect(this.#session);
    const isRefused = result !== 1 &&
      this.#ssl.SSL_get_error(this.#session, result) !== SSL_ERROR_WANT_READ;
    const flight = this.#takeOutput();
    if (isRefused) throw new HandshakeError("the client can't go on with the handshake");
    return { flight, isOver: result === 1 };
  }

  async handshake(conn: Pick<Deno.Conn, "read" | "write">): Promise<void> {
    const arrived = new Uint8Array(65_536);
    let { flight, isOver } = this.advance();
    for (;;) {
      await conn.write(flight);
      if (isOver) return;
      const count = await conn.read(arrived);
      if (count === null) throw new Error("the peer has gone");
      ({ flight, isOver } = this.advance(arrived.subarray(0, count)));
    }
  }

  /** A record of any kind, with `padding` zeroes behind it; with TLS 1.2 only of data. */
  record(type: number, content: Uint8Array, padding = 0): Bytes {
    if (this.#writer !== undefined) return this.#writer.record(type, content, padding);
    if (content.length > 0) this.#ssl.SSL_write(this.#session, content as Bytes, content.length);
    return this.#takeOutput();
  }

  /** All of `bytes`, in records of data. */
  data(bytes: Uint8Array): Bytes {
    const records: Bytes[] = [];
    for (let at = 0; at < bytes.length; at += 16_384) {
      records.push(this.record(DATA, bytes.subarray(at, at + 16_384)));
    }
    return join(...records);
  }

  text(text: string): Bytes {
    return this.data(new TextEncoder().encode(text));
  }

  /** New keys, and the wish that the peer takes new ones too, so often. */
  keyUpdates(count: number): Bytes {
    return join(...Array.from({ length: count }, () => this.keyUpdate(1)));
  }

  keyUpdate(request: number): Bytes {
    const message = this.record(HANDSHAKE, Uint8Array.of(24, 0, 0, 1, request));
    this.#writer!.renewKeys();
    return message;
  }

  /** The ClientHello of another handshake; TLS 1.2 only. */
  renegotiation(): Bytes {
    this.#ssl.SSL_renegotiate(this.#session);
    this.#ssl.SSL_do_handshake(this.#session);
    return this.#takeOutput();
  }

  /** What the server says in `received`, without its protection. */
  open(received: Uint8Array): Bytes {
    this.#feed(received);
    const parts: Bytes[] = [];
    for (;;) {
      this.#ssl.ERR_clear_error();
      const count = this.#ssl.SSL_read(this.#session, taken, taken.length);
      if (count <= 0) return join(...parts);
      parts.push(taken.slice(0, count));
    }
  }

  [Symbol.dispose](): void {
    this.#ssl.SSL_free(this.#session);
    this.#ssl.SSL_CTX_free(this.#context);
    this.#keyLog.close();
  }

  #noteKey(line: string): void {
    const [, secret] = /^CLIENT_TRAFFIC_SECRET_0 \w+ (\w+)/.exec(line) ?? [];
    if (secret !== undefined) this.#writer = new RecordWriter(Uint8Array.fromHex(secret));
  }

  #feed(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#ssl.BIO_write(this.#input, bytes as Bytes, bytes.length);
  }

  #takeOutput(): Bytes {
    const parts: Bytes[] = [];
    for (;;) {
      const count = this.#ssl.BIO_read(this.#output, taken, taken.length);
      if (count <= 0) return join(...parts);
      parts.push(taken.slice(0, count));
    }
  }
}

/** Protects records with TLS_AES_128_GCM_SHA256. */
class RecordWriter {
  #secret: Uint8Array;
  #key: Uint8Array;
  #iv: Uint8Array;
  #sequence = 0;

  constructor(secret: Uint8Array) {
    this.#secret = secret;
    this.#key = expandLabel(secret, "key", 16);
    this.#iv = expandLabel(secret, "iv", 12);
  }

  renewKeys(): void {
    this.#secret = expandLabel(this.#secret, "traffic upd", 32);
    this.#key = expandLabel(this.#secret, "key", 16);
    this.#iv = expandLabel(this.#secret, "iv", 12);
    this.#sequence = 0;
  }

  record(type: number, content: Uint8Array, padding: number): Bytes {
    const length = content.length + padding + 1 + 16;
    const header = Uint8Array.of(DATA, 3, 3, length >> 8, length);
    const nonce = this.#iv.slice();
    const view = new DataView(nonce.buffer);
    view.setUint32(8, view.getUint32(8) ^ this.#sequence++);
    const cipher = createCipheriv("aes-128-gcm", this.#key, nonce);
    cipher.setAAD(header);
    const inner = join(content, Uint8Array.of(type), new Uint8Array(padding));
    const sealed = cipher.update(inner);
    cipher.final();
    return join(header, sealed, cipher.getAuthTag());
  }
}

/** HKDF-Expand-Label, for up to a hash's length. */
function expandLabel(secret: Uint8Array, label: string, length: number): Uint8Array {
  const name = new TextEncoder().encode(`tls13 ${label}`);
  const info = [Uint8Array.of(0, length, name.length), name, Uint8Array.of(0, 1)];
  const hmac = createHmac("sha256", secret);
  for (const part of info) hmac.update(part);
  return new Uint8Array(hmac.digest()).slice(0, length);
}

function cString(text: string): Bytes {
  return new TextEncoder().encode(`${text}\0`);
}
