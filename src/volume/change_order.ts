/**
 * The order of changes (writes, trims, zeroes): overlapping ones take effect in the order in which they
 * arrived, also when one of them has to wait; and no change waits for room for ever because smaller
 * ones keep taking it.
 *
 * A change that can be made at once, and overlaps none that waits, never comes through a promise.
 */
import type { Done } from "./block_device.ts";
import type { Contents } from "./contents.ts";

/** What a change waits for: room in the cache, or a fetch. */
export type Blocked = "room" | Promise<void>;

/**
 * Makes the change, or as much of it as it can, in one turn. Returns null when all is done. Throws if
 * it can never be done.
 */
export type Attempt = () => Blocked | null;

interface Waiting {
  start: number;
  end: number;
  done: Promise<void>;
}

export class ChangeOrder {
  readonly #contents: Contents;
  readonly #onChanged: () => void;
  readonly #onRoomWanted: () => void;
  readonly #waiting = new Set<Waiting>();
  /** Settles when the last in the queue for room has got it. */
  #roomQueue: Promise<void> = Promise.resolve();
  #inRoomQueue = 0;

  /**
   * @param onChanged called behind every attempt, in its turn, when all it could do is done
   * @param onRoomWanted called when a change finds no room: dirty data should be on its way
   */
  constructor(contents: Contents, onChanged: () => void, onRoomWanted: () => void) {
    this.#contents = contents;
    this.#onChanged = onChanged;
    this.#onRoomWanted = onRoomWanted;
  }

  /** True if no change waits: then one that needs no waiting itself may be made without `run`. */
  get isIdle(): boolean {
    return this.#waiting.size === 0;
  }

  /** Makes a change of the bytes [start, end), now or when its turn has come. */
  run(start: number, end: number, attempt: Attempt): Done {
    this.#contents.assertAlive();
    const before = this.#overlapping(start, end);
    let blocked: Blocked = "room";
    if (before.length === 0 && this.#inRoomQueue === 0) {
      const first = this.#attempt(attempt);
      if (first === null) return undefined;
      blocked = first;
    }
    const done = this.#later(before, attempt, blocked);
    const entry: Waiting = { start, end, done: done.catch(() => {}) };
    this.#waiting.add(entry);
    entry.done.then(() => this.#waiting.delete(entry));
    return done;
  }

  #attempt(attempt: Attempt): Blocked | null {
    const blocked = attempt();
    this.#onChanged();
    return blocked;
  }

  #overlapping(start: number, end: number): Promise<void>[] {
    if (this.#waiting.size === 0) return [];
    return [...this.#waiting]
      .filter((other) => other.start < end && start < other.end)
      .map((other) => other.done);
  }

  async #later(before: Promise<void>[], attempt: Attempt, blocked: Blocked | null): Promise<void> {
    const contents = this.#contents;
    const sinceMs = contents.clock.monotonic();
    let leaveQueue: (() => void) | null = null;
    try {
      if (before.length > 0) {
        await contents.wait(Promise.all(before), sinceMs);
        contents.assertAlive();
        blocked = this.#inRoomQueue > 0 ? "room" : this.#attempt(attempt);
      }
      while (blocked !== null) {
        if (blocked !== "room") {
          await contents.wait(blocked, sinceMs);
        } else if (leaveQueue === null) {
          leaveQueue = await this.#enterRoomQueue(sinceMs);
        } else {
          this.#onRoomWanted();
          await contents.wait(contents.cache.roomMade(), sinceMs);
        }
        contents.assertAlive();
        blocked = this.#attempt(attempt);
      }
    } finally {
      leaveQueue?.();
    }
  }

  /** Waits to be the first in the queue for room; the function returned lets the next one in. */
  async #enterRoomQueue(sinceMs: number): Promise<() => void> {
    const before = this.#roomQueue;
    const mine = Promise.withResolvers<void>();
    this.#roomQueue = before.then(() => mine.promise);
    this.#inRoomQueue++;
    const leave = () => {
      this.#inRoomQueue--;
      mine.resolve();
    };
    try {
      await this.#contents.wait(before, sinceMs);
    } catch (error) {
      leave();
      throw error;
    }
    return leave;
  }
}
