/**
 * A server on a memory device at a Unix socket of its own, and a client that says exactly what a test tells
 * it to, right or wrong.
 */

import { assert, assertEquals } from "@std/assert";
import { type Clock, systemClock } from "../../../src/clock.ts";
import { directSockets } from "../../../src/linux/direct_socket.ts";
import { type Logger, silentLogger } from "../../../src/logger.ts";
import { BusyPoll } from "../../../src/nbd/busy_poll.ts";
import { encodeGreeting } from "../../../src/nbd/codec.ts";
import {
  BASE_ALLOCATION,
  CHUNK_HEADER_BYTES,
  IHAVEOPT_HIGH,
  IHAVEOPT_LOW,
  NBD_OPT_GO,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
  NBD_REPLY_FLAG_DONE,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from "../../../src/nbd/constants.ts";
import type { RequestCounts } from "../../../src/nbd/request_counts.ts";
import { listenUnix, NbdServer, type ServerOptions } from "../../../src/nbd/server.ts";
import { MemoryDevice } from "../../support/memory_device.ts";

export const MIB = 1 << 20;

/** A test that also fails when it leaves a socket, a timer or a promise behind. */
export function test(name: string, fn: () => Promise<void> | void): void {
  Deno.test({ name, sanitizeOps: true, sanitizeResources: true, fn });
}

/** Waits for a state; a state that does not come fails the test. */
export async function until(state: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!state()) {
    assert(performance.now() < deadline, `waited 10 s for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** As the program does it; found once, since tests watch what they open. */
const openDirectly = directSockets();

export interface Served {
  device: MemoryDevice;
  server: NbdServer;
  path: string;
  connect(): Promise<Client>;
  /** A client that is past its handshake. */
  attach(): Promise<Client>;
  /** One that has structured replies and base:allocation. */
  attachStructured(): Promise<Client>;
}

export interface ServedOptions {
  clock?: Clock;
  logger?: Logger;
  sizeBytes?: number;
  readOnly?: boolean;
  counts?: RequestCounts;
  open?: ServerOptions["open"];
}

/** Runs `body` with a server, closes it and its clients, and checks that nothing stayed in flight. */
export async function serving(
  body: (served: Served) => Promise<void>,
  {
    clock = systemClock,
    logger = silentLogger,
    sizeBytes = 4 * MIB,
    readOnly,
    counts,
    open = openDirectly,
  }: ServedOptions = {},
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const path = `${directory}/nbd.sock`;
  const device = new MemoryDevice(sizeBytes);
  const server = new NbdServer(device, {
    exportName: "disk",
    description: "a disk for tests",
    readOnly,
    open,
    busyPoll: clock === systemClock ? new BusyPoll(clock) : undefined,
    counts,
    clock,
    logger,
  });
  server.serve(await listenUnix(path));
  const clients: Client[] = [];
  const connect = async () => {
    const client = new Client(await Deno.connect({ transport: "unix", path }));
    clients.push(client);
    return client;
  };
  const attach = async () => {
    const client = await connect();
    await client.handshake();
    return client;
  };
  const attachStructured = async () => {
    const client = await connect();
    await client.greet();
    await client.option(NBD_OPT_STRUCTURED_REPLY);
    await client.option(NBD_OPT_SET_META_CONTEXT, metaContexts("", BASE_ALLOCATION));
    await client.option(NBD_OPT_GO, exportRequest(""));
    return client;
  };
  try {
    await body({ device, server, path, connect, attach, attachStructured });
  } finally {
    for (const client of clients) client.close();
    device.releaseAll();
    await server.close();
    await Deno.remove(directory, { recursive: true });
  }
  assertEquals(server.connections, 0);
  assertEquals(server.inFlightRequests, 0);
  assertEquals(server.inFlightBytes, 0);
  assertEquals(device.places.size, 0);
}

const NOT_FINAL = [NBD_REP_INFO, NBD_REP_SERVER, NBD_REP_META_CONTEXT];

/** One chunk of a structured reply. */
export interface Chunk {
  isLast: boolean;
  type: number;
  cookie: bigint;
  payload: Uint8Array;
}

export interface OptionReply {
  option: number;
  type: number;
  data: Uint8Array;
}

export class Client {
  #pending: Uint8Array = new Uint8Array(0);
  #closed = false;

  constructor(readonly conn: Deno.Conn) {}

  close(): void {
    if (!this.#closed) this.conn.close();
    this.#closed = true;
  }

  async send(...parts: Uint8Array[]): Promise<void> {
    const bytes = join(...parts);
    for (let sent = 0; sent < bytes.length;) sent += await this.conn.write(bytes.subarray(sent));
  }

  /** The next `length` bytes that the server sends. */
  async take(length: number): Promise<Uint8Array> {
    if (this.#pending.length >= length) {
      const taken = this.#pending.slice(0, length);
      this.#pending = this.#pending.subarray(length);
      return taken;
    }
    const parts = [this.#pending];
    let have = this.#pending.length;
    while (have < length) {
      const chunk = new Uint8Array(262_144);
      const count = await this.conn.read(chunk);
      assert(
        count !== null,
        `the server closed the connection; ${length - have} bytes are missing`,
      );
      parts.push(chunk.subarray(0, count));
      have += count;
    }
    const all = join(...parts);
    this.#pending = all.subarray(length);
    return all.slice(0, length);
  }

  /** Asserts that the server sends nothing more and closes the connection. */
  async expectEnd(): Promise<void> {
    assertEquals(this.#pending.length, 0);
    const count = await this.conn.read(new Uint8Array(1)).catch((error) => {
      assert(error instanceof Deno.errors.ConnectionReset, String(error));
      return null;
    });
    assertEquals(count, null, "the server sent more");
  }

  async greet(flags = 3): Promise<void> {
    assertEquals(await this.take(18), encodeGreeting());
    await this.send(u32(flags));
  }

  async handshake(name = ""): Promise<void> {
    await this.greet();
    const replies = await this.option(NBD_OPT_GO, exportRequest(name));
    assertEquals(replies.at(-1)!.type, NBD_REP_ACK);
  }

  /** Sends an option, and takes the replies up to the final one. */
  async option(option: number, data: Uint8Array = new Uint8Array(0)): Promise<OptionReply[]> {
    await this.send(optionBytes(option, data));
    const replies: OptionReply[] = [];
    for (;;) {
      const head = viewOf(await this.take(20));
      assertEquals(head.getBigUint64(0), 0x0003e889045565a9n);
      const reply = {
        option: head.getUint32(8),
        type: head.getUint32(12),
        data: await this.take(head.getUint32(16)),
      };
      assertEquals(reply.option, option);
      replies.push(reply);
      if (!NOT_FINAL.includes(reply.type)) return replies;
    }
  }

  /** Takes a simple reply, and its data when there is no error. */
  async reply(dataBytes = 0): Promise<{ errno: number; cookie: bigint; data: Uint8Array }> {
    const head = viewOf(await this.take(16));
    assertEquals(head.getUint32(0), NBD_SIMPLE_REPLY_MAGIC);
    const errno = head.getUint32(4);
    const data = await this.take(errno === 0 ? dataBytes : 0);
    return { errno, cookie: head.getBigUint64(8), data };
  }

  /** Takes a reply for each cookie, in any order; `dataBytes` says how much data comes with it. */
  async replies(dataBytes: Map<bigint, number>): Promise<Map<bigint, Uint8Array>> {
    const taken = new Map<bigint, Uint8Array>();
    while (taken.size < dataBytes.size) {
      const head = viewOf(await this.take(16));
      assertEquals([head.getUint32(0), head.getUint32(4)], [NBD_SIMPLE_REPLY_MAGIC, 0]);
      const cookie = head.getBigUint64(8);
      assert(dataBytes.has(cookie) && !taken.has(cookie), `a second reply to ${cookie}`);
      taken.set(cookie, await this.take(dataBytes.get(cookie)!));
    }
    return taken;
  }

  async chunk(): Promise<Chunk> {
    const head = viewOf(await this.take(CHUNK_HEADER_BYTES));
    assertEquals(head.getUint32(0), NBD_STRUCTURED_REPLY_MAGIC);
    return {
      isLast: head.getUint16(4) === NBD_REPLY_FLAG_DONE,
      type: head.getUint16(6),
      cookie: head.getBigUint64(8),
      payload: await this.take(head.getUint32(16)),
    };
  }

  /** Sends a request and takes all chunks of its reply, which must be the next one. */
  async chunks(wanted: Wanted, payload = new Uint8Array(0)): Promise<Chunk[]> {
    await this.send(request(wanted), payload);
    const chunks: Chunk[] = [];
    do chunks.push(await this.chunk()); while (!chunks.at(-1)!.isLast);
    for (const { cookie } of chunks) assertEquals(cookie, wanted.cookie ?? 1n);
    return chunks;
  }

  /** Sends a request and takes its reply, which must be the next one. */
  async call(wanted: Wanted, payload?: Uint8Array): Promise<{ errno: number; data: Uint8Array }> {
    await this.send(request(wanted), payload ?? new Uint8Array(0));
    const { errno, cookie, data } = await this.reply(wanted.type === 0 ? wanted.length ?? 0 : 0);
    assertEquals(cookie, wanted.cookie ?? 1n);
    return { errno, data };
  }
}

export interface Wanted {
  type: number;
  flags?: number;
  cookie?: bigint;
  offset?: number | bigint;
  length?: number;
  magic?: number;
}

/** The 28 bytes of a request. */
export function request(
  { type, flags = 0, cookie = 1n, offset = 0, length = 0, magic = NBD_REQUEST_MAGIC }: Wanted,
): Uint8Array {
  const bytes = new Uint8Array(28);
  const view = viewOf(bytes);
  view.setUint32(0, magic);
  view.setUint16(4, flags);
  view.setUint16(6, type);
  view.setBigUint64(8, cookie);
  view.setBigUint64(16, BigInt(offset));
  view.setUint32(24, length);
  return bytes;
}

export function optionBytes(option: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  return join(u32(IHAVEOPT_HIGH), u32(IHAVEOPT_LOW), u32(option), u32(data.length), data);
}

/** The data of NBD_OPT_INFO and NBD_OPT_GO. */
export function exportRequest(name: string, infos: number[] = []): Uint8Array {
  const nameBytes = new TextEncoder().encode(name);
  return join(u32(nameBytes.length), nameBytes, u16(infos.length), ...infos.map(u16));
}

/** The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export function metaContexts(exportName: string, ...queries: string[]): Uint8Array {
  const string = (value: string) => {
    const bytes = new TextEncoder().encode(value);
    return join(u32(bytes.length), bytes);
  };
  return join(string(exportName), u32(queries.length), ...queries.map(string));
}

/** `length` bytes that differ by place and by `seed`. */
export function pattern(length: number, seed = 0): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = i * 7 + (i >> 8) * 13 + seed * 31;
  return bytes;
}

/** For many bytes, of which an assertion would show every one. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function join(...parts: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

export function u16(value: number): Uint8Array {
  return Uint8Array.of(value >> 8, value & 0xff);
}

export function u32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Lets requests wait until they are released, until `holds` says otherwise. */
export function holdAll(device: MemoryDevice, verb: string): void {
  device.holds = (candidate) => candidate === verb;
}
