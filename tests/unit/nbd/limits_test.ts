/** What clients may take of a server, and that those who take all they can keep nobody else out. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  CONNECTIONS_MAX,
  HANDSHAKE_MS_MAX,
  HANDSHAKES_MAX,
  IN_FLIGHT_BYTES_MAX,
  IN_FLIGHT_REQUESTS_MAX,
  OPTIONS_MAX,
  PAYLOAD_SILENCE_MS_MAX,
  SMALL_REQUEST_BYTES,
  STUCK_MS_MIN,
} from "../../../src/limits.ts";
import { type Logger, silentLogger } from "../../../src/logger.ts";
import {
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_OPT_GO,
  NBD_OPT_LIST,
} from "../../../src/nbd/constants.ts";
import { InFlight, Share } from "../../../src/nbd/in_flight.ts";
import { ManualClock, settle } from "../../support/manual_clock.ts";
import {
  Client,
  equal,
  exportRequest,
  MIB,
  optionBytes,
  pattern,
  request,
  serving,
  test,
  u32,
  until,
} from "./session.ts";

const KIB = 1024;

async function assertServed(client: Client): Promise<void> {
  assertEquals((await client.call({ type: NBD_CMD_READ, length: 512 })).errno, 0);
}

// ---- Connections

test("clients that connect and say nothing keep nobody out: the oldest gives way", async () => {
  const lines: string[] = [];
  const logger: Logger = { ...silentLogger, info: (line) => void lines.push(line) };
  await serving(async ({ connect, attach, server }) => {
    const neighbour = await attach();
    const silent: Client[] = [];
    for (let i = 0; i < HANDSHAKES_MAX; i++) {
      silent.push(await connect());
      await silent[i].take(18);
    }
    for (let i = 0; i < 3; i++) {
      const client = await attach();
      await silent[i].expectEnd();
      await assertServed(client);
      await assertServed(neighbour);
      // the place in the handshake that it has left goes to one more silent client
      silent.push(await connect());
      await silent.at(-1)!.take(18);
    }
    assertEquals(server.connections, 4 + HANDSHAKES_MAX);
    assertEquals(lines.length, 3);
    assertStringIncludes(lines[0], "newer clients came");
  }, { logger });
});

test("a client that sends options without an end, and reads no reply, is cut off", () =>
  serving(async ({ connect, attach, server }) => {
    const flood = await connect();
    await flood.greet();
    await assertRejects(async () => {
      while (true) await flood.send(optionBytes(NBD_OPT_LIST), optionBytes(4711, pattern(2 * MIB)));
    });
    await until(() => server.connections === 0, "it is gone");
    await assertServed(await attach());
  }));

test("a client may try many options, and a real one's handshake is far from the limit", () =>
  serving(async ({ connect }) => {
    const client = await connect();
    await client.greet();
    for (let i = 0; i < OPTIONS_MAX - 1; i++) {
      assertEquals((await client.option(NBD_OPT_LIST)).length, 2);
    }
    assertEquals((await client.option(NBD_OPT_GO, exportRequest(""))).length, 2);
    await assertServed(client);
  }));

test("a client that sends a byte now and then is cut off when its handshake's time is over", async () => {
  const clock = new ManualClock();
  await serving(async ({ connect, attach, server }) => {
    const slow = await connect();
    await slow.take(18);
    const bytes = [...u32(3), ...optionBytes(NBD_OPT_LIST, pattern(1000))];
    for (let i = 0; i < 100; i++) {
      await slow.send(Uint8Array.of(bytes[i]));
      await clock.advance(HANDSHAKE_MS_MAX / 100 - 1);
    }
    await assertServed(await attach());
    assertEquals(server.connections, 2);
    await clock.advance(100);
    await slow.expectEnd();
    await until(() => server.connections === 1, "it is gone");
  }, { clock });
});

test("a connection whose client has left it, with requests that wait, gives its place to a new one", async () => {
  const clock = new ManualClock();
  await serving(async ({ attach, connect, device, server }) => {
    device.holds = () => true;
    const write = request({ type: NBD_CMD_WRITE, length: 4096 });
    for (let i = 0; i < CONNECTIONS_MAX; i++) {
      const client = await attach();
      await client.send(write, pattern(4096));
      // changes of a connection wait until the older ones have nothing unread
      await until(() => clock.pending > 0 || device.heldCount > i, "it is the write's turn");
      while (device.heldCount <= i) await clock.advance(10);
      client.close();
      await settle();
    }
    assertEquals([server.connections, device.heldCount], [CONNECTIONS_MAX, CONNECTIONS_MAX]);
    await (await connect()).expectEnd(); // 30 s have not passed
    await clock.advance(STUCK_MS_MIN);
    const next = await attach();
    device.holds = () => false;
    await assertServed(next);
    assertEquals(server.inFlightRequests, CONNECTIONS_MAX, "what the device has is finished");
    device.releaseAll();
    await until(() => server.connections === 1, "the new one only");
  }, { clock });
});

test("while the device is stuck a client may come back for ever, at a bounded price", async () => {
  const clock = new ManualClock();
  await serving(async ({ attach, device, server }) => {
    device.holds = () => true;
    for (let i = 0; i < 8 * CONNECTIONS_MAX; i++) {
      const client = await attach();
      // as the kernel: 32 reads of 128 KiB each time, then it gives up
      for (let k = 0; k < 32; k++) {
        await client.send(request({ type: NBD_CMD_READ, length: 128 * KIB }));
      }
      await settle();
      client.close();
      await clock.advance(STUCK_MS_MIN / 10);
    }
    const most = IN_FLIGHT_BYTES_MAX + CONNECTIONS_MAX * SMALL_REQUEST_BYTES;
    assert(server.inFlightBytes >= IN_FLIGHT_BYTES_MAX, `${server.inFlightBytes} bytes`);
    assert(server.inFlightBytes < most + MIB, `${server.inFlightBytes} bytes`);
    device.holds = () => false;
    device.releaseAll();
    await assertServed(await attach());
  }, { clock });
});

test("a connection that takes no replies gives its place to a new one, and no other does", async () => {
  const clock = new ManualClock();
  await serving(async ({ attach, connect }) => {
    const clients: Client[] = [];
    for (let i = 0; i < CONNECTIONS_MAX; i++) clients.push(await attach());
    const read = request({ type: NBD_CMD_READ, length: MIB });
    const sent = Promise.all(Array.from({ length: 100 }, () => clients[5].send(read)))
      .catch(() => {});
    await until(() => clients.length === CONNECTIONS_MAX && clock.pending === 0, "all attached");
    await settle();
    await clock.advance(STUCK_MS_MIN - 1);
    await (await connect()).expectEnd();
    await clock.advance(60_000);
    await assertServed(await attach());
    clients.splice(5, 1)[0].close();
    await sent;
    for (const client of clients) await assertServed(client);
  }, { clock });
});

test("where only Deno closes sockets, those that gave way and whose replies nobody takes are bounded", async () => {
  const clock = new ManualClock();
  await serving(async ({ attach, connect, server }) => {
    const read = request({ type: NBD_CMD_READ, length: 64 * KIB });
    const greedy: Client[] = [];
    for (let i = 0; i < 2 * CONNECTIONS_MAX; i++) {
      const client = await attach();
      greedy.push(client);
      // every other one is stalled; the others are cut off while there is room for their replies
      for (let k = 0; k < (i % 2 === 0 ? 100 : 8); k++) await client.send(read);
      if (i % 2 === 1) {
        await client.take(1);
        await client.send(request({ type: NBD_CMD_READ, magic: 0 }));
      }
      await settle();
      await clock.advance(STUCK_MS_MIN);
    }
    await (await connect()).expectEnd();
    greedy[0].close();
    await until(() => server.connections < 2 * CONNECTIONS_MAX, "its write has ended");
    await assertServed(await attach());
  }, { clock, open: (conn) => conn });
});

// ---- Room

test("requests that hold nothing are bounded too, over all connections", () => {
  const inFlight = new InFlight();
  const shares = Array.from({ length: CONNECTIONS_MAX }, () => new Share());
  for (const share of shares) {
    for (let i = 0; i < IN_FLIGHT_REQUESTS_MAX; i++) inFlight.requestBegins(share);
  }
  const newcomer = new Share();
  assertEquals(inFlight.mustWait(newcomer, 0), true);
  let woken = 0;
  inFlight.waitForRelease(() => woken++);
  inFlight.requestEnds(shares[0]);
  assertEquals([woken, inFlight.mustWait(newcomer, 0)], [1, false]);
});

test("one connection takes half of the room at most, and none that has something takes more when all is taken", () => {
  const inFlight = new InFlight();
  const [greedy, modest, newcomer] = [new Share(), new Share(), new Share()];
  inFlight.holdBytes(greedy, IN_FLIGHT_BYTES_MAX / 2);
  inFlight.holdBytes(modest, IN_FLIGHT_BYTES_MAX / 2 - 1);
  const mustWait = () => [greedy, modest, newcomer].map((share) => inFlight.mustWait(share, 1));
  assertEquals(mustWait(), [true, false, false]);
  inFlight.holdBytes(new Share(), 1);
  assertEquals(mustWait(), [true, true, false]);
});

test("small requests of ever new connections don't pass the bound either", () => {
  const inFlight = new InFlight();
  let begun = 0;
  for (; !inFlight.mustWait(new Share(), MIB); begun++) inFlight.holdBytes(new Share(), MIB);
  assertEquals(begun * MIB, IN_FLIGHT_BYTES_MAX + CONNECTIONS_MAX * SMALL_REQUEST_BYTES);
});

test("payloads that are announced and never come keep nobody waiting for ever", async () => {
  const clock = new ManualClock();
  await serving(async ({ attach, server }) => {
    const silent = [await attach(), await attach()];
    for (const client of silent) {
      await client.send(request({ type: NBD_CMD_WRITE, length: 32 * MIB }));
    }
    // a newcomer's change waits until the older ones have nothing unread
    const isAll = () => server.inFlightBytes === IN_FLIGHT_BYTES_MAX;
    for (let turns = 0; !isAll() && turns < 1000; turns++) await clock.advance(10);
    assertEquals(server.inFlightBytes, IN_FLIGHT_BYTES_MAX);
    const client = await attach();
    await client.send(request({ type: NBD_CMD_READ, length: 2 * MIB }));
    await clock.advance(PAYLOAD_SILENCE_MS_MAX / 2);
    assertEquals(server.connections, 3, "a payload may be slow");
    await clock.advance(PAYLOAD_SILENCE_MS_MAX / 2);
    for (const one of silent) await one.expectEnd();
    assertEquals((await client.reply(2 * MIB)).errno, 0);
  }, { clock, sizeBytes: 32 * MIB });
});

test("a payload that has a place takes the time it likes, and room like any other when it is whole", async () => {
  const clock = new ManualClock();
  await serving(async ({ attach, device, server }) => {
    const clients = [await attach(), await attach(), await attach()];
    const [slow, ...silent] = clients;
    const length = 2 * MIB;
    device.offersPlaces = true;
    await slow.send(request({ type: NBD_CMD_WRITE, length }), pattern(length - 1));
    await until(() => device.places.size === 1, "a place");
    await clock.advance(2 * PAYLOAD_SILENCE_MS_MAX);
    device.offersPlaces = false;
    for (const client of silent) {
      await client.send(request({ type: NBD_CMD_WRITE, length: 32 * MIB }));
    }
    const isAll = () => server.inFlightBytes === IN_FLIGHT_BYTES_MAX;
    for (let turns = 0; !isAll() && turns < 1000; turns++) await clock.advance(10);
    device.holds = (verb) => verb === "write";
    await slow.send(pattern(length).subarray(length - 1));
    await clock.advance(PAYLOAD_SILENCE_MS_MAX / 2);
    assertEquals([server.connections, device.heldCount], [3, 0], "there is no room");
    await clock.advance(PAYLOAD_SILENCE_MS_MAX / 2);
    for (const one of silent) await one.expectEnd();
    await device.untilHeld(1);
    device.release();
    assertEquals((await slow.reply()).errno, 0);
    assert(equal(device.bytes.subarray(0, length), pattern(length)));
  }, { clock, sizeBytes: 32 * MIB });
});

// ---- The order of changes across connections

test("what a dead connection had been sent comes before the changes of its successor", () =>
  serving(async ({ attach, device, server }) => {
    const [other, dead] = [await attach(), await attach()];
    device.holds = (verb) => verb === "read";
    for (let i = 0; i < IN_FLIGHT_REQUESTS_MAX; i++) {
      await dead.send(request({ type: NBD_CMD_READ, length: 1 }));
    }
    await device.untilHeld(IN_FLIGHT_REQUESTS_MAX);
    // There is no room for more: these stay in the socket.
    for (let i = 0; i < 10; i++) {
      await dead.send(request({ type: NBD_CMD_WRITE, offset: 4096, length: 4096 }));
      await dead.send(new Uint8Array(4096).fill(1));
    }
    dead.close();
    const successor = await attach();
    await successor.send(
      request({ type: NBD_CMD_WRITE, offset: 4096, length: 4096 }),
      new Uint8Array(4096).fill(2),
      request({ type: NBD_CMD_FLUSH, cookie: 2n }),
    );
    // Whatever is served at once has been when others were served several times meanwhile.
    for (let i = 0; i < 10; i++) assertEquals((await other.call({ type: NBD_CMD_FLUSH })).errno, 0);
    assertEquals(device.bytes[4096], 0);
    device.holds = () => false;
    device.releaseAll();
    assertEquals((await successor.reply()).cookie, 1n);
    await until(() => server.connections === 2, "the dead one is gone");
    assertEquals(device.bytes.subarray(4096, 8192), new Uint8Array(4096).fill(2));
    assertEquals((await successor.reply()).cookie, 2n);
  }));

test("a client that sends without a pause, and one that takes no replies, hold up no successor", () =>
  serving(async ({ attach }) => {
    const restless = await attach();
    let isOver = false;
    const write = new Uint8Array(28 + 64 * KIB);
    write.set(request({ type: NBD_CMD_WRITE, length: 64 * KIB }));
    const writing = (async () => {
      while (!isOver) await restless.send(write);
    })();
    const replies = (async () => {
      while (!isOver) await restless.reply();
    })().catch(() => {});
    const greedy = await attach();
    const read = request({ type: NBD_CMD_READ, length: MIB });
    const sent = Promise.all(Array.from({ length: 100 }, () => greedy.send(read))).catch(() => {});
    for (let i = 0; i < 3; i++) {
      const client = await attach();
      const written = await client.call(
        { type: NBD_CMD_WRITE, offset: MIB, length: 10 },
        pattern(10),
      );
      assertEquals(written.errno, 0);
    }
    isOver = true;
    await writing;
    restless.close();
    greedy.close();
    await Promise.all([sent, replies]);
  }));
