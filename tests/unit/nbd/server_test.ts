import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import {
  DRAIN_MS_MAX,
  IN_FLIGHT_BYTES_MAX,
  IN_FLIGHT_REQUESTS_MAX,
  REPLY_BUFFER_BYTES,
} from "../../../src/limits.ts";
import { systemClock } from "../../../src/clock.ts";
import { silentLogger } from "../../../src/logger.ts";
import {
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_OPT_LIST,
} from "../../../src/nbd/constants.ts";
import { listenTcp, listenUnix, NbdServer } from "../../../src/nbd/server.ts";
import { ManualClock, settle } from "../../support/manual_clock.ts";
import { MemoryDevice } from "../../support/memory_device.ts";
import { Client, equal, join, MIB, pattern, request, serving, test, until } from "./session.ts";

const KIB = 1024;

/** Requests to read `length` bytes, with the cookies from 0 to `count` - 1. */
function reads(count: number, length: number): Uint8Array {
  const one = (_: unknown, i: number) => request({ type: NBD_CMD_READ, length, cookie: BigInt(i) });
  return join(...Array.from({ length: count }, one));
}

// ---- Stopping

test("a server that stops finishes what it has read, says no error, and closes", () =>
  serving(async ({ attach, connect, device, server }) => {
    const [waiting, idle, haggling] = [await attach(), await attach(), await connect()];
    await haggling.greet();
    await haggling.option(NBD_OPT_LIST);
    device.bytes.set(pattern(MIB));
    device.holds = (verb) => verb === "flush" || verb === "read";
    await waiting.send(
      request({ type: NBD_CMD_FLUSH, cookie: 1n }),
      request({ type: NBD_CMD_READ, length: MIB, cookie: 2n }),
      request({ type: NBD_CMD_WRITE, length: MIB, cookie: 3n }),
      pattern(1000),
    );
    await device.untilHeld(2);
    const closed = server.close();
    await idle.expectEnd();
    await haggling.expectEnd();
    await waiting.send(request({ type: NBD_CMD_READ, length: 1, cookie: 4n }));
    device.releaseAll();
    const replies = await waiting.replies(new Map([[1n, 0], [2n, MIB]]));
    assert(equal(replies.get(2n)!, pattern(MIB)));
    await waiting.expectEnd();
    for (const client of [waiting, idle, haggling]) client.close();
    await closed;
    assertEquals(server.close(), closed);
  }));

test("requests that arrived together with the stop are answered, those after it are not", () =>
  serving(async ({ attach, device, server }) => {
    const client = await attach();
    device.holds = (verb) => verb === "read";
    await client.send(reads(IN_FLIGHT_REQUESTS_MAX + 100, 512));
    await device.untilHeld(IN_FLIGHT_REQUESTS_MAX);
    const closed = server.close();
    device.holds = () => false;
    device.releaseAll();
    const cookies = Array.from({ length: IN_FLIGHT_REQUESTS_MAX + 100 }, (_, i) => BigInt(i));
    await client.replies(new Map(cookies.map((cookie) => [cookie, 512])));
    await client.expectEnd();
    client.close();
    await closed;
  }));

test("a client that takes no replies can't keep a server from stopping", async () => {
  const clock = new ManualClock();
  await serving(async ({ attach, server }) => {
    const client = await attach();
    const sent = client.send(reads(64, 256 * KIB)).catch(() => {});
    await settle();
    const closed = server.close();
    await until(() => clock.pending > 0, "the deadline of the drain");
    await clock.advance(DRAIN_MS_MAX);
    await closed;
    await sent;
    assertEquals(server.inFlightBytes, 0);
    client.close();
  }, { clock });
});

test("nor can one that takes none when it has asked for more than it may", async () => {
  const clock = new ManualClock();
  await serving(async ({ attach, server }) => {
    const client = await attach();
    const sent = client.send(reads(1000, MIB)).catch(() => {});
    await until(() => server.inFlightBytes >= IN_FLIGHT_BYTES_MAX / 2, "the share is used up");
    const closed = server.close();
    await until(() => clock.pending > 0, "the deadline of the drain");
    await clock.advance(DRAIN_MS_MAX);
    await closed;
    await sent;
    client.close();
    // what was being written is held until the kernel lets go of it
    await until(() => server.inFlightBytes === 0, "the last reply is given up");
  }, { clock });
});

// ---- Limits

test("a client that never reads its replies costs bounded memory, and others go on", () =>
  serving(async ({ attach, device, server }) => {
    const greedy = await attach();
    const sent = greedy.send(reads(1000, MIB)).catch(() => {});
    const half = IN_FLIGHT_BYTES_MAX / 2;
    await until(() => server.inFlightBytes >= half, "the client's share is used up");
    const others = [await attach(), await attach()];
    for (const other of others) {
      const payload = pattern(3 * MIB);
      const written = await other.call({ type: NBD_CMD_WRITE, length: 3 * MIB }, payload);
      assertEquals(written.errno, 0);
      const { data } = await other.call({ type: NBD_CMD_READ, length: 3 * MIB });
      assert(equal(data, payload));
      device.holds = () => true;
      await other.send(request({ type: NBD_CMD_READ, length: 4096, cookie: 5n }));
      await device.untilHeld(1);
      device.holds = () => false;
      device.releaseAll();
      assertEquals((await other.reply(4096)).cookie, 5n);
    }
    await until(() => server.inFlightBytes < half + MIB + 17, "only the greedy client's replies");
    greedy.close();
    await sent;
    await until(() => server.inFlightBytes === 0, "everything given back");
  }, { sizeBytes: 4 * MIB }));

test("when every byte of the budget is taken a small request still gets through, and a large one later", () =>
  serving(async ({ attach, server }) => {
    const greedy = [await attach(), await attach(), await attach()];
    const sent = greedy.map((client) => client.send(reads(100, MIB)).catch(() => {}));
    await until(() => server.inFlightBytes >= IN_FLIGHT_BYTES_MAX, "the budget is used up");
    const other = await attach();
    for (let i = 0; i < 5; i++) {
      const { errno, data } = await other.call({ type: NBD_CMD_READ, length: MIB });
      assertEquals([errno, data.length], [0, MIB]);
    }
    const large = other.call({ type: NBD_CMD_READ, length: 2 * MIB });
    for (const client of greedy) client.close();
    await Promise.all(sent);
    assertEquals((await large).data.length, 2 * MIB);
    await until(() => server.inFlightBytes === 0, "everything given back");
  }));

test("a client that stops reading for a while gets every reply when it goes on", () =>
  serving(async ({ attach, server }) => {
    const client = await attach();
    const sent = client.send(reads(200, MIB));
    await until(() => server.inFlightBytes >= IN_FLIGHT_BYTES_MAX / 2, "the share is used up");
    const cookies = Array.from({ length: 200 }, (_, i) => BigInt(i));
    await client.replies(new Map(cookies.map((cookie) => [cookie, MIB])));
    await sent;
    await until(() => server.inFlightBytes === 0, "everything given back");
  }));

test("small replies that nobody takes stop at the size of the reply buffers", () =>
  serving(async ({ attach, device }) => {
    device.record = true;
    const client = await attach();
    await client.send(reads(10_000, 4096));
    await until(() => device.calls.length * 4112 > REPLY_BUFFER_BYTES, "a buffer is full");
    await settle();
    const socketBytes = MIB;
    const most = (2 * REPLY_BUFFER_BYTES + socketBytes) / 4112;
    assert(device.calls.length < most, `${device.calls.length} reads performed`);
    const cookies = Array.from({ length: 10_000 }, (_, i) => BigInt(i));
    await client.replies(new Map(cookies.map((cookie) => [cookie, 4096])));
  }));

test("a connection has a bounded number of requests waiting for the device", () =>
  serving(async ({ attach, device, server }) => {
    const client = await attach();
    device.holds = (verb) => verb === "read";
    const count = 2 * IN_FLIGHT_REQUESTS_MAX + 7;
    await client.send(reads(count, 512));
    await device.untilHeld(IN_FLIGHT_REQUESTS_MAX);
    await settle();
    assertEquals(device.heldCount, IN_FLIGHT_REQUESTS_MAX);
    assertEquals(server.inFlightRequests, IN_FLIGHT_REQUESTS_MAX);
    const other = await attach();
    assertEquals((await other.call({ type: NBD_CMD_FLUSH })).errno, 0);
    device.holds = () => false;
    device.releaseAll();
    const cookies = Array.from({ length: count }, (_, i) => BigInt(i));
    await client.replies(new Map(cookies.map((cookie) => [cookie, 512])));
  }));

test("what a dead connection still has in flight is counted until the device is done", () =>
  serving(async ({ attach, device, server }) => {
    const client = await attach();
    device.holds = () => true;
    await client.send(request({ type: NBD_CMD_WRITE, length: 4096 }), pattern(4096));
    await device.untilHeld(1);
    client.close();
    await settle();
    assertEquals([server.connections, server.inFlightRequests], [1, 1]);
    assertEquals(server.inFlightBytes, 4096);
    device.releaseAll();
    await until(() => server.connections === 0, "no connection left");
    assertEquals([server.inFlightBytes, server.inFlightRequests], [0, 0]);
  }));

// ---- Listening

function newServer(): NbdServer {
  const options = { exportName: "", description: "", clock: systemClock, logger: silentLogger };
  return new NbdServer(new MemoryDevice(4096), options);
}

test("several listeners lead to one disk, and one connection is as good as the other", async () => {
  const directory = await Deno.makeTempDir();
  const server = newServer();
  const tcp = listenTcp("127.0.0.1", 0);
  server.serve(tcp);
  server.serve(await listenUnix(`${directory}/s`));
  const { port } = tcp.addr as Deno.NetAddr;
  const one = new Client(await Deno.connect({ hostname: "127.0.0.1", port }));
  const two = new Client(await Deno.connect({ transport: "unix", path: `${directory}/s` }));
  await one.handshake();
  await two.handshake();
  await one.call({ type: NBD_CMD_WRITE, length: 100 }, pattern(100));
  assertEquals((await two.call({ type: NBD_CMD_READ, length: 100 })).data, pattern(100));
  assertEquals(server.connections, 2);
  one.close();
  two.close();
  await server.close();
  assertEquals([...Deno.readDirSync(directory)], [], "the socket file is gone");
  await Deno.remove(directory);
});

test("while no connection can be accepted the server tries ten times a second, and goes on", async () => {
  const clock = new ManualClock();
  const warnings: string[] = [];
  const logger = { ...silentLogger, warn: (line: string) => void warnings.push(line) };
  const server = new NbdServer(new MemoryDevice(MIB), {
    exportName: "disk",
    description: "",
    clock,
    logger,
  });
  const { promise, reject } = Promise.withResolvers<Deno.Conn>();
  let left = 10;
  server.serve({
    accept: () => left-- > 0 ? Promise.reject(new Error("too many open files")) : promise,
    close: () => reject(new Error("closed")),
  } as Deno.Listener);
  await clock.advance(899);
  assertEquals(warnings.length, 9);
  await clock.advance(10_000);
  assertEquals([warnings.length, left], [10, -1]);
  await server.close();
});

test("a socket is for its owner only, and the umask is what it was", async () => {
  const directory = await Deno.makeTempDir();
  const umask = Deno.umask(0o027);
  const listener = await listenUnix(`${directory}/s`);
  assertEquals((await Deno.stat(`${directory}/s`)).mode! & 0o777, 0o600);
  assertEquals(Deno.umask(umask), 0o027);
  listener.close();
  await Deno.remove(directory, { recursive: true });
});

test("a socket that a dead server left is replaced; a live one, a file and a bad path are refused", async () => {
  const directory = await Deno.makeTempDir();
  const path = `${directory}/s`;
  // A dead server's socket is one that is bound and that nobody listens on: bind, rename, close.
  const dead = Deno.listen({ transport: "unix", path: `${directory}/dead` });
  await Deno.rename(`${directory}/dead`, path);
  dead.close();
  assertEquals((await Deno.lstat(path)).isSocket, true);

  const live = await listenUnix(path);
  const inUse = await assertRejects(() => listenUnix(path), UsageError);
  assertStringIncludes(inUse.message, path);
  assertStringIncludes(inUse.message, "another server is listening there");
  live.close();

  await Deno.writeTextFile(path, "precious");
  const file = await assertRejects(() => listenUnix(path), UsageError);
  assertStringIncludes(file.message, "not a socket");
  assertEquals(await Deno.readTextFile(path), "precious");

  for (const bad of [`${directory}/none/s`, `${directory}/${"x".repeat(120)}`]) {
    const error = await assertRejects(() => listenUnix(bad), UsageError);
    assertStringIncludes(error.message, bad);
  }
  await Deno.remove(directory, { recursive: true });
});

test("a port in use and an address of another machine are one-line errors that name both", () => {
  const listener = listenTcp("127.0.0.1", 0);
  const { port } = listener.addr as Deno.NetAddr;
  const inUse = assertThrows(() => listenTcp("127.0.0.1", port), UsageError);
  assertEquals(
    inUse.message,
    `can't listen on 127.0.0.1 port ${port}: the port is in use; stop what uses it or choose another port`,
  );
  listener.close();
  const elsewhere = assertThrows(() => listenTcp("192.0.2.1", 1), UsageError);
  assertStringIncludes(elsewhere.message, "192.0.2.1");
  const nowhere = assertThrows(() => listenTcp("no.such.host.invalid", 1), UsageError);
  assertStringIncludes(nowhere.message, "no.such.host.invalid");
});
