/**
 * What a disk may hold after a crash, by what its clients were seen to ask and to be answered.
 *
 * Time is counted in events: each request that was made and each answer that came is one. A change took effect at some
 * time between its two events (or never, if no answer came). The disk is right if there is one time at which all
 * changes with effect before it are there and none after it, and that time is not before the last flush that was answered was
 * asked for.
 */
import { crc32 } from "node:zlib";

const BLOCK = 4096;
const ZERO_PRINT = crc32(new Uint8Array(BLOCK));

/** A run of blocks that was written, trimmed or zeroed. */
interface Change {
  firstBlock: number;
  /** CRC-32 of each block. */
  prints: number[];
  asked: number;
  answered: number;
}

/** What a history has to say of a disk that is right. */
export interface Found {
  changes: number;
  flushes: number;
}

export class DiskHistory {
  readonly #base: number[];
  readonly #changes: Change[] = [];
  #now = 0;
  /** When the newest of the flushes that were answered was asked for. */
  #flushed = 0;
  #flushes = 0;

  /**
   * @param base the disk as it was before the first request
   * @param onFlushed called at each answer to a flush, in its turn, with their number
   */
  constructor(base: Uint8Array, private readonly onFlushed: (flushes: number) => void) {
    this.#base = printsOf(base);
  }

  /** A write was asked for, or without `data` zeroes; to be called with the answer. */
  askedToChange(offset: number, length: number, data?: Uint8Array): () => void {
    if (offset % BLOCK !== 0 || length % BLOCK !== 0) {
      throw new RangeError(`a history is of whole blocks, not of ${offset}+${length}`);
    }
    const prints = data ? printsOf(data) : new Array(length / BLOCK).fill(ZERO_PRINT);
    const firstBlock = offset / BLOCK;
    const change = { firstBlock, prints, asked: ++this.#now, answered: Infinity };
    this.#changes.push(change);
    return () => change.answered = ++this.#now;
  }

  askedToFlush(): () => void {
    const asked = ++this.#now;
    return () => {
      this.#now++;
      this.#flushed = Math.max(this.#flushed, asked);
      this.onFlushed(++this.#flushes);
    };
  }

  /** Everything that was answered is stored: the drive has stopped in good order. */
  stopped(): void {
    this.#flushed = ++this.#now;
  }

  /** @throws if the disk is as it was at no time, or only at one before the last flush */
  check(disk: Uint8Array): Found {
    const prints = printsOf(disk);
    const versions = this.#versionsByBlock();
    // sums of +1 where the times that fit a block begin, and -1 where they end
    const fitting = new Int32Array(this.#now + 2);
    for (const [block, of] of versions.entries()) {
      const spans = this.#timesOf(prints[block], of);
      if (spans.length === 0) throw new Error(`block ${block} holds what it never may hold`);
      for (const [begin, end] of spans) {
        fitting[begin]++;
        fitting[Math.min(end, this.#now + 1)]--;
      }
    }
    let [fits, most, newest] = [0, 0, -1];
    for (let time = 0; time <= this.#now; time++) {
      fits += fitting[time];
      most = Math.max(most, fits);
      if (fits === versions.length) newest = time;
    }
    if (newest < 0) {
      throw new Error(
        `the disk is as it was at no time: at the best ${most} of ${versions.length} blocks fit`,
      );
    }
    if (newest < this.#flushed) {
      throw new Error(
        `the disk is as it was at event ${newest} of ${this.#now}, and ${this.#flushed} was flushed`,
      );
    }
    this.#checkWhole(prints, versions);
    return { changes: this.#changes.length, flushes: this.#flushes };
  }

  /** For each block all that it held, the base first. */
  #versionsByBlock(): Version[][] {
    const base = { asked: 0, answered: 0 };
    const versions = this.#base.map((print): Version[] => [{ print, of: base }]);
    for (const change of this.#changes) {
      for (const [index, print] of change.prints.entries()) {
        versions[change.firstBlock + index].push({ print, of: change });
      }
    }
    return versions;
  }

  /** The times at which a block may have held `print`, as spans that don't overlap. */
  #timesOf(print: number, versions: Version[]): [begin: number, end: number][] {
    const spans: [number, number][] = [];
    for (const version of versions.filter((version) => version.print === print)) {
      const end = Math.min(
        ...versions.filter(({ of }) => of.asked > version.of.answered)
          .map(({ of }) => of.answered),
      );
      const last = spans.at(-1);
      if (last && version.of.asked <= last[1]) last[1] = Math.max(last[1], end);
      else spans.push([version.of.asked, end]);
    }
    return spans;
  }

  /** No change is there in some of its blocks and missing in others. */
  #checkWhole(prints: number[], versions: Version[][]): void {
    for (const change of this.#changes) {
      const isThere = change.prints.map((_, index): boolean | undefined => {
        const block = change.firstBlock + index;
        const possible = versions[block].filter(({ print }) => print === prints[block]);
        if (possible.every(({ of }) => of === change)) return true;
        if (possible.every(({ of }) => of.answered < change.asked)) return false;
        return undefined; // overwritten since, or not to be told apart
      });
      if (isThere.includes(true) && isThere.includes(false)) {
        throw new Error(
          `a write of ${change.prints.length} blocks at ${change.firstBlock} is there in part`,
        );
      }
    }
  }
}

interface Version {
  print: number;
  of: { asked: number; answered: number };
}

function printsOf(disk: Uint8Array): number[] {
  return Array.from(
    { length: disk.length / BLOCK },
    (_, block) => crc32(disk.subarray(block * BLOCK, (block + 1) * BLOCK)),
  );
}
