/**
 * What the drive and its peers are made to do. Writing begins with an empty bucket, reading with a full one and an
 * empty cache; where it says so, with what is asked for in the cache.
 *
 * All have the same time, and stop earlier if they get through: a slow one does less of the same work, not another.
 */
import { GIB, KIB, MIB } from "../../src/limits.ts";
import { CACHE_BYTES, type Contender } from "./contenders.ts";
import { type FioRun, runFio } from "./fio.ts";

export interface Work {
  name: string;
  /** For the table. */
  what: string;
  sizeBytes: number;
  /** Written before, from the beginning; the same for every round, so reading must not change it. */
  filledBytes?: number;
  /** Block and object of the peers, if less than their default serves them better. */
  peerBlockBytes?: number;
  /** Done before anything is counted. */
  warm?: string[];
  /** fio's options. */
  fio: string[];
}

const SET = 512 * MIB;
const HOT = CACHE_BYTES / 4;
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
const cold = { sizeBytes: GIB, filledBytes: SET };

export const WORKS: Work[] = [
  {
    name: "write-in-order",
    what: "write in order, 64 KiB at depth 32, a flush at the end",
    sizeBytes: GIB,
    fio: [...inOrder("write", "64k", 32, GIB), END],
  },
  {
    name: "write-flush-1",
    what: "write 4 KiB at random, depth 1, a flush after each",
    sizeBytes: 256 * MIB,
    peerBlockBytes: 4 * KIB,
    fio: [...random("randwrite", 1, 256 * MIB), "fsync=1"],
  },
  {
    name: "write-flush-64",
    what: "write 4 KiB at random, depth 32, a flush after every 64",
    sizeBytes: 256 * MIB,
    peerBlockBytes: 4 * KIB,
    fio: [...random("randwrite", 32, 256 * MIB), "fsync=64"],
  },
  {
    name: "write-flush-end",
    what: "write 4 KiB at random, depth 32, a flush at the end",
    sizeBytes: 256 * MIB,
    peerBlockBytes: 4 * KIB,
    fio: [...random("randwrite", 32, 256 * MIB), END],
  },
  {
    name: "read-in-order-1",
    what: "read in order, cold, 128 KiB at depth 1",
    ...cold,
    fio: inOrder("read", "128k", 1, SET),
  },
  {
    name: "read-in-order-32",
    what: "read in order, cold, 64 KiB at depth 32",
    ...cold,
    fio: inOrder("read", "64k", 32, SET),
  },
  {
    name: "read-random-1",
    what: "read 4 KiB at random, cold, depth 1",
    ...cold,
    fio: random("randread", 1, SET),
  },
  {
    name: "read-random-32",
    what: "read 4 KiB at random, cold, depth 32",
    ...cold,
    fio: random("randread", 32, SET),
  },
  {
    name: "read-hot-32",
    what: "read 4 KiB at random, cached, depth 32",
    sizeBytes: GIB,
    filledBytes: HOT,
    warm: inOrder("read", "64k", 32, HOT),
    fio: [...random("randread", 32, HOT), "time_based=1"],
  },
  {
    name: "mixed",
    what: "70 % reads, 30 % writes of 4 KiB at random in four times the cache, depth 32",
    sizeBytes: 4 * CACHE_BYTES,
    filledBytes: 4 * CACHE_BYTES,
    fio: [...random("randrw", 32, 4 * CACHE_BYTES), "rwmixread=70", END],
  },
];

export async function perform(
  { fio }: Work,
  { uri }: Contender,
  secondsMax: number,
): Promise<FioRun> {
  return await runFio(uri, [...fio, `runtime=${secondsMax}`]);
}

export async function fill({ uri }: Contender, bytes: number): Promise<void> {
  await runFio(uri, [...inOrder("write", "64k", 32, bytes), END]);
}
