/**
 * TLS by the system's OpenSSL 3, called through Deno's FFI: everything that touches a pointer is here.
 *
 * Why not Deno's own TLS: `Deno.listenTls` and node:tls can neither begin TLS on a connection that has begun in
 * clear, as NBD_OPT_STARTTLS does, nor ask a client for its certificate (denoland/deno issue 26825).
 *
 * Promises: nothing here does any I/O once the context is loaded, or waits. A session has a memory BIO for
 * each direction: TLS bytes go in by `feed` and come out by `takeOutput`. TLS 1.2 and 1.3, no renegotiation,
 * no resumption (each session has seen its client's certificate). What a client makes it answer after the handshake is
 * bounded (TLS_BARE_READS_MAX), so a client that takes no answer can't pile them up.
 * Assumes: one thread; what is passed in is used during the call only.
 */

import { messageOf, UsageError } from "../errors.ts";
import { MIB, TLS_BARE_READS_MAX } from "../limits.ts";
import { ProtocolError } from "./codec.ts";

const LIBRARY = "libssl.so.3";

// The names and numbers of openssl/ssl.h, openssl/tls1.h and openssl/x509.h, 3.0.
const SSL_FILETYPE_PEM = 1;
const SSL_CTRL_CLEAR_MODE = 78;
const SSL_MODE_AUTO_RETRY = 4n;
const SSL_CTRL_SET_SESS_CACHE_MODE = 44;
const SSL_SESS_CACHE_OFF = 0n;
const SSL_CTRL_SET_MIN_PROTO_VERSION = 123;
const TLS1_2_VERSION = 0x0303n;
const SSL_OP_NO_TICKET = 1n << 14n;
const SSL_OP_NO_RENEGOTIATION = 1n << 30n;
const SSL_VERIFY_PEER = 1;
const SSL_VERIFY_FAIL_IF_NO_PEER_CERT = 2;
const SSL_ERROR_WANT_READ = 2;
const SSL_ERROR_ZERO_RETURN = 6;
const X509_V_OK = 0;

const SYMBOLS = {
  TLS_server_method: { parameters: [], result: "pointer" },
  SSL_CTX_new: { parameters: ["pointer"], result: "pointer" },
  SSL_CTX_ctrl: { parameters: ["pointer", "i32", "i64", "pointer"], result: "void" },
  SSL_CTX_set_options: { parameters: ["pointer", "u64"], result: "void" },
  SSL_CTX_set_num_tickets: { parameters: ["pointer", "usize"], result: "i32" },
  SSL_CTX_use_certificate_chain_file: { parameters: ["pointer", "buffer"], result: "i32" },
  SSL_CTX_use_PrivateKey_file: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  SSL_CTX_load_verify_file: { parameters: ["pointer", "buffer"], result: "i32" },
  SSL_load_client_CA_file: { parameters: ["buffer"], result: "pointer" },
  SSL_CTX_set_client_CA_list: { parameters: ["pointer", "pointer"], result: "void" },
  SSL_CTX_set_verify: { parameters: ["pointer", "i32", "pointer"], result: "void" },
  SSL_new: { parameters: ["pointer"], result: "pointer" },
  SSL_free: { parameters: ["pointer"], result: "void" },
  SSL_set_bio: { parameters: ["pointer", "pointer", "pointer"], result: "void" },
  SSL_accept: { parameters: ["pointer"], result: "i32" },
  SSL_read: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  SSL_write: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  SSL_shutdown: { parameters: ["pointer"], result: "i32" },
  SSL_get_error: { parameters: ["pointer", "i32"], result: "i32" },
  SSL_get_verify_result: { parameters: ["pointer"], result: "i32" },
  BIO_s_mem: { parameters: [], result: "pointer" },
  BIO_new: { parameters: ["pointer"], result: "pointer" },
  // its result has 64 bits, of which what a BIO here may hold needs the lower half only
  BIO_ctrl_pending: { parameters: ["pointer"], result: "u32" },
  BIO_read: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  BIO_write: { parameters: ["pointer", "buffer", "i32"], result: "i32" },
  ERR_clear_error: { parameters: [], result: "void" },
  ERR_peek_error: { parameters: [], result: "u64" },
  ERR_peek_last_error: { parameters: [], result: "u64" },
  ERR_reason_error_string: { parameters: ["u64"], result: "pointer" },
  X509_verify_cert_error_string: { parameters: ["i64"], result: "pointer" },
} as const;

type OpenSsl = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

/** Loads the library, once; it stays for as long as the program runs. Throws `UsageError`. */
function loadLibrary(): OpenSsl {
  try {
    return Deno.dlopen(LIBRARY, SYMBOLS).symbols;
  } catch (error) {
    throw new UsageError(
      `tlscert needs this machine's OpenSSL 3; install it (Debian's package libssl3): ${
        messageOf(error)
      }`,
      { key: "tlscert" },
    );
  }
}

let loaded: OpenSsl | undefined;

/** What the library is given; never shared with another thread, whatever the type says. */
type Bytes = Uint8Array<ArrayBuffer>;

/** The files of one server's TLS, all PEM. */
export interface TlsFiles {
  /** The certificate, followed by those that lead from it to an authority, if any. */
  certificate: string;
  key: string;
  /** With it a client must have a certificate that one of these authorities has signed. */
  clientAuthorities?: string;
}

/** What all TLS sessions of a server share: its certificate, its key, and whom it lets in. */
export class TlsContext {
  readonly #ssl: OpenSsl;
  readonly #context: Deno.PointerValue;

  /** Reads the files. Throws a `UsageError` that names the key of config.ini, the file and what is allowed. */
  constructor(files: TlsFiles) {
    const ssl = this.#ssl = loaded ??= loadLibrary();
    const context = this.#context = ssl.SSL_CTX_new(ssl.TLS_server_method());
    ssl.SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, null);
    ssl.SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    ssl.SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, null);
    ssl.SSL_CTX_set_num_tickets(context, 0n);
    // SSL_read comes back from each record, also when there was no data in it.
    ssl.SSL_CTX_ctrl(context, SSL_CTRL_CLEAR_MODE, SSL_MODE_AUTO_RETRY, null);

    const { certificate, key, clientAuthorities } = files;
    this.#load("tlscert", certificate, "certificates", (path) => {
      return ssl.SSL_CTX_use_certificate_chain_file(context, path) === 1;
    });
    this.#load("tlskey", key, "the private key of the certificate in tlscert", (path) => {
      return ssl.SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) === 1;
    });
    if (clientAuthorities === undefined) return;
    this.#load("tlsca", clientAuthorities, "certificates of authorities", (path) => {
      // The list tells a client that has several certificates which one is wanted.
      ssl.SSL_CTX_set_client_CA_list(context, ssl.SSL_load_client_CA_file(path));
      return ssl.SSL_CTX_load_verify_file(context, path) === 1;
    });
    const mode = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    ssl.SSL_CTX_set_verify(context, mode, null);
  }

  newSession(): TlsSession {
    return new TlsSession(this.#ssl, this.#context);
  }

  #load(key: string, path: string, content: string, load: (path: Bytes) => boolean): void {
    const refuse = (why: string): never => {
      throw new UsageError(
        `${key} can't be ${path}: ${why}; allowed: a PEM file with ${content}`,
        { key },
      );
    };
    let text = "";
    try {
      text = Deno.readTextFileSync(path);
    } catch (error) {
      refuse(error instanceof Deno.errors.NotFound ? "no such file" : messageOf(error));
    }
    // OpenSSL would ask for the passphrase on the terminal.
    if (/^-.*ENCRYPTED|^Proc-Type:.*ENCRYPTED/m.test(text)) {
      refuse("it is protected by a passphrase");
    }
    this.#ssl.ERR_clear_error();
    if (!load(new TextEncoder().encode(`${path}\0`) as Bytes)) {
      refuse(reasonOf(this.#ssl, this.#ssl.ERR_peek_error()) || "no PEM in it");
    }
  }
}

/** One connection's TLS, without the connection: bytes in, bytes out. */
export class TlsSession {
  readonly #ssl: OpenSsl;
  readonly #input: Deno.PointerValue;
  readonly #output: Deno.PointerValue;
  /** Null once it is freed; no function of the library may see that. */
  #session: Deno.PointerValue;
  /** Of data; and how often SSL_read came back from a record that had none. */
  #dataBytes = 0;
  #bareReads = 0;
  /** Why nothing more can be read. */
  #failed: ProtocolError | undefined = undefined;

  constructor(ssl: OpenSsl, context: Deno.PointerValue) {
    this.#ssl = ssl;
    this.#session = ssl.SSL_new(context);
    this.#input = ssl.BIO_new(ssl.BIO_s_mem());
    this.#output = ssl.BIO_new(ssl.BIO_s_mem());
    if (this.#session === null || this.#input === null || this.#output === null) {
      throw new Error("OpenSSL has no memory for a session");
    }
    // From here on the session owns both.
    ssl.SSL_set_bio(this.#session, this.#input, this.#output);
  }

  /** TLS bytes that have arrived. */
  feed(bytes: Uint8Array): void {
    this.#use();
    if (bytes.length > 0) this.#ssl.BIO_write(this.#input, bytes as Bytes, bytes.length);
  }

  /** Moves TLS bytes that are to be sent into `bytes`; how many, 0 when there are none. */
  takeOutput(bytes: Uint8Array): number {
    this.#use();
    return Math.max(0, this.#ssl.BIO_read(this.#output, bytes as Bytes, bytes.length));
  }

  /** Goes on with the handshake; true when it is complete, false when it needs more to be fed. */
  accept(): boolean {
    const session = this.#use();
    const result = this.#ssl.SSL_accept(session);
    if (result === 1) return true;
    if (this.#ssl.SSL_get_error(session, result) !== SSL_ERROR_WANT_READ) throw this.#failure();
    return false;
  }

  /** Decrypts what was fed into `bytes`; how many, 0 when it needs more, null when the peer has ended its side. */
  read(bytes: Uint8Array): number | null {
    if (this.#failed !== undefined) throw this.#failed;
    let filled = 0;
    const session = this.#use();
    let answered = this.#ssl.BIO_ctrl_pending(this.#output);
    // Each call gives one record, 16 KiB at most.
    while (filled < bytes.length) {
      const rest = bytes.subarray(filled) as Bytes;
      const count = this.#ssl.SSL_read(session, rest, rest.length);
      if (count > 0) {
        filled += count;
        this.#dataBytes += count;
        this.#ssl.ERR_clear_error();
        continue;
      }
      const error = this.#ssl.SSL_get_error(session, count);
      if (error === SSL_ERROR_ZERO_RETURN) return filled > 0 ? filled : null;
      if (error !== SSL_ERROR_WANT_READ) return this.#fail(this.#failure(), filled);
      // A record that was answered, or has more behind it, was all there, and without data.
      const before = answered;
      answered = this.#ssl.BIO_ctrl_pending(this.#output);
      if (answered === before && this.#ssl.BIO_ctrl_pending(this.#input) === 0) break;
      if (++this.#bareReads > TLS_BARE_READS_MAX + this.#dataBytes / MIB) {
        return this.#fail(new ProtocolError("TLS: too many records without data"), filled);
      }
    }
    return filled;
  }

  /** Throws it; behind data that was read before it, the next `read` does. */
  #fail(failure: ProtocolError, readBytes: number): number {
    this.#failed = failure;
    if (readBytes === 0) throw failure;
    return readBytes;
  }

  /** Encrypts all of `bytes`. */
  write(bytes: Uint8Array): void {
    const session = this.#use();
    if (bytes.length === 0) return;
    const count = this.#ssl.SSL_write(session, bytes as Bytes, bytes.length);
    if (count !== bytes.length) throw this.#failed ?? this.#failure();
  }

  /** Says that nothing more will be written (close_notify). */
  end(): void {
    this.#ssl.SSL_shutdown(this.#use());
    this.#ssl.ERR_clear_error();
  }

  free(): void {
    this.#ssl.SSL_free(this.#use());
    this.#session = null;
  }

  #use(): Deno.PointerValue {
    if (this.#session === null) throw new Deno.errors.BadResource("the TLS session has ended");
    // SSL_get_error looks at the whole queue, also at what another session left there.
    this.#ssl.ERR_clear_error();
    return this.#session;
  }

  #failure(): ProtocolError {
    // The last error is in terms of TLS; those before it are what its parts said.
    const said = reasonOf(this.#ssl, this.#ssl.ERR_peek_last_error()) || "broken off";
    // an alert was received: it is the other side that does not accept something
    const reason = said.includes(" alert ") ? `the client says: ${said}` : said;
    const verified = this.#ssl.SSL_get_verify_result(this.#session);
    const why = verified === X509_V_OK
      ? ""
      : `: ${textAt(this.#ssl.X509_verify_cert_error_string(BigInt(verified)))}`;
    return new ProtocolError(`TLS: ${reason}${why}`);
  }
}

/** What the library says of an error; "" if nothing. */
function reasonOf(ssl: OpenSsl, error: bigint): string {
  return textAt(ssl.ERR_reason_error_string(error));
}

function textAt(pointer: Deno.PointerValue): string {
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}
