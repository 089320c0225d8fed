import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import { negotiateExport, type Wire } from "../../../src/linux/nbd_handshake.ts";
import {
  encodeGreeting,
  encodeInfoExport,
  encodeInfoText,
  encodeOptionReply,
  encodeText,
  OPTION_HEADER_BYTES,
  parseExportRequest,
  parseOptionHeader,
} from "../../../src/nbd/codec.ts";
import {
  NBD_FLAG_HAS_FLAGS,
  NBD_INFO_DESCRIPTION,
  NBD_OPT_GO,
  NBD_REP_ACK,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_INFO,
} from "../../../src/nbd/constants.ts";

const SIZE = 3 * 2 ** 40;
const INFO_EXPORT = encodeOptionReply(
  NBD_OPT_GO,
  NBD_REP_INFO,
  encodeInfoExport(SIZE, NBD_FLAG_HAS_FLAGS),
);
const INFO_DESCRIPTION = encodeOptionReply(
  NBD_OPT_GO,
  NBD_REP_INFO,
  encodeInfoText(NBD_INFO_DESCRIPTION, "a disk"),
);
const ACK = encodeOptionReply(NBD_OPT_GO, NBD_REP_ACK);

/** A server that says what it has to say, whatever it hears. */
class Saying implements Wire {
  #rest: Uint8Array;
  heard = new Uint8Array(0);

  constructor(...parts: Uint8Array[]) {
    this.#rest = new Uint8Array(parts.flatMap((part) => [...part]));
  }

  send(bytes: Uint8Array): void {
    this.heard = new Uint8Array([...this.heard, ...bytes]);
  }

  receiveAll(bytes: number): Uint8Array {
    const found = this.#rest.subarray(0, bytes);
    this.#rest = this.#rest.subarray(bytes);
    return found;
  }
}

Deno.test("the default export is asked for with its description, and size and flags are learnt", () => {
  const server = new Saying(encodeGreeting(), INFO_DESCRIPTION, INFO_EXPORT, ACK);
  assertEquals(negotiateExport(server), {
    sizeBytes: SIZE,
    transmissionFlags: NBD_FLAG_HAS_FLAGS,
    description: "a disk",
  });
  const option = server.heard.subarray(4);
  const header = parseOptionHeader(option)!;
  assertEquals(header.option, NBD_OPT_GO);
  const data = option.subarray(OPTION_HEADER_BYTES);
  assertEquals(data.length, header.length);
  assertEquals(parseExportRequest(data), { name: "", infos: [NBD_INFO_DESCRIPTION] });
});

Deno.test("information that nobody knows, or of a wrong length, is left alone", () => {
  const odd = [
    new Uint8Array(0),
    new Uint8Array([0]),
    new Uint8Array([0, 0, 1]),
    encodeInfoText(9, "x"),
  ];
  const replies = odd.map((data) => encodeOptionReply(NBD_OPT_GO, NBD_REP_INFO, data));
  const server = new Saying(encodeGreeting(), ...replies, INFO_EXPORT, ACK);
  assertEquals(negotiateExport(server).description, "");
});

Deno.test("a server that goes at any byte, refuses, or says no size is told of", () => {
  const whole = [encodeGreeting(), INFO_DESCRIPTION, INFO_EXPORT, ACK];
  const bytes = new Uint8Array(whole.flatMap((part) => [...part]));
  for (let end = 0; end < bytes.length; end++) {
    const server = new Saying(bytes.subarray(0, end));
    assertThrows(() => negotiateExport(server), UsageError, "closed the connection");
  }
  const refusal = encodeOptionReply(NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, encodeText("no such disk"));
  const refusing = new Saying(encodeGreeting(), refusal);
  assertThrows(() => negotiateExport(refusing), UsageError, "no such disk");
  const silent = new Saying(encodeGreeting(), INFO_DESCRIPTION, ACK);
  assertThrows(() => negotiateExport(silent), UsageError, "how large");
});

Deno.test("what is no NBD server of today is refused", () => {
  const http = new Saying(new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n\r\n"));
  assertThrows(() => negotiateExport(http), UsageError, "no NBD server");
  const oldstyle = encodeGreeting();
  oldstyle[17] = 0;
  assertThrows(() => negotiateExport(new Saying(oldstyle)), UsageError, "no NBD server");
  const wrong = ACK.slice();
  wrong[0] ^= 1;
  const server = new Saying(encodeGreeting(), wrong);
  assertThrows(() => negotiateExport(server), UsageError, "something else");
  const long = ACK.slice();
  new DataView(long.buffer).setUint32(16, 0x7fffffff);
  assertThrows(() => negotiateExport(new Saying(encodeGreeting(), long)), UsageError);
});
