/**
 * Performs requests and answers them: in this turn what the device can do at once, and later, when the device is done,
 * what has to wait.
 *
 * Promises: a request is answered once, by success or by an error of errno.ts, or, where there is no room for the answer
 * (`false`), it is as if it had not been asked for. What has to wait counts as in flight until its answer is on its way.
 * Assumes: the device borrows `payload` for the call only.
 */

import type { Clock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import type { Logger } from "../logger.ts";
import type { BlockDevice } from "../volume/block_device.ts";
import { encodeBlockStatusChunk, encodeNoneChunk, errorReply } from "./chunk_codec.ts";
import { type Cookie, encodeSimpleReply, type Request } from "./codec.ts";
import { blockStatus, describe, type Payload, perform, type Session } from "./commands.ts";
import {
  BASE_ALLOCATION_ID,
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_READ,
  NBD_OK,
  SIMPLE_REPLY_BYTES,
} from "./constants.ts";
import { deviceError, type NbdError } from "./errno.ts";
import type { InFlight, Share } from "./in_flight.ts";
import { Answer, Reads } from "./reads.ts";
import type { ReplyQueue } from "./reply_queue.ts";
import type { ConnectionCounts, Unanswered } from "./request_counts.ts";

/** Of one connection. */
export interface AnswersOptions {
  device: BlockDevice;
  session: Session;
  replies: ReplyQueue;
  inFlight: InFlight;
  share: Share;
  counts: ConnectionCounts;
  clock: Clock;
  logger: Logger;
  /** Called when one that had to wait is answered. */
  onAnswered: () => void;
}

export class Answers {
  readonly #device: BlockDevice;
  readonly #session: Session;
  readonly #replies: ReplyQueue;
  readonly #reads: Reads;
  readonly #inFlight: InFlight;
  readonly #share: Share;
  readonly #counts: ConnectionCounts;
  readonly #logger: Logger;
  readonly #onAnswered: () => void;

  constructor(options: AnswersOptions) {
    const { device, session, replies, inFlight, share, clock } = options;
    this.#device = device;
    this.#session = session;
    this.#replies = replies;
    this.#reads = new Reads(device, session, replies, inFlight, share, clock);
    this.#inFlight = inFlight;
    this.#share = share;
    this.#counts = options.counts;
    this.#logger = options.logger;
    this.#onAnswered = options.onAnswered;
  }

  /** Performs a request that is valid, and answers it now or later; false if there is no room for the answer. */
  perform(request: Request, payload: Payload): boolean {
    try {
      return this.#perform(request, payload);
    } catch (error) {
      return this.refuse(request, this.#failed(describe(request), error));
    }
  }

  /** Answers by an error; false if there is no room for it. */
  refuse(request: Request, error: NbdError): boolean {
    if (!this.#replies.tryAdd(this.#errorReply(request, error))) return false;
    this.#counts.failed(request, error);
    return true;
  }

  #perform(request: Request, payload: Payload): boolean {
    if (request.type === NBD_CMD_BLOCK_STATUS) {
      const extents = blockStatus(this.#device, request);
      return this.#replyNow(request, encodeBlockStatusChunk(request, BASE_ALLOCATION_ID, extents));
    }
    if (request.type === NBD_CMD_READ && request.length > 0) return this.#read(request);
    if (request.type === NBD_CMD_READ && this.#session.structuredReplies) {
      return this.#replyNow(request, encodeNoneChunk(request));
    }
    const at = this.#replies.reserve(SIMPLE_REPLY_BYTES);
    if (at < 0) return false;
    let isDone = false;
    try {
      const done = perform(this.#device, request, payload);
      isDone = done === undefined;
      if (done !== undefined) {
        const unanswered = this.#counts.begun(request);
        this.#answerLater(unanswered, this.#change(request, unanswered, done, payload.length));
      }
    } finally {
      if (!isDone) this.#replies.unreserve(SIMPLE_REPLY_BYTES);
    }
    if (isDone) {
      encodeSimpleReply(this.#replies.view, at, NBD_OK, request);
      this.#counts.answered(request);
    }
    return true;
  }

  #read(request: Request): boolean {
    const answer = this.#reads.now(request);
    if (answer === Answer.NoRoom) return false;
    if (answer === Answer.Given) {
      this.#counts.answered(request);
    } else {
      const what = describe(request);
      const unanswered = this.#counts.begun(request);
      const failed = (error: unknown) => {
        return unanswered.error = this.#failed(what, error);
      };
      this.#answerLater(unanswered, this.#reads.later(request, failed));
    }
    return true;
  }

  /** Answers anything but a read when the device is done; until then it has a copy of the payload. */
  async #change(
    request: Request,
    unanswered: Unanswered,
    done: Promise<void>,
    heldBytes: number,
  ): Promise<void> {
    const { cookieHigh, cookieLow } = request;
    const cookie: Cookie = { cookieHigh, cookieLow };
    const what = describe(request);
    this.#inFlight.holdBytes(this.#share, heldBytes);
    let reply: Uint8Array;
    try {
      await done;
      reply = new Uint8Array(SIMPLE_REPLY_BYTES);
      encodeSimpleReply(new DataView(reply.buffer), 0, NBD_OK, cookie);
    } catch (error) {
      unanswered.error = this.#failed(what, error);
      reply = this.#errorReply(cookie, unanswered.error);
    }
    this.#replies.add(reply, () => this.#inFlight.releaseBytes(this.#share, heldBytes));
  }

  /** Until its answer is on its way the request counts as in flight. */
  async #answerLater(unanswered: Unanswered, answer: Promise<void>): Promise<void> {
    this.#inFlight.requestBegins(this.#share);
    await answer;
    this.#counts.ended(unanswered);
    this.#inFlight.requestEnds(this.#share);
    this.#onAnswered();
  }

  #replyNow(request: Request, reply: Uint8Array): boolean {
    if (!this.#replies.tryAdd(reply)) return false;
    this.#counts.answered(request);
    return true;
  }

  #errorReply(cookie: Cookie, error: NbdError): Uint8Array {
    return errorReply(this.#session.structuredReplies, cookie, error);
  }

  /** Logs what the device threw, and says what to answer. */
  #failed(what: string, error: unknown): NbdError {
    const text = messageOf(error);
    // one bad place may be read in many ways, and on and on
    this.#logger.error(`${what}: ${text}`, `failed, ${(error as Error).name}`, text);
    return deviceError(text);
  }
}
