/**
 * How much memory requests in flight hold, over all connections, and who may begin another.
 *
 * Counted are payloads of writes and replies of reads that don't pass through a connection's own
 * buffers: those that wait for the device, and those too large for the buffers, but not what has a place
 * of the device. Promises:
 *
 * - In all they stay under IN_FLIGHT_BYTES_MAX, one request, and SMALL_REQUEST_BYTES for each of CONNECTIONS_MAX.
 * - A connection that holds nothing may begin a small request, and none may take more than half of the limit:
 *   what one client that never reads its replies has piled up keeps nobody waiting. Only connections that
 *   have ended and whose requests the device still has can take that room as well.
 * - A connection that may not begin one is told when to look again.
 */

import {
  CONNECTIONS_MAX,
  IN_FLIGHT_BYTES_MAX,
  IN_FLIGHT_REQUESTS_MAX,
  SMALL_REQUEST_BYTES,
} from "../limits.ts";

/** What one connection holds. */
export class Share {
  bytes = 0;
  requests = 0;
}

export class InFlight {
  #bytes = 0;
  #requests = 0;
  #waiting = new Set<() => void>();

  /** Bytes held by all connections. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Requests, of all connections, that wait for the device. */
  get requests(): number {
    return this.#requests;
  }

  /** Whether the connection with this share has to wait before it begins a request of so many bytes. */
  mustWait(share: Share, requestBytes: number): boolean {
    if (share.requests >= IN_FLIGHT_REQUESTS_MAX || share.bytes >= IN_FLIGHT_BYTES_MAX / 2) {
      return true;
    }
    if (this.#requests >= CONNECTIONS_MAX * IN_FLIGHT_REQUESTS_MAX) return true;
    if (this.#bytes < IN_FLIGHT_BYTES_MAX) return false;
    return share.bytes > 0 || requestBytes > SMALL_REQUEST_BYTES ||
      this.#bytes >= IN_FLIGHT_BYTES_MAX + CONNECTIONS_MAX * SMALL_REQUEST_BYTES;
  }

  /** Calls `again` once, when something was released. */
  waitForRelease(again: () => void): void {
    this.#waiting.add(again);
  }

  holdBytes(share: Share, bytes: number): void {
    share.bytes += bytes;
    this.#bytes += bytes;
  }

  releaseBytes(share: Share, bytes: number): void {
    share.bytes -= bytes;
    this.#bytes -= bytes;
    this.#wake();
  }

  #wake(): void {
    if (this.#waiting.size === 0) return;
    const waiting = this.#waiting;
    this.#waiting = new Set();
    for (const again of waiting) again();
  }

  requestBegins(share: Share): void {
    share.requests++;
    this.#requests++;
  }

  requestEnds(share: Share): void {
    share.requests--;
    this.#requests--;
    this.#wake();
  }
}
