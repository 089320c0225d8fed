/** Debian's packages that tests and measurements need: installed if they are not, as root or with sudo. */

/** Something that has to be done first, and can't be. */
export class SetupError extends Error {}

const SCRIPT = new URL("./apt_install.sh", import.meta.url).pathname;

async function isThere(program: string): Promise<boolean> {
  const { success } = await new Deno.Command("sh", { args: ["-c", `command -v ${program}`] })
    .output();
  return success;
}

/** Throws a `SetupError` that says what to do. */
export async function installPackages(names: string[]): Promise<void> {
  if (!await isThere("apt-get")) {
    throw new SetupError(`this is no Debian; what is needed is what it has in ${names.join(" ")}`);
  }
  const format = "${db:Status-Abbrev}${Package}\n";
  const query = new Deno.Command("dpkg-query", { args: ["-W", "-f", format, ...names] });
  const known = new TextDecoder().decode((await query.output()).stdout).split("\n");
  const missing = names.filter((name) => !known.includes(`ii ${name}`));
  if (missing.length === 0) return;

  const isRoot = Deno.uid() === 0;
  if (!isRoot && !await isThere("sudo")) {
    throw new SetupError(`install these first, as root: apt-get install ${missing.join(" ")}`);
  }
  const command = ["sh", SCRIPT, ...missing];
  const [program, ...args] = isRoot ? command : ["sudo", ...command];
  const options = { args, stdout: "inherit", stderr: "inherit" } as const;
  const { success } = await new Deno.Command(program, options).spawn().status;
  if (!success) throw new SetupError(`can't install ${missing.join(" ")}`);
}
