/**
 * `deno task package`: makes dist/elasticdrive-<version>-linux-<machine>.tar.gz, for x86_64 and aarch64, and
 * dist/SHA256SUMS. Unpacked into /opt it is /opt/elasticdrive-<version>, with all that install.sh needs.
 *
 * The version is deno.json's, which `elasticdrive --version` says. The same commit gives the same bytes: names are
 * sorted, all belongs to root, what its owner may read or run everybody may, and all is as old as the commit
 * (or SOURCE_DATE_EPOCH, in seconds, as reproducible-builds.org has it). compile.ts keeps to it as well.
 *
 * This machine's package has to come about; the other one is left out, with a line that says why, where its
 * runtime can't be had.
 */

import { join } from "node:path";
import manifest from "../deno.json" with { type: "json" };
import { BUNDLE, compile, compileProgram, PROGRAM } from "./compile.ts";
import { licencesOf } from "./licences.ts";
import { mustRun, ROOT, say, sha256Of, StepError, task } from "./step.ts";

const DIST = join(ROOT, "dist");
const NAME = `elasticdrive-${manifest.version}`;
const TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/** What is in the package beside the executable, as it is in the repository. */
export const MEMBERS = [
  "LICENSE",
  "README.md",
  "config.ini.example",
  "install.sh",
  "monitoring",
  "systemd",
];

function assertMembers(): void {
  const present = new Set([...Deno.readDirSync(ROOT)].map((entry) => entry.name));
  const missing = MEMBERS.filter((name) => !present.has(name));
  if (missing.length > 0) throw new StepError(`missing in ${ROOT}: ${missing.join(", ")}`);
}

async function packageSeconds(): Promise<string> {
  const named = Deno.env.get("SOURCE_DATE_EPOCH");
  return named ?? (await mustRun("git", ["log", "-1", "--format=%ct"])).trim();
}

/** Packs the program for a machine; gives the package's name. */
async function pack(target: string, seconds: string): Promise<string> {
  const stage = join(DIST, ".package", target);
  await mustRun("rm", ["-rf", stage]);
  await Deno.mkdir(join(stage, NAME), { recursive: true });
  const program = join(stage, NAME, "elasticdrive");
  if (target === Deno.build.target) await Deno.copyFile(PROGRAM, program);
  else await compile(target, program);
  await mustRun("cp", ["-R", ...MEMBERS, join(stage, NAME)]);
  await Deno.writeTextFile(join(stage, NAME, "LICENSES.bundled"), licencesOf(BUNDLE, ROOT));

  const archive = `${NAME}-linux-${target.split("-")[0]}.tar`;
  await mustRun("tar", [
    ...["--create", "--format=ustar", "--sort=name", "--owner=root:0", "--group=root:0"],
    ...["--mode=u=rwX,go=rX", `--mtime=@${seconds}`],
    ...["--directory", stage, "--file", join(DIST, archive), NAME],
  ]);
  await mustRun("gzip", ["--force", "--no-name", "--best", join(DIST, archive)]);
  await mustRun("rm", ["-rf", stage]);
  return `${archive}.gz`;
}

/** The other machine's package is worth a line, not a failure. */
async function tryPack(target: string, seconds: string): Promise<string | undefined> {
  try {
    return await pack(target, seconds);
  } catch (error) {
    if (target === Deno.build.target || !(error instanceof StepError)) throw error;
    say(`no package for ${target}: ${error.message.split("\n")[0]}`);
    return undefined;
  }
}

async function makePackages(): Promise<void> {
  assertMembers();
  const seconds = await packageSeconds();
  await compileProgram();
  let sums = "";
  for (const target of TARGETS) {
    const name = await tryPack(target, seconds);
    if (name === undefined) continue;
    const bytes = await Deno.readFile(join(DIST, name));
    sums += `${await sha256Of(bytes)}  ${name}\n`;
    say(`dist/${name}: ${(bytes.length / 1e6).toFixed(1)} MB`);
  }
  await Deno.writeTextFile(join(DIST, "SHA256SUMS"), sums);
}

if (import.meta.main) await task("package", makePackages);
