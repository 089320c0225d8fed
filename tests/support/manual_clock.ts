/**
 * A clock that a test turns by hand. Nothing happens by itself: `advance` goes from timer to timer, in
 * order of time, and lets everything that follows from one run out before it comes to the next.
 */
import { setImmediate } from "node:timers";
import type { Chance, Clock } from "../../src/clock.ts";

interface Timer {
  atMs: number;
  callback: () => void;
}

export class ManualClock implements Clock {
  #nowMs = 0;
  readonly #timers = new Set<Timer>();

  /** `startMs` is what `now` begins with, in ms since 1970. */
  constructor(readonly startMs = 1_700_000_000_000) {}

  now(): number {
    return this.startMs + this.#nowMs;
  }

  monotonic(): number {
    return this.#nowMs;
  }

  after(delayMs: number, callback: () => void): () => void {
    const timer = { atMs: this.#nowMs + Math.max(0, delayMs), callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** Timers that were set and have neither run nor been cancelled. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Moves time on by `ms`, and runs what falls due on the way. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await settle();
    for (let timer; (timer = this.#next(endMs));) {
      this.#timers.delete(timer);
      this.#nowMs = timer.atMs;
      timer.callback();
      await settle();
    }
    this.#nowMs = endMs;
  }

  /** The first timer due by `endMs`; of two due together the one that was set first. */
  #next(endMs: number): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.#timers) {
      if (timer.atMs <= endMs && (!first || timer.atMs < first.atMs)) first = timer;
    }
    return first;
  }
}

/** Lets every promise that can go on do so: a macrotask begins when no microtask is left. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Chance that always says the same: `fraction` for numbers, and counted identities. */
export function fixedChance(fraction: number): Chance {
  let count = 0;
  return {
    random: () => fraction,
    uuid: () => `00000000-0000-4000-8000-${String(++count).padStart(12, "0")}`,
  };
}
