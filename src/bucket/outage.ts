/**
 * What the log says when the bucket is away: one story for the whole bucket, however many requests wait.
 *
 * An outage is worth a line when a request still fails OUTAGE_MS_MIN after it was made, or when only a person
 * can lift what it failed of. Then a line every OUTAGE_REPORT_MS, and one when the last request that had
 * failed is through (or was given up). A request that fails once and succeeds at its second try is not
 * mentioned: S3 under load answers 503 in passing.
 */
import type { Clock } from "../clock.ts";
import type { UnavailableError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { OUTAGE_MS_MIN, OUTAGE_REPORT_MS } from "../limits.ts";

/** A request under way, from when it was made until it was answered or given up. */
export interface PendingRequest {
  readonly madeMs: number;
  failed: boolean;
}

export class Outage {
  readonly #pending = new Set<PendingRequest>();
  #failing = 0;
  /** When the first request that failed was made. */
  #sinceMs = 0;
  #reason = "";
  /** Cancels the next report; null while there is nothing to report. */
  #cancelReport: (() => void) | null = null;

  /** `where` is the bucket's name for the log. */
  constructor(readonly where: string, readonly clock: Clock, readonly logger: Logger) {}

  requestMade(): PendingRequest {
    const request = { madeMs: this.clock.monotonic(), failed: false };
    this.#pending.add(request);
    return request;
  }

  tryFailed(request: PendingRequest, error: UnavailableError): void {
    if (this.#failing === 0) this.#sinceMs = request.madeMs;
    if (!request.failed) this.#failing++;
    request.failed = true;
    this.#reason = error.message;
    const failingMs = this.clock.monotonic() - request.madeMs;
    if (this.#cancelReport || (!error.permanent && failingMs < OUTAGE_MS_MIN)) return;
    this.logger.warn(
      `${this.where} does not serve: ${this.#reason}; what needs it waits, and it is tried on and on`,
    );
    this.#reportLater();
  }

  /** The request is over: `answered`, or given up by whoever made it. */
  requestOver(request: PendingRequest, answered: boolean): void {
    this.#pending.delete(request);
    if (!request.failed || --this.#failing > 0 || !this.#cancelReport) return;
    this.#cancelReport();
    this.#cancelReport = null;
    const end = answered ? "serves again" : "is no longer waited for";
    this.logger.warn(`${this.where} ${end} after ${this.#seconds()} s`);
  }

  #reportLater(): void {
    this.#cancelReport = this.clock.after(OUTAGE_REPORT_MS, () => {
      const waiting = this.#pending.size === 1
        ? "1 request waits"
        : `${this.#pending.size} requests wait`;
      this.logger.warn(
        `${this.where} has not served for ${this.#seconds()} s: ${this.#reason}; ${waiting}`,
      );
      this.#reportLater();
    });
  }

  #seconds(): number {
    return Math.round((this.clock.monotonic() - this.#sinceMs) / 1000);
  }
}
