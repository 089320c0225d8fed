/** What another process says, line by line, for a test that waits until it has said something. */
import { within } from "./programs.ts";
import { TextLineStream } from "./text_lines.ts";

export class HeardLines {
  readonly #who: string;
  readonly #lines: string[] = [];
  /** Settles when the process has closed its side, which it does when it ends. */
  readonly ended: Promise<void>;
  #hasEnded = false;
  #change = Promise.withResolvers<void>();

  /** `who` is speaking, for the message of an error. */
  constructor(stream: ReadableStream<Uint8Array<ArrayBuffer>>, who: string) {
    this.#who = who;
    this.ended = this.#listen(stream);
  }

  /** All so far. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  get text(): string {
    return this.#lines.join("\n");
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Resolves to the first line so far, or to come, that matches; of those from line `from` on. */
  async until(pattern: RegExp, deadlineS: number, from = 0): Promise<string> {
    return await within(deadlineS, `a line like ${pattern}`, this.#find(pattern, from));
  }

  async #find(pattern: RegExp, from: number): Promise<string> {
    for (;;) {
      const found = this.#lines.find((line, at) => at >= from && pattern.test(line));
      if (found !== undefined) return found;
      if (this.#hasEnded) throw new Error(`${this.#who} has ended; it said:\n${this.text}`);
      await this.#change.promise;
    }
  }

  async #listen(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    for await (const line of stream.pipeThrough(new TextLineStream())) {
      this.#lines.push(line);
      this.#change.resolve();
      this.#change = Promise.withResolvers();
    }
    this.#hasEnded = true;
    this.#change.resolve();
  }
}
