/** Many keys: what the bucket does a page at a time. */
import type { Bucket } from "../bucket/bucket.ts";
import { KEYS_MAX } from "../limits.ts";

/** Every key under `prefix`, in byte order; those behind `startAfter` if it is given. */
export async function listAll(bucket: Bucket, prefix: string, startAfter?: string) {
  const keys: string[] = [];
  for (let after = startAfter;; after = keys.at(-1)) {
    const page = await bucket.list(prefix, after);
    if (page.length === 0) return keys;
    for (const key of page) keys.push(key);
  }
}

/** Deletes the keys in their order; some may be gone already if it fails. */
export async function deleteAll(bucket: Bucket, keys: string[]): Promise<void> {
  for (let at = 0; at < keys.length; at += KEYS_MAX) {
    await bucket.delete(keys.slice(at, at + KEYS_MAX));
  }
}
