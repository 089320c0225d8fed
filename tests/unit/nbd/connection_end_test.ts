import { assert, assertEquals } from "@std/assert";
import {
  NBD_CMD_DISC,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
} from "../../../src/nbd/constants.ts";
import {
  equal,
  exportRequest,
  holdAll,
  join,
  MIB,
  optionBytes,
  pattern,
  request,
  serving,
  test,
  u32,
  until,
} from "./session.ts";

test("a client that sends garbage is cut off, and its neighbour goes on", () =>
  serving(async ({ attach, device, server }) => {
    const neighbour = await attach();
    holdAll(device, "flush");
    await neighbour.send(request({ type: NBD_CMD_FLUSH, cookie: 9n }));
    await device.untilHeld(1);
    const garbage = [
      request({ type: 0, magic: 0x25609514 }),
      Uint8Array.of(0, 0, 0, 0),
      pattern(100_000),
    ];
    for (const bytes of garbage) {
      const client = await attach();
      await client.send(bytes).catch(() => {});
      await client.expectEnd();
      await until(() => server.connections === 1, "only the neighbour left");
    }
    device.release();
    assertEquals(await neighbour.reply(), { errno: 0, cookie: 9n, data: new Uint8Array(0) });
  }));

test("NBD_CMD_DISC is obeyed after everything before it is answered", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    device.bytes.set(pattern(MIB));
    device.holds = (verb, offset) => verb === "flush" || (verb === "read" && offset === 7);
    await client.send(
      request({ type: NBD_CMD_READ, offset: 7, length: 200_000, cookie: 1n }),
      request({ type: NBD_CMD_FLUSH, cookie: 2n }),
      request({ type: NBD_CMD_READ, length: 900_000, cookie: 3n }),
      request({ type: NBD_CMD_DISC }),
      request({ type: NBD_CMD_READ, length: 1, cookie: 99n }),
    );
    assertEquals((await client.reply(900_000)).cookie, 3n);
    await device.untilHeld(2);
    device.releaseAll();
    const replies = await client.replies(new Map([[1n, 200_000], [2n, 0]]));
    assert(equal(replies.get(1n)!, device.bytes.subarray(7, 200_007)));
    await client.expectEnd();
  }));

test("a client that only closes its sending side still gets its answers", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    holdAll(device, "flush");
    await client.send(request({ type: NBD_CMD_FLUSH, cookie: 1n }));
    await client.conn.closeWrite();
    await device.untilHeld(1);
    device.release();
    assertEquals((await client.reply()).cookie, 1n);
    await client.expectEnd();
  }));

/** A whole life of a connection, with requests of each kind. */
function sessionBytes(): Uint8Array {
  return join(
    u32(3),
    optionBytes(7, exportRequest("disk", [3])),
    request({ type: NBD_CMD_WRITE, length: 40 }),
    pattern(40),
    request({ type: NBD_CMD_READ, length: 4096 }),
    request({ type: NBD_CMD_WRITE, flags: NBD_CMD_FLAG_FUA, offset: 5 * MIB, length: 30 }),
    pattern(30),
    request({ type: NBD_CMD_FLUSH }),
    request({ type: NBD_CMD_WRITE_ZEROES, length: 100 }),
    request({ type: NBD_CMD_TRIM, length: 100 }),
    request({ type: NBD_CMD_DISC }),
  );
}

test("a connection cut at any byte leaves nothing behind", () =>
  serving(async ({ connect, server, device }) => {
    const bytes = sessionBytes();
    for (const slow of [false, true]) {
      device.holds = () => slow;
      for (let cut = 0; cut <= bytes.length; cut += slow ? 3 : 1) {
        const client = await connect();
        await client.send(bytes.subarray(0, cut));
        if (cut % 2 === 0) await client.take(18);
        client.close();
        await until(() => {
          device.releaseAll();
          return server.connections === 0;
        }, `no connection after a cut at ${cut}`);
        assertEquals([server.inFlightBytes, server.inFlightRequests], [0, 0]);
      }
    }
  }));

test("a large write cut in the middle of its payload changes nothing", () =>
  serving(async ({ attach, server, device }) => {
    for (const sent of [0, 1, 300_000, 600_000, MIB - 1]) {
      device.offersPlaces = !device.offersPlaces;
      const client = await attach();
      await client.send(request({ type: NBD_CMD_WRITE, length: MIB }), pattern(sent, 3));
      await until(() => server.inFlightBytes + device.places.size > 0, "it is on its way");
      assertEquals(server.inFlightBytes, device.offersPlaces ? 0 : MIB);
      client.close();
      await until(() => server.connections === 0, "no connection left");
      assertEquals([server.inFlightBytes, device.places.size], [0, 0]);
    }
    assertEquals(device.bytes.findIndex((byte) => byte !== 0), -1);
  }));
