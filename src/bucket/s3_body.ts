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
  return partOf(await readExactly(body, length, signal), sentRange, range);
}

/**
 * The bytes asked for, out of all that were sent, and the size of the whole object. Throws if they are others.
 *
 * @param sentRange Content-Range, if there is one
 */
export function partOf(
  bytes: Uint8Array,
  sentRange: string | undefined,
  range: ByteRange | undefined,
): { bytes: Uint8Array; size: number } {
  const { length } = bytes;
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

/** Straight into the array that is returned: chunks that have to be copied take twice the processor time. */
async function readExactly(
  body: ReadableStream<Uint8Array>,
  length: number,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const reader = body.getReader({ mode: "byob" });
  // each read takes the memory away and gives it back
  let buffer = new ArrayBuffer(length);
  let done = 0;
  let isOver = false;
  try {
    while (done < length && !isOver) {
      const { value, done: ended } = await reader.read(new Uint8Array(buffer, done));
      isOver = ended;
      if (!value?.length) continue;
      done += value.length;
      buffer = value.buffer;
    }
    // only when its end is seen the connection is free for the next request
    if (!isOver) isOver = (await reader.read(new Uint8Array(1))).done;
  } catch (error) {
    signal?.throwIfAborted();
    throw new Error(`the answer broke off after ${done} of ${length} bytes`, { cause: error });
  }
  if (done === length && isOver) return new Uint8Array(buffer);
  throw new Error(`the answer ended after ${done} of ${length} bytes`);
}
