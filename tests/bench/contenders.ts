/**
 * Who is compared: the drive, and what else Debian has that makes a bucket a disk, each against the same S3 server
 * and reached over NBD, so that one client does the same work on all.
 *
 * - nbdkit's S3 plugin (Python, boto3) answers a write when its objects are stored, and ignores a flush.
 * - s3backer is a FUSE file system with one file, which is served here by nbdkit's file plugin. By itself it answers a
 *   write, and an fsync too, before anything is stored. Only `--blockCacheSync` makes what was acknowledged
 *   durable, so that is how it runs. Its guards against S3's old eventual consistency (an MD5 cache, a pause
 *   between writes of a block) are off, since they only cost it time. `--directIO` keeps the kernel's
 *   page cache, which the others don't have, out of the way. The kernel lets one write at a time through to a file of
 *   FUSE, whoever serves it: synchronous writes come one after the other.
 * - nbdkit's memory plugin has no S3 and forgets all at its end: what the client and NBD by themselves cost.
 *
 * Stripe, block and object are 64 KiB, the largest that Debian's nbdkit-S3 takes (its block size must be a minimum
 * that nbdkit allows), unless the work suits the peers better with less. Caches have 64 MiB.
 */
import { KIB, MIB } from "../../src/limits.ts";
import { Drive } from "../support/drive.ts";
import { Scratch } from "../support/scratch.ts";
import type { MemoryS3 } from "../support/start_memory_s3.ts";
import { mount, ServerProcess } from "./server_process.ts";

export const CACHE_BYTES = 64 * MIB;
export const BLOCK_BYTES_DEFAULT = 64 * KIB;
/** nbdkit's threads: as many requests as any work has under way. */
const THREADS = "32";

export interface DiskOptions {
  s3: MemoryS3;
  bucketName: string;
  sizeBytes: number;
  /** Of s3backer and nbdkit-S3; the drive always has its default stripe. */
  blockBytes: number;
}

/** One that runs. */
export interface Contender extends AsyncDisposable {
  readonly uri: string;
  /** Of the process that talks to S3. */
  readonly pid: number;
  /** The disk as a file, if that is what it is. */
  readonly file?: string;
  /** Stores everything and ends it. */
  stop(): Promise<void>;
}

export const DRIVE = "ElasticDrive";
export const S3BACKER = "s3backer";
export const NBDKIT_S3 = "nbdkit-S3";
/** The one that has no bucket. */
export const FLOOR = "nbdkit-memory";

export const CONTENDERS: Record<string, (options: DiskOptions) => Promise<Contender>> = {
  [DRIVE]: startDrive,
  [NBDKIT_S3]: startNbdkitS3,
  [S3BACKER]: startS3backer,
  [FLOOR]: ({ sizeBytes }) => startNbdkit(["memory", `${sizeBytes}`]),
};

async function startDrive({ s3, bucketName, sizeBytes }: DiskOptions): Promise<Contender> {
  const drive = await Drive.startWith(
    `[s3]\nENDPOINT=${s3.endpoint}\nAWS_ACCESS_KEY_ID=${s3.accessKeyId}\n` +
      `AWS_SECRET_ACCESS_KEY=${s3.secretAccessKey}\nBUCKET=${bucketName}\nVOLUMESIZE=${sizeBytes}\n` +
      `[server]\nsocket=nbd.sock\ncachesize=${CACHE_BYTES / BLOCK_BYTES_DEFAULT}\n`,
  );
  return {
    uri: drive.uri,
    pid: drive.pid,
    stop: () => drive.stopClean(),
    [Symbol.asyncDispose]: () => drive[Symbol.asyncDispose](),
  };
}

async function startNbdkitS3(options: DiskOptions): Promise<Contender> {
  const { s3, bucketName, sizeBytes, blockBytes } = options;
  return await startNbdkit([
    // it says that a request has to be an object; it does take less, and then reads, changes and stores the object
    ...["--filter=blocksize-policy", "S3", "blocksize-minimum=512"],
    `access-key=${s3.accessKeyId}`,
    `secret-key=${s3.secretAccessKey}`,
    `endpoint-url=${s3.endpoint}`,
    `bucket=${bucketName}`,
    "key=disk",
    `size=${sizeBytes}`,
    `object-size=${blockBytes}`,
  ]);
}

async function startS3backer(options: DiskOptions): Promise<Contender> {
  const { s3, bucketName, sizeBytes, blockBytes } = options;
  await using cleanUp = new AsyncDisposableStack();
  const scratch = cleanUp.use(await Scratch.make());
  const file = scratch.file("file");
  const s3backer = cleanUp.use(
    await mount(scratch.path, "s3backer", [
      "-f",
      "--quiet",
      `--accessId=${s3.accessKeyId}`,
      `--accessKey=${s3.secretAccessKey}`,
      `--baseURL=${s3.endpoint}/`,
      `--blockSize=${blockBytes}`,
      `--size=${sizeBytes}`,
      "--blockCacheSync",
      "--blockCacheWriteDelay=0",
      `--blockCacheSize=${CACHE_BYTES / blockBytes}`,
      "--minWriteDelay=0",
      "--md5CacheSize=0",
      "--md5CacheTime=0",
      "--directIO",
      bucketName,
      scratch.path,
    ], file),
  );
  const { uri } = cleanUp.use(await startNbdkit(["file", file]));
  const all = cleanUp.move();
  const stop = () => all.disposeAsync();
  return { uri, pid: s3backer.pid, file, stop, [Symbol.asyncDispose]: stop };
}

/** Starts nbdkit with a plugin and its parameters. */
async function startNbdkit(plugin: string[]): Promise<Contender> {
  await using cleanUp = new AsyncDisposableStack();
  const scratch = cleanUp.use(await Scratch.make());
  const socket = scratch.file("nbdkit.sock");
  // it writes its number when it listens
  const ready = scratch.file("nbdkit.pid");
  const args = ["-f", "-t", THREADS, "-U", socket, "-P", ready, ...plugin];
  const { pid } = cleanUp.use(await ServerProcess.start("nbdkit", args, ready));
  const all = cleanUp.move();
  const stop = () => all.disposeAsync();
  return { uri: `nbd+unix:///?socket=${socket}`, pid, stop, [Symbol.asyncDispose]: stop };
}
