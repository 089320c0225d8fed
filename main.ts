/**
 * ElasticDrive: a disk in a bucket.
 *
 *   command line → config.ini → listen → bucket → volume → NBD server → drain
 *
 * The stack is composed here and nowhere else. Exit codes: 0 clean, 1 check found damage, 2 configuration or start-up
 * refused, 3 fenced by another writer, 4 stopped with data not stored.
 */
import { dirname, join } from "node:path";
import { parseArgs } from "@std/cli/parse-args";
import manifest from "./deno.json" with { type: "json" };
import type { Bucket } from "./src/bucket/bucket.ts";
import { ConditionalBucket } from "./src/bucket/conditional_bucket.ts";
import { BucketCounts, CountingBucket } from "./src/bucket/counting_bucket.ts";
import { DirectoryBucket } from "./src/bucket/directory_bucket.ts";
import { RetryingBucket } from "./src/bucket/retrying_bucket.ts";
import { checkAndReport } from "./src/check.ts";
import { systemChance, systemClock } from "./src/clock.ts";
import {
  defaultSettings,
  describe,
  findConfig,
  isLoopback,
  JOURNAL_OFF,
  parseConfig,
  type Settings,
  volumeName,
} from "./src/config.ts";
import { STATUS_OFF } from "./src/config_keys.ts";
import { DamageError, FencedError, messageOf, UsageError } from "./src/errors.ts";
import { describeExport } from "./src/export_description.ts";
import { LocalHost, runtimeDirectory } from "./src/host.ts";
import { JournalFolder } from "./src/journal/journal_folder.ts";
import { JournaledDevice } from "./src/journal/journaled_device.ts";
import { BLOCK_BYTES, SEAL_SHARE, SEGMENT_DATA_BYTES_MAX } from "./src/limits.ts";
import { attach, detach } from "./src/linux/attach.ts";
import { becomeIoFlusher } from "./src/linux/io_flusher.ts";
import { type Condition, ServiceManager } from "./src/linux/service_manager.ts";
import { type Logger, stderrLogger } from "./src/logger.ts";
import { memoryBytesMax } from "./src/memory.ts";
import { TlsContext } from "./src/nbd/openssl.ts";
import { RequestCounts } from "./src/nbd/request_counts.ts";
import { listenTcp, listenUnix, NbdServer } from "./src/nbd/server.ts";
import { DrainProgress, showBytes } from "./src/progress.ts";
import { StatusServer } from "./src/status/server.ts";
import { statusOf } from "./src/status/status.ts";
import { Volume, type VolumeOptions } from "./src/volume/volume.ts";

const EXIT_CLEAN = 0;
const EXIT_DAMAGED = 1;
const EXIT_REFUSED = 2;
const EXIT_FENCED = 3;
const EXIT_NOT_STORED = 4;

const HELP = `ElasticDrive ${manifest.version}: a disk in an S3 bucket, served over NBD

usage: elasticdrive [-c FILE] [--takeover]     serve the drive
       elasticdrive [-c FILE] check            read the whole volume and say what is damaged; changes nothing
       elasticdrive [-c FILE] check-config     say what the configuration comes to, or what is wrong with it
       elasticdrive [-c FILE] attach DEVICE    make the drive that is served /dev/nbd0, or another of these; after
                                               a restart of the server, give that its connection back
       elasticdrive [-c FILE] detach DEVICE    store what was written to it and let go of it [--force]

  -c, --config FILE   the configuration; else config.ini beside the program, or in the working directory,
                      or, if there is none, a 1 GiB drive in ./elasticdrive-data
  --takeover          fence a writer that seems to be alive: it can store nothing more
  --force             detach also what is in use, or has no server any more: what waits for it fails
  -h, --help          this text
  -V, --version       the version

Stop it with SIGTERM or SIGINT (Ctrl-C): it stores everything first. A second signal gives that up.
Exit codes: 0 clean, 1 check found damage, 2 configuration or start-up refused, 3 fenced by another
writer, 4 stopped with data not stored.`;

const WORDS = ["check", "check-config", "attach", "detach"] as const;

interface CommandLine {
  command: "serve" | typeof WORDS[number] | "help" | "version";
  /** Of attach and detach. */
  device: string;
  config?: string;
  takeover: boolean;
  force: boolean;
}

function readCommandLine(args: string[]): CommandLine {
  const refuse = (argument: string) => {
    throw new UsageError(`unknown argument "${argument}"; see elasticdrive --help`);
  };
  const found = parseArgs(args, {
    string: ["config"],
    boolean: ["help", "version", "takeover", "force"],
    alias: { c: "config", h: "help", V: "version" },
    unknown: (argument: string, option?: string) => {
      if (option !== undefined) refuse(argument);
      return true; // a word: kept, and looked at below
    },
  });
  const words = found._.map(String);
  const command = WORDS.find((word) => word === words[0]);
  const takesDevice = command === "attach" || command === "detach";
  const unknown = words[command === undefined ? 0 : takesDevice ? 2 : 1];
  if (unknown !== undefined) refuse(unknown);
  const device = words[1] ?? "";
  if (takesDevice && device === "" && !found.help) {
    throw new UsageError(`${command} takes a device: elasticdrive ${command} /dev/nbd0`);
  }
  if (found.force && command !== "detach") refuse("--force");
  if (found.config === "" || Array.isArray(found.config)) {
    throw new UsageError("-c takes the name of one configuration file");
  }
  return {
    command: found.help ? "help" : found.version ? "version" : command ?? "serve",
    device,
    config: found.config,
    takeover: found.takeover,
    force: found.force,
  };
}

interface LoadedSettings {
  settings: Settings;
  /** What the user should know of the file itself. */
  warning?: string;
}

function loadSettings(config?: string): LoadedSettings {
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
  mayCreate: boolean,
): Promise<RetryingBucket> {
  const { bucket, prefix } = settings;
  const around = { clock: systemClock, chance: systemChance, logger, mayCreate };
  if (bucket.kind === "directory") {
    const path = join(bucket.path, prefix);
    const open = async () =>
      new CountingBucket(await DirectoryBucket.open(path, around), counts, systemClock);
    return await RetryingBucket.open(`file:${path}`, open, around);
  }
  // the AWS client takes a tenth of a second to load: only who needs it waits for it
  const { placeOf, S3Bucket } = await import("./src/bucket/s3_bucket.ts");
  const options = { ...settings, bucket: bucket.name };
  const open = async (signal: AbortSignal): Promise<Bucket> => {
    const bucket = await S3Bucket.open(options, around, signal);
    return new ConditionalBucket(new CountingBucket(bucket, counts, systemClock));
  };
  return await RetryingBucket.open(placeOf(options), open, around);
}

/** Undefined when TCP is in clear. Throws a `UsageError` if a file is not what it should be. */
function loadTls({ tlsCert, tlsKey, tlsCa }: Settings): TlsContext | undefined {
  if (tlsCert === undefined || tlsKey === undefined) return undefined;
  return new TlsContext({ certificate: tlsCert, key: tlsKey, clientAuthorities: tlsCa });
}

async function listen(settings: Settings, cleanUp: DisposableStack): Promise<Deno.Listener[]> {
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
function listenForStatus({ status, lines }: Settings, logger: Logger): StatusServer | undefined {
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
function attachCommand(listener: Deno.Listener, { tlsCert, tlsCa }: Settings): string {
  const address = listener.addr;
  if (!("hostname" in address)) {
    return `nbd-client -b ${BLOCK_BYTES} -unix ${(address as Deno.UnixAddr).path} /dev/nbd0`;
  }
  const tls = tlsCert === undefined ? "" : " -cacertfile ca-cert.pem";
  const own = tlsCa === undefined ? "" : " -certfile client-cert.pem -keyfile client-key.pem";
  return `nbd-client -b ${BLOCK_BYTES}${tls}${own} ${address.hostname} ${address.port} /dev/nbd0`;
}

function isTcp(listener: Deno.Listener): boolean {
  return listener.addr.transport === "tcp";
}

function showAddress(listener: Deno.Listener): string {
  const address = listener.addr;
  return "hostname" in address
    ? `${address.hostname}:${address.port}`
    : (address as Deno.UnixAddr).path;
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
    bytesMax: cacheBytes,
    fileBytesMax: Math.max(SEGMENT_DATA_BYTES_MAX, cacheBytes * SEAL_SHARE),
    logger,
  });
  const changes = await device.replay();
  if (changes > 0) logger.info(`${changes} changes that were not stored are made again`);
  return device;
}

async function serve(settings: Settings, takeover: boolean, logger: Logger): Promise<number> {
  const startedAtMs = systemClock.now();
  const options: VolumeOptions = { ...settings, takeover };
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
  const mayCreate = settings.volumeBytes !== undefined;
  const bucketCounts = new BucketCounts();
  const bucket = await openBucket(settings, bucketCounts, logger, mayCreate);
  cleanUp.defer(() => bucket.close());
  const ended = Promise.withResolvers<number>();
  const folder = journalFolder(settings, host);
  const volume = await Volume.open(options, {
    bucket,
    clock: systemClock,
    chance: systemChance,
    logger,
    host,
    survivedSince: (uuid, epoch) => folder?.unbrokenSince(uuid, epoch),
    onFailure: (error) => {
      logger.error(error.message);
      ended.resolve(error instanceof FencedError ? EXIT_FENCED : EXIT_NOT_STORED);
    },
  });
  isHeld = true;
  bucket.startServing();
  const journaled = folder && await openJournal(volume, folder, settings.cacheStripes, logger);
  const requestCounts = new RequestCounts(systemClock);
  const server = new NbdServer(journaled ?? volume, {
    exportName: volumeName(settings),
    description: describeExport(bucket.name, volume.info.uuid, volume.unbrokenSince),
    readOnly: settings.readOnly,
    counts: requestCounts,
    clock: systemClock,
    logger,
  });
  const version = manifest.version;
  const isReadOnly = settings.readOnly;
  const counts = { bucketCounts, requestCounts };
  const drive = { version, startedAtMs, isReadOnly, volume, bucket, server, ...counts };
  status?.startServing(() => statusOf({ ...drive, clock: systemClock }));
  for (const listener of listeners) server.serve(listener, isTcp(listener) ? tls : undefined);
  const condition = () => conditionOf(volume, bucket);
  // before the line that invites signals
  drainOnSignal(server, volume, logger, () => manager.stopping(condition)).then(ended.resolve);
  const journalBytes = journaled ? settings.cacheStripes * volume.info.stripeBytes : 0;
  const memory = memoryBytesMax(options, volume.info) + journalBytes;
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

async function check(
  settings: Settings,
  logger: Logger,
  print: (line: string) => void,
): Promise<number> {
  using cleanUp = new DisposableStack();
  const host = new LocalHost(systemClock, logger);
  cleanUp.defer(() => host.close());
  const counts = new BucketCounts();
  const bucket = await openBucket(settings, counts, logger, false);
  cleanUp.defer(() => bucket.close());
  const isTerminal = Deno.stderr.isTerminal();
  const around = { host, counts, clock: systemClock, logger, isTerminal, print };
  return await checkAndReport(bucket, around) ? EXIT_CLEAN : EXIT_DAMAGED;
}

/** Waits for a signal, then stores everything; a second signal gives up. Resolves to the exit code. */
async function drainOnSignal(
  server: NbdServer,
  volume: Volume,
  logger: Logger,
  onBegin: () => void,
): Promise<number> {
  const signals = ["SIGTERM", "SIGINT"] as const;
  const next = () =>
    new Promise<void>((resolve) => {
      const listener = () => {
        for (const signal of signals) Deno.removeSignalListener(signal, listener);
        resolve();
      };
      for (const signal of signals) Deno.addSignalListener(signal, listener);
    });
  await next();
  onBegin();
  const progress = new DrainProgress(systemClock, logger, Deno.stderr.isTerminal());
  const drained = (async () => {
    await server.close();
    await volume.close((unstoredBytes) => progress.show(unstoredBytes));
    progress.end("everything is stored");
    return EXIT_CLEAN;
  })();
  const givenUp = next().then(() => {
    progress.end(`given up: ${volume.unstoredBytes} bytes were not stored`);
    return EXIT_NOT_STORED;
  });
  return await Promise.race([drained, givenUp]).catch((error) => {
    if (error instanceof FencedError) return EXIT_FENCED;
    logger.error(`${volume.unstoredBytes} bytes were not stored: ${messageOf(error)}`);
    return EXIT_NOT_STORED;
  });
}

async function main(args: string[]): Promise<number> {
  // Deno knows Mozilla's certificate authorities only; a private endpoint's is in the system's store
  if (!Deno.env.has("DENO_TLS_CA_STORE")) Deno.env.set("DENO_TLS_CA_STORE", "system,mozilla");
  const { command, device, config, takeover, force } = readCommandLine(args);
  const print = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(text + "\n"));
  if (command === "help") return print(HELP), EXIT_CLEAN;
  if (command === "version") return print(`elasticdrive ${manifest.version}`), EXIT_CLEAN;
  const { settings, warning } = loadSettings(config);
  const logger = stderrLogger(settings.debug);
  if (warning) logger.warn(warning);
  if (command === "check-config") {
    loadTls(settings);
    return print(describe(settings).join("\n")), EXIT_CLEAN;
  }
  if (command === "check") return await check(settings, logger, print);
  if (command === "attach") {
    return print(await attach(device, settings, systemClock)), EXIT_CLEAN;
  }
  if (command === "detach") {
    return print(await detach(device, settings, systemClock, force)), EXIT_CLEAN;
  }
  return await serve(settings, takeover, logger);
}

try {
  Deno.exit(await main(Deno.args));
} catch (error) {
  const isRefusal = error instanceof UsageError || error instanceof DamageError;
  const logger = stderrLogger(false);
  // a configuration with several mistakes has a line for each
  for (const line of messageOf(error).split("\n")) logger.error(line);
  // two that start at once: one of them is fenced before it is ready
  if (error instanceof FencedError) Deno.exit(EXIT_FENCED);
  if (!isRefusal) logger.error(`this should not happen: ${(error as Error)?.stack}`);
  Deno.exit(EXIT_REFUSED);
}
