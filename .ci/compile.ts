/**
 * `deno task compile`: makes dist/elasticdrive, one executable that needs nothing else installed.
 *
 * `deno compile` puts the program behind Deno's runtime for compiled programs, `denort`, an ELF file of
 * 97,076,048 bytes that it downloads from Deno's own host the first time. Where that host can't be
 * reached but npm can, the same runtime comes out of an npm package: `@stdy/cli-linux-x64@0.22.2` is a
 * command-line program that its authors made with `deno compile` of this very version. Such a program
 * is `denort` with the program's own bytes appended, and an ELF file says where it ends (behind its
 * section header table), so cutting it there gives `denort` back. Length and SHA-256 are pinned below:
 * anything else than the runtime this repository has been tested with is refused.
 *
 * Where the runtime is taken from, first to last: the file named by DENORT_BIN; a runtime cut out
 * earlier (dist/.denort); Deno's host; the npm package. No step waits for ever.
 */

import { dirname, join } from "node:path";

const ROOT = dirname(import.meta.dirname!);
const OUTPUT = join(ROOT, "dist", "elasticdrive");

const NPM_PACKAGE = "@stdy/cli-linux-x64@0.22.2";
const NPM_MEMBER = "package/bin/steady";
const RUNTIME_BYTES = 97_076_048;
const RUNTIME_SHA256 = "f12d5d3886d5ea138304fb8d67d7396cfbedf53656676132152cb89f3fa4d8e6";
/** Named by what is in it, so that a next version of Deno does not find this one. */
const RUNTIME = join(ROOT, "dist", ".denort", RUNTIME_SHA256);

/** Enough to download 40 MB over 2 Mbit/s. */
const DEADLINE_MS = 180_000;

/** What `deno compile` says when it has no runtime, as opposed to a mistake in the program. */
const NO_RUNTIME = "Setting up base binary";

class CompileError extends Error {}

function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** Runs a program to its end or the deadline; gives its exit code and what it wrote to stderr. */
async function run(program: string, args: string[], env: Record<string, string> = {}) {
  const signal = AbortSignal.timeout(DEADLINE_MS);
  const command = new Deno.Command(program, { args, env, cwd: ROOT, signal, stdin: "null" });
  const { success, stdout, stderr } = await command.output();
  const text = new TextDecoder().decode(stderr);
  const late = signal.aborted ? `\nstopped after ${DEADLINE_MS / 1000} s` : "";
  return { success, stdout: new TextDecoder().decode(stdout), stderr: text + late, late: !!late };
}

/**
 * The permissions that the `start` task of deno.json runs the source with: one list for both. Read and
 * write are not narrowed to paths, because config.ini decides where a directory bucket or a socket is.
 */
function permissions(): string[] {
  const tasks = Deno.readTextFileSync(join(ROOT, "deno.json"));
  const start = /"command": "(.*) main\.ts"/.exec(tasks)![1];
  return start.split(" ").filter((word) => /^--(allow-|no-prompt)/.test(word));
}

function compile(runtime?: string) {
  const args = [
    // A stale deno.lock is an error here, not something to mend.
    ...["compile", "--lock=deno.lock", "--frozen", "--no-check"],
    // The code cache would be a file of a known name in /tmp, which another user can put there first.
    "--no-code-cache",
    ...permissions(),
    ...["--output", OUTPUT, "main.ts"],
  ];
  return run(Deno.execPath(), args, runtime ? { DENORT_BIN: runtime } : {});
}

/** Takes the runtime out of the npm package, into dist/.denort. */
async function fetchRuntime(): Promise<void> {
  if (Deno.build.target !== "x86_64-unknown-linux-gnu") {
    throw new CompileError(
      `${NPM_PACKAGE} holds the runtime for x86_64 Linux, and this is ${Deno.build.target}: name a ` +
        `denort ${Deno.version.deno} for this machine with DENORT_BIN`,
    );
  }
  const dir = await Deno.makeTempDir({ prefix: "elasticdrive-denort-" });
  try {
    const packed = await run("npm", ["pack", "--silent", "--pack-destination", dir, NPM_PACKAGE]);
    if (!packed.success) throw new CompileError(`npm pack ${NPM_PACKAGE}: ${packed.stderr.trim()}`);
    const archive = join(dir, packed.stdout.trim().split("\n").at(-1)!);
    const untarred = await run("tar", ["-xzf", archive, "-C", dir, NPM_MEMBER]);
    if (!untarred.success) throw new CompileError(`tar: ${untarred.stderr.trim()}`);
    const program = await Deno.readFile(join(dir, NPM_MEMBER));
    await keepRuntime(program.subarray(0, elfBytes(program)));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** Where a 64-bit little-endian ELF file ends: behind its section header table, the last thing in it. */
function elfBytes(file: Uint8Array): number {
  const header = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 64 || header.getUint32(0) !== 0x7f454c46) throw new CompileError("no ELF file");
  const sectionHeaders = Number(header.getBigUint64(0x28, true)); // e_shoff
  const entryBytes = header.getUint16(0x3a, true); // e_shentsize
  const entries = header.getUint16(0x3c, true); // e_shnum
  return sectionHeaders + entryBytes * entries;
}

async function keepRuntime(runtime: Uint8Array<ArrayBuffer>): Promise<void> {
  const sha256 = await sha256Of(runtime);
  if (runtime.length !== RUNTIME_BYTES || sha256 !== RUNTIME_SHA256) {
    throw new CompileError(
      `the runtime in ${NPM_PACKAGE} has ${runtime.length} bytes and SHA-256 ${sha256}; ` +
        `expected ${RUNTIME_BYTES} and ${RUNTIME_SHA256}`,
    );
  }
  await Deno.mkdir(dirname(RUNTIME), { recursive: true });
  await Deno.writeFile(`${RUNTIME}.part`, runtime, { mode: 0o755 });
  await Deno.rename(`${RUNTIME}.part`, RUNTIME);
}

async function sha256Of(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

async function hasKeptRuntime(): Promise<boolean> {
  try {
    return await sha256Of(await Deno.readFile(RUNTIME)) === RUNTIME_SHA256;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function makeExecutable(): Promise<void> {
  await Deno.mkdir(dirname(OUTPUT), { recursive: true });
  const named = Deno.env.get("DENORT_BIN");
  const kept = !named && await hasKeptRuntime();
  let result = await compile(named ?? (kept ? RUNTIME : undefined));
  if (!named && !kept && (result.late || result.stderr.includes(NO_RUNTIME))) {
    say(`Deno's host does not give the runtime; taking it from npm's ${NPM_PACKAGE}`);
    await fetchRuntime();
    result = await compile(RUNTIME);
  }
  if (!result.success) throw new CompileError(`deno compile: ${result.stderr.trim()}`);
}

try {
  await makeExecutable();
  say(`dist/elasticdrive: ${Math.round(Deno.statSync(OUTPUT).size / 1e6)} MB`);
} catch (error) {
  const expected = error instanceof CompileError || error instanceof Deno.errors.NotFound;
  if (!expected) throw error;
  say(`compile: ${error.message}`);
  Deno.exit(1);
}
