/**
 * How long the event loop is kept from everything else. A timer of a millisecond looks, between any two of its calls,
 * at the clock and at the processor time of this thread: the latter says what was done here, the former also what the
 * rest of the machine did.
 */

/** clock_gettime(2). */
const CLOCK_THREAD_CPUTIME_ID = 3;
const TICK_MS = 1;

export interface Turns {
  /** Longest time between two looks, in ms of this thread's processor time. */
  longestCpuMs: number;
  /** What a request that came when the timer was due had to wait, in ms. */
  p99Ms: number;
  longestMs: number;
}

export class TurnMeter {
  readonly #libc = Deno.dlopen("libc.so.6", {
    clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
  });
  readonly #time = new BigInt64Array(2);
  readonly #waits: number[] = [];
  #longestCpuMs = 0;
  #stop = () => {};

  /** @param request made at every tick, and counted in what it has to wait */
  constructor(request: () => void) {
    let cpuMs = this.#cpuMs();
    let dueMs = performance.now() + TICK_MS;
    let timer = 0;
    const tick = () => {
      request();
      this.#waits.push(performance.now() - dueMs);
      const now = this.#cpuMs();
      this.#longestCpuMs = Math.max(this.#longestCpuMs, now - cpuMs);
      cpuMs = now;
      dueMs = performance.now() + TICK_MS;
      timer = setTimeout(tick, TICK_MS);
    };
    timer = setTimeout(tick, TICK_MS);
    this.#stop = () => clearTimeout(timer);
  }

  #cpuMs(): number {
    this.#libc.symbols.clock_gettime(CLOCK_THREAD_CPUTIME_ID, this.#time);
    return Number(this.#time[0]) * 1000 + Number(this.#time[1]) / 1e6;
  }

  end(): Turns {
    this.#stop();
    this.#libc.close();
    const waits = this.#waits.sort((a, b) => a - b);
    return {
      longestCpuMs: this.#longestCpuMs,
      p99Ms: waits[Math.floor(waits.length * 0.99)],
      longestMs: waits.at(-1)!,
    };
  }
}
