/**
 * Requests as they arrive on one connection: header, then payload, however the stream was cut.
 *
 *   receiveHeader ──▶ request ──▶ receivePayload | dropPayload ──▶ finish ──▶ receiveHeader ...
 *
 * Each of the three says whether what it is about has arrived whole; if not, it is called again after the next
 * `read`. A payload that fits the buffer is lent from there, without a copy; a larger one gets a buffer
 * of its own, into which the socket is read straight away.
 *
 * Assumes: one `read` at a time.
 */

import { parseRequest, Request } from "./codec.ts";
import { NBD_CMD_WRITE, REQUEST_HEADER_BYTES } from "./constants.ts";
import type { InFlight, Share } from "./in_flight.ts";
import { ReceiveBuffer, type Socket } from "./socket.ts";

export class RequestReader {
  /** The request whose header arrived last; the same object for every one. */
  readonly request = new Request();
  /** No more will be read: the stream has ended. */
  hasEnded = false;
  /** How many were read. */
  bytes = 0;
  #emptied = 0;

  readonly #conn: Socket;
  #received: ReceiveBuffer;
  readonly #inFlight: InFlight;
  readonly #share: Share;
  /** `request` is one that is not finished. */
  #hasHeader = false;
  /** Bytes of the payload that were lent or have to be dropped yet. */
  #payloadBytes = 0;
  #ownPayload: Uint8Array | undefined = undefined;
  #ownFilled = 0;

  constructor(conn: Socket, received: ReceiveBuffer, inFlight: InFlight, share: Share) {
    this.#conn = conn;
    this.#received = received;
    this.#inFlight = inFlight;
    this.#share = share;
  }

  /** True when `request` is the next one. @throws ProtocolError if it can't be one */
  receiveHeader(): boolean {
    if (this.#hasHeader) return true;
    const { view, start, end } = this.#received;
    if (!parseRequest(view, start, end, this.request)) return false;
    this.#received.start += REQUEST_HEADER_BYTES;
    this.#payloadBytes = this.request.type === NBD_CMD_WRITE ? this.request.length : 0;
    this.#hasHeader = true;
    return true;
  }

  /** How often a read left nothing in the socket. */
  get emptied(): number {
    return this.#conn.emptied ?? this.#emptied;
  }

  /** A payload of its own is on its way: what it takes counts as in flight already. */
  get holdsPayload(): boolean {
    return this.#ownPayload !== undefined;
  }

  /** The payload of the request, empty for all but writes, borrowed until `finish`. */
  receivePayload(): Uint8Array | undefined {
    const received = this.#received;
    if (this.#ownPayload !== undefined) {
      return this.#ownFilled === this.#ownPayload.length ? this.#ownPayload : undefined;
    }
    if (this.#payloadBytes <= received.length) {
      return received.bytes.subarray(received.start, received.start + this.#payloadBytes);
    }
    if (this.#payloadBytes > received.bytes.length) {
      this.#ownPayload = new Uint8Array(this.#payloadBytes);
      this.#inFlight.holdBytes(this.#share, this.#payloadBytes);
      this.#payloadBytes = 0;
      this.#ownPayload.set(received.unread());
      this.#ownFilled = received.length;
      received.start = received.end;
    }
    return undefined;
  }

  /** Drops what has arrived of the payload; true when that was all of it. */
  dropPayload(): boolean {
    const step = Math.min(this.#payloadBytes, this.#received.length);
    this.#received.start += step;
    this.#payloadBytes -= step;
    return this.#payloadBytes === 0;
  }

  /** The request is dealt with: the next may be received. */
  finish(): void {
    this.#received.start += this.#payloadBytes;
    this.#payloadBytes = 0;
    this.#hasHeader = false;
    this.#releaseOwn();
  }

  /** Takes what the socket has at this moment; false if that is nothing, or can't be told without waiting. */
  readNow(): boolean {
    if (this.#conn.receiveNow === undefined || this.hasEnded) return false;
    const own = this.#ownPayload;
    const space = this.#space();
    const count = this.#conn.receiveNow([space]);
    if (count > 0) this.#took(count, space, own);
    return count > 0;
  }

  /** Reads from the socket once. */
  async read(): Promise<void> {
    const own = this.#ownPayload;
    const space = this.#space();
    const count = await this.#conn.read(space);
    if (count === null) this.hasEnded = true;
    else this.#took(count, space, own);
  }

  /** Where the next bytes go. */
  #space(): Uint8Array {
    return this.#ownPayload?.subarray(this.#ownFilled) ??
      this.#received.space(this.#hasHeader ? this.#payloadBytes : REQUEST_HEADER_BYTES);
  }

  #took(count: number, space: Uint8Array, own: Uint8Array | undefined): void {
    this.bytes += count;
    if (count < space.length) this.#emptied++;
    if (own === undefined) this.#received.end += count;
    else this.#ownFilled += count;
  }

  /** Forgets what has arrived; whatever else does is of no interest. */
  discard(): void {
    this.#received.start = this.#received.end = 0;
    this.#hasHeader = false;
    this.#payloadBytes = 0;
    this.#releaseOwn();
  }

  /** Reads no more, and gives up the buffer. */
  close(): void {
    this.discard();
    this.#received = new ReceiveBuffer(0);
  }

  #releaseOwn(): void {
    if (this.#ownPayload === undefined) return;
    this.#inFlight.releaseBytes(this.#share, this.#ownPayload.length);
    this.#ownPayload = undefined;
  }
}
