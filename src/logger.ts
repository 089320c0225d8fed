/**
 * One line an event, to stderr. Whatever is in a message, it is one line, without what a terminal would obey and
 * without a secret (secrets.ts); and lines that come in floods are few (log_limiter.ts).
 *
 * For people a line begins with "elasticdrive: " and, but for news, with its level. The journal knows who speaks; there
 * it begins with the level's number as sd-daemon(3) has it, so that `journalctl -p warning` finds it.
 */
import { type Clock, systemClock } from "./clock.ts";
import { LOG_LINE_CHARS_MAX } from "./limits.ts";
import { LogLimiter } from "./log_limiter.ts";
import { withoutSecrets } from "./secrets.ts";

export interface Logger {
  /**
   * Of lines that may come in a flood, the first of a `kind` are shown and the rest is counted; those that are `about`
   * the same count as one. A line without a kind is always shown.
   */
  error(message: string, kind?: string, about?: string): void;
  warn(message: string, kind?: string, about?: string): void;
  info(message: string, kind?: string, about?: string): void;
  /** Shown with `debug=1` only; pass a function, so that a silent line costs nothing. */
  debug(message: () => string): void;
}

type Level = keyof Logger;

/** As the journal has it, and for people. */
const LEVELS: Record<Level, { number: string; word: string }> = {
  error: { number: "<3>", word: "error: " },
  warn: { number: "<4>", word: "warning: " },
  info: { number: "<6>", word: "" },
  debug: { number: "<7>", word: "debug: " },
};

export interface StderrLogger extends Logger {
  /** Says what was only counted so far: the program ends. */
  flush(): void;
}

export interface LogOptions {
  clock?: Clock;
  /** Lines go to systemd's journal. */
  isJournal?: boolean;
  write?: (line: string) => void;
}

/** Logs to stderr. With `debug` there are debug lines, and no line is held back. */
export function stderrLogger(
  debug: boolean,
  { clock = systemClock, isJournal = isStderrJournal(), write = writeStderr }: LogOptions = {},
): StderrLogger {
  const show = (level: Level, message: string) => {
    const { number, word } = LEVELS[level];
    write(`${isJournal ? number : "elasticdrive: "}${word}${oneLine(withoutSecrets(message))}\n`);
  };
  const limiter = new LogLimiter<Level>(clock, show);
  const log = (level: Level) => (message: string, kind?: string, about?: string) => {
    if (kind === undefined || debug) show(level, message);
    else limiter.line(level, message, kind, about);
  };
  return {
    error: log("error"),
    warn: log("warn"),
    info: log("info"),
    debug: (message) => {
      if (debug) show("debug", message());
    },
    flush: () => limiter.flush(),
  };
}

export const silentLogger: Logger = {
  error() {},
  warn() {},
  info() {},
  debug() {},
};

/**
 * Control characters, what would end a line elsewhere, and what turns the direction of writing (Unicode Standard Annex
 * 9, "Directional formatting characters").
 */
// deno-lint-ignore no-control-regex
const UNPRINTABLE = /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** The text as one line of limited length that means nothing to a terminal: clients, file names and servers are strange. */
export function oneLine(text: string): string {
  const short = text.length > LOG_LINE_CHARS_MAX ? `${text.slice(0, LOG_LINE_CHARS_MAX)}...` : text;
  return short.replace(/\s*\r?\n\s*/g, " ").replace(UNPRINTABLE, (character) => {
    const code = character.charCodeAt(0).toString(16);
    return code.length > 2 ? `\\u${code}` : `\\x${code.padStart(2, "0")}`;
  });
}

/** JOURNAL_STREAM names the device and inode of what systemd connected; stderr may be another file by now (systemd.exec(5)). */
function isStderrJournal(): boolean {
  const stream = Deno.env.get("JOURNAL_STREAM");
  if (!stream) return false;
  try {
    const { dev, ino } = Deno.statSync("/dev/stderr");
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** On a terminal, what takes a bar of progress off its line; the bar draws itself anew below. */
const CLEAR_LINE = "\r\x1b[K";

/** A log that takes no more (its reader has gone, its disk is full) is no reason to end. */
function writeStderr(line: string): void {
  const clear = Deno.stderr.isTerminal() ? CLEAR_LINE : "";
  const bytes = new TextEncoder().encode(clear + line);
  try {
    for (let done = 0; done < bytes.length;) done += Deno.stderr.writeSync(bytes.subarray(done));
  } catch { /* there is nobody else to tell */ }
}
