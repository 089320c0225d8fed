/**
 * `deno task test [file or folder ...]`: everything between a fresh Debian 12 with npm and a verdict.
 *
 * Installs what the tests need, checks types, compiles the program (tests run the executable, not only the
 * source) and runs every test file in a process of its own, so that one that crashes, hangs or does not load
 * takes no other with it, and counts as one failure. `deno test` checks for leaked operations and
 * resources by itself in 2.7; from 2.8 on that is off unless deno.json asks for it, which 2.7 does not
 * understand yet: whoever moves the pin adds `"test": { "sanitizeOps": true, "sanitizeResources": true }`.
 *
 * At the end failed tests are named, each with what its failure begins with; the last line is
 * `N passed, N failed`, where steps count as tests; the exit code is 1 if anything failed. Skipped tests
 * are named, and are failures when the environment has CI: there nothing is missing that a test could have
 * to do without.
 */

import { dirname, join, relative, resolve } from "node:path";
import { installPackages, SetupError } from "./support/debian_packages.ts";

/** Debian 12's names. */
const PACKAGES = [
  ...["fio", "nbd-client", "libnbd-bin", "python3-libnbd", "qemu-utils", "nbdkit", "openssl"],
  ...["ceph-mon", "ceph-osd", "ceph-common", "radosgw", "curl", "faketime"],
  ...["qemu-system-x86", "busybox-static", "cpio", "mmdebstrap", "e2fsprogs", "xfsprogs", "mdadm"],
  ...["prometheus", "shellcheck", "chromium", "fonts-dejavu-core"],
];
/** Unit tests come first, because they take seconds, then all there are. */
const FOLDERS = ["tests/unit", "tests"];
/** Of one file; the longest work takes a few minutes. */
const FILE_DEADLINE_MS = 15 * 60_000;

/** So much of each failure is said again at the end. */
const FAILURE_LINES_MAX = 10;
const FAILURE_LINE_CHARS_MAX = 200;

const ROOT = dirname(import.meta.dirname!);
const LOCKED = ["--lock=deno.lock", "--frozen"];

interface Tally {
  passed: number;
  failed: string[];
  skipped: string[];
}

function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** Runs a command with its output shown; true if it ended well within the deadline. */
async function succeeds(program: string, args: string[], deadlineMs?: number): Promise<boolean> {
  const signal = deadlineMs === undefined ? undefined : AbortSignal.timeout(deadlineMs);
  const options = { args, cwd: ROOT, signal, stdout: "inherit", stderr: "inherit" } as const;
  const { success } = await new Deno.Command(program, options).spawn().status;
  if (signal?.aborted) say(`stopped after ${deadlineMs! / 60_000} minutes`);
  return success;
}

/** All of them at once: by each test file anew it would take minutes. */
async function checkTypes(): Promise<void> {
  const args = ["check", "--quiet", ...LOCKED];
  if (!await succeeds(Deno.execPath(), args)) throw new SetupError("the types do not fit");
}

async function compileProgram(): Promise<void> {
  const args = ["run", "--allow-all", ".ci/compile.ts"];
  if (!await succeeds(Deno.execPath(), args)) throw new SetupError("can't compile the program");
}

/** All `*_test.ts` in or below `path`, sorted; `path` itself when it is a file. */
function testFiles(path: string): string[] {
  if (path.endsWith(".ts")) return [path];
  const entries = [...Deno.readDirSync(path)].toSorted((a, b) => a.name < b.name ? -1 : 1);
  return entries.flatMap((entry) => {
    if (entry.isDirectory) return testFiles(join(path, entry.name));
    return entry.name.endsWith("_test.ts") ? [join(path, entry.name)] : [];
  });
}

async function runTestFile(path: string, tally: Tally): Promise<void> {
  const report = Deno.makeTempFileSync({ prefix: "elasticdrive-junit-", suffix: ".xml" });
  try {
    const name = relative(ROOT, path);
    const args = ["test", "--no-check", ...LOCKED, "--allow-all", `--junit-path=${report}`];
    const success = await succeeds(Deno.execPath(), [...args, path], FILE_DEADLINE_MS);
    const before = tally.failed.length;
    const count = readReport(Deno.readTextFileSync(report), name, tally);
    const isSilent = tally.failed.length === before && (!success || count === 0);
    if (isSilent) {
      tally.failed.push(`${name}: ${success ? "holds no test" : "did not run to its end"}`);
    }
  } finally {
    Deno.removeSync(report);
  }
}

/** Adds up a JUnit report of `deno test`; an empty one (the process died, or nothing loaded) has no tests. */
function readReport(xml: string, fileName: string, tally: Tally): number {
  const cases = [...xml.matchAll(/<testcase name="([^"]*)"[^>]*>(.*?)<\/testcase>/gs)];
  for (const [, name, inside] of cases) {
    const title = `${fileName}: ${unescapeXml(name)}`;
    const isFailure = /<(failure|error)\b/.test(inside);
    if (isFailure) tally.failed.push(title + beginningOf(inside, fileName));
    else if (inside.includes("<skipped/>")) tally.skipped.push(title);
    else tally.passed++;
  }
  return cases.length;
}

/** How a failure's text begins, and where in the test file it came from: a log may be kept by its tail alone. */
function beginningOf(failure: string, fileName: string): string {
  const [, text = ""] = />(.*)<\//s.exec(failure) ?? [];
  const lines = unescapeXml(text).split("\n").filter((line) => line.trim() !== "");
  const isPlace = (line: string) => /^\s+at /.test(line);
  const what = lines.filter((line) => !isPlace(line)).slice(0, FAILURE_LINES_MAX);
  const where = lines.find((line) => isPlace(line) && line.includes(fileName)) ?? "";
  const shown = [...what, where.trim()].map((line) => line.slice(0, FAILURE_LINE_CHARS_MAX));
  return shown.map((line) => `\n    ${line}`).join("").trimEnd();
}

function unescapeXml(text: string): string {
  const entities: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
  return text.replace(/&(\w+);/g, (whole, name) => entities[name] ?? whole);
}

async function main(): Promise<Tally> {
  const tally: Tally = { passed: 0, failed: [], skipped: [] };
  try {
    const paths = Deno.args.length > 0 ? Deno.args : FOLDERS;
    const files = new Set(paths.flatMap((path) => testFiles(resolve(ROOT, path))));
    await installPackages(PACKAGES);
    await checkTypes();
    await compileProgram();
    for (const file of files) await runTestFile(file, tally);
  } catch (error) {
    // Whatever it is, the last line is to be the verdict.
    tally.failed.push(error instanceof SetupError ? error.message : Deno.inspect(error));
  }
  return tally;
}

const { passed, failed, skipped } = await main();
for (const title of skipped) say(`skipped: ${title}`);
for (const title of failed) say(`failed: ${title}`);
const failures = failed.length + (Deno.env.get("CI") ? skipped.length : 0);
say(`${passed} passed, ${failures} failed`);
Deno.exit(failures === 0 ? 0 : 1);
