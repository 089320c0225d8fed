/**
 * Where the journals of volumes lie, and which of them still counts.
 *
 *   <folder>/<uuid of the volume>/<epoch>.<unbroken since>/<number>
 *   <folder>/<uuid of the volume>/<writer>
 *
 * The journal of an epoch is good for who claims the next one: then nobody had the volume in between, and what the
 * journal says is the newest. Any other is of no use, and so is one of an earlier boot, which can only be there if
 * the folder does not lie in memory.
 *
 * A writer is named here from before its claim until it has a journal, which it has before it serves anybody. If it dies
 * in between, and has stored nothing either, it is as if it had never been: the journal is good for the next as well.
 */
import { join } from "node:path";
import { messageOf, UsageError } from "../errors.ts";

export class JournalFolder {
  readonly #folder: string;
  readonly #bootedAtMs: number;

  /**
   * Makes the folder, if it is not there.
   *
   * @param bootedAtMs when this machine was started, in ms since 1970
   * @throws UsageError, as its methods do, if files can't be made in it
   */
  constructor(folder: string, bootedAtMs: number) {
    this.#folder = folder;
    this.#bootedAtMs = bootedAtMs;
    this.#use(() => {
      Deno.mkdirSync(folder, { recursive: true, mode: 0o700 });
      Deno.removeSync(Deno.makeTempDirSync({ dir: folder }));
    });
  }

  /**
   * `writer` is about to claim the volume.
   *
   * @param last who had it before, if that was this machine. If that has stored all that it acknowledged, which is when
   *   `unbrokenSince` is known, its journal is an empty one
   */
  announce(
    uuid: string,
    writer: string,
    last?: { epoch: number; unbrokenSince?: number },
  ): void {
    this.#use(() => {
      const isStored = last?.unbrokenSince !== undefined;
      const journal = isStored ? `${last.epoch}.${last.unbrokenSince}` : "";
      Deno.mkdirSync(join(this.#folder, uuid, journal), { recursive: true, mode: 0o700 });
      Deno.writeFileSync(join(this.#folder, uuid, writer), new Uint8Array(0));
    });
  }

  /**
   * The epoch since which nothing was forgotten, if the journal of `epoch` is here, or one behind which nobody served
   * anybody, which is made that of `epoch`; else undefined.
   *
   * @param idle the newest writers that have stored nothing, oldest first; the last is that of `epoch`
   */
  inherit(uuid: string, epoch: number, idle: readonly string[]): number | undefined {
    return this.#use(() => this.#inherit(uuid, epoch, idle));
  }

  #inherit(uuid: string, epoch: number, idle: readonly string[]): number | undefined {
    const names = this.#names(uuid);
    for (let back = 0;; back++) {
      const name = this.#find(uuid, epoch - back);
      if (name !== undefined) {
        const [, since] = name.split(".");
        const volume = join(this.#folder, uuid);
        Deno.renameSync(join(volume, name), join(volume, `${epoch}.${since}`));
        return Number(since);
      }
      const writer = idle.at(-1 - back);
      if (writer === undefined || !names.includes(writer)) return undefined;
    }
  }

  /**
   * Makes the journal of `epoch - 1`, which is here if the volume is unbroken since then, that of `epoch`, in one step, and
   * removes all else of the volume. Returns its folder, which is there then, and the numbers of the files in it, oldest
   * first.
   */
  adopt(uuid: string, epoch: number, unbrokenSince: number): { path: string; files: number[] } {
    return this.#use(() => this.#adopt(uuid, epoch, unbrokenSince));
  }

  #adopt(uuid: string, epoch: number, unbrokenSince: number): { path: string; files: number[] } {
    const name = `${epoch}.${unbrokenSince}`;
    const path = join(this.#folder, uuid, name);
    const before = this.#find(uuid, epoch - 1);
    if (before === undefined && unbrokenSince < epoch) {
      throw new Error(`the journal of epoch ${epoch - 1} is gone, and what is in it would be lost`);
    }
    if (before !== undefined) Deno.renameSync(join(this.#folder, uuid, before), path);
    for (const other of this.#names(uuid)) {
      if (other !== name) Deno.removeSync(join(this.#folder, uuid, other), { recursive: true });
    }
    Deno.mkdirSync(path, { recursive: true, mode: 0o700 });
    const numbers = [...Deno.readDirSync(path)].map((entry) => Number(entry.name));
    return { path, files: numbers.toSorted((a, b) => a - b) };
  }

  #find(uuid: string, epoch: number): string | undefined {
    const name = this.#names(uuid).find((one) => new RegExp(`^${epoch}\\.\\d+$`).test(one));
    if (name === undefined) return undefined;
    const { mtime } = Deno.statSync(join(this.#folder, uuid, name));
    return mtime !== null && mtime.getTime() >= this.#bootedAtMs ? name : undefined;
  }

  #names(uuid: string): string[] {
    try {
      return [...Deno.readDirSync(join(this.#folder, uuid))].map((entry) => entry.name);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }

  #use<T>(files: () => T): T {
    try {
      return files();
    } catch (error) {
      throw new UsageError(
        `journal can't be in ${this.#folder}: ${messageOf(error)}; ` +
          "it must be a directory that this user can write to, or off",
        { key: "journal" },
      );
    }
  }
}
