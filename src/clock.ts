/**
 * Time and chance. Everything else in src/ gets them passed in, so that a simulation can own both and a
 * seed can replay a whole life; `Date`, `setTimeout` and `Math.random` appear in this file only.
 */

export interface Clock {
  /** Milliseconds since 1970, for what is stored or shown. */
  now(): number;
  /** Milliseconds from an arbitrary start, never going back, for intervals. */
  monotonic(): number;
  /** Calls `callback` once after `delayMs`; the returned function cancels it. */
  after(delayMs: number, callback: () => void): () => void;
}

export interface Chance {
  /** A number from 0 (included) to 1 (excluded). */
  random(): number;
  /** A new identity, 36 characters as in RFC 9562. */
  uuid(): string;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

export const systemChance: Chance = {
  random: () => Math.random(),
  uuid: () => crypto.randomUUID(),
};

/** Resolves after `delayMs`, or rejects with the signal's reason when that comes first. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = () => {
      cancel();
      reject(signal!.reason);
    };
    const cancel = clock.after(delayMs, () => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    });
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** What is done in pieces, so that all else has its turn: after a piece that `isOver`, `next`. */
export class Turn {
  readonly #clock: Clock;
  readonly #maxMs: number;
  #untilMs: number;

  constructor(clock: Clock, maxMs: number) {
    this.#clock = clock;
    this.#maxMs = maxMs;
    this.#untilMs = clock.monotonic() + maxMs;
  }

  get isOver(): boolean {
    return this.#clock.monotonic() >= this.#untilMs;
  }

  /** Resolves when all else has had its turn. */
  async next(): Promise<void> {
    await sleep(this.#clock, 0);
    this.#untilMs = this.#clock.monotonic() + this.#maxMs;
  }
}

/**
 * Settles as `promise` does, or rejects with `makeError()` when `limitMs` passes first. The promise
 * itself goes on; nobody hears of its end any more.
 */
export function within<T>(
  clock: Clock,
  limitMs: number,
  promise: Promise<T>,
  makeError: () => Error,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(limitMs, () => reject(makeError()));
    promise.then(resolve, reject).finally(cancel);
  });
}
