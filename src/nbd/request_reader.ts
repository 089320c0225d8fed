/**
 * Requests as they arrive on one connection: header, then payload, however the stream was cut.
 *
 *   receiveHeader ──▶ request ──▶ receivePayload | dropPayload ──▶ finish ──▶ receiveHeader ...
 *
 * Each of the three says whether what it is about has arrived whole; if not, it is called again after the next
 * `read`. A payload that fits the buffer is lent from there, without a copy. A large one is received into a place that
 * the device offers for it, so that nobody has to copy it; one that does not fit the buffer gets memory
 * of its own where there is no such place.
 *
 * Promise: a place of the device is given up unless its payload was written, and nothing is put there later: only
 * `receivePayload` and `readNow` do, which don't wait.
 * Assumes: one `read` at a time.
 */

import { PLACED_BYTES_MIN, PLACED_TAIL_BYTES, PLACES_MAX } from "../limits.ts";
import type { BlockDevice, Place } from "../volume/block_device.ts";
import { ArrivingPayload } from "./arriving_payload.ts";
import { parseRequest, Request } from "./codec.ts";
import type { Payload } from "./commands.ts";
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
  readonly #device: BlockDevice;
  readonly #inFlight: InFlight;
  readonly #share: Share;
  /** `request` is one that is not finished. */
  #hasHeader = false;
  /** Bytes of the payload that were lent or have to be dropped yet. */
  #payloadBytes = 0;
  #arriving: ArrivingPayload | undefined = undefined;
  /** What of it counts as in flight. */
  #heldBytes = 0;
  /** Whether the request before was such a one: then the next is one, too, more often than not. */
  #hadPlace = false;

  constructor(
    conn: Socket,
    received: ReceiveBuffer,
    device: BlockDevice,
    inFlight: InFlight,
    share: Share,
  ) {
    this.#conn = conn;
    this.#received = received;
    this.#device = device;
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

  /** A payload that has memory of its own is on its way: what it takes counts as in flight already. */
  get holdsPayload(): boolean {
    return this.#heldBytes > 0;
  }

  /** What comes is a large payload, by all appearances. */
  get isBulk(): boolean {
    return this.#arriving !== undefined || (this.#hadPlace && !this.#hasHeader);
  }

  /** The payload of the request, empty for all but writes, borrowed until `finish`. */
  receivePayload(): Payload | undefined {
    const received = this.#received;
    if (this.#arriving === undefined) {
      if (this.#payloadBytes <= received.length) {
        return received.bytes.subarray(received.start, received.start + this.#payloadBytes);
      }
      const place = this.#placeOfDevice() ?? this.#ownPlace();
      if (place === undefined) return undefined;
      this.#arriving = new ArrivingPayload(place);
      this.#payloadBytes = 0;
    }
    this.#arriving.take(received);
    return this.#arriving.isWhole ? this.#arriving.place : undefined;
  }

  #placeOfDevice(): Place | undefined {
    if (!this.#isDirect || this.#payloadBytes < PLACED_BYTES_MIN) return undefined;
    return this.#device.place?.(this.request.offset, this.#payloadBytes);
  }

  /** For what the buffer can't hold. */
  #ownPlace(): Place | undefined {
    if (this.#payloadBytes <= this.#received.bytes.length) return undefined;
    const bytes = new Uint8Array(this.#payloadBytes);
    const { offset } = this.request;
    this.#heldBytes = bytes.length;
    this.#inFlight.holdBytes(this.#share, bytes.length);
    return {
      length: bytes.length,
      parts: [bytes],
      write: () => this.#device.write(offset, bytes),
      giveUp: () => {
        this.#inFlight.releaseBytes(this.#share, bytes.length);
        this.#heldBytes = 0;
      },
    };
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
    this.#hadPlace = this.#arriving !== undefined;
    this.#giveUpPlace();
  }

  /** Takes what the socket has at this moment; false if that is nothing, or can't be told without waiting. */
  readNow(): boolean {
    if (this.#conn.receiveNow === undefined || this.hasEnded) return false;
    const arriving = this.#arriving;
    const space = this.#space();
    const spaces = arriving ? [...arriving.rest, space].slice(0, PLACES_MAX) : [space];
    const count = this.#conn.receiveNow(spaces);
    if (count > 0) this.#took(count, spaces, arriving);
    return count > 0;
  }

  /** Reads from the socket once. */
  async read(): Promise<void> {
    const arriving = this.#isDirect ? undefined : this.#arriving;
    const space = arriving?.rest[0] ?? this.#space();
    const count = await this.#conn.read(space);
    if (count === null) this.hasEnded = true;
    else this.#took(count, [space], arriving);
  }

  /** Whether what can be had at once is had by `readNow`: then `read` need not bring more than the first of it. */
  get #isDirect(): boolean {
    return this.#conn.receiveNow !== undefined;
  }

  /** Where the next bytes go that have no place. */
  #space(): Uint8Array {
    return this.#received.space(
      this.#hasHeader ? this.#payloadBytes : REQUEST_HEADER_BYTES,
      this.isBulk && this.#isDirect ? PLACED_TAIL_BYTES : Infinity,
    );
  }

  #took(count: number, spaces: Uint8Array[], arriving: ArrivingPayload | undefined): void {
    this.bytes += count;
    if (count < spaces.reduce((sum, { length }) => sum + length, 0)) this.#emptied++;
    this.#received.end += arriving?.arrived(count) ?? count;
  }

  /** Forgets what has arrived; whatever else does is of no interest. */
  discard(): void {
    this.#received.start = this.#received.end = 0;
    this.#hasHeader = false;
    this.#payloadBytes = 0;
    this.#giveUpPlace();
  }

  /** Reads no more, and gives up the buffer. */
  close(): void {
    this.discard();
    this.#received = new ReceiveBuffer(0);
  }

  #giveUpPlace(): void {
    this.#arriving?.place.giveUp();
    this.#arriving = undefined;
  }
}
