/**
 * Reads the body of a GET and holds it against what its headers promise: a connection that breaks may look like
 * the end of the body, and must not pass for it.
 */
import type { ByteRange } from "./bucket.ts";

/** The parts of an answer that matter here. */
export interface Answer {
  body: ReadableStream<Uint8Array>;
  /** Content-Length and Content-Range, if it has them. */
  length?: number;
  range?: string;
}

/**
 * The bytes asked for, and the size of the whole object. Throws if they are not as many as announced,
 * and the signal's reason when it aborts.
 */
export async function readBody(
  { body, length, range: sentRange }: Answer,
  range: ByteRange | undefined,
  signal?: AbortSignal,
): Promise<{ bytes: Uint8Array; size: number }> {
  if (length === undefined) {
    await body.cancel();
    throw new Error("the server announces no Content-Length");
  }
  const bytes = await readExactly(body, length, signal);
  const sent = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(sentRange ?? "");
  // No Content-Range: the whole object, even if a part was asked for (RFC 9110, section 14.2).
  if (!sent) {
    const { offset, length: wanted } = range ?? { offset: 0, length };
    return { bytes: bytes.subarray(offset, offset + wanted), size: length };
  }
  const [first, last, size] = sent.slice(1).map(Number);
  if (first !== (range?.offset ?? 0) || last - first + 1 !== length) {
    throw new Error(`the server sent ${sentRange} for another range`);
  }
  return { bytes, size };
}

async function readExactly(
  body: ReadableStream<Uint8Array>,
  length: number,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  try {
    for await (const chunk of body) {
      if (done + chunk.length <= length) bytes.set(chunk, done);
      done += chunk.length;
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw new Error(`the answer broke off after ${done} of ${length} bytes`, { cause: error });
  }
  if (done === length) return bytes;
  throw new Error(`the answer ended after ${done} of ${length} bytes`);
}
