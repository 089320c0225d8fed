/**
 * Replies on their way to one socket.
 *
 * Replies collect in one buffer, and all of a turn are sent together: at once as far as the socket takes them. The rest
 * is written, and what becomes ready meanwhile collects in the other buffer, to leave in a single write. Replies
 * too large for that, or ready when it is full, wait behind it as they are.
 *
 * Promises: each reply leaves whole and once; memory is two buffers of REPLY_BUFFER_BYTES and what was
 * added. After a failed write nothing more is sent, what was queued is given back, and `failed` says so: nothing
 * may be reserved any more, and no buffer is held.
 * Assumes: what is reserved is filled in the same turn.
 */

import { REPLY_BUFFER_BYTES, TURN_REPLY_BYTES_MAX } from "../limits.ts";
import { type Socket, writeAll } from "./socket.ts";

/** A reply up to this size is copied to leave with others; copying more costs more than a write. */
const JOIN_BYTES_MAX = 64 * 1024;

class Buffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
  /** What is in it: the bytes from `start` to `used`. */
  start = 0;
  used = 0;

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
    this.view = new DataView(this.bytes.buffer);
  }

  get unsent(): Uint8Array {
    return this.bytes.subarray(this.start, this.used);
  }

  /** The first `count` bytes are not needed any more. */
  drop(count: number): void {
    this.start += count;
    if (this.start === this.used) this.start = this.used = 0;
  }
}

interface OwnBuffer {
  /** What has not been sent of it. */
  bytes: Uint8Array;
  onGone: () => void;
}

export class ReplyQueue {
  #collecting = new Buffer(REPLY_BUFFER_BYTES);
  #resting = new Buffer(REPLY_BUFFER_BYTES);
  readonly #own: OwnBuffer[] = [];
  #writing = false;
  /** How much more may be sent at once in this turn. */
  #leftNow = TURN_REPLY_BYTES_MAX;
  #onIdle: (() => void)[] = [];
  /** Why no reply can be sent any more. */
  failed: unknown = undefined;
  /** Writes that have ended, and sends at once that the socket took some of: grows while the client takes replies. */
  writes = 0;

  /** `onProgress` is called after every write: there may be room where there was none. */
  constructor(readonly conn: Socket, readonly onProgress: () => void) {}

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

  /** To be called when others have had their turn. */
  turnBegins(): void {
    this.#leftNow = TURN_REPLY_BYTES_MAX;
  }

  /** Whether what is sent now may leave at once. */
  get sendsNow(): boolean {
    return this.#maySendNow && !this.#writing && this.#own.length === 0;
  }

  get #maySendNow(): boolean {
    return this.conn.sendNow !== undefined && this.#leftNow > 0;
  }

  /** Sends what has collected: at once as far as it goes, and writes the rest; a write that is under way goes on with it. */
  send(): void {
    if (this.failed !== undefined || this.#writing) return;
    if (!this.#isEmpty && !this.#sendNow()) void this.#writeOut();
  }

  /**
   * Sends `parts` as the last `length` bytes reserved, when `sendsNow`: from where they lie, as far as they leave
   * at once, and only the rest is copied.
   */
  sendFrom(parts: readonly Uint8Array[], length: number): void {
    const collected = this.#collecting;
    const { bytes, start, used } = collected;
    const sent = this.conn.sendNow!([bytes.subarray(start, used - length), ...parts]);
    let at = used - length;
    for (const part of parts) {
      const skipped = Math.max(0, start + sent - at);
      if (skipped < part.length) bytes.set(part.subarray(skipped), at + skipped);
      at += part.length;
    }
    collected.drop(sent);
    this.#hasSent(sent);
    if (collected.used > 0) void this.#writeOut();
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

  get #isEmpty(): boolean {
    return this.#collecting.used === 0 && this.#own.length === 0;
  }

  /** Sends what can leave at once; true if that was everything. Else the rest is written in this turn, before all else. */
  #sendNow(): boolean {
    if (!this.#maySendNow) return false;
    const collected = this.#collecting.unsent;
    const own = this.#own.at(0);
    const sent = this.conn.sendNow!(own === undefined ? [collected] : [collected, own.bytes]);
    this.#hasSent(sent);
    const ofCollected = Math.min(sent, collected.length);
    this.#collecting.drop(ofCollected);
    if (own !== undefined) {
      own.bytes = own.bytes.subarray(sent - ofCollected);
      if (own.bytes.length === 0) this.#own.shift()!.onGone();
    }
    return this.#isEmpty;
  }

  #hasSent(bytes: number): void {
    if (bytes > 0) this.writes++;
    this.#leftNow -= bytes;
  }

  async #writeOut(): Promise<void> {
    this.#writing = true;
    try {
      while (!this.#isEmpty && !this.#sendNow()) {
        // what collects from now on was added before any that gets a buffer of its own later
        const ownIsNext = this.#own.length > 0;
        if (this.#collecting.used > 0) await this.#writeCollected();
        this.#hasWritten();
        if (!ownIsNext) continue;
        const own = this.#own.shift()!;
        try {
          await writeAll(this.conn, own.bytes);
        } finally {
          own.onGone();
        }
        this.#hasWritten();
      }
    } catch (error) {
      this.fail(error);
    }
    this.#writing = false;
    for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  #hasWritten(): void {
    this.writes++;
    this.turnBegins();
    this.onProgress();
  }

  async #writeCollected(): Promise<void> {
    const full = this.#collecting;
    this.#collecting = this.#resting;
    this.#resting = full;
    await writeAll(this.conn, full.unsent);
    full.start = full.used = 0;
  }

  /** Gives up what is queued, and everything that may still be added. */
  fail(reason: unknown): void {
    if (this.failed !== undefined) return;
    this.failed = reason;
    this.#collecting = this.#resting = new Buffer(0);
    for (const own of this.#own.splice(0)) own.onGone();
    this.onProgress();
  }
}
