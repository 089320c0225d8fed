/**
 * The kernel's NBD client as it is controlled through generic netlink (<linux/nbd-netlink.h>, drivers/block/nbd.c).
 * All but opening needs CAP_SYS_ADMIN. A refusal is an `ErrnoError` with the kernel's number.
 */
import { AF_NETLINK, ENOENT, ErrnoError, SOCK_RAW, Socket } from "./libc.ts";
import { type Attribute, encodeRequest, parseAnswers, text, u32, u64 } from "./netlink.ts";

const NETLINK_GENERIC = 16;
/** struct sockaddr_nl: the family, and zeroes for the kernel as the other side. */
const KERNEL_ADDRESS = new Uint8Array([AF_NETLINK, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const ANSWER_BYTES_MAX = 32768;

// <linux/genetlink.h>: the family that knows the others
const CONTROL = { family: 16, version: 2 };
const CTRL_CMD_GETFAMILY = 3;
const CTRL_ATTR_FAMILY_ID = 1;
const CTRL_ATTR_FAMILY_NAME = 2;

// <linux/nbd-netlink.h>
const NBD_VERSION = 1;
const NBD_CMD_CONNECT = 1;
const NBD_CMD_DISCONNECT = 2;
const NBD_CMD_RECONFIGURE = 3;
const NBD_ATTR_INDEX = 1;
const NBD_ATTR_SIZE_BYTES = 2;
const NBD_ATTR_BLOCK_SIZE_BYTES = 3;
const NBD_ATTR_SERVER_FLAGS = 5;
const NBD_ATTR_SOCKETS = 7;
const NBD_ATTR_DEAD_CONN_TIMEOUT = 8;
const NBD_ATTR_BACKEND_IDENTIFIER = 10;
const NBD_SOCK_ITEM = 1;
const NBD_SOCK_FD = 1;

/** What a device is to be. */
export interface Connection {
  sizeBytes: number;
  blockBytes: number;
  /** As the server negotiated them. */
  transmissionFlags: number;
  /** How long a request waits for another connection when this one has died, in seconds. */
  deadConnectionS: number;
  /** What says at /sys/block/nbdN/backend what the device is; another can't take its place. */
  backend: string;
}

export class NbdControl implements Disposable {
  readonly #socket: Socket;
  #family = 0;
  #sequence = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Undefined if the kernel has no NBD: its module is not loaded. */
  static open(): NbdControl | undefined {
    const control = new NbdControl(Socket.open(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC));
    try {
      control.#socket.bind(KERNEL_ADDRESS);
      const name: Attribute = [CTRL_ATTR_FAMILY_NAME, text("nbd")];
      const found = control.#ask("looking for nbd", CONTROL, CTRL_CMD_GETFAMILY, [name]);
      const id = found.get(CTRL_ATTR_FAMILY_ID)!;
      control.#family = new DataView(id.buffer, id.byteOffset).getUint16(0, true);
      return control;
    } catch (error) {
      control[Symbol.dispose]();
      if (error instanceof ErrnoError && error.errno === ENOENT) return undefined;
      throw error;
    }
  }

  /**
   * Makes /dev/nbd`index` a disk behind `socket`, a connection in its transmission phase. From then on the kernel holds
   * that connection itself. EBUSY if the device is in use.
   */
  connect(index: number, socket: Socket, connection: Connection): void {
    this.#command(NBD_CMD_CONNECT, "NBD_CMD_CONNECT", [
      [NBD_ATTR_INDEX, u32(index)],
      [NBD_ATTR_SIZE_BYTES, u64(connection.sizeBytes)],
      [NBD_ATTR_BLOCK_SIZE_BYTES, u64(connection.blockBytes)],
      [NBD_ATTR_SERVER_FLAGS, u64(connection.transmissionFlags)],
      [NBD_ATTR_DEAD_CONN_TIMEOUT, u64(connection.deadConnectionS)],
      [NBD_ATTR_BACKEND_IDENTIFIER, text(connection.backend)],
      socketsOf(socket),
    ]);
  }

  /**
   * Offers another connection to the same disk. The kernel takes it in the place of a dead one, and else leaves it,
   * without a word in either case. EINVAL if the device has another backend.
   */
  reconnect(index: number, socket: Socket, backend: string): void {
    this.#command(NBD_CMD_RECONFIGURE, "NBD_CMD_RECONFIGURE", [
      [NBD_ATTR_INDEX, u32(index)],
      [NBD_ATTR_BACKEND_IDENTIFIER, text(backend)],
      socketsOf(socket),
    ]);
  }

  /** Ends the connection; requests that are still under way fail. */
  disconnect(index: number): void {
    this.#command(NBD_CMD_DISCONNECT, "NBD_CMD_DISCONNECT", [[NBD_ATTR_INDEX, u32(index)]]);
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }

  #command(command: number, what: string, attributes: Attribute[]): void {
    this.#ask(what, { family: this.#family, version: NBD_VERSION }, command, attributes);
  }

  /** Sends a request and waits until it is done; gives what was answered before that. */
  #ask(
    what: string,
    to: { family: number; version: number },
    command: number,
    attributes: Attribute[],
  ): Map<number, Uint8Array> {
    const sequence = ++this.#sequence;
    this.#socket.send(encodeRequest({ ...to, command, sequence, attributes }));
    let data = new Map<number, Uint8Array>();
    for (;;) {
      for (const answer of parseAnswers(this.#socket.receive(ANSWER_BYTES_MAX))) {
        if (answer.sequence !== sequence) continue;
        if (answer.errno === 0) return data;
        if (answer.errno !== undefined) throw new ErrnoError(what, answer.errno);
        data = answer.attributes;
      }
    }
  }
}

function socketsOf(socket: Socket): Attribute {
  return [NBD_ATTR_SOCKETS, [[NBD_SOCK_ITEM, [[NBD_SOCK_FD, u32(socket.fd)]]]]];
}
