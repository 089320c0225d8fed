/**
 * What systemd is told of this process: sd_notify(3)'s protocol, datagrams of NAME=value lines to the Unix socket that
 * NOTIFY_SOCKET names. Without that variable nobody asked, and nothing is said.
 *
 *   opening ──ready()──▶ serving ──stopping()──▶ stopping
 *
 * A tick every few seconds says what is new. It comes from the event loop, so that a process that hangs falls silent and
 * is ended by the unit's limits: WatchdogSec= while it serves, TimeoutStartSec= and TimeoutStopSec= before and
 * after. These two are pushed back as long as there is a reason to wait: at the start always, for opening bounds its own
 * waiting; while it stops, whenever the bucket serves.
 *
 * A datagram never waits: systemd may itself wait for a disk that we serve. What it does not take goes with the next.
 */
import type { Clock } from "../clock.ts";
import { NotifySocket } from "./notify_socket.ts";
import { START_EXTENSION_MS, STATUS_EVERY_MS, STOP_PATIENCE_MS } from "../limits.ts";
import { oneLine } from "../logger.ts";

/** How the service is; asked at every tick. */
export interface Condition {
  /** One line for `systemctl status`. */
  readonly status: string;
  /** The bucket serves, or nothing is wanted of it. */
  readonly isBucketThere: boolean;
}

export class ServiceManager implements Disposable {
  readonly #clock: Clock;
  readonly #socket: NotifySocket | undefined;
  readonly #isWatched: boolean;
  readonly #everyMs: number;
  #phase: "opening" | "serving" | "stopping" = "opening";
  #condition = (): Condition => ({ status: "opening the volume", isBucketThere: true });
  #unsent: string[] = [];
  #shown = "";
  #cancelTick = () => {};

  /**
   * @param socket takes the datagrams; undefined if nobody listens
   * @param watchdogMs after so long without a sign of life the process is ended; undefined for never
   */
  constructor(clock: Clock, socket?: NotifySocket, watchdogMs?: number) {
    this.#clock = clock;
    this.#socket = socket;
    this.#isWatched = watchdogMs !== undefined;
    this.#everyMs = Math.min(STATUS_EVERY_MS, (watchdogMs ?? Infinity) / 2);
    this.#tick();
  }

  /** The one that the environment names: NOTIFY_SOCKET, and WATCHDOG_USEC if it is meant for this process. */
  static fromEnvironment(clock: Clock): ServiceManager {
    const path = Deno.env.get("NOTIFY_SOCKET");
    if (!path || !/^[/@]/.test(path)) return new ServiceManager(clock);
    const isForUs = [undefined, String(Deno.pid)].includes(Deno.env.get("WATCHDOG_PID"));
    const watchdogMs = Number(Deno.env.get("WATCHDOG_USEC")) / 1000;
    const isWatched = isForUs && watchdogMs > 0;
    return new ServiceManager(clock, new NotifySocket(path), isWatched ? watchdogMs : undefined);
  }

  /** The volume is claimed and clients can connect. */
  ready(condition: () => Condition): void {
    this.#enter("serving", "READY=1", condition);
  }

  /** Everything is being stored, and then the process ends. */
  stopping(condition: () => Condition): void {
    this.#enter("stopping", "STOPPING=1", condition);
  }

  [Symbol.dispose](): void {
    this.#cancelTick();
    this.#socket?.[Symbol.dispose]();
  }

  #enter(phase: "serving" | "stopping", message: string, condition: () => Condition): void {
    this.#phase = phase;
    this.#condition = condition;
    this.#unsent.push(message);
    this.#tick();
  }

  #tick(): void {
    this.#cancelTick();
    if (!this.#socket) return;
    const { status, isBucketThere } = this.#condition();
    const lines = [...this.#unsent];
    if (status !== this.#shown) lines.push(`STATUS=${oneLine(status)}`);
    if (this.#phase === "serving" && this.#isWatched) lines.push("WATCHDOG=1");
    if (this.#phase === "opening") lines.push(`EXTEND_TIMEOUT_USEC=${START_EXTENSION_MS * 1000}`);
    if (this.#phase === "stopping" && isBucketThere) {
      lines.push(`EXTEND_TIMEOUT_USEC=${STOP_PATIENCE_MS * 1000}`);
    }
    if (lines.length === 0 || this.#socket.send(lines.join("\n"))) {
      this.#unsent = [];
      this.#shown = status;
    }
    this.#cancelTick = this.#clock.after(this.#everyMs, () => this.#tick());
  }
}
