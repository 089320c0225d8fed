/**
 * `elasticdrive status`: once, or again and again. On a terminal a watch has a screen of its own, which is gone when it
 * ends; elsewhere it prints a block now and then. When the drive is away, or was started again, it says so and goes on.
 */
import { type Clock, sleep } from "../clock.ts";
import { UsageError } from "../errors.ts";
import { WATCH_EVERY_MS, WATCH_LINES_EVERY_MS } from "../limits.ts";
import { showSeconds } from "../progress.ts";
import type { Answer } from "./ask.ts";
import { reportLines } from "./lines.ts";
import type { StatusReport } from "./report.ts";

/** What a watch needs of the world. */
export interface Watching {
  clock: Clock;
  /** Asks the drive. */
  ask: () => Promise<Answer>;
  /** Of the drive, for people. */
  address: string;
  /** Whose drive is to answer, as a report names it. */
  volume: string;
  asJson: boolean;
  /** Throws BrokenPipe when nobody reads any more. */
  write: (text: string) => void;
}

/** Prints how the drive is. True if it is well. Throws `UsageError` if none answers, or another one does. */
export async function showStatus(watching: Watching): Promise<boolean> {
  const { ask, address, asJson, write } = watching;
  const answer = await ask();
  if (answer.kind === "none") {
    throw new UsageError(`no drive answers at ${address}: ${answer.why}`);
  }
  if (answer.kind === "opening") {
    write(asJson ? `${JSON.stringify({ trouble: answer.why })}\n` : `${answer.why}\n`);
    return false;
  }
  const { report } = answer;
  write(asJson ? `${JSON.stringify(report)}\n` : `${reportLines({ now: report }).join("\n")}\n`);
  const stranger = strangerOf(report, watching);
  if (stranger) throw new UsageError(stranger, { key: "status" });
  return report.trouble === null;
}

/** Two drives of a machine have the same address, until one is given another. */
function strangerOf(
  { volume: { name } }: StatusReport,
  { address, volume }: Pick<Watching, "address" | "volume">,
) {
  if (name === volume) return undefined;
  return `the drive at ${address} is another one, that of ${name}; name its configuration with -c, ` +
    `or give ${volume} a status of its own in [server]`;
}

/** Columns and rows; undefined if it is no terminal. */
export type Size = { columns: number; rows: number } | undefined;

/**
 * Shows how the drive is until `signal` aborts, or nobody reads.
 *
 * @param sizeOf asked each time, for a terminal's size changes
 */
export async function watchStatus(
  watching: Watching,
  sizeOf: () => Size,
  signal: AbortSignal,
): Promise<void> {
  const { clock, ask, write, asJson } = watching;
  const isScreen = sizeOf() !== undefined && !asJson;
  const everyMs = isScreen || asJson ? WATCH_EVERY_MS : WATCH_LINES_EVERY_MS;
  const watch = new Watch(watching);
  try {
    if (isScreen) write(ENTER_SCREEN);
    while (!signal.aborted) {
      const lines = watch.take(await ask());
      const size = sizeOf();
      if (!signal.aborted) {
        write(isScreen && size ? onScreen(lines, size) : `${lines.join("\n")}\n`);
      }
      await sleep(clock, everyMs, signal).catch(() => {});
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  } finally {
    if (isScreen) write(LEAVE_SCREEN);
  }
}

// xterm's control sequences: an alternate screen, the cursor at its begin, the rest of a line or of the screen
const ENTER_SCREEN = "\x1b[?1049h";
const LEAVE_SCREEN = "\x1b[?1049l";
const HOME = "\x1b[H";
const CLEAR_LINE = "\x1b[K";
const CLEAR_BELOW = "\x1b[J";

function onScreen(lines: string[], { columns, rows }: { columns: number; rows: number }): string {
  const shown = lines.slice(0, rows).map((line) => line.slice(0, columns) + CLEAR_LINE);
  return HOME + shown.join("\n") + CLEAR_BELOW;
}

/** What is known of the drive from one answer to the next. */
class Watch {
  readonly #clock: Clock;
  readonly #address: string;
  readonly #volume: string;
  readonly #asJson: boolean;
  #before: StatusReport | undefined;
  #lines: string[] = [];
  /** Since when there has been no report. */
  #awayAt: number | undefined;
  #note: string[] = [];

  constructor({ clock, address, volume, asJson }: Watching) {
    this.#clock = clock;
    this.#address = address;
    this.#volume = volume;
    this.#asJson = asJson;
  }

  /** The lines to show now. */
  take(answer: Answer): string[] {
    if (answer.kind !== "report") return this.#away(answer.why);
    this.#awayAt = undefined;
    const { report: now } = answer;
    if (this.#asJson) return [JSON.stringify(now)];
    const isSame = this.#before?.startedAtMs === now.startedAtMs;
    if (this.#before && !isSame) {
      this.#note = [`the drive was started again at ${new Date(now.startedAtMs).toISOString()}`];
    }
    this.#lines = reportLines({ now, before: isSame ? this.#before : undefined });
    this.#before = now;
    const stranger = strangerOf(now, { address: this.#address, volume: this.#volume });
    return [...(stranger ? [stranger, ""] : []), ...this.#lines, "", ...this.#note];
  }

  #away(why: string): string[] {
    const now = this.#clock.monotonic();
    this.#awayAt ??= now;
    if (this.#asJson) return [JSON.stringify({ trouble: why })];
    const seconds = showSeconds((now - this.#awayAt) / 1000);
    const lines = [`no report from ${this.#address} for ${seconds}: ${why}`];
    if (this.#lines.length > 0) lines.push("", "the last one:", ...this.#lines);
    return lines;
  }
}
