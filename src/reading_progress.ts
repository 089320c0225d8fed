/** How the reading of a volume is shown while it is opened: the map in bytes, then the log behind it in segments. */
import { OPENING_QUIET_MS } from "./limits.ts";
import { Progress, type ProgressOptions } from "./progress.ts";
import type { OnReading } from "./volume/recovery.ts";

export class ReadingProgress implements Disposable {
  readonly #of: { map: Progress; log: Progress };

  private constructor(map: Progress, log: Progress) {
    this.#of = { map, log };
  }

  static async begin(around: ProgressOptions): Promise<ReadingProgress> {
    const options = { ...around, quietMs: OPENING_QUIET_MS };
    return new ReadingProgress(
      await Progress.begin("reading the map", options),
      await Progress.begin("reading the log", { ...options, unit: "segments" }),
    );
  }

  readonly onReading: OnReading = (what, done, all) => {
    if (what === "log") this.#of.map[Symbol.dispose]();
    this.#of[what].update(done, all);
  };

  [Symbol.dispose](): void {
    this.#of.map[Symbol.dispose]();
    this.#of.log[Symbol.dispose]();
  }
}
