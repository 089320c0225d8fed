/**
 * What both phases of a connection need of its socket: one buffer that holds what has arrived and was not
 * consumed yet, and writing all of something.
 */

import { RECEIVE_BUFFER_BYTES } from "../limits.ts";

/** What is used of a connection, in clear or in TLS. */
export interface Socket extends Pick<Deno.Conn, "read" | "write" | "closeWrite" | "close"> {
  /** How often a read found less than it had room for, where whoever calls `read` can't tell: nothing was left then. */
  readonly emptied?: number;
  /**
   * Sends of `parts`, one after the other, what can leave at once, while no `write` is under way: how many bytes.
   * If none, `write` waits, or throws what is wrong.
   */
  sendNow?(parts: readonly Uint8Array[]): number;
  /** Fills `parts`, one after the other, with what has arrived, while no `read` is under way; likewise. */
  receiveNow?(parts: readonly Uint8Array[]): number;
}

/** Arrived and not yet consumed: the bytes from `start` to `end`. */
export class ReceiveBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
  start = 0;
  end = 0;
  /** What `space` returned last, and mostly returns next. */
  #space: Uint8Array;

  constructor(length = RECEIVE_BUFFER_BYTES) {
    this.bytes = new Uint8Array(length);
    this.view = new DataView(this.bytes.buffer);
    this.#space = this.bytes;
  }

  get length(): number {
    return this.end - this.start;
  }

  /** The arrived bytes, borrowed until the next read. */
  unread(): Uint8Array {
    return this.bytes.subarray(this.start, this.end);
  }

  /**
   * Where the next read goes, up to `bytesMax`, so that a message of `messageBytes` that begins at `start` fits.
   * Reading on past that message costs a move of what has arrived of the next, now and then, and is
   * still cheaper than reading each message to its end: 1.2 reads instead of 2 for 256 KiB.
   */
  space(messageBytes: number, bytesMax = Infinity): Uint8Array {
    if (this.start === this.end) {
      this.start = this.end = 0;
    } else if (this.start + messageBytes > this.bytes.length) {
      this.bytes.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
    }
    const end = Math.min(this.end + bytesMax, this.bytes.length);
    const { byteOffset, byteLength } = this.#space;
    if (byteOffset !== this.end || byteLength !== end - this.end) {
      this.#space = this.bytes.subarray(this.end, end);
    }
    return this.#space;
  }

  /** Reads until `count` bytes are there; false when the stream ends first. */
  async require(conn: Socket, count: number): Promise<boolean> {
    while (this.length < count) {
      const received = await conn.read(this.space(count));
      if (received === null) return false;
      this.end += received;
    }
    return true;
  }

  /** Reads and drops `count` bytes; false when the stream ends first. */
  async skip(conn: Socket, count: number): Promise<boolean> {
    for (let left = count;;) {
      const step = Math.min(left, this.length);
      this.start += step;
      left -= step;
      if (left === 0) return true;
      if (!(await this.require(conn, 1))) return false;
    }
  }
}

/** Writes all of `bytes`, however few a single write takes. */
export async function writeAll(conn: Socket, bytes: Uint8Array): Promise<void> {
  let written = await conn.write(bytes);
  while (written < bytes.length) written += await conn.write(bytes.subarray(written));
}
