/**
 * ElasticDrive: a disk in a bucket.
 *
 *   command line → config.ini → listen → bucket → volume → NBD server → drain
 *
 * The stack is composed here and nowhere else. Exit codes: 0 clean, 1 check found damage or status trouble, 2
 * configuration or start-up refused, 3 fenced by another writer, 4 stopped with data not stored.
 */
import { dirname, join } from "node:path";
import type { Access, Bucket } from "./src/bucket/bucket.ts";
import { ConditionalBucket } from "./src/bucket/conditional_bucket.ts";
import { BucketCounts, CountingBucket } from "./src/bucket/counting_bucket.ts";
import { DirectoryBucket } from "./src/bucket/directory_bucket.ts";
import { RetryingBucket } from "./src/bucket/retrying_bucket.ts";
import { checkAndReport } from "./src/check.ts";
import { systemChance, systemClock } from "./src/clock.ts";
import {
  type CommandLine,
  EXIT_CLEAN,
  EXIT_FENCED,
  EXIT_NOT_STORED,
  EXIT_REFUSED,
  EXIT_UNCAUGHT,
  EXIT_UNWELL,
  HELP,
  readCommandLine,
  VERSION,
} from "./src/command_line.ts";
import {
  defaultSettings,
  describe,
  parseConfig,
  type Settings,
  volumeName,
  withPlace,
} from "./src/config.ts";
import { findConfig } from "./src/config_file.ts";
import { JOURNAL_OFF } from "./src/config_kinds.ts";
import { DamageError, FencedError, messageOf, UsageError } from "./src/errors.ts";
import { drainOnSignal, nextSignal } from "./src/drain.ts";
import { describeExport } from "./src/export_description.ts";
import { LocalHost, runtimeDirectory } from "./src/host.ts";
import { JournalFolder } from "./src/journal/journal_folder.ts";
import { JournaledDevice } from "./src/journal/journaled_device.ts";
import { JOURNAL_SHARE, SEAL_SHARE, SEGMENT_DATA_BYTES_MAX } from "./src/limits.ts";
import { attach, detach } from "./src/linux/attach.ts";
import { infoJson, showInfo } from "./src/info.ts";
import { directSockets } from "./src/linux/direct_socket.ts";
import { hugeBuffers } from "./src/linux/huge_pages.ts";
import { becomeIoFlusher } from "./src/linux/io_flusher.ts";
import { leaveNoCore } from "./src/linux/no_core.ts";
import { type Condition, ServiceManager } from "./src/linux/service_manager.ts";
import { attachCommand, isTcp, listen, listenForStatus, showAddress } from "./src/listeners.ts";
import { type Logger, oneLine, stderrLogger } from "./src/logger.ts";
import { memoryBytesMax } from "./src/memory.ts";
import { BusyPoll } from "./src/nbd/busy_poll.ts";
import { TlsContext } from "./src/nbd/openssl.ts";
import { RequestCounts, traceTo } from "./src/nbd/request_counts.ts";
import { NbdServer } from "./src/nbd/server.ts";
import { type ProgressOptions, showBytes } from "./src/progress.ts";
import { ReadingProgress } from "./src/reading_progress.ts";
import { reclaimAndReport, reclaimOnSignal } from "./src/reclaim.ts";
import { runStatus } from "./src/status/command.ts";
import { statusOf } from "./src/status/status.ts";
import { describeVolume } from "./src/volume/description.ts";
import { Volume } from "./src/volume/volume.ts";
import type { VolumeOptions } from "./src/volume/volume_options.ts";

leaveNoCore();

/** With what the user should know of the file itself. */
function loadSettings(config?: string): { settings: Settings; warning?: string } {
  // run from source, the program is where its source is, and not where deno is
  const programDir = Deno.build.standalone ? dirname(Deno.execPath()) : import.meta.dirname!;
  const file = findConfig(config, programDir, Deno.cwd());
  if (file) return { settings: parseConfig(file.text, file.path), warning: file.warning };
  const settings = defaultSettings(Deno.cwd());
  return { settings, warning: "no config.ini found: using the built-in trial configuration" };
}

async function openBucket(
  settings: Settings,
  counts: BucketCounts,
  logger: Logger,
  access: Access,
): Promise<RetryingBucket> {
  const { bucket, prefix } = settings;
  const around = { clock: systemClock, chance: systemChance, logger, access };
  if (bucket.kind === "directory") {
    const path = join(bucket.path, prefix);
    const open = async () =>
      new CountingBucket(await DirectoryBucket.open(path, around), counts, systemClock);
    return await RetryingBucket.open(`file:${path}`, open, around);
  }
  // the AWS client takes a tenth of a second to load: only who needs it waits for it
  const { targetName, S3Bucket } = await import("./src/bucket/s3_bucket.ts");
  const options = { ...settings, bucket: bucket.name };
  const open = async (signal: AbortSignal): Promise<Bucket> => {
    const bucket = await S3Bucket.open(options, around, signal);
    return new ConditionalBucket(new CountingBucket(bucket, counts, systemClock));
  };
  return await RetryingBucket.open(targetName(options), open, around);
}

/** Undefined when TCP is in clear. Throws a `UsageError` if a file is not what it should be. */
function loadTls({ tlsCert, tlsKey, tlsCa }: Settings): TlsContext | undefined {
  if (tlsCert === undefined || tlsKey === undefined) return undefined;
  return new TlsContext({ certificate: tlsCert, key: tlsKey, clientAuthorities: tlsCa });
}

/** Undefined when what is not stored ends with the program. */
function journalFolder(settings: Settings, host: LocalHost): JournalFolder | undefined {
  const directory = runtimeDirectory();
  const journal = settings.journal ?? (directory && join(directory, "journal"));
  if (journal === undefined || journal === JOURNAL_OFF) return undefined;
  return new JournalFolder(journal, host.bootedAtMs);
}

/** The volume with its journal; what the process before did not store is written again. */
async function openJournal(
  volume: Volume,
  folder: JournalFolder,
  cacheStripes: number,
  logger: Logger,
): Promise<JournaledDevice> {
  const { path, files } = folder.adopt(volume.info.uuid, volume.epoch, volume.unbrokenSince);
  const cacheBytes = cacheStripes * volume.info.stripeBytes;
  const device = new JournaledDevice(volume, path, files, {
    bytesMax: cacheBytes * JOURNAL_SHARE,
    fileBytesMax: Math.max(SEGMENT_DATA_BYTES_MAX, cacheBytes * SEAL_SHARE),
    logger,
  });
  const changes = await device.replay();
  if (changes > 0) logger.info(`${changes} changes that were not stored are made again`);
  return device;
}

function volumeOptions(settings: Settings, takeover: boolean): VolumeOptions {
  return { ...settings, takeover, memoryBytes: Deno.systemMemoryInfo().total };
}

async function serve(settings: Settings, takeover: boolean, logger: Logger): Promise<number> {
  const startedAtMs = systemClock.now();
  const options = volumeOptions(settings, takeover);
  using cleanUp = new DisposableStack();
  const manager = cleanUp.use(ServiceManager.fromEnvironment(systemClock));
  const tls = loadTls(settings);
  if (!becomeIoFlusher()) logger.debug(() => "not an I/O flusher: needs CAP_SYS_RESOURCE");
  // first of all the address: if it is taken nothing else is touched
  const listeners = await listen(settings, cleanUp);
  const status = listenForStatus(settings, logger);
  cleanUp.defer(() => status?.close());
  const host = new LocalHost(systemClock, logger);
  // once it is open, its lock says whether we are alive, until the lease is released
  let isHeld = false;
  cleanUp.defer(() => isHeld || host.close());
  // a bucket that is not there is created only for a volume whose size is known
  const access = settings.volumeBytes !== undefined ? "create" : "write";
  const bucketCounts = new BucketCounts();
  const bucket = await openBucket(settings, bucketCounts, logger, access);
  cleanUp.defer(() => bucket.close());
  const ended = Promise.withResolvers<number>();
  const folder = journalFolder(settings, host);
  using reading = await ReadingProgress.begin(progressOptions(logger));
  const volume = await Volume.open(options, {
    bucket,
    clock: systemClock,
    chance: systemChance,
    logger,
    host,
    journals: folder,
    newBuffer: hugeBuffers(),
    onReading: reading.onReading,
    onFailure: (error) => {
      logger.error(error.message);
      ended.resolve(error instanceof FencedError ? EXIT_FENCED : EXIT_NOT_STORED);
    },
  });
  reading[Symbol.dispose]();
  isHeld = true;
  bucket.startServing();
  const journaled = folder && await openJournal(volume, folder, settings.cacheStripes, logger);
  const requestCounts = new RequestCounts(
    systemClock,
    settings.debug ? traceTo(logger) : undefined,
  );
  const server = new NbdServer(journaled ?? volume, {
    exportName: volumeName(settings),
    description: describeExport(bucket.name, volume.info.uuid, volume.unbrokenSince),
    readOnly: settings.readOnly,
    counts: requestCounts,
    open: directSockets(),
    // the only processor is the client's as well
    busyPoll: navigator.hardwareConcurrency > 1 ? new BusyPoll(systemClock) : undefined,
    clock: systemClock,
    logger,
  });
  const drive = { version: VERSION, startedAtMs, isReadOnly: settings.readOnly };
  const parts = { ...drive, volume, bucket, server, bucketCounts, requestCounts };
  status?.startServing(() => statusOf({ ...parts, clock: systemClock }));
  for (const listener of listeners) server.serve(listener, isTcp(listener) ? tls : undefined);
  const condition = () => conditionOf(volume, bucket);
  // before the line that invites signals
  reclaimOnSignal(volume, logger);
  drainOnSignal(server, volume, progressOptions(logger), () => manager.stopping(condition)).then(
    ended.resolve,
  );
  const memory = memoryBytesMax(options, volume.info) + (journaled?.bytesMax ?? 0);
  logger.info(
    `ready: ${listeners.map(showAddress).join(" and ")}, ${showBytes(volume.sizeBytes)} in ` +
      `stripes of ${showBytes(volume.info.stripeBytes)}, at most ${showBytes(memory)} of memory, ` +
      `${bucket.name}, epoch ${volume.epoch}; next, as root: ${
        attachCommand(tls ? listeners.at(-1)! : listeners[0], settings)
      }`,
  );
  if (status) logger.info(`status: ${status.url}`);
  manager.ready(condition);
  const code = await ended.promise;
  if (code === EXIT_CLEAN) journaled?.end();
  const { put, get, head, list, delete: deletes } = bucketCounts;
  logger.info(
    `${put.requests} PUT, ${get.requests + head.requests} GET, ${list.requests} LIST, ` +
      `${deletes.requests} DELETE, ${bucket.retryCount} tried again; ` +
      `${put.bytes} bytes up, ${get.bytes} down`,
  );
  isHeld = code === EXIT_NOT_STORED;
  return code;
}

function progressOptions(logger: Logger): ProgressOptions {
  return { clock: systemClock, logger, isTerminal: Deno.stderr.isTerminal() };
}

/** What systemd shows of a drive. */
function conditionOf(volume: Volume, bucket: RetryingBucket): Condition {
  const { unstoredBytes } = volume;
  const { trouble } = bucket;
  const unstored = unstoredBytes === 0
    ? "everything is stored"
    : `${showBytes(unstoredBytes)} not stored yet`;
  const outage = trouble === undefined ? "" : `; waiting for ${bucket.name}: ${trouble}`;
  return { status: unstored + outage, isBucketThere: trouble === undefined };
}

async function check(settings: Settings, logger: Logger): Promise<number> {
  using place = await openPlace(settings, logger, "read");
  // it names objects, which may be called anything
  const printLine = (line: string) => print(oneLine(line));
  const around = { ...progressOptions(logger), ...place, print: printLine };
  return await checkAndReport(place.bucket, around) ? EXIT_CLEAN : EXIT_UNWELL;
}

async function info(settings: Settings, logger: Logger, asJson: boolean): Promise<string> {
  using place = await openPlace(settings, logger, "read");
  const { bucket, host } = place;
  const about = await describeVolume(bucket, host, systemClock);
  if (asJson) return infoJson(bucket.name, about);
  return showInfo(bucket.name, about, systemClock.now()).join("\n");
}

async function reclaim(settings: Settings, logger: Logger): Promise<void> {
  using place = await openPlace(settings, logger, "write");
  const { bucket, host } = place;
  const around = { ...progressOptions(logger), host, chance: systemChance, print };
  const options = volumeOptions(settings, false);
  await reclaimAndReport(bucket, options, { ...around, interrupted: nextSignal() });
}

/** What a command needs that works on the bucket, not through a drive. */
async function openPlace(settings: Settings, logger: Logger, access: Access) {
  const host = new LocalHost(systemClock, logger);
  const counts = new BucketCounts();
  try {
    const bucket = await openBucket(settings, counts, logger, access);
    const close = () => {
      bucket.close();
      host.close();
    };
    return { host, counts, bucket, [Symbol.dispose]: close };
  } catch (error) {
    host.close();
    throw error;
  }
}

function write(text: string): void {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let done = 0; done < bytes.length;) done += Deno.stdout.writeSync(bytes.subarray(done));
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) throw error;
    throw new UsageError(`can't print: ${messageOf(error)}`, { cause: error });
  }
}

function print(text: string): void {
  write(`${text}\n`);
}

async function main(args: string[]): Promise<number> {
  // Deno knows Mozilla's certificate authorities only; a private endpoint's is in the system's store
  if (!Deno.env.has("DENO_TLS_CA_STORE")) Deno.env.set("DENO_TLS_CA_STORE", "system,mozilla");
  const line = readCommandLine(args);
  const { command } = line;
  if (command === "help") return print(HELP), EXIT_CLEAN;
  if (command === "version") return print(`elasticdrive ${VERSION}`), EXIT_CLEAN;
  const { settings, warning } = loadSettings(line.config);
  const logger = stderrLogger(settings.debug);
  if (warning) logger.warn(warning);
  try {
    return await act(line, settings, logger);
  } catch (error) {
    throw withPlace(error, settings);
  } finally {
    logger.flush();
  }
}

async function act(
  { command, device, takeover, force, json, watch }: CommandLine,
  settings: Settings,
  logger: Logger,
): Promise<number> {
  if (command === "check-config") {
    loadTls(settings);
    return print(describe(settings).join("\n")), EXIT_CLEAN;
  }
  if (command === "status") {
    return await runStatus(settings, { asJson: json, isWatch: watch }, write);
  }
  if (command === "check") return await check(settings, logger);
  if (command === "info") return print(await info(settings, logger, json)), EXIT_CLEAN;
  if (command === "reclaim") return await reclaim(settings, logger), EXIT_CLEAN;
  if (command === "attach") {
    return print(await attach(device, settings, systemClock)), EXIT_CLEAN;
  }
  if (command === "detach") {
    return print(await detach(device, settings, systemClock, force)), EXIT_CLEAN;
  }
  return await serve(settings, takeover, logger);
}

/** One line, like any other; an end that is started again, as the runtime's own would be. */
function endUncaught(error: unknown): never {
  stderrLogger(false).error(`this should not happen: ${(error as Error)?.stack ?? error}`);
  Deno.exit(EXIT_UNCAUGHT);
}

addEventListener("error", ({ error }) => endUncaught(error));
addEventListener("unhandledrejection", ({ reason }) => endUncaught(reason));
try {
  Deno.exit(await main(Deno.args));
} catch (error) {
  // who reads what is printed has seen enough
  if (error instanceof Deno.errors.BrokenPipe) Deno.exit(EXIT_REFUSED);
  const isRefusal = error instanceof UsageError || error instanceof DamageError;
  const logger = stderrLogger(false);
  // a configuration with several mistakes has a line for each
  for (const line of messageOf(error).split("\n")) logger.error(line);
  // two that start at once: one of them is fenced before it is ready
  if (error instanceof FencedError) Deno.exit(EXIT_FENCED);
  if (!isRefusal) logger.error(`this should not happen: ${(error as Error)?.stack}`);
  Deno.exit(EXIT_REFUSED);
}
