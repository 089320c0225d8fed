/** Bugs that `deno task fuzz` has to find; run this file to see that it does: [seeds [words]]. */
import { type Bug, type Hunt, hunt } from "../support/bug_hunt.ts";

const BUGS: Bug[] = [
  {
    what: "an offset near 2^64 wraps round",
    file: "codec.ts",
    from: "request.offset = view.getUint32(at + 16) * 0x1_0000_0000 + view.getUint32(at + 20);",
    to:
      "request.offset = Number(BigInt.asIntN(64, view.getBigUint64(at + 16))); if (request.offset < 0) request.offset = 0;",
  },
  {
    what: "the last byte of the disk can't be reached",
    file: "commands.ts",
    from: "const isPastEnd = offset + length > device.sizeBytes;",
    to: "const isPastEnd = offset + length >= device.sizeBytes;",
  },
  {
    what: "the payload of a refused write is taken for requests",
    file: "transmission.ts",
    from: "if (!this.#reader.dropPayload()) return Progress.Incomplete;",
    to: "",
  },
  {
    what: "FUA does not flush",
    file: "commands.ts",
    from: "if ((flags & NBD_CMD_FLAG_FUA) === 0) return done;",
    to: "return done;",
  },
  {
    what: "a payload that was given up stays counted",
    file: "request_reader.ts",
    from: "        this.#inFlight.releaseBytes(this.#share, bytes.length);\n",
    to: "",
  },
  {
    what: "what was received behind a payload that has a place is lost",
    file: "arriving_payload.ts",
    from: "    return count;\n",
    to: "    return 0;\n",
  },
  {
    what: "what waits for the device when the client goes is forgotten",
    file: "transmission.ts",
    from: "this.#reader.close();\n      await this.#settled();",
    to: "this.#reader.close();",
  },
  {
    what: "every chunk but the last of several says that it is the last",
    file: "reads.ts",
    from: "const isLast = --read.piecesLeft === 0;",
    to: "const isLast = true;",
  },
  {
    what: "neighbouring data of a read travels in chunks that overwrite each other",
    file: "reads.ts",
    from: 'if (last?.kind === "data") last.length += left;\n    else if (left > 0)',
    to: "if (left > 0)",
  },
  {
    what: "a slow reply carries the cookie of a later request",
    file: "answers.ts",
    from: "const cookie: Cookie = { cookieHigh, cookieLow };",
    to: "const cookie: Cookie = request; void cookieHigh, cookieLow;",
  },
  {
    what: "a metadata context holds for every export",
    file: "handshake.ts",
    from: "this.session.blockStatus = this.#contextOf === exportName;",
    to: "this.session.blockStatus = this.#contextOf !== undefined || exportName === null;",
  },
  {
    what: "an option that is refused unread is answered before its data is there",
    file: "handshake.ts",
    from: 'if (!(await this.#received.skip(this.#conn, header.length))) return "end";',
    to: "",
  },
  {
    what: "the end of a message that was moved in the buffer is lost",
    file: "socket.ts",
    from: "this.bytes.copyWithin(0, this.start, this.end);",
    to: "this.bytes.copyWithin(0, this.start, this.end - 1);",
  },
  {
    what: "what a socket does not take at once of a large read begins at the wrong byte",
    file: "reply_queue.ts",
    from: "part.subarray(skipped)",
    to: "part.subarray(0, part.length - skipped)",
  },
];

export const FUZZER: Hunt = { bugs: BUGS, folder: "src/nbd", script: "tests/fuzz/run.ts" };

if (import.meta.main) await hunt(FUZZER, 200);
