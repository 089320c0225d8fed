import { assert, assertEquals } from "@std/assert";
import { PLACED_BYTES_MIN, PLACED_TAIL_BYTES } from "../../../src/limits.ts";
import { NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE } from "../../../src/nbd/constants.ts";
import { InFlight, Share } from "../../../src/nbd/in_flight.ts";
import { RequestReader } from "../../../src/nbd/request_reader.ts";
import { ReceiveBuffer, type Socket } from "../../../src/nbd/socket.ts";
import { MemoryDevice } from "../../support/memory_device.ts";
import { equal, join, pattern, request, type Wanted } from "./session.ts";

/** Has a stream arrive in pieces that end where it was cut. */
class CutSocket implements Socket {
  at = 0;
  readonly #cuts: number[];
  /** How many bytes were asked for, each time. */
  readonly asked: number[] = [];
  /** Where those went that were waited for. */
  readonly waited: ArrayBufferLike[] = [];

  constructor(readonly bytes: Uint8Array, ...cuts: number[]) {
    this.#cuts = [...cuts, bytes.length];
  }

  receiveNow(parts: readonly Uint8Array[]): number {
    const end = this.#cuts.find((cut) => cut > this.at) ?? this.at;
    this.asked.push(parts.reduce((sum, { length }) => sum + length, 0));
    let count = 0;
    for (const part of parts) {
      const piece = this.bytes.subarray(this.at, Math.min(end, this.at + part.length));
      part.set(piece);
      this.at += piece.length;
      count += piece.length;
    }
    return count;
  }

  read(target: Uint8Array): Promise<number | null> {
    this.waited.push(target.buffer);
    return Promise.resolve(this.receiveNow([target]) || null);
  }

  write = (bytes: Uint8Array) => Promise.resolve(bytes.length);
  closeWrite = () => Promise.resolve();
  close = () => {};
}

const LARGE = PLACED_BYTES_MIN;
const WANTED: Wanted[] = [
  { type: NBD_CMD_WRITE, offset: 0, length: 100 },
  { type: NBD_CMD_WRITE, offset: LARGE, length: LARGE },
  { type: NBD_CMD_WRITE, offset: 3 * LARGE, length: LARGE + 3 },
  { type: NBD_CMD_READ, offset: 5, length: 6 },
  { type: NBD_CMD_WRITE, offset: 2 * LARGE, length: LARGE - 1 },
  { type: NBD_CMD_WRITE, offset: 8 * LARGE, length: 4 * LARGE },
  { type: NBD_CMD_FLUSH },
];
const PAYLOADS = WANTED.map(({ type, length }, index) =>
  pattern(type === NBD_CMD_WRITE ? length! : 0, index)
);
const FRAMES = WANTED.map((wanted, index) => join(request(wanted), PAYLOADS[index]));
const STREAM = join(...FRAMES);

/** Around every place where something ends, and here and there. */
function* cuts(): Generator<number> {
  for (let at = 1; at < STREAM.length; at += 9973) yield at;
  let begin = 0;
  for (const [index, frame] of FRAMES.entries()) {
    const half = Math.floor(PAYLOADS[index].length / 2); // where a place of the device has two parts
    const edges = [0, 28, 28 + half, frame.length - PLACED_TAIL_BYTES, PLACED_TAIL_BYTES];
    for (const edge of edges) {
      for (let at = begin + edge - 30; at <= begin + edge + 30; at++) {
        if (at > 0 && at < STREAM.length) yield at;
      }
    }
    begin += frame.length;
  }
}

function readerOf(conn: Socket, device: MemoryDevice): RequestReader {
  return new RequestReader(conn, new ReceiveBuffer(), device, new InFlight(), new Share());
}

/** Reads the stream to its end, once by what waits, and then by what does not; and writes what is to be written. */
async function readAll(reader: RequestReader, device: MemoryDevice): Promise<void> {
  const found: Required<Pick<Wanted, "type" | "offset" | "length">>[] = [];
  while (!reader.hasEnded) {
    do {
      while (reader.receiveHeader()) {
        const payload = reader.receivePayload();
        if (payload === undefined) break;
        const { type, offset, length } = reader.request;
        found.push({ type, offset, length });
        if (!(payload instanceof Uint8Array)) payload.write();
        else if (payload.length > 0) device.write(offset, payload);
        reader.finish();
      }
    } while (reader.readNow());
    await reader.read();
  }
  assertEquals(found, WANTED.map((wanted) => ({ offset: 0, length: 0, ...wanted })));
  for (const [index, { offset }] of WANTED.entries()) {
    const at = Number(offset ?? 0);
    const there = device.bytes.subarray(at, at + PAYLOADS[index].length);
    assert(equal(there, PAYLOADS[index]), `payload ${index}`);
  }
  assertEquals(device.places.size, 0);
}

Deno.test("requests and payloads arrive whole wherever the stream is cut, in places of the device or not", async () => {
  const device = new MemoryDevice(12 * LARGE);
  for (const cut of cuts()) {
    device.offersPlaces = !device.offersPlaces;
    device.bytes.fill(0);
    await readAll(readerOf(new CutSocket(STREAM, cut, cut + 7), device), device);
  }
});

Deno.test("a connection that ends at any byte gives its place up, where nothing was put that had to be waited for", async () => {
  const device = new MemoryDevice(12 * LARGE);
  device.offersPlaces = true;
  let withPlace = 0;
  for (const cut of cuts()) {
    const conn = new CutSocket(STREAM.subarray(0, cut));
    const reader = readerOf(conn, device);
    while (!reader.hasEnded) {
      await reader.read();
      while (reader.receiveHeader() && reader.receivePayload() !== undefined) reader.finish();
    }
    for (const { parts } of device.places) {
      withPlace++;
      for (const { buffer } of parts) assert(!conn.waited.includes(buffer));
    }
    reader.close();
    assertEquals(device.places.size, 0);
  }
  assert(withPlace > 100, `${withPlace} were cut in a payload that has a place`);
});

Deno.test("large payloads that follow each other are not read ahead into the buffer, small ones are", () => {
  const device = new MemoryDevice(12 * LARGE);
  device.offersPlaces = true;
  const large = FRAMES[1];
  const conn = new CutSocket(join(large, large, FRAMES[0], FRAMES[0]), 28);
  const reader = readerOf(conn, device);
  while (reader.readNow()) {
    while (reader.receiveHeader() && reader.receivePayload() !== undefined) reader.finish();
  }
  const [first, second, third, rest] = conn.asked;
  assertEquals(second, LARGE + PLACED_TAIL_BYTES, "a payload, and the next header");
  assertEquals(third, LARGE - (PLACED_TAIL_BYTES - 28) + PLACED_TAIL_BYTES);
  assertEquals(rest, first, "the whole buffer");
});
