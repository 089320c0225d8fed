/**
 * How a request to the bucket is made until it is answered: each try with a deadline of its own, and a
 * wait between tries.
 *
 * Two modes. While starting, a refusal that only a person can lift is thrown at once, and anything else
 * after STARTUP_PATIENCE_MS, both as `UsageError`, because somebody sits before the screen. After
 * `startServing` everything is tried without end: the disk waits, it does not lie and does not forget.
 *
 * A try that passes its deadline is aborted and counts as failed: the answer may be lost, and a lost answer
 * must not hang the drive. What it asked for may have been done all the same, or may be done yet. If anything
 * else was answered during the try, the line is slow, and the next try has twice as long; if nothing was, the
 * bucket is away, and a longer try would only find out later that it is back.
 */
import { type Chance, type Clock, sleep } from "../clock.ts";
import { UnavailableError, UsageError } from "../errors.ts";
import {
  BACKOFF_MS_BASE,
  BACKOFF_MS_MAX,
  OUTAGE_SILENCE_MS,
  STARTUP_PATIENCE_MS,
  TRY_BYTES_PER_SECOND,
  TRY_FACTOR_MAX,
  TRY_MS_BASE,
} from "../limits.ts";
import type { Logger } from "../logger.ts";
import { Outage, type PendingRequest } from "./outage.ts";

export interface RetryOptions {
  clock: Clock;
  chance: Chance;
  logger: Logger;
  /** Time of a try besides its bytes; TRY_MS_BASE unless a test has less. */
  tryMsBase?: number;
}

/** What is to be done, in words for messages, and how many bytes it moves. */
export interface Request {
  what: string;
  bytes: number;
}

/** A try had no answer in time. */
class DeadlinePassed extends UnavailableError {}

export class Retries {
  readonly #clock: Clock;
  readonly #chance: Chance;
  readonly #outage: Outage;
  readonly #tryMsBase: number;
  readonly #where: string;
  /** The requests under way, so that `close` can end them. */
  readonly #lives = new Set<AbortController>();
  #serving = false;
  #closed = false;
  /** Tries beyond the first of their request. */
  count = 0;

  /** `where` is the bucket's name for messages. */
  constructor(where: string, options: RetryOptions) {
    this.#where = where;
    this.#clock = options.clock;
    this.#chance = options.chance;
    this.#outage = new Outage(where, options.clock, options.logger);
    this.#tryMsBase = options.tryMsBase ?? TRY_MS_BASE;
  }

  /** From now on nothing is given up before it is answered. */
  startServing(): void {
    this.#serving = true;
  }

  /** Why the bucket does not serve; undefined while it does. */
  get trouble(): string | undefined {
    return this.#outage.trouble;
  }

  /** How long it has not served; 0 while it does. */
  get awayMs(): number {
    return this.#outage.awayMs;
  }

  /** Rejects every request that waits, and all that come. */
  close(): void {
    this.#closed = true;
    for (const life of this.#lives) life.abort(this.#closedError());
  }

  /**
   * Does `act` until it succeeds. Throws what it throws, `UnavailableError` excepted: that means another
   * try. Throws the signal's reason once the caller gives up, and `UsageError` as said above.
   */
  async run<T>(
    request: Request,
    act: (signal: AbortSignal) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    signal?.throwIfAborted();
    if (this.#closed) throw this.#closedError();
    const life = new AbortController();
    const giveUp = () => life.abort(signal!.reason);
    signal?.addEventListener("abort", giveUp, { once: true });
    this.#lives.add(life);
    const pending = this.#outage.requestMade();
    let answered = false;
    try {
      const result = await this.#untilAnswered(request, pending, act, life.signal);
      answered = true;
      return result;
    } finally {
      this.#outage.requestOver(pending, answered);
      this.#lives.delete(life);
      signal?.removeEventListener("abort", giveUp);
    }
  }

  async #untilAnswered<T>(
    request: Request,
    pending: PendingRequest,
    act: (signal: AbortSignal) => Promise<T>,
    life: AbortSignal,
  ): Promise<T> {
    let factor = 1;
    for (let failures = 0;; failures++) {
      const begunMs = this.#clock.monotonic();
      try {
        return await this.#try(request, pending, factor, act, life);
      } catch (error) {
        life.throwIfAborted();
        if (!(error instanceof UnavailableError)) throw error;
        const isSlow = error instanceof DeadlinePassed && this.#outage.hasAnsweredSince(begunMs);
        if (isSlow) factor = Math.min(factor * 2, TRY_FACTOR_MAX);
        const waitMs = this.#backoffMs(failures);
        if (this.#serving) this.#outage.tryFailed(pending, error);
        else this.#throwIfHopeless(error, pending.madeMs, waitMs);
        await sleep(this.#clock, waitMs, life);
        this.count++;
      }
    }
  }

  /** One try. Settles at its deadline or the end of the request's life, even if `act` never does. */
  #try<T>(
    request: Request,
    pending: PendingRequest,
    factor: number,
    act: (signal: AbortSignal) => Promise<T>,
    life: AbortSignal,
  ): Promise<T> {
    const attempt = new AbortController();
    return new Promise((resolve, reject) => {
      const stop = (reason: unknown) => {
        attempt.abort(reason);
        reject(reason);
        release();
      };
      const stopWithLife = () => stop(life.reason);
      const cancelDeadline = this.#atDeadline(request, pending, factor, stop);
      const release = () => {
        cancelDeadline();
        life.removeEventListener("abort", stopWithLife);
      };
      life.addEventListener("abort", stopWithLife, { once: true });
      act(attempt.signal).then(resolve, reject).finally(release);
    });
  }

  /** Calls `stop` when a try that begins now is to end, and has the log say so before if it gets no answer for long. */
  #atDeadline(
    { what, bytes }: Request,
    pending: PendingRequest,
    factor: number,
    stop: (reason: DeadlinePassed) => void,
  ): () => void {
    const within = (ms: number) => `${Math.round(ms / 1000)} s to: ${what} (${this.#where})`;
    const limitMs = this.#limitMs(bytes, factor);
    const pass = () => stop(new DeadlinePassed(`no answer within ${within(limitMs)}`));
    const silentMs = OUTAGE_SILENCE_MS + transferMs(bytes);
    if (!this.#serving || silentMs >= limitMs) return this.#clock.after(limitMs, pass);
    // the second timer only for who comes to the first: each costs as much as signing the request
    const begunMs = this.#clock.monotonic();
    let cancel = this.#clock.after(silentMs, () => {
      cancel = this.#clock.after(limitMs - silentMs, pass);
      this.#outage.trySilent(pending, begunMs, `no answer for ${within(silentMs)}`);
    });
    return () => cancel();
  }

  /** 30 s, and 64 s more for 8 MiB; see limits.ts. Starting, nobody waits 30 s for an error. */
  #limitMs(bytes: number, factor: number): number {
    const baseMs = this.#serving ? this.#tryMsBase : Math.min(this.#tryMsBase, STARTUP_PATIENCE_MS);
    return (baseMs + transferMs(bytes)) * factor;
  }

  /** Full jitter: clients that failed together don't come back together. */
  #backoffMs(failures: number): number {
    return this.#chance.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS_BASE * 2 ** failures);
  }

  #throwIfHopeless(error: UnavailableError, madeMs: number, waitMs: number): void {
    if (error.permanent) throw new UsageError(error.message, { cause: error });
    const triedMs = this.#clock.monotonic() - madeMs;
    if (triedMs + waitMs < STARTUP_PATIENCE_MS) return;
    throw new UsageError(`${error.message} (tried for ${Math.round(triedMs / 1000)} s)`, {
      cause: error,
    });
  }

  #closedError(): UnavailableError {
    return new UnavailableError(`${this.#where} was closed while requests waited for it`);
  }
}

/** How long bytes may take on the slowest line that is still taken for one. */
function transferMs(bytes: number): number {
  return bytes / TRY_BYTES_PER_SECOND * 1000;
}
