/**
 * Runs other people's programs: the NBD clients a user has. One that is missing fails the test that needs it.
 */

/** Nothing a test runs takes longer, on two slow cores; a program that does is stuck and is killed. */
const DEADLINE_S = 180;

export interface ProgramOptions {
  cwd?: string;
  env?: Record<string, string>;
  deadlineS?: number;
}

export interface ProgramEnd {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, whatever that is. */
export async function runProgram(
  program: string,
  args: string[],
  options: ProgramOptions = {},
): Promise<ProgramEnd> {
  const { deadlineS = DEADLINE_S, ...where } = options;
  const streams = { stdin: "null", stdout: "piped", stderr: "piped" } as const;
  let late = "";
  let timer: number | undefined;
  try {
    const child = new Deno.Command(program, { ...where, ...streams, args }).spawn();
    timer = setTimeout(() => {
      late = `\nkilled after ${deadlineS} s`;
      child.kill("SIGKILL");
    }, deadlineS * 1000);
    const { code, stdout, stderr } = await child.output();
    const decoder = new TextDecoder();
    return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) + late };
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Error(`${program} is missing; \`deno task test\` installs it`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

/** Runs a program that has to succeed; gives what it printed. */
export async function run(
  program: string,
  args: string[],
  options: ProgramOptions = {},
): Promise<string> {
  const { code, stdout, stderr } = await runProgram(program, args, options);
  if (code === 0) return stdout;
  throw new Error(`${program} ${args.join(" ")} ended with ${code}:\n${stderr}${stdout}`);
}

/** Debian's own Python has Debian's libnbd; another one, first on the PATH, has not. */
export function runPython(script: string, args: string[]): Promise<string> {
  return run("/usr/bin/python3", ["-c", `import sys, nbd\nuri = sys.argv[1]\n${script}`, ...args]);
}

/** The result of `promise`, or an error that names `what` after `seconds`. */
export async function within<T>(seconds: number, what: string, promise: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const message = () => late.reject(new Error(`${what}: not within ${seconds} s`));
  const timer = setTimeout(message, seconds * 1000);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
