/**
 * The transmission phase of one connection: requests in, replies out, in any order.
 *
 * `#serveRequest` is the life of a request (commands.ts says what each may ask for). Each turn serves every request that has arrived whole, in one
 * synchronous loop: what the device can do at once is answered in that turn, and all its replies leave in
 * one write. What has to wait (`#replyWhenDone`) is answered when it is done and delays nobody behind it.
 *
 * Promises
 * - A request is refused by the table in errno.ts, its payload is consumed all the same, and the
 *   connection goes on. Only what can't be the protocol (`ProtocolError`) or a dead socket cuts it off.
 * - NBD_CMD_DISC, the end of the stream and `stop()`: what was received whole is finished and answered,
 *   then the connection ends. No error tells a client that the server stops: the Linux kernel would
 *   hand that to the file system, whereas it attaches a closed connection again.
 * - Bounded memory: where there is no room (in_flight.ts, IN_FLIGHT_REQUESTS_MAX, reply_queue.ts) the
 *   connection is STALLED: it parses nothing and reads nothing until there is.
 *
 * Assumes: the device orders overlapping writes by the order of the calls, and borrows `data` for the
 * call only.
 */

import { type Clock, within } from "../clock.ts";
import { messageOf } from "../errors.ts";
import {
  DRAIN_MS_MAX,
  IN_FLIGHT_REQUESTS_MAX,
  LINGER_MS_MAX,
  REPLY_BUFFER_BYTES,
} from "../limits.ts";
import type { Logger } from "../logger.ts";
import type { BlockDevice } from "../volume/block_device.ts";
import { encodeSimpleReply, parseRequest, ProtocolError, Request } from "./codec.ts";
import { describe, perform, refusalOf } from "./commands.ts";
import {
  NBD_CMD_DISC,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_OK,
  REQUEST_HEADER_BYTES,
  SIMPLE_REPLY_BYTES,
} from "./constants.ts";
import { ERRNO } from "./errno.ts";
import { type InFlight, Share } from "./in_flight.ts";
import { ReplyQueue } from "./reply_queue.ts";
import type { ReceiveBuffer, Socket } from "./socket.ts";

/** How far a turn came with what has arrived. */
const enum Progress {
  /** One request was answered, or will be when the device is done: look at the next. */
  Served,
  /** The next request has not arrived whole. */
  Incomplete,
  /** There is no room for the next request. */
  Stalled,
  /** NBD_CMD_DISC. */
  Disconnected,
}

export interface Surroundings {
  device: BlockDevice;
  inFlight: InFlight;
  clock: Clock;
  logger: Logger;
}

export class Transmission {
  readonly #conn: Socket;
  readonly #device: BlockDevice;
  readonly #inFlight: InFlight;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #share = new Share();
  readonly #request = new Request();

  /** Receiving: what has arrived, ... */
  readonly #received: ReceiveBuffer;
  /** ... how long the message at its start is, as far as known, ... */
  #messageBytes = REQUEST_HEADER_BYTES;
  /** ... what is left to drop of the payload of a refused write, ... */
  #skipBytes = 0;
  /** ... and what that write, or another request, is answered with then, ... */
  #refusedErrno: number = NBD_OK;
  /** ... and the payload of a write that is larger than the buffer, filled as far as it has arrived. */
  #payload: Uint8Array | undefined = undefined;
  #payloadFilled = 0;
  #reading = false;
  #readError: unknown = undefined;

  #replies: ReplyQueue;

  /** No more is received: the stream has ended, or the socket was closed by us. */
  #ended = false;
  #stopping = false;
  #stalled = false;
  #closed = false;
  /** Wakes `#serve`, which waits for bytes or for room. */
  #resume: () => void = () => {};
  #onSettled: () => void = () => {};

  constructor(conn: Socket, received: ReceiveBuffer, surroundings: Surroundings) {
    this.#conn = conn;
    this.#received = received;
    this.#device = surroundings.device;
    this.#inFlight = surroundings.inFlight;
    this.#clock = surroundings.clock;
    this.#logger = surroundings.logger;
    this.#replies = new ReplyQueue(conn, this.#roomMade);
  }

  /**
   * Serves until the connection has ended, and closes it. Settles when its last request has left the device.
   * Throws `ProtocolError` or what the socket threw, when that was what ended it.
   */
  async run(): Promise<void> {
    try {
      await this.#serve();
      await this.#drain();
      if (this.#stopping) await this.#linger();
    } finally {
      this.#close();
      this.#dropPayload();
      await this.#settled();
    }
  }

  /** Has everything that was received whole finished and answered, then ends the connection. */
  stop(): void {
    this.#stopping = true;
    this.#resume();
  }

  /** Until there is nothing more to serve: receive, serve what came, send the replies. */
  async #serve(): Promise<void> {
    for (;;) {
      const progress = this.#serveReceived();
      this.#replies.send();
      if (this.#replies.failed !== undefined) throw this.#replies.failed;
      if (progress === Progress.Disconnected) return;
      this.#stalled = progress === Progress.Stalled;
      if (!this.#stalled) {
        if (this.#readError !== undefined) throw this.#readError;
        if (this.#ended || this.#stopping) return;
        this.#receive();
      }
      // Room that only the client can make is not waited for once the server stops.
      if (this.#stalled && this.#stopping && this.#replies.isWriting) await this.#repliesTaken();
      else await this.#woken();
    }
  }

  /** Serves all that has arrived whole, in one turn. */
  #serveReceived(): Progress {
    for (;;) {
      let progress: Progress;
      if (this.#refusedErrno !== NBD_OK) progress = this.#finishRefusal();
      else if (this.#payload !== undefined) progress = this.#serveLargeWrite(this.#payload);
      else progress = this.#serveRequest();
      if (progress !== Progress.Served) return progress;
    }
  }

  /** The life of a request. */
  #serveRequest(): Progress {
    // Receive its header.
    const request = this.#request;
    const received = this.#received;
    this.#messageBytes = REQUEST_HEADER_BYTES;
    const arrived = parseRequest(received.view, received.start, received.end, request);
    if (!arrived) return Progress.Incomplete;
    if (request.type === NBD_CMD_DISC) return Progress.Disconnected;
    if (this.#mustWait()) return Progress.Stalled;

    // Validate.
    const errno = refusalOf(request, this.#device);
    if (errno !== NBD_OK) return this.#refuse(errno);

    // Perform a read, and reply.
    if (request.type === NBD_CMD_READ && request.length > 0) return this.#read();

    // Receive the payload of a write.
    if (request.type === NBD_CMD_WRITE) this.#messageBytes += request.length;
    if (received.length < this.#messageBytes) return this.#awaitPayload();

    // Perform anything else, and reply.
    const payloadAt = received.start + REQUEST_HEADER_BYTES;
    const payload = received.bytes.subarray(payloadAt, received.start + this.#messageBytes);
    const progress = this.#performAndReply(payload);
    if (progress === Progress.Served) received.start += this.#messageBytes;
    return progress;
  }

  /** Answers with an error; the payload of a write is dropped as it comes. */
  #refuse(errno: number): Progress {
    const { type, length } = this.#request;
    this.#logger.debug(() => `refused, errno ${errno}: ${describe(this.#request)}`);
    this.#received.start += REQUEST_HEADER_BYTES;
    this.#skipBytes = type === NBD_CMD_WRITE ? length : 0;
    this.#refusedErrno = errno;
    return this.#finishRefusal();
  }

  /** The answer comes behind the payload: a client that still sends (libnbd) does not expect it sooner. */
  #finishRefusal(): Progress {
    if (!this.#skip()) return Progress.Incomplete;
    const at = this.#replies.reserve(SIMPLE_REPLY_BYTES);
    if (at < 0) return Progress.Stalled;
    const { cookieHigh, cookieLow } = this.#request;
    encodeSimpleReply(this.#replies.view, at, this.#refusedErrno, cookieHigh, cookieLow);
    this.#refusedErrno = NBD_OK;
    return Progress.Served;
  }

  /** Reads straight into the buffer of replies when device and buffer can do that at once. */
  #read(): Progress {
    const { offset, length, cookieHigh, cookieLow } = this.#request;
    const replyBytes = SIMPLE_REPLY_BYTES + length;
    if (replyBytes > REPLY_BUFFER_BYTES) return this.#readSlowly();
    const replies = this.#replies;
    const at = replies.reserve(replyBytes);
    if (at < 0) return Progress.Stalled;
    const target = replies.bytes.subarray(at + SIMPLE_REPLY_BYTES, at + replyBytes);
    try {
      if (!this.#device.tryRead(offset, target)) {
        replies.unreserve(replyBytes);
        return this.#readSlowly();
      }
      encodeSimpleReply(replies.view, at, NBD_OK, cookieHigh, cookieLow);
    } catch (error) {
      replies.unreserve(length);
      const errno = this.#deviceFailed(describe(this.#request), error);
      encodeSimpleReply(replies.view, at, errno, cookieHigh, cookieLow);
    }
    this.#received.start += REQUEST_HEADER_BYTES;
    return Progress.Served;
  }

  /** Reads into a buffer of the reply's own. */
  #readSlowly(): Progress {
    const { offset, length } = this.#request;
    const reply = new Uint8Array(SIMPLE_REPLY_BYTES + length);
    const target = reply.subarray(SIMPLE_REPLY_BYTES);
    void this.#replyWhenDone(this.#device.read(offset, target), reply.length, reply);
    this.#received.start += REQUEST_HEADER_BYTES;
    return Progress.Served;
  }

  /** The payload is on its way; one too large for the buffer goes straight to where it will be used. */
  #awaitPayload(): Progress {
    const received = this.#received;
    if (this.#messageBytes > received.bytes.length) {
      this.#payload = new Uint8Array(this.#request.length);
      this.#inFlight.holdBytes(this.#share, this.#payload.length);
      received.start += REQUEST_HEADER_BYTES;
      this.#payload.set(received.unread());
      this.#payloadFilled = received.length;
      received.start = received.end;
    }
    return Progress.Incomplete;
  }

  #serveLargeWrite(payload: Uint8Array): Progress {
    if (this.#payloadFilled < payload.length) return Progress.Incomplete;
    const progress = this.#performAndReply(payload);
    if (progress === Progress.Served) this.#dropPayload();
    return progress;
  }

  /** Performs any request but a read, and replies now or when the device is done. */
  #performAndReply(payload: Uint8Array): Progress {
    const { cookieHigh, cookieLow } = this.#request;
    const at = this.#replies.reserve(SIMPLE_REPLY_BYTES);
    if (at < 0) return Progress.Stalled;
    let errno = NBD_OK;
    try {
      const done = perform(this.#device, this.#request, payload);
      if (done !== undefined) {
        this.#replies.unreserve(SIMPLE_REPLY_BYTES);
        void this.#replyWhenDone(done, payload.length, undefined);
        return Progress.Served;
      }
    } catch (error) {
      errno = this.#deviceFailed(describe(this.#request), error);
    }
    encodeSimpleReply(this.#replies.view, at, errno, cookieHigh, cookieLow);
    return Progress.Served;
  }

  /**
   * The end of a request that the device could not finish at once. Until its reply is on its way it counts as
   * one request and as `heldBytes`: the device's copy of a payload, or the reply to a read.
   */
  async #replyWhenDone(
    done: Promise<void>,
    heldBytes: number,
    readReply: Uint8Array | undefined,
  ): Promise<void> {
    const { cookieHigh, cookieLow } = this.#request;
    const what = describe(this.#request);
    this.#inFlight.requestBegins(this.#share);
    this.#inFlight.holdBytes(this.#share, heldBytes);
    let errno = NBD_OK;
    try {
      await done;
    } catch (error) {
      errno = this.#deviceFailed(what, error);
    }
    const answer = errno === NBD_OK && readReply !== undefined
      ? readReply
      : new Uint8Array(SIMPLE_REPLY_BYTES);
    encodeSimpleReply(new DataView(answer.buffer), 0, errno, cookieHigh, cookieLow);
    this.#replies.add(answer, () => this.#inFlight.releaseBytes(this.#share, heldBytes));
    this.#inFlight.requestEnds(this.#share);
    if (this.#share.requests === 0) this.#onSettled();
    this.#roomMade();
  }

  #deviceFailed(what: string, error: unknown): number {
    this.#logger.error(`${what}: ${messageOf(error)}`);
    return ERRNO.deviceFailed;
  }

  /** Whether this connection already has as much in flight as it may. */
  #mustWait(): boolean {
    if (this.#share.requests >= IN_FLIGHT_REQUESTS_MAX) return true;
    if (!this.#inFlight.mustWait(this.#share, this.#request.length)) return false;
    this.#inFlight.waitForRelease(this.#roomMade);
    return true;
  }

  #roomMade = (): void => {
    if (this.#stalled || this.#replies.failed !== undefined) this.#resume();
  };

  #woken(): Promise<void> {
    return new Promise((resolve) => this.#resume = resolve);
  }

  /** Begins to read from the socket, unless that is under way. */
  #receive(): void {
    if (this.#reading) return;
    this.#reading = true;
    const space = this.#payload === undefined
      ? this.#received.space(this.#messageBytes)
      : this.#payload.subarray(this.#payloadFilled);
    this.#conn.read(space).then(this.#arrived, this.#failedToArrive);
  }

  #arrived = (count: number | null): void => {
    this.#reading = false;
    if (count === null) this.#ended = true;
    else if (this.#payload === undefined) this.#received.end += count;
    else this.#payloadFilled += count;
    this.#resume();
  };

  #failedToArrive = (error: unknown): void => {
    this.#reading = false;
    this.#ended = true;
    if (!this.#closed) this.#readError = error;
    this.#resume();
  };

  /** Drops what has arrived of a refused payload; true when that was all of it. */
  #skip(): boolean {
    const step = Math.min(this.#skipBytes, this.#received.length);
    this.#received.start += step;
    this.#skipBytes -= step;
    return this.#skipBytes === 0;
  }

  #dropPayload(): void {
    if (this.#payload === undefined) return;
    this.#inFlight.releaseBytes(this.#share, this.#payload.length);
    this.#payload = undefined;
  }

  /** Everything received is answered. */
  async #drain(): Promise<void> {
    await this.#settled();
    await this.#repliesTaken();
  }

  /** Everything queued is sent; a client that does not take it is not waited for. */
  async #repliesTaken(): Promise<void> {
    const tooLate = () => new ProtocolError(`the client took no replies for ${DRAIN_MS_MAX} ms`);
    await within(this.#clock, DRAIN_MS_MAX, this.#replies.idle(), tooLate);
  }

  async #settled(): Promise<void> {
    if (this.#share.requests === 0) return;
    await new Promise<void>((resolve) => this.#onSettled = resolve);
  }

  /**
   * Waits for the client to close its side. Closing a socket that holds unread requests would reset the
   * connection, and a reset can overtake the last replies.
   */
  async #linger(): Promise<void> {
    const cancel = this.#clock.after(LINGER_MS_MAX, () => this.#close());
    try {
      await this.#conn.closeWrite();
      while (!this.#ended) {
        this.#dropPayload();
        this.#received.start = this.#received.end = 0;
        this.#receive();
        await this.#woken();
      }
    } finally {
      cancel();
    }
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#conn.close();
  }
}
