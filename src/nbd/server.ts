/**
 * Listening, accepting, counting connections, closing them.
 *
 * The life of a connection is `#live`: handshake under a deadline, then transmission, then gone. What goes
 * wrong on one connection is logged once and stays there.
 */

import type { Clock } from "../clock.ts";
import { messageOf, UsageError } from "../errors.ts";
import { CONNECTIONS_MAX, HANDSHAKE_MS_MAX } from "../limits.ts";
import type { Logger } from "../logger.ts";
import { sleep } from "../clock.ts";
import type { BlockDevice } from "../volume/block_device.ts";
import { ProtocolError } from "./codec.ts";
import type { Session } from "./commands.ts";
import { type Export, negotiate } from "./handshake.ts";
import { InFlight } from "./in_flight.ts";
import { ReceiveBuffer } from "./socket.ts";
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
  clock: Clock;
  logger: Logger;
}

interface Connection {
  conn: Deno.Conn;
  /** From the end of the handshake on. */
  transmission: Transmission | undefined;
  /** Settles when the connection and its last request are gone. */
  gone: Promise<void>;
}

export class NbdServer {
  readonly #device: BlockDevice;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #offered: Export;
  readonly #inFlight = new InFlight();
  readonly #listeners = new Map<Deno.Listener, Promise<void>>();
  readonly #connections = new Set<Connection>();
  #closing: Promise<void> | undefined = undefined;

  constructor(device: BlockDevice, options: ServerOptions) {
    this.#device = device;
    this.#clock = options.clock;
    this.#logger = options.logger;
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

  /** Requests that wait for the device. */
  get inFlightRequests(): number {
    return this.#inFlight.requests;
  }

  /** Bytes that requests in flight hold beyond each connection's own buffers. */
  get inFlightBytes(): number {
    return this.#inFlight.bytes;
  }

  /** Accepts connections from `listener`, which belongs to the server from now on, until `close`. */
  serve(listener: Deno.Listener): void {
    this.#listeners.set(listener, this.#accept(listener));
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
    for (const { conn, transmission } of this.#connections) {
      if (transmission === undefined) closeQuietly(conn);
      else transmission.stop();
    }
    await Promise.all([...this.#connections].map((connection) => connection.gone));
  }

  async #accept(listener: Deno.Listener): Promise<void> {
    for (;;) {
      try {
        this.#admit(await listener.accept());
      } catch (error) {
        if (this.#closing !== undefined) return;
        this.#logger.warn(`accepting a connection failed: ${messageOf(error)}`);
        await sleep(this.#clock, ACCEPT_RETRY_MS);
      }
    }
  }

  #admit(conn: Deno.Conn): void {
    if (this.#closing !== undefined) return closeQuietly(conn);
    if (this.#connections.size >= CONNECTIONS_MAX) {
      this.#logger.warn(
        `a connection was refused: there are ${CONNECTIONS_MAX}, which is the limit`,
      );
      return closeQuietly(conn);
    }
    const connection: Connection = { conn, transmission: undefined, gone: Promise.resolve() };
    this.#connections.add(connection);
    connection.gone = this.#live(connection);
  }

  /** The life of a connection. */
  async #live(connection: Connection): Promise<void> {
    const peer = nameOf(connection.conn.remoteAddr);
    this.#logger.debug(() => `client ${peer} connected`);
    try {
      if ("setNoDelay" in connection.conn) (connection.conn as Deno.TcpConn).setNoDelay(true);
      const received = new ReceiveBuffer();
      const session = await this.#handshake(connection.conn, received);
      if (session !== undefined) {
        connection.transmission = new Transmission(connection.conn, received, session, {
          device: this.#device,
          inFlight: this.#inFlight,
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
      closeQuietly(connection.conn);
      this.#connections.delete(connection);
    }
  }

  async #handshake(conn: Deno.Conn, received: ReceiveBuffer): Promise<Session | undefined> {
    let late = false;
    const cancel = this.#clock.after(HANDSHAKE_MS_MAX, () => {
      late = true;
      closeQuietly(conn);
    });
    try {
      return await negotiate(conn, received, this.#offered);
    } catch (error) {
      if (late) throw new ProtocolError(`the handshake took more than ${HANDSHAKE_MS_MAX} ms`);
      throw error;
    } finally {
      cancel();
    }
  }

  /** A client that broke the protocol is worth a line; one that died, or whom we closed, is not. */
  #report(peer: string, error: unknown): void {
    if (error instanceof ProtocolError) {
      this.#logger.info(`client ${peer} was cut off: ${error.message}`);
    } else {
      this.#logger.debug(() => `the connection to client ${peer} broke: ${messageOf(error)}`);
    }
  }
}

function closeQuietly(conn: Deno.Conn): void {
  try {
    conn.close();
  } catch {
    // Closed already: by the handshake's deadline, by `close`, or by transmission.
  }
}

function nameOf(address: Deno.Addr): string {
  return "hostname" in address ? `${address.hostname}:${address.port}` : "on the Unix socket";
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
      );
    }
    if (error instanceof Deno.errors.AddrNotAvailable) {
      throw new UsageError(`${where}: this machine has no such address; use one of its own`);
    }
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new UsageError(`${where}: not permitted; ports from 1024 on need no privilege`);
    }
    throw new UsageError(`${where}: ${messageOf(error)}`);
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
    throw new UsageError(`can't listen on socket ${path}: ${messageOf(error)}`);
  } finally {
    Deno.umask(umask);
  }
}

async function removeStaleSocket(path: string): Promise<void> {
  try {
    if (!Deno.lstatSync(path).isSocket) {
      throw new UsageError(
        `can't listen on socket ${path}: that is a file, and it is not a socket`,
      );
    }
    if (await isAnswered(path)) {
      throw new UsageError(`can't listen on socket ${path}: another server is listening there`);
    }
    Deno.removeSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    if (error instanceof UsageError) throw error;
    throw new UsageError(`can't listen on socket ${path}: ${messageOf(error)}`);
  }
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
