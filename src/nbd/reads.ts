/**
 * How a read is answered: at once, copied into the buffer of replies or, if it is large, sent from where the device has
 * it; or later, from memory of its own, when it has to wait or is too large for the buffer.
 *
 * With structured replies a later answer travels in pieces, each sent as soon as it is there: holes as holes,
 * and of a piece that can't be read what can be, with the offset of what can't
 * (proto.md, "Structured reply types" and NBD_CMD_READ). Simple replies, and NBD_CMD_FLAG_DF, take one buffer
 * and succeed or fail as a whole.
 *
 * Promises: the chunks of a reply cover its range exactly, without overlap, and the last of them says so.
 */

import { type Clock, Turn } from "../clock.ts";
import { DamageError, messageOf } from "../errors.ts";
import { KIB, READ_CHUNK_BYTES_MAX, REPLY_BUFFER_BYTES, TURN_MS_MAX } from "../limits.ts";
import type { BlockDevice } from "../volume/block_device.ts";
import {
  DATA_CHUNK_HEAD_BYTES,
  encodeDataChunkHead,
  encodeErrorChunk,
  encodeHoleChunk,
  errorReply,
} from "./chunk_codec.ts";
import { type Cookie, encodeSimpleReply, type Request } from "./codec.ts";
import type { Session } from "./commands.ts";
import { NBD_CMD_FLAG_DF, NBD_OK, SIMPLE_REPLY_BYTES } from "./constants.ts";
import type { NbdError } from "./errno.ts";
import type { InFlight, Share } from "./in_flight.ts";
import type { ReplyQueue } from "./reply_queue.ts";

/** From here on a reply is sent from where its bytes lie: of less, many are better sent together. */
const LEND_BYTES_MIN = 32 * KIB;

/** What came of trying to answer at once. */
export const enum Answer {
  Given,
  /** There is no room for the reply. */
  NoRoom,
  /** The device has to wait, or the reply is too large: `later` does it. */
  NotNow,
}

/** A part of a piece: its bytes, zeroes, or the reason why it can't be read. */
interface Part {
  length: number;
  kind: "data" | "hole" | NbdError;
}

/** A read that is answered in pieces. */
interface PiecewiseRead extends Cookie {
  piecesLeft: number;
  /** By their texts: several places may fail, each for a reason of its own, and each reason is logged once. */
  failures: Map<string, NbdError>;
  fail: (error: unknown) => NbdError;
}

export class Reads {
  readonly #device: BlockDevice;
  readonly #isStructured: boolean;
  readonly #headBytes: number;
  readonly #replies: ReplyQueue;
  readonly #inFlight: InFlight;
  readonly #share: Share;
  readonly #clock: Clock;

  constructor(
    device: BlockDevice,
    session: Session,
    replies: ReplyQueue,
    inFlight: InFlight,
    share: Share,
    clock: Clock,
  ) {
    this.#device = device;
    this.#isStructured = session.structuredReplies;
    this.#headBytes = session.structuredReplies ? DATA_CHUNK_HEAD_BYTES : SIMPLE_REPLY_BYTES;
    this.#replies = replies;
    this.#inFlight = inFlight;
    this.#share = share;
    this.#clock = clock;
  }

  /** Answers in this turn, if that is possible. Throws what the device throws, having answered nothing. */
  now(request: Request): Answer {
    const { offset, length } = request;
    const replyBytes = this.#headBytes + length;
    if (replyBytes > REPLY_BUFFER_BYTES) return Answer.NotNow;
    const replies = this.#replies;
    const at = replies.reserve(replyBytes);
    if (at < 0) return Answer.NoRoom;
    if (length >= LEND_BYTES_MIN && replies.sendsNow) {
      const parts = this.#device.lend(offset, length);
      if (parts !== undefined) {
        this.#encodeHead(replies.view, at, request, offset, length);
        replies.sendFrom(parts, length);
        return Answer.Given;
      }
    }
    const target = replies.bytes.subarray(at + this.#headBytes, at + replyBytes);
    let isDone = false;
    try {
      isDone = this.#device.tryRead(offset, target);
    } finally {
      if (!isDone) replies.unreserve(replyBytes);
    }
    if (!isDone) return Answer.NotNow;
    this.#encodeHead(replies.view, at, request, offset, length);
    return Answer.Given;
  }

  /** Settles when the whole answer is on its way. `fail` logs what the device threw and says what to answer. */
  async later(request: Request, fail: (error: unknown) => NbdError): Promise<void> {
    const { cookieHigh, cookieLow, offset, length } = request;
    const cookie = { cookieHigh, cookieLow };
    if (!this.#isStructured || (request.flags & NBD_CMD_FLAG_DF) !== 0) {
      return await this.#whole(cookie, offset, length, fail);
    }
    const last = Math.floor((offset + length - 1) / READ_CHUNK_BYTES_MAX);
    const piecesLeft = last - Math.floor(offset / READ_CHUNK_BYTES_MAX) + 1;
    const read: PiecewiseRead = { ...cookie, piecesLeft, failures: new Map(), fail };
    const pieces: Promise<void>[] = [];
    this.#inFlight.holdBytes(this.#share, length);
    const turn = new Turn(this.#clock, TURN_MS_MAX);
    for (let at = offset; at < offset + length;) {
      const end = at - at % READ_CHUNK_BYTES_MAX + READ_CHUNK_BYTES_MAX;
      const pieceBytes = Math.min(end, offset + length) - at;
      pieces.push(this.#piece(read, at, pieceBytes));
      at += pieceBytes;
      if (turn.isOver) await turn.next();
    }
    await Promise.all(pieces);
  }

  async #whole(
    cookie: Cookie,
    offset: number,
    length: number,
    fail: (error: unknown) => NbdError,
  ): Promise<void> {
    let reply = new Uint8Array(this.#headBytes + length);
    this.#inFlight.holdBytes(this.#share, length);
    try {
      await this.#device.read(offset, reply.subarray(this.#headBytes));
      this.#encodeHead(new DataView(reply.buffer), 0, cookie, offset, length);
    } catch (error) {
      reply = errorReply(this.#isStructured, cookie, fail(error));
    }
    this.#replies.add(reply, () => this.#inFlight.releaseBytes(this.#share, length));
  }

  async #piece(read: PiecewiseRead, offset: number, length: number): Promise<void> {
    const piece = new Uint8Array(DATA_CHUNK_HEAD_BYTES + length);
    const data = piece.subarray(DATA_CHUNK_HEAD_BYTES);
    let parts: Part[];
    try {
      await this.#device.read(offset, data);
      parts = this.#partsOf(offset, length);
    } catch (error) {
      parts = await this.#salvage(read, offset, data, error);
    }
    const isLast = --read.piecesLeft === 0;
    let at = 0;
    for (const [index, { length, kind }] of parts.entries()) {
      const isLastChunk = isLast && index === parts.length - 1;
      let chunk: Uint8Array;
      if (kind === "data") {
        // the head of a run is written over the end of the hole, or of what is missing, before it
        chunk = piece.subarray(at, at + DATA_CHUNK_HEAD_BYTES + length);
        const view = new DataView(piece.buffer);
        encodeDataChunkHead(view, at, isLastChunk, read, offset + at, length);
      } else if (kind === "hole") {
        chunk = encodeHoleChunk(read, isLastChunk, offset + at, length);
      } else {
        chunk = encodeErrorChunk(read, isLastChunk, kind, offset + at);
      }
      this.#replies.add(chunk, () => this.#inFlight.releaseBytes(this.#share, length));
      at += length;
    }
  }

  /** What a piece consists of, now that it has been read. */
  #partsOf(offset: number, length: number): Part[] {
    const parts: Part[] = [];
    let left = length;
    for (const { lengthBytes, isHole } of this.#device.extents(offset, length, length)) {
      parts.push({ length: lengthBytes, kind: isHole ? "hole" : "data" });
      left -= lengthBytes;
    }
    // The head of a run is written over what is before it, which must not be data.
    const last = parts.at(-1);
    if (last?.kind === "data") last.length += left;
    else if (left > 0) parts.push({ length: left, kind: "data" });
    return parts;
  }

  /**
   * Of a piece that could not be read as a whole, what can be. Where there is damage each place is asked for by
   * itself; whatever else it was, it would be waited for again each time.
   */
  async #salvage(
    read: PiecewiseRead,
    offset: number,
    data: Uint8Array,
    error: unknown,
  ): Promise<Part[]> {
    const failure = failureOf(read, error);
    const parts: Part[] = [];
    const unit = this.#device.preferredBytes;
    for (let at = 0; at < data.length;) {
      const end = Math.min(data.length, at + unit - (offset + at) % unit);
      let kind: Part["kind"] = "data";
      try {
        const target = data.subarray(at, end);
        if (!this.#device.tryRead(offset + at, target)) {
          if (error instanceof DamageError) await this.#device.read(offset + at, target);
          else kind = failure;
        }
      } catch (again) {
        kind = failureOf(read, again);
      }
      const last = parts.at(-1);
      if (last?.kind === kind) last.length += end - at;
      else parts.push({ length: end - at, kind });
      at = end;
    }
    return parts;
  }

  #encodeHead(view: DataView, at: number, cookie: Cookie, offset: number, length: number): void {
    if (this.#isStructured) encodeDataChunkHead(view, at, true, cookie, offset, length);
    else encodeSimpleReply(view, at, NBD_OK, cookie);
  }
}

function failureOf(read: PiecewiseRead, error: unknown): NbdError {
  const text = messageOf(error);
  const failure = read.failures.get(text) ?? read.fail(error);
  read.failures.set(text, failure);
  return failure;
}
