import { assert, assertEquals } from "@std/assert";
import { BUSY_POLL_MS } from "../../../src/limits.ts";
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
  let turns = 0;
  const poll = new BusyPoll(clock, (callback) => {
    turns++;
    setTimeout(callback, 0);
  });
  const one = new Connection();
  /** Its client answers once after `ms`, asleep. */
  const answersAfter = (connection: Connection, ms: number) => {
    poll.mayWait(connection);
    clock.atMs += ms;
    poll.cameTo(connection);
  };
  const ended = () => new Promise((resolve) => setTimeout(resolve, 2));
  return { clock, poll, one, answersAfter, ended, turns: () => turns };
}

test("a connection is polled when its client was quick the last time, and only then", async () => {
  const { clock, poll, one, answersAfter, ended } = make();
  assertEquals(poll.mayWait(one), false, "nothing is known of it");
  answersAfter(one, 0);
  assertEquals(poll.mayWait(one), true);
  await ended();
  clock.atMs += BUSY_POLL_MS;
  poll.cameTo(one);
  assertEquals(poll.mayWait(one), false);
});

test("it is told once: that bytes came, or that none did in time", async () => {
  const { poll, one, answersAfter, ended } = make();
  answersAfter(one, 0);
  one.looks = 3;
  assert(poll.mayWait(one));
  assertEquals(one.told, [], "not before it is ready to be told");
  await ended();
  assertEquals(one.told, ["arrived"]);

  one.looks = Infinity;
  poll.cameTo(one);
  assert(poll.mayWait(one));
  await ended();
  assertEquals(one.told, ["arrived", "sleep"]);
});

test("two connections with something to do are not polled", async () => {
  const { poll, one, answersAfter, ended } = make();
  const other = new Connection();
  for (let round = 0; round < 3; round++) {
    for (const connection of [one, other]) {
      assertEquals(poll.mayWait(connection), false);
      poll.cameTo(connection);
    }
  }
  // nor is one any more when another begins to wait
  answersAfter(one, 0);
  assert(poll.mayWait(one));
  poll.mayWait(other);
  one.looks = 1;
  await ended();
  assertEquals(one.told, ["sleep"]);
  assertEquals(other.told, []);
});

test("the event loop has its turn however quick a client is", async () => {
  const { clock, poll, one, answersAfter, ended, turns } = make();
  answersAfter(one, 0);
  const beginMs = clock.atMs;
  for (let round = 1; round <= 100; round++) {
    one.looks = 2;
    assert(poll.mayWait(one));
    // microtasks alone may do it; if not, the event loop's turn is part of it
    for (let tries = 0; one.told.length < round; tries++) {
      if (tries < 3) await Promise.resolve();
      else await ended();
    }
    poll.cameTo(one);
  }
  const passedMs = clock.atMs - beginMs;
  const most = 2 * BUSY_POLL_MS;
  assert(turns() >= passedMs / most, `${turns()} turns in ${passedMs} ms`);
  assert(turns() < 100, "not one for each request");
});

/** A client that sends its next request while it is polled, and the last, which is a goodbye, too. */
class QuickClient implements Socket {
  reads = 0;
  sent = 0;
  #looks = 0;
  readonly #requests: Uint8Array[];

  constructor(count: number) {
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
    this.reads++;
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

test("a quick client is served without a sleep from its second request on", async () => {
  const clock = new SteppingClock(QUICK / 10);
  const conn = new QuickClient(50);
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
  assertEquals([conn.reads, conn.sent], [1, 50]);
});
