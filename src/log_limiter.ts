/**
 * Keeps a flood of like lines out of the log: hundreds of clients that are refused, a bad place that is read again and
 * again, a bucket that comes and goes.
 *
 *   quiet ──a line──▶ some lines are shown ──more──▶ the rest is counted, and has a line a minute ──none──▶ quiet
 *
 * Promises
 * - The first line of a kind is shown at once, and so is one about something new as long as its kind has lines left.
 * - The last line of a kind is shown a minute later at most: what has changed to and fro ends as it is.
 * - Each line is shown or counted.
 */
import type { Clock } from "./clock.ts";
import { LOG_FIRST_LINES, LOG_KNOWN_MAX, LOG_WINDOW_MS } from "./limits.ts";

/** Lines of a kind within a window. */
interface Flood<Level> {
  /** How many may still be shown. */
  left: number;
  /** What the shown ones were about, oldest first. */
  known: Set<string>;
  /** Not shown. */
  held: number;
  last: [Level, string] | undefined;
  cancel: () => void;
}

export class LogLimiter<Level> {
  readonly #floods = new Map<string, Flood<Level>>();
  readonly #clock: Clock;
  readonly #write: (level: Level, message: string) => void;

  constructor(clock: Clock, write: (level: Level, message: string) => void) {
    this.#clock = clock;
    this.#write = write;
  }

  /**
   * Shows or counts a line. One about the same as one that was shown is counted; without `about` each is about
   * something new. There are as many kinds as places in the source that say them.
   */
  line(level: Level, message: string, kind: string, about?: string): void {
    const flood = this.#floods.get(kind) ?? this.#begin(kind);
    if (flood.left === 0 || (about !== undefined && flood.known.has(about))) {
      flood.held++;
      flood.last = [level, message];
      return;
    }
    flood.left--;
    if (about !== undefined) remember(flood.known, about);
    this.#write(level, message);
  }

  /** Says now what was counted. */
  flush(): void {
    for (const [kind, flood] of this.#floods) {
      flood.cancel();
      this.#sum(flood);
      this.#floods.delete(kind);
    }
  }

  #begin(kind: string): Flood<Level> {
    const flood = {
      left: LOG_FIRST_LINES,
      known: new Set<string>(),
      held: 0,
      last: undefined,
      cancel: () => {},
    };
    this.#floods.set(kind, flood);
    this.#endLater(kind, flood);
    return flood;
  }

  #endLater(kind: string, flood: Flood<Level>): void {
    flood.cancel = this.#clock.after(LOG_WINDOW_MS, () => {
      if (flood.held === 0) return void this.#floods.delete(kind);
      this.#sum(flood);
      // it goes on: from now on something new has one line beside this one
      flood.left = 1;
      this.#endLater(kind, flood);
    });
  }

  #sum(flood: Flood<Level>): void {
    if (flood.last === undefined) return;
    const [level, message] = flood.last;
    const more = flood.held === 1 ? "" : ` (the last of ${flood.held} more like it)`;
    flood.held = 0;
    flood.last = undefined;
    this.#write(level, message + more);
  }
}

function remember(known: Set<string>, about: string): void {
  known.add(about);
  if (known.size <= LOG_KNOWN_MAX) return;
  for (const oldest of known) return void known.delete(oldest);
}
