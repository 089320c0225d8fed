/**
 * A bucket that counts. It wraps the one that makes the requests, so that each try counts, as it does in the bill.
 *
 * A `get` of no bytes counts as a HEAD, which is what it is. Not counted are the requests that open the bucket, and the
 * second one that s3_bucket.ts makes for a `get` behind an object's end and, once, to find out how a store takes ETags.
 */
import type { Clock } from "../clock.ts";
import { OperationCounts } from "../counters.ts";
import type { Bucket, ByteRange, FoundObject, PutCondition, PutResult } from "./bucket.ts";

export class BucketCounts {
  readonly get = new OperationCounts();
  readonly put = new OperationCounts();
  readonly head = new OperationCounts();
  readonly list = new OperationCounts();
  readonly delete = new OperationCounts();
}

export class CountingBucket implements Bucket {
  readonly name: string;
  readonly #inner: Bucket;
  readonly #counts: BucketCounts;
  readonly #clock: Clock;

  constructor(inner: Bucket, counts: BucketCounts, clock: Clock) {
    this.name = inner.name;
    this.#inner = inner;
    this.#counts = counts;
    this.#clock = clock;
  }

  async get(key: string, range?: ByteRange, signal?: AbortSignal): Promise<FoundObject | null> {
    const counts = range?.length === 0 ? this.#counts.head : this.#counts.get;
    const found = await this.#count(counts, this.#inner.get(key, range, signal));
    counts.bytes += found?.bytes.length ?? 0;
    return found;
  }

  async put(
    key: string,
    bytes: Uint8Array,
    condition?: PutCondition,
    signal?: AbortSignal,
  ): Promise<PutResult> {
    const counts = this.#counts.put;
    const result = await this.#count(counts, this.#inner.put(key, bytes, condition, signal));
    counts.bytes += bytes.length;
    return result;
  }

  async prepare(bytes: Uint8Array): Promise<void> {
    await this.#inner.prepare?.(bytes);
  }

  delete(keys: string[], signal?: AbortSignal): Promise<void> {
    return this.#count(this.#counts.delete, this.#inner.delete(keys, signal));
  }

  list(prefix: string, startAfter?: string, signal?: AbortSignal): Promise<string[]> {
    return this.#count(this.#counts.list, this.#inner.list(prefix, startAfter, signal));
  }

  close(): void {
    this.#inner.close();
  }

  async #count<T>(counts: OperationCounts, answer: Promise<T>): Promise<T> {
    const begunMs = this.#clock.monotonic();
    try {
      return await answer;
    } catch (error) {
      counts.errors++;
      throw error;
    } finally {
      counts.requests++;
      counts.latency.add((this.#clock.monotonic() - begunMs) / 1000);
    }
  }
}
