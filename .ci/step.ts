/** What the build is made of: a program that is run to its end or to a deadline, and files told by what is in them. */

import { dirname } from "node:path";

export const ROOT = dirname(import.meta.dirname!);

/** Enough to download 40 MB over 2 Mbit/s. */
const DEADLINE_MS = 180_000;

/** A step that did not work; the message says what to do about it. */
export class StepError extends Error {}

export function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** Runs a program in the repository; gives what it wrote, and whether it was stopped at the deadline. */
export async function run(program: string, args: string[], env: Record<string, string> = {}) {
  const signal = AbortSignal.timeout(DEADLINE_MS);
  const command = new Deno.Command(program, { args, env, cwd: ROOT, signal, stdin: "null" });
  const { success, stdout, stderr } = await command.output();
  const text = new TextDecoder().decode(stderr);
  const late = signal.aborted ? `\nstopped after ${DEADLINE_MS / 1000} s` : "";
  return { success, stdout: new TextDecoder().decode(stdout), stderr: text + late, late: !!late };
}

/** The same for a program that has to succeed; gives what it printed. */
export async function mustRun(
  program: string,
  args: string[],
  env?: Record<string, string>,
): Promise<string> {
  const { success, stdout, stderr } = await run(program, args, env);
  if (!success) throw new StepError(`${program} ${args[0]}: ${stderr.trim()}`);
  return stdout;
}

export async function sha256Of(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

/** Runs a task to its verdict: exit code 1, and one line instead of a stack, for what can be expected to fail. */
export async function task(name: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof StepError || error instanceof Deno.errors.NotFound)) throw error;
    say(`${name}: ${error.message}`);
    Deno.exit(1);
  }
}
