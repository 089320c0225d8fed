/**
 * Clients of a life that come by TLS, and end it in every way that TLS must not take: what they send of a session arrives
 * in records as chance cuts them, and then comes what no client should say, with a request behind it that must come to
 * nothing.
 */
import { TLS_BARE_READS_MAX } from "../../src/limits.ts";
import { encodeGreeting } from "../../src/nbd/codec.ts";
import { NBD_CMD_WRITE, NBD_OPT_STARTTLS } from "../../src/nbd/constants.ts";
import type { TlsContext } from "../../src/nbd/openssl.ts";
import type { NbdServer } from "../../src/nbd/server.ts";
import { writeAll } from "../../src/nbd/socket.ts";
import type { Seed } from "../simulation/seed.ts";
import type { MemoryConn, MemoryListener } from "../support/memory_conn.ts";
import * as tls from "../support/tls_client.ts";
import { join, option, request, u32 } from "./sessions.ts";

const FLAGS_BYTES = 4;
const ACKNOWLEDGED_BYTES = 18 + 20;
/** Of each only so many that the server goes on. */
const EMPTY_RECORDS_MAX = 20;
const KEY_UPDATES_MAX = TLS_BARE_READS_MAX / 4;

/** How a server is reached by TLS. */
export class TlsLink {
  constructor(
    private readonly context: TlsContext,
    private readonly seed: Seed,
    private readonly client: tls.TlsClientOptions = {},
  ) {}

  serve(server: NbdServer, listener: MemoryListener): void {
    server.serve(listener as unknown as Deno.Listener, this.context);
  }

  /** A client that has TLS, or one that spoils its handshake: what it says then must come to nothing. */
  async connect(listener: MemoryListener, spoil?: Spoil): Promise<TlsFuzzConn> {
    const { seed } = this;
    const version = seed.chance(0.3) ? tls.TLS1_2 : tls.TLS1_3;
    const client = new tls.TlsClient({ version, ...this.client });
    const conn = new TlsFuzzConn(listener.connect(), client, seed);
    await conn.begin(spoil);
    return conn;
  }
}

/** What becomes of a flight of the handshake, `sentBytes` before it; if it is another the client says no more. */
export type Spoil = (flight: Uint8Array, sentBytes: number) => Uint8Array;

/** A few accidents, of which a handshake dies. */
export function spoilAtRandom(seed: Seed): Spoil {
  let isDone = false;
  return (flight) => {
    if (isDone || seed.chance(0.3)) return flight;
    isDone = true;
    const at = seed.below(flight.length);
    const garbage = Uint8Array.from({ length: 1 + seed.below(60) }, () => seed.below(256));
    switch (seed.below(6)) {
      case 0:
        return flipped(flight, at, seed);
      case 1:
        return flight.subarray(0, at);
      case 2:
        return join(flight.subarray(0, at), garbage, flight.subarray(at));
      case 3:
        return join(flight, flight);
      case 4:
        return join(flight.subarray(at), flight.subarray(0, at));
      default:
        return join(Uint8Array.of(22, 3, 1, 0x40 + seed.below(3), seed.below(256), 1), garbage);
    }
  };
}

function flipped(bytes: Uint8Array, at: number, seed: Seed): Uint8Array {
  const changed = bytes.slice();
  changed[at] ^= 1 << seed.below(8);
  return changed;
}

/** To who writes and reads it is the session in clear: the flags first, and the greeting. */
export class TlsFuzzConn {
  readonly #conn: MemoryConn;
  readonly #client: tls.TlsClient;
  readonly #seed: Seed;
  readonly #isSlow: boolean;
  #opened: Uint8Array = encodeGreeting();
  #flagsLeft = FLAGS_BYTES;
  #emptyRecords = 0;
  #keyUpdates = 0;
  #lastRecord: Uint8Array = new Uint8Array(0);
  #isClosed = false;

  constructor(conn: MemoryConn, client: tls.TlsClient, seed: Seed) {
    this.#conn = conn;
    this.#client = client;
    this.#seed = seed;
    this.#isSlow = seed.chance(0.1);
  }

  async begin(spoil: Spoil = (flight) => flight): Promise<void> {
    try {
      await writeAll(this.#conn, join(u32(3), option(NBD_OPT_STARTTLS)));
      for (let left = ACKNOWLEDGED_BYTES; left > 0;) {
        left -= await this.#conn.read(new Uint8Array(left)) ?? left;
      }
      const arrived = new Uint8Array(16_384);
      let sent = 0;
      for (let isOver = false, count: number | null = 0; !isOver && count !== null;) {
        let flight: Uint8Array;
        ({ flight, isOver } = this.#client.advance(arrived.subarray(0, count)));
        const spoilt = spoil(flight, sent);
        sent += flight.length;
        await this.#send(spoilt);
        if (spoilt !== flight) return; // the server may wait for more
        if (!isOver) count = await this.#conn.read(arrived);
      }
    } catch (error) {
      if (!(error instanceof tls.HandshakeError) && !isGone(error)) throw error;
    }
  }

  async write(bytes: Uint8Array): Promise<number> {
    const flags = Math.min(this.#flagsLeft, bytes.length);
    this.#flagsLeft -= flags;
    for (let at = flags; at < bytes.length;) {
      const most = this.#seed.chance(0.7) ? 16_384 : 100;
      const piece = bytes.subarray(at, at + 1 + this.#seed.below(most));
      at += piece.length;
      await this.#send(join(this.#spice(), this.#record(piece)));
    }
    return bytes.length;
  }

  async read(target: Uint8Array): Promise<number | null> {
    while (this.#opened.length === 0) {
      const arrived = new Uint8Array(65_536);
      const count = await this.#conn.read(arrived);
      if (count === null) return null;
      if (this.#isClosed) throw new Deno.errors.BadResource("closed");
      this.#opened = this.#client.open(arrived.subarray(0, count));
    }
    const count = Math.min(target.length, this.#opened.length);
    target.set(this.#opened.subarray(0, count));
    this.#opened = this.#opened.subarray(count);
    return count;
  }

  closeWrite(): Promise<void> {
    return this.#conn.closeWrite();
  }

  close(): void {
    this.#isClosed = true;
    this.#conn.close();
    this.#client[Symbol.dispose]();
  }

  /** Says what TLS must end with, and more that must not be heard. */
  async attack(): Promise<void> {
    await this.#send(join(this.#attack(), this.#request()));
  }

  /** The first bytes of a record. */
  async sendPart(content: Uint8Array, count: number): Promise<void> {
    await this.#send(this.#client.record(tls.DATA, content).subarray(0, count));
  }

  /** The bytes as they are, after what was sent in TLS. */
  async #send(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const piece = this.#isSlow && bytes.length < 4000 ? 1 + this.#seed.below(40) : bytes.length;
      at += await this.#conn.write(bytes.subarray(at, at + piece));
    }
  }

  #record(piece: Uint8Array): Uint8Array {
    const padding = this.#seed.chance(0.1) ? this.#seed.below(16_384 - piece.length + 1) : 0;
    return this.#lastRecord = this.#client.record(tls.DATA, piece, padding);
  }

  /** What TLS allows between data. */
  #spice(): Uint8Array {
    if (this.#client.version === tls.TLS1_2) return new Uint8Array(0);
    if (this.#emptyRecords < EMPTY_RECORDS_MAX && this.#seed.chance(0.05)) {
      this.#emptyRecords++;
      return this.#client.record(tls.DATA, new Uint8Array(0), this.#seed.below(3));
    }
    if (this.#keyUpdates < KEY_UPDATES_MAX && this.#seed.chance(0.05)) {
      this.#keyUpdates++;
      return this.#client.keyUpdate(this.#seed.below(2));
    }
    return new Uint8Array(0);
  }

  /** One that changes the disk, if it is heard. */
  #request(): Uint8Array {
    const payload = new Uint8Array(512).fill(0xbb);
    return this.#client.record(tls.DATA, request(NBD_CMD_WRITE, 0, 99n, 0n, 512, payload));
  }

  #attack(): Uint8Array {
    const seed = this.#seed;
    // each is made when it is chosen: one that was made and not sent would be missed
    const record = () => this.#request();
    const clear = request(NBD_CMD_WRITE, 0, 98n, 0n, 0);
    const anyVersion: (() => Uint8Array)[] = [
      () => flipped(record(), seed.below(540), seed),
      () => record().subarray(0, seed.below(540)),
      () => record().subarray(1 + seed.below(540)),
      () => record().subarray(0, 0),
      () => join(...[record(), record()].reverse()),
      () => this.#lastRecord,
      () => join(Uint8Array.of(tls.DATA, 3, 3, 0x41 + seed.below(190), seed.below(256)), record()),
      () => join(Uint8Array.of(tls.DATA, 3, 3, 0, clear.length), clear),
      () => join(Uint8Array.of(22, 3, 3, 0, 4 + clear.length, 1, 0, 0, clear.length), clear),
      () => Uint8Array.of(tls.ALERT, 3, 3, 0, 2, 1 + seed.below(2), seed.below(256)),
      () => Uint8Array.of(seed.below(20), 3, 3, 0, 1, 1),
      () => join(Uint8Array.of(tls.DATA, seed.below(3), seed.below(256)), record().subarray(3)),
      () => clear,
      () => Uint8Array.from({ length: 5 + seed.below(100) }, () => seed.below(256)),
    ];
    const client = this.#client;
    const only13: (() => Uint8Array)[] = [
      () => client.record(tls.ALERT, Uint8Array.of(1, 0)), // close_notify
      () => client.record(tls.ALERT, Uint8Array.of(2, 10 + seed.below(70))),
      () => client.record(tls.ALERT, new Uint8Array(seed.pick([0, 1, 3]))),
      () => client.record(tls.HANDSHAKE, new Uint8Array(0)),
      () => client.record(tls.HANDSHAKE, join(Uint8Array.of(seed.below(24), 0, 0, 9), clear)),
      () => client.record(tls.HANDSHAKE, Uint8Array.of(24, 0, 0, 1, 2 + seed.below(254))),
      () => client.record(tls.HANDSHAKE, Uint8Array.of(24, 0, 0, 2, 1, 1)),
      () => client.record(tls.HANDSHAKE, Uint8Array.of(24, 0xff, 0xff, 0xff)),
      () => client.record(tls.HANDSHAKE, Uint8Array.of(24, 0, 0)), // data between its parts
      () => client.record(tls.HANDSHAKE, Uint8Array.of(24, 0, 0, 1, 1, 24, 0, 0, 1, 1)),
      () => client.record(0, new Uint8Array(0), seed.below(1000)), // of no type at all
      () => client.record(seed.pick([1, 19, tls.CHANGE_CIPHER_SPEC, 24, 99]), clear),
      () => client.record(tls.DATA, new Uint8Array(16_385 + seed.below(500))),
      () => Uint8Array.of(tls.CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1),
      () => join(...Array.from({ length: 33 }, () => client.record(tls.DATA, new Uint8Array(0)))),
      () => client.keyUpdates(TLS_BARE_READS_MAX),
    ];
    const isOld = client.version === tls.TLS1_2;
    return seed.pick(isOld || seed.chance(0.4) ? anyVersion : only13)();
  }
}

export function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted;
}
