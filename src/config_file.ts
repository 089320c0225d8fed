/**
 * Where config.ini is. A file that is there and can't be read is an error, never a reason to look on: the drive would be
 * another one.
 */
import { basename, join, resolve } from "node:path";
import { messageOf, UsageError } from "./errors.ts";

/** A configuration file as found on disk. */
export interface ConfigFile {
  readonly path: string;
  readonly text: string;
  /** What the user should change about the file itself. */
  readonly warning?: string;
}

/**
 * The file to read: `explicit` (from -c) and no other, else config.ini beside the executable, else
 * config.ini in the working directory, else undefined. Its path is free of symbolic links. Throws a `UsageError` if
 * `explicit` is missing or a file that is there can't be read.
 */
export function findConfig(
  explicit: string | undefined,
  executableDir: string,
  cwd: string,
): ConfigFile | undefined {
  const places = [join(executableDir, "config.ini"), join(cwd, "config.ini")];
  for (const path of explicit === undefined ? places : [resolve(cwd, explicit)]) {
    try {
      const refusal = notAFile(Deno.statSync(path));
      if (refusal) throw new UsageError(`${path} ${refusal}`);
      // a symbolic link leads to the folder that relative paths begin at
      const real = Deno.realPathSync(path);
      const text = readHandedOver(real) ?? Deno.readTextFileSync(real);
      return { path: real, text, warning: readableByOthers(real, text) };
    } catch (error) {
      if (error instanceof UsageError) throw error;
      if (!(error instanceof Deno.errors.NotFound)) {
        throw new UsageError(`${path}: can't be read: ${messageOf(error)}`);
      }
      if (isLink(path)) throw new UsageError(`${path}: a symbolic link to nothing`);
      if (explicit !== undefined) throw new UsageError(`${path}: no such file (given with -c)`);
    }
  }
  return undefined;
}

/** Who reads a pipe waits for its writer, and some devices have no end. */
function notAFile(info: Deno.FileInfo): string | undefined {
  if (info.isFile) return undefined;
  return `is ${info.isDirectory ? "a directory" : "a device or a pipe"}; allowed: a file`;
}

function isLink(path: string): boolean {
  try {
    return Deno.lstatSync(path).isSymlink;
  } catch {
    return false;
  }
}

/** A file that only root may read: systemd hands it to the service under the same name (systemd.exec(5), LoadCredential=). */
function readHandedOver(path: string): string | undefined {
  const folder = Deno.env.get("CREDENTIALS_DIRECTORY");
  if (!folder) return undefined;
  try {
    return Deno.readTextFileSync(join(folder, basename(path)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function readableByOthers(path: string, text: string): string | undefined {
  if (!/^\s*AWS_SECRET_ACCESS_KEY\s*=/im.test(text)) return undefined;
  const mode = (Deno.statSync(path).mode ?? 0) & 0o777;
  if ((mode & 0o044) === 0) return undefined;
  const octal = mode.toString(8).padStart(4, "0");
  return `${path} holds a secret and others can read it (mode ${octal}); correct it with: chmod 600 ${path}`;
}
