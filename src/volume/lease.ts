/**
 * The lease: `lease.json` says who has the volume open, so that a second start can be refused politely.
 * Fencing does not rest on it (uploader.ts does that): a lease may be stale, or overwritten, and no
 * byte is lost.
 */
import type { Bucket } from "../bucket/bucket.ts";
import type { Clock } from "../clock.ts";
import { FencedError, messageOf, UsageError } from "../errors.ts";
import { LEASE_EXPIRED_MS, LEASE_RENEW_MS } from "../limits.ts";
import type { Logger } from "../logger.ts";
import type { Writer } from "./uploader.ts";

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

interface LeaseFile {
  holder: Holder;
  epoch: number;
  /** Of the writer, 32 hexadecimal digits. */
  writer: string;
  /** Milliseconds since 1970 by the holder's clock. */
  renewedAt: number;
  /** True once the holder has closed the volume. */
  released: boolean;
}

interface FoundLease {
  etag: string;
  lease: LeaseFile;
}

async function readLease(bucket: Bucket): Promise<FoundLease | null> {
  const found = await bucket.get(LEASE_KEY);
  if (!found) return null;
  try {
    const lease = JSON.parse(new TextDecoder().decode(found.bytes)) as LeaseFile;
    if (typeof lease.epoch === "number" && lease.holder) return { etag: found.etag, lease };
  } catch { /* not a lease: nobody holds it */ }
  return null;
}

/**
 * Refuses if somebody else has the volume open, as far as can be told.
 *
 * @returns the holder that died with the lease, if there was one
 * @throws UsageError naming host, pid and how long ago the lease was renewed
 */
export async function refuseIfHeld(
  bucket: Bucket,
  host: Host,
  clock: Clock,
  takeover: boolean,
  logger: Logger,
): Promise<Holder | undefined> {
  const found = await readLease(bucket);
  if (!found || found.lease.released) return undefined;
  const { holder, epoch, renewedAt } = found.lease;
  const seconds = Math.max(0, Math.round((clock.now() - renewedAt) / 1000));
  const who = `${bucket.name} is open on ${holder.host} (pid ${holder.pid}, epoch ${epoch}), ` +
    `which was last heard of ${seconds} s ago`;
  const isGone = host.isGone(holder, renewedAt);
  if (isGone === true) return holder;
  if (isGone === undefined && seconds * 1000 > LEASE_EXPIRED_MS) {
    logger.warn(`${who}: taken to be dead, and fenced`);
    return undefined;
  }
  if (takeover) {
    logger.warn(`${who}: taken over, as asked; it can store nothing more`);
    return undefined;
  }
  throw new UsageError(
    `${who}; stop it there, or wait until it has been silent for ${LEASE_EXPIRED_MS / 1000} s, ` +
      `or start with --takeover, which fences it: what it has not flushed is lost`,
  );
}

/** The lease of an open volume: written after the claim, renewed until it is released. */
export class Lease {
  readonly #bucket: Bucket;
  readonly #host: Host;
  readonly #writer: Writer;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #onFenced: (error: FencedError) => void;
  #etag: string | null = null;
  #cancelTimer: (() => void) | null = null;
  #writing: Promise<void> = Promise.resolve();
  #released = false;

  /** @param onFenced called when another writer's lease is found where ours was */
  constructor(
    bucket: Bucket,
    host: Host,
    writer: Writer,
    clock: Clock,
    logger: Logger,
    onFenced: (error: FencedError) => void,
  ) {
    this.#bucket = bucket;
    this.#host = host;
    this.#writer = writer;
    this.#clock = clock;
    this.#logger = logger;
    this.#onFenced = onFenced;
  }

  /** Writes the lease and begins to renew it. */
  async acquire(): Promise<void> {
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
    this.#released = true;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
  }

  #renewLater(): void {
    if (this.#released) return;
    this.#cancelTimer = this.#clock.after(LEASE_RENEW_MS, () => {
      this.#writing = this.#write(false);
      this.#writing.catch((error) => {
        if (error instanceof FencedError) this.#onFenced(error);
        else if (!this.#released) this.#logger.warn(`lease not renewed: ${messageOf(error)}`);
      }).then(() => this.#renewLater());
    });
  }

  /** @throws FencedError if the lease there has a higher epoch */
  async #write(released: boolean): Promise<void> {
    for (;;) {
      const lease: LeaseFile = {
        holder: this.#host.me,
        epoch: this.#writer.epoch,
        writer: this.#writer.id,
        renewedAt: this.#clock.now(),
        released,
      };
      const bytes = new TextEncoder().encode(JSON.stringify(lease, null, 1) + "\n");
      const condition = this.#etag === null ? { ifAbsent: true as const } : { ifMatch: this.#etag };
      const result = await this.#bucket.put(LEASE_KEY, bytes, condition);
      if (result.stored) {
        this.#etag = result.etag;
        return;
      }
      await this.#adoptEtag();
    }
  }

  /** The lease there is not the one we knew: a lost answer of ours, an older holder's, or our successor's. */
  async #adoptEtag(): Promise<void> {
    const object = await this.#bucket.get(LEASE_KEY);
    this.#etag = object?.etag ?? null;
    await this.confirm();
  }

  /** Looks whether the volume is still ours. @throws FencedError if the lease there has a higher epoch */
  async confirm(): Promise<void> {
    const found = await readLease(this.#bucket);
    if (!found) return;
    const { holder, epoch, writer } = found.lease;
    // an epoch is claimed by one writer, except at a store that does not honour conditions
    const isRival = epoch === this.#writer.epoch && writer !== this.#writer.id;
    if (epoch > this.#writer.epoch || isRival) {
      throw new FencedError(
        `another writer has taken the volume over: ${holder.host} (pid ${holder.pid}) has epoch ` +
          `${epoch}, ours is ${this.#writer.epoch}; nothing more is stored or acknowledged`,
      );
    }
  }
}
