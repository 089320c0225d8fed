/**
 * What a new connection waits for before its first change.
 *
 * The Linux kernel sends what was not answered on a lost connection once more on a new one. The first copies may still
 * lie unread in the old socket, because the server was busy or had no room; served later than what follows the
 * second copies on the new connection, they would bring back old data. The device orders changes by their arrival, so it
 * suffices that all that older connections had been sent is in its hands, or dropped, before the first change
 * of a new one: what the device has does not matter here, nor do reads.
 *
 * No socket says that it is empty. But a read that brings less than it had room for has emptied it; and a connection that
 * waits for its client at two looks, between which nothing moved and the event loop went round, had
 * nothing to read at the second. One that shows neither is waited for until it has taken more than a socket holds.
 */

import type { Clock } from "../clock.ts";
import { SOCKET_BYTES_MAX } from "../limits.ts";

/** From one look to the next. */
const LOOK_MS = 10;

/** An older connection, as far as it matters here. */
export interface Predecessor {
  /** It begins no request any more. */
  readonly isOver: boolean;
  /** Whether it can go on only when its client sends something or takes a reply. */
  readonly waitsForClient: boolean;
  /** Bytes received, and whatever else it did: grows whenever it gets on. */
  readonly moved: number;
  /** How often a read emptied its socket. */
  readonly emptied: number;
}

interface Look {
  at: Predecessor;
  firstMoved: number;
  firstEmptied: number;
  /** As it was when the connection last waited for its client; -1 if it did not at the last look. */
  restingMoved: number;
}

export class Predecessors {
  #left: Look[];
  readonly #clock: Clock;
  readonly #onServed: () => void;
  #cancel: (() => void) | undefined = undefined;

  /** `onServed` is called when `areServed` has become true after it was not. */
  constructor(older: Predecessor[], clock: Clock, onServed: () => void) {
    this.#left = older.map((at) => ({
      at,
      firstMoved: at.moved,
      firstEmptied: at.emptied,
      restingMoved: -1,
    }));
    this.#clock = clock;
    this.#onServed = onServed;
  }

  /** The first call begins to look. */
  areServed(): boolean {
    if (this.#left.length > 0 && this.#cancel === undefined) this.#look();
    return this.#left.length === 0;
  }

  /** Looks no more. */
  forget(): void {
    this.#cancel?.();
  }

  #look = (): void => {
    this.#left = this.#left.filter((look) => !isServed(look));
    if (this.#left.length === 0) this.#onServed();
    else this.#cancel = this.#clock.after(LOOK_MS, this.#look);
  };
}

function isServed(look: Look): boolean {
  const { isOver, waitsForClient, moved, emptied } = look.at;
  if (isOver || moved - look.firstMoved > SOCKET_BYTES_MAX) return true;
  const hasRested = moved === look.restingMoved || emptied > look.firstEmptied;
  if (waitsForClient && hasRested) return true;
  look.restingMoved = waitsForClient ? moved : -1;
  return false;
}
