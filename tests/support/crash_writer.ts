/** crash_writer.py at work on a drive: our own client, every block of which says which change wrote it. */
import { assert } from "@std/assert";
import type { Drive } from "./drive.ts";
import { run } from "./programs.ts";
import { TextLineStream } from "./text_lines.ts";

const SCRIPT = new URL("./crash_writer.py", import.meta.url).pathname;
const PYTHON = "/usr/bin/python3";

export class CrashWriter {
  readonly #seed: number;
  /** Numbers of changes: the last that a flush covered, that was answered, and that was sent; see crash_writer.py. */
  readonly last = { flushed: 0, made: 0, issued: 0 };
  /** Settles when the drive is gone. */
  readonly ended: Promise<void>;
  #flushes = 0;
  #flushed = Promise.withResolvers<void>();

  /**
   * Begins to write.
   *
   * @param flushEvery changes between two flushes; 30 are 700 KiB or so
   * @param killAt kills the drive at the answer to this flush
   */
  constructor(drive: Drive, seed: number, flushEvery: number, killAt = 0) {
    this.#seed = seed;
    const numbers = [seed, flushEvery, drive.pid, killAt].map(String);
    const args = [SCRIPT, "write", drive.uri, ...numbers];
    const child = new Deno.Command(PYTHON, { args, stdin: "null", stdout: "piped" }).spawn();
    this.ended = this.#listen(child);
  }

  async #listen(child: Deno.ChildProcess): Promise<void> {
    for await (const line of child.stdout.pipeThrough(new TextLineStream())) {
      const [what, number] = line.split(" ");
      this.last[what as keyof typeof this.last] = Number(number);
      if (what !== "flushed") continue;
      this.#flushes++;
      this.#flushed.resolve();
      this.#flushed = Promise.withResolvers();
    }
    assert((await child.status).success, "the writer failed");
  }

  /** Settles when so many more flushes have been answered. */
  async untilFlushed(times: number): Promise<void> {
    for (const enough = this.#flushes + times; this.#flushes < enough;) await this.#flushed.promise;
  }

  /**
   * Looks at all of a disk after the end, which is one moment of this writer's, and no earlier than the last flush.
   *
   * @param where a URI, or a file that holds the disk
   * @param base a file: the disk as it was before; becomes what is found
   * @param wasClean the drive has stored everything before it went
   */
  async check(where: string, base: string, wasClean = false): Promise<void> {
    const { flushed, made, issued } = this.last;
    const numbers = [wasClean ? made : flushed, issued].map(String);
    await run(PYTHON, [SCRIPT, "check", where, String(this.#seed), base, ...numbers]);
  }
}
