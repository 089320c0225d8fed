/**
 * A bucket that is a directory: key `log/0000000001` is the file `path/log/0000000001`.
 *
 * Promised, between any number of threads and processes of one machine:
 *  - `put` is atomic and survives the loss of power: the bytes go to a file of their own in `path/.tmp`,
 *    are fsynced, get their name in one step, and then every directory from the key's up to `path` is
 *    fsynced. Directories that were there already are clean and cost a few microseconds each; knowing that
 *    this process made them would not do, because another one may have died between mkdir and fsync.
 *  - `ifAbsent` is link(2), which fails if the name exists. It needs no lock.
 *  - Everything that replaces or removes a name happens under an exclusive flock(2) on `path/.lock`, so
 *    between `ifMatch`'s look and its rename nobody else can replace or remove, and creating is
 *    impossible because the name exists. The kernel drops the lock of a process that dies.
 *
 * An etag is inode, mtime and size. A file here is never written after it has its name, so a version of an
 * object is one inode for ever. The same etag for another version would need the old inode freed
 * (replaced), given out again by the next put but one, and both puts, each with its fsyncs, in the millisecond in
 * which the first was written.
 *
 * Assumed: a local file system with hard links, flock and rename (ext4, xfs, btrfs, zfs, tmpfs), all
 * writers on one machine, and keys in ASCII (list sorts by UTF-16 units, which is byte order for those).
 */
import type { Chance, Clock } from "../clock.ts";
import { messageOf, noVolumeIn, UnavailableError, UsageError } from "../errors.ts";
import { MIB, STALE_TEMP_MS } from "../limits.ts";
import type { Access, Bucket, ByteRange, FoundObject, PutCondition, PutResult } from "./bucket.ts";
import { listDirectory } from "./directory_listing.ts";

const TEMP = ".tmp";
const LOCK = ".lock";
/** The volume's bytes are nobody else's to read. */
const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;
const WRITABLE =
  "write to, or a path where one can be made, on a local file system with hard links";

export class DirectoryBucket implements Bucket {
  readonly name: string;
  readonly #path: string;
  readonly #chance: Chance;
  /** None where nothing is to be written. */
  readonly #lock: Deno.FsFile | null;
  /** The end of the queue of this process for the lock: flock tells processes apart, this its callers. */
  #lockQueue: Promise<unknown> = Promise.resolve();

  private constructor(path: string, chance: Chance, lock: Deno.FsFile | null) {
    this.name = `file:${path}`;
    this.#path = path;
    this.#chance = chance;
    this.#lock = lock;
  }

  /**
   * Opens the directory, and makes it if it isn't there (and it may). Tries all that will be needed (write, fsync,
   * link, lock), so that a directory that can't serve is refused now, with a `UsageError`.
   *
   * @param access "read": nothing is made or tried, so a copy on a read-only file system will do
   */
  static async open(path: string, { clock, chance, access = "create" }: {
    clock: Clock;
    chance: Chance;
    access?: Access;
  }): Promise<DirectoryBucket> {
    const root = path.length > 1 ? path.replace(/\/+$/, "") : path;
    let lock: Deno.FsFile | undefined;
    try {
      if (access !== "create" && !await isThere(root)) throw noVolumeIn(`file:${root}`);
      if (access === "read") {
        for await (const _ of Deno.readDir(root)) break;
        return new DirectoryBucket(root, chance, null);
      }
      await Deno.mkdir(`${root}/${TEMP}`, { recursive: true, mode: DIRECTORY_MODE });
      await syncUpToMount(root);
      lock = await Deno.open(`${root}/${LOCK}`, {
        read: true,
        write: true,
        create: true,
        mode: FILE_MODE,
      });
      const bucket = new DirectoryBucket(root, chance, lock);
      await bucket.#removeStaleTemps(clock.now());
      await bucket.#probe();
      return bucket;
    } catch (error) {
      lock?.close();
      if (error instanceof UsageError) throw error;
      throw new UsageError(
        `BUCKET=file:${path} can't be used: ${reasonOf(error)}; it must be a directory that this ` +
          `user can ${access === "read" ? "read" : WRITABLE}`,
        { key: "BUCKET" },
      );
    }
  }

  async get(key: string, range?: ByteRange, signal?: AbortSignal): Promise<FoundObject | null> {
    try {
      signal?.throwIfAborted();
      using file = await Deno.open(this.#file(key));
      const info = await file.stat();
      // Linux opens a directory for reading without complaint; `map` is a folder of keys, not a key.
      if (!info.isFile) return null;
      signal?.throwIfAborted();
      const offset = Math.min(range?.offset ?? 0, info.size);
      const bytes = new Uint8Array(Math.min(range?.length ?? Infinity, info.size - offset));
      if (offset > 0) await file.seek(offset, Deno.SeekMode.Start);
      for (let done = 0; done < bytes.length;) {
        const n = await file.read(bytes.subarray(done));
        if (n === null) throw new Error(`the file ends at byte ${offset + done} of ${info.size}`);
        done += n;
      }
      return { bytes, size: info.size, etag: etagOf(info) };
    } catch (error) {
      if (isMissing(error)) return null;
      throw this.#failure("read", key, error, signal);
    }
  }

  async put(
    key: string,
    bytes: Uint8Array,
    condition?: PutCondition,
    signal?: AbortSignal,
  ): Promise<PutResult> {
    const temp = `${this.#path}/${TEMP}/${this.#chance.uuid()}`;
    try {
      signal?.throwIfAborted();
      const etag = await writeDurably(temp, bytes);
      signal?.throwIfAborted();
      const stored = await this.#giveName(temp, key, condition, signal);
      // A refusal too: whoever reads "taken" goes on from there, so what took the name must last.
      await this.#syncUpFrom(parentOf(this.#file(key)));
      return stored ? { stored, etag } : { stored };
    } catch (error) {
      throw this.#failure("write", key, error, signal);
    } finally {
      // Gone already if it was renamed.
      await Deno.remove(temp).catch(() => {});
    }
  }

  async delete(keys: string[], signal?: AbortSignal): Promise<void> {
    const folders = new Set<string>();
    try {
      await this.#locked(async () => {
        for (const key of keys) {
          const file = this.#file(key);
          if (await removeIfThere(file)) folders.add(parentOf(file));
        }
      }, signal);
      for (const folder of folders) await this.#syncUpFrom(folder);
      for (const folder of folders) await this.#removeIfEmpty(folder);
    } catch (error) {
      throw this.#failure("delete", keys[0], error, signal);
    }
  }

  async list(prefix: string, startAfter = "", signal?: AbortSignal): Promise<string[]> {
    try {
      signal?.throwIfAborted();
      return await listDirectory(this.#path, [TEMP, LOCK], prefix, startAfter);
    } catch (error) {
      throw this.#failure("list", `${prefix}*`, error, signal);
    }
  }

  close(): void {
    this.#lock?.close();
  }

  // ---- putting a name to a file

  /** Links or renames `temp` to the key's name. False if the condition does not hold. */
  async #giveName(
    temp: string,
    key: string,
    condition: PutCondition | undefined,
    signal?: AbortSignal,
  ): Promise<boolean> {
    const file = this.#file(key);
    while (true) {
      await Deno.mkdir(parentOf(file), { recursive: true, mode: DIRECTORY_MODE });
      try {
        if (condition && "ifAbsent" in condition) return await linkIfAbsent(temp, file);
        return await this.#locked(async () => {
          if (condition && await etagAt(file) !== condition.ifMatch) return false;
          await Deno.rename(temp, file);
          return true;
        }, signal);
      } catch (error) {
        // A delete elsewhere took the emptied folder away between mkdir and here: make it again.
        if (!isMissing(error)) throw error;
        await Deno.stat(temp);
        signal?.throwIfAborted();
      }
    }
  }

  /** Runs `act` alone among all processes that have this bucket open. */
  #locked<T>(act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const lock = this.#lock;
    if (lock === null) throw new Error(`${this.name} was opened to be read`);
    const turn = this.#lockQueue.then(async () => {
      signal?.throwIfAborted();
      await lock.lock(true);
      try {
        // The wait may have been long, and the caller gone since.
        signal?.throwIfAborted();
        return await act();
      } finally {
        await lock.unlock();
      }
    });
    this.#lockQueue = turn.catch(() => {});
    return turn;
  }

  // ---- directories

  #file(key: string): string {
    const parts = key.split("/");
    if (
      parts.some((p) => p === "" || p === "." || p === "..") || key === LOCK || parts[0] === TEMP
    ) {
      throw new RangeError(`"${key}" can't be a key of a directory bucket`);
    }
    return `${this.#path}/${key}`;
  }

  async #syncUpFrom(folder: string): Promise<void> {
    for (; folder.length > this.#path.length; folder = parentOf(folder)) {
      // A folder removed since by a delete elsewhere: then it was empty, and its parent says so.
      await syncDirectory(folder).catch((error) => {
        if (!isMissing(error)) throw error;
      });
    }
    await syncDirectory(this.#path);
  }

  /** Folders of checkpoints come and go; an empty one would stay for ever. A folder in use refuses. */
  async #removeIfEmpty(folder: string): Promise<void> {
    if (folder !== this.#path) await Deno.remove(folder).catch(() => {});
  }

  async #removeStaleTemps(nowMs: number): Promise<void> {
    const folder = `${this.#path}/${TEMP}`;
    for await (const { name } of Deno.readDir(folder)) {
      const info = await Deno.stat(`${folder}/${name}`).catch(() => null);
      const ageMs = nowMs - (info?.mtime?.getTime() ?? nowMs);
      if (info?.isFile && ageMs > STALE_TEMP_MS) await removeIfThere(`${folder}/${name}`);
    }
  }

  async #probe(): Promise<void> {
    const temp = `${this.#path}/${TEMP}/${this.#chance.uuid()}`;
    try {
      await writeDurably(temp, new Uint8Array(1));
      await Deno.link(temp, `${temp}.link`);
      await this.#locked(() => Promise.resolve());
    } finally {
      await removeIfThere(`${temp}.link`);
      await removeIfThere(temp);
    }
  }

  #failure(verb: string, key: string, error: unknown, signal?: AbortSignal): unknown {
    if (signal?.aborted && error === signal.reason) return error;
    if (error instanceof RangeError) return error;
    const refused = error instanceof Deno.errors.PermissionDenied ||
      error instanceof Deno.errors.NotCapable;
    return new UnavailableError(
      `can't ${verb} ${key} in ${this.name}: ${reasonOf(error)}`,
      refused,
      { cause: error },
    );
  }
}

/** Writes a new file and returns its etag once it is on the disk. */
async function writeDurably(path: string, bytes: Uint8Array): Promise<string> {
  using file = await Deno.open(path, { write: true, createNew: true, mode: FILE_MODE });
  for (let done = 0; done < bytes.length;) {
    // each write copies its bytes in this turn: a MiB, not all of a checkpoint's root at once
    done += await file.write(bytes.subarray(done, done + MIB));
  }
  await file.sync();
  return etagOf(await file.stat());
}

async function linkIfAbsent(temp: string, file: string): Promise<boolean> {
  try {
    await Deno.link(temp, file);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return false;
    throw error;
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function removeIfThere(path: string): Promise<boolean> {
  try {
    await Deno.remove(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

async function etagAt(file: string): Promise<string | null> {
  try {
    return etagOf(await Deno.stat(file));
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

function etagOf(info: Deno.FileInfo): string {
  return `${info.ino}-${info.mtime?.getTime()}-${info.size}`;
}

async function syncDirectory(path: string): Promise<void> {
  using directory = await Deno.open(path);
  await directory.sync();
}

/**
 * Fsyncs a directory and those it lies in, up to the root of their file system: any of them may have been made just now,
 * or by a process that died behind its mkdir. One that this user may enter but not read can't be, and is left out.
 */
async function syncUpToMount(path: string): Promise<void> {
  const { dev } = await Deno.stat(path);
  for (let folder = path, below = ""; folder !== below; below = folder, folder = parentOf(folder)) {
    if ((await Deno.stat(folder)).dev !== dev) return;
    await syncDirectory(folder).catch((error) => {
      if (folder === path || !(error instanceof Deno.errors.PermissionDenied)) throw error;
    });
  }
}

function parentOf(path: string): string {
  const end = path.lastIndexOf("/");
  return end > 0 ? path.slice(0, end) : end === 0 ? "/" : ".";
}

/** No such file, or one of its parents is a file: for a key both mean that it is not there. */
function isMissing(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory;
}

/** What the system said, in words that say what to do where that is not plain. */
function reasonOf(error: unknown): string {
  const code = (error as { code?: string })?.code;
  const known: Record<string, string> = {
    EACCES: "this user has no permission there",
    EPERM: "the system does not permit it",
    ENOENT: "a directory of the path is not there",
    EROFS: "the file system is read-only",
    ENOSPC: "the file system is full",
    EDQUOT: "this user's quota is used up",
    ENOTDIR: "a part of the path is a file",
    EEXIST: "there is a file of that name",
    EIO: "the storage reports an input/output error",
  };
  return code && known[code] ? `${known[code]} (${code})` : messageOf(error).split("\n")[0];
}
