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
 * Promises: the event loop has its turn after twice BUSY_POLL_MS at the latest. Who may wait is told exactly one
 * of the two, and not before the turn in which it asked has ended.
 */
import { type Clock, nextTurn } from "../clock.ts";
import { BUSY_POLL_MS } from "../limits.ts";

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
  readonly #nextTurn: (callback: () => void) => void;
  /** Which began to wait last, when, and how long its client took the time before, by `Clock.monotonic`. */
  #last: Polled | undefined = undefined;
  #sinceMs = 0;
  #tookMs = Infinity;
  /** When the event loop had its turn. */
  #turnMs = -Infinity;

  constructor(clock: Clock, afterTurn = nextTurn) {
    this.#clock = clock;
    this.#nextTurn = afterTurn;
  }

  /** Whether `connection`, which has nothing else to wait for, waits here. If not, it goes to sleep. */
  mayWait(connection: Polled): boolean {
    const isAlone = this.#last === connection;
    this.#last = connection;
    this.#sinceMs = this.#clock.monotonic();
    if (!isAlone) this.#tookMs = Infinity;
    if (this.#tookMs >= BUSY_POLL_MS) return false;
    if (this.#sinceMs < this.#turnMs + BUSY_POLL_MS) {
      queueMicrotask(() => this.#poll(connection));
    } else {
      this.#nextTurn(() => {
        this.#turnMs = this.#clock.monotonic();
        this.#poll(connection);
      });
    }
    return true;
  }

  #poll(connection: Polled): void {
    const untilMs = this.#clock.monotonic() + BUSY_POLL_MS;
    // until another has something to wait for
    while (this.#last === connection) {
      if (connection.readNow()) return connection.arrived();
      if (this.#clock.monotonic() >= untilMs) break;
    }
    connection.waitForBytes();
  }

  /** To be told when bytes have come, whoever waited for them. */
  cameTo(connection: Polled): void {
    if (this.#last === connection) this.#tookMs = this.#clock.monotonic() - this.#sinceMs;
  }
}
