import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { DamageError, FencedError, TimeoutError, UnavailableError } from "../../../src/errors.ts";
import type { Logger } from "../../../src/logger.ts";
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
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
import { equal, holdAll, MIB, pattern, request, serving, test, type Wanted } from "./session.ts";

const KIB = 1024;

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

test("two connections see each other's writes at once", () =>
  serving(async ({ attach }) => {
    const [one, two] = [await attach(), await attach()];
    for (let i = 0; i < 20; i++) {
      await one.call({ type: NBD_CMD_WRITE, offset: i, length: 5000 }, pattern(5000, i));
      const { data } = await two.call({ type: NBD_CMD_READ, offset: i, length: 5000 });
      assertEquals(data, pattern(5000, i));
    }
  }));
