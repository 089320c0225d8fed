/**
 * An accepted connection that can also be read and written at once, by a system call within the turn: half a microsecond
 * beside the several that one of Deno's asynchronous operations takes, and straight from or into many places.
 *
 * Of a connection whose descriptor is not known for certain (accepted_descriptors.ts) Deno alone is used.
 *
 * Promises
 * - Nothing here waits, and no failure is reported: what could not be done at once is left to `read` and `write`, which
 *   are Deno's, and say what is wrong. Deno's poll is edge-triggered and tries before it waits, so both ways mix.
 * - A descriptor is used only while its connection is open: `close` forgets it first.
 * - `close` also fails a `write` that waits for a client which takes nothing. Deno's alone would leave it, and with it the
 *   descriptor and what was to be written, for as long as the client likes.
 * Assumes: the connection is closed by this object alone; one thread; a sendNow only while no `write` is under way, a
 * receiveNow only while no `read` is.
 */
import { PLACES_MAX, SOCKET_SEND_BYTES } from "../limits.ts";
import { AcceptedDescriptors } from "./accepted_descriptors.ts";

// <bits/socket.h>, <asm-generic/socket.h>, on x86-64 and arm64
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_SNDBUFFORCE = 32;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SHUT_RDWR = 2;
/** struct msghdr in 32-bit words: where the list of places lies, and how many it has. Behind it lies our list. */
const MSG_IOV = 4;
const MSG_IOVLEN = 6;
const MSGHDR_WORDS = 14;
const IOVEC_WORDS = 4;

/** What opens connections so; undefined where that can't be done. */
export function directSockets(): ((conn: Deno.Conn) => DirectSocket | Deno.Conn) | undefined {
  try {
    const calls = new SystemCalls();
    const descriptors = new AcceptedDescriptors();
    return (conn) => {
      const fd = descriptors.find(conn);
      return fd === undefined ? conn : new DirectSocket(conn, fd, calls);
    };
  } catch {
    return undefined; // no FFI, or not this C library
  }
}

export class DirectSocket {
  readonly #conn: Deno.Conn;
  readonly #calls: SystemCalls;
  /** -1 once it is closed. */
  #fd: number;

  constructor(conn: Deno.Conn, fd: number, calls: SystemCalls) {
    this.#conn = conn;
    this.#fd = fd;
    this.#calls = calls;
    // TCP sizes its buffer by itself, unless told
    if (conn.localAddr.transport === "unix") calls.setSendBuffer(fd, SOCKET_SEND_BYTES);
  }

  /** Sends of `parts`, one after the other, what the kernel takes at once: how many bytes, 0 when it failed too. */
  sendNow(parts: readonly Uint8Array[]): number {
    return this.#fd < 0 ? 0 : this.#calls.send(this.#fd, parts);
  }

  /** Fills `parts`, one after the other, with what is there: how many bytes, 0 at the end and when it failed too. */
  receiveNow(parts: readonly Uint8Array[]): number {
    return this.#fd < 0 ? 0 : this.#calls.receive(this.#fd, parts);
  }

  read(bytes: Uint8Array): Promise<number | null> {
    return this.#conn.read(bytes);
  }

  write(bytes: Uint8Array): Promise<number> {
    return this.#conn.write(bytes);
  }

  closeWrite(): Promise<void> {
    return this.#conn.closeWrite();
  }

  close(): void {
    if (this.#fd >= 0) this.#calls.shutDown(this.#fd);
    this.#fd = -1;
    this.#conn.close();
  }
}

function load() {
  return Deno.dlopen("libc.so.6", {
    // their results have 64 bits, of which less than a buffer's bytes, or -1, need the lower half only
    sendmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
    recvmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
    setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
    shutdown: { parameters: ["i32", "i32"], result: "i32" },
  }).symbols;
}

let loaded: ReturnType<typeof load> | undefined;

/** The calls, and the one struct msghdr with the list of places that it points to: it is read within a call only. */
class SystemCalls {
  readonly #libc = loaded ??= load();
  readonly #words = new Uint32Array(MSGHDR_WORDS + PLACES_MAX * IOVEC_WORDS);
  readonly #message = new Uint8Array(this.#words.buffer);
  /** The memory of an ArrayBuffer stays where it is for as long as it lives. */
  readonly #addresses = new WeakMap<ArrayBufferLike, number>();

  constructor() {
    this.#set(MSG_IOV, this.#addressOf(this.#message) + 4 * MSGHDR_WORDS);
  }

  send(fd: number, parts: readonly Uint8Array[]): number {
    this.#list(parts);
    return Math.max(0, this.#libc.sendmsg(fd, this.#message, MSG_DONTWAIT | MSG_NOSIGNAL));
  }

  receive(fd: number, parts: readonly Uint8Array[]): number {
    this.#list(parts);
    return Math.max(0, this.#libc.recvmsg(fd, this.#message, MSG_DONTWAIT));
  }

  /** Both ways; what was sent before still leaves. */
  shutDown(fd: number): void {
    this.#libc.shutdown(fd, SHUT_RDWR);
  }

  /** As much as is allowed: net.core.wmem_max bounds it for who has no CAP_NET_ADMIN. */
  setSendBuffer(fd: number, bytes: number): void {
    const value = new Uint8Array(new Int32Array([bytes]).buffer);
    for (const option of [SO_SNDBUFFORCE, SO_SNDBUF]) {
      if (this.#libc.setsockopt(fd, SOL_SOCKET, option, value, value.length) === 0) return;
    }
  }

  #list(parts: readonly Uint8Array[]): void {
    const count = Math.min(parts.length, PLACES_MAX);
    for (let index = 0, at = MSGHDR_WORDS; index < count; index++, at += IOVEC_WORDS) {
      this.#set(at, this.#addressOf(parts[index]));
      this.#set(at + 2, parts[index].length);
    }
    this.#set(MSG_IOVLEN, count);
  }

  #addressOf({ buffer, byteOffset }: Uint8Array): number {
    let address = this.#addresses.get(buffer);
    if (address === undefined) {
      const pointer = Deno.UnsafePointer.of(new Uint8Array(buffer as ArrayBuffer));
      this.#addresses.set(buffer, address = Number(Deno.UnsafePointer.value(pointer)));
    }
    return address + byteOffset;
  }

  /** 64 bits, little-endian as the machines are that Deno runs on. */
  #set(at: number, value: number): void {
    this.#words[at] = value; // its lower half
    this.#words[at + 1] = value / 0x1_0000_0000;
  }
}
