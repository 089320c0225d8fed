/**
 * What Deno has no words for, through the C library: sockets whose numbers can be handed to the kernel, and the files
 * of /proc, /sys and /dev, which Deno opens only to a program that has every permission.
 *
 * Every call blocks the thread until it is done: for commands that do one thing and end, and of the server only for
 * what does not wait.
 * Constants are those of Linux on x86-64 and arm64, from the headers named beside them.
 */

// <bits/socket.h>, <linux/netlink.h>
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const SOCK_STREAM = 1;
export const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;
const MSG_WAITALL = 0x100;
const MSG_NOSIGNAL = 0x4000;
// <asm-generic/fcntl.h>
const O_RDONLY = 0;
const O_WRONLY = 1;
const O_EXCL = 0o200;
const O_CLOEXEC = 0o2000000;
// <asm-generic/errno-base.h>, <asm-generic/errno.h>
export const EPERM = 1;
export const ENOENT = 2;
export const EAGAIN = 11;
export const EACCES = 13;
export const EBUSY = 16;
export const EINVAL = 22;
const ENODEV = 19;
const ENXIO = 6;
export const ECONNREFUSED = 111;

/** A system call failed, or the kernel answered a message with an error. */
export class ErrnoError extends Error {
  override name = "ErrnoError";
  constructor(readonly what: string, readonly errno: number) {
    super(`${what}: ${errnoText(errno)}`);
  }
}

function load() {
  const { symbols } = Deno.dlopen("libc.so.6", {
    socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
    connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
    send: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
    recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
    open: { parameters: ["buffer", "i32"], result: "i32" },
    read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
    write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
    fsync: { parameters: ["i32"], result: "i32" },
    close: { parameters: ["i32"], result: "i32" },
    readlink: { parameters: ["buffer", "buffer", "usize"], result: "isize" },
    opendir: { parameters: ["buffer"], result: "pointer" },
    readdir: { parameters: ["pointer"], result: "pointer" },
    closedir: { parameters: ["pointer"], result: "i32" },
    strerror: { parameters: ["i32"], result: "pointer" },
    __errno_location: { parameters: [], result: "pointer" },
  });
  // The place is this thread's own and stays; asked for after a call, it would be asked for by another call.
  const errno = new Deno.UnsafePointerView(symbols.__errno_location()!);
  return { ...symbols, errno: () => errno.getInt32() };
}

let loaded: ReturnType<typeof load> | undefined;

function libc() {
  return loaded ??= load();
}

/** The system's words for an error number. */
function errnoText(errno: number): string {
  return Deno.UnsafePointerView.getCString(libc().strerror(errno)!);
}

/** The result of a call, or what went wrong with it: those that fail give -1. */
function done<T extends number | bigint>(what: string, result: T): T {
  if (Number(result) === -1) throw new ErrnoError(what, libc().errno());
  return result;
}

function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

class Descriptor implements Disposable {
  constructor(readonly fd: number) {}

  [Symbol.dispose](): void {
    libc().close(this.fd);
  }
}

export class Socket extends Descriptor {
  static open(family: number, type: number, protocol = 0): Socket {
    return new Socket(done("socket", libc().socket(family, type | SOCK_CLOEXEC, protocol)));
  }

  /** `address` is a sockaddr of the family. */
  connect(address: Uint8Array<ArrayBuffer>): void {
    done("connect", libc().connect(this.fd, address, address.length));
  }

  bind(address: Uint8Array<ArrayBuffer>): void {
    done("bind", libc().bind(this.fd, address, address.length));
  }

  /** A send or receive that has waited so long fails with EAGAIN; 0 waits for ever. */
  limitWaits(seconds: number): void {
    const timeval = new Uint8Array(new BigInt64Array([BigInt(seconds), 0n]).buffer);
    for (const option of [SO_RCVTIMEO, SO_SNDTIMEO]) {
      const { setsockopt } = libc();
      done("setsockopt", setsockopt(this.fd, SOL_SOCKET, option, timeval, timeval.length));
    }
  }

  send(bytes: Uint8Array<ArrayBuffer>): void {
    for (let rest = bytes; rest.length > 0;) {
      const sent = libc().send(this.fd, rest, BigInt(rest.length), MSG_NOSIGNAL);
      rest = rest.subarray(Number(done("send", sent)));
    }
  }

  /** The next datagram, or what has arrived of a stream, up to so many bytes; none is the end of it. */
  receive(bytesMax: number, flags = 0): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(bytesMax);
    const received = libc().recv(this.fd, bytes, BigInt(bytesMax), flags);
    return bytes.subarray(0, Number(done("recv", received)));
  }

  /** So many bytes of a stream; fewer if it ends before. */
  receiveAll(bytes: number): Uint8Array<ArrayBuffer> {
    return this.receive(bytes, MSG_WAITALL);
  }

  /** Its number in the lists of /proc/net, which it keeps as long as somebody holds it, were it the kernel. */
  get inode(): string {
    return /\[(\d+)\]/.exec(readLink(`/proc/self/fd/${this.fd}`))![1];
  }
}

/** A block device that is claimed: EBUSY if a file system, swap space or another device on top of it does already. */
export class ClaimedDevice extends Descriptor {
  static open(path: string): ClaimedDevice {
    const flags = O_RDONLY | O_EXCL | O_CLOEXEC;
    return new ClaimedDevice(done(path, libc().open(cString(path), flags)));
  }

  /** Settles when all that was written to it is stored. */
  sync(): void {
    done("fsync", libc().fsync(this.fd));
  }
}

function readLink(path: string): string {
  const bytes = new Uint8Array(4096);
  const length = done(path, libc().readlink(cString(path), bytes, BigInt(bytes.length)));
  return new TextDecoder().decode(bytes.subarray(0, Number(length)));
}

/** The text of a file of /proc or /sys; undefined if there is none. */
export function readSystemFile(path: string): string | undefined {
  const fd = libc().open(cString(path), O_RDONLY | O_CLOEXEC);
  if (fd === -1 && isAbsence(libc().errno())) return undefined;
  using file = new Descriptor(done(path, fd));
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(65536);
  for (let text = "";;) {
    const length = Number(done(path, libc().read(file.fd, buffer, BigInt(buffer.length))));
    if (length === 0) return text + decoder.decode();
    text += decoder.decode(buffer.subarray(0, length), { stream: true });
  }
}

/** Sets a value of /sys. */
export function writeSystemFile(path: string, value: string): void {
  using file = new Descriptor(done(path, libc().open(cString(path), O_WRONLY | O_CLOEXEC)));
  const bytes = new TextEncoder().encode(value);
  done(path, libc().write(file.fd, bytes, BigInt(bytes.length)));
}

/** A device that goes while it is looked at has files that can still be opened by name. */
function isAbsence(errno: number): boolean {
  return errno === ENOENT || errno === ENODEV || errno === ENXIO;
}

/** The names in a folder of /sys; none if there is no such folder. */
export function listSystemFolder(path: string): string[] {
  const folder = libc().opendir(cString(path));
  if (folder === null) return [];
  const names: string[] = [];
  for (let entry = libc().readdir(folder); entry !== null; entry = libc().readdir(folder)) {
    // struct dirent: u64 d_ino, i64 d_off, u16 d_reclen, u8 d_type, then the name
    names.push(Deno.UnsafePointerView.getCString(entry, 19));
  }
  libc().closedir(folder);
  return names.filter((name) => name !== "." && name !== "..");
}
