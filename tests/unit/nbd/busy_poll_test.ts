import { assert, assertEquals } from "@std/assert";
import { BUSY_MS_MAX, BUSY_POLL_MS } from "../../../src/limits.ts";
import { silentLogger } from "../../../src/logger.ts";
import { BusyPoll, type Polled } from "../../../src/nbd/busy_poll.ts";
import { NBD_CMD_DISC, NBD_CMD_READ } from "../../../src/nbd/constants.ts";
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

/** A client that takes its time once, and then sends its next request while it is polled; the last is a goodbye. */
class QuickClient implements Socket {
  reads = 0;
  sent = 0;
  #looks = 0;
  readonly #requests: Uint8Array[];

  constructor(count: number, private readonly clock: SteppingClock) {
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
  sendNow(parts: readonly Uint8Array[]): number {
    this.sent++;
    this.#looks = 0;
    return parts.reduce((sum, part) => sum + part.length, 0);
  }
  write(bytes: Uint8Array): Promise<number> {
    return Promise.resolve(bytes.length);
  }
  closeWrite(): Promise<void> {
    return Promise.resolve();
  }
  close(): void {}

  #next(place: Uint8Array): number {
    const bytes = this.#requests.shift()!;
    place.set(bytes);
    return bytes.length;
  }
}

test("a quick client is served without a sleep once it is known", async () => {
  const clock = new SteppingClock(QUICK / 10);
  const conn = new QuickClient(50, clock);
  const session = { readOnly: false, structuredReplies: false, blockStatus: false };
  const transmission = new Transmission(conn, new ReceiveBuffer(), session, {
    device: new MemoryDevice(1 << 20),
    inFlight: new InFlight(),
    older: [],
    busyPoll: new BusyPoll(clock),
    counts: new RequestCounts(clock).connection(),
    clock,
    logger: silentLogger,
  });
  await transmission.run();
  await settle();
  assertEquals([conn.reads, conn.sent], [2, 50]);
});
