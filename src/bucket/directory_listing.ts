/**
 * The keys in a directory tree, in byte order as S3 gives them: "dir/" sorts as its name with the slash, so
 * that "a-b" comes before "a/b".
 */
import { join } from "node:path";

/**
 * Every key under `root` that begins with `prefix` and sorts behind `startAfter`.
 *
 * @param hidden names in the root that are no keys
 */
export async function listDirectory(
  root: string,
  hidden: readonly string[],
  prefix: string,
  startAfter: string,
): Promise<string[]> {
  const found: string[] = [];
  await collect("");
  return found.sort();

  async function collect(folder: string): Promise<void> {
    for (const entry of await entriesOf(join(root, folder))) {
      if (folder === "" && hidden.includes(entry.name)) continue;
      const key = folder + entry.name;
      if (!entry.isDirectory) {
        if (key.startsWith(prefix) && key > startAfter) found.push(key);
      } else if (`${key}/`.startsWith(prefix) || prefix.startsWith(`${key}/`)) {
        await collect(`${key}/`);
      }
    }
  }
}

/** A folder that is not there has no entries. */
async function entriesOf(path: string): Promise<Deno.DirEntry[]> {
  try {
    return await Array.fromAsync(Deno.readDir(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    if (error instanceof Deno.errors.NotADirectory) return [];
    throw error;
  }
}
