/** A program on a terminal of its own (script, of Debian's bsdutils), with somebody at the keyboard. */
import { within } from "./programs.ts";

/** A user would have given up. */
const DEADLINE_S = 30;
const CTRL_C = "\x03";

export class Terminal implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #keyboard: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reading: Promise<void>;
  #change = Promise.withResolvers<void>();
  #hasEnded = false;
  /** All that it has shown so far. */
  shown = "";

  constructor(program: string, args: string[], cwd: string) {
    const line = [program, ...args].map((word) => `'${word}'`).join(" ");
    const command = `stty columns 100 rows 40 && exec ${line}`;
    this.#child = new Deno.Command("script", {
      args: ["--quiet", "--return", "--command", command, "/dev/null"],
      cwd,
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    this.#keyboard = this.#child.stdin.getWriter();
    this.#reading = this.#read();
  }

  /** Resolves when what is shown from `from` on matches. */
  async until(pattern: RegExp, from = 0): Promise<void> {
    await within(DEADLINE_S, `${pattern} on the terminal`, this.#find(pattern, from));
  }

  async interrupt(): Promise<void> {
    await this.#keyboard.write(new TextEncoder().encode(CTRL_C));
  }

  /** The exit code, once it has ended. */
  async exit(): Promise<number> {
    const { code } = await within(DEADLINE_S, "the end of the program", this.#child.status);
    await this.#reading;
    return code;
  }

  async #find(pattern: RegExp, from: number): Promise<void> {
    while (!pattern.test(this.shown.slice(from))) {
      if (this.#hasEnded) throw new Error(`it ended without ${pattern}:\n${this.shown}`);
      await this.#change.promise;
    }
  }

  async #read(): Promise<void> {
    for await (const part of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      this.shown += part;
      this.#changed();
    }
    this.#hasEnded = true;
    this.#changed();
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL"); // which hangs up on the program
    } catch { /* it has ended */ }
    await this.#keyboard.close().catch(() => {});
    await this.exit();
  }
}
