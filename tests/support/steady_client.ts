/** steady_client.py as a test sees it: a client that reads, writes and flushes, and bears no error. */
import { assertEquals } from "@std/assert";
import { TextLineStream } from "./text_lines.ts";
import { within } from "./programs.ts";

const SCRIPT = new URL("./steady_client.py", import.meta.url).pathname;
/** Debian's own Python has Debian's libnbd. */
const PYTHON = "/usr/bin/python3";

export class SteadyClient implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #listening: Promise<void>;
  #heard = Promise.withResolvers<void>();
  #isOver = false;
  /** Flushes and reads that were answered. */
  flushes = 0;
  reads = 0;
  /** The newest line that is neither: the client's last word. */
  verdict = "";

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#listening = this.#listen();
  }

  /** Starts it; resolves when it has filled the disk's upper half and gets answers of both kinds. */
  static async start(uri: string): Promise<SteadyClient> {
    const command = new Deno.Command(PYTHON, {
      args: [SCRIPT, uri],
      stdin: "piped",
      stdout: "piped",
    });
    const client = new SteadyClient(command.spawn());
    await client.goesOn(60);
    return client;
  }

  /** Resolves when a write with its flush, and a read, that begin from now on have been answered. */
  async goesOn(seconds: number): Promise<void> {
    // one of each may have been under way
    const [flushes, reads] = [this.flushes + 2, this.reads + 2];
    const both = this.#until(() => this.flushes >= flushes && this.reads >= reads);
    await within(seconds, "a flush and a read", both);
  }

  /** Has it flush and read everything back. */
  async endIntact(): Promise<void> {
    await this.#child.stdin.close();
    await this.#listening;
    assertEquals(this.verdict, "intact");
  }

  assertUnharmed(): void {
    assertEquals([this.verdict, this.#isOver], ["", false]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.#listening;
    await this.#child.status;
    await this.#child.stdin.close().catch(() => {}); // closed already after a good end
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      if (this.#isOver) throw new Error(`the client has ended; it said: ${this.verdict}`);
      await this.#heard.promise;
    }
  }

  async #listen(): Promise<void> {
    for await (const line of this.#child.stdout.pipeThrough(new TextLineStream())) {
      if (line.startsWith("flushed ")) this.flushes++;
      else if (line.startsWith("read ")) this.reads++;
      else this.verdict = line;
      this.#changed();
    }
    this.#isOver = true;
    this.#changed();
  }

  #changed(): void {
    this.#heard.resolve();
    this.#heard = Promise.withResolvers();
  }
}
