/**
 * One process's connection to a bucket in memory, in a world where nothing happens by itself.
 *
 * Every request becomes two events, "arrives" and "is answered", which the simulation lets happen in any
 * order, late, or never. A request of a process that has died may still arrive.
 */
import type {
  Bucket,
  ByteRange,
  FoundObject,
  PutCondition,
  PutResult,
} from "../../src/bucket/bucket.ts";
import { UnavailableError } from "../../src/errors.ts";
import type { MemoryBucket } from "../support/memory_bucket.ts";
import type { Seed } from "./seed.ts";

/** Something that may happen next. */
export interface Event {
  /** For a trace of a failing seed. */
  what: string;
  happen(): Promise<void>;
}

export class SimulatedBucket implements Bucket {
  readonly name = "memory:";
  /** Set when the process dies: its requests may still arrive, but nobody hears the answer. */
  isDead = false;

  constructor(
    private readonly bucket: MemoryBucket,
    private readonly events: Event[],
    private readonly seed: Seed,
    /** Share of requests that fail before, and of those that fail after they took effect. */
    private readonly faults: number,
    private readonly owner: string,
  ) {}

  get(key: string, range?: ByteRange): Promise<FoundObject | null> {
    return this.#request(`get ${key}`, () => this.bucket.get(key, range));
  }

  put(key: string, bytes: Uint8Array, condition?: PutCondition): Promise<PutResult> {
    return this.#request(`put ${key}`, () => this.bucket.put(key, bytes.slice(), condition));
  }

  delete(keys: string[]): Promise<void> {
    return this.#request(`delete ${keys[0]}`, () => this.bucket.delete(keys));
  }

  list(prefix: string, startAfter?: string): Promise<string[]> {
    return this.#request(`list ${prefix}`, () => this.bucket.list(prefix, startAfter));
  }

  close(): void {}

  /** Tries again for ever, as RetryingBucket does; here without its pauses. */
  #request<T>(what: string, perform: () => Promise<T>): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<T>();
    const attempt = () => {
      this.#later(`${what} arrives`, async () => {
        if (this.seed.chance(this.faults)) return this.#answer(`${what} fails before`, attempt);
        const result = await perform().catch((error) => {
          if (error instanceof UnavailableError) return undefined;
          throw error;
        });
        if (result === undefined && !what.startsWith("delete")) {
          return this.#answer(`${what} fails`, attempt);
        }
        if (this.seed.chance(this.faults)) {
          return this.#answer(`${what}: the answer is lost`, attempt);
        }
        this.#answer(`${what} is answered`, () => resolve(result as T));
      });
    };
    attempt();
    return promise;
  }

  #later(what: string, action: () => Promise<void>): void {
    this.events.push({ what: `${this.owner}: ${what}`, happen: action });
  }

  #answer(what: string, action: () => void): void {
    this.#later(what, () => {
      if (!this.isDead) action();
      return Promise.resolve();
    });
  }
}
