/**
 * The compiled program, as a user runs it: `await using drive = await Drive.start({ bucket, size: "1G" });`
 *
 * Each start has a configuration directory of its own, so that nothing but the bucket is shared with the
 * start before.
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { HeardLines } from "./heard_lines.ts";
import { type ProgramEnd, run, runProgram, within } from "./programs.ts";
import { Scratch } from "./scratch.ts";
import type { TestBucket } from "./test_buckets.ts";

export const PROGRAM = new URL("../../dist/elasticdrive", import.meta.url).pathname;

/** A start or a stop that takes longer is stuck. */
const DEADLINE_S = 30;

export interface DriveOptions {
  bucket: TestBucket;
  /** VOLUMESIZE; without it the drive has the size that the bucket says. */
  size?: string;
  /** More lines of `[s3]`. */
  s3?: Record<string, string>;
  /** More lines of `[server]`. */
  server?: Record<string, string | number>;
  /** Any free TCP port, rather than a Unix socket. */
  tcp?: boolean;
  args?: string[];
  /** Variables besides the ones that the test has. */
  env?: Record<string, string>;
}

/** The text of a config.ini; the socket lies beside it. */
export function configText({ bucket, size, s3 = {}, server = {}, tcp }: DriveOptions): string {
  const lines = (values: Record<string, string | number>) =>
    Object.entries(values).map(([key, value]) => `${key}=${value}\n`).join("");
  const where: Record<string, string | number> = tcp ? { port: 0 } : { socket: "nbd.sock" };
  const shape: Record<string, string> = size === undefined ? {} : { VOLUMESIZE: size };
  return `[s3]\n${bucket.config}${lines({ ...shape, ...s3 })}` +
    `[server]\n${lines({ ...where, ...server, status: server.status ?? "off" })}`;
}

/** Runs the program to its end: one that is refused, or that only prints something. */
export async function runElasticDrive(args: string[]): Promise<ProgramEnd> {
  await using work = await Scratch.make();
  return await runProgram(PROGRAM, args, { cwd: work.path, deadlineS: DEADLINE_S });
}

export class Drive implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #scratch: Scratch | undefined;
  readonly #said: HeardLines;
  #exitCode: number | undefined = undefined;
  /** Of the ready line. */
  address = "";

  private constructor(child: Deno.ChildProcess, scratch?: Scratch) {
    this.#child = child;
    this.#scratch = scratch;
    this.#said = new HeardLines(child.stderr, "the drive");
  }

  /** Starts the program and waits until it is ready. */
  static async start(options: DriveOptions): Promise<Drive> {
    return await Drive.startWith(configText(options), options.args, options.env);
  }

  /** The same with the text of a config.ini. */
  static async startWith(
    config: string,
    args: string[] = [],
    env: Record<string, string> = {},
  ): Promise<Drive> {
    const scratch = await Scratch.make();
    const file = await scratch.write("config.ini", config);
    return await Drive.spawn(PROGRAM, ["-c", file, ...args], scratch.path, scratch, env);
  }

  /** The same with any arguments; `scratch` is removed with the drive. */
  static async spawn(
    program: string,
    args: string[],
    cwd: string,
    scratch?: Scratch,
    env: Record<string, string> = {},
  ): Promise<Drive> {
    const command = new Deno.Command(program, {
      args,
      cwd,
      env,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    });
    const drive = new Drive(command.spawn(), scratch);
    try {
      const ready = await drive.says(/^elasticdrive: ready: /);
      drive.address = /ready: (.*?), /.exec(ready)![1];
      return drive;
    } catch (error) {
      await drive[Symbol.asyncDispose]();
      throw error;
    }
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** The address as NBD clients take it. */
  get uri(): string {
    if (this.address.startsWith("/")) return `nbd+unix:///?socket=${this.address}`;
    return `nbd://${this.address}`;
  }

  get port(): number {
    return Number(/:(\d+)$/.exec(this.address)![1]);
  }

  /** True once it has closed its stderr, which it does when it ends. */
  get hasEnded(): boolean {
    return this.#said.hasEnded;
  }

  /** All it has said so far. */
  get stderr(): string {
    return this.#said.text;
  }

  get readyLine(): string {
    return this.lines.find((line) => line.startsWith("elasticdrive: ready: "))!;
  }

  /** Lines it has said so far. */
  get lines(): readonly string[] {
    return this.#said.lines;
  }

  /** Resolves to the first line it has said, or will say, that matches; of those from line `from` on. */
  async says(pattern: RegExp, from = 0, deadlineS = DEADLINE_S): Promise<string> {
    return await this.#said.until(pattern, deadlineS, from);
  }

  signal(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  /** The exit code, once it has ended; -1 if it was killed. */
  async exit(): Promise<number> {
    if (this.#exitCode !== undefined) return this.#exitCode;
    const { code, signal } = await within(DEADLINE_S, "the end of the drive", this.#child.status);
    await this.#said.ended;
    return this.#exitCode = signal === "SIGKILL" ? -1 : code;
  }

  /** Sends a signal and waits for the end. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    this.signal(signal);
    return await this.exit();
  }

  /** Stops it as a user does who wants everything stored. */
  async stopClean(signal: Deno.Signal = "SIGTERM"): Promise<void> {
    assertEquals(await this.stop(signal), 0, this.stderr);
    assertStringIncludes(this.stderr, "everything is stored");
  }

  async kill(): Promise<void> {
    assertEquals(await this.stop("SIGKILL"), -1, this.stderr);
  }

  /** A number of /proc/PID/status, in bytes. */
  memoryBytes(name: "VmHWM" | "VmRSS"): number {
    const status = Deno.readTextFileSync(`/proc/${this.pid}/status`);
    return Number(new RegExp(`^${name}:\\s*(\\d+) kB`, "m").exec(status)![1]) * 1024;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#exitCode === undefined) {
      // A frozen one does not see any other signal; one that has just ended takes none.
      try {
        this.signal("SIGKILL");
      } catch { /* it has ended */ }
      await this.exit();
    }
    await this.#scratch?.[Symbol.asyncDispose]();
  }
}

/** Copies all of a drive into a file, sparse where it reads as zeroes. */
export async function copyOut(drive: Drive, file: string): Promise<void> {
  await run("nbdcopy", ["--connections=4", "--requests=64", drive.uri, file]);
}

/** Compares all of a drive with a file, byte for byte. */
export async function assertHolds(drive: Drive, image: string): Promise<void> {
  await using scratch = await Scratch.make();
  await copyOut(drive, scratch.file("found"));
  await run("cmp", [image, scratch.file("found")]);
}

/**
 * Stops the drive, opens its volume again with nothing but the bucket, and compares all of it with a file; the
 * file is made first, from the running drive, if none is given. `look` may look for itself.
 */
export async function assertSurvivesRestart(
  drive: Drive,
  bucket: TestBucket,
  image?: string,
  look?: (reopened: Drive) => Promise<void>,
): Promise<void> {
  await using scratch = await Scratch.make();
  const expected = image ?? scratch.file("expected");
  if (image === undefined) await copyOut(drive, expected);
  await drive.stopClean();
  await using reopened = await Drive.start({ bucket });
  await assertHolds(reopened, expected);
  await look?.(reopened);
  await reopened.stopClean();
}
