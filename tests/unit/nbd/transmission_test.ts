import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { type Clock, systemClock } from "../../../src/clock.ts";
import { DamageError, FencedError, TimeoutError, UnavailableError } from "../../../src/errors.ts";
import { TURN_MS_MAX } from "../../../src/limits.ts";
import type { Logger } from "../../../src/logger.ts";
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EPERM,
} from "../../../src/nbd/constants.ts";
import type { MemoryDevice } from "../../support/memory_device.ts";
import {
  equal,
  exportRequest,
  join,
  MIB,
  optionBytes,
  pattern,
  request,
  serving,
  test,
  u32,
  until,
  type Wanted,
} from "./session.ts";

const KIB = 1024;

/** Lets requests wait until they are released, until `holds` says otherwise. */
function holdAll(device: MemoryDevice, verb: string): void {
  device.holds = (candidate) => candidate === verb;
}

test("what was written is read, at every odd offset and length", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    let seed = 0;
    for (const offset of [0, 1, 511, 4095, 4096, 2 * MIB + 13]) {
      for (const length of [1, 511, 4095, 4097, 100_001]) {
        const payload = pattern(length, ++seed);
        const written = await client.call({ type: NBD_CMD_WRITE, offset, length }, payload);
        assertEquals(written.errno, 0);
        assertEquals(device.bytes.slice(offset, offset + length), payload);
        assertEquals(await client.call({ type: NBD_CMD_READ, offset, length }), {
          errno: 0,
          data: payload,
        });
      }
    }
  }));

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

test("trim and write zeroes reach the device with their ranges, also ranges of 4 GiB", async () => {
  const sizeBytes = 64 * KIB;
  await serving(async ({ attach, device }) => {
    device.record = true;
    const client = await attach();
    device.bytes.fill(1);
    const zero = { type: NBD_CMD_WRITE_ZEROES, offset: 1, length: 511 };
    const flags = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FUA;
    assertEquals((await client.call({ ...zero, flags })).errno, 0);
    assertEquals(device.bytes.indexOf(0), 1);
    assertEquals(device.bytes.indexOf(1, 1), 512);
    const fast = { ...zero, flags: NBD_CMD_FLAG_FAST_ZERO };
    assertEquals((await client.call(fast)).errno, NBD_ENOTSUP);
    assertEquals((await client.call({ ...fast, offset: 4096, length: 8192 })).errno, 0);
    assertEquals((await client.call({ type: NBD_CMD_TRIM, length: sizeBytes })).errno, 0);
    assertEquals(device.bytes.indexOf(1), -1);
    assertEquals(device.calls, [
      "zero 1 511",
      "flush 0 0",
      "zero 4096 8192",
      `trim 0 ${sizeBytes}`,
    ]);
  }, { sizeBytes });
});

test("every request that can't be carried out gets the error that proto.md names, and the next is served", async () => {
  const size = 4 * MIB;
  const refusals: [string, Wanted, number][] = [
    ["read past the end", { type: NBD_CMD_READ, offset: size - 1, length: 2 }, NBD_EINVAL],
    ["read far past the end", { type: NBD_CMD_READ, offset: 2n ** 63n, length: 1 }, NBD_EINVAL],
    ["offset + length overflow", {
      type: NBD_CMD_READ,
      offset: 2n ** 64n - 1n,
      length: 2,
    }, NBD_EINVAL],
    ["write past the end", { type: NBD_CMD_WRITE, offset: size - 1, length: 2 }, NBD_ENOSPC],
    ["large write past the end", {
      type: NBD_CMD_WRITE,
      offset: size - 1,
      length: 3 * MIB,
    }, NBD_ENOSPC],
    ["zeroes past the end", {
      type: NBD_CMD_WRITE_ZEROES,
      offset: 1,
      length: size,
    }, NBD_ENOSPC],
    ["zeroes of 4 GiB", { type: NBD_CMD_WRITE_ZEROES, length: 0xffffffff }, NBD_ENOSPC],
    ["trim past the end", { type: NBD_CMD_TRIM, offset: size, length: 1 }, NBD_EINVAL],
    ["a read of 32 MiB + 1", { type: NBD_CMD_READ, length: 32 * MIB + 1 }, NBD_EINVAL],
    ["a write of 32 MiB + 1", { type: NBD_CMD_WRITE, length: 32 * MIB + 1 }, NBD_EINVAL],
    ["a flush with a length", { type: NBD_CMD_FLUSH, length: 1 }, NBD_EINVAL],
    ["a flush with an offset", { type: NBD_CMD_FLUSH, offset: 1 }, NBD_EINVAL],
    ["cache past the end", { type: NBD_CMD_CACHE, offset: size, length: 1 }, NBD_EINVAL],
    ["cache with a flag", { type: NBD_CMD_CACHE, flags: 2, length: 1 }, NBD_EINVAL],
    ["block status without a context", { type: NBD_CMD_BLOCK_STATUS, length: 1 }, NBD_EINVAL],
    ["an unknown command", { type: 77, length: 1 }, NBD_EINVAL],
    ["DF", { type: NBD_CMD_READ, flags: NBD_CMD_FLAG_DF, length: 1 }, NBD_EINVAL],
    ["REQ_ONE", { type: NBD_CMD_READ, flags: NBD_CMD_FLAG_REQ_ONE, length: 1 }, NBD_EINVAL],
    [
      "NO_HOLE on a write",
      { type: NBD_CMD_WRITE, flags: NBD_CMD_FLAG_NO_HOLE, length: 9 },
      NBD_EINVAL,
    ],
    ["an unknown flag", { type: NBD_CMD_TRIM, flags: 0x8000, length: 1 }, NBD_EINVAL],
  ];
  await serving(async ({ attach, device }) => {
    device.record = true;
    const client = await attach();
    for (const [what, wanted, errno] of refusals) {
      const payload = new Uint8Array(wanted.type === NBD_CMD_WRITE ? wanted.length! : 0).fill(0x25);
      assertEquals((await client.call(wanted, payload)).errno, errno, what);
      assertEquals((await client.call({ type: NBD_CMD_READ, length: 9 })).errno, 0, what);
    }
    assert(device.calls.every((call) => call === "read 0 9"), "the device saw a refused request");
  }, { sizeBytes: size });
});

test("a disk served read-only is read and not changed", async () => {
  const changes: Wanted[] = [
    { type: NBD_CMD_WRITE, length: 3 },
    { type: NBD_CMD_TRIM, length: 4096 },
    { type: NBD_CMD_WRITE_ZEROES, length: 4096 },
    { type: NBD_CMD_WRITE_ZEROES, flags: NBD_CMD_FLAG_FAST_ZERO, length: 4096 },
  ];
  await serving(async ({ attach, device }) => {
    device.bytes.set(pattern(4096));
    const client = await attach();
    for (const wanted of changes) {
      const payload = new Uint8Array(wanted.type === NBD_CMD_WRITE ? wanted.length! : 0);
      assertEquals((await client.call(wanted, payload)).errno, NBD_EPERM);
    }
    for (const flags of [0, NBD_CMD_FLAG_FUA]) {
      const read = await client.call({ type: NBD_CMD_READ, flags, length: 4096 });
      assertEquals(read, { errno: 0, data: pattern(4096) });
    }
    assertEquals((await client.call({ type: NBD_CMD_FLUSH })).errno, 0);
  }, { readOnly: true });
});

test("a prefetch is answered when the device has what was asked for", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    device.record = true;
    holdAll(device, "prefetch");
    await client.send(
      request({ type: NBD_CMD_CACHE, offset: 512, length: 4 * MIB - 512, cookie: 1n }),
      request({ type: NBD_CMD_READ, length: 1, cookie: 2n }),
    );
    assertEquals((await client.reply(1)).cookie, 2n);
    device.release();
    assertEquals((await client.reply()).cookie, 1n);
    assertEquals(device.calls, [`prefetch 512 ${4 * MIB - 512}`, "read 0 1"]);
  }));

test("requests of length 0 succeed and do not reach the device", () =>
  serving(async ({ attach, device }) => {
    device.record = true;
    const client = await attach();
    for (const type of [NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES]) {
      assertEquals((await client.call({ type, offset: 4 * MIB })).errno, 0);
    }
    assertEquals(device.calls, []);
  }));

test("a slow read does not hold up the reads behind it", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    device.bytes.set(pattern(8192));
    device.holds = (verb, offset) => verb === "read" && offset === 0;
    await client.send(
      request({ type: NBD_CMD_READ, offset: 0, length: 4096, cookie: 1n }),
      request({ type: NBD_CMD_READ, offset: 4096, length: 4096, cookie: 2n }),
      request({ type: NBD_CMD_WRITE, offset: 9000, length: 3, cookie: 3n }),
      pattern(3),
    );
    const fast = await client.reply(4096);
    assertEquals([fast.cookie, fast.data], [2n, pattern(8192).slice(4096)]);
    assertEquals((await client.reply()).cookie, 3n);
    device.release();
    const slow = await client.reply(4096);
    assertEquals([slow.cookie, slow.errno, slow.data], [1n, 0, pattern(4096)]);
  }));

test("a slow read larger than what is joined arrives whole among others", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    device.bytes.set(pattern(4 * MIB));
    holdAll(device, "read");
    const sizes = [MIB, 100, 70_000, 600_000, 4096, 300_000];
    for (const [i, length] of sizes.entries()) {
      await client.send(request({ type: NBD_CMD_READ, offset: i, length, cookie: BigInt(i) }));
    }
    await device.untilHeld(sizes.length);
    device.releaseAll();
    const replies = await client.replies(new Map(sizes.map((length, i) => [BigInt(i), length])));
    for (const [i, length] of sizes.entries()) {
      assert(equal(replies.get(BigInt(i))!, device.bytes.subarray(i, i + length)));
    }
  }));

test("a flush is answered only when the device has flushed, and delays nobody", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    holdAll(device, "flush");
    await client.send(
      request({ type: NBD_CMD_FLUSH, cookie: 1n }),
      request({ type: NBD_CMD_READ, length: 1, cookie: 2n }),
    );
    assertEquals((await client.reply(1)).cookie, 2n);
    assertEquals(device.heldCount, 1);
    device.release();
    assertEquals((await client.reply()).cookie, 1n);
  }));

test("FUA is accepted on every command, and whatever changes the disk is flushed before the answer", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    device.record = true;
    holdAll(device, "flush");
    const flags = NBD_CMD_FLAG_FUA;
    assertEquals((await client.call({ type: NBD_CMD_READ, flags, length: 1 })).errno, 0);
    assertEquals(device.calls.splice(0), ["read 0 1"]);
    for (const type of [NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES]) {
      const payload = pattern(type === NBD_CMD_WRITE ? 4096 : 0);
      await client.send(
        request({ type, flags, offset: 4096, length: 4096, cookie: 5n }),
        payload,
        request({ type: NBD_CMD_READ, length: 1, cookie: 6n }),
      );
      assertEquals((await client.reply(1)).cookie, 6n);
      await device.untilHeld(1);
      device.release();
      assertEquals((await client.reply()).cookie, 5n);
    }
    const [write, flush] = device.calls;
    assertEquals([write, flush], ["write 4096 4096", "flush 0 0"]);
    holdAll(device, "none");
    assertEquals((await client.call({ type: NBD_CMD_FLUSH, flags })).errno, 0);
  }));

test("a slow write with FUA is flushed after it is done", () =>
  serving(async ({ attach, device }) => {
    const client = await attach();
    device.record = true;
    holdAll(device, "write");
    const flags = NBD_CMD_FLAG_FUA;
    await client.send(request({ type: NBD_CMD_WRITE, flags, length: 100 }), pattern(100));
    await device.untilHeld(1);
    assertEquals(device.calls, ["write 0 100"]);
    device.release();
    assertEquals((await client.reply()).errno, 0);
    assertEquals(device.calls, ["write 0 100", "flush 0 0"]);
    assertEquals(device.bytes.slice(0, 100), pattern(100));
  }));

test("whatever the device throws is EIO for that request and one log line, at once or later", async () => {
  const lines: string[] = [];
  const logger: Logger = {
    error: (message) => void lines.push(message),
    warn() {},
    info() {},
    debug() {},
  };
  await serving(async ({ attach, device }) => {
    const client = await attach();
    const errors = [
      new DamageError("CRC"),
      new TimeoutError("late"),
      new UnavailableError("away"),
      new FencedError("fenced"),
      new TypeError("a fault of ours"),
    ];
    for (const error of errors) {
      for (const type of [NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES]) {
        const payload = pattern(type === NBD_CMD_WRITE ? 4096 : 0);
        device.fails = () => error;
        assertEquals((await client.call({ type, length: 4096 }, payload)).errno, NBD_EIO);
        assertStringIncludes(lines.pop()!, error.message);
        device.fails = () => undefined;
        device.holds = () => true;
        await client.send(request({ type, length: 4096 }), payload);
        await device.untilHeld(1);
        device.holds = () => false;
        device.failHeld(error);
        assertEquals((await client.reply()).errno, NBD_EIO);
        assertStringIncludes(lines.pop()!, error.message);
        assertEquals(lines, []);
      }
    }
    assertEquals((await client.call({ type: NBD_CMD_READ, length: 4096 })).errno, 0);
  }, { logger });
});

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

test("two connections see each other's writes at once", () =>
  serving(async ({ attach }) => {
    const [one, two] = [await attach(), await attach()];
    for (let i = 0; i < 20; i++) {
      await one.call({ type: NBD_CMD_WRITE, offset: i, length: 5000 }, pattern(5000, i));
      const { data } = await two.call({ type: NBD_CMD_READ, offset: i, length: 5000 });
      assertEquals(data, pattern(5000, i));
    }
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
