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
 * Assumes: the connection is closed by this object alone; one thread; a sendNow only while no `write` is under way, a
 * receiveNow only while no `read` is.
 */
import { SOCKET_SEND_BYTES } from "../limits.ts";
import { AcceptedDescriptors } from "./accepted_descriptors.ts";

// <bits/socket.h>, <asm-generic/socket.h>, on x86-64 and arm64
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** struct msghdr: where the list of places lies, and how many it has, in 32-bit words; then our list. */
const MSG_IOV = 4;
const MSG_IOVLEN = 6;
const MSGHDR_WORDS = 14;
const IOVEC_WORDS = 4;
/** More places than any caller has; what is beyond them is done by the next call. */
const PLACES_MAX = 64;

function load() {
  return Deno.dlopen("libc.so.6", {
    // their results are of 64 bits, of which a call of ours never needs more than the lower half
    sendmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
    recvmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
    setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  }).symbols;
}

type Libc = ReturnType<typeof load>;

/** What opens connections so; undefined where that can't be done. */
export function directSockets(): ((conn: Deno.Conn) => DirectSocket | Deno.Conn) | undefined {
  let libc: Libc;
  let descriptors: AcceptedDescriptors;
  try {
    libc = load();
    descriptors = new AcceptedDescriptors();
  } catch {
    return undefined;
  }
  return (conn) => {
    const fd = descriptors.find(conn);
    return fd === undefined ? conn : new DirectSocket(conn, libc, fd);
  };
}

export class DirectSocket {
  readonly #conn: Deno.Conn;
  readonly #libc: Libc;
  /** -1 once it is closed. */
  #fd: number;

  constructor(conn: Deno.Conn, libc: Libc, fd: number) {
    this.#conn = conn;
    this.#libc = libc;
    this.#fd = fd;
    const bytes = new Uint8Array(new Int32Array([SOCKET_SEND_BYTES]).buffer);
    libc.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, bytes, bytes.length);
  }

  /** Sends of `parts`, one after the other, what the kernel takes at once: how many bytes, 0 when it failed too. */
  sendNow(parts: readonly Uint8Array[]): number {
    if (this.#fd < 0) return 0;
    return Math.max(
      0,
      this.#libc.sendmsg(this.#fd, message.of(parts), MSG_DONTWAIT | MSG_NOSIGNAL),
    );
  }

  /** Fills `parts`, one after the other, with what is there: how many bytes, 0 at the end and when it failed too. */
  receiveNow(parts: readonly Uint8Array[]): number {
    if (this.#fd < 0) return 0;
    return Math.max(0, this.#libc.recvmsg(this.#fd, message.of(parts), MSG_DONTWAIT));
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
    this.#fd = -1;
    this.#conn.close();
  }
}

/** The one struct msghdr, with the list of places that it points to: it is read within the call only. */
class Message {
  readonly #words = new Uint32Array(MSGHDR_WORDS + PLACES_MAX * IOVEC_WORDS);
  readonly #bytes = new Uint8Array(this.#words.buffer);
  /** Memory of this size is not moved, and has one address for as long as it lives. */
  readonly #addresses = new WeakMap<ArrayBufferLike, number>();

  constructor() {
    this.#set(MSG_IOV, this.#addressOf(this.#words) + 4 * MSGHDR_WORDS);
  }

  of(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
    const count = Math.min(parts.length, PLACES_MAX);
    for (let index = 0, at = MSGHDR_WORDS; index < count; index++, at += IOVEC_WORDS) {
      this.#set(at, this.#addressOf(parts[index]));
      this.#set(at + 2, parts[index].length);
    }
    this.#set(MSG_IOVLEN, count);
    return this.#bytes;
  }

  #addressOf({ buffer, byteOffset }: Uint8Array | Uint32Array): number {
    let address = this.#addresses.get(buffer);
    if (address === undefined) {
      const pointer = Deno.UnsafePointer.of(new Uint8Array(buffer as ArrayBuffer));
      this.#addresses.set(buffer, address = Number(Deno.UnsafePointer.value(pointer)));
    }
    return address + byteOffset;
  }

  /** 64 bits in the order of the machines that Deno runs on. */
  #set(at: number, value: number): void {
    this.#words[at] = value % 0x1_0000_0000;
    this.#words[at + 1] = value / 0x1_0000_0000;
  }
}

const message = new Message();
