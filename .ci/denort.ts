/**
 * Deno's runtime for compiled programs, `denort`, an ELF file of some 90 MB, where Deno's own host does not give it.
 *
 * Where npm can be reached the same runtime comes out of an npm package: `@stdy/cli-linux-x64@0.22.2`, and
 * its sibling for arm64, is a command-line program that its authors made with `deno compile` of this
 * very version. Such a program is `denort` with the program's own bytes appended, and an ELF file says
 * where it ends (behind its section header table), so cutting it there gives `denort` back. Length and SHA-256 are
 * pinned below: anything else than the runtimes this repository has been tested with is refused.
 */

import { dirname, join } from "node:path";
import { mustRun, ROOT, sha256Of, StepError } from "./step.ts";

interface Runtime {
  npmPackage: string;
  bytes: number;
  sha256: string;
}

const NPM_MEMBER = "package/bin/steady";
const RUNTIMES: Record<string, Runtime> = {
  "x86_64-unknown-linux-gnu": {
    npmPackage: "@stdy/cli-linux-x64@0.22.2",
    bytes: 97_076_048,
    sha256: "f12d5d3886d5ea138304fb8d67d7396cfbedf53656676132152cb89f3fa4d8e6",
  },
  "aarch64-unknown-linux-gnu": {
    npmPackage: "@stdy/cli-linux-arm64@0.22.2",
    bytes: 90_596_104,
    sha256: "9c888d915647ff971a497acd39ee45ea63da5f19d12d4363124942c257c055ef",
  },
};

/** Where a runtime is kept, named by what is in it, so that a next version of Deno does not find this one. */
function keptPath({ sha256 }: Runtime): string {
  return join(ROOT, "dist", ".denort", sha256);
}

/** The file that an earlier `fetchRuntime` has left in dist/.denort, if it is whole. */
export async function keptRuntime(target: string): Promise<string | undefined> {
  const runtime = RUNTIMES[target];
  if (runtime === undefined) return undefined;
  try {
    const path = keptPath(runtime);
    return await sha256Of(await Deno.readFile(path)) === runtime.sha256 ? path : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Takes the runtime out of the npm package, into dist/.denort; gives the file. */
export async function fetchRuntime(target: string): Promise<string> {
  const runtime = RUNTIMES[target];
  if (runtime === undefined) {
    throw new StepError(
      `npm has the runtime for ${Object.keys(RUNTIMES).join(" and ")}, and this is ${target}: ` +
        `name a denort ${Deno.version.deno} for this machine with DENORT_BIN`,
    );
  }
  const dir = await Deno.makeTempDir({ prefix: "elasticdrive-denort-" });
  try {
    const pack = ["pack", "--silent", "--pack-destination", dir, runtime.npmPackage];
    const archive = join(dir, (await mustRun("npm", pack)).trim().split("\n").at(-1)!);
    await mustRun("tar", ["-xzf", archive, "-C", dir, NPM_MEMBER]);
    const program = await Deno.readFile(join(dir, NPM_MEMBER));
    return await keep(program.subarray(0, elfBytes(program)), runtime);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** Where a 64-bit little-endian ELF file ends: behind its section header table, the last thing in it. */
function elfBytes(file: Uint8Array): number {
  const header = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 64 || header.getUint32(0) !== 0x7f454c46) throw new StepError("no ELF file");
  const sectionHeaders = Number(header.getBigUint64(0x28, true)); // e_shoff
  const entryBytes = header.getUint16(0x3a, true); // e_shentsize
  const entries = header.getUint16(0x3c, true); // e_shnum
  return sectionHeaders + entryBytes * entries;
}

async function keep(found: Uint8Array<ArrayBuffer>, runtime: Runtime): Promise<string> {
  const { npmPackage, bytes, sha256 } = runtime;
  const foundSha256 = await sha256Of(found);
  if (found.length !== bytes || foundSha256 !== sha256) {
    throw new StepError(
      `the runtime in ${npmPackage} has ${found.length} bytes and SHA-256 ${foundSha256}; ` +
        `expected ${bytes} and ${sha256}`,
    );
  }
  const path = keptPath(runtime);
  await Deno.mkdir(dirname(path), { recursive: true });
  await Deno.writeFile(`${path}.part`, found, { mode: 0o755 });
  await Deno.rename(`${path}.part`, path);
  return path;
}
