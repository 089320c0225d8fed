/** Sockets that are read and written at once: always their own, and only while they are open. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { relative } from "node:path";
import { DirectSocket, directSockets } from "../../../src/linux/direct_socket.ts";
import { writeAll } from "../../../src/nbd/socket.ts";
import { Scratch } from "../../support/scratch.ts";

const open = directSockets()!;

interface Pair extends Disposable {
  client: Deno.Conn;
  server: DirectSocket;
}

/** A client, and the server's end of its connection. */
async function connect(listener: Deno.Listener, opened = open): Promise<Pair> {
  const [client, conn] = await Promise.all([dial(listener), listener.accept()]);
  const server = opened(conn);
  assert(server instanceof DirectSocket, "the descriptor was not found");
  return { client, server, [Symbol.dispose]: () => (client.close(), server.close()) };
}

function dial(listener: Deno.Listener): Promise<Deno.Conn> {
  const { addr } = listener;
  return "hostname" in addr
    ? Deno.connect({ hostname: addr.hostname, port: addr.port })
    : Deno.connect({ transport: "unix", path: (addr as Deno.UnixAddr).path });
}

/** Runs `body` on a listener of either kind. */
async function onBoth(body: (listener: Deno.Listener) => Promise<void>): Promise<void> {
  await using scratch = await Scratch.make();
  using unix = Deno.listen({ transport: "unix", path: scratch.file("socket") });
  await body(unix);
  using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await body(tcp);
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

async function readSome(conn: Deno.Conn): Promise<string> {
  const bytes = new Uint8Array(100);
  return text(bytes.subarray(0, await conn.read(bytes) ?? 0));
}

Deno.test("each of many connections, that come and go on several listeners, is given its own descriptor", async () => {
  await using scratch = await Scratch.make();
  using first = Deno.listen({ transport: "unix", path: scratch.file("first") });
  // the kernel knows this one by a name that is not absolute
  const path = relative(Deno.cwd(), scratch.file("second"));
  using second = Deno.listen({ transport: "unix", path });
  using ipv4 = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using ipv6 = Deno.listen({ hostname: "::1", port: 0 });
  const opened = directSockets()!;
  let number = 0;
  const serve = async (listener: Deno.Listener) => {
    const clients = Array.from({ length: 24 }, () => dial(listener));
    const servers: DirectSocket[] = [];
    for (let index = 0; index < clients.length; index++) {
      const server = opened(await listener.accept());
      assert(server instanceof DirectSocket, "the descriptor was not found");
      servers.push(server);
      // numbers that are free again are given to those that come
      if (index % 3 === 0) servers[index / 3].close();
    }
    for (const [index, conn] of (await Promise.all(clients)).entries()) {
      using client = conn;
      const said = `client ${number++}`;
      if (index < 8) continue;
      await client.write(new TextEncoder().encode(said));
      // which of the servers is its own is only known from what arrives there, by Deno
      const server = servers[index];
      const bytes = new Uint8Array(100);
      const heard = bytes.subarray(0, await server.read(bytes) ?? 0);
      assertEquals(server.sendNow([heard]), heard.length);
      server.close();
      assertEquals(await readSome(client), text(heard));
    }
  };
  await Promise.all([first, second, ipv4, ipv6].map(serve));
});

Deno.test("what does not leave at once is written, and all arrives in order, from as many places as there are", async () => {
  await onBoth(async (listener) => {
    using pair = await connect(listener);
    const sent = new Uint8Array(24 << 20);
    for (let at = 0; at < sent.length; at++) sent[at] = at * 7 + (at >> 9);
    const received = new Uint8Array(sent.length);
    const receiving = (async () => {
      for (let at = 0; at < received.length;) {
        at += (await pair.client.read(received.subarray(at)))!;
      }
    })();
    let writes = 0;
    for (let at = 0; at < sent.length;) {
      const parts = Array.from({ length: 100 }, (_, part) => {
        return sent.subarray(at + part * 20_011, at + (part + 1) * 20_011);
      });
      const count = pair.server.sendNow(parts);
      at += count;
      if (count > 0) continue;
      writes++;
      const rest = sent.subarray(at, at + 50_000);
      await writeAll(pair.server, rest);
      at += rest.length;
    }
    await receiving;
    assert(writes > 0, "it never had to wait");
    assertEquals(Deno.inspect(received.findIndex((byte, at) => byte !== sent[at])), "-1");
  });
});

Deno.test("what is there is received into one place after the other, and nothing where nothing is", async () => {
  await onBoth(async (listener) => {
    using pair = await connect(listener);
    const places = [3, 0, 4, 10].map((length) => new Uint8Array(length));
    assertEquals(pair.server.receiveNow(places), 0);
    // what Deno waits for comes to Deno, what comes after it to whom asks first
    const waited = pair.server.read(places[2]);
    await pair.client.write(new TextEncoder().encode("wait"));
    assertEquals([await waited, text(places[2])], [4, "wait"]);
    await pair.client.write(new TextEncoder().encode("abcdefgh"));
    assertEquals(pair.server.receiveNow(places), 8);
    assertEquals(places.map((place) => text(place).replaceAll("\0", "")), ["abc", "", "defg", "h"]);
    assertEquals(pair.server.receiveNow(places), 0);
    await pair.client.closeWrite();
    assertEquals(await pair.server.read(places[0]), null);
    assertEquals(pair.server.receiveNow(places), 0);
  });
});

Deno.test("a socket that is closed sends and receives nothing, though another has its number now", async () => {
  await onBoth(async (listener) => {
    const old = await connect(listener);
    old.server.close();
    using other = await connect(listener);
    await other.client.write(new Uint8Array([1]));
    assertEquals(old.server.sendNow([new Uint8Array([9])]), 0);
    assertEquals(old.server.receiveNow([new Uint8Array(1)]), 0);
    const byte = new Uint8Array(1);
    assertEquals([other.server.receiveNow([byte]), byte[0]], [1, 1]);
    other.server.sendNow([byte]);
    assertEquals(await other.client.read(byte), 1);
    assertEquals(byte[0], 1);
    old.client.close();
  });
});

Deno.test("a write that a client does not take ends when its socket is closed, and gives the descriptor back", async () => {
  await onBoth(async (listener) => {
    const before = [...Deno.readDirSync("/proc/self/fd")].length;
    const { client, server } = await connect(listener);
    const written = assertRejects(() => writeAll(server, new Uint8Array(64 << 20)));
    await client.read(new Uint8Array(1));
    server.close();
    await written;
    client.close();
    assertEquals([...Deno.readDirSync("/proc/self/fd")].length, before);
  });
});

Deno.test("a client that has gone is no signal and no error here, and one where it is waited for", async () => {
  await onBoth(async (listener) => {
    const { client, server } = await connect(listener);
    await client.write(new Uint8Array(1));
    server.sendNow([new Uint8Array(10)]);
    client.close();
    await assertRejects(async () => {
      // TCP hears of it from the answer to what it sends
      for (;;) {
        server.sendNow([new Uint8Array(10)]);
        await server.write(new Uint8Array(10));
      }
    });
    assertEquals(server.sendNow([new Uint8Array(10)]), 0);
    server.close();
  });
});

Deno.test("a connection that can't be told from another is left to Deno", async () => {
  await using scratch = await Scratch.make();
  using listener = Deno.listen({ transport: "unix", path: scratch.file("socket") });
  const opened = directSockets()!;
  using _client = await dial(listener);
  using _unseen = await listener.accept();
  using client = await dial(listener);
  const conn = await listener.accept();
  assertEquals(opened(conn), conn);
  // the next is the only one that is new
  using next = await connect(listener, opened);
  next.server.sendNow([new TextEncoder().encode("next")]);
  assertEquals(await readSome(next.client), "next");
  await conn.write(new TextEncoder().encode("conn"));
  assertEquals(await readSome(client), "conn");
  conn.close();
});
