/**
 * Waiting for the next request of a client that sends one as soon as it has its answer, without going to sleep.
 *
 * Such a client and this server take turns. If each sleeps while the other works, a round consists of two wake-ups and, on
 * a virtual machine, whose idle processor goes back to its host, of little else. So for a while after a turn the
 * socket is asked whether more has come; Linux does the same for network cards (net.core.busy_read) and for
 * idle guests (guest_halt_poll_ns).
 *
 *   mayWait ──▶ arrived       something came
 *          └──▶ waitForBytes  nothing came for BUSY_POLL_MS: sleep until something does
 *
 * It pays for one client that answers quickly; several keep the server awake, and need the processor that this takes.
 * A client that pauses costs one vain wait, and an idle one nothing.
 *
 * Promises
 * - The event loop has its turn after BUSY_MS_MAX: everybody else waits in it. (Not by setImmediate: of 61 of those
 *   Deno 2.7.11 looks at the sockets once.)
 * - Who may wait is told exactly one of the two, and not before the turn in which it asked has ended.
 */
import type { Clock } from "../clock.ts";
import { BUSY_MS_MAX, BUSY_POLL_MS } from "../limits.ts";

/** A connection that waits for bytes. */
export interface Polled {
  /** Takes what the socket has at this moment; false if that is nothing. */
  readNow(): boolean;
  /** Some bytes were taken. */
  arrived(): void;
  /** The socket did not have any in time. */
  waitForBytes(): void;
}

export class BusyPoll {
  readonly #clock: Clock;
  /** Which began to wait last, and since when no other has, by `Clock.monotonic`. */
  #last: Polled | undefined = undefined;
  #aloneSinceMs = 0;
  /** When it did, and how long its client took the last time that it slept. */
  #sinceMs = 0;
  #tookMs = Infinity;
  /** When the event loop had its turn. */
  #sleptMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether `connection` waits here. If not, it goes to sleep. */
  mayWait(connection: Polled): boolean {
    const nowMs = this.#sinceMs = this.#clock.monotonic();
    if (this.#last !== connection) {
      this.#last = connection;
      this.#aloneSinceMs = nowMs;
    }
    const isAlone = nowMs >= this.#aloneSinceMs + BUSY_MS_MAX;
    const mayWait = isAlone && this.#tookMs < BUSY_POLL_MS && nowMs < this.#sleptMs + BUSY_MS_MAX;
    if (mayWait) queueMicrotask(() => this.#poll(connection));
    return mayWait;
  }

  /** To be told when bytes have come to one that slept. */
  woke(connection: Polled): void {
    this.#sleptMs = this.#clock.monotonic();
    this.#tookMs = this.#last === connection ? this.#sleptMs - this.#sinceMs : Infinity;
  }

  #poll(connection: Polled): void {
    // until another has something to wait for
    while (this.#last === connection) {
      if (connection.readNow()) return connection.arrived();
      if (this.#clock.monotonic() >= this.#sinceMs + BUSY_POLL_MS) break;
    }
    connection.waitForBytes();
  }
}
