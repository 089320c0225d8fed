/**
 * A life of an NBD server among ill clients, made from a seed: one session after the other, most of them damaged in some
 * way, against the real server over a disk in memory; no sockets and no time, so that a seed replays it to the byte.
 *
 * After each session everything that can be known is checked: every reply (check_replies.ts), what reached
 * the disk and in which order, what the disk holds (reference.ts says what it should), that nothing is left in flight
 * or open, and that a well-behaved client beside it was served all along.
 */
import { Buffer } from "node:buffer";
import { BUSY_POLL_MS, TURN_MS_MAX } from "../../src/limits.ts";
import { silentLogger } from "../../src/logger.ts";
import { BusyPoll } from "../../src/nbd/busy_poll.ts";
import { NBD_CMD_READ, NBD_CMD_WRITE } from "../../src/nbd/constants.ts";
import { NbdServer } from "../../src/nbd/server.ts";
import type { Socket } from "../../src/nbd/socket.ts";
import type { Extent, Place } from "../../src/volume/block_device.ts";
import { settle } from "../support/manual_clock.ts";
import { DirectMemoryConn, type MemoryConn, MemoryListener } from "../support/memory_conn.ts";
import { MemoryDevice, type Verb } from "../support/memory_device.ts";
import { Seed } from "../simulation/seed.ts";
import { Client } from "../unit/nbd/session.ts";
import { checkReplies } from "./check_replies.ts";
import { PassingClock } from "./clocks.ts";
import { apply, type Change, type Disk, type Expected, interpret } from "./reference.ts";
import { type Frames, join, makeFrames, mutate, u32 } from "./sessions.ts";
import { isGone, type Spoil, spoilAtRandom, TlsFuzzConn, type TlsLink } from "./tls.ts";

/** So that a read may cross READ_CHUNK_BYTES_MAX. */
const SIZE_BYTES = (2 << 20) + (96 << 10);
const SESSIONS = 30;
const REQUESTS_MAX = 800;
/** Turns of the event loop in which a connection that has ended must be gone. */
const TURNS_MAX = 20_000;

export interface Totals {
  sessions: number;
  /** Options and requests that the server had to understand. */
  frames: number;
  bytes: number;
  /** Requests that were answered. */
  answers: number;
}

/** How clients reach the server; in clear unless it is by TLS. */
export type MakeLink = (seed: Seed) => TlsLink;

/** Lives through the seed. Throws, naming it, at the first thing that is not as it should be. */
export async function fuzz(seedNumber: number, makeLink?: MakeLink): Promise<Totals> {
  const totals: Totals = { sessions: 0, frames: 0, bytes: 0, answers: 0 };
  try {
    const seed = new Seed(seedNumber);
    const life = new Life(seed, SIZE_BYTES, makeLink?.(seed));
    await life.begin();
    for (; totals.sessions < SESSIONS; totals.sessions++) {
      await life.session(life.plan(), totals);
    }
    await life.end();
  } catch (error) {
    const where = `seed ${seedNumber}, session ${totals.sessions}, after ${totals.frames} frames`;
    throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
  }
  return totals;
}

/** A few looks are what is waited awake. */
const POLL_LOOK_MS = BUSY_POLL_MS / 8;
/** A few are a turn, so that many end with whole requests left. */
const TURN_LOOK_MS = TURN_MS_MAX / 4;

/** Fails wherever the disk is bad, does not always have a place for what arrives, and does not always say all it knows of its holes. */
class FuzzDevice extends MemoryDevice {
  constructor(disk: Disk, private readonly seed: Seed) {
    super(disk.sizeBytes);
    this.record = true;
    this.offersPlaces = true;
    const { start, end } = disk.bad;
    this.fails = (verb, offset, length) =>
      verb !== "flush" && offset < end && offset + length > start
        ? new Error("the disk is bad there")
        : undefined;
  }

  override place(offset: number, length: number): Place | undefined {
    return this.seed.chance(0.7) ? super.place(offset, length) : undefined;
  }

  override extents(offset: number, length: number, countMax: number): Extent[] {
    const few = this.seed.chance(0.3) ? 1 + this.seed.below(3) : countMax;
    return super.extents(offset, length, Math.min(countMax, few));
  }
}

/** What the device takes its time for. */
type Slow = "nothing" | "reads" | "changes";

interface Plan extends Attack {
  slow: Slow;
  /** The client closes without a word; else it ends its side and reads to the end. */
  isAbrupt: boolean;
  bytes: Uint8Array;
  expected: Expected;
}

/** What a client does by TLS besides: it spoils its handshake, or ends with what can't be taken. */
export interface Attack {
  spoil?: Spoil;
  attack?: (conn: TlsFuzzConn) => Promise<void>;
}

/** Of what the client has sent some may come to nothing. */
function mayLose({ isAbrupt, spoil, attack }: Attack & { isAbrupt: boolean }): boolean {
  return isAbrupt || spoil !== undefined || attack !== undefined;
}

export class Life {
  readonly disk: Disk;
  readonly #device: FuzzDevice;
  readonly #clock = new PassingClock(TURN_LOOK_MS);
  readonly #listener = new MemoryListener();
  readonly #server: NbdServer;
  /** What the disk holds. */
  readonly #contents: Uint8Array<ArrayBuffer>;
  #witness!: Client;

  constructor(
    private readonly seed: Seed,
    sizeBytes: number,
    private readonly link?: TlsLink,
  ) {
    this.#contents = new Uint8Array(sizeBytes);
    const badStart = sizeBytes / 2 + seed.below(sizeBytes / 4);
    this.disk = {
      name: seed.pick(["disk", "", "größe"]),
      sizeBytes,
      blockBytes: 4096,
      isFastKnown: true,
      isSecure: link !== undefined,
      readOnly: seed.chance(0.1),
      bad: seed.chance(0.5) ? { start: 0, end: 0 } : { start: badStart, end: badStart + 5000 },
    };
    this.#device = new FuzzDevice(this.disk, seed);
    this.#server = new NbdServer(this.#device, {
      exportName: this.disk.name,
      description: "a disk among ill clients",
      readOnly: this.disk.readOnly,
      open: (conn) => this.#open(conn as unknown as MemoryConn),
      busyPoll: new BusyPoll(new PassingClock(POLL_LOOK_MS)),
      clock: this.#clock,
      logger: silentLogger,
    });
    if (link === undefined) this.#server.serve(this.#listener as unknown as Deno.Listener);
    else link.serve(this.#server, this.#listener);
  }

  /** Every other connection can be read and written at once too, now and then in part. */
  #open(conn: MemoryConn): Socket {
    if (this.seed.chance(0.5)) return conn;
    const most = () => this.seed.chance(0.3) ? this.seed.below(50_000) : Infinity;
    return new DirectMemoryConn(conn, most);
  }

  async begin(): Promise<void> {
    this.#witness = new Client(await this.#connect() as unknown as Deno.Conn);
    await this.#witness.handshake();
    this.#fill();
  }

  async #connect(spoil?: Spoil): Promise<MemoryConn | TlsFuzzConn> {
    return await this.link?.connect(this.#listener, spoil) ?? this.#listener.connect();
  }

  async end(): Promise<void> {
    this.#witness.close();
    await this.#server.close();
    this.#assertNothingLeft(0);
  }

  /** Data and holes, to begin with. */
  #fill(): void {
    for (let at = 0; at < this.disk.sizeBytes; at += 4096) {
      if (this.seed.chance(0.5)) this.#contents.fill(1 + this.seed.below(255), at, at + 4096);
    }
    this.#device.bytes.set(this.#contents);
  }

  async session(plan: Plan, totals: Totals): Promise<void> {
    const { expected } = plan;
    totals.frames += expected.options.length + expected.requests.length;
    totals.bytes += plan.bytes.length;
    this.#device.calls.length = 0;
    this.#device.holds = this.#holds(plan.slow);
    const witnessed = this.#witness.call({ type: NBD_CMD_READ, offset: 512, length: 512 });
    const replies = await this.#drive(this.#converse(plan));
    await this.#drive(this.#untilGone());
    if ((await this.#drive(witnessed)).errno !== 0) throw new Error("the witness was refused");
    this.#assertNothingLeft(1);
    this.#device.holds = () => false;

    const isComplete = !mayLose(plan) && expected.end !== "cut" && expected.restBytes === 0;
    const knowsContents = plan.slow === "nothing";
    const strictness = { isComplete, knowsContents };
    totals.answers += checkReplies(replies, expected, this.disk.sizeBytes, strictness);
    this.#checkDevice(plan);
    await this.#witnessDisk();
  }

  /** The next session as chance has it. */
  plan(): Plan {
    const { seed } = this;
    const frames = () => makeFrames(seed, this.disk, seed.below(REQUESTS_MAX));
    let made: Frames = frames();
    if (seed.chance(0.6)) made = mutate(made, seed, frames);
    let bytes = join(...made);
    const isAbrupt = seed.chance(0.3);
    if (isAbrupt && seed.chance(0.7)) bytes = bytes.subarray(0, seed.below(bytes.length + 1));
    const slow = seed.pick<Slow>(["nothing", "nothing", "reads", "changes"]);
    if (this.link === undefined) return this.planOf(bytes, isAbrupt, slow);
    // its flags come before TLS
    bytes = join(u32(3), bytes.subarray(4));
    switch (seed.below(4)) {
      case 0:
        return this.planOf(bytes, isAbrupt, slow);
      case 1:
        return this.planOf(u32(3), isAbrupt, slow, { spoil: spoilAtRandom(seed) });
      default: {
        const part = bytes.subarray(0, 4 + seed.below(bytes.length));
        return this.planOf(part, isAbrupt, slow, { attack: (conn) => conn.attack() });
      }
    }
  }

  planOf(bytes: Uint8Array, isAbrupt: boolean, slow: Slow, attack: Attack = {}): Plan {
    const how = { slow, isAbrupt, bytes, ...attack };
    // of a client that leaves not all may be done: then what is done is found out afterwards
    const contents = mayLose(how) ? this.#contents.slice() : this.#contents;
    return { ...how, expected: interpret(bytes, this.disk, contents) };
  }

  #holds(slow: Slow): (verb: Verb) => boolean {
    if (slow === "nothing") return () => false;
    const others = (verb: Verb) => ["read", "flush", "prefetch"].includes(verb);
    return (verb) => others(verb) ? this.seed.chance(0.3) : slow === "changes";
  }

  /** Sends it all, in pieces; returns what the server sent. */
  async #converse({ bytes, isAbrupt, spoil, attack }: Plan): Promise<Uint8Array> {
    const { seed } = this;
    const conn = await this.#connect(spoil);
    const replies: Uint8Array[] = [];
    const taking = this.#take(conn, replies, seed.chance(0.2));
    try {
      const isSlow = seed.chance(0.1);
      for (let at = 0; at < bytes.length;) {
        const most = isSlow ? 40 : seed.chance(0.5) ? 1 << 20 : 5000;
        const piece = isSlow && at > 4000 ? bytes.length : 1 + seed.below(most);
        const end = Math.min(bytes.length, at + piece);
        while (at < end) at += await conn.write(bytes.subarray(at, end));
        if (seed.chance(0.3)) await settle();
      }
      if (conn instanceof TlsFuzzConn) await attack?.(conn);
      if (!isAbrupt) await conn.closeWrite();
    } catch (error) {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
    }
    if (isAbrupt) {
      for (let turns = seed.below(4); turns > 0; turns--) await settle();
      conn.close();
    }
    await taking;
    if (!isAbrupt) conn.close();
    return join(...replies);
  }

  async #take(
    conn: MemoryConn | TlsFuzzConn,
    replies: Uint8Array[],
    isSlow: boolean,
  ): Promise<void> {
    const buffer = new Uint8Array(65_536);
    try {
      for (;;) {
        const count = await conn.read(buffer);
        if (count === null) return;
        replies.push(buffer.slice(0, count));
        if (isSlow) await settle();
      }
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  }

  async #untilGone(): Promise<void> {
    while (this.#server.connections > 1) await settle();
  }

  /** Lets the event loop go round, and the device get on, until that is done. */
  async #drive<T>(doing: Promise<T>): Promise<T> {
    let isDone = false;
    doing.then(() => isDone = true, () => isDone = true);
    for (let turns = 0; !isDone; turns++) {
      if (turns > TURNS_MAX) throw new Error("the session did not come to its end");
      await settle();
      for (let some = this.seed.below(20); some > 0 && this.#device.heldCount > 0; some--) {
        this.#device.release();
      }
    }
    return await doing;
  }

  #assertNothingLeft(connections: number): void {
    const { inFlightBytes, inFlightRequests } = this.#server;
    const left = [this.#server.connections - connections, inFlightBytes, inFlightRequests];
    left.push(this.#clock.pending, this.#device.places.size);
    if (left.some((count) => count !== 0)) {
      throw new Error(
        `left behind (connections, bytes, requests, timers, places): ${left.join(", ")}`,
      );
    }
  }

  /** What reached the device is what should have, in that order; and so are the disk's contents. */
  #checkDevice(plan: Plan): void {
    const { slow, expected } = plan;
    const isPart = mayLose(plan);
    const isKnown = (call: string) =>
      !/^(read|prefetch)/.test(call) && (slow === "nothing" || call !== "flush 0 0");
    const made = this.#device.calls.filter(isKnown);
    const wanted = expected.device.map(show).filter(isKnown);
    if (isPart && made.length < wanted.length) wanted.length = made.length;
    if (made.length !== wanted.length) {
      throw new Error(`the device saw ${made.length} of ${wanted.length} changes`);
    }
    const different = made.findIndex((call, index) => call !== wanted[index]);
    if (different >= 0) throw new Error(`not ${wanted[different]} but ${made[different]}`);
    if (isPart) this.#applyFirst(expected, made.filter((call) => call !== "flush 0 0").length);
    if (!Buffer.from(this.#contents.buffer).equals(this.#device.bytes)) {
      throw new Error("the disk does not hold what was written");
    }
  }

  #applyFirst(expected: Expected, count: number): void {
    const changes = expected.device.filter((change): change is Change => change !== "flush");
    for (const change of changes.slice(0, count)) {
      apply(this.#contents, change, this.disk.blockBytes);
    }
  }

  /** The client beside finds on the disk what has to be there, and leaves something of its own. */
  async #witnessDisk(): Promise<void> {
    const offset = this.seed.below(this.disk.sizeBytes / 2 - 4096);
    const read = await this.#drive(
      this.#witness.call({ type: NBD_CMD_READ, offset, length: 4096 }),
    );
    const wanted = this.#contents.subarray(offset, offset + 4096);
    if (read.errno !== 0 || !Buffer.from(read.data).equals(wanted)) {
      throw new Error("the witness does not find what is on the disk");
    }
    if (this.disk.readOnly) return;
    const data = new Uint8Array(512).fill(this.seed.below(256));
    const write = { type: NBD_CMD_WRITE, offset: 512, length: 512 };
    if ((await this.#drive(this.#witness.call(write, data))).errno !== 0) {
      throw new Error("no witness's write");
    }
    this.#contents.set(data, 512);
  }
}

function show(call: Change | "flush"): string {
  return call === "flush" ? "flush 0 0" : `${call.verb} ${call.offset} ${call.length}`;
}
