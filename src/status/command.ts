/** `elasticdrive status`: asks the drive at the address of the configuration. Resolves to the exit code. */
import { systemClock } from "../clock.ts";
import { EXIT_CLEAN, EXIT_UNWELL } from "../command_line.ts";
import { bucketName, type Settings } from "../config.ts";
import { showAddress, STATUS_OFF } from "../config_kinds.ts";
import { nextSignal } from "../drain.ts";
import { UsageError } from "../errors.ts";
import { askStatus } from "./ask.ts";
import { showStatus, watchStatus } from "./watch.ts";

export async function runStatus(
  settings: Settings,
  { asJson, isWatch }: { asJson: boolean; isWatch: boolean },
  write: (text: string) => void,
): Promise<number> {
  const place = settings.status;
  if (place === STATUS_OFF || place.port === 0) {
    throw new UsageError(
      "status in [server] names no address to ask: it is off, or any free port",
      {
        key: "status",
      },
    );
  }
  const ask = () => askStatus(place);
  const asked = { address: showAddress(place), volume: bucketName(settings) };
  const watching = { clock: systemClock, ask, ...asked, asJson, write };
  if (!isWatch) return await showStatus(watching) ? EXIT_CLEAN : EXIT_UNWELL;
  const stopped = new AbortController();
  nextSignal().then(() => stopped.abort());
  const sizeOf = () => Deno.stdout.isTerminal() ? Deno.consoleSize() : undefined;
  await watchStatus(watching, sizeOf, stopped.signal);
  return EXIT_CLEAN;
}
