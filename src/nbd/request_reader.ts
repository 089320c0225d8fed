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
import type { ReceiveBuffer } from "./socket.ts";

export class RequestReader {
  /** The request whose header arrived last; the same object for every one. */
  readonly request = new Request();
  /** No more will be read: the stream has ended. */
  hasEnded = false;

  readonly #conn: Deno.Conn;
  readonly #received: ReceiveBuffer;
  readonly #inFlight: InFlight;
  readonly #share: Share;
  /** `request` is one that is not finished. */
  #hasHeader = false;
  /** Bytes of the payload that were lent or have to be dropped yet. */
  #payloadBytes = 0;
  #ownPayload: Uint8Array | undefined = undefined;
  #ownFilled = 0;

  constructor(conn: Deno.Conn, received: ReceiveBuffer, inFlight: InFlight, share: Share) {
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

  /** Reads from the socket once. */
  async read(): Promise<void> {
    const own = this.#ownPayload;
    const space = own?.subarray(this.#ownFilled) ??
      this.#received.space(this.#hasHeader ? this.#payloadBytes : REQUEST_HEADER_BYTES);
    const count = await this.#conn.read(space);
    if (count === null) this.hasEnded = true;
    else if (own === undefined) this.#received.end += count;
    else this.#ownFilled += count;
  }

  /** Forgets what has arrived; whatever else does is of no interest. */
  discard(): void {
    this.#received.start = this.#received.end = 0;
    this.#hasHeader = false;
    this.#payloadBytes = 0;
    this.#releaseOwn();
  }

  #releaseOwn(): void {
    if (this.#ownPayload === undefined) return;
    this.#inFlight.releaseBytes(this.#share, this.#ownPayload.length);
    this.#ownPayload = undefined;
  }
}
