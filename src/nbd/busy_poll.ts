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
 * That pays for one client that answers quickly; several keep the server awake, and need the processor that this takes.
 * A client that pauses costs one vain wait, and an idle one nothing.
 *
 * Bulk, which are payloads so large that a socket does not hold one, is waited for within the turn (`bulkUntil`,
 * `readSoon`), however many clients send it: where it is received as fast as it is sent, the socket is never full, and
 * the client goes on without a sleep for room. Served a buffer full by turns, four of them slept 1.3 times a request
 * of 256 KiB, now 0.2 times, and a third more requests are served.
 *
 * Promises
 * - The event loop has its turn after BUSY_MS_MAX, or TURN_MS_MAX where several send bulk: everybody else waits in it.
 *   (Not by setImmediate: of 61 of those Deno 2.7.11 looks at the sockets once.)
 * - Who may wait is told exactly one of the two, and not before the turn in which it asked has ended.
 */
import type { Clock } from "../clock.ts";
import { BULK_ALONE_MS, BULK_POLL_MS, BUSY_MS_MAX, BUSY_POLL_MS, TURN_MS_MAX } from "../limits.ts";

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
  /** How many are served. */
  #connections = 0;
  /** When a turn began that was not for bulk. */
  #otherMs = -Infinity;
  /** When the event loop had its turn. */
  #sleptMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A connection is to be served. */
  begins(): void {
    this.#connections++;
  }

  ends(): void {
    this.#connections--;
  }

  /**
   * Until when a turn that begins at `nowMs` may wait for more bulk, if that is what it is for. None does while requests
   * of another kind are about, which would be kept waiting.
   */
  bulkUntil(isBulk: boolean, nowMs: number): number {
    if (!isBulk) this.#otherMs = nowMs;
    if (nowMs < this.#otherMs + BULK_ALONE_MS) return nowMs;
    return nowMs + Math.min(BUSY_MS_MAX, TURN_MS_MAX / this.#connections);
  }

  /** Takes what has come within BULK_POLL_MS of `nowMs`; false if that is nothing. */
  readSoon(connection: Polled, nowMs: number): boolean {
    const untilMs = nowMs + BULK_POLL_MS;
    while (!connection.readNow()) {
      if (this.#clock.monotonic() >= untilMs) return false;
    }
    return true;
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
