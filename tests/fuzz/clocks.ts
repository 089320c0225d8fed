/** Clocks of a life without time (fuzz.ts). */
import { setImmediate } from "node:timers";
import type { Clock } from "../../src/clock.ts";

/** Short times pass at once, long ones never. */
class FuzzClock implements Clock {
  pending = 0;

  now(): number {
    return 1_700_000_000_000;
  }

  monotonic(): number {
    return 0;
  }

  after(delayMs: number, callback: () => void): () => void {
    let isDue = true;
    this.pending++;
    const cancel = () => {
      if (isDue) this.pending--;
      isDue = false;
    };
    if (delayMs <= 100) {
      setImmediate(() => {
        const mayRun = isDue;
        cancel();
        if (mayRun) callback();
      });
    }
    return cancel;
  }
}

/** Goes on by so much whenever somebody looks. */
export class PassingClock extends FuzzClock {
  #ms = 0;

  constructor(readonly lookMs: number) {
    super();
  }

  override monotonic(): number {
    return this.#ms += this.lookMs;
  }
}
