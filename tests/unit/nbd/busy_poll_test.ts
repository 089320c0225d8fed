import { assert, assertEquals } from "@std/assert";
import {
  BULK_ALONE_MS,
  BULK_POLL_MS,
  BUSY_MS_MAX,
  BUSY_POLL_MS,
  KIB,
  TURN_MS_MAX,
} from "../../../src/limits.ts";
import { silentLogger } from "../../../src/logger.ts";
import { BusyPoll, type Polled } from "../../../src/nbd/busy_poll.ts";
import { NBD_CMD_DISC, NBD_CMD_READ, NBD_CMD_WRITE } from "../../../src/nbd/constants.ts";
import { InFlight } from "../../../src/nbd/in_flight.ts";
import { RequestCounts } from "../../../src/nbd/request_counts.ts";
import { ReceiveBuffer, type Socket } from "../../../src/nbd/socket.ts";
import { Transmission } from "../../../src/nbd/transmission.ts";
import { ManualClock, settle } from "../../support/manual_clock.ts";
import { MemoryDevice } from "../../support/memory_device.ts";
import { request, test } from "./session.ts";

/** Goes on by `stepMs` whenever somebody looks. */
class SteppingClock extends ManualClock {
  atMs = 0;
  constructor(private readonly stepMs: number) {
    super();
  }
  override monotonic(): number {
    return this.atMs += this.stepMs;
  }
}

const QUICK = BUSY_POLL_MS / 10;

/** Bytes come when they are looked for as often as `looks` says. */
class Connection implements Polled {
  looks = Infinity;
  told: string[] = [];

  readNow(): boolean {
    return --this.looks <= 0;
  }
  arrived(): void {
    this.told.push("arrived");
  }
  waitForBytes(): void {
    this.told.push("sleep");
  }
}

function make() {
  const clock = new SteppingClock(QUICK);
  const poll = new BusyPoll(clock);
  /** Its client answers `ms` after it began to sleep. */
  const sleeps = (connection: Connection, ms: number) => {
    assertEquals(poll.mayWait(connection), false);
    clock.atMs += ms;
    poll.woke(connection);
  };
  /** Its client is quick, and nobody else was there for a while. */
  const isAlone = (connection: Connection) => {
    sleeps(connection, BUSY_MS_MAX);
    sleeps(connection, 0);
  };
  return { clock, poll, sleeps, isAlone, one: new Connection(), other: new Connection() };
}

test("a connection is polled when its client was quick the last time, and only then", async () => {
  const { clock, poll, sleeps, isAlone, one } = make();
  isAlone(one);
  assertEquals(poll.mayWait(one), true);
  await settle();
  assertEquals(one.told, ["sleep"]);
  clock.atMs += BUSY_POLL_MS;
  poll.woke(one);
  sleeps(one, 0);
  assertEquals(poll.mayWait(one), true);
  await settle();
});

test("it is told once: that bytes came, or that none did in time", async () => {
  const { poll, isAlone, one } = make();
  isAlone(one);
  one.looks = 3;
  assert(poll.mayWait(one));
  assertEquals(one.told, [], "not before it is ready to be told");
  await settle();
  assertEquals(one.told, ["arrived"]);

  one.looks = Infinity;
  assert(poll.mayWait(one));
  await settle();
  assertEquals(one.told, ["arrived", "sleep"]);
});

test("two connections with something to do are not polled", async () => {
  const { poll, sleeps, isAlone, one, other } = make();
  for (let round = 0; round < 3; round++) {
    for (const connection of [one, other]) sleeps(connection, 0);
  }
  // nor is one any more when another begins to wait
  isAlone(one);
  assert(poll.mayWait(one));
  poll.mayWait(other);
  one.looks = 1;
  await settle();
  assertEquals(one.told, ["sleep"]);
  assertEquals(other.told, []);
});

test("the event loop has its turn however quick a client is", async () => {
  const { clock, poll, isAlone, one } = make();
  isAlone(one);
  const beginMs = clock.atMs;
  let sleptMs = beginMs;
  let polled = 0;
  while (clock.atMs < beginMs + 10 * BUSY_MS_MAX) {
    one.looks = 2;
    if (poll.mayWait(one)) {
      polled++;
      await settle();
    } else {
      const awakeMs = clock.atMs - sleptMs;
      assert(awakeMs < BUSY_MS_MAX + BUSY_POLL_MS, `${awakeMs} ms without a turn`);
      poll.woke(one);
      sleptMs = clock.atMs;
    }
  }
  assertEquals(one.told.length, polled);
  assert(polled > 100);
});

/** A client that takes every reply. */
abstract class Client implements Socket {
  abstract receiveNow(parts: readonly Uint8Array[]): number;
  abstract read(place: Uint8Array): Promise<number>;

  sendNow(parts: readonly Uint8Array[]): number {
    return parts.reduce((sum, part) => sum + part.length, 0);
  }
  write(bytes: Uint8Array): Promise<number> {
    return Promise.resolve(bytes.length);
  }
  closeWrite(): Promise<void> {
    return Promise.resolve();
  }
  close(): void {}
}

/** A client that takes its time once, and then sends its next request while it is polled; the last is a goodbye. */
class QuickClient extends Client {
  reads = 0;
  sent = 0;
  #looks = 0;
  readonly #requests: Uint8Array[];

  constructor(count: number, private readonly clock: SteppingClock) {
    super();
    const read = (cookie: number) =>
      request({ type: NBD_CMD_READ, offset: 0, length: 4096, cookie: BigInt(cookie) });
    this.#requests = Array.from({ length: count }, (_, cookie) => read(cookie));
    this.#requests.push(request({ type: NBD_CMD_DISC }));
  }

  receiveNow([place]: readonly Uint8Array[]): number {
    // the turn in which the one before was answered looks once
    return this.#looks++ === 0 ? 0 : this.#next(place);
  }
  read(place: Uint8Array): Promise<number> {
    if (this.reads++ === 0) this.clock.atMs += BUSY_MS_MAX;
    return Promise.resolve(this.#next(place));
  }
  override sendNow(parts: readonly Uint8Array[]): number {
    this.sent++;
    this.#looks = 0;
    return super.sendNow(parts);
  }

  #next(place: Uint8Array): number {
    const bytes = this.#requests.shift()!;
    place.set(bytes);
    return bytes.length;
  }
}

function serve(conn: Socket, device: MemoryDevice, busyPoll: BusyPoll, clock: SteppingClock) {
  const session = { readOnly: false, structuredReplies: false, blockStatus: false };
  const transmission = new Transmission(conn, new ReceiveBuffer(), session, {
    device,
    inFlight: new InFlight(),
    older: [],
    busyPoll,
    counts: new RequestCounts(clock).connection(),
    clock,
    logger: silentLogger,
  });
  return transmission.run();
}

test("a quick client is served without a sleep once it is known", async () => {
  const clock = new SteppingClock(QUICK / 10);
  const conn = new QuickClient(50, clock);
  await serve(conn, new MemoryDevice(1 << 20), new BusyPoll(clock), clock);
  await settle();
  assertEquals([conn.reads, conn.sent], [2, 50]);
});

test("bulk is waited for unless another kind is about, and all of it for no longer than a long turn", () => {
  const { poll } = make();
  const waits = (isBulk: boolean, nowMs: number) => poll.bulkUntil(isBulk, nowMs) - nowMs;
  poll.begins();
  assertEquals(waits(true, 100), BUSY_MS_MAX);
  assertEquals(waits(false, 100), 0);
  assertEquals(waits(true, 99 + BULK_ALONE_MS), 0);
  assertEquals(waits(true, 100 + BULK_ALONE_MS), BUSY_MS_MAX);
  for (let count = 1; count < 16; count++) poll.begins();
  assertEquals(16 * waits(true, 200), TURN_MS_MAX);
  for (let count = 1; count < 16; count++) poll.ends();
  assertEquals(waits(true, 200), BUSY_MS_MAX);
});

test("what comes soon is taken, and what does not is not waited for", () => {
  const { clock, poll, one } = make();
  one.looks = 3;
  assert(poll.readSoon(one, clock.atMs));
  one.looks = Infinity;
  const beginMs = clock.atMs;
  assert(!poll.readSoon(one, beginMs));
  const waitedMs = clock.atMs - beginMs;
  assert(waitedMs >= BULK_POLL_MS && waitedMs <= BULK_POLL_MS + 2 * QUICK, `${waitedMs} ms`);
});

/** A client that is woken whenever the socket has room, and then sends what fits. */
class BulkClient extends Client {
  reads = 0;
  #looks = 0;
  #sent = 0;
  readonly #bytes: Uint8Array;

  constructor(count: number, private readonly clock: SteppingClock) {
    super();
    const length = 256 * KIB;
    const write = request({ type: NBD_CMD_WRITE, offset: 0, length });
    const each = new Uint8Array(write.length + length);
    each.set(write);
    const end = request({ type: NBD_CMD_DISC });
    this.#bytes = new Uint8Array(count * each.length + end.length);
    for (let index = 0; index < count; index++) this.#bytes.set(each, index * each.length);
    this.#bytes.set(end, count * each.length);
  }

  receiveNow(parts: readonly Uint8Array[]): number {
    if (++this.#looks % 5 !== 0) return 0;
    return parts.reduce((sum, part) => sum + this.#next(part, 200 * KIB - sum), 0);
  }
  read(place: Uint8Array): Promise<number> {
    this.reads++;
    this.clock.atMs += BULK_ALONE_MS / 4;
    return new Promise((resolve) => setTimeout(() => resolve(this.#next(place, 200 * KIB))));
  }

  #next(place: Uint8Array, bytesMax: number): number {
    const bytes = this.#bytes.subarray(this.#sent, this.#sent + Math.min(place.length, bytesMax));
    place.set(bytes);
    this.#sent += bytes.length;
    return bytes.length;
  }
}

test("several clients that send bulk are served without a sleep for as long as each goes on", async () => {
  const clock = new SteppingClock(BULK_POLL_MS / 10);
  const device = new MemoryDevice(1 << 20);
  device.offersPlaces = true;
  const poll = new BusyPoll(clock);
  const clients = [new BulkClient(100, clock), new BulkClient(100, clock)];
  await Promise.all(clients.map((client) => serve(client, device, poll, clock)));
  // each of 100 would have the clients sleep for room
  for (const { reads } of clients) assert(reads > 1 && reads < 40, `${reads} sleeps`);
});
