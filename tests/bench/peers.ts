/**
 * The drive and its peers at the same work, against one S3 server that is as far away as is asked for, by turns:
 * round after round, each begins anew on what was stored. With them, bare requests of the drive's own S3 client.
 *
 * One that fails, or does not get through in time, is left out of the rounds that remain of a work; the others go on.
 * Nobody waits for ever: a program that asks has its time, and a server that does not end is killed.
 */
import { GIB } from "../../src/limits.ts";
import { run, within } from "../support/programs.ts";
import type { Counts } from "../support/memory_s3.ts";
import { type MemoryS3, startMemoryS3 } from "../support/start_memory_s3.ts";
import { type Bare, BARE_BUCKET, BARE_WORKS, type BareWork } from "./bare.ts";
import {
  BLOCK_BYTES_DEFAULT,
  type Contender,
  CONTENDERS,
  type DiskOptions,
  FLOOR,
} from "./contenders.ts";
import { DiskImages } from "./disk_images.ts";
import type { Done } from "./fio.ts";
import { peakMemoryBytes, processorSeconds } from "./usage.ts";
import { type Figure, FILLINGS, type Work, type WorkLimits, WORKS } from "./works.ts";

/** Who takes longer for a round of a work has one: its rounds differ by little, and there are others who wait. */
const SLOW_S = 8;
/** What is killed at its deadline has so long to be gone. */
const KILLED_S = 5;

const ERROR_LENGTH_MAX = 2000;

export interface PeersOptions extends WorkLimits {
  latencyMs: number;
  rounds: number;
}

/** One round of one contender at one work; the figures by which they are compared, NaN where there is none. */
export interface Round {
  bytesPerSecond: number;
  requestsPerSecond: number;
  seconds: number;
  p50Ms: number;
  p99Ms: number;
  /** By byte of work; all else of S3's is by GiB of it. */
  upPerByte: number;
  downPerByte: number;
  s3Puts: number;
  s3Gets: number;
  s3Requests: number;
  processorSeconds: number;
  peakBytes: number;
}

export interface Result {
  work: string;
  what: string;
  figure: Figure;
  contender: string;
  rounds: Round[];
  /** Why there are no more rounds. */
  failure?: string;
}

/** Who takes part in a work. */
interface Entrant {
  result: Result;
  measureRound(): Promise<Round>;
}

export const BARE = "bare S3 client";
export const WORK_NAMES = [...Object.keys(BARE_WORKS), ...WORKS.map(({ name }) => name)];

/** Compares at one work after another; what is on the disks stays there from one latency to the next. */
export class Peers implements AsyncDisposable {
  readonly #s3: MemoryS3;
  readonly #images: DiskImages;
  readonly #say: (line: string) => void;
  readonly #filled = new Set<string>();

  private constructor(s3: MemoryS3, images: DiskImages, say: (line: string) => void) {
    this.#s3 = s3;
    this.#images = images;
    this.#say = say;
  }

  static async start(say: (line: string) => void): Promise<Peers> {
    return new Peers(await startMemoryS3(), await DiskImages.make(), say);
  }

  /** `name` is one of WORK_NAMES. A result for each who takes part, of the bare requests that a work is held against too. */
  async measure(name: string, options: PeersOptions): Promise<Result[]> {
    const work = WORKS.find((work) => work.name === name);
    const bare = work ? work.bare ?? [] : [name as BareWork];
    const entrants = bare.map((name) => this.#bareEntrant(name, options));
    if (work) {
      const contenders = Object.keys(CONTENDERS).filter((who) => who !== FLOOR || work.isLocal);
      entrants.push(...contenders.map((who) => this.#entrant(who, work, options)));
    }
    for (let round = 0; round < options.rounds; round++) {
      for (const { result, measureRound } of entrants.filter(({ result }) => goesOn(result))) {
        try {
          result.rounds.push(await measureRound());
        } catch (error) {
          result.failure = reason(error, options.deadlineS);
          this.#say(`${result.what}: ${result.contender}: ${text(error)}`);
        }
        await this.#s3.set({ latencyMs: 0 });
      }
    }
    const results = entrants.map(({ result }) => result);
    for (const result of results) this.#say(describe(result));
    return results;
  }

  #entrant(contender: string, work: Work, options: PeersOptions): Entrant {
    const { name, what, figure, filling, sizeBytes, peerBlockBytes } = work;
    const bucketName = `${filling ?? name}-${contender.toLowerCase()}`;
    const blockBytes = peerBlockBytes ?? BLOCK_BYTES_DEFAULT;
    const disk = { s3: this.#s3, bucketName, sizeBytes, blockBytes };
    const measureRound = async () => {
      try {
        return await this.#measureRound(contender, disk, work, options);
      } finally {
        if (!filling) await this.#s3.forget(bucketName);
      }
    };
    return { result: { work: name, what, figure, contender, rounds: [] }, measureRound };
  }

  #bareEntrant(work: BareWork, options: PeersOptions): Entrant {
    const { bytes, atOnce, figure } = BARE_WORKS[work];
    const kind = work.split("-")[0].toUpperCase();
    const what = `bare ${kind}s of ${bytes / 1024} KiB, ${atOnce} at once`;
    const measureRound = async () => {
      await this.#s3.set({ latencyMs: options.latencyMs });
      const printed = await run(Deno.execPath(), [
        ...["run", "--lock=deno.lock", "--frozen", "--allow-all"],
        new URL("bare.ts", import.meta.url).pathname,
        ...[this.#s3.endpoint, work, `${options.secondsMax}`],
      ], { deadlineS: options.secondsMax + options.deadlineS });
      await this.#s3.forget(BARE_BUCKET);
      return roundOf(JSON.parse(printed) as Bare);
    };
    return { result: { work, what, figure, contender: BARE, rounds: [] }, measureRound };
  }

  async #measureRound(
    contender: string,
    disk: DiskOptions,
    work: Work,
    options: PeersOptions,
  ): Promise<Round> {
    const s3 = this.#s3;
    await work.prepare?.(this.#images);
    if (work.filling && contender !== FLOOR) await this.#fill(contender, disk, work.filling);
    await using started = await CONTENDERS[contender](disk);
    if (work.filling && contender === FLOOR) await FILLINGS[work.filling](started, this.#images);
    await work.warm?.(started);
    await s3.set({ latencyMs: options.latencyMs });
    await s3.resetCounts();
    const before = processorSeconds(started.pid);
    const done = await this.#perform(work, started, options);
    const used = processorSeconds(started.pid) - before;
    const counts = await s3.counts();
    const peakBytes = peakMemoryBytes(started.pid);
    await s3.set({ latencyMs: 0 });
    await work.check?.(started, this.#images);
    await started.stop();
    return roundOf({ ...done, processorSeconds: used, peakBytes }, counts);
  }

  /** A program that waits for a request to a FUSE file can't be killed: its disk has to go first. */
  async #perform(work: Work, started: Contender, options: PeersOptions): Promise<Done> {
    const limitS = options.secondsMax + options.deadlineS + KILLED_S;
    const performing = work.perform(started, options, this.#images);
    try {
      return await within(limitS, work.what, performing);
    } catch (error) {
      await started.stop().catch(() => {});
      await within(limitS, "its end", performing).catch(() => {});
      throw error;
    }
  }

  /** Once for all works and latencies. */
  async #fill(contender: string, disk: DiskOptions, filling: string): Promise<void> {
    if (this.#filled.has(disk.bucketName)) return;
    await using started: Contender = await CONTENDERS[contender](disk);
    await FILLINGS[filling](started, this.#images);
    await started.stop();
    this.#filled.add(disk.bucketName);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#s3[Symbol.asyncDispose]();
    await this.#images[Symbol.asyncDispose]();
  }
}

function goesOn({ rounds, failure }: Result): boolean {
  return failure === undefined && !rounds.some(({ seconds }) => seconds > SLOW_S);
}

/** For the table; who watches is told all of it. */
function reason(error: unknown, deadlineS: number): string {
  const isLate = error instanceof Error && /killed after|not within/.test(error.message);
  return isLate ? `not within ${deadlineS} s` : "failed";
}

/** An error may quote all that a program said. */
function text(error: unknown): string {
  return `${error}`.slice(0, ERROR_LENGTH_MAX);
}

/** One line for who watches. */
function describe({ what, contender, rounds, failure }: Result): string {
  const of = (show: (round: Round) => string) => rounds.map(show).join(", ");
  if (rounds.length === 0) return `${what}: ${contender}: ${failure}`;
  const rates = of(({ bytesPerSecond }) => (bytesPerSecond / 1e6).toFixed(1));
  const times = of(({ p50Ms, p99Ms, seconds }) =>
    isNaN(p50Ms) ? `${seconds.toFixed(2)} s` : `${p50Ms.toFixed(2)}/${p99Ms.toFixed(2)} ms`
  );
  return `${what}: ${contender}: ${rates} MB/s; ${times}`;
}

/** Without counts where requests are the work. */
function roundOf(done: Bare, counts?: Counts): Round {
  const { bytes, seconds, p50Ms, p99Ms, peakBytes } = done;
  const gib = bytes / GIB;
  const { requests, bytesUp = NaN, bytesDown = NaN } = counts ?? {};
  const all = requests ? Object.values(requests).reduce((sum, count) => sum + count, 0) : NaN;
  return {
    bytesPerSecond: bytes / seconds,
    requestsPerSecond: done.requests / seconds,
    seconds,
    p50Ms,
    p99Ms,
    upPerByte: bytesUp / bytes,
    downPerByte: bytesDown / bytes,
    s3Puts: (requests?.PUT ?? NaN) / gib,
    s3Gets: (requests?.GET ?? NaN) / gib,
    s3Requests: all / gib,
    processorSeconds: done.processorSeconds / gib,
    peakBytes,
  };
}
