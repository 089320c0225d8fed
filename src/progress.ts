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

/** Shows how much is still to be stored while the program stops. */
export class DrainProgress {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #isTerminal: boolean;
  readonly #startedAt: number;
  #totalBytes = 0;
  #shownAt = -Infinity;

  constructor(clock: Clock, logger: Logger, isTerminal: boolean) {
    this.#clock = clock;
    this.#logger = logger;
    this.#isTerminal = isTerminal;
    this.#startedAt = clock.monotonic();
  }

  show(leftBytes: number): void {
    this.#totalBytes = Math.max(this.#totalBytes, leftBytes);
    const now = this.#clock.monotonic();
    if (now - this.#shownAt < (this.#isTerminal ? TERMINAL_EVERY_MS : LINE_EVERY_MS)) return;
    this.#shownAt = now;
    const text = `stopping: ${showBytes(leftBytes)} of ${showBytes(this.#totalBytes)} to store`;
    if (this.#isTerminal) this.#write(`\r\x1b[K${text}`);
    else this.#logger.info(text);
  }

  end(result: string): void {
    if (this.#isTerminal) this.#write("\r\x1b[K");
    const seconds = ((this.#clock.monotonic() - this.#startedAt) / 1000).toFixed(1);
    this.#logger.info(`stopped after ${seconds} s: ${result}`);
  }

  #write(text: string): void {
    Deno.stderr.writeSync(new TextEncoder().encode(text));
  }
}
