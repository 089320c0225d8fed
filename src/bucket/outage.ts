/**
 * What the log says when the bucket is away: one story for the whole bucket, however many requests wait.
 *
 * A request is *stuck* when it still fails OUTAGE_MS_MIN after it was made, when only a person can lift what it
 * failed of, or when it has been silent for long and nothing else was answered meanwhile. An outage lasts from the
 * first request that is stuck until none is; it has a line when it begins, one every OUTAGE_REPORT_MS, and one when it
 * ends. A request that soon succeeds is not mentioned, nor are many of them one after the other: S3 under load answers
 * 503 now and then.
 */
import type { Clock } from "../clock.ts";
import type { UnavailableError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { OUTAGE_MS_MIN, OUTAGE_REPORT_MS } from "../limits.ts";

/** Of lines that say how it changed: a bucket that refuses every other request begins and ends an outage with each. */
const KIND = "outage";

/** A request under way, from when it was made until it was answered or given up. */
export interface PendingRequest {
  readonly madeMs: number;
  isStuck: boolean;
}

export class Outage {
  readonly #pending = new Set<PendingRequest>();
  #stuck = 0;
  /** When the first request that got stuck was made. */
  #sinceMs = 0;
  #answeredMs = -Infinity;
  #reason = "";
  #cancelReport = () => {};

  /** `where` is the bucket's name for the log. */
  constructor(readonly where: string, readonly clock: Clock, readonly logger: Logger) {}

  requestMade(): PendingRequest {
    const request = { madeMs: this.clock.monotonic(), isStuck: false };
    this.#pending.add(request);
    return request;
  }

  /** Why the bucket does not serve; undefined while it does. */
  get trouble(): string | undefined {
    return this.#stuck > 0 ? this.#reason : undefined;
  }

  /** How long it has not; 0 while it does. */
  get awayMs(): number {
    return this.#stuck > 0 ? this.clock.monotonic() - this.#sinceMs : 0;
  }

  tryFailed(request: PendingRequest, error: UnavailableError): void {
    const failingMs = this.clock.monotonic() - request.madeMs;
    const isStuck = request.isStuck || error.permanent || failingMs >= OUTAGE_MS_MIN;
    if (isStuck) this.#stuckFor(request, error.message);
  }

  /** A try has had no answer since `sinceMs`, which is long; it may have one yet. `reason` says so. */
  trySilent(request: PendingRequest, sinceMs: number, reason: string): void {
    if (!this.hasAnsweredSince(sinceMs)) this.#stuckFor(request, reason);
  }

  /** True if any request has been answered since `sinceMs`, by the monotonic clock. */
  hasAnsweredSince(sinceMs: number): boolean {
    return this.#answeredMs >= sinceMs;
  }

  /** The request is over: `answered`, or given up by whoever made it. */
  requestOver(request: PendingRequest, answered: boolean): void {
    this.#pending.delete(request);
    if (answered) this.#answeredMs = this.clock.monotonic();
    if (!request.isStuck || --this.#stuck > 0) return;
    this.#cancelReport();
    const end = answered ? "serves again" : "is no longer waited for";
    this.logger.warn(`${this.where} ${end} after ${this.#seconds()} s`, KIND);
  }

  #stuckFor(request: PendingRequest, reason: string): void {
    this.#reason = reason;
    if (request.isStuck) return;
    request.isStuck = true;
    if (this.#stuck++ > 0) return;
    this.#sinceMs = request.madeMs;
    this.logger.warn(
      `${this.where} does not serve: ${this.#reason}; what needs it waits, and it is tried on and on`,
      KIND,
    );
    this.#reportLater();
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
