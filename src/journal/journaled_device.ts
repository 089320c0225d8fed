/**
 * A disk that forgets nothing when only its program dies.
 *
 * A volume acknowledges a change when it is in memory. Here each change is first written to a file that lies in memory
 * too, but does not end with the process (journal_file.ts). Whoever opens the volume next makes those changes again
 * before anybody uses it. So the Linux kernel, which outlives us, may go on with the next process as if
 * nothing had happened: what it was told is written is there, flushed or not.
 *
 *   change ──▶ current file ──▶ volume        flush, or it is full: the current file becomes an old one
 *              old files ──▶ removed, oldest first, each when a flush begun after its last change is done
 *
 * Promises
 * - While the journal's folder has its own name, it holds every change that is acknowledged and not stored.
 * - If the machine crashes while changes are made again, all of them are stored or none.
 * - It never delays or fails a request. When the files exceed `bytesMax` (S3 is away and the same blocks are
 *   written again and again), or can't be written, it is given up: the folder is removed, so that nobody trusts it. A new
 *   one takes over when a flush has stored what was not recorded.
 */
import { join } from "node:path";
import { DamageError, messageOf, TimeoutError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import type { BlockDevice, Done, Extent } from "../volume/block_device.ts";
import {
  type Change,
  CHANGE_TRIM,
  CHANGE_WRITE,
  CHANGE_ZERO,
  changesIn,
  JournalFile,
} from "./journal_file.ts";

export interface JournalOptions {
  /** Of all files together. */
  bytesMax: number;
  /** A file that has so many is followed by the next. */
  fileBytesMax: number;
  logger: Logger;
}

/** Of lines that say how it is: writers that are faster than S3 may have it given up every second. */
const KIND = "journal";
const NO_DATA = new Uint8Array(0);
/** What a folder is called besides its name while it does not hold everything. */
const INCOMPLETE = ".incomplete";

export class JournaledDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly preferredBytes: number;

  readonly #device: BlockDevice;
  readonly #path: string;
  /** `#path`, or what it is called while it is incomplete. */
  #folder: string;
  readonly #oldFiles: readonly number[];
  readonly #options: JournalOptions;
  /** Undefined while the journal is given up for good: the device has failed, or was closed. */
  #current: JournalFile | undefined;
  #number: number;
  /** Bytes of old files that are still there. */
  #oldBytes = 0;
  /** Grows whenever the journal is given up: what was begun for an earlier one is of no interest. */
  #generation = 0;
  /** Changes that the device has not made yet. */
  readonly #pending = new Set<Promise<void>>();
  /** Settles when every old file has been dealt with. */
  #retiring: Promise<void> = Promise.resolve();

  /**
   * @param path the journal's folder, which is there
   * @param oldFiles numbers of the files in it, oldest first, whose changes `replay` makes
   */
  constructor(
    device: BlockDevice,
    path: string,
    oldFiles: readonly number[],
    options: JournalOptions,
  ) {
    this.sizeBytes = device.sizeBytes;
    this.preferredBytes = device.preferredBytes;
    this.#device = device;
    this.#path = this.#folder = path;
    this.#oldFiles = oldFiles;
    this.#options = options;
    this.#number = 1 + Math.max(0, ...oldFiles);
    this.#current = new JournalFile(this.#pathOf(this.#number));
  }

  /** Bytes of its files, at most. */
  get bytesMax(): number {
    return this.#options.bytesMax;
  }

  /**
   * Makes the changes of the old files; to be awaited before the first request. Returns how many there were.
   *
   * What is stored may be ahead of the oldest of them. If the machine crashed when a part of them was stored, some of
   * the disk would be as it was before, and some as it was later.
   *
   * @throws DamageError if one can't be made for what lies under it; all are still there for the next start
   */
  async replay(): Promise<number> {
    let changes = 0;
    const made: [number: number, bytes: number][] = [];
    const makeAll = async () => {
      for (const number of this.#oldFiles) {
        const bytes = Deno.readFileSync(this.#pathOf(number));
        for (const change of changesIn(bytes)) {
          await untilInTime(() => this.#make(change)).catch((error) => this.#refuse(change, error));
          changes++;
        }
        made.push([number, bytes.length]);
      }
    };
    await (this.#device.together?.(makeAll) ?? makeAll());
    for (const [number, bytes] of made) this.#retire(number, bytes);
    return changes;
  }

  /** Under a change that covers a part of a block lies a damaged record. */
  #refuse({ offset, length }: Change, error: unknown): never {
    if (!(error instanceof DamageError)) throw error;
    throw new DamageError(
      `the journal in ${this.#path} has a change of ${length} bytes at ${offset} that can't be made ` +
        `again: ${error.message}; with journal = off the drive starts without the journal, and all ` +
        "that was written before the crash and not stored is lost",
      { cause: error },
    );
  }

  #make({ kind, offset, length, data }: Change): Done {
    if (kind === CHANGE_WRITE) return this.#device.write(offset, data);
    if (kind === CHANGE_TRIM) return this.#device.trim(offset, length);
    return this.#device.zero(offset, length);
  }

  tryRead(offset: number, target: Uint8Array): boolean {
    return this.#device.tryRead(offset, target);
  }

  lend(offset: number, length: number): Uint8Array[] | undefined {
    return this.#device.lend(offset, length);
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#device.read(offset, target);
  }

  write(offset: number, data: Uint8Array): Done {
    return this.#record({ kind: CHANGE_WRITE, offset, length: data.length, data });
  }

  trim(offset: number, length: number): Done {
    return this.#record({ kind: CHANGE_TRIM, offset, length, data: NO_DATA });
  }

  zero(offset: number, length: number): Done {
    return this.#record({ kind: CHANGE_ZERO, offset, length, data: NO_DATA });
  }

  zeroesFast(offset: number, length: number): boolean {
    return this.#device.zeroesFast(offset, length);
  }

  prefetch(offset: number, length: number): Done {
    return this.#device.prefetch(offset, length);
  }

  extents(offset: number, length: number, countMax: number): Extent[] {
    return this.#device.extents(offset, length, countMax);
  }

  flush(): Done {
    this.#rotate();
    return this.#device.flush();
  }

  /** Removes the journal: the device is closed, and everything is stored. */
  end(): void {
    this.abandon();
    // a name that nobody trusts first: a process that is killed here leaves no journal with gaps
    const incomplete = this.#path + INCOMPLETE;
    if (this.#folder !== incomplete) this.#rename(incomplete);
    this.#folder = incomplete;
    Deno.removeSync(incomplete, { recursive: true });
  }

  #rename(incomplete: string): void {
    try {
      Deno.renameSync(this.#folder, incomplete);
    } catch (error) {
      Deno.utimeSync(this.#folder, 0, 0); // then it is one of an earlier boot, and no use (journal_folder.ts)
      throw error;
    }
  }

  /** Records nothing more and leaves the journal as it is, as the end of the process would. */
  abandon(): void {
    this.#generation++;
    this.#current?.close();
    this.#current = undefined;
  }

  /** Records a change and makes it. Only then may a flush begin that is to have it stored. */
  #record(change: Change): Done {
    const why = this.#append(change);
    try {
      return this.#keepPending(this.#make(change));
    } finally {
      if (why !== undefined) this.#giveUp(why);
      else if (this.#current && this.#current.bytes >= this.#options.fileBytesMax) this.#rotate();
    }
  }

  /** Returns why the journal can't be trusted any more, if so. */
  #append(change: Change): string | undefined {
    const file = this.#current;
    if (file === undefined) return undefined;
    try {
      file.append(change);
    } catch (error) {
      return messageOf(error);
    }
    const { bytesMax } = this.#options;
    const isTooMuch = this.#oldBytes + file.bytes > bytesMax;
    return isTooMuch ? `more than ${bytesMax} bytes are not stored` : undefined;
  }

  #keepPending(done: Done): Done {
    if (done === undefined) return undefined;
    const settled = done.catch(() => {}).finally(() => this.#pending.delete(settled));
    this.#pending.add(settled);
    return done;
  }

  /** The current file becomes an old one, if there is anything in it. */
  #rotate(): void {
    const file = this.#current;
    if (file === undefined || file.bytes === 0) return;
    const number = this.#number;
    try {
      this.#current = new JournalFile(this.#pathOf(++this.#number));
    } catch (error) {
      return this.#giveUp(messageOf(error));
    }
    file.close();
    this.#retire(number, file.bytes);
  }

  /** Removes an old file when its changes are stored, and those before it are removed. */
  #retire(number: number, bytes: number): void {
    this.#oldBytes += bytes;
    const generation = this.#generation;
    const stored = this.#stored();
    const before = this.#retiring;
    this.#retiring = (async () => {
      await before;
      if (!(await stored) || generation !== this.#generation) return;
      this.#oldBytes -= bytes;
      try {
        Deno.removeSync(this.#pathOf(number));
      } catch (error) {
        this.#giveUp(messageOf(error));
      }
    })();
  }

  /** Resolves when every change made or begun by now is stored; false if that will never be. */
  async #stored(): Promise<boolean> {
    // with nothing pending the flush begins in this turn, and shares a batch with that of a client
    if (this.#pending.size > 0) await Promise.all(this.#pending);
    try {
      await untilInTime(() => this.#device.flush());
      return true;
    } catch {
      return false;
    }
  }

  /** Nobody trusts the journal from now on, until a new one has taken over. */
  #giveUp(why: string): void {
    const { logger } = this.#options;
    logger.warn(`the journal is given up until what is not recorded is stored: ${why}`, KIND);
    try {
      this.end();
      Deno.mkdirSync(this.#folder, { mode: 0o700 });
      this.#current = new JournalFile(this.#pathOf(++this.#number));
    } catch (error) {
      return logger.warn(`there is no journal any more: ${messageOf(error)}`, KIND);
    }
    this.#oldBytes = 0;
    void this.#takeOver(this.#generation);
  }

  async #takeOver(generation: number): Promise<void> {
    const isStored = await this.#stored();
    if (!isStored || generation !== this.#generation) return;
    try {
      Deno.renameSync(this.#folder, this.#path);
      this.#folder = this.#path;
      this.#options.logger.info("the journal records again", KIND);
    } catch (error) {
      this.#giveUp(messageOf(error));
    }
  }

  #pathOf(number: number): string {
    return join(this.#folder, String(number));
  }
}

/** Does what has a time limit for a client's sake, on and on until it has kept it. */
async function untilInTime(act: () => Done): Promise<void> {
  for (;;) {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error;
    }
  }
}
