/** Where the drive listens, and what the ready line says of that. */
import { systemClock } from "./clock.ts";
import { isLoopback, type Settings } from "./config.ts";
import { STATUS_OFF } from "./config_kinds.ts";
import { UsageError } from "./errors.ts";
import { BLOCK_BYTES } from "./limits.ts";
import type { Logger } from "./logger.ts";
import { listenTcp, listenUnix } from "./nbd/server.ts";
import { StatusServer } from "./status/server.ts";

/** On TCP, on the Unix socket, or on both in this order; closed by `cleanUp`. */
export async function listen(
  settings: Settings,
  cleanUp: DisposableStack,
): Promise<Deno.Listener[]> {
  const listeners: Deno.Listener[] = [];
  cleanUp.defer(() => listeners.forEach(closeListener));
  if (settings.listen !== undefined) listeners.push(listenTcp(settings.listen, settings.port));
  if (settings.socket !== undefined) listeners.push(await listenUnix(settings.socket));
  return listeners;
}

/**
 * Undefined if it is off. An address that config.ini names is insisted on; the default one is any drive's of this
 * machine, and a second drive serves without it.
 */
export function listenForStatus(
  { status, lines }: Settings,
  logger: Logger,
): StatusServer | undefined {
  if (status === STATUS_OFF) return undefined;
  try {
    const around = { clock: systemClock, logger };
    return new StatusServer({ ...status, isLoopback: isLoopback(status.hostname), ...around });
  } catch (error) {
    if (lines.status || !(error instanceof UsageError)) throw error;
    logger.warn(error.message);
    return undefined;
  }
}

function closeListener(listener: Deno.Listener): void {
  try {
    listener.close();
  } catch { /* the server has closed it when it drained */ }
}

/** The command that attaches the drive to the kernel. */
export function attachCommand(listener: Deno.Listener, { tlsCert, tlsCa }: Settings): string {
  const address = listener.addr;
  if (!("hostname" in address)) {
    return `nbd-client -b ${BLOCK_BYTES} -unix ${(address as Deno.UnixAddr).path} /dev/nbd0`;
  }
  const tls = tlsCert === undefined ? "" : " -cacertfile ca-cert.pem";
  const own = tlsCa === undefined ? "" : " -certfile client-cert.pem -keyfile client-key.pem";
  return `nbd-client -b ${BLOCK_BYTES}${tls}${own} ${address.hostname} ${address.port} /dev/nbd0`;
}

export function isTcp(listener: Deno.Listener): boolean {
  return listener.addr.transport === "tcp";
}

export function showAddress(listener: Deno.Listener): string {
  const address = listener.addr;
  return "hostname" in address
    ? `${address.hostname}:${address.port}`
    : (address as Deno.UnixAddr).path;
}
