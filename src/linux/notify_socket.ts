/**
 * A datagram socket to the service manager, through libc: Deno's own
 * datagram sockets are unstable and know no abstract addresses. Nothing is ever waited for.
 */
const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const MSG_DONTWAIT_NOSIGNAL = 0x40 | 0x4000;

export class NotifySocket implements Disposable {
  readonly #library = Deno.dlopen("libc.so.6", {
    socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
    sendto: { parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"], result: "isize" },
    close: { parameters: ["i32"], result: "i32" },
  });
  readonly #fd: number;
  readonly #address: Uint8Array<ArrayBuffer>;

  /** @param path of the receiver's socket; one that begins with `@` is abstract (unix(7)) */
  constructor(path: string) {
    this.#fd = this.#library.symbols.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
    this.#address = sockaddrUn(path);
  }

  /** True if the receiver's queue took it. */
  send(message: string): boolean {
    const bytes = new TextEncoder().encode(message);
    const to = this.#address;
    const { sendto } = this.#library.symbols;
    const length = BigInt(bytes.length);
    return sendto(this.#fd, bytes, length, MSG_DONTWAIT_NOSIGNAL, to, to.length) === length;
  }

  [Symbol.dispose](): void {
    this.#library.symbols.close(this.#fd);
    this.#library.close();
  }
}

/** The family, in the machine's byte order, and the path; an abstract one begins with a zero byte. */
function sockaddrUn(path: string): Uint8Array<ArrayBuffer> {
  const address = new TextEncoder().encode(`??${path}`);
  new Uint16Array(address.buffer, 0, 1)[0] = AF_UNIX;
  if (address[2] === 0x40) address[2] = 0;
  return address;
}
