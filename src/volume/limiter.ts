/** Lets at most `max` of the tasks given to it run at once; the others wait in order. */
export class Limiter {
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(readonly max: number) {}

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running >= this.max) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else {
      this.#running++;
    }
    try {
      return await task();
    } finally {
      // the place goes straight to the next in line, so nobody can slip in between
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }

  /** Runs `task` for every item; rejects with the first failure, when all have ended. */
  async forEach<T>(items: Iterable<T>, task: (item: T) => Promise<void>): Promise<void> {
    const results = await Promise.allSettled(
      Array.from(items, (item) => this.run(() => task(item))),
    );
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }
}
