/**
 * Listening, accepting, counting connections, closing them.
 *
 * The life of a connection is `#live`: handshake under a deadline, then transmission, then gone. What goes
 * wrong on one connection is logged once and stays there.
 *
 * Who keeps others out gives way: of too many in the handshake the oldest; of too many past it the one that has
 * been stuck longest, if that is STUCK_MS_MIN or more. So neither clients that say nothing nor connections that
 * the kernel has left, with requests that wait for the bucket, keep it from attaching again.
 */

import { type Clock, sleep } from "../clock.ts";
import { messageOf, UsageError } from "../errors.ts";
import { CONNECTIONS_MAX, HANDSHAKE_MS_MAX, HANDSHAKES_MAX, STUCK_MS_MIN } from "../limits.ts";
import type { Logger } from "../logger.ts";
import type { BlockDevice } from "../volume/block_device.ts";
import type { BusyPoll } from "./busy_poll.ts";
import { ProtocolError } from "./codec.ts";
import type { Session } from "./commands.ts";
import { type Export, negotiate } from "./handshake.ts";
import { InFlight } from "./in_flight.ts";
import type { TlsContext } from "./openssl.ts";
import { type ConnectionCounts, RequestCounts } from "./request_counts.ts";
import { ReceiveBuffer, type Socket } from "./socket.ts";
import { TlsSocket } from "./tls.ts";
import { Transmission } from "./transmission.ts";

/** After a failed accept, mostly for want of file descriptors, the next is tried this much later. */
const ACCEPT_RETRY_MS = 100;

export interface ServerOptions {
  /** The export's name; "" leads to it as well. */
  exportName: string;
  /** For people, in lists. */
  description: string;
  /** Writes, trims and zeroes are refused. */
  readOnly?: boolean;
  /** Where requests are counted, for who wants to know. */
  counts?: RequestCounts;
  /** What a connection is read and written by, if not by itself; it is told every one when it is accepted. */
  open?: (conn: Deno.Conn) => Socket;
  /** Where a connection whose client is quick waits for the next request, if not asleep. */
  busyPoll?: BusyPoll;
  clock: Clock;
  logger: Logger;
}

/** A connection that is past its handshake. */
export interface ConnectedClient {
  /** Address and port, or "unix". */
  address: string;
  connectedAtMs: number;
  isTls: boolean;
  /** Requests that wait for the device. */
  inFlight: number;
  readBytes: number;
  writtenBytes: number;
}

interface Connection {
  socket: Socket;
  address: string;
  connectedAtMs: number;
  isTls: boolean;
  counts: ConnectionCounts;
  /** From the end of the handshake on. */
  transmission: Transmission | undefined;
  /** It was closed for a new one, and has no place any more. */
  gaveWay: boolean;
  /** Settles when the connection and its last request are gone. */
  gone: Promise<void>;
}

export class NbdServer {
  readonly #device: BlockDevice;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #counts: RequestCounts;
  readonly #offered: Export;
  readonly #open: (conn: Deno.Conn) => Socket;
  readonly #busyPoll: BusyPoll | undefined;
  readonly #inFlight = new InFlight();
  readonly #listeners = new Map<Deno.Listener, Promise<void>>();
  readonly #connections = new Set<Connection>();
  #closing: Promise<void> | undefined = undefined;

  constructor(device: BlockDevice, options: ServerOptions) {
    this.#device = device;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#counts = options.counts ?? new RequestCounts(options.clock);
    this.#busyPoll = options.busyPoll;
    this.#open = options.open ?? ((conn) => conn);
    this.#offered = {
      name: options.exportName,
      description: options.description,
      sizeBytes: device.sizeBytes,
      preferredBytes: device.preferredBytes,
      readOnly: options.readOnly ?? false,
    };
  }

  /** Connections that are open, or whose last requests have not left the device. */
  get connections(): number {
    return this.#connections.size;
  }

  /** Those that are past their handshake, oldest first. */
  clients(): ConnectedClient[] {
    return [...this.#connections].flatMap(({ transmission, gaveWay, counts, ...client }) => {
      if (transmission === undefined || gaveWay) return [];
      const { address, connectedAtMs, isTls } = client;
      const { readBytes, writtenBytes } = counts;
      const inFlight = transmission.inFlightRequests;
      return { address, connectedAtMs, isTls, inFlight, readBytes, writtenBytes };
    });
  }

  /** Requests that wait for the device. */
  get inFlightRequests(): number {
    return this.#inFlight.requests;
  }

  /** Bytes that requests in flight hold beyond each connection's own buffers. */
  get inFlightBytes(): number {
    return this.#inFlight.bytes;
  }

  /**
   * Accepts connections from `listener`, which belongs to the server from now on, until `close`. With `tls` a client
   * is told nothing and can do nothing before it has begun TLS.
   */
  serve(listener: Deno.Listener, tls?: TlsContext): void {
    this.#listeners.set(listener, this.#accept(listener, tls));
  }

  /**
   * Stops accepting, finishes every request that has been received, closes all connections. Settles when
   * nothing is left; may be called again, and waits for the same end then.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const listener of this.#listeners.keys()) listener.close();
    await Promise.all(this.#listeners.values());
    for (const { socket, transmission } of this.#connections) {
      if (transmission === undefined) closeQuietly(socket);
      else transmission.stop();
    }
    await Promise.all([...this.#connections].map((connection) => connection.gone));
  }

  async #accept(listener: Deno.Listener, tls?: TlsContext): Promise<void> {
    for (;;) {
      try {
        this.#admit(await listener.accept(), tls);
      } catch (error) {
        if (this.#closing !== undefined) return;
        const text = messageOf(error);
        this.#logger.warn(`accepting a connection failed: ${text}`, "accept", text);
        await sleep(this.#clock, ACCEPT_RETRY_MS);
      }
    }
  }

  #admit(conn: Deno.Conn, tls?: TlsContext): void {
    if (this.#closing !== undefined) return closeQuietly(conn);
    if (this.#place() === undefined) return this.#refuse(conn);
    const haggling = [...this.#connections].filter((one) => !one.transmission && !one.gaveWay);
    if (haggling.length >= HANDSHAKES_MAX) {
      haggling[0].gaveWay = true;
      closeQuietly(haggling[0].socket);
    }
    const socket = this.#open(conn);
    const connection: Connection = {
      socket: tls === undefined ? socket : new TlsSocket(socket, tls),
      address: addressOf(conn.remoteAddr),
      connectedAtMs: this.#clock.now(),
      isTls: tls !== undefined,
      counts: this.#counts.connection(),
      transmission: undefined,
      gaveWay: false,
      gone: Promise.resolve(),
    };
    this.#logger.debug(() => `client ${connection.address}: ${meansOf(connection.socket)}`);
    this.#connections.add(connection);
    connection.gone = this.#live(connection, conn);
  }

  #refuse(socket: Socket): void {
    const text = `a connection was refused: there are ${CONNECTIONS_MAX}, which is the limit`;
    this.#logger.warn(text, "refused", text);
    closeQuietly(socket);
  }

  /** Where one more may begin its transmission: a place that is free, or that of the connection which is stuck longest. */
  #place(): "free" | Connection | undefined {
    const begun = [...this.#connections].filter((one) => one.transmission);
    const served = begun.filter((one) => !one.gaveWay);
    if (served.length < CONNECTIONS_MAX) return "free";
    // not without a bound: their sockets are open
    const holdsSocket = (one: Connection) => one.transmission!.isWriting;
    const held = begun.filter((one) => one.gaveWay && holdsSocket(one)).length;
    const mayGo = served.filter((one) => held < CONNECTIONS_MAX || !holdsSocket(one));
    const since = (one: Connection) => one.transmission!.stuckSinceMs;
    const [stuck] = mayGo.toSorted((a, b) => since(a) - since(b));
    if (stuck === undefined) return undefined;
    return this.#clock.monotonic() - since(stuck) < STUCK_MS_MIN ? undefined : stuck;
  }

  /** The life of a connection. */
  async #live(connection: Connection, conn: Deno.Conn): Promise<void> {
    const { socket, address } = connection;
    const peer = address === "unix" ? "on the Unix socket" : address;
    this.#logger.debug(() => `client ${peer} connected`);
    try {
      if ("setNoDelay" in conn) (conn as Deno.TcpConn).setNoDelay(true);
      const received = new ReceiveBuffer();
      const session = await this.#handshake(connection, received);
      if (session !== undefined) {
        const place = this.#place();
        if (place === undefined) return this.#refuse(socket);
        if (place !== "free") giveWay(place);
        const older = [...this.#connections].flatMap(({ transmission }) => transmission ?? []);
        connection.transmission = new Transmission(socket, received, session, {
          device: this.#device,
          inFlight: this.#inFlight,
          older,
          busyPoll: this.#busyPoll,
          counts: connection.counts,
          clock: this.#clock,
          logger: this.#logger,
        });
        if (this.#closing !== undefined) connection.transmission.stop();
        await connection.transmission.run();
      }
      this.#logger.debug(() => `client ${peer} has gone`);
    } catch (error) {
      this.#report(peer, error);
    } finally {
      closeQuietly(socket);
      this.#forget(connection);
    }
  }

  /** It has a place until its socket is closed: a write that its client does not take keeps one open that Deno alone closes. */
  #forget(connection: Connection): void {
    const forget = () => this.#connections.delete(connection);
    if (connection.transmission?.isWriting) void connection.transmission.written().then(forget);
    else forget();
  }

  async #handshake(
    connection: Connection,
    received: ReceiveBuffer,
  ): Promise<Session | undefined> {
    const { socket } = connection;
    let late = false;
    const cancel = this.#clock.after(HANDSHAKE_MS_MAX, () => {
      late = true;
      closeQuietly(socket);
    });
    try {
      return await negotiate(socket, received, this.#offered);
    } catch (error) {
      if (connection.gaveWay) {
        throw new ProtocolError(
          `${HANDSHAKES_MAX} newer clients came before its handshake was over`,
        );
      }
      if (late) throw new ProtocolError(`the handshake took more than ${HANDSHAKE_MS_MAX} ms`);
      throw error;
    } finally {
      cancel();
    }
  }

  /** A client that broke the protocol is worth a line; one that died, or whom we closed, is not. */
  #report(peer: string, error: unknown): void {
    if (error instanceof ProtocolError) {
      this.#logger.info(`client ${peer} was cut off: ${error.message}`, "cut off", error.message);
    } else {
      this.#logger.debug(() => `the connection to client ${peer} broke: ${messageOf(error)}`);
    }
  }
}

function giveWay(stuck: Connection): void {
  stuck.gaveWay = true;
  stuck.transmission!.cutOff(new ProtocolError("it was stuck, and a new client came"));
}

function closeQuietly(socket: Socket): void {
  try {
    socket.close();
  } catch {
    // Closed already: by the handshake's deadline, by `close`, or by transmission.
  }
}

/** How a connection is read and written. */
function meansOf(socket: Socket): string {
  if (socket instanceof TlsSocket) return "over TLS";
  return socket.sendNow === undefined ? "through Deno alone" : "by system calls of our own, too";
}

function addressOf(address: Deno.Addr): string {
  return "hostname" in address ? `${address.hostname}:${address.port}` : "unix";
}

/** Listens on TCP; port 0 takes a free one. Throws `UsageError`. */
export function listenTcp(hostname: string, port: number): Deno.Listener {
  try {
    return Deno.listen({ transport: "tcp", hostname, port });
  } catch (error) {
    const where = `can't listen on ${hostname} port ${port}`;
    if (error instanceof Deno.errors.AddrInUse) {
      throw new UsageError(
        `${where}: the port is in use; stop what uses it or choose another port`,
        { key: "port" },
      );
    }
    if (error instanceof Deno.errors.AddrNotAvailable) {
      throw new UsageError(`${where}: this machine has no such address; use one of its own`, {
        key: "listen",
      });
    }
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new UsageError(`${where}: not permitted; ports from 1024 on need no privilege`, {
        key: "port",
      });
    }
    throw new UsageError(`${where}: ${messageOf(error)}`, { key: "listen" });
  }
}

/**
 * Listens on a Unix socket that only this user can open, from its first instant on. A socket that a
 * dead server left behind is replaced, anything else at `path` is refused. Closing removes the file.
 * Throws `UsageError`.
 */
export async function listenUnix(path: string): Promise<Deno.Listener> {
  await removeStaleSocket(path);
  // bind(2) creates the file with the mode that the umask leaves; a chmod afterwards would be late.
  const umask = Deno.umask(0o177);
  try {
    return Deno.listen({ transport: "unix", path });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw socketRefusal(path, "its directory is not there; make it");
    }
    throw socketRefusal(path, messageOf(error));
  } finally {
    Deno.umask(umask);
  }
}

async function removeStaleSocket(path: string): Promise<void> {
  try {
    if (!Deno.lstatSync(path).isSocket) {
      throw socketRefusal(path, "what is there is not a socket");
    }
    if (await isAnswered(path)) {
      throw socketRefusal(path, "another server is listening there; choose another socket");
    }
    Deno.removeSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    if (error instanceof UsageError) throw error;
    throw socketRefusal(path, messageOf(error));
  }
}

function socketRefusal(path: string, why: string): UsageError {
  return new UsageError(`can't listen on socket ${path}: ${why}`, { key: "socket" });
}

/** Whether a server listens there; only a refused connection says that none does. */
async function isAnswered(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return false;
    throw error;
  }
}
