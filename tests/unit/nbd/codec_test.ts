import { assertEquals, assertThrows } from "@std/assert";
import {
  encodeBlockStatusChunk,
  encodeDataChunkHead,
  encodeErrorChunk,
  encodeHoleChunk,
  encodeNoneChunk,
  errorReply,
} from "../../../src/nbd/chunk_codec.ts";
import {
  encodeExport,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeOptionReply,
  encodeServer,
  encodeSimpleReply,
  encodeText,
  parseExportRequest,
  parseMetaContextRequest,
  parseOptionHeader,
  parseRequest,
  ProtocolError,
  Request,
} from "../../../src/nbd/codec.ts";
import { ReceiveBuffer } from "../../../src/nbd/socket.ts";
import {
  exportRequest,
  join,
  metaContexts,
  optionBytes,
  request,
  u16,
  u32,
  viewOf,
} from "./session.ts";

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A connection whose peer sends `bytes`, `step` of them a read. */
function trickle(bytes: Uint8Array, step: (at: number) => number): Deno.Conn {
  let at = 0;
  const read = (target: Uint8Array) => {
    const count = Math.min(step(at), target.length, bytes.length - at);
    target.set(bytes.subarray(at, at + count));
    at += count;
    return Promise.resolve(count === 0 ? null : count);
  };
  return { read } as unknown as Deno.Conn;
}

Deno.test("what the server sends is byte for byte what proto.md says", () => {
  assertEquals(hex(encodeGreeting()), "4e42444d4147494349484156454f50540003");
  assertEquals(
    hex(encodeOptionReply(7, 0x80000006, Uint8Array.of(1, 2))),
    "0003e889045565a900000007" + "80000006" + "00000002" + "0102",
  );
  assertEquals(hex(encodeServer("ab", "c")), "00000002" + "6162" + "63");
  assertEquals(hex(encodeInfoExport(2 ** 40 + 5, 0x96d)), "0000" + "0000010000000005" + "096d");
  assertEquals(hex(encodeInfoBlockSize(1, 4096, 1 << 25)), "0003000000010000100002000000");
  assertEquals(encodeExport(4096, 1, true).length, 10);
  assertEquals(encodeExport(4096, 1, false).length, 134);
  const reply = new Uint8Array(18);
  encodeSimpleReply(viewOf(reply), 1, 22, { cookieHigh: -2, cookieLow: 0x01020304 });
  assertEquals(hex(reply), "00" + "67446698" + "00000016" + "fffffffe01020304" + "00");
});

Deno.test("a message longer than a client accepts is cut, between two characters", () => {
  assertEquals(encodeText("x".repeat(5000)).length, 1024);
  const cut = encodeText("x" + "€".repeat(1000));
  assertEquals(new TextDecoder("utf-8", { fatal: true }).decode(cut), "x" + "€".repeat(341));
});

Deno.test("the chunks of a structured reply are byte for byte what proto.md says", () => {
  const cookie = { cookieHigh: -2, cookieLow: 0x01020304 };
  const header = (flags: string, type: string, length: string) =>
    `668e33ef${flags}${type}fffffffe01020304${length}`;
  const data = new Uint8Array(1 + 28);
  encodeDataChunkHead(viewOf(data), 1, true, cookie, 2 ** 40 + 5, 0x1000);
  assertEquals(hex(data), `00${header("0001", "0001", "00001008")}0000010000000005`);
  assertEquals(
    hex(encodeHoleChunk(cookie, false, 2 ** 40 + 5, 0xfffff000)),
    `${header("0000", "0002", "0000000c")}0000010000000005fffff000`,
  );
  assertEquals(hex(encodeNoneChunk(cookie)), header("0001", "0000", "00000000"));
  const extents = [{ lengthBytes: 0x1000, isHole: false }, { lengthBytes: 7, isHole: true }];
  assertEquals(
    hex(encodeBlockStatusChunk(cookie, 9, extents)),
    `${header("0001", "0005", "00000014")}00000009${"0000100000000000"}${"0000000700000003"}`,
  );
  const error = { errno: 28, text: "ab" };
  assertEquals(
    hex(errorReply(true, cookie, error)),
    `${header("0001", "8001", "00000008")}0000001c00026162`,
  );
  assertEquals(
    hex(encodeErrorChunk(cookie, false, error, 2 ** 40 + 5)),
    `${header("0000", "8002", "00000010")}0000001c000261620000010000000005`,
  );
  assertEquals(hex(errorReply(false, cookie, error)), "674466980000001cfffffffe01020304");
});

Deno.test("a request for metadata contexts is understood whole and at no other length", () => {
  const bytes = metaContexts("disk", "base:", "x-é:");
  assertEquals(parseMetaContextRequest(bytes), { exportName: "disk", queries: ["base:", "x-é:"] });
  for (let length = 0; length < bytes.length; length++) {
    assertEquals(parseMetaContextRequest(bytes.subarray(0, length)), undefined);
  }
  assertEquals(parseMetaContextRequest(join(bytes, new Uint8Array(1))), undefined);
  const many = join(u32(0), u32(0xffffffff), u32(0));
  assertEquals(parseMetaContextRequest(many), undefined);
});

Deno.test("a request is the same wherever the stream was cut", () => {
  const wanted = { type: 6, flags: 0x13, cookie: 0xfedcba9876543210n, length: 0xfffff000 };
  const bytes = join(new Uint8Array(3), request({ ...wanted, offset: 2 ** 45 + 12345 }));
  const view = viewOf(bytes);
  const parsed = new Request();
  for (let end = 3; end < bytes.length; end++) {
    assertEquals(parseRequest(view, 3, end, parsed), false, `with ${end - 3} bytes`);
  }
  assertEquals(parseRequest(view, 3, bytes.length, parsed), true);
  assertEquals(parsed.type, 6);
  assertEquals(parsed.flags, 0x13);
  assertEquals(parsed.offset, 2 ** 45 + 12345);
  assertEquals(parsed.length, 0xfffff000);
  const reply = new Uint8Array(16);
  encodeSimpleReply(viewOf(reply), 0, 0, parsed);
  assertEquals(viewOf(reply).getBigUint64(8), wanted.cookie);
});

Deno.test("an offset beyond 2^53 stays beyond every disk", () => {
  const parsed = new Request();
  const bytes = request({ type: 0, offset: 0xffff_ffff_ffff_ffffn, length: 1 });
  parseRequest(viewOf(bytes), 0, bytes.length, parsed);
  assertEquals(parsed.offset + parsed.length > 2 ** 50, true);
});

Deno.test("what is no request is found out at its fourth byte", () => {
  const bytes = request({ type: 0, magic: 0x25609514 });
  const parsed = new Request();
  assertEquals(parseRequest(viewOf(bytes), 0, 3, parsed), false);
  assertThrows(() => parseRequest(viewOf(bytes), 0, 4, parsed), ProtocolError);
});

Deno.test("an option header is the same wherever the stream was cut", () => {
  const bytes = optionBytes(7, Uint8Array.of(9, 9));
  for (let end = 0; end < 16; end++) {
    assertEquals(parseOptionHeader(bytes.subarray(0, end)), undefined);
  }
  assertEquals(parseOptionHeader(bytes), { option: 7, length: 2 });
  bytes[3]! ^= 1;
  assertThrows(() => parseOptionHeader(bytes), ProtocolError);
});

Deno.test("an export request is understood only when its lengths add up", () => {
  const bytes = exportRequest("größe", [3, 1]);
  assertEquals(parseExportRequest(bytes), { name: "größe", infos: [3, 1] });
  for (let end = 0; end < bytes.length; end++) {
    assertEquals(parseExportRequest(bytes.subarray(0, end)), undefined, `cut at ${end}`);
  }
  assertEquals(parseExportRequest(join(bytes, Uint8Array.of(0))), undefined);
  assertEquals(parseExportRequest(join(u32(0xffffffff), u16(0))), undefined);
  assertEquals(parseExportRequest(exportRequest("x".repeat(4097))), undefined);
});

Deno.test("a stream cut at every byte, or into single bytes, is joined again", async () => {
  const stream = join(optionBytes(7, exportRequest("disk", [3])), request({ type: 0, length: 8 }));
  const steps = [
    () => 1,
    ...Array.from(stream, (_, cut) => (at: number) => at < cut ? cut - at : 99),
  ];
  for (const step of steps) {
    const conn = trickle(stream, step);
    const received = new ReceiveBuffer();
    const parts: Uint8Array[] = [];
    for (const length of [16, 12, 28]) {
      assertEquals(await received.require(conn, length), true);
      parts.push(received.unread().slice(0, length));
      received.start += length;
    }
    assertEquals(join(...parts), stream);
    assertEquals(await received.require(conn, 1), false);
  }
});

Deno.test("a message that would pass the end of the receive buffer is moved, not lost", async () => {
  const received = new ReceiveBuffer();
  const size = received.bytes.length;
  const stream = Uint8Array.from({ length: 3 * size }, (_, i) => i % 251);
  const conn = trickle(stream, () => 70_001);
  const message = Math.floor(size * 0.7);
  for (let at = 0; at + message <= stream.length; at += message) {
    assertEquals(await received.require(conn, message), true);
    assertEquals(received.bytes[received.start], at % 251);
    assertEquals(received.bytes[received.start + message - 1], (at + message - 1) % 251);
    received.start += message;
  }
});

Deno.test("dropped bytes are dropped to the last one, however they come", async () => {
  const stream = Uint8Array.from({ length: 1000 }, (_, i) => i & 0xff);
  for (const step of [1, 7, 400, 1000]) {
    const received = new ReceiveBuffer();
    const conn = trickle(stream, () => step);
    assertEquals(await received.skip(conn, 600), true);
    assertEquals(await received.require(conn, 1), true);
    assertEquals(received.unread()[0], 600 & 0xff);
    assertEquals(await received.skip(conn, 401), false);
  }
});
