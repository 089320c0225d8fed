import { assert, assertEquals } from "@std/assert";
import { type Clock, systemClock } from "../../../src/clock.ts";
import { TURN_MS_MAX } from "../../../src/limits.ts";
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_DISC,
  NBD_CMD_READ,
  NBD_CMD_WRITE_ZEROES,
} from "../../../src/nbd/constants.ts";
import { equal, join, MIB, pattern, request, serving, test } from "./session.ts";

/** A clock by which everything takes long, and how many turns were waited for by it. */
function hurriedClock(): Clock & { turns: number } {
  let ms = 0;
  return {
    ...systemClock,
    turns: 0,
    monotonic: () => ms += TURN_MS_MAX,
    after(delayMs, callback) {
      if (delayMs === 0) this.turns++;
      return systemClock.after(delayMs, callback);
    },
  };
}

test("requests that arrive together and take long are served in many turns, without another byte", () => {
  const clock = hurriedClock();
  return serving(async ({ attach, attachStructured }) => {
    const slow = await attachStructured();
    const status = request({ type: NBD_CMD_BLOCK_STATUS, length: 4096 });
    await slow.send(join(...Array(50).fill(status)));
    for (let count = 0; count < 50; count++) assertEquals((await slow.chunk()).isLast, true);
    assert(clock.turns >= 49, `50 requests in ${clock.turns} turns more`);
    const quick = await attach();
    clock.turns = 0;
    await quick.send(join(...Array(64).fill(request({ type: NBD_CMD_READ, length: 512 }))));
    for (let count = 0; count < 64; count++) assertEquals((await quick.reply(512)).errno, 0);
    assert(clock.turns >= 2 && clock.turns <= 64 / 8, `64 reads in ${clock.turns} turns more`);
  }, { clock });
});

test("what is left when a turn is over is served before the connection ends, however it ends", () => {
  const clock = hurriedClock();
  return serving(async ({ attach, device }) => {
    const write = (at: number) =>
      join(request({ type: NBD_CMD_WRITE_ZEROES, offset: at * 512, length: 512 }));
    for (const ending of [request({ type: NBD_CMD_DISC }), new Uint8Array(0)]) {
      device.bytes.fill(1);
      const client = await attach();
      await client.send(join(...Array.from({ length: 20 }, (_, at) => write(at)), ending));
      await client.conn.closeWrite();
      for (let count = 0; count < 20; count++) assertEquals((await client.reply()).errno, 0);
      await client.expectEnd();
      assertEquals(device.bytes.indexOf(1), 20 * 512);
    }
  }, { clock });
});

test("a large read that is cached is answered in many turns, and whole", () => {
  const clock = hurriedClock();
  return serving(async ({ attachStructured, device }) => {
    device.bytes.set(pattern(8 * MIB, 3));
    const client = await attachStructured();
    clock.turns = 0;
    const chunks = await client.chunks({ type: NBD_CMD_READ, offset: 5, length: 8 * MIB - 5 });
    assert(clock.turns >= 4, `four pieces in ${clock.turns} turns more`);
    assertEquals(chunks.filter(({ isLast }) => isLast).length, 1);
    const bytes = new Uint8Array(8 * MIB);
    for (const { payload } of chunks) {
      const offset = Number(new DataView(payload.buffer, payload.byteOffset).getBigUint64(0));
      bytes.set(payload.subarray(8), offset);
    }
    assert(equal(bytes.subarray(5), device.bytes.subarray(5)));
  }, { clock, sizeBytes: 8 * MIB });
});
