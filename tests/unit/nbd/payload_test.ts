import { assert, assertEquals } from "@std/assert";
import { UnavailableError } from "../../../src/errors.ts";
import { NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE, NBD_EIO } from "../../../src/nbd/constants.ts";
import { equal, holdAll, MIB, pattern, request, serving, test, until } from "./session.ts";

const KIB = 1024;

for (const offersPlaces of [false, true]) {
  test(`payloads that exceed every buffer arrive whole, up to 32 MiB, ${offersPlaces ? "in" : "without"} places of the device`, () =>
    serving(async ({ attach, device, server }) => {
      device.offersPlaces = offersPlaces;
      const client = await attach();
      for (const length of [512 * KIB - 28, 512 * KIB - 27, 512 * KIB, MIB + 1, 32 * MIB]) {
        const payload = pattern(length, length);
        await client.send(
          request({ type: NBD_CMD_WRITE, offset: 5, length, cookie: 7n }),
          payload,
          request({ type: NBD_CMD_READ, offset: 5, length, cookie: 8n }),
        );
        assertEquals((await client.reply()).cookie, 7n);
        const { cookie, data } = await client.reply(length);
        assertEquals(cookie, 8n);
        assert(equal(data, payload), `${length} bytes read`);
        assert(equal(device.bytes.subarray(5, 5 + length), payload), `${length} bytes written`);
        await until(() => server.inFlightBytes === 0, "nothing held");
      }
    }, { sizeBytes: 33 * MIB }));
}

// ---- Payloads that have a place

const LARGE = 256 * KIB;

test("half of a payload is read by nobody, keeps no flush waiting, and is written when it is whole", () =>
  serving(async ({ attach, device }) => {
    device.offersPlaces = true;
    const [writer, reader] = [await attach(), await attach()];
    const payload = pattern(LARGE, 5);
    await writer.send(
      request({ type: NBD_CMD_WRITE, length: LARGE }),
      payload.subarray(0, 200_000),
    );
    await until(() => device.places.size === 1, "a place");
    const read = { type: NBD_CMD_READ, length: LARGE };
    assertEquals((await reader.call({ type: NBD_CMD_FLUSH })).errno, 0);
    assertEquals((await reader.call(read)).data.findIndex((byte) => byte !== 0), -1);
    await writer.send(payload.subarray(200_000));
    assertEquals((await writer.reply()).errno, 0);
    assert(equal((await reader.call(read)).data, payload));
  }));

test("overlapping payloads of two connections take effect in the order in which they are whole", () =>
  serving(async ({ attach, device }) => {
    device.offersPlaces = true;
    const [slow, quick] = [await attach(), await attach()];
    const [old, young] = [pattern(LARGE, 1), pattern(LARGE, 2)];
    const write = { type: NBD_CMD_WRITE, offset: 4096, length: LARGE };
    await slow.send(request(write), young.subarray(0, LARGE - 1));
    await until(() => device.places.size === 1, "a place");
    assertEquals((await quick.call(write, old)).errno, 0);
    assert(equal(device.bytes.subarray(4096, 4096 + LARGE), old));
    await slow.send(young.subarray(LARGE - 1));
    assertEquals((await slow.reply()).errno, 0);
    assert(equal(device.bytes.subarray(4096, 4096 + LARGE), young));
  }));

test("a write that fails, at once or later, gives its place up, and the next is served", () =>
  serving(async ({ attach, device }) => {
    device.offersPlaces = true;
    const client = await attach();
    const write = { type: NBD_CMD_WRITE, length: LARGE };
    device.fails = (verb) => verb === "write" ? new UnavailableError("no disk") : undefined;
    assertEquals((await client.call(write, pattern(LARGE))).errno, NBD_EIO);
    device.fails = () => undefined;
    holdAll(device, "write");
    await client.send(request(write), pattern(LARGE));
    await device.untilHeld(1);
    assertEquals(device.places.size, 0);
    device.failHeld(new UnavailableError("no disk"));
    assertEquals((await client.reply()).errno, NBD_EIO);
    device.holds = () => false;
    assertEquals((await client.call(write, pattern(LARGE))).errno, 0);
  }));
