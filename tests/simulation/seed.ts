/**
 * Chance that a seed owns: the same seed gives the same life, whatever the machine.
 */
import type { Chance } from "../../src/clock.ts";

export class Seed implements Chance {
  #state: number;
  #identities = 0;

  constructor(readonly seed: number) {
    this.#state = (seed * 2654435761 + 1) >>> 0;
  }

  /** Mulberry32: 32 bits of state, good enough to shuffle with. */
  random(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from 0 up to, not including, `end`. */
  below(end: number): number {
    return Math.floor(this.random() * end);
  }

  chance(probability: number): boolean {
    return this.random() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }

  uuid(): string {
    this.#identities++;
    return `${String(this.seed % 1e8).padStart(8, "0")}-0000-4000-8000-${
      String(this.#identities).padStart(12, "0")
    }`;
  }
}
