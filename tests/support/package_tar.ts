/** What `deno task package` makes, without its compression, which a guest takes long to undo. */
import { dirname, join } from "node:path";
import { MEMBERS } from "../../.ci/package.ts";
import manifest from "../../deno.json" with { type: "json" };
import { PROGRAM } from "./drive.ts";
import { run } from "./programs.ts";
import type { Scratch } from "./scratch.ts";

const ROOT = dirname(dirname(PROGRAM));

export const VERSION = manifest.version;
/** As long as this one. */
export const NEXT_VERSION = VERSION.replace(/.$/, (digit) => String((Number(digit) + 1) % 10));

/** The folder of a version; its program is the one compiled last, which says that version. */
export async function packageFolder(scratch: Scratch, version: string): Promise<string> {
  const folder = scratch.file(`elasticdrive-${version}`);
  await Deno.mkdir(folder);
  await run("cp", ["-R", ...MEMBERS.map((member) => join(ROOT, member)), folder]);
  const program = `${folder}/elasticdrive`;
  const edit = `s/version: "${VERSION.replaceAll(".", "\\.")}"/version: "${version}"/`;
  await run("sh", ["-ec", 'LC_ALL=C sed "$1" "$2" >"$3"', "sh", edit, PROGRAM, program]);
  await run("chmod", ["755", program]);
  return folder;
}

export async function packageTar(scratch: Scratch, version: string): Promise<string> {
  const folder = await packageFolder(scratch, version);
  const owner = ["--owner=root:0", "--group=root:0"];
  await run("tar", [
    "-cf",
    `${folder}.tar`,
    ...owner,
    "-C",
    dirname(folder),
    `elasticdrive-${version}`,
  ]);
  await Deno.remove(folder, { recursive: true });
  return `${folder}.tar`;
}
