/**
 * A bucket that answers: it wraps another one and makes each request until it succeeds (retries.ts says how
 * long and how often).
 *
 * One thing it can't hide: when a try's answer was lost, the try may have taken effect. A `get`, `list`,
 * `delete` or plain `put` made again does no harm. A put with a condition made again then says
 * `{ stored: false }`, because its own first try is there. That is passed on as it is: only the caller can
 * tell from the object who stored it (uploader.ts).
 */
import { TRY_BYTES_UNKNOWN } from "../limits.ts";
import type { Bucket, ByteRange, FoundObject, PutCondition, PutResult } from "./bucket.ts";
import { Retries, type RetryOptions } from "./retries.ts";

export class RetryingBucket implements Bucket {
  readonly name: string;
  readonly #inner: Bucket;
  readonly #retries: Retries;

  constructor(inner: Bucket, retries: Retries) {
    this.name = inner.name;
    this.#inner = inner;
    this.#retries = retries;
  }

  /**
   * Opens a bucket by `open`, with the same patience as every request of a starting program has. `name` is
   * for messages. Throws `UsageError`.
   */
  static async open(
    name: string,
    open: (signal: AbortSignal) => Promise<Bucket>,
    options: RetryOptions,
  ): Promise<RetryingBucket> {
    const retries = new Retries(name, options);
    const inner = await retries.run({ what: "opening the bucket", bytes: 0 }, open);
    return new RetryingBucket(inner, retries);
  }

  /** The start is over: from now on every request is made until it is answered, or `close`. */
  startServing(): void {
    this.#retries.startServing();
  }

  /** Tries beyond the first of their request. */
  get retryCount(): number {
    return this.#retries.count;
  }

  /** Why the bucket does not serve; undefined while it does. */
  get trouble(): string | undefined {
    return this.#retries.trouble;
  }

  /** How long it has not served; 0 while it does. */
  get awayMs(): number {
    return this.#retries.awayMs;
  }

  async get(key: string, range?: ByteRange, signal?: AbortSignal): Promise<FoundObject | null> {
    const request = { what: `read ${key}`, bytes: range?.length ?? TRY_BYTES_UNKNOWN };
    return await this.#retries.run(request, (s) => this.#inner.get(key, range, s), signal);
  }

  async put(
    key: string,
    bytes: Uint8Array,
    condition?: PutCondition,
    signal?: AbortSignal,
  ): Promise<PutResult> {
    const request = { what: `write ${key}`, bytes: bytes.length };
    const put = (s: AbortSignal) => this.#inner.put(key, bytes, condition, s);
    return await this.#retries.run(request, put, signal);
  }

  async prepare(bytes: Uint8Array): Promise<void> {
    await this.#inner.prepare?.(bytes);
  }

  async delete(keys: string[], signal?: AbortSignal): Promise<void> {
    const request = { what: `delete ${keys.length} objects`, bytes: 0 };
    await this.#retries.run(request, (s) => this.#inner.delete(keys, s), signal);
  }

  async list(prefix: string, startAfter?: string, signal?: AbortSignal): Promise<string[]> {
    const request = { what: `list ${prefix}*`, bytes: 0 };
    const list = (s: AbortSignal) => this.#inner.list(prefix, startAfter, s);
    return await this.#retries.run(request, list, signal);
  }

  async probeConditions(key: string, signal?: AbortSignal): Promise<string[]> {
    const request = { what: `write ${key} with conditions`, bytes: 0 };
    const probe = async (s: AbortSignal) => await this.#inner.probeConditions?.(key, s) ?? [];
    return await this.#retries.run(request, probe, signal);
  }

  /** Requests that wait reject with `UnavailableError`. */
  close(): void {
    this.#retries.close();
    this.#inner.close();
  }
}
