/**
 * Sits between NBD clients and a drive, passes everything on as it is, and notes in a `DiskHistory` what was asked and what
 * was answered: so that of any client, and of several at once, it is known what was flushed.
 *
 * It understands what this drive speaks: fixed newstyle, NBD_OPT_GO, simple replies.
 */
import { parseRequest, Request } from "../../src/nbd/codec.ts";
import {
  NBD_CMD_DISC,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_OPT_GO,
  NBD_REP_ACK,
  NBD_SIMPLE_REPLY_MAGIC,
  REQUEST_HEADER_BYTES,
  SIMPLE_REPLY_BYTES,
} from "../../src/nbd/constants.ts";
import { writeAll } from "../../src/nbd/socket.ts";
import type { DiskHistory } from "./disk_history.ts";
import type { Drive } from "./drive.ts";
import { Scratch } from "./scratch.ts";

export class NbdWitness implements AsyncDisposable {
  readonly #connections = new Set<Promise<void>>();
  /** The drive does not listen any more. */
  isDriveGone = false;

  private constructor(
    private readonly scratch: Scratch,
    private readonly listener: Deno.Listener,
    private readonly drive: Drive,
    private readonly history: DiskHistory,
  ) {
    this.#connections.add(this.#accept());
  }

  /** The drive listens on a Unix socket. */
  static async of(drive: Drive, history: DiskHistory): Promise<NbdWitness> {
    const scratch = await Scratch.make();
    const listener = Deno.listen({ transport: "unix", path: scratch.file("witness.sock") });
    return new NbdWitness(scratch, listener, drive, history);
  }

  /** Where clients find the drive through it. */
  get uri(): string {
    return `nbd+unix:///?socket=${this.scratch.file("witness.sock")}`;
  }

  /** Ends when the last connection has; the clients, or the drive, are to have ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.listener.close();
    await Promise.all(this.#connections);
    await this.scratch[Symbol.asyncDispose]();
  }

  async #accept(): Promise<void> {
    for await (const client of this.listener) this.#connections.add(this.#serve(client));
  }

  async #serve(client: Deno.Conn): Promise<void> {
    const path = this.drive.address;
    const drive = await Deno.connect({ transport: "unix", path }).catch(() => null);
    if (!drive) {
      this.isDriveGone = true;
      return client.close();
    }
    const connection = new Connection(client, drive, this.history);
    await Promise.all([connection.passRequests(), connection.passReplies()]);
  }
}

interface Asked {
  type: number;
  length: number;
  answered?: () => void;
}

class Connection {
  readonly #asked = new Map<string, Asked>();

  constructor(
    private readonly client: Deno.Conn,
    private readonly drive: Deno.Conn,
    private readonly history: DiskHistory,
  ) {}

  /** From client to drive, until one of them is gone. */
  passRequests(): Promise<void> {
    return this.#untilGone(async () => {
      await this.#pass(this.client, this.drive, 4); // client flags
      for (let option = 0; option !== NBD_OPT_GO;) {
        const header = await this.#pass(this.client, this.drive, 16);
        option = header.getUint32(8);
        await this.#pass(this.client, this.drive, header.getUint32(12));
      }
      for (;;) await this.#passRequest();
    });
  }

  async #passRequest(): Promise<void> {
    const request = new Request();
    const header = await receive(this.client, REQUEST_HEADER_BYTES);
    parseRequest(viewOf(header), 0, header.length, request);
    const { type, flags, offset, length } = request;
    if (flags & NBD_CMD_FLAG_FUA) throw new Error("a witness does not understand FUA");
    const data = await receive(this.client, type === NBD_CMD_WRITE ? length : 0);
    const isChange = [NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES].includes(type);
    const answered = isChange
      ? this.history.askedToChange(offset, length, type === NBD_CMD_WRITE ? data : undefined)
      : type === NBD_CMD_FLUSH
      ? this.history.askedToFlush()
      : undefined;
    const cookie = `${request.cookieHigh} ${request.cookieLow}`;
    if (type !== NBD_CMD_DISC) this.#asked.set(cookie, { type, length, answered });
    await writeAll(this.drive, header);
    if (data.length > 0) await writeAll(this.drive, data);
  }

  /** From drive to client. */
  passReplies(): Promise<void> {
    return this.#untilGone(async () => {
      await this.#pass(this.drive, this.client, 18); // the greeting
      for (let isAgreed = false; !isAgreed;) {
        const header = await this.#pass(this.drive, this.client, 20);
        isAgreed = header.getUint32(8) === NBD_OPT_GO && header.getUint32(12) === NBD_REP_ACK;
        await this.#pass(this.drive, this.client, header.getUint32(16));
      }
      for (;;) await this.#passReply();
    });
  }

  async #passReply(): Promise<void> {
    const header = await receive(this.drive, SIMPLE_REPLY_BYTES);
    const view = viewOf(header);
    if (view.getUint32(0) !== NBD_SIMPLE_REPLY_MAGIC) throw new Error("no simple reply");
    const cookie = `${view.getInt32(8)} ${view.getInt32(12)}`;
    const { type, length, answered } = this.#asked.get(cookie)!;
    this.#asked.delete(cookie);
    const isDone = view.getUint32(4) === 0;
    const data = await receive(this.drive, type === NBD_CMD_READ && isDone ? length : 0);
    if (isDone) answered?.();
    await writeAll(this.client, header);
    if (data.length > 0) await writeAll(this.client, data);
  }

  async #pass(from: Deno.Conn, to: Deno.Conn, length: number): Promise<DataView> {
    const bytes = await receive(from, length);
    if (length > 0) await writeAll(to, bytes);
    return viewOf(bytes);
  }

  /** When one side is gone so is the other. */
  async #untilGone(pass: () => Promise<void>): Promise<void> {
    try {
      await pass();
    } catch (error) {
      const isGone = error instanceof Gone || error instanceof Deno.errors.BrokenPipe ||
        error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BadResource ||
        error instanceof Deno.errors.Interrupted;
      if (!isGone) throw error;
    } finally {
      for (const conn of [this.client, this.drive]) {
        try {
          conn.close();
        } catch { /* closed by the other direction */ }
      }
    }
  }
}

class Gone extends Error {}

async function receive(from: Deno.Conn, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const count = await from.read(bytes.subarray(done));
    if (count === null) throw new Gone();
    done += count;
  }
  return bytes;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
