import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { systemClock } from "../../../src/clock.ts";
import { UsageError } from "../../../src/errors.ts";
import { HANDSHAKE_MS_MAX, OPTION_BYTES_MAX } from "../../../src/limits.ts";
import { type Logger, silentLogger } from "../../../src/logger.ts";
import {
  NBD_CMD_DISC,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_UNSUP,
  NBD_REP_SERVER,
} from "../../../src/nbd/constants.ts";
import { TlsContext, type TlsFiles } from "../../../src/nbd/openssl.ts";
import { listenTcp, NbdServer } from "../../../src/nbd/server.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { MemoryDevice } from "../../support/memory_device.ts";
import { run } from "../../support/programs.ts";
import {
  Client,
  equal,
  exportRequest,
  join,
  MIB,
  optionBytes,
  pattern,
  request,
  serving,
  test,
  until,
} from "./session.ts";
import { CERTIFICATES, connectedPair, CONTEXT, secured } from "./tls_parts.ts";

interface Secure {
  device: MemoryDevice;
  server: NbdServer;
  /** A client that has been greeted, in clear. */
  greeted(): Promise<Client>;
  /** The same client in TLS. */
  startTls(client: Client): Promise<Client>;
  /** A client in TLS that is past its handshake. */
  attach(): Promise<Client>;
}

/** Runs `body` with a server on TCP that requires TLS, and checks that nothing of it is left. */
async function servingTls(
  body: (secure: Secure) => Promise<void>,
  around: { clock?: ManualClock; logger?: Logger } = {},
): Promise<void> {
  const device = new MemoryDevice(4 * MIB);
  const options = { exportName: "disk", description: "a disk for tests" };
  const server = new NbdServer(device, {
    ...options,
    clock: systemClock,
    logger: silentLogger,
    ...around,
  });
  const listener = listenTcp("127.0.0.1", 0);
  server.serve(listener, CONTEXT);
  const { port } = listener.addr as Deno.NetAddr;
  const clients: Client[] = [];
  const kept = (conn: Deno.Conn) => clients[clients.push(new Client(conn)) - 1];
  const greeted = async () => {
    const client = kept(await Deno.connect({ port }));
    await client.greet();
    return client;
  };
  const startTls = async (client: Client) => {
    const [reply] = await client.option(NBD_OPT_STARTTLS);
    assertEquals(reply.type, NBD_REP_ACK);
    clients.splice(clients.indexOf(client), 1);
    return kept(await secured(client.conn as Deno.TcpConn));
  };
  const attach = async () => {
    const client = await startTls(await greeted());
    assertEquals((await client.option(NBD_OPT_GO, exportRequest(""))).at(-1)!.type, NBD_REP_ACK);
    return client;
  };
  try {
    await body({ device, server, greeted, startTls, attach });
  } finally {
    for (const client of clients) client.close();
    device.releaseAll();
    await server.close();
  }
  assertEquals([server.connections, server.inFlightRequests, server.inFlightBytes], [0, 0, 0]);
}

// ---- Files

test("a file that is not what it should be is named, with what is allowed and without what is in it", async () => {
  const [certificate, key] = [
    CERTIFICATES.file("server-cert.pem"),
    CERTIFICATES.file("server-key.pem"),
  ];
  const locked = CERTIFICATES.file("locked.pem");
  const passphrase = ["-passout", "pass:correct horse"];
  await run("openssl", ["pkey", "-in", key, "-aes256", ...passphrase, "-out", locked]);
  const text = await Deno.readTextFile(key);
  const cut = CERTIFICATES.file("cut.pem");
  await Deno.writeTextFile(cut, text.replace("END PRIVATE", "END"));
  const wrong: [Partial<TlsFiles>, string][] = [
    [{ certificate: "/nowhere" }, "tlscert can't be /nowhere: no such file"],
    [{ certificate: "/tmp" }, "tlscert can't be /tmp: Is a directory"],
    [{ certificate: key }, `tlscert can't be ${key}: no start line`],
    [{ key: certificate }, `tlskey can't be ${certificate}: `],
    [{ key: cut }, `tlskey can't be ${cut}: `],
    [{ key: locked }, `tlskey can't be ${locked}: it is protected by a passphrase`],
    [{ key: CERTIFICATES.file("client-key.pem") }, "client-key.pem: key values mismatch"],
    [{ clientAuthorities: key }, `tlsca can't be ${key}: `],
  ];
  for (const [files, expected] of wrong) {
    const error = assertThrows(() => new TlsContext({ certificate, key, ...files }), UsageError);
    assertStringIncludes(error.message, expected);
    assertStringIncludes(error.message, "; allowed: a PEM file with ");
    assert(!error.message.includes(text.split("\n")[1]), error.message);
  }
});

// ---- Negotiation

test("before TLS nothing is told, and after it everything is as it is in clear", () =>
  servingTls(async ({ greeted, startTls, device }) => {
    const clear = await greeted();
    for (const option of [NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_GO, NBD_OPT_STRUCTURED_REPLY, 77]) {
      const [reply] = await clear.option(option, exportRequest("disk"));
      assertEquals(reply.type, NBD_REP_ERR_TLS_REQD, `option ${option}`);
    }
    const long = new Uint8Array(OPTION_BYTES_MAX + 1);
    assertEquals((await clear.option(NBD_OPT_GO, long))[0].type, NBD_REP_ERR_TLS_REQD);
    const [withData] = await clear.option(NBD_OPT_STARTTLS, new Uint8Array(1));
    assertEquals(withData.type, NBD_REP_ERR_INVALID);

    const client = await startTls(clear);
    const list = await client.option(NBD_OPT_LIST);
    assertEquals(list.map((reply) => reply.type), [NBD_REP_SERVER, NBD_REP_ACK]);
    const [second] = await client.option(NBD_OPT_STARTTLS);
    assertEquals(second.type, NBD_REP_ERR_INVALID);
    const go = await client.option(NBD_OPT_GO, exportRequest("disk"));
    assertEquals(go.at(-1)!.type, NBD_REP_ACK);

    const data = pattern(3 * MIB);
    const write = { type: NBD_CMD_WRITE, offset: 511, length: data.length };
    assertEquals((await client.call(write, data)).errno, 0);
    assert(equal(device.bytes.subarray(511, 511 + data.length), data));
    const read = await client.call({ ...write, type: NBD_CMD_READ });
    assert(equal(read.data, data));
  }));

test("in clear NBD_OPT_EXPORT_NAME ends the connection, and NBD_OPT_ABORT is acknowledged", () =>
  servingTls(async ({ greeted }) => {
    const old = await greeted();
    await old.send(optionBytes(NBD_OPT_EXPORT_NAME));
    await old.expectEnd();
    const leaving = await greeted();
    assertEquals((await leaving.option(NBD_OPT_ABORT))[0].type, NBD_REP_ACK);
    await leaving.expectEnd();
  }));

test("what somebody put behind NBD_OPT_STARTTLS in clear is not taken for the client's", async () => {
  const lines: string[] = [];
  const logger = { ...silentLogger, info: (text: string) => lines.push(text) };
  await servingTls(async ({ greeted }) => {
    const client = await greeted();
    const injected = optionBytes(NBD_OPT_GO, exportRequest(""));
    await client.send(join(optionBytes(NBD_OPT_STARTTLS), injected));
    await client.expectEnd();
  }, { logger });
  assertEquals(lines.length, 1);
  assertStringIncludes(lines[0], "NBD_OPT_STARTTLS: something follows it in clear");
});

test("a server without a certificate says that it does not know NBD_OPT_STARTTLS", () =>
  serving(async ({ connect }) => {
    const client = await connect();
    await client.greet();
    assertEquals((await client.option(NBD_OPT_STARTTLS))[0].type, NBD_REP_ERR_UNSUP);
    assertEquals((await client.option(NBD_OPT_LIST)).at(-1)!.type, NBD_REP_ACK);
  }));

// ---- Handshakes that come to nothing

test("the handshake's deadline covers that of TLS", async () => {
  const clock = new ManualClock();
  await servingTls(async ({ greeted, server }) => {
    const silent = await greeted();
    assertEquals((await silent.option(NBD_OPT_STARTTLS))[0].type, NBD_REP_ACK);
    const slow = await greeted();
    assertEquals((await slow.option(NBD_OPT_STARTTLS))[0].type, NBD_REP_ACK);
    await slow.send(Uint8Array.of(22, 3, 1, 2, 0, 1));
    await clock.advance(HANDSHAKE_MS_MAX);
    await silent.expectEnd();
    await slow.expectEnd();
    await until(() => server.connections === 0, "no connections");
  }, { clock });
});

test("a client that sends no TLS after NBD_OPT_STARTTLS is told so and cut off", async () => {
  const lines: string[] = [];
  const logger = { ...silentLogger, info: (text: string) => lines.push(text) };
  await servingTls(async ({ greeted, server }) => {
    const client = await greeted();
    assertEquals((await client.option(NBD_OPT_STARTTLS))[0].type, NBD_REP_ACK);
    await client.send(optionBytes(NBD_OPT_GO, exportRequest("")));
    await until(() => server.connections === 0, "no connections");
  }, { logger });
  assertEquals(lines.length, 1);
  assertStringIncludes(lines[0], "was cut off: TLS: ");
});

test("clients that die in the middle of a TLS handshake leave nothing behind", () =>
  servingTls(async ({ greeted, server, attach }) => {
    for (const bytes of [[], [22], [22, 3, 1, 2, 0], [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]]) {
      const client = await greeted();
      assertEquals((await client.option(NBD_OPT_STARTTLS))[0].type, NBD_REP_ACK);
      await client.send(Uint8Array.from(bytes));
      client.close();
    }
    await until(() => server.connections === 0, "no connections");
    await attach();
  }));

// ---- Transmission

test("who says NBD_CMD_DISC gets the end of TLS, and so does who is there when the server stops", () =>
  servingTls(async ({ attach, device, server }) => {
    // Deno's client takes an end without a close_notify for an error.
    const leaving = await attach();
    await leaving.send(request({ type: NBD_CMD_DISC }));
    assertEquals(await leaving.conn.read(new Uint8Array(1)), null);
    leaving.close();

    const [waiting, idle] = [await attach(), await attach()];
    device.holds = (verb) => verb === "flush" || verb === "read";
    await waiting.send(request({ type: NBD_CMD_FLUSH, cookie: 1n }));
    await waiting.send(request({ type: NBD_CMD_READ, length: MIB, cookie: 2n }));
    await device.untilHeld(2);
    const closed = server.close();
    assertEquals(await idle.conn.read(new Uint8Array(1)), null);
    device.releaseAll();
    await waiting.replies(new Map([[1n, 0], [2n, MIB]]));
    assertEquals(await waiting.conn.read(new Uint8Array(1)), null);
    for (const client of [waiting, idle]) client.close();
    await closed;
  }));

test("a record that was changed on the way ends the connection, and changes nothing", async () => {
  const lines: string[] = [];
  const logger = { ...silentLogger, info: (text: string) => lines.push(text) };
  await servingTls(async ({ greeted, server, device }) => {
    const clear = await greeted();
    assertEquals((await clear.option(NBD_OPT_STARTTLS))[0].type, NBD_REP_ACK);
    const [near, far] = await connectedPair();
    let change = 0;
    const relays = [
      relay(far, clear.conn, (bytes) => bytes[bytes.length - 1] ^= change),
      relay(clear.conn, far, () => {}),
    ];
    const client = new Client(await secured(near));
    const go = await client.option(NBD_OPT_GO, exportRequest(""));
    assertEquals(go.at(-1)!.type, NBD_REP_ACK);
    change = 1;
    await client.send(request({ type: NBD_CMD_WRITE, length: 100 }), pattern(100));
    await until(() => server.connections === 0, "no connections");
    assert(device.bytes.every((byte) => byte === 0));
    client.close();
    far.close();
    await Promise.all(relays);
  }, { logger });
  assertEquals(lines.length, 1);
  assertStringIncludes(lines[0], "TLS: decryption failed or bad record mac");
});

/** Sends on what comes, until either side has gone. */
async function relay(
  from: Deno.Conn,
  to: Deno.Conn,
  change: (bytes: Uint8Array) => void,
): Promise<void> {
  const bytes = new Uint8Array(65536);
  try {
    for (let count = await from.read(bytes); count !== null; count = await from.read(bytes)) {
      change(bytes.subarray(0, count));
      await new Client(to).send(bytes.subarray(0, count));
    }
  } catch { /* it is the end that the test is about */ }
}
