import { assertEquals, assertThrows } from "@std/assert";
import {
  encodeRequest,
  parseAnswers,
  parseAttributes,
  text,
  u32,
  u64,
} from "../../../src/linux/netlink.ts";

/** Hexadecimal, blanks anywhere. */
function bytes(hex: string): Uint8Array {
  return Uint8Array.fromHex(hex.replaceAll(/\s/g, ""));
}

const request = { family: 0x1b, command: 3, version: 1, sequence: 7 };

Deno.test("a request has its length, family, flags REQUEST and ACK, sequence and command", () => {
  assertEquals(
    encodeRequest({ ...request, attributes: [] }),
    bytes("14000000 1b00 0500 07000000 00000000 03 01 0000"),
  );
});

Deno.test("attributes are padded to four bytes, which their length does not count", () => {
  const attributes = [[1, u32(5)], [10, text("ab")], [2, u64(0x1_0000_0000)]] as const;
  const body = encodeRequest({ ...request, attributes }).subarray(20);
  assertEquals(
    body,
    bytes("0800 0100 05000000" + "0700 0a00 616200 00" + "0c00 0200 0000000001000000"),
  );
});

Deno.test("nested attributes say that they are", () => {
  const attributes = [[7, [[1, [[1, u32(9)]]]]]] as const;
  const body = encodeRequest({ ...request, attributes }).subarray(20);
  assertEquals(body, bytes("1000 0780 0c00 0180 0800 0100 09000000"));
  assertEquals([...parseAttributes(body).keys()], [7]);
});

const DATA = bytes("1c000000 1b00 0000 07000000 00000000 01010000 0500 0180 2a000000");
const DONE = bytes("24000000 0200 0000 07000000 00000000 00000000" + "00".repeat(16));
const REFUSED = bytes("24000000 0200 0000 07000000 00000000 f0ffffff" + "00".repeat(16));

function joined(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(parts.flatMap((part) => [...part]));
}

Deno.test("a datagram may hold data and what became of the request", () => {
  const data = { sequence: 7, attributes: new Map([[1, bytes("2a")]]) };
  const done = { sequence: 7, errno: 0, attributes: new Map() };
  assertEquals(parseAnswers(joined(DATA, DONE)), [data, done]);
  assertEquals(parseAnswers(REFUSED), [{ ...done, errno: 16 }]);
});

Deno.test("a datagram that is cut anywhere but between two messages is an error", () => {
  const whole = joined(DATA, REFUSED);
  for (let end = 1; end < whole.length; end++) {
    const part = whole.subarray(0, end);
    if (end === DATA.length) assertEquals(parseAnswers(part).length, 1);
    else assertThrows(() => parseAnswers(part), RangeError);
  }
});

Deno.test("lengths that are less than a header or more than there is are errors", () => {
  for (const length of [0, 15, DATA.length + 1, 0xffffffff]) {
    const wrong = joined(DATA);
    new DataView(wrong.buffer).setUint32(0, length, true);
    assertThrows(() => parseAnswers(wrong), RangeError);
  }
  for (const length of [0, 3, 9, 0xffff]) {
    const wrong = joined(DATA);
    new DataView(wrong.buffer).setUint16(20, length, true);
    assertThrows(() => parseAnswers(wrong), RangeError);
  }
});
