/**
 * Pages of the keys in a directory tree, in byte order, sorted and complete as S3 gives them.
 *
 * A folder is read whole and sorted, which for 100,000 files takes a tenth of a second; done anew for
 * each of their 100 pages that would be 10 s. So the listing of the folder read last is kept for the next
 * page, but only when it can't be stale: its mtime must be what it was, and must have been old
 * (LISTING_SETTLED_MS) when it was read. A change after the reading then shows in the mtime for certain; a
 * folder that was changed just now is read again (the rule of git's index, "racy git").
 *
 * "dir/" sorts as its name with the slash: "a-b" comes before "a/b", as it does in S3.
 */
import type { Clock } from "../clock.ts";
import { LISTING_SETTLED_MS } from "../limits.ts";
import type { ListedObject } from "./bucket.ts";

interface Folder {
  path: string;
  mtimeMs: number;
  /** Sorted; folders end in a slash. */
  names: string[];
}

export class DirectoryListing {
  #last: Folder | null = null;

  /** `hidden` are names in the root that are no keys. */
  constructor(
    readonly root: string,
    readonly clock: Clock,
    readonly hidden: readonly string[],
  ) {}

  /** At most `limit` keys that begin with `prefix` and sort behind `startAfter`; empty at the end. */
  async page(
    prefix: string,
    startAfter: string,
    limit: number,
    signal?: AbortSignal,
  ): Promise<ListedObject[]> {
    const found: ListedObject[] = [];
    await this.#collect("", { prefix, startAfter, limit, signal }, found);
    if (found.length < limit) this.#last = null;
    return found;
  }

  async #collect(
    folder: string,
    want: { prefix: string; startAfter: string; limit: number; signal?: AbortSignal },
    found: ListedObject[],
  ): Promise<void> {
    const names = await this.#names(folder);
    let i = firstToLookAt(names, folder, want.startAfter);
    while (i < names.length && found.length < want.limit) {
      want.signal?.throwIfAborted();
      if (names[i].endsWith("/")) {
        const key = folder + names[i++];
        // Of use if it lies below the prefix, or on the way down to it.
        if (key.startsWith(want.prefix) || want.prefix.startsWith(key)) {
          await this.#collect(key, want, found);
        }
        continue;
      }
      // A run of files, looked at together. One deleted meanwhile has no size and is left out, and
      // the loop goes on, because an empty page would say "the end".
      const run: string[] = [];
      for (; i < names.length && run.length < want.limit - found.length; i++) {
        if (names[i].endsWith("/")) break;
        const key = folder + names[i];
        if (key > want.startAfter && key.startsWith(want.prefix)) run.push(key);
      }
      const sizes = await Promise.all(run.map((key) => this.#size(key)));
      run.forEach((key, n) => sizes[n] !== null && found.push({ key, size: sizes[n]! }));
    }
  }

  async #names(folder: string): Promise<string[]> {
    const path = `${this.root}/${folder}`;
    try {
      const mtimeMs = (await Deno.stat(path)).mtime?.getTime() ?? 0;
      if (this.#last?.path === path && this.#last.mtimeMs === mtimeMs) return this.#last.names;
      const settled = this.clock.now() - mtimeMs > LISTING_SETTLED_MS;
      const names: string[] = [];
      for await (const entry of Deno.readDir(path)) {
        if (folder === "" && this.hidden.includes(entry.name)) continue;
        names.push(entry.isDirectory ? `${entry.name}/` : entry.name);
      }
      names.sort();
      if (settled && folder !== "") this.#last = { path, mtimeMs, names };
      return names;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      if (error instanceof Deno.errors.NotADirectory) return [];
      throw error;
    }
  }

  async #size(key: string): Promise<number | null> {
    try {
      return (await Deno.stat(`${this.root}/${key}`)).size;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw error;
    }
  }
}

/** Index of the first of `names` that is, or can hold, a key behind `startAfter`. */
function firstToLookAt(names: string[], folder: string, startAfter: string): number {
  let low = 0;
  let high = names.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const key = folder + names[middle];
    const behind = key > startAfter || (key.endsWith("/") && startAfter.startsWith(key));
    if (behind) high = middle;
    else low = middle + 1;
  }
  return low;
}
