/** Structured replies: chunks, holes, error offsets, block status, as proto.md's "Structured reply types" has them. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { DamageError } from "../../../src/errors.ts";
import { READ_CHUNK_BYTES_MAX } from "../../../src/limits.ts";
import * as nbd from "../../../src/nbd/constants.ts";
import {
  type Chunk,
  type Client,
  equal,
  MIB,
  pattern,
  request,
  serving,
  test,
  until,
  viewOf,
  type Wanted,
} from "./session.ts";

const BLOCK = 4096;

/** What the chunks of a read say, put together. */
interface ReadResult {
  data: Uint8Array;
  /** Bytes that no chunk has told. */
  missing: number;
  holes: [offset: number, length: number][];
  errors: { errno: number; text: string; offset?: number }[];
}

/** Takes the chunks of a read apart, and checks every rule that proto.md has for them. */
function readResult(chunks: Chunk[], offset: number, length: number): ReadResult {
  const data = new Uint8Array(length);
  const told = new Uint8Array(length);
  const result: ReadResult = { data, missing: 0, holes: [], errors: [] };
  const tell = (at: number, bytes: number) => {
    assert(bytes > 0 && at >= offset && at + bytes <= offset + length, `${at} ${bytes}`);
    const range = told.subarray(at - offset, at - offset + bytes);
    assert(range.every((already) => already === 0), "two chunks overlap");
    range.fill(1);
  };
  chunks.forEach(({ isLast, type, payload }, index) => {
    assertEquals(isLast, index === chunks.length - 1);
    const view = viewOf(payload);
    const number = (at: number) => Number(view.getBigUint64(at));
    if (type === nbd.NBD_REPLY_TYPE_OFFSET_DATA) {
      tell(number(0), payload.length - 8);
      data.set(payload.subarray(8), number(0) - offset);
    } else if (type === nbd.NBD_REPLY_TYPE_OFFSET_HOLE) {
      assertEquals(payload.length, 12);
      tell(number(0), view.getUint32(8));
      result.holes.push([number(0), view.getUint32(8)]);
    } else {
      const textBytes = view.getUint16(4);
      const text = new TextDecoder().decode(payload.subarray(6, 6 + textBytes));
      const hasOffset = type === nbd.NBD_REPLY_TYPE_ERROR_OFFSET;
      assert(hasOffset || type === nbd.NBD_REPLY_TYPE_ERROR, `type ${type}`);
      assertEquals(payload.length, 6 + textBytes + (hasOffset ? 8 : 0));
      const at = hasOffset ? number(6 + textBytes) : undefined;
      assert(at === undefined || (at >= offset && at < offset + length));
      result.errors.push({ errno: view.getUint32(0), text, offset: at });
    }
  });
  result.missing = told.reduce((sum, one) => sum + (1 - one), 0);
  if (result.errors.length === 0) assertEquals(result.missing, 0);
  return result;
}

async function read(client: Client, wanted: Omit<Wanted, "type">): Promise<ReadResult> {
  const chunks = await client.chunks({ type: nbd.NBD_CMD_READ, ...wanted });
  return readResult(chunks, Number(wanted.offset ?? 0), wanted.length!);
}

test("what was written is read in structured replies, at once or later, at every odd offset and length", () =>
  serving(async ({ attachStructured, device }) => {
    const client = await attachStructured();
    device.bytes.set(pattern(16 * MIB));
    for (const isSlow of [false, true]) {
      device.holds = (verb) => isSlow && verb === "read";
      const offsets = [0, 1, 511, 4095, 4096, READ_CHUNK_BYTES_MAX - 7];
      for (const offset of offsets) {
        for (const length of [1, 511, 4095, 4097, 100_001, 600_000, 5 * MIB + 1]) {
          const answered = read(client, { offset, length });
          if (isSlow) {
            const pieces = Math.floor((offset + length - 1) / READ_CHUNK_BYTES_MAX) -
              Math.floor(offset / READ_CHUNK_BYTES_MAX) + 1;
            await device.untilHeld(pieces);
            device.releaseAll();
          }
          const { data } = await answered;
          assert(equal(data, device.bytes.subarray(offset, offset + length)));
        }
      }
    }
  }, { sizeBytes: 16 * MIB }));

test("holes in a read that is not answered at once travel as holes", () =>
  serving(async ({ attachStructured, device }) => {
    const client = await attachStructured();
    const stored: [number, number][] = [[0, 1], [5, 8], [20, 21], [600, 601]];
    for (const [first, end] of stored) {
      device.bytes.set(pattern((end - first) * BLOCK, first), first * BLOCK);
    }
    for (const [offset, length] of [[0, 4 * MIB], [BLOCK + 5, 4 * MIB - BLOCK - 10]] as const) {
      const { data, holes } = await read(client, { offset, length });
      assert(equal(data, device.bytes.subarray(offset, offset + length)));
      const inHoles = holes.reduce((sum, [, bytes]) => sum + bytes, 0);
      const inData = stored.reduce((sum, [first, end]) => {
        const from = Math.max(first * BLOCK, offset);
        return sum + Math.max(0, Math.min(end * BLOCK, offset + length) - from);
      }, 0);
      assertEquals(inHoles, length - inData);
    }
  }));

test("with DF a read comes in one chunk, however long, holes and all", () =>
  serving(async ({ attachStructured, device }) => {
    const client = await attachStructured();
    device.bytes.set(pattern(BLOCK), 3 * MIB);
    for (const isSlow of [false, true]) {
      device.holds = (verb) => isSlow && verb === "read";
      for (const length of [1, 65536, 6 * MIB]) {
        const wanted = { type: nbd.NBD_CMD_READ, flags: nbd.NBD_CMD_FLAG_DF, offset: 5, length };
        const answered = client.chunks(wanted);
        if (isSlow) {
          await device.untilHeld(1);
          device.releaseAll();
        }
        const chunks = await answered;
        assertEquals(chunks.map(({ type }) => type), [nbd.NBD_REPLY_TYPE_OFFSET_DATA]);
        const { data } = readResult(chunks, 5, length);
        assert(equal(data, device.bytes.subarray(5, 5 + length)));
      }
    }
  }, { sizeBytes: 8 * MIB }));

test("of a read that fails in one place the rest arrives, with the offset of what can't be read", () =>
  serving(async ({ attachStructured, device }) => {
    const client = await attachStructured();
    device.bytes.set(pattern(8 * MIB));
    const unit = device.preferredBytes;
    const bad = 40 * unit; // in the second chunk
    device.fails = (verb, offset, length) =>
      verb === "read" && offset < bad + unit && offset + length > bad
        ? new DamageError("log/0000000007 at offset 99: CRC-32")
        : undefined;
    for (const [offset, length] of [[0, 8 * MIB], [bad + 5, 600_000], [bad - 70_000, 600_000]]) {
      const { data, missing, errors } = await read(client, { offset, length });
      const from = Math.max(bad, offset);
      assertEquals(errors, [{
        errno: nbd.NBD_EIO,
        text: "log/0000000007 at offset 99: CRC-32",
        offset: from,
      }]);
      const badBytes = Math.min(bad + unit, offset + length) - from;
      assertEquals(missing, badBytes);
      assert(equal(data.subarray(0, from - offset), device.bytes.subarray(offset, from)));
      const behind = device.bytes.subarray(from + badBytes, offset + length);
      assert(equal(data.subarray(from + badBytes - offset), behind));
    }
    for (const flags of [0, nbd.NBD_CMD_FLAG_DF]) {
      const { errors } = await read(client, { offset: bad, length: 512, flags });
      assertEquals(errors.map(({ errno }) => errno), [nbd.NBD_EIO]);
    }
    assertEquals((await read(client, { length: 512 })).errors, []);
  }, { sizeBytes: 8 * MIB }));

test("a refusal says why, in words, and a read of nothing is answered", () =>
  serving(async ({ attachStructured }) => {
    const client = await attachStructured();
    for (const type of [nbd.NBD_CMD_READ, nbd.NBD_CMD_TRIM, nbd.NBD_CMD_BLOCK_STATUS]) {
      const chunks = await client.chunks({ type, offset: 4 * MIB - 1, length: 2 });
      const { errors: [error] } = readResult(chunks, 4 * MIB - 1, 2);
      assertEquals([error!.errno, error!.offset], [nbd.NBD_EINVAL, undefined]);
      assertStringIncludes(error!.text, "behind the end of the disk");
    }
    const [chunk] = await client.chunks({ type: nbd.NBD_CMD_READ, offset: 5 });
    assertEquals([chunk!.type, chunk!.payload.length], [nbd.NBD_REPLY_TYPE_NONE, 0]);
  }));

test("chunks of several reads mix, and each read is whole", () =>
  serving(async ({ attachStructured, device }) => {
    const client = await attachStructured();
    device.bytes.set(pattern(16 * MIB));
    device.holds = (verb) => verb === "read";
    const reads = [[0, 5 * MIB], [7, 3 * MIB], [9 * MIB, 7 * MIB], [100, 200]] as const;
    for (const [at, [offset, length]] of reads.entries()) {
      await client.send(
        request({ type: nbd.NBD_CMD_READ, cookie: BigInt(at), offset, length }),
      );
    }
    await device.untilHeld(3 + 2 + 4 + 1);
    device.releaseAll();
    const chunks: Chunk[][] = reads.map(() => []);
    while (chunks.some((list) => !list.at(-1)?.isLast)) {
      const chunk = await client.chunk();
      chunks[Number(chunk.cookie)]!.push(chunk);
    }
    for (const [at, [offset, length]] of reads.entries()) {
      const { data } = readResult(chunks[at]!, offset, length);
      assert(equal(data, device.bytes.subarray(offset, offset + length)));
    }
  }, { sizeBytes: 16 * MIB }));

interface Extent {
  length: number;
  flags: number;
}

async function blockStatus(client: Client, wanted: Omit<Wanted, "type">): Promise<Extent[]> {
  const chunks = await client.chunks({ type: nbd.NBD_CMD_BLOCK_STATUS, ...wanted });
  assertEquals(chunks.map(({ type }) => type), [nbd.NBD_REPLY_TYPE_BLOCK_STATUS]);
  const view = viewOf(chunks[0]!.payload);
  assertEquals(view.getUint32(0), nbd.BASE_ALLOCATION_ID);
  const extents: Extent[] = [];
  for (let at = 4; at < view.byteLength; at += 8) {
    extents.push({ length: view.getUint32(at), flags: view.getUint32(at + 4) });
  }
  return extents;
}

test("block status tells holes from data, in as many extents as there are or in one", () =>
  serving(async ({ attachStructured, device }) => {
    const client = await attachStructured();
    device.bytes.fill(1, 0, BLOCK).fill(1, 3 * BLOCK, 5 * BLOCK);
    const [data, hole] = [0, nbd.NBD_STATE_HOLE | nbd.NBD_STATE_ZERO];
    assertEquals(await blockStatus(client, { length: 4 * MIB }), [
      { length: BLOCK, flags: data },
      { length: 2 * BLOCK, flags: hole },
      { length: 2 * BLOCK, flags: data },
      { length: 4 * MIB - 5 * BLOCK, flags: hole },
    ]);
    assertEquals(await blockStatus(client, { offset: 511, length: BLOCK }), [
      { length: BLOCK - 511, flags: data },
      { length: 511, flags: hole },
    ]);
    const one = { flags: nbd.NBD_CMD_FLAG_REQ_ONE, offset: BLOCK };
    assertEquals(await blockStatus(client, { ...one, length: MIB }), [
      { length: 2 * BLOCK, flags: hole },
    ]);
    assertEquals(await blockStatus(client, { ...one, length: 5 }), [{ length: 5, flags: hole }]);
  }));

test("block status of a disk in tatters comes in replies of bounded size that add up to all of it", () =>
  serving(async ({ attachStructured, device }) => {
    const client = await attachStructured();
    const sizeBytes = device.sizeBytes;
    for (let at = 0; at < sizeBytes; at += 2 * BLOCK) device.bytes[at] = 1;
    let replies = 0;
    let count = 0;
    for (let at = 0; at < sizeBytes; replies++) {
      const extents = await blockStatus(client, { offset: at, length: sizeBytes - at });
      count += extents.length;
      for (const { length } of extents) at += length;
    }
    assertEquals([replies, count], [2, sizeBytes / BLOCK]);
  }, { sizeBytes: 64 * MIB }));

test("a client that takes no replies to its reads in pieces costs bounded memory, and leaves none behind", () =>
  serving(async ({ attachStructured, device, server }) => {
    const client = await attachStructured();
    device.bytes.set(pattern(8 * MIB));
    const asked = 200;
    const requests = Array.from(
      { length: asked },
      (_, at) => request({ type: nbd.NBD_CMD_READ, cookie: BigInt(at), length: 8 * MIB }),
    );
    await client.send(...requests);
    await until(() => server.inFlightBytes >= 32 * MIB, "as much in flight as may be");
    assert(server.inFlightBytes <= 48 * MIB, `${server.inFlightBytes} bytes in flight`);
    client.close();
    await until(() => server.connections === 0, "no connection left");
    assertEquals([server.inFlightBytes, server.inFlightRequests], [0, 0]);
  }, { sizeBytes: 8 * MIB }));
