/**
 * One process's connection to a bucket in memory, in a world where nothing happens by itself.
 *
 * Every request becomes two events, "arrives" and "is answered", which the simulation lets happen in any
 * order, late, or never. A request may be given up and made again while the first try is still on its way; a
 * request of a process that has died may still arrive.
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
  /** The process that would hear of it; undefined for what happens in the bucket. */
  at?: { isPaused: boolean };
  /** Mostly something else happens first. */
  isSlow?: boolean;
  happen(): Promise<void>;
}

export class SimulatedBucket implements Bucket {
  readonly name = "memory:";
  /** Set when the process dies: its requests may still arrive, but nobody hears the answer. */
  isDead = false;
  /** While true the process hears no answers. */
  isPaused = false;

  constructor(
    private readonly bucket: MemoryBucket,
    private readonly events: Event[],
    private readonly seed: Seed,
    /** Share of requests that fail before, of those that fail after they took effect, and of those given up. */
    private readonly faults: number,
    private readonly owner: string,
    /** Its checkpoints take long. */
    private readonly isSlow: boolean,
  ) {}

  get(key: string, range?: ByteRange): Promise<FoundObject | null> {
    return this.#request(`get ${key}`, () => this.bucket.get(key, range));
  }

  put(key: string, bytes: Uint8Array, condition?: PutCondition): Promise<PutResult> {
    const sent = bytes.slice();
    return this.#request(`put ${key}`, () => this.bucket.put(key, sent, condition));
  }

  /** As long as it takes to hash. */
  prepare(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => this.#answer(`${bytes.length} bytes are prepared`, resolve));
  }

  delete(keys: string[]): Promise<void> {
    return this.#request(`delete ${keys[0]}`, () => this.bucket.delete(keys));
  }

  list(prefix: string, startAfter?: string): ReturnType<Bucket["list"]> {
    return this.#request(`list ${prefix}`, () => this.bucket.list(prefix, startAfter));
  }

  close(): void {}

  /** Tries again for ever, as RetryingBucket does; here without its pauses. */
  #request<T>(what: string, perform: () => Promise<T>): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<T>();
    const attempt = () => {
      if (this.seed.chance(this.faults / 2)) {
        this.#arrives(`${what}, given up,`, perform, () => {});
        return this.#answer(`${what} is given up`, attempt);
      }
      this.#arrives(what, perform, (result) => {
        if (!result) return this.#answer(`${what} fails`, attempt);
        if (this.seed.chance(this.faults)) {
          return this.#answer(`${what}: the answer is lost`, attempt);
        }
        this.#answer(`${what} is answered`, () => resolve(result.is));
      });
    };
    attempt();
    return promise;
  }

  #arrives<T>(what: string, perform: () => Promise<T>, then: (result?: { is: T }) => void): void {
    const happen = async () => {
      if (this.seed.chance(this.faults)) return then();
      try {
        then({ is: await perform() });
      } catch (error) {
        if (!(error instanceof UnavailableError)) throw error;
        then();
      }
    };
    const isSlow = this.isSlow && /^put (map|checkpoint)/.test(what);
    this.events.push({ what: `${this.owner}: ${what} arrives`, isSlow, happen });
  }

  #answer(what: string, action: () => void): void {
    const happen = () => {
      if (!this.isDead) action();
      return Promise.resolve();
    };
    this.events.push({ what: `${this.owner}: ${what}`, at: this, happen });
  }
}
