/**
 * One line an event, to stderr. Nothing here knows a secret, and callers pass none.
 */

export interface Logger {
  error(message: string): void;
  warn(message: string): void;
  info(message: string): void;
  /** Shown with `debug=1` only; pass a function, so that a silent line costs nothing. */
  debug(message: () => string): void;
}

const encoder = new TextEncoder();

function line(level: string, message: string): void {
  const bytes = encoder.encode(`elasticdrive: ${level}${message.replaceAll("\n", " ")}\n`);
  for (let done = 0; done < bytes.length;) done += Deno.stderr.writeSync(bytes.subarray(done));
}

/** Logs to stderr; debug lines only when `debug` is true. */
export function stderrLogger(debug: boolean): Logger {
  return {
    error: (message) => line("error: ", message),
    warn: (message) => line("warning: ", message),
    info: (message) => line("", message),
    debug: (message) => {
      if (debug) line("debug: ", message());
    },
  };
}

export const silentLogger: Logger = {
  error() {},
  warn() {},
  info() {},
  debug() {},
};
