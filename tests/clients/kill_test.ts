/**
 * kill -9, again and again: nothing that was flushed is lost, and the disk is as it was at one moment.
 *
 * A round lets a client work, kills the drive at a random moment of its work, of its stop or of its opening, starts
 * it again, without a wait and without a flag, and looks at the whole disk. What a round leaves the next one goes on
 * with. The moments are chosen by a seed that a failure names; `KILL_SEED=N` chooses the same ones again.
 */
import { assert, assertEquals } from "@std/assert";
import { Seed } from "../simulation/seed.ts";
import { CrashWriter } from "../support/crash_writer.ts";
import { DiskHistory } from "../support/disk_history.ts";
import { configText, copyOut, Drive, type DriveOptions, PROGRAM } from "../support/drive.ts";
import { NbdWitness } from "../support/nbd_witness.ts";
import { run, within } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import {
  type TestBucket,
  testInBothBuckets,
  testInDirectory,
  testInS3,
} from "../support/test_buckets.ts";

const SEED = Number(Deno.env.get("KILL_SEED") ?? Date.now() % 1e6);
/** Then a new one is made, in another place of the same bucket and of another shape. */
const ROUNDS_OF_A_VOLUME = 10;

/** A client at work on a drive. */
interface Work {
  /** Settles when the first flush was answered. */
  begun: Promise<void>;
  /** Settles when the client has seen that the drive is gone. */
  ended: Promise<void>;
  /** Throws if a disk that was opened again is not as it may be; `wasClean` if the drive came to stop in good order. */
  check(reopened: Drive, wasClean: boolean): Promise<void>;
}

/** A kind of client, with what it knows of the disk. */
interface Client {
  /** Size of the disk. */
  readonly mib: number;
  /** @param killAt kills the drive at once when so many flushes have been answered; 0 for never */
  start(drive: Drive, seed: Seed, killAt: number): Promise<Work>;
}

/** Our own: every block says which change wrote it. */
class OwnWriter implements Client {
  /** Room for batches of four segments. */
  static readonly MIB = 32;
  readonly mib = OwnWriter.MIB;

  /** @param flushEvery changes between two flushes; 0 for a number by lot */
  private constructor(private readonly base: string, private readonly flushEvery: number) {}

  static async make(scratch: Scratch, flushEvery = 0): Promise<Client> {
    return new OwnWriter(await scratch.hole("base", OwnWriter.MIB), flushEvery);
  }

  // deno-lint-ignore require-await
  async start(drive: Drive, seed: Seed, killAt: number): Promise<Work> {
    const flushEvery = this.flushEvery || seed.pick([1, 7, 30, 200, 1000, 3000]);
    const writer = new CrashWriter(drive, seed.below(1e9), flushEvery, killAt);
    const check = (reopened: Drive, wasClean: boolean) =>
      writer.check(reopened.uri, this.base, wasClean);
    return { begun: writer.untilFlushed(1), ended: writer.ended, check };
  }
}

/** Somebody else's: a witness in between notes what was asked and answered. */
abstract class WitnessedClient implements Client {
  static readonly MIB = 16;
  readonly mib = WitnessedClient.MIB;
  #disk = new Uint8Array(this.mib << 20);

  constructor(protected readonly scratch: Scratch) {}

  /** Runs the program until the drive is gone. */
  protected abstract work(through: NbdWitness, seed: Seed): Promise<void>;

  async start(drive: Drive, seed: Seed, killAt: number): Promise<Work> {
    const begun = Promise.withResolvers<void>();
    const history = new DiskHistory(this.#disk, (flushes) => {
      if (flushes === killAt) drive.signal("SIGKILL");
      begun.resolve();
    });
    const witness = await NbdWitness.of(drive, history);
    const ended = async () => {
      await this.work(witness, seed);
      await witness[Symbol.asyncDispose]();
    };
    const check = async (reopened: Drive, wasClean: boolean) => {
      if (wasClean) history.stopped();
      await copyOut(reopened, this.scratch.file("found"));
      this.#disk = await Deno.readFile(this.scratch.file("found"));
      history.check(this.#disk);
    };
    return { begun: begun.promise, ended: ended(), check };
  }

  /** Runs a program; it fails when the drive goes. */
  protected async run(program: string, args: string[]): Promise<boolean> {
    const silent = { stdin: "null", stdout: "null", stderr: "null" } as const;
    return (await new Deno.Command(program, { args, ...silent }).output()).success;
  }
}

class Fio extends WitnessedClient {
  protected async work({ uri }: NbdWitness, seed: Seed): Promise<void> {
    const rw = seed.pick(["randwrite", "write"]);
    const fsync = seed.pick([1, 8, 64]);
    const load = [`--rw=${rw}`, `--fsync=${fsync}`, `--randseed=${seed.below(1e9)}`];
    const shape = ["--bssplit=4k/50:16k/30:64k/20", `--size=${this.mib}M`, "--iodepth=16"];
    const endless = ["--time_based", "--runtime=600", "--refill_buffers", "--thread"];
    const where = ["--name=killed", "--ioengine=nbd", `--uri=${uri}`];
    assert(!await this.run("fio", [...where, ...load, ...shape, ...endless]), "fio came to an end");
  }
}

class Nbdcopy extends WitnessedClient {
  static async make(scratch: Scratch): Promise<Client> {
    await scratch.random("full", WitnessedClient.MIB);
    const sparse = await scratch.random("sparse", WitnessedClient.MIB);
    await run("fallocate", ["--punch-hole", "--offset=4M", "--length=5M", sparse]);
    return new Nbdcopy(scratch);
  }

  protected async work(through: NbdWitness, seed: Seed): Promise<void> {
    const size = `--request-size=${seed.pick([4096, 65536, 262144])}`;
    const options = [size, "--connections=4", "--requests=16", "--flush"];
    for (let n = 0; !through.isDriveGone; n++) {
      const image = this.scratch.file(n % 2 ? "full" : "sparse");
      await this.run("nbdcopy", [...options, image, through.uri]);
    }
  }
}

// ---- moments

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

type Death = (drive: Drive, round: Round) => Promise<void>;

/** Each ends with the drive gone, if not by the kill. */
const deaths = {
  /** The client does it. */
  "as a flush is answered": () => Promise.resolve(),

  async "at work"(drive, { seed }) {
    await pause(seed.below(500));
    drive.signal("SIGKILL");
  },

  async "while it stops"(drive, { seed }) {
    await pause(seed.below(300));
    drive.signal("SIGTERM");
    await pause(seed.below(100));
    killIfAlive(drive);
  },

  async "while it stores a checkpoint to stop"(drive, round) {
    await pause(round.seed.below(300));
    const seen = untilCheckpoint(drive, round);
    drive.signal("SIGTERM");
    await seen;
    killIfAlive(drive);
  },

  /** 1,000 segments after the last one. */
  async "while it stores a checkpoint at work"(drive, round) {
    await untilCheckpoint(drive, round);
    drive.signal("SIGKILL");
  },
} satisfies Record<string, Death>;

const LOT: (keyof typeof deaths)[] = [
  ...new Array(3).fill("as a flush is answered"),
  ...new Array(3).fill("at work"),
  ...new Array(2).fill("while it stops"),
  ...new Array(2).fill("while it stores a checkpoint to stop"),
];

/** Until the first object of a checkpoint is there, or its root, which is stored last; or the drive is gone. */
async function untilCheckpoint(drive: Drive, { bucket, prefix, seed }: Round): Promise<void> {
  const folder = prefix + seed.pick(["map/", "checkpoint/"]);
  const keys = async () => (await bucket.objects(folder)).map(({ key }) => key).join();
  const before = await keys();
  while (!drive.hasEnded && await keys() === before) await pause(0);
}

function killIfAlive(drive: Drive): void {
  try {
    drive.signal("SIGKILL");
  } catch { /* it had stopped before */ }
}

/** Starts the program and kills it after so long. */
async function killWhileOpening(options: DriveOptions, afterMs: number): Promise<void> {
  await using scratch = await Scratch.make();
  const config = await scratch.write("config.ini", configText(options));
  const silent = { stdin: "null", stdout: "null", stderr: "null" } as const;
  const args = ["-c", config];
  const child = new Deno.Command(PROGRAM, { args, cwd: scratch.path, ...silent }).spawn();
  await pause(afterMs);
  child.kill("SIGKILL");
  assertEquals((await child.status).signal, "SIGKILL");
}

// ---- rounds

interface Round {
  bucket: TestBucket;
  prefix: string;
  seed: Seed;
}

/** Kills so many times. @throws naming seed and round */
async function killAgainAndAgain(
  bucket: TestBucket,
  rounds: number,
  makeClient: (scratch: Scratch) => Promise<Client>,
  lot = LOT,
): Promise<void> {
  const seed = new Seed(SEED);
  for (let first = 0; first < rounds; first += ROUNDS_OF_A_VOLUME) {
    await using scratch = await Scratch.make();
    const client = await makeClient(scratch);
    await using volume = new KilledVolume({ bucket, prefix: `disks/${first}/`, seed }, client);
    for (let n = first; n < Math.min(rounds, first + ROUNDS_OF_A_VOLUME); n++) {
      const death = seed.pick(lot);
      try {
        await volume.round(deaths[death], death === "as a flush is answered");
      } catch (error) {
        const where = `KILL_SEED=${SEED}, round ${n}, killed ${death}`;
        throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
      }
    }
    await volume.end();
  }
}

class KilledVolume implements AsyncDisposable {
  readonly #shape: Record<string, string>;
  readonly #cachesizes: number[];
  #drive: Drive | null = null;
  #openingMs = 0;

  constructor(private readonly around: Round, private readonly client: Client) {
    // caches of 2 to 256 MiB: no change is more than a quarter of one, and a batch has one segment or up to four
    const [stripe, ...cachesizes] = around.seed.pick(
      [[4096, 512, 8192], [65536, 32, 1024, 4096], [1 << 20, 16, 256]],
    );
    this.#shape = { PREFIX: around.prefix, STRIPE: String(stripe) };
    this.#cachesizes = cachesizes;
  }

  async round(die: Death, atFlush: boolean): Promise<void> {
    const { seed } = this.around;
    const drive = this.#drive ?? await this.#open();
    const work = await this.client.start(drive, seed, atFlush ? 1 + seed.below(12) : 0);
    await within(60, "the first flush", work.begun);
    await die(drive, this.around);
    const code = await drive.exit();
    assert(code === -1 || code === 0, `ended with ${code}: ${drive.stderr}`);
    await within(60, "the end of the client", work.ended);
    await drive[Symbol.asyncDispose]();
    while (seed.chance(0.25)) await killWhileOpening(this.#options(), seed.below(this.#openingMs));
    const reopened = await this.#open();
    assert(!reopened.stderr.includes("warning"), reopened.stderr);
    await work.check(reopened, code === 0);
    if (seed.chance(0.5)) return; // the next round finds its cache as the check has left it
    await reopened.kill();
    await reopened[Symbol.asyncDispose]();
    this.#drive = null;
  }

  async end(): Promise<void> {
    this.#drive ??= await this.#open();
    await this.#drive.stopClean();
  }

  async #open(): Promise<Drive> {
    const startMs = performance.now();
    this.#drive = await Drive.start(this.#options());
    this.#openingMs = performance.now() - startMs;
    return this.#drive;
  }

  #options(): DriveOptions {
    const { bucket, seed } = this.around;
    const server = {
      cachesize: seed.pick(this.#cachesizes),
      flushafter: seed.pick([0.1, 5]),
      uploads: seed.pick([1, 4]),
    };
    return { bucket, size: `${this.client.mib}M`, s3: this.#shape, server };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#drive?.[Symbol.asyncDispose]();
  }
}

// deno-lint-ignore require-await
const makeFio = async (scratch: Scratch) => new Fio(scratch);

testInDirectory({
  "60 times kill -9 under our own writer": (bucket) =>
    killAgainAndAgain(bucket, 60, (scratch) => OwnWriter.make(scratch)),
  "2 times kill -9 while a long log becomes a checkpoint": (bucket) =>
    killAgainAndAgain(bucket, 2, (scratch) => OwnWriter.make(scratch, 1), [
      "while it stores a checkpoint at work",
    ]),
  "25 times kill -9 under fio": (bucket) => killAgainAndAgain(bucket, 25, makeFio),
  "15 times kill -9 under nbdcopy": (bucket) => killAgainAndAgain(bucket, 15, Nbdcopy.make),
});

testInS3({
  "12 times kill -9 under our own writer": (bucket) =>
    killAgainAndAgain(bucket, 12, (scratch) => OwnWriter.make(scratch)),
  "5 times kill -9 under fio": (bucket) => killAgainAndAgain(bucket, 5, makeFio),
  "3 times kill -9 under nbdcopy": (bucket) => killAgainAndAgain(bucket, 3, Nbdcopy.make),
});

testInBothBuckets({
  "a drive that was killed starts again at once, without being told to": async (bucket) => {
    await using first = await Drive.start({ bucket, size: "64M" });
    await first.kill();
    await using second = await within(10, "the second start", Drive.start({ bucket }));
    assert(second.readyLine.includes("epoch 2"), second.readyLine);
    assert(!second.stderr.includes("warning"), second.stderr);
    await second.stopClean();
  },
});
