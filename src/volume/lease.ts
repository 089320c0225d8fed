/**
 * The lease: `lease.json` says who has the volume open, so that a second start can be refused politely.
 * Fencing does not rest on it (uploader.ts does that): a lease may be stale, or overwritten, and no
 * byte is lost.
 *
 * It also says up to which seq all was stored when it was renewed: the newest segments have nobody else to say so,
 * and one that is missing after a crash would look like the end of the log.
 *
 * And it says since which epoch the volume has gone from one holder to the next without a loss: a holder that released
 * it had stored everything that it had acknowledged; one that did not may not have, unless its journal is still there.
 *
 * And since which epoch every writer has released it. That is the last change that a writer makes in the bucket, begun
 * when all before it have been answered.
 */
import type { Bucket, FoundObject } from "../bucket/bucket.ts";
import { type Clock, sleep } from "../clock.ts";
import { DamageError, FencedError, messageOf, UsageError } from "../errors.ts";
import { LEASE_EXPIRED_MS, LEASE_RENEW_MS, LEASE_WATCH_MS } from "../limits.ts";
import type { Logger } from "../logger.ts";
import { decodeChecked, encodeChecked } from "./checked_json.ts";
import type { Writer } from "./uploader.ts";
import { VOLUME_KEY } from "./volume_info.ts";

export const LEASE_KEY = "lease.json";

/** A process that has, or had, a volume open. */
export interface Holder {
  host: string;
  pid: number;
  /** What `Host.isGone` needs to tell whether the process still lives; opaque here. */
  trace: string;
}

/** The machine this process runs on, as far as a lease needs it. */
export interface Host {
  readonly me: Holder;
  /**
   * True if the holder is known to be dead, false if it is known to live, undefined if nothing is known.
   *
   * @param renewedAt when it last gave a sign of life, in ms since 1970 by its clock
   */
  isGone(holder: Holder, renewedAt: number): boolean | undefined;
  /** A holder that is gone has been replaced: no lease names it any more. */
  forget(holder: Holder): void;
}

/** What a lease says of its holder, once it has released the volume, and of those before it. */
export interface Past {
  /** Every holder from this epoch on has stored all that it acknowledged. */
  unbrokenSince: number;
  /** Every writer from this epoch on has released the volume. */
  releasedSince: number;
}

/** Each of the past is absent if it is unknown. */
interface LeaseFile extends Partial<Past> {
  holder: Holder;
  /** The holder has not claimed the volume yet. */
  opening: boolean;
  /** Of the holder; while it is opening the volume, the newest that is known. */
  epoch: number;
  /** Of the writer, 32 hexadecimal digits. */
  writer: string;
  /** Milliseconds since 1970 by the holder's clock. */
  renewedAt: number;
  /** True once the holder has closed the volume. */
  released: boolean;
  /** Every segment up to this seq was stored then. */
  storedUpTo: number;
}

/** What the lease tells somebody else; nothing of the past unless the last holder has released. */
export interface Tenancy extends Partial<Past> {
  /** Of the lease as it was read. */
  etag: string;
  /** The last who had the volume open, or was about to. */
  holder: Holder;
  /** The newest epoch that the lease knows of. */
  epoch: number;
  /** When the holder last gave a sign of life, in ms since 1970 by its clock. */
  renewedAt: number;
  /**
   * held: the holder lives, as far as can be told; silent: it has not been heard of for too long; gone: it died
   * without a word.
   */
  state: "released" | "gone" | "silent" | "held";
  /** The volume and its holder, for messages: "... was last heard of 7 s ago". */
  what: string;
  storedUpTo: number;
}

/**
 * Who has the volume open, as far as can be told; null if nobody ever had.
 *
 * @throws DamageError if the lease can't be read
 */
export async function readTenancy(
  bucket: Bucket,
  host: Host,
  clock: Clock,
): Promise<Tenancy | null> {
  const found = await bucket.get(LEASE_KEY);
  if (!found) return null;
  const lease = decodeLease(found.bytes);
  const { etag } = found;
  const { holder, opening, epoch, renewedAt, released, storedUpTo } = lease;
  const seconds = Math.max(0, Math.round((clock.now() - renewedAt) / 1000));
  const who = `${holder.host} (pid ${holder.pid}${opening ? "" : `, epoch ${epoch}`})`;
  const what = `${bucket.name} is ${opening ? "being opened" : "open"} on ${who}, ` +
    `which was last heard of ${seconds} s ago`;
  const told = { etag, holder, epoch, renewedAt, what, storedUpTo };
  const { unbrokenSince, releasedSince } = lease;
  if (released) return { ...told, state: "released", unbrokenSince, releasedSince };
  const isGone = host.isGone(holder, renewedAt);
  const isSilent = isGone === undefined && seconds * 1000 > LEASE_EXPIRED_MS;
  const state = isGone ? "gone" : isSilent ? "silent" : "held";
  return { ...told, state };
}

/** The epoch since which all writers before that of `epoch` have released the volume; `epoch` if the last has not. */
export function releasedBefore(epoch: number, before?: Tenancy | null): number {
  // another epoch was claimed in between, by somebody of whom no lease tells
  if (before?.epoch !== epoch - 1) return epoch;
  return before.releasedSince ?? epoch;
}

/** What a lease needs from the world. */
interface Surroundings {
  bucket: Bucket;
  host: Host;
  clock: Clock;
  logger: Logger;
}

/** A process that is about to open the volume. */
export interface Starter extends Surroundings {
  /** Fence whoever has it open. */
  takeover: boolean;
  /** 32 hexadecimal digits, new for every opening. */
  writerId: string;
}

/**
 * Refuses if somebody else has the volume open, as far as can be told.
 *
 * @returns what the lease tells; null if there is none, or it is damaged and `takeover` says to go on all the same
 * @throws UsageError naming host, pid and how long ago the lease was renewed
 * @throws DamageError if the lease can't be read
 */
export async function refuseIfHeld(starter: Starter): Promise<Tenancy | null> {
  const { bucket, host, clock, logger, takeover } = starter;
  let tenancy: Tenancy | null;
  try {
    tenancy = await readTenancy(bucket, host, clock);
  } catch (error) {
    if (!(error instanceof DamageError)) throw error;
    const unknown = `${error.message}; whether another program has the volume open can't be told`;
    if (!takeover) throw new DamageError(`${unknown}: if none has, start with --takeover`);
    logger.warn(`${unknown}; if one has, it is fenced, as asked`);
    return null;
  }
  if (takeover && (tenancy?.state === "held" || tenancy?.state === "silent")) {
    logger.warn(`${tenancy.what}: taken over, as asked; it can store nothing more`);
  } else if (tenancy?.state === "held") {
    throw refusal(
      `${tenancy.what}; stop it there, or wait until it has been silent for ` +
        `${LEASE_EXPIRED_MS / 1000} s`,
    );
  }
  return tenancy;
}

function refusal(what: string): UsageError {
  return new UsageError(
    `${what}, or start with --takeover, which fences it: what it has not flushed is lost`,
  );
}

/** A lease that names this process, though it has not claimed the volume yet. */
export interface Reservation {
  etag: string;
  /** What the lease told before. */
  before: Tenancy | null;
}

/**
 * Enters this process in the lease before it claims the volume: of several that start at once one goes on, and the
 * others are refused.
 *
 * A holder that is silent by this machine's clock may have a clock of its own: it is given LEASE_WATCH_MS to renew.
 *
 * @param seen what `refuseIfHeld` has found
 * @throws UsageError if another process came first, or a silent one lives
 */
export async function reserve(starter: Starter, seen: Tenancy | null): Promise<Reservation> {
  const { bucket, clock, logger, takeover, writerId } = starter;
  for (let before = seen;; before = await refuseIfHeld(starter)) {
    const isWatched = before?.state === "silent" && !takeover;
    if (isWatched) {
      logger.info(`${before!.what}: waiting ${LEASE_WATCH_MS / 1000} s for a sign of life`);
      await sleep(clock, LEASE_WATCH_MS);
    }
    const etag = await writeReservation(starter, before, false, before?.etag ?? null);
    if (etag !== null && isWatched) logger.warn(`${before!.what}: taken to be dead, and fenced`);
    if (etag !== null) return { etag, before };
    const found = await bucket.get(LEASE_KEY);
    const there = found && readable(found.bytes);
    // a lost answer of ours; or one that is damaged, which `takeover` goes past
    if (found && (!there || there.writer === writerId)) return { etag: found.etag, before };
    if (isWatched) {
      throw refusal(`${before!.what} by a clock that is not ours: it lives. Stop it there`);
    }
  }
}

/** Gives a reservation back: the volume could not be opened. */
export async function withdraw(starter: Starter, { etag, before }: Reservation): Promise<void> {
  await writeReservation(starter, before, true, etag);
}

/** @returns the etag; null if the lease there is not the one named */
async function writeReservation(
  { bucket, host, clock, writerId }: Starter,
  before: Tenancy | null,
  released: boolean,
  etag: string | null,
): Promise<string | null> {
  const lease: LeaseFile = {
    holder: host.me,
    opening: true,
    // who was fenced before, and looks here for it, must still see it
    epoch: before?.epoch ?? 0,
    writer: writerId,
    renewedAt: clock.now(),
    released,
    storedUpTo: before?.storedUpTo ?? 0,
    // of the machine that is named
    unbrokenSince: before?.holder.host === host.me.host ? before.unbrokenSince : undefined,
    releasedSince: before?.releasedSince,
  };
  const condition = etag === null ? { ifAbsent: true as const } : { ifMatch: etag };
  const result = await bucket.put(LEASE_KEY, encodeChecked(lease), condition);
  return result.stored ? result.etag : null;
}

/** The lease of an open volume: from the claim on it is renewed until it is released. */
export class Lease {
  readonly #around: Surroundings;
  readonly #writer: Writer;
  readonly #storedUpTo: () => number;
  readonly #past: Past;
  readonly #onFenced: (error: FencedError) => void;
  #etag: string | null = null;
  #cancelTimer: (() => void) | null = null;
  #writing: Promise<void> = Promise.resolve();
  #ended = false;

  /**
   * @param storedUpTo the seq up to which every segment is known to be stored
   * @param past of the holders before this one
   * @param onFenced called when another writer's lease is found where ours was
   */
  constructor(
    around: Surroundings,
    writer: Writer,
    storedUpTo: () => number,
    past: Past,
    onFenced: (error: FencedError) => void,
  ) {
    this.#around = around;
    this.#writer = writer;
    this.#storedUpTo = storedUpTo;
    this.#past = past;
    this.#onFenced = onFenced;
  }

  /** Writes the lease, over the one that `reserved` names, and begins to renew it. */
  async acquire(reserved: string | null): Promise<void> {
    this.#etag = reserved;
    await this.#write(false);
    this.#renewLater();
  }

  /** Says that the volume is closed. */
  async release(): Promise<void> {
    this.stop();
    await this.#writing.catch(() => {});
    await this.#write(true);
  }

  /** Ends the renewals. */
  stop(): void {
    this.#ended = true;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
  }

  #renewLater(): void {
    if (this.#ended) return;
    this.#cancelTimer = this.#around.clock.after(LEASE_RENEW_MS, () => {
      this.#writing = this.#write(false);
      this.#writing.catch((error) => {
        if (error instanceof FencedError) this.#onFenced(error);
        else if (!this.#ended) this.#around.logger.warn(`lease not renewed: ${messageOf(error)}`);
      }).then(() => this.#renewLater());
    });
  }

  /** @throws FencedError if the lease there has a higher epoch */
  async #write(released: boolean): Promise<void> {
    for (;;) {
      const lease: LeaseFile = {
        holder: this.#around.host.me,
        opening: false,
        epoch: this.#writer.epoch,
        writer: this.#writer.id,
        renewedAt: this.#around.clock.now(),
        released,
        storedUpTo: this.#storedUpTo(),
        ...this.#past,
      };
      const bytes = encodeChecked(lease);
      const condition = this.#etag === null ? { ifAbsent: true as const } : { ifMatch: this.#etag };
      const result = await this.#around.bucket.put(LEASE_KEY, bytes, condition);
      if (result.stored) {
        this.#etag = result.etag;
        return;
      }
      await this.#adoptEtag();
    }
  }

  /** The lease there is not the one we knew: a lost answer of ours, an older holder's, or our successor's. */
  async #adoptEtag(): Promise<void> {
    const found = await this.#around.bucket.get(LEASE_KEY);
    this.#etag = found?.etag ?? null;
    this.#assertOurs(found);
  }

  /** Looks whether the volume is still ours. @throws FencedError if the lease there has a higher epoch */
  async confirm(): Promise<void> {
    this.#assertOurs(await this.#around.bucket.get(LEASE_KEY));
  }

  #assertOurs(found: FoundObject | null): void {
    const lease = found && readable(found.bytes);
    if (!lease) return;
    const { holder, opening, epoch, writer } = lease;
    // an epoch is claimed by one writer, except at a store that does not honour conditions
    const isRival = !opening && epoch === this.#writer.epoch && writer !== this.#writer.id;
    if (epoch > this.#writer.epoch || isRival) {
      throw new FencedError(
        `another writer has taken the volume over: ${holder.host} (pid ${holder.pid}) has epoch ` +
          `${epoch}, ours is ${this.#writer.epoch}; nothing more is stored or acknowledged`,
      );
    }
  }
}

/** @throws DamageError if it can't be read, or names no holder */
function decodeLease(bytes: Uint8Array): LeaseFile {
  const lease = decodeChecked<LeaseFile>(LEASE_KEY, bytes);
  if (typeof lease.holder?.host === "string") return lease;
  throw new DamageError(`${LEASE_KEY}: it names no holder`);
}

/** The lease, or null if it is damaged: who holds the volume writes a better one. */
function readable(bytes: Uint8Array): LeaseFile | null {
  try {
    return decodeLease(bytes);
  } catch (error) {
    if (error instanceof DamageError) return null;
    throw error;
  }
}

/** Without conditions in the store two writers are kept apart by the lease, and by looks that are not atomic. */
export async function warnIfUnconditional(bucket: Bucket, logger: Logger): Promise<void> {
  const missing = await bucket.probeConditions?.(VOLUME_KEY) ?? [];
  if (missing.length === 0) return;
  logger.warn(
    `${bucket.name} does not honour conditional PUTs (${
      missing.join(" and ")
    }): a second start is ` +
      `refused as ever, but a writer that was taken for dead after ${
        LEASE_EXPIRED_MS / 1000
      } s, or taken over, ` +
      `and still lives can overwrite what its successor has stored; make sure that it has ended`,
  );
}
