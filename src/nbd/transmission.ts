/**
 * The transmission phase of one connection: requests in, replies out, in any order.
 *
 * `#serveRequest` is the life of a request; request_reader.ts receives, commands.ts validates, answers.ts performs and
 * replies, reply_queue.ts sends. Each turn serves every request that has arrived whole, in one synchronous loop: what
 * the device can do at once is answered in that turn, and all its replies leave together; then it looks whether more has
 * come meanwhile, and for a quick client goes on looking for a while (busy_poll.ts). What has to wait is answered when
 * it is done and delays nobody behind it.
 *
 * Promises
 * - A request is refused by the table in errno.ts, its payload is consumed all the same, and the connection goes on.
 *   Only what can't be the protocol (`ProtocolError`) or a dead socket cuts it off.
 * - NBD_CMD_DISC, the end of the stream and `stop()`: what was received whole is finished and answered, then the
 *   connection ends. No error tells a client that the server stops: the Linux kernel would hand that to the file system,
 *   whereas it attaches a closed connection again.
 * - Bounded memory: where there is no room (in_flight.ts, reply_queue.ts) the connection is STALLED: it parses nothing
 *   and reads nothing until there is.
 * - A change of a new connection does not come before what older connections were sent earlier (predecessors.ts).
 *
 * Assumes: the device orders overlapping writes by the order of the calls, and borrows `data` for the call only.
 */
import { type Clock, sleep, within } from "../clock.ts";
import {
  BUSY_MS_MAX,
  DRAIN_MS_MAX,
  LINGER_MS_MAX,
  PAYLOAD_SILENCE_MS_MAX,
  RECEIVE_BUFFER_BYTES,
  TURN_MS_MAX,
} from "../limits.ts";
import type { Logger } from "../logger.ts";
import type { BlockDevice } from "../volume/block_device.ts";
import { Answers } from "./answers.ts";
import type { BusyPoll, Polled } from "./busy_poll.ts";
import { ProtocolError, type Request } from "./codec.ts";
import { isChange, refusalOf, type Session } from "./commands.ts";
import { NBD_CMD_DISC, NBD_CMD_READ, NBD_CMD_WRITE } from "./constants.ts";
import type { NbdError } from "./errno.ts";
import { type InFlight, Share } from "./in_flight.ts";
import { type Predecessor, Predecessors } from "./predecessors.ts";
import type { ConnectionCounts } from "./request_counts.ts";
import { ReplyQueue } from "./reply_queue.ts";
import { RequestReader } from "./request_reader.ts";
import type { ReceiveBuffer, Socket } from "./socket.ts";

/** Reads and writes between two looks at the clock, which takes as long as a tenth of one; anything else may take long. */
const REQUESTS_A_LOOK = 16;

/** How far a turn came with what has arrived. */
const enum Progress {
  /** A request was answered, or will be when the device is done: look at the next. */
  Served,
  /** The next request has not arrived whole. */
  Incomplete,
  /** There is no room for the next request or for its reply, or it is not its turn. */
  Stalled,
  /** NBD_CMD_DISC. */
  Disconnected,
}

export interface Surroundings {
  device: BlockDevice;
  inFlight: InFlight;
  /** Connections that began earlier and are not gone. */
  older: Predecessor[];
  busyPoll?: BusyPoll;
  counts: ConnectionCounts;
  clock: Clock;
  logger: Logger;
}

export class Transmission implements Predecessor, Polled {
  readonly #conn: Socket;
  readonly #session: Session;
  readonly #device: BlockDevice;
  readonly #inFlight: InFlight;
  readonly #counts: ConnectionCounts;
  readonly #clock: Clock;
  readonly #share = new Share();
  readonly #reader: RequestReader;
  readonly #answers: Answers;
  readonly #replies: ReplyQueue;
  readonly #predecessors: Predecessors;
  readonly #busyPoll: BusyPoll | undefined;

  #reading = false;
  #readError: unknown = undefined;
  /** Requests served: with bytes received and replies sent, how far it came. */
  #moved = 0;
  /** Since when it has not: it is stalled. */
  #stuckSinceMs = Infinity;
  #movedWhenStuck = -1;
  /** Since when no more is to be served. */
  #overSinceMs: number | undefined = undefined;
  #stopping = false;
  #stalled = false;
  #closed = false;
  /** Wakes `#serve`, which waits for bytes or for room. */
  #resume: () => void = () => {};
  #onSettled: () => void = () => {};

  constructor(conn: Socket, received: ReceiveBuffer, session: Session, surroundings: Surroundings) {
    const { device, inFlight, counts, clock } = surroundings;
    this.#conn = conn;
    this.#session = session;
    this.#device = device;
    this.#inFlight = inFlight;
    this.#counts = counts;
    this.#clock = clock;
    if (conn.receiveNow !== undefined) this.#busyPoll = surroundings.busyPoll;
    this.#reader = new RequestReader(conn, received, device, inFlight, this.#share);
    this.#replies = new ReplyQueue(conn, this.#roomMade);
    this.#answers = new Answers({
      ...surroundings,
      session,
      replies: this.#replies,
      share: this.#share,
      onAnswered: this.#answered,
    });
    this.#predecessors = new Predecessors(surroundings.older, clock, this.#roomMade);
  }

  get isOver(): boolean {
    return this.#overSinceMs !== undefined;
  }

  /** Requests that wait for the device. */
  get inFlightRequests(): number {
    return this.#share.requests;
  }

  /** Whether a reply is on its way that the client has not taken. */
  get isWriting(): boolean {
    return this.#replies.isWriting;
  }

  /** Resolves when no reply is on its way any more. */
  written(): Promise<void> {
    return this.#replies.idle();
  }

  get waitsForClient(): boolean {
    return this.#reading || (this.#stalled && this.#replies.isWriting);
  }

  get moved(): number {
    return this.#moved + this.#replies.writes + this.#reader.bytes;
  }

  get emptied(): number {
    return this.#reader.emptied;
  }

  /** `Clock.monotonic` of the moment since which it has been stalled, or at its end; Infinity if it gets on. */
  get stuckSinceMs(): number {
    return this.#overSinceMs ?? this.#stuckSinceMs;
  }

  /**
   * Serves until the connection has ended, and closes it. Settles when its last request has left the device.
   * Throws `ProtocolError` or what the socket threw, when that was what ended it.
   */
  async run(): Promise<void> {
    this.#busyPoll?.begins();
    try {
      await this.#serve();
      await this.#drain();
      if (this.#stopping) await this.#linger();
    } finally {
      this.#overSinceMs ??= this.#clock.monotonic();
      this.#busyPoll?.ends();
      this.#predecessors.forget();
      this.#close();
      this.#reader.close();
      await this.#settled();
    }
  }

  /** Has everything that was received whole finished and answered, then ends the connection. */
  stop(): void {
    this.#stopping = true;
    this.#resume();
  }

  /**
   * Gives up the client: nothing more is begun or answered. `run` settles when what the device has is done, and
   * until then this holds no buffer.
   */
  cutOff(reason: Error): void {
    this.#replies.fail(reason);
    this.#close();
    this.#reader.close();
    this.#resume();
  }

  /** Until there is nothing more to serve: receive, serve what came, send the replies. */
  async #serve(): Promise<void> {
    for (;;) {
      // Who can't be answered has nothing more begun: it would come late, when the client is back already.
      if (this.#replies.failed !== undefined) throw this.#replies.failed;
      const progress = this.#serveTurn();
      if (progress === Progress.Disconnected) return;
      this.#stalled = progress === Progress.Stalled;
      this.#noteWhetherStuck();
      if (progress === Progress.Served) {
        await sleep(this.#clock, 0);
        continue;
      }
      if (!this.#stalled) {
        if (this.#readError !== undefined) throw this.#readError;
        if (this.#reader.hasEnded || this.#stopping) return;
        this.#receive();
      }
      // Room that only the client can make is not waited for once the server stops.
      if (this.#stalled && this.#stopping && this.#replies.isWriting) await this.#repliesTaken();
      else await this.#woken();
    }
  }

  /**
   * Serves what has arrived, and what arrives meanwhile, or soon if it is bulk; but others have their turn in time, and
   * else after a buffer full of it. `Served` says that there may be more that has arrived whole.
   */
  #serveTurn(): Progress {
    const bytesMax = this.#reader.bytes + RECEIVE_BUFFER_BYTES;
    let nowMs = this.#clock.monotonic();
    const untilMs = nowMs + BUSY_MS_MAX;
    const bulkUntilMs = this.#busyPoll?.bulkUntil(this.#reader.isBulk, nowMs) ?? nowMs;
    this.#replies.turnBegins();
    for (;;) {
      const progress = this.#serveReceived(nowMs);
      this.#replies.send();
      this.#counts.turnEnds();
      if (progress !== Progress.Incomplete || this.#reading || this.#stopping) return progress;
      nowMs = this.#clock.monotonic();
      const isBulk = nowMs < bulkUntilMs && this.#reader.isBulk;
      if (!isBulk && (this.#reader.bytes >= bytesMax || nowMs >= untilMs)) return progress;
      if (!(isBulk ? this.#busyPoll?.readSoon(this, nowMs) : this.readNow())) return progress;
      this.#counts.arrivedMeanwhile();
    }
  }

  /** Serves all that has arrived whole, unless that takes too long, from `nowMs` on. */
  #serveReceived(nowMs: number): Progress {
    // not the turn's: who sends all the time would be kept waiting for a timer, which takes 2 ms, with requests that are here
    const untilMs = nowMs + TURN_MS_MAX;
    for (let served = 1;; served++) {
      const progress = this.#serveRequest();
      if (progress !== Progress.Served) return progress;
      this.#moved++;
      const { type } = this.#reader.request;
      const isShort = type === NBD_CMD_READ || type === NBD_CMD_WRITE;
      if (isShort && served % REQUESTS_A_LOOK !== 0) continue;
      if (this.#clock.monotonic() >= untilMs) return progress;
    }
  }

  #noteWhetherStuck(): void {
    if (this.#stalled && this.moved === this.#movedWhenStuck) return;
    this.#movedWhenStuck = this.moved;
    this.#stuckSinceMs = this.#stalled ? this.#clock.monotonic() : Infinity;
  }

  /** The life of a request. */
  #serveRequest(): Progress {
    // Receive its header.
    const reader = this.#reader;
    if (!reader.receiveHeader()) return Progress.Incomplete;
    const request = reader.request;
    if (request.type === NBD_CMD_DISC) return Progress.Disconnected;
    if (!reader.holdsPayload && this.#mustWait(request)) return Progress.Stalled;

    // Validate.
    const refusal = refusalOf(request, this.#device, this.#session);
    if (refusal !== undefined) return this.#refuse(request, refusal);

    // Receive its payload.
    const payload = reader.receivePayload();
    if (payload === undefined) return Progress.Incomplete;

    // Perform, and reply.
    if (!this.#answers.perform(request, payload)) return Progress.Stalled;
    reader.finish();
    return Progress.Served;
  }

  /** The answer comes behind the payload: a client that still sends (libnbd) does not expect it sooner. */
  #refuse(request: Request, refusal: NbdError): Progress {
    if (!this.#reader.dropPayload()) return Progress.Incomplete;
    if (!this.#answers.refuse(request, refusal)) return Progress.Stalled;
    this.#reader.finish();
    return Progress.Served;
  }

  /** Whether it is not its turn: older connections come first, or this one has as much in flight as it may. */
  #mustWait({ type, length }: Request): boolean {
    if (isChange(type) && !this.#predecessors.areServed()) return true;
    if (!this.#inFlight.mustWait(this.#share, length)) return false;
    this.#inFlight.waitForRelease(this.#roomMade);
    return true;
  }

  #answered = (): void => {
    if (this.#share.requests === 0) this.#onSettled();
    this.#roomMade();
  };

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
    if (!this.#busyPoll?.mayWait(this)) this.waitForBytes();
  }

  readNow(): boolean {
    return this.#reader.readNow();
  }

  waitForBytes(): void {
    const cancel = this.#reader.holdsPayload
      ? this.#clock.after(PAYLOAD_SILENCE_MS_MAX, this.#payloadStopped)
      : undefined;
    this.#reader.read().finally(cancel).then(this.#woke, this.#failedToArrive);
  }

  #payloadStopped = (): void => {
    this.cutOff(new ProtocolError(`no byte of a payload came for ${PAYLOAD_SILENCE_MS_MAX} ms`));
  };

  arrived = (): void => {
    this.#reading = false;
    this.#counts.arrived();
    this.#resume();
  };

  #woke = (): void => {
    this.#busyPoll?.woke(this);
    this.arrived();
  };

  #failedToArrive = (error: unknown): void => {
    this.#reader.hasEnded = true;
    if (!this.#closed) this.#readError = error;
    this.#woke();
  };

  /** Everything received is answered. */
  async #drain(): Promise<void> {
    this.#overSinceMs = this.#clock.monotonic();
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
      while (!this.#reader.hasEnded) {
        this.#reader.discard();
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
