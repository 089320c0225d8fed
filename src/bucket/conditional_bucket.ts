/**
 * Conditions for a store that has none: where it ignores or refuses If-None-Match or If-Match, the object is looked
 * at before each put.
 *
 * | the store             | a put with the condition is                                              |
 * | --------------------- | ------------------------------------------------------------------------ |
 * | honours the condition | passed on as it is                                                       |
 * | ignores it            | a look, then a put without it, once `probeConditions` has found it out   |
 * | refuses it            | the same; a refusal before the end of `probeConditions` is taken for that |
 *
 * A look and a put are not atomic: between the two another writer can put as well. So this guards only against puts
 * that are seconds apart, and whoever opens a volume there warns of it. After `probeConditions` a refusal is an error
 * like any other: a running drive must not become less safe without a word.
 *
 * It belongs inside of retrying_bucket.ts: each try looks anew, so that a put that waited for the end of an outage
 * does not rely on an old look.
 */
import {
  type Bucket,
  type ByteRange,
  ConditionRefusedError,
  type FoundObject,
  type PutCondition,
  type PutResult,
} from "./bucket.ts";

/** As ETags are the MD5 of the object, or as good as random, no object has this one. */
const ETAG_OF_NOTHING = "0".repeat(32);

export class ConditionalBucket implements Bucket {
  readonly name: string;
  readonly #inner: Bucket;
  /** Headers that the store was seen not to honour. */
  readonly #missing = new Set<string>();
  #isProbed = false;

  constructor(inner: Bucket) {
    this.name = inner.name;
    this.#inner = inner;
  }

  async probeConditions(key: string, signal?: AbortSignal): Promise<string[]> {
    const there = await this.#inner.get(key, undefined, signal);
    if (!there) throw new Error(`${key} is to be there when conditions are tried on it`);
    for (const condition of [{ ifAbsent: true as const }, { ifMatch: ETAG_OF_NOTHING }]) {
      // neither holds; a store that stores all the same is left with what it had
      const result = await this.put(key, there.bytes, condition, signal);
      if (result.stored) this.#missing.add(headerOf(condition));
    }
    this.#isProbed = true;
    return [...this.#missing];
  }

  async put(
    key: string,
    bytes: Uint8Array,
    condition?: PutCondition,
    signal?: AbortSignal,
  ): Promise<PutResult> {
    const header = condition && headerOf(condition);
    if (!header) return await this.#inner.put(key, bytes, undefined, signal);
    if (!this.#missing.has(header)) {
      try {
        return await this.#inner.put(key, bytes, condition, signal);
      } catch (error) {
        if (this.#isProbed || !(error instanceof ConditionRefusedError)) throw error;
        this.#missing.add(header);
      }
    }
    if (!await this.#holds(key, condition, signal)) return { stored: false };
    return await this.#inner.put(key, bytes, undefined, signal);
  }

  async prepare(bytes: Uint8Array): Promise<void> {
    await this.#inner.prepare?.(bytes);
  }

  get(key: string, range?: ByteRange, signal?: AbortSignal): Promise<FoundObject | null> {
    return this.#inner.get(key, range, signal);
  }

  delete(keys: string[], signal?: AbortSignal): Promise<void> {
    return this.#inner.delete(keys, signal);
  }

  list(prefix: string, startAfter?: string, signal?: AbortSignal): Promise<string[]> {
    return this.#inner.list(prefix, startAfter, signal);
  }

  close(): void {
    this.#inner.close();
  }

  async #holds(key: string, condition: PutCondition, signal?: AbortSignal): Promise<boolean> {
    const there = await this.#inner.get(key, { offset: 0, length: 0 }, signal);
    return "ifAbsent" in condition ? there === null : there?.etag === condition.ifMatch;
  }
}

function headerOf(condition: PutCondition): string {
  return "ifAbsent" in condition ? "If-None-Match" : "If-Match";
}
