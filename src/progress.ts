/**
 * How long work is shown: on a terminal as a bar that goes away, elsewhere as a line now and then. Both say how much of
 * how much is done, how fast, and for how long it will go on.
 */
import process from "node:process";
import type { SingleBar } from "cli-progress";
import type { Clock } from "./clock.ts";
import { GIB, KIB, MIB, PROGRESS_LINE_MS, TIB } from "./limits.ts";
import type { Logger } from "./logger.ts";

/** A size for people, exact if it is a whole number of its unit: "64 KiB", "1.5 GiB". */
export function showBytes(bytes: number): string {
  const units: [number, string][] = [[TIB, "TiB"], [GIB, "GiB"], [MIB, "MiB"], [KIB, "KiB"]];
  const [size, unit] = units.find(([size]) => bytes >= size) ?? [1, "bytes"];
  const value = bytes / size;
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${unit}`;
}

/** A time for people, in its two largest units: "59 s", "3 min 20 s", "2 d 5 h". */
export function showSeconds(seconds: number): string {
  const units: [number, string][] = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const whole = Math.round(seconds);
  const first = units.findIndex(([size]) => whole >= size);
  if (first < 0) return "0 s";
  const parts: string[] = [];
  let left = whole;
  for (const [size, unit] of units.slice(first, first + 2)) {
    if (left >= size) parts.push(`${Math.floor(left / size)} ${unit}`);
    left %= size;
  }
  return parts.join(" ");
}

/** "1 segment", "12 segments". */
export function showCount(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

export interface ProgressOptions {
  clock: Clock;
  logger: Logger;
  /** Of stderr: a bar, rather than lines. */
  isTerminal: boolean;
  /** Work that ends sooner shows nothing. */
  quietMs?: number;
  /** What is counted; bytes if nothing else is said. */
  unit?: string;
}

export class Progress implements Disposable {
  readonly #what: string;
  readonly #options: ProgressOptions;
  readonly #startedAt: number;
  readonly #bar: SingleBar | undefined;
  #shownAt: number | undefined;
  /** What the rate is counted from. */
  #first: { ms: number; done: number } | undefined;

  private constructor(what: string, options: ProgressOptions, bar: SingleBar | undefined) {
    this.#what = what;
    this.#options = options;
    this.#bar = bar;
    this.#startedAt = options.clock.monotonic();
  }

  /** @param what is done: "checking" */
  static async begin(what: string, options: ProgressOptions): Promise<Progress> {
    return new Progress(what, options, options.isTerminal ? await makeBar(what) : undefined);
  }

  /** Since the begin. */
  get seconds(): number {
    return (this.#options.clock.monotonic() - this.#startedAt) / 1000;
  }

  /** How far it is now; `all` may change as well. Of nothing there is nothing to say. */
  update(done: number, all: number): void {
    if (all === 0) return;
    this.#first ??= { ms: this.#options.clock.monotonic(), done };
    if (this.seconds * 1000 < (this.#options.quietMs ?? 0)) return;
    if (this.#bar) this.#draw(this.#bar, done, all);
    else this.#tell(done, all);
  }

  /** Takes a bar away from its terminal. */
  [Symbol.dispose](): void {
    if (this.#shownAt !== undefined) this.#bar?.stop();
    this.#shownAt = undefined;
  }

  #draw(bar: SingleBar, done: number, all: number): void {
    const payload = { text: this.#describe(done, all) };
    if (this.#shownAt === undefined) bar.start(all, done, payload);
    this.#shownAt = this.#options.clock.monotonic();
    bar.setTotal(all);
    bar.update(done, payload);
  }

  #tell(done: number, all: number): void {
    const { clock, logger } = this.#options;
    const now = clock.monotonic();
    if (this.#shownAt !== undefined && now - this.#shownAt < PROGRESS_LINE_MS) return;
    this.#shownAt = now;
    const percent = Math.floor(done / all * 100);
    logger.info(`${this.#what}: ${percent} %, ${this.#describe(done, all)}`);
  }

  #describe(done: number, all: number): string {
    const { unit, clock } = this.#options;
    const show = (n: number) => unit === undefined ? showBytes(n) : `${n} ${unit}`;
    const amount = `${unit === undefined ? showBytes(done) : done} of ${show(all)}`;
    const first = this.#first!;
    const perSecond = (done - first.done) * 1000 / (clock.monotonic() - first.ms);
    if (!(perSecond > 0 && perSecond < Infinity)) return amount; // not known yet
    const left = showSeconds((all - done) / perSecond);
    return `${amount}, ${show(Math.round(perSecond))}/s, ${left} left`;
  }
}

/** The library is loaded by those who have a terminal, and something to show on it. */
async function makeBar(what: string): Promise<SingleBar> {
  const { SingleBar } = await import("cli-progress");
  return new SingleBar({
    format: `${what} [{bar}] {percentage} %, {text}`,
    stream: process.stderr,
    barsize: 20,
    barCompleteChar: "#",
    barIncompleteChar: ".",
    fps: 10,
    forceRedraw: true, // a line of the log may have taken its place
    linewrap: true,
    clearOnComplete: true,
    gracefulExit: false,
  });
}
