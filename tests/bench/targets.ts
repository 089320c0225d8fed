/** What the drive is to reach beside its peers and its own S3 client's bare requests, round against round. */
import { DRIVE, NBDKIT_S3, S3BACKER } from "./contenders.ts";
import { median } from "./fio.ts";
import { BARE, type Result, type Round } from "./peers.ts";
import type { Row } from "./table.ts";

type Value = (round: Round) => number;
const rate: Value = ({ bytesPerSecond }) => bytesPerSecond;
const requests: Value = ({ requestsPerSecond }) => requestsPerSecond;
const median50: Value = ({ p50Ms }) => p50Ms;

/** Who does what, and what of it counts. */
interface Part {
  work: string;
  contender: string;
  value: Value;
}

interface Target {
  what: string;
  ours: Part;
  /** What ours is divided by. */
  theirs?: Part;
  least?: number;
  most?: number;
}

const drive = (work: string, value = rate): Part => ({ work, contender: DRIVE, value });
const bare = (work: string, value = rate): Part => ({ work, contender: BARE, value });

export const TARGETS: Target[] = [
  {
    what: "durable writing in order, to bare PUTs of 8 MiB",
    ours: drive("write-in-order"),
    theirs: bare("put-8m"),
    least: 0.85,
  },
  {
    what: "the same, to s3backer",
    ours: drive("write-in-order"),
    theirs: { work: "write-in-order", contender: S3BACKER, value: rate },
    least: 8,
  },
  {
    what: "the same, to nbdkit-S3",
    ours: drive("write-in-order"),
    theirs: { work: "write-in-order", contender: NBDKIT_S3, value: rate },
    least: 16,
  },
  {
    what: "the same, PUTs a GiB",
    ours: drive("write-in-order", ({ s3Puts }) => s3Puts),
    most: 140,
  },
  {
    what: "durable writing of 4 KiB at random, a flush after every 64, to s3backer",
    ours: drive("write-flush-64"),
    theirs: { work: "write-flush-64", contender: S3BACKER, value: rate },
    least: 20,
  },
  {
    what: "the same, bytes up a byte written",
    ours: drive("write-flush-64", ({ upPerByte }) => upPerByte),
    most: 1.3,
  },
  {
    what: "4 KiB written at random, a flush at the end, bytes up a byte written",
    ours: drive("write-flush-end", ({ upPerByte }) => upPerByte),
    most: 1.3,
  },
  {
    what: "4 KiB written and flushed, median, to a bare PUT of them",
    ours: drive("write-flush-1", median50),
    theirs: bare("put-4k", median50),
    most: 1.2,
  },
  {
    what: "a flush of 512 KiB while others write, median, to a bare PUT of them",
    ours: drive("flush-under-load", median50),
    theirs: bare("put-512k", median50),
    most: 1.2,
  },
  {
    what: "reading in order, cold, at depth 32, to bare GETs of 2 MiB",
    ours: drive("read-in-order-32"),
    theirs: bare("get-2m"),
    least: 0.8,
  },
  {
    what: "reading 4 KiB at random, cold, at depth 32, to 32 of 64 KiB by the time of one bare GET",
    ours: drive("read-random-32", requests),
    theirs: bare("get-64k", ({ p50Ms }) => 32 / (p50Ms / 1000)),
    least: 0.8,
  },
];

/** A row for every target whose works were done; one that was given up, by either, is missed. */
export function rowsOf(results: Result[]): Row[] {
  const find = ({ work, contender }: Part) =>
    results.find((result) => result.work === work && result.contender === contender);
  return TARGETS.flatMap(({ what, ours, theirs, least, most }) => {
    const [we, they] = [find(ours), theirs && find(theirs)];
    if (!we || theirs && !they) return [];
    const ratios = we.rounds.slice(0, they?.rounds.length).map((round, number) =>
      ours.value(round) / (they ? theirs!.value(they.rounds[number]) : 1)
    );
    const middle = median(ratios);
    const spread = `(${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`;
    const measured = `**${middle.toFixed(2)}**${theirs ? " times" : ""}${
      ratios.length > 1 ? ` ${spread}` : ""
    }`;
    const failed = [we, they].find((result) => result?.failure);
    return [{
      what,
      result: ratios.length > 0 ? measured : `${failed?.contender}: ${failed?.failure}`,
      target: least === undefined ? `at most ${most}` : `at least ${least}`,
      met: least === undefined ? middle <= most! : middle >= least,
    }];
  });
}
