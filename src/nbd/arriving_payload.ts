/**
 * A payload for which there is a place while it arrives, however the stream was cut: one of the device
 * (block_device.ts), or memory of its own.
 */

import type { Place } from "../volume/block_device.ts";
import type { ReceiveBuffer } from "./socket.ts";

export class ArrivingPayload {
  readonly place: Place;
  /** What of the place is to be filled yet, one part after the other. */
  readonly rest: Uint8Array[];

  constructor(place: Place) {
    this.place = place;
    this.rest = [...place.parts];
  }

  get isWhole(): boolean {
    return this.rest.length === 0;
  }

  /** So many bytes were put where `rest` says, and what is more behind it; returns how many that are. */
  arrived(count: number): number {
    while (count > 0 && this.rest.length > 0) {
      const [part] = this.rest;
      if (count < part.length) {
        this.rest[0] = part.subarray(count);
        return 0;
      }
      count -= part.length;
      this.rest.shift();
    }
    return count;
  }

  /** Takes from `received` what belongs to it. */
  take(received: ReceiveBuffer): void {
    while (received.length > 0 && this.rest.length > 0) {
      const [part] = this.rest;
      const bytes = received.unread().subarray(0, part.length);
      part.set(bytes);
      received.start += bytes.length;
      this.arrived(bytes.length);
    }
  }
}
