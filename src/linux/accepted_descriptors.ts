/**
 * Which file descriptor an accepted connection has: Deno does not tell.
 *
 * A descriptor taken for another would corrupt a stream, so it is found, or not, and never guessed:
 * - A TCP connection is told from all others by an option, TCP_NODELAY, that changes at its descriptor when it is changed
 *   through Deno.
 * - A connection of a Unix socket has no such option, and its client no address. It is the only socket with the
 *   listener's path that was not there when the one accepted before it was looked for; the kernel numbers
 *   sockets (SO_COOKIE) and gives no number twice.
 *
 * Where that is not exactly one, or there is no /proc or no C library to ask, the answer is undefined.
 * Assumes: `find` is called for one connection at a time, right after it was accepted and while it is open: what is
 * looked for is there.
 */
import { AF_INET, AF_INET6, AF_UNIX, listSystemFolder } from "./libc.ts";

// <asm-generic/socket.h>, <netinet/in.h> and <netinet/tcp.h>, on x86-64 and arm64
const SOL_SOCKET = 1;
const SO_ACCEPTCONN = 30;
const SO_COOKIE = 57;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
/** struct sockaddr_storage; in all of its kinds two bytes of family come first. */
const SOCKADDR_BYTES = 128;

function load() {
  return Deno.dlopen("libc.so.6", {
    getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
    getpeername: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
    getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  }).symbols;
}

let loaded: ReturnType<typeof load> | undefined;

export class AcceptedDescriptors {
  readonly #libc = loaded ??= load();
  /** Of every path: the sockets that had it at the last look. */
  readonly #known = new Map<string, Set<bigint>>();

  /** Throws if there is no C library, or it may not be used. */
  constructor() {
    descriptors();
  }

  find(conn: Deno.Conn): number | undefined {
    const found = "setNoDelay" in conn
      ? this.#ofTcp(conn as Deno.TcpConn)
      : this.#newAt((conn.localAddr as Deno.UnixAddr).path);
    return found.length === 1 ? found[0] : undefined;
  }

  /** None if the connection is dead already, and has no peer or takes no option. */
  #ofTcp(conn: Deno.TcpConn): number[] {
    const isOn = (fd: number) => this.#option(fd, IPPROTO_TCP, TCP_NODELAY) === 1n;
    const { localAddr, remoteAddr } = conn;
    let found = descriptors().filter((fd) =>
      portIn(this.#name("getsockname", fd)) === localAddr.port &&
      portIn(this.#name("getpeername", fd)) === remoteAddr.port
    );
    for (const value of [false, true]) {
      conn.setNoDelay(value);
      found = found.filter((fd) => isOn(fd) === value);
    }
    return found;
  }

  #newAt(path: string): number[] {
    const known = this.#known.get(path);
    const there = new Set<bigint>();
    const found: number[] = [];
    for (const fd of descriptors()) {
      if (pathIn(this.#name("getsockname", fd)) !== path) continue;
      if (this.#option(fd, SOL_SOCKET, SO_ACCEPTCONN) !== 0n) continue;
      const cookie = this.#option(fd, SOL_SOCKET, SO_COOKIE);
      if (cookie === undefined) return [];
      if (!known?.has(cookie)) found.push(fd);
      there.add(cookie);
    }
    this.#known.set(path, there);
    return found;
  }

  /** The sockaddr of one end, empty if it has none. */
  #name(call: "getsockname" | "getpeername", fd: number): Uint8Array {
    const address = new Uint8Array(SOCKADDR_BYTES);
    const length = new Uint32Array([SOCKADDR_BYTES]);
    const result = this.#libc[call](fd, address, new Uint8Array(length.buffer));
    return result === 0 ? address.subarray(0, length[0]) : new Uint8Array(0);
  }

  /** The value of an option of up to eight bytes. */
  #option(fd: number, level: number, name: number): bigint | undefined {
    const value = new BigUint64Array(1);
    const length = new Uint8Array(new Uint32Array([8]).buffer);
    const result = this.#libc.getsockopt(fd, level, name, new Uint8Array(value.buffer), length);
    return result === 0 ? value[0] : undefined;
  }
}

/** Those that this process has, and one or another that was only there to look. */
function descriptors(): number[] {
  return listSystemFolder("/proc/self/fd").map(Number);
}

function familyOf(address: Uint8Array): number {
  return address.length < 2 ? 0 : address[0] + 256 * address[1];
}

/** Of a sockaddr_in or sockaddr_in6. */
function portIn(address: Uint8Array): number | undefined {
  const family = familyOf(address);
  return family === AF_INET || family === AF_INET6 ? 256 * address[2] + address[3] : undefined;
}

/** Of a sockaddr_un that has one; it may end with a zero. */
function pathIn(address: Uint8Array): string | undefined {
  if (familyOf(address) !== AF_UNIX || address.length <= 2) return undefined;
  return new TextDecoder().decode(address.subarray(2)).replace(/\0.*$/s, "");
}
