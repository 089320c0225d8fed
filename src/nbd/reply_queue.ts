/**
 * Replies on their way to one socket.
 *
 * Replies collect in one buffer while the other is being written, so that all replies of a turn, and all that
 * become ready during a write, leave in a single write. Replies too large for that, or ready when it is
 * full, wait behind it as they are.
 *
 * Promises: each reply leaves whole and once; memory is two buffers of REPLY_BUFFER_BYTES and what was
 * added. After a failed write nothing more is sent, what was queued is given back, and `failed` says so.
 * Assumes: what is reserved is filled in the same turn.
 */

import { REPLY_BUFFER_BYTES } from "../limits.ts";
import { writeAll } from "./socket.ts";

/** A reply up to this size is copied to leave with others; copying more costs more than a write. */
const JOIN_BYTES_MAX = 64 * 1024;

class Buffer {
  readonly bytes = new Uint8Array(REPLY_BUFFER_BYTES);
  readonly view = new DataView(this.bytes.buffer);
  used = 0;
}

interface OwnBuffer {
  bytes: Uint8Array;
  onGone: () => void;
}

export class ReplyQueue {
  #collecting = new Buffer();
  #resting = new Buffer();
  readonly #own: OwnBuffer[] = [];
  #writing = false;
  #onIdle: (() => void)[] = [];
  /** Why no reply can be sent any more. */
  failed: unknown = undefined;

  /** `onProgress` is called after every write: there may be room where there was none. */
  constructor(readonly conn: Deno.Conn, readonly onProgress: () => void) {}

  /** The buffer in which `reserve` reserves, until the next `reserve` or `send`. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#collecting.bytes;
  }

  get view(): DataView {
    return this.#collecting.view;
  }

  /** Room for `length` bytes at the returned position of `bytes`, or -1 until a write has ended. */
  reserve(length: number): number {
    if (this.#collecting.used + length > REPLY_BUFFER_BYTES) {
      this.send();
      if (this.#collecting.used + length > REPLY_BUFFER_BYTES) return -1;
    }
    const at = this.#collecting.used;
    this.#collecting.used += length;
    return at;
  }

  /** Gives back the last `length` bytes reserved. */
  unreserve(length: number): void {
    this.#collecting.used -= length;
  }

  /** Queues a small reply; false when there is no room for it until a write has ended. */
  tryAdd(reply: Uint8Array): boolean {
    const at = this.reserve(reply.length);
    if (at >= 0) this.bytes.set(reply, at);
    return at >= 0;
  }

  /**
   * Sends a reply that has a buffer of its own, behind all that were added before; `onGone` is called when that
   * buffer is no longer needed.
   */
  add(reply: Uint8Array, onGone: () => void): void {
    if (this.failed !== undefined) return onGone();
    const mayJoin = reply.length <= JOIN_BYTES_MAX && this.#own.length === 0;
    if (mayJoin && this.tryAdd(reply)) {
      onGone();
    } else {
      this.#own.push({ bytes: reply, onGone });
    }
    this.send();
  }

  /** Begins to write what has collected, unless a write is under way: that one goes on with it. */
  send(): void {
    if (this.failed !== undefined || this.#writing) return;
    if (this.#collecting.used > 0 || this.#own.length > 0) void this.#writeOut();
  }

  /** Whether something waits for the client to take it. */
  get isWriting(): boolean {
    return this.#writing;
  }

  /** Resolves when everything queued has been written, or can't be any more. */
  idle(): Promise<void> {
    this.send();
    return this.#writing ? new Promise((resolve) => this.#onIdle.push(resolve)) : Promise.resolve();
  }

  async #writeOut(): Promise<void> {
    this.#writing = true;
    try {
      while (this.#collecting.used > 0 || this.#own.length > 0) {
        // what collects from now on was added before any that gets a buffer of its own later
        const ownIsNext = this.#own.length > 0;
        if (this.#collecting.used > 0) await this.#writeCollected();
        this.onProgress();
        if (!ownIsNext) continue;
        const own = this.#own.shift()!;
        try {
          await writeAll(this.conn, own.bytes);
        } finally {
          own.onGone();
        }
        this.onProgress();
      }
    } catch (error) {
      this.#fail(error);
    }
    this.#writing = false;
    for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  async #writeCollected(): Promise<void> {
    const full = this.#collecting;
    this.#collecting = this.#resting;
    this.#resting = full;
    await writeAll(this.conn, full.bytes.subarray(0, full.used));
    full.used = 0;
  }

  #fail(error: unknown): void {
    this.failed = error;
    this.#collecting.used = this.#resting.used = 0;
    for (const own of this.#own.splice(0)) own.onGone();
    this.onProgress();
  }
}
