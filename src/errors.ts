/**
 * The errors this program raises on purpose, sorted by what the one who catches them must do.
 *
 * | class              | what happened                              | what to do                    |
 * | ------------------ | ------------------------------------------ | ----------------------------- |
 * | `UsageError`       | configuration or start-up refused          | say it in one line, exit 2    |
 * | `UnavailableError` | the bucket can't be reached or won't serve | try again                     |
 * | `DamageError`      | stored bytes are missing or not as written | EIO for this request, log it  |
 * | `FencedError`      | another writer has taken the volume over   | fail everything, exit 3       |
 * | `TimeoutError`     | `iotimeout` passed before the bucket answered | EIO for this request       |
 *
 * Every message says what was wrong, where, and what is allowed. An error is logged once, where it
 * becomes a reply or an exit.
 */

/** Configuration or start-up is refused; the message is complete and is shown as it is. Exit code 2. */
export class UsageError extends Error {
  override name = "UsageError";
  /** Of config.ini: its value is what is refused. */
  readonly key?: string;
  constructor(message: string, { key, ...options }: ErrorOptions & { key?: string } = {}) {
    super(message, options);
    this.key = key;
  }
}

/** Refuses to open a volume that is not there and is not to be created; `where` is the bucket, or its directory, by name. */
export function noVolumeIn(where: string): UsageError {
  return new UsageError(
    `there is no volume at ${where}: check BUCKET and PREFIX, or start the drive; it makes one ` +
      "if VOLUMESIZE is set (bytes, or with K, M, G or T)",
    { key: "BUCKET" },
  );
}

/**
 * The bucket did not do what was asked, and the same request may succeed later.
 *
 * `permanent` tells the two kinds apart that look alike to a running drive (it waits for both) but not to a
 * starting one: a refusal that only a person can lift (wrong key, no permission, bucket gone, clock
 * skew) is reported at once, anything else (5xx, reset, time-out) is tried again for a while.
 */
export class UnavailableError extends Error {
  override name = "UnavailableError";
  constructor(message: string, readonly permanent = false, options?: ErrorOptions) {
    super(message, options);
  }
}

/** What the bucket holds is not what was written there; the message names key, offset and both checksums. */
export class DamageError extends Error {
  override name = "DamageError";
}

/** A writer with a higher epoch owns the volume: nothing can be stored or acknowledged any more. Exit code 3. */
export class FencedError extends Error {
  override name = "FencedError";
}

/** A request waited for the bucket longer than `iotimeout` allows. */
export class TimeoutError extends Error {
  override name = "TimeoutError";
}

/** The text of whatever was thrown, for a log line. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
