/**
 * A server for the length of a measurement, in the foreground as our child: it has its id at once, and it ends when
 * it is told to, by itself or not. What it says is kept, for the day that it does not start.
 */
import { HeardLines } from "../support/heard_lines.ts";
import { runProgram, within } from "../support/programs.ts";

const START_S = 30;
/** What is under way is given so long; one that is stuck in thousands of requests is killed. */
const STOP_S = 10;
const LOOK_MS = 10;
/** When all is cut off. */
const CUT_OFF_MS = 1_000;

export class ServerProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #said: HeardLines;
  #hasEnded = false;

  private constructor(child: Deno.ChildProcess, program: string) {
    this.#child = child;
    this.#said = new HeardLines(child.stderr, program);
    child.status.then(() => this.#hasEnded = true);
  }

  /** Starts it, and waits for a file that it makes once it serves. */
  static async start(program: string, args: string[], readyFile: string): Promise<ServerProcess> {
    const options = { args, stdin: "null", stdout: "null", stderr: "piped" } as const;
    const server = new ServerProcess(new Deno.Command(program, options).spawn(), program);
    try {
      await within(START_S, `the start of ${program}`, server.#isReady(program, readyFile));
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  get pid(): number {
    return this.#child.pid;
  }

  async #isReady(program: string, file: string): Promise<void> {
    while (!await Deno.stat(file).then(({ size }) => size > 0, () => false)) {
      if (this.#hasEnded) throw new Error(`${program} has ended; it said:\n${this.#said.text}`);
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  /** Ends it; once more does nothing. */
  async stop(): Promise<void> {
    if (!this.#hasEnded) this.#child.kill("SIGTERM");
    try {
      await within(STOP_S, "a server's end", this.#child.status);
    } catch {
      this.#child.kill("SIGKILL");
      await this.#child.status;
    }
    await this.#said.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** Serves a file of a FUSE file system until it is disposed of; nothing stays mounted, however its server ends. */
export async function mount(
  directory: string,
  program: string,
  args: string[],
  file: string,
): Promise<{ readonly pid: number } & AsyncDisposable> {
  await using cleanUp = new AsyncDisposableStack();
  // a server that is told to end has seen to it; one that is killed has not
  cleanUp.defer(async () => void (await runProgram("fusermount3", ["-u", "-z", "-q", directory])));
  const { pid } = cleanUp.use(await ServerProcess.start(program, args, file));
  const all = cleanUp.move();
  return { pid, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/**
 * So that a run that is cut off leaves nothing behind: no server, no program at work, no mount. In one turn, so
 * that nobody takes their ends for a result.
 */
export function endChildrenWithUs(): void {
  const end = () => {
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      for (const pid of childrenOf(Deno.pid)) {
        try {
          Deno.kill(pid, signal);
        } catch { /* it has ended */ }
      }
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, CUT_OFF_MS);
    }
    Deno.exit(1);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, end);
}

/** Whichever thread has started them (proc(5)). */
function childrenOf(pid: number): number[] {
  const threads = [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) => name);
  return threads.flatMap((thread) =>
    Deno.readTextFileSync(`/proc/${pid}/task/${thread}/children`).split(" ").filter(Boolean)
      .map(Number)
  );
}
