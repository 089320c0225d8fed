/**
 * What the requests of clients came to.
 *
 * Time is taken once when something has arrived and once when the replies of a turn are handed over: all that is
 * answered in that turn took as long as the turn, from its client's side too, because its replies leave
 * together. What is answered later takes the time by itself.
 */
import type { Clock } from "../clock.ts";
import { OperationCounts } from "../counters.ts";
import type { Logger } from "../logger.ts";
import type { Request } from "./codec.ts";
import { describe } from "./commands.ts";
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
} from "./constants.ts";
import type { NbdError } from "./errno.ts";

/** One more than the greatest number of a command. */
const COMMANDS = NBD_CMD_BLOCK_STATUS + 1;

/** What a request asks for. */
type Asked = Pick<Request, "type" | "flags" | "offset" | "length">;

/** Told of each request when it is answered; an error is what the client was told. */
export type Trace = (request: Asked, seconds: number, error?: NbdError) => void;

/** A request that is answered later. */
export interface Unanswered extends Asked {
  readonly sinceMs: number;
  error: NbdError | undefined;
}

/** A debug line a request. */
export function traceTo(logger: Logger): Trace {
  return (request, seconds, error) =>
    logger.debug(() => {
      const outcome = error ? `errno ${error.errno}, ${error.text}` : "done";
      return `${describe(request)}: ${outcome}, ${(seconds * 1000).toFixed(3)} ms`;
    });
}

/** Of all connections, those that are gone included. */
export class RequestCounts {
  readonly read = new OperationCounts();
  readonly write = new OperationCounts();
  readonly flush = new OperationCounts();
  readonly trim = new OperationCounts();
  readonly writeZeroes = new OperationCounts();
  readonly cache = new OperationCounts();
  readonly blockStatus = new OperationCounts();
  readonly #byNumber: (OperationCounts | undefined)[] = [];

  /** @param trace for debug=1: with it each request costs a call, without it nothing */
  constructor(readonly clock: Clock, readonly trace?: Trace) {
    this.#byNumber[NBD_CMD_READ] = this.read;
    this.#byNumber[NBD_CMD_WRITE] = this.write;
    this.#byNumber[NBD_CMD_FLUSH] = this.flush;
    this.#byNumber[NBD_CMD_TRIM] = this.trim;
    this.#byNumber[NBD_CMD_WRITE_ZEROES] = this.writeZeroes;
    this.#byNumber[NBD_CMD_CACHE] = this.cache;
    this.#byNumber[NBD_CMD_BLOCK_STATUS] = this.blockStatus;
  }

  /** Undefined for a number that is no command's. */
  of(type: number): OperationCounts | undefined {
    return this.#byNumber[type];
  }

  /** For a new connection. */
  connection(): ConnectionCounts {
    return new ConnectionCounts(this);
  }
}

export class ConnectionCounts {
  readBytes = 0;
  writtenBytes = 0;
  readonly #all: RequestCounts;
  /** When what this turn serves had arrived. */
  #arrivedMs = 0;
  /** When the last replies were handed over. */
  #answeredMs = 0;
  /** Answered in this turn and not in `#all` yet: the last of one command, ... */
  #type = 0;
  #requests = 0;
  #bytes = 0;
  /** ... and those before them, by command, with a bit for each that there is any of. */
  readonly #requestsBefore = new Uint32Array(COMMANDS);
  readonly #bytesBefore = new Float64Array(COMMANDS);
  #commandsBefore = 0;

  constructor(all: RequestCounts) {
    this.#all = all;
  }

  /** Something has arrived. */
  arrived(): void {
    this.#arrivedMs = this.#all.clock.monotonic();
  }

  /** The same, just after replies were handed over: the time is not taken again. */
  arrivedMeanwhile(): void {
    this.#arrivedMs = Math.max(this.#arrivedMs, this.#answeredMs);
  }

  /** A request is answered in this turn. */
  answered(request: Request): void {
    const { type, length } = request;
    if (type !== this.#type) this.#changeTo(type);
    this.#requests++;
    this.#bytes += length;
    this.#all.trace?.(request, this.#secondsSince(this.#arrivedMs));
  }

  /** The same, by an error. */
  failed(request: Request, error: NbdError): void {
    this.#all.trace?.(request, this.#secondsSince(this.#arrivedMs), error);
    const { type } = request;
    const counts = this.#all.of(type);
    if (counts === undefined) return;
    if (type !== this.#type) this.#changeTo(type);
    this.#requests++;
    counts.errors++;
  }

  #changeTo(type: number): void {
    if (this.#requests > 0) {
      this.#requestsBefore[this.#type] += this.#requests;
      this.#bytesBefore[this.#type] += this.#bytes;
      this.#commandsBefore |= 1 << this.#type;
    }
    this.#type = type;
    this.#requests = this.#bytes = 0;
  }

  /** The replies of this turn are on their way. */
  turnEnds(): void {
    if (this.#requests === 0) return;
    this.#answeredMs = this.#all.clock.monotonic();
    const seconds = (this.#answeredMs - this.#arrivedMs) / 1000;
    this.#count(this.#type, this.#requests, this.#bytes, seconds);
    this.#requests = this.#bytes = 0;
    while (this.#commandsBefore !== 0) {
      const type = 31 - Math.clz32(this.#commandsBefore);
      this.#commandsBefore ^= 1 << type;
      this.#count(type, this.#requestsBefore[type], this.#bytesBefore[type], seconds);
      this.#requestsBefore[type] = this.#bytesBefore[type] = 0;
    }
  }

  /** A request will be answered later. */
  begun({ type, flags, offset, length }: Request): Unanswered {
    return { type, flags, offset, length, sinceMs: this.#arrivedMs, error: undefined };
  }

  /** The answer to it is on its way. */
  ended(request: Unanswered): void {
    const { type, length, sinceMs, error } = request;
    const seconds = this.#secondsSince(sinceMs);
    this.#count(type, 1, error ? 0 : length, seconds);
    if (error) this.#all.of(type)!.errors++;
    this.#all.trace?.(request, seconds, error);
  }

  #secondsSince(ms: number): number {
    return (this.#all.clock.monotonic() - ms) / 1000;
  }

  #count(type: number, requests: number, length: number, seconds: number): void {
    const counts = this.#all.of(type)!;
    counts.requests += requests;
    counts.latency.add(seconds, requests);
    if (type === NBD_CMD_READ) this.readBytes += length;
    else if (type === NBD_CMD_WRITE) this.writtenBytes += length;
    else return;
    counts.bytes += length;
  }
}
