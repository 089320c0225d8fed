/**
 * This machine and this process, as a lease names them, and whether another process here still lives.
 *
 * A process holds an exclusive lock (flock) on a small file of its own for as long as it lives, however it
 * ends, and even while it is stopped. Whoever gets that lock knows that the holder is gone. (/proc can't be
 * asked: Deno opens it only to programs with every permission, which this one does not have.) The inode in the trace
 * keeps two mount namespaces apart in which the same path is another file.
 */
import { join } from "node:path";
import type { Clock } from "./clock.ts";
import { messageOf } from "./errors.ts";
import type { Logger } from "./logger.ts";
import type { Holder, Host } from "./volume/lease.ts";

export class LocalHost implements Host {
  readonly me: Holder;
  readonly #clock: Clock;
  readonly #file: Deno.FsFile | undefined;
  readonly #path: string | undefined;

  constructor(clock: Clock, logger: Logger) {
    this.#clock = clock;
    const host = Deno.hostname();
    for (const directory of lockDirectories()) {
      const path = join(directory, `elasticdrive-${Deno.pid}-${clock.now()}.lock`);
      try {
        const options = { read: true, write: true, createNew: true, mode: 0o600 };
        const file = Deno.openSync(path, options);
        file.lockSync(true);
        this.#file = file;
        this.#path = path;
        this.me = { host, pid: Deno.pid, trace: `${path} ${file.statSync().ino}` };
        return;
      } catch (error) {
        logger.debug(() => `no lock file in ${directory}: ${messageOf(error)}`);
      }
    }
    this.me = { host, pid: Deno.pid, trace: "" };
  }

  /** When this machine was started, in ms since 1970. */
  get bootedAtMs(): number {
    return this.#clock.now() - Deno.osUptime() * 1000;
  }

  isGone(holder: Holder, renewedAt: number): boolean | undefined {
    if (holder.host !== this.me.host) return undefined;
    if (renewedAt < this.bootedAtMs) return true; // it ended with the boot before this one
    const [path, inode] = holder.trace.split(" ");
    let file: Deno.FsFile;
    try {
      file = Deno.openSync(path, { read: true, write: true });
    } catch {
      return undefined;
    }
    try {
      if (String(file.statSync().ino) !== inode) return undefined;
      return file.tryLockSync(true);
    } finally {
      file.close();
    }
  }

  forget(holder: Holder): void {
    removeLock(holder.trace.split(" ")[0]);
  }

  /** Gives the lock back, when no lease names it any more. */
  close(): void {
    this.#file?.close();
    if (this.#path) removeLock(this.#path);
  }
}

function removeLock(path: string): void {
  try {
    Deno.removeSync(path);
  } catch { /* a file without its lock does no harm */ }
}

/** Where a small file can lie for as long as this boot lasts, best first. */
function lockDirectories(): string[] {
  const directories = [
    runtimeDirectory(),
    "/run/lock",
    Deno.env.get("XDG_RUNTIME_DIR"),
    Deno.env.get("TMPDIR") ?? "/tmp",
  ];
  return directories.filter((directory) => directory !== undefined && directory !== "") as string[];
}

/** Of systemd's RuntimeDirectory= (systemd.exec(5)): in memory, and this service's own. */
export function runtimeDirectory(): string | undefined {
  return Deno.env.get("RUNTIME_DIRECTORY")?.split(":")[0];
}
