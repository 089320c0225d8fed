/**
 * What the drive and its peers are made to do. Writing begins with an empty bucket, reading with a full one and an
 * empty cache; where it says so, with what is asked for in the cache.
 *
 * Most works have the same time for all, and stop earlier if they get through: a slow one does less of the same
 * work, not another. Making and moving disk images is done to its end, or to a deadline.
 *
 * fio flushes as often as its queue is deep, all at once, where it is to flush once every 64: they are
 * answered together.
 */
import { GIB, KIB, MIB } from "../../src/limits.ts";
import type { BareWork } from "./bare.ts";
import { CACHE_BYTES, type Contender } from "./contenders.ts";
import {
  compare,
  copyIn,
  copyOut,
  dataBytes,
  type DiskImages,
  EMPTY_BYTES,
  formatDisk,
  IMAGE_BYTES,
} from "./disk_images.ts";
import { type Done, runFio } from "./fio.ts";
import { flushBesideWrites, FLUSHED_BYTES } from "./paced_flush.ts";

/** By what works are compared: requests, where they are small; time, where it is what one waits for. */
export type Figure = "MB/s" | "requests/s" | "s" | "ms";

export interface WorkLimits {
  /** What a work that has no end of its own goes on for. */
  secondsMax: number;
  /** A work that takes so much longer is given up. */
  deadlineS: number;
}

export interface Work {
  name: string;
  /** For the table. */
  what: string;
  figure: Figure;
  /** Requests of the S3 client by itself that it is held against, by turns with all others. */
  bare?: BareWork[];
  sizeBytes: number;
  /** What is on the disk before, a key of FILLINGS; without it, nothing. */
  filling?: string;
  /** Block and object of the peers, if less than their default serves them better. */
  peerBlockBytes?: number;
  /** S3 has no part in it: it is the same from near and far, and worth comparing with a disk that has no bucket. */
  isLocal?: boolean;
  /** Done before the disk is there, with the disk before anything is counted, and afterwards. */
  prepare?(images: DiskImages): Promise<unknown>;
  warm?(disk: Contender): Promise<unknown>;
  check?(disk: Contender, images: DiskImages): Promise<void>;
  perform(disk: Contender, limits: WorkLimits, images: DiskImages): Promise<Done>;
}

const SET_BYTES = 512 * MIB;
const MIXED_BYTES = 4 * CACHE_BYTES;
const HOT_BYTES = CACHE_BYTES / 4;
const END = "end_fsync=1";
const random = (rw: string, depth: number, size: number) => [
  `rw=${rw}`,
  "bs=4k",
  `iodepth=${depth}`,
  `size=${size}`,
  "norandommap=1",
  "randrepeat=0",
];
const inOrder = (rw: string, bs: string, depth: number, size: number) => [
  `rw=${rw}`,
  `bs=${bs}`,
  `iodepth=${depth}`,
  `size=${size}`,
];

/** For the time there is. */
const fio = (options: string[]): Work["perform"] => async ({ uri }, { secondsMax, deadlineS }) =>
  await runFio(uri, [...options, `runtime=${secondsMax}`], secondsMax + deadlineS);

/** To its end: `bytes` of work, however many requests that takes. */
async function timed(bytes: number, work: () => Promise<void>): Promise<Done> {
  const begin = performance.now();
  await work();
  const seconds = (performance.now() - begin) / 1000;
  return { bytes, seconds, requests: NaN, p50Ms: NaN, p99Ms: NaN };
}

/** What is on a disk before the work; the work may read it and overwrite it, so that it serves others too. */
export const FILLINGS: Record<string, (disk: Contender, images: DiskImages) => Promise<unknown>> = {
  set: ({ uri }) => runFio(uri, [...inOrder("write", "64k", 32, SET_BYTES), END]),
  mixed: ({ uri }) => runFio(uri, [...inOrder("write", "64k", 32, MIXED_BYTES), END]),
  image: async (disk, images) => await copyIn(await images.withFiles(), disk),
};

const small = { figure: "requests/s", sizeBytes: 256 * MIB, peerBlockBytes: 4 * KIB } as const;
const cold = { sizeBytes: GIB, filling: "set" };
const hot = {
  figure: "requests/s",
  ...cold,
  isLocal: true,
  warm: ({ uri }: Contender) => runFio(uri, inOrder("read", "64k", 32, HOT_BYTES)),
} as const;

export const WORKS: Work[] = [
  {
    name: "write-in-order",
    what: "write in order, 64 KiB at depth 32, a flush at the end",
    figure: "MB/s",
    sizeBytes: GIB,
    bare: ["put-8m"],
    perform: fio([...inOrder("write", "64k", 32, GIB), END]),
  },
  {
    name: "write-flush-1",
    what: "write 4 KiB at random, depth 1, a flush after each",
    ...small,
    bare: ["put-4k"],
    perform: fio([...random("randwrite", 1, small.sizeBytes), "fsync=1"]),
  },
  {
    name: "write-flush-64",
    what: "write 4 KiB at random, depth 32, a flush after every 64",
    ...small,
    perform: fio([...random("randwrite", 32, small.sizeBytes), "fsync=64"]),
  },
  {
    name: "write-flush-end",
    what: "write 4 KiB at random, depth 32, a flush at the end",
    ...small,
    perform: fio([...random("randwrite", 32, small.sizeBytes), END]),
  },
  {
    name: "flush-under-load",
    what: `write 4 KiB and flush, every 100 ms, while others write: ${
      FLUSHED_BYTES / KIB
    } KiB a flush`,
    ...small,
    figure: "ms",
    bare: ["put-512k"],
    perform: async (disk, { secondsMax, deadlineS }) =>
      await flushBesideWrites(disk, secondsMax, secondsMax + deadlineS),
  },
  {
    name: "read-in-order-1",
    what: "read in order, cold, 128 KiB at depth 1",
    figure: "MB/s",
    ...cold,
    perform: fio(inOrder("read", "128k", 1, SET_BYTES)),
  },
  {
    name: "read-in-order-32",
    what: "read in order, cold, 64 KiB at depth 32",
    figure: "MB/s",
    ...cold,
    bare: ["get-2m"],
    perform: fio(inOrder("read", "64k", 32, SET_BYTES)),
  },
  {
    name: "read-random-1",
    what: "read 4 KiB at random, cold, depth 1",
    figure: "requests/s",
    ...cold,
    perform: fio(random("randread", 1, SET_BYTES)),
  },
  {
    name: "read-random-32",
    what: "read 4 KiB at random, cold, depth 32",
    figure: "requests/s",
    ...cold,
    bare: ["get-64k", "get-64k-32"],
    perform: fio(random("randread", 32, SET_BYTES)),
  },
  {
    name: "mixed",
    what: "70 % reads, 30 % writes, 4 KiB at random, four times the cache, depth 32",
    figure: "requests/s",
    sizeBytes: MIXED_BYTES,
    filling: "mixed",
    perform: fio([...random("randrw", 32, MIXED_BYTES), "rwmixread=70", END]),
  },
  {
    name: "read-hot-32",
    what: "read 4 KiB at random, cached, depth 32",
    ...hot,
    perform: fio([...random("randread", 32, HOT_BYTES), "time_based=1"]),
  },
  {
    name: "write-hot-32",
    what: "overwrite 4 KiB at random, cached, depth 32, no flush",
    ...hot,
    perform: fio([...random("randwrite", 32, HOT_BYTES), "time_based=1"]),
  },
  {
    name: "mkfs",
    what: "mkfs.ext4 of 100 GiB",
    figure: "s",
    sizeBytes: EMPTY_BYTES,
    peerBlockBytes: 4 * KIB,
    prepare: (images) => images.empty(),
    perform: async (disk, { deadlineS }, images) =>
      await timed(await dataBytes(await images.empty()), () => formatDisk(disk, deadlineS)),
  },
  {
    name: "empty-image-in",
    what: "the same file system by qemu-img convert",
    figure: "s",
    sizeBytes: EMPTY_BYTES,
    prepare: (images) => images.empty(),
    perform: async (disk, { deadlineS }, images) => {
      const image = await images.empty();
      return await timed(await dataBytes(image), () => copyIn(image, disk, deadlineS));
    },
  },
  {
    name: "image-in",
    what: "qemu-img convert of an image in, ext4 with files",
    figure: "s",
    sizeBytes: IMAGE_BYTES,
    prepare: (images) => images.withFiles(),
    perform: async (disk, { deadlineS }, images) => {
      const image = await images.withFiles();
      return await timed(await dataBytes(image), () => copyIn(image, disk, deadlineS));
    },
    check: async ({ uri }, images) => await compare(await images.withFiles(), uri),
  },
  {
    name: "image-out",
    what: "qemu-img convert of the same image out, cold",
    figure: "s",
    sizeBytes: IMAGE_BYTES,
    filling: "image",
    perform: async (disk, { deadlineS }, images) => {
      const bytes = await dataBytes(await images.withFiles());
      return await timed(bytes, () => copyOut(disk, images.output, deadlineS));
    },
    check: async (_, images) => await compare(await images.withFiles(), images.output),
  },
];
