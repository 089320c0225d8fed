/** The status service of a drive that is and does what a test says, at any time. */
import { systemClock } from "../../src/clock.ts";
import { silentLogger } from "../../src/logger.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { StatusServer } from "../../src/status/server.ts";
import { idleReport } from "./status_report.ts";

export class FakeStatus implements Disposable {
  /** What is asked for next is told this. */
  report: StatusReport = idleReport();
  /** Called before each report, to let something happen. */
  onAsked: () => void = () => {};
  /** Answers with an error rather than a report. */
  isDown = false;
  readonly #server = new StatusServer({
    hostname: "127.0.0.1",
    port: 0,
    isLoopback: true,
    clock: systemClock,
    logger: silentLogger,
  });

  /** Until then it says that it is opening. */
  startServing(): this {
    this.#server.startServing(() => this.#tell());
    return this;
  }

  get url(): string {
    return this.#server.url;
  }

  #tell(): StatusReport {
    if (this.isDown) throw new Error("the test says so");
    this.onAsked();
    this.report.nowMs = Date.now();
    return this.report;
  }

  [Symbol.dispose](): void {
    this.#server.close();
  }
}
