/** Many keys: what the bucket does a page at a time. */
import type { Bucket } from "../bucket/bucket.ts";
import { KEYS_MAX } from "../limits.ts";

/** The keys under `prefix`, in byte order, as many at a time as a request brings; those behind `startAfter` if it is given. */
export async function* listPages(
  bucket: Bucket,
  prefix: string,
  startAfter?: string,
): AsyncGenerator<string[]> {
  for (let after = startAfter;;) {
    const page = await bucket.list(prefix, after);
    if (page.length === 0) return;
    yield page;
    after = page.at(-1);
  }
}

/** All of them. */
export async function listAll(
  bucket: Bucket,
  prefix: string,
  startAfter?: string,
): Promise<string[]> {
  const keys: string[] = [];
  for await (const page of listPages(bucket, prefix, startAfter)) {
    for (const key of page) keys.push(key);
  }
  return keys;
}

/** Deletes the keys in their order; some may be gone already if it fails. */
export async function deleteAll(bucket: Bucket, keys: string[]): Promise<void> {
  for (let at = 0; at < keys.length; at += KEYS_MAX) {
    await bucket.delete(keys.slice(at, at + KEYS_MAX));
  }
}
