/**
 * Disks as people make and move them: mkfs.ext4, and qemu-img with an image of a real file system and one of
 * an empty one of 100 GiB, which is nearly all holes.
 *
 * mkfs.ext4 takes a file, so libnbd's nbdfuse makes one of what is served over NBD. s3backer's disk is a file
 * already, and gets the work without that detour.
 *
 * qemu-img is told that the disk reads as zeroes, which it does: else it has all of it zeroed first, which
 * nbdkit-S3 does by listing its bucket and others in an instant. It is to flush at the end, which by
 * itself ("unsafe") it does not.
 */
import { GIB, MIB } from "../../src/limits.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import type { Contender } from "./contenders.ts";
import { mount } from "./server_process.ts";

/** Of the real image; as much as this of /usr/share is in it, less what a file system needs. */
export const IMAGE_BYTES = 128 * MIB;
const IMAGE_FILES_BYTES = 80 * MIB;
export const EMPTY_BYTES = 100 * GIB;

/** What there is to check when the work is done may take longer than the work. */
const CHECK_S = 180;
/**
 * The disk is known to be empty. Without this mkfs.ext4 trims it first, which is one request to the drive, while
 * s3backer asks S3 about each of 1.6 million blocks.
 */
const FRESH = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
const IN_FLIGHT = ["-m", "16"];
const RAW = ["-f", "raw"];

export class DiskImages implements AsyncDisposable {
  readonly #scratch: Scratch;
  #files: string | undefined;
  #empty: string | undefined;

  private constructor(scratch: Scratch) {
    this.#scratch = scratch;
  }

  static async make(): Promise<DiskImages> {
    return new DiskImages(await Scratch.make());
  }

  /** ext4 with what is first, by name, in /usr/share. */
  async withFiles(): Promise<string> {
    if (this.#files) return this.#files;
    const from = this.#scratch.file("share");
    await Deno.mkdir(from);
    let bytes = 0;
    for (const { name } of [...Deno.readDirSync("/usr/share")].toSorted(byName)) {
      const path = `/usr/share/${name}`;
      const size = Number((await run("du", ["-s", "--block-size=1", path])).split("\t")[0]);
      if (bytes + size > IMAGE_FILES_BYTES) continue;
      bytes += size;
      await run("cp", ["-a", path, from]);
    }
    const image = await this.#scratch.hole("files.img", IMAGE_BYTES / MIB);
    await run("mkfs.ext4", ["-q", "-F", "-d", from, image]);
    await Deno.remove(from, { recursive: true });
    return this.#files = image;
  }

  /** What mkfs.ext4 makes of a hole of 100 GiB. */
  async empty(): Promise<string> {
    if (this.#empty) return this.#empty;
    const image = await this.#scratch.hole("empty.img", EMPTY_BYTES / MIB);
    await makeExt4(image);
    return this.#empty = image;
  }

  /** For what comes out of a disk. */
  get output(): string {
    return this.#scratch.file("output.img");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scratch[Symbol.asyncDispose]();
  }
}

function byName({ name: a }: Deno.DirEntry, { name: b }: Deno.DirEntry): number {
  return a < b ? -1 : 1;
}

async function makeExt4(file: string, deadlineS?: number): Promise<void> {
  await run("mkfs.ext4", ["-q", "-F", "-E", FRESH, file], { deadlineS });
}

/** Gives a disk of 100 GiB a file system. */
export async function formatDisk(disk: Contender, deadlineS: number): Promise<void> {
  if (disk.file) return await makeExt4(disk.file, deadlineS);
  await using scratch = await Scratch.make();
  const file = scratch.file("disk");
  await using _fuse = await mount(scratch.path, "nbdfuse", [file, disk.uri], file);
  await makeExt4(file, deadlineS);
}

export async function copyIn(image: string, { uri }: Contender, deadlineS?: number): Promise<void> {
  const fresh = ["-n", "--target-is-zero", "-t", "writeback", "-W"];
  await run("qemu-img", ["convert", ...fresh, ...IN_FLIGHT, ...RAW, "-O", "raw", image, uri], {
    deadlineS,
  });
}

export async function copyOut({ uri }: Contender, file: string, deadlineS: number): Promise<void> {
  await run("qemu-img", ["convert", "-W", ...IN_FLIGHT, ...RAW, "-O", "raw", uri, file], {
    deadlineS,
  });
}

/** Throws unless both hold the same; a disk, or two files. */
export async function compare(image: string, other: string): Promise<void> {
  await run("qemu-img", ["compare", ...RAW, "-F", "raw", image, other], { deadlineS: CHECK_S });
}

/** Bytes that are not known to be zeroes. */
export async function dataBytes(image: string): Promise<number> {
  const runs: { data: boolean; zero: boolean; length: number }[] = JSON.parse(
    await run("qemu-img", ["map", ...RAW, "--output=json", image]),
  );
  return runs.reduce((sum, { data, zero, length }) => data && !zero ? sum + length : sum, 0);
}
