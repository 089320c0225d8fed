/** How a drive stops: at a signal it stores everything first. */
import { EXIT_CLEAN, EXIT_FENCED, EXIT_NOT_STORED } from "./command_line.ts";
import { FencedError, messageOf } from "./errors.ts";
import { readSystemFile } from "./linux/libc.ts";
import type { NbdServer } from "./nbd/server.ts";
import { Progress, type ProgressOptions } from "./progress.ts";
import type { Volume } from "./volume/volume.ts";

/**
 * Whether nohup(1) started us, by bit 0 of SigIgn (proc(5)). Looked at before anybody listens: with the first listener, of
 * whatever signal, Deno ends the process at a SIGHUP that nobody listens for, ignored before or not.
 */
const ignoresHangup = /^SigIgn:.*[13579bdf]$/m.test(readSystemFile("/proc/self/status") ?? "");

/** Resolves at the next SIGTERM, SIGINT or, its terminal being closed, SIGHUP. */
export function nextSignal(): Promise<void> {
  const signals: Deno.Signal[] = ["SIGTERM", "SIGINT"];
  if (ignoresHangup) Deno.addSignalListener("SIGHUP", ignore);
  else signals.push("SIGHUP");
  return new Promise((resolve) => {
    const listener = () => {
      for (const signal of signals) Deno.removeSignalListener(signal, listener);
      resolve();
    };
    for (const signal of signals) Deno.addSignalListener(signal, listener);
  });
}

function ignore(): void {}

/** A stop with nothing to store that takes longer says what it waits for. */
const SILENT_STOP_MS_MAX = 1_000;

/** Waits for a signal, then stores everything; a second signal gives up. Resolves to the exit code. */
export async function drainOnSignal(
  server: NbdServer,
  volume: Volume,
  around: ProgressOptions,
  onBegin: () => void,
): Promise<number> {
  const { clock, logger } = around;
  await nextSignal();
  onBegin();
  const second = nextSignal();
  using progress = await Progress.begin("stopping", around);
  const cancel = clock.after(SILENT_STOP_MS_MAX, () => {
    if (volume.unstoredBytes > 0) return; // progress is shown
    logger.info(
      "stopping: nothing is left to store, the lease is not released yet; a second signal gives that up",
    );
  });
  const end = (result: string) => {
    cancel();
    progress[Symbol.dispose]();
    logger.info(`stopped after ${progress.seconds.toFixed(1)} s: ${result}`);
  };
  const drained = (async () => {
    let most = volume.unstoredBytes;
    // before all else: a client may wait for S3, and the server for the client
    progress.update(0, most);
    await server.close();
    await volume.close((unstoredBytes) => {
      most = Math.max(most, unstoredBytes);
      progress.update(most - unstoredBytes, most);
    });
    end("everything is stored");
    return EXIT_CLEAN;
  })();
  const givenUp = second.then(() => {
    const { unstoredBytes } = volume;
    const also = unstoredBytes === 0 ? ", but the lease was not released" : "";
    end(`given up: ${unstoredBytes} bytes were not stored${also}`);
    return EXIT_NOT_STORED;
  });
  return await Promise.race([drained, givenUp]).catch((error) => {
    if (error instanceof FencedError) {
      // found out just now, when the lease was to be released; else the volume has said so
      if (volume.failure === null) logger.error(error.message);
      return EXIT_FENCED;
    }
    logger.error(`${volume.unstoredBytes} bytes were not stored: ${messageOf(error)}`);
    return EXIT_NOT_STORED;
  });
}
