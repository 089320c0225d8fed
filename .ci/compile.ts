/**
 * `deno task compile`: makes dist/elasticdrive, one executable that needs nothing else installed.
 *
 * `deno bundle` first joins the program and what it uses of its packages into a few files of JavaScript,
 * then `deno compile` puts these behind Deno's runtime. Compiled from its source the program would take along
 * whole packages, type files and all: 13.1 MB instead of 1.7, and 20 ms more to start.
 * - Split, so that a drive in a directory does not load the AWS client, nor one with keys every provider of keys.
 * - Not minified: 0.9 MB less, but a stack trace would say nothing, and this version's bundle breaks
 *   ("Dynamic require of node:crypto").
 * - The bundle names the files it was made of, relative to the repository. So they are read from a cache
 *   inside it: the same commit gives the same bytes wherever it is checked out, and whoever compiles it.
 * - deno.lock guards what goes in; what compiles the bundle may look nothing up, so nothing is left out of it.
 *   (esbuild, which bundles, comes from npm in the one version that is part of this version of Deno.)
 *
 * Where the runtime is taken from, first to last: the file named by DENORT_BIN (this machine's only); one
 * cut out earlier (dist/.denort); Deno's host; npm (denort.ts). No step waits for ever.
 */

import { dirname, join } from "node:path";
import { fetchRuntime, keptRuntime } from "./denort.ts";
import { mustRun, ROOT, run, say, StepError, task } from "./step.ts";

export const PROGRAM = join(ROOT, "dist", "elasticdrive");

/** The program joined with what it uses of its packages. */
export const BUNDLE = join(ROOT, "dist", ".bundle");

const CACHE = join(ROOT, "dist", ".deno");

/** Taken out of the environment, where a compile for another machine would find it too. */
const NAMED_RUNTIME = Deno.env.get("DENORT_BIN");
Deno.env.delete("DENORT_BIN");

/** What `deno compile` says when it has no runtime, as opposed to a mistake in the program. */
const NO_RUNTIME = "Setting up base binary";

/**
 * The permissions that the `start` task of deno.json runs the source with: one list for both. Read and
 * write are not narrowed to paths, because config.ini decides where a directory bucket or a socket is.
 */
function permissions(): string[] {
  const tasks = Deno.readTextFileSync(join(ROOT, "deno.json"));
  const start = /"command": "(.*) main\.ts"/.exec(tasks)![1];
  return start.split(" ").filter((word) => /^--(allow-|no-prompt)/.test(word));
}

/** Makes dist/.bundle, out of which `compile` makes executables. */
async function bundle(): Promise<void> {
  await mustRun("rm", ["-rf", BUNDLE]);
  // A stale deno.lock is an error here, not something to mend.
  const guarded = ["--lock=deno.lock", "--frozen"];
  const args = ["bundle", "--quiet", ...guarded, "--code-splitting", "--outdir", BUNDLE, "main.ts"];
  await mustRun(Deno.execPath(), args, { DENO_DIR: CACHE });
  for (const { name } of Deno.readDirSync(BUNDLE)) {
    const part = join(BUNDLE, name);
    nameExports(part);
    // `deno compile` stores when a file was made, which would make each executable another one.
    Deno.utimeSync(part, 0, 0);
  }
}

/**
 * A part that was CommonJS exports all it has as `default`, and who imports it dynamically looks for names: the AWS
 * SDK for `getDefaultRoleAssumerWithWebIdentity` of STS. What Deno and Node do for it esbuild leaves out.
 */
function nameExports(part: string): void {
  const isCommonJs = (name: string) =>
    /^export default require_\w+\(\);$/m.test(Deno.readTextFileSync(join(BUNDLE, name)));
  const text = Deno.readTextFileSync(part).replaceAll(
    /\bimport\("\.\/([^"]+)"\)/g,
    (call, name) => isCommonJs(name) ? `${call}.then((part) => part.default)` : call,
  );
  Deno.writeTextFileSync(part, text);
}

function denoCompile(target: string, output: string, runtime?: string) {
  const args = [
    ...["compile", "--target", target, "--no-check"],
    ...["--no-config", "--no-lock", "--no-npm", "--no-remote"],
    // The code cache would be a file of a known name in /tmp, which another user can put there first.
    "--no-code-cache",
    ...permissions(),
    ...["--output", output, join(BUNDLE, "main.js")],
  ];
  return run(Deno.execPath(), args, runtime ? { DENORT_BIN: runtime } : {});
}

/** Makes an executable for a machine. Its name is in it, so `output` ends in that of the program. */
export async function compile(target: string, output: string): Promise<void> {
  await Deno.mkdir(dirname(output), { recursive: true });
  const isOwn = target === Deno.build.target;
  const runtime = (isOwn && NAMED_RUNTIME) || await keptRuntime(target);
  let result = await denoCompile(target, output, runtime);
  if (!runtime && (result.late || result.stderr.includes(NO_RUNTIME))) {
    say(`Deno's host does not give the runtime for ${target}; taking it from npm`);
    result = await denoCompile(target, output, await fetchRuntime(target));
  }
  if (!result.success) throw new StepError(`deno compile: ${result.stderr.trim()}`);
}

/** Makes dist/elasticdrive. */
export async function compileProgram(): Promise<void> {
  await bundle();
  await compile(Deno.build.target, PROGRAM);
  say(`dist/elasticdrive: ${(Deno.statSync(PROGRAM).size / 1e6).toFixed(1)} MB`);
}

if (import.meta.main) await task("compile", compileProgram);
