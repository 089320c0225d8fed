/**
 * A bucket in memory, with faults named for what happens.
 *
 * It keeps the contract of `Bucket` (conditions are atomic, reads see acknowledged writes) except where a
 * test asked for a fault. Requests take effect in the order they were made, one microtask after the
 * call, so that a test or a simulation that owns the rest of the order gets the same run every time.
 *
 * A fault ordered with a count meets the next `n` requests of its kind; with several ordered for one kind
 * they are used up in the order they were given. `hold` stops requests until the test lets them go.
 */
import type {
  Bucket,
  ByteRange,
  FoundObject,
  PutCondition,
  PutResult,
} from "../../src/bucket/bucket.ts";
import { ConditionRefusedError } from "../../src/bucket/bucket.ts";
import { UnavailableError } from "../../src/errors.ts";
import { KEYS_MAX } from "../../src/limits.ts";

export type RequestKind = "get" | "put" | "delete" | "list";

/** What happens to one request instead of the ordinary. */
type Fault =
  | "fail before apply"
  | "fail after apply"
  | "hang before apply"
  | "hang after apply"
  | "truncate";

/** A request that `hold` stopped. It has not taken effect yet. */
export interface HeldRequest {
  kind: RequestKind;
  /** The key; of a delete the first one, of a list the prefix. */
  key: string;
  /** Lets it go on. */
  release(): void;
  /** Makes it fail without effect. */
  fail(error?: Error): void;
}

interface Stored {
  bytes: Uint8Array;
  etag: string;
}

export class MemoryBucket implements Bucket {
  readonly name = "memory:";
  /** What is stored, for tests that look or do damage; give changed bytes as a new array. */
  readonly objects = new Map<string, Stored>();
  /** Requests that arrived and bytes that were moved, by kind; `failed` counts the faults. */
  readonly counts = {
    get: { requests: 0, bytes: 0 },
    put: { requests: 0, bytes: 0 },
    delete: { requests: 0, bytes: 0 },
    list: { requests: 0, bytes: 0 },
    failed: 0,
  };
  /** Requests stopped by `hold`, oldest first. */
  readonly held: HeldRequest[] = [];
  /** What becomes of a put with a condition: some servers don't look at it, some refuse it. */
  readonly conditions: Record<"ifAbsent" | "ifMatch", "honoured" | "ignored" | "refused"> = {
    ifAbsent: "honoured",
    ifMatch: "honoured",
  };
  /** While set, every request fails with it: S3 is away. */
  outage: Error | null = null;
  /** One request more is a fault of who asks: so that a loop without an end comes to one. */
  requestsMax = Infinity;

  readonly #faults: Record<RequestKind, Fault[]> = { get: [], put: [], delete: [], list: [] };
  readonly #holding = new Set<RequestKind>();
  readonly #heldWaiters: { count: number; resolve: () => void }[] = [];
  #versions = 0;

  // ---- faults

  /** The next `n` puts fail and store nothing. */
  failPutsBeforeApply = (n: number) => this.#order("put", "fail before apply", n);
  /** The next `n` puts store, and their answer is lost. */
  failPutsAfterApply = (n: number) => this.#order("put", "fail after apply", n);
  /** The next `n` puts never answer and store nothing; their signal ends the wait. */
  hangPutsBeforeApply = (n: number) => this.#order("put", "hang before apply", n);
  /** The next `n` puts store and never answer. */
  hangPutsAfterApply = (n: number) => this.#order("put", "hang after apply", n);
  failGets = (n: number) => this.#order("get", "fail before apply", n);
  hangGets = (n: number) => this.#order("get", "hang before apply", n);
  /** The next `n` gets answer with the first half of their bytes only, and don't say so. */
  truncateGets = (n: number) => this.#order("get", "truncate", n);
  hangLists = (n: number) => this.#order("list", "hang before apply", n);

  /** Stops every request of this kind from now on, before it takes effect; see `held`. */
  hold(kind: RequestKind): void {
    this.#holding.add(kind);
  }

  /** Stops no more, and lets go all that are held of this kind. */
  release(kind: RequestKind): void {
    this.#holding.delete(kind);
    for (const request of this.held.filter((h) => h.kind === kind)) request.release();
  }

  /** Resolves when at least `count` requests are held. */
  untilHeld(count: number): Promise<void> {
    if (this.held.length >= count) return Promise.resolve();
    return new Promise((resolve) => this.#heldWaiters.push({ count, resolve }));
  }

  // ---- damage

  /** Flips one bit of a stored object; bit 0 is the lowest of byte 0. */
  flipBit(key: string, bit: number): void {
    const object = this.#stored(key);
    const bytes = object.bytes.slice();
    bytes[bit >> 3] ^= 1 << (bit & 7);
    this.objects.set(key, { ...object, bytes });
  }

  /** Cuts a stored object down to `length` bytes. */
  cut(key: string, length: number): void {
    const object = this.#stored(key);
    this.objects.set(key, { ...object, bytes: object.bytes.slice(0, length) });
  }

  /** A bucket with the same objects, and no faults: what a crash at this moment leaves. */
  copy(): MemoryBucket {
    const copy = new MemoryBucket();
    for (const [key, object] of this.objects) copy.objects.set(key, object);
    copy.#versions = this.#versions;
    return copy;
  }

  // ---- the interface

  get(key: string, range?: ByteRange, signal?: AbortSignal): Promise<FoundObject | null> {
    return this.#request("get", key, signal, (fault) => {
      const object = this.objects.get(key);
      if (!object) return null;
      const { offset, length } = range ?? { offset: 0, length: object.bytes.length };
      let bytes = object.bytes.slice(offset, offset + length);
      if (fault === "truncate") bytes = bytes.slice(0, bytes.length >> 1);
      this.counts.get.bytes += bytes.length;
      return { bytes, size: object.bytes.length, etag: object.etag };
    });
  }

  put(
    key: string,
    bytes: Uint8Array,
    condition?: PutCondition,
    signal?: AbortSignal,
  ): Promise<PutResult> {
    return this.#request("put", key, signal, () => {
      this.counts.put.bytes += bytes.length;
      const etag = this.objects.get(key)?.etag;
      const way = condition && this.conditions["ifAbsent" in condition ? "ifAbsent" : "ifMatch"];
      if (way === "refused") throw new ConditionRefusedError(`put ${key}: a condition (test)`);
      if (condition && way === "honoured") {
        const holds = "ifAbsent" in condition ? etag === undefined : etag === condition.ifMatch;
        if (!holds) return { stored: false };
      }
      const stored = { bytes: bytes.slice(), etag: `v${++this.#versions}` };
      this.objects.set(key, stored);
      return { stored: true, etag: stored.etag };
    });
  }

  delete(keys: string[], signal?: AbortSignal): Promise<void> {
    return this.#request("delete", keys[0], signal, () => {
      for (const key of keys) this.objects.delete(key);
    });
  }

  list(prefix: string, startAfter = "", signal?: AbortSignal): Promise<string[]> {
    return this.#request("list", prefix, signal, () => {
      const keys = [...this.objects.keys()].filter((k) => k.startsWith(prefix) && k > startAfter);
      return keys.sort().slice(0, KEYS_MAX);
    });
  }

  /** Nothing to give back: a second volume may be opened on the same bucket. */
  close(): void {}

  // ---- within

  #order(kind: RequestKind, fault: Fault, n: number): void {
    for (let i = 0; i < n; i++) this.#faults[kind].push(fault);
  }

  #stored(key: string): Stored {
    const object = this.objects.get(key);
    if (!object) throw new Error(`no object ${key}; there are ${[...this.objects.keys()]}`);
    return object;
  }

  async #request<T>(
    kind: RequestKind,
    key: string,
    signal: AbortSignal | undefined,
    apply: (fault?: Fault) => T,
  ): Promise<T> {
    this.counts[kind].requests++;
    if (--this.requestsMax < 0) throw new Error(`${kind} ${key}: no end of requests`);
    await Promise.resolve();
    signal?.throwIfAborted();
    if (this.#holding.has(kind)) await this.#held(kind, key, signal);
    const fault = this.#faults[kind].shift();
    if (this.outage) {
      this.counts.failed++;
      throw this.outage;
    }
    if (fault && fault !== "truncate") return this.#fail(fault, kind, key, signal, apply);
    if (fault) this.counts.failed++;
    return apply(fault);
  }

  #fail<T>(
    fault: Fault,
    kind: RequestKind,
    key: string,
    signal: AbortSignal | undefined,
    apply: () => T,
  ): Promise<T> {
    this.counts.failed++;
    if (fault.endsWith("after apply")) apply();
    if (fault.startsWith("fail")) throw new UnavailableError(`${kind} ${key}: ${fault} (test)`);
    return new Promise((_, reject) =>
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true })
    );
  }

  #held(kind: RequestKind, key: string, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        const place = this.held.indexOf(request);
        if (place >= 0) this.held.splice(place, 1);
      };
      const fail = (error: unknown) => {
        leave();
        reject(error);
      };
      const request: HeldRequest = {
        kind,
        key,
        release: () => {
          leave();
          resolve();
        },
        fail: (error) =>
          fail(error ?? new UnavailableError(`${kind} ${key}: failed while held (test)`)),
      };
      this.held.push(request);
      signal?.addEventListener("abort", () => fail(signal.reason), { once: true });
      for (const waiter of this.#heldWaiters.splice(0)) {
        if (this.held.length >= waiter.count) waiter.resolve();
        else this.#heldWaiters.push(waiter);
      }
    });
  }
}
