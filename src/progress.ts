/** How long work is shown: on a terminal as one line that changes, elsewhere as a line now and then. */
import type { Clock } from "./clock.ts";
import { GIB, KIB, MIB, TIB } from "./limits.ts";
import type { Logger } from "./logger.ts";

const LINE_EVERY_MS = 5000;
const TERMINAL_EVERY_MS = 100;

/** A size for people, exact if it is a whole number of its unit: "64 KiB", "1.5 GiB". */
export function showBytes(bytes: number): string {
  const units: [number, string][] = [[TIB, "TiB"], [GIB, "GiB"], [MIB, "MiB"], [KIB, "KiB"]];
  const [size, unit] = units.find(([size]) => bytes >= size) ?? [1, "bytes"];
  const value = bytes / size;
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${unit}`;
}

/** One line of progress: on a terminal it changes in place. */
class ProgressLine {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #isTerminal: boolean;
  readonly #startedAt: number;
  #shownAt = -Infinity;

  constructor(clock: Clock, logger: Logger, isTerminal: boolean) {
    this.#clock = clock;
    this.#logger = logger;
    this.#isTerminal = isTerminal;
    this.#startedAt = clock.monotonic();
  }

  get seconds(): number {
    return (this.#clock.monotonic() - this.#startedAt) / 1000;
  }

  /** Shows the text, if it is time for a new one. */
  show(text: (isTerminal: boolean) => string): void {
    const now = this.#clock.monotonic();
    if (now - this.#shownAt < (this.#isTerminal ? TERMINAL_EVERY_MS : LINE_EVERY_MS)) return;
    this.#shownAt = now;
    if (this.#isTerminal) this.#write(`\r\x1b[K${text(true)}`);
    else this.#logger.info(text(false));
  }

  /** Takes the line away from a terminal. */
  end(): void {
    if (this.#isTerminal) this.#write("\r\x1b[K");
  }

  #write(text: string): void {
    Deno.stderr.writeSync(new TextEncoder().encode(text));
  }
}

/** Shows how much is still to be stored while the program stops. */
export class DrainProgress {
  readonly #line: ProgressLine;
  readonly #logger: Logger;
  #totalBytes = 0;

  constructor(clock: Clock, logger: Logger, isTerminal: boolean) {
    this.#line = new ProgressLine(clock, logger, isTerminal);
    this.#logger = logger;
  }

  show(leftBytes: number): void {
    this.#totalBytes = Math.max(this.#totalBytes, leftBytes);
    const all = showBytes(this.#totalBytes);
    this.#line.show(() => `stopping: ${showBytes(leftBytes)} of ${all} to store`);
  }

  end(result: string): void {
    this.#line.end();
    this.#logger.info(`stopped after ${this.#line.seconds.toFixed(1)} s: ${result}`);
  }
}

const BAR_LENGTH = 30;

/** Shows how much of a volume has been read. */
export class CheckProgress {
  readonly #line: ProgressLine;

  constructor(clock: Clock, logger: Logger, isTerminal: boolean) {
    this.#line = new ProgressLine(clock, logger, isTerminal);
  }

  show(doneBytes: number, allBytes: number): void {
    this.#line.show((isTerminal) => {
      const share = allBytes === 0 ? 1 : doneBytes / allBytes;
      const percent = `${Math.floor(share * 100)} %`.padStart(5);
      const perSecond = showBytes(Math.round(doneBytes / Math.max(this.#line.seconds, 0.001)));
      const text = `${percent}, ${showBytes(doneBytes)} of ${showBytes(allBytes)}, ${perSecond}/s`;
      const filled = Math.floor(share * BAR_LENGTH);
      if (!isTerminal) return `checking:${text}`;
      return `checking [${"#".repeat(filled).padEnd(BAR_LENGTH, ".")}]${text}`;
    });
  }

  /** Returns the seconds it took. */
  end(): number {
    this.#line.end();
    return this.#line.seconds;
  }
}
