/** A connection to the server of a drive, made so that the kernel can have it: one whose number is known. */
import { UsageError } from "../errors.ts";
import { volumeOf } from "../export_description.ts";
import { ATTACH_ANSWER_S } from "../limits.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  EACCES,
  EAGAIN,
  ECONNREFUSED,
  ENOENT,
  ErrnoError,
  readSystemFile,
  SOCK_STREAM,
  Socket,
} from "./libc.ts";
import { negotiateExport, type OfferedExport } from "./nbd_handshake.ts";

/** Where the server listens, as configured; the socket comes first. */
export interface ServerAddress {
  socket?: string;
  listen?: string;
  port: number;
}

export class DriveConnection implements Disposable {
  readonly socket: Socket;
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  readonly description: string;
  /** Its uuid. */
  readonly volume: string;
  #isClosed = false;

  constructor(socket: Socket, offered: OfferedExport, volume: string) {
    this.socket = socket;
    this.sizeBytes = offered.sizeBytes;
    this.transmissionFlags = offered.transmissionFlags;
    this.description = offered.description;
    this.volume = volume;
  }

  /** Closes it here; true if the kernel goes on with it. */
  isHeldByKernel(): boolean {
    const { inode } = this.socket;
    this[Symbol.dispose]();
    return ["unix", "tcp", "tcp6"].some((name) =>
      readSystemFile(`/proc/net/${name}`)?.split("\n").some((line) =>
        line.trim().split(/\s+/).includes(inode)
      )
    );
  }

  [Symbol.dispose](): void {
    if (!this.#isClosed) this.socket[Symbol.dispose]();
    this.#isClosed = true;
  }
}

/** Connects and negotiates; throws a UsageError that says why not, and where. */
export async function connectToDrive(server: ServerAddress): Promise<DriveConnection> {
  const where = server.socket ?? `${server.listen} port ${server.port}`;
  try {
    const { family, address } = server.socket !== undefined
      ? { family: AF_UNIX, address: unixAddress(server.socket) }
      : await tcpAddress(server.listen!, server.port);
    return negotiate(family, address);
  } catch (error) {
    throw new UsageError(`no drive at ${where}: ${reasonOf(error)}`);
  }
}

function negotiate(family: number, address: Uint8Array<ArrayBuffer>): DriveConnection {
  const socket = Socket.open(family, SOCK_STREAM);
  try {
    socket.connect(address);
    socket.limitWaits(ATTACH_ANSWER_S);
    const offered = negotiateExport(socket);
    socket.limitWaits(0); // the kernel waits as long as it takes
    const volume = volumeOf(offered.description);
    if (volume === undefined) {
      throw new UsageError(
        "the server there does not say which volume it has; it is no ElasticDrive, or an old one",
      );
    }
    return new DriveConnection(socket, offered, volume);
  } catch (error) {
    socket[Symbol.dispose]();
    throw error;
  }
}

/** struct sockaddr_un: the family, and the path with its zero. */
function unixAddress(path: string): Uint8Array<ArrayBuffer> {
  const address = new TextEncoder().encode(`??${path}\0`);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  return address;
}

/** struct sockaddr_in or sockaddr_in6. Deno knows names, and says why nobody answers. */
async function tcpAddress(hostname: string, port: number) {
  using probe = await Deno.connect({ hostname, port });
  const { hostname: numeric } = probe.remoteAddr as Deno.NetAddr;
  const isIpv6 = numeric.includes(":");
  const address = new Uint8Array(isIpv6 ? 28 : 16);
  const family = isIpv6 ? AF_INET6 : AF_INET;
  const view = new DataView(address.buffer);
  view.setUint16(0, family, true);
  view.setUint16(2, port);
  if (isIpv6) address.set(ipv6Bytes(numeric), 8);
  else address.set(numeric.split(".").map(Number), 4);
  return { family, address };
}

/** RFC 4291, section 2.2; the URL parser writes any form as the shortest. */
function ipv6Bytes(text: string): Uint8Array {
  const [head, tail = ""] = new URL(`http://[${text}]`).hostname.slice(1, -1).split("::");
  const groups = (part: string) => part === "" ? [] : part.split(":").map((g) => parseInt(g, 16));
  const [first, last] = [groups(head), groups(tail)];
  const bytes = new DataView(new ArrayBuffer(16));
  first.forEach((group, at) => bytes.setUint16(2 * at, group));
  last.forEach((group, at) => bytes.setUint16(16 - 2 * (last.length - at), group));
  return new Uint8Array(bytes.buffer);
}

function reasonOf(error: unknown): string {
  const errno = error instanceof ErrnoError ? error.errno : undefined;
  const isAbsent = errno === ENOENT || errno === ECONNREFUSED ||
    error instanceof Deno.errors.ConnectionRefused;
  if (isAbsent) return "no server listens there; start it first";
  if (errno === EACCES) return "not permitted; run this as root, or as the server's user";
  if (errno === EAGAIN) {
    return `the server did not answer within ${ATTACH_ANSWER_S} s; is it still starting?`;
  }
  return error instanceof Error ? error.message : String(error);
}
