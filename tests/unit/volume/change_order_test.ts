import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { TimeoutError, UsageError } from "../../../src/errors.ts";
import { type Attempt, type Blocked, ChangeOrder } from "../../../src/volume/change_order.ts";
import { Contents } from "../../../src/volume/contents.ts";
import { StripeCache } from "../../../src/volume/stripe_cache.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";
import { Zeroes } from "../../../src/volume/zeroes.ts";
import { ManualClock, settle } from "../../support/manual_clock.ts";

function setUp(ioTimeoutMs?: number) {
  const clock = new ManualClock();
  const cache = new StripeCache(4, 4096, 0, clock);
  const contents = new Contents(cache, new Zeroes(), new StripeMap(1), clock, ioTimeoutMs);
  let roomWanted = 0;
  const order = new ChangeOrder(contents, () => {}, () => roomWanted++);
  const made: string[] = [];
  /** A change that finds itself blocked by each of `blocks`, and is made then. */
  const change = (name: string, ...blocks: Blocked[]): Attempt => () => {
    const blocked = blocks.shift();
    if (blocked !== undefined) return blocked;
    made.push(name);
    return null;
  };
  return { clock, cache, contents, order, made, change, wanted: () => roomWanted };
}

Deno.test("a change that needs nothing is made at once", () => {
  const { order, made, change } = setUp();
  assertEquals(order.run(0, 10, change("a")), undefined);
  assertEquals([made, order.isIdle], [["a"], true]);
});

Deno.test("a change that overlaps a waiting one comes after it, another one does not", async () => {
  const { order, made, change } = setUp();
  const fetched = Promise.withResolvers<void>();
  const first = order.run(0, 10, change("first", fetched.promise));
  const second = order.run(9, 20, change("second"));
  const third = order.run(19, 30, change("third")); // overlaps the second only
  assertEquals(order.run(10, 11, change("no overlap")) === undefined, false);
  assertEquals(order.run(40, 50, change("elsewhere")), undefined);
  await settle();
  assertEquals(made, ["elsewhere"]);
  fetched.resolve();
  await Promise.all([first, second, third]);
  await settle();
  assertEquals(made, ["elsewhere", "first", "second", "third", "no overlap"]);
  assertEquals(order.isIdle, true);
});

Deno.test("who waits for room gets it in the order of coming, and newcomers stand behind", async () => {
  const { order, made, change, cache, wanted } = setUp();
  const ends = [
    order.run(0, 1, change("a", "room", "room", "room")),
    order.run(1, 2, change("b", "room")),
    order.run(2, 3, change("c")),
  ];
  await settle();
  assertEquals([made, wanted()], [[], 1]);
  cache.wake();
  await settle();
  assertEquals([made, wanted()], [[], 2], "still no room: it says so once more");
  cache.wake();
  await settle();
  assertEquals(made, ["a"]);
  cache.wake();
  await Promise.all(ends);
  assertEquals(made, ["a", "b", "c"]);
});

Deno.test("a change that fails lets those behind it go on", async () => {
  const { order, made, change } = setUp();
  const fetched = Promise.withResolvers<void>();
  const first = assertRejects(() => order.run(0, 10, change("a", fetched.promise))!, Error, "no");
  const second = order.run(0, 10, change("b"));
  fetched.reject(new Error("no"));
  await first;
  await second;
  await settle();
  assertEquals([made, order.isIdle], [["b"], true]);
});

Deno.test("a change that waited too long fails, is never made, and lets others go on", async () => {
  const { order, made, change, clock, cache } = setUp(1000);
  const never = new Promise<void>(() => {});
  const late = [
    assertRejects(() => order.run(0, 10, change("fetch", never))!, TimeoutError),
    assertRejects(() => order.run(5, 7, change("behind it", never))!, TimeoutError),
    assertRejects(() => order.run(6, 7, change("and behind that", never))!, TimeoutError),
    assertRejects(() => order.run(20, 30, change("room", "room", "room"))!, TimeoutError),
    assertRejects(() => order.run(30, 40, change("behind room"))!, TimeoutError),
  ];
  await clock.advance(1000);
  await Promise.all(late);
  cache.wake();
  await settle();
  assertEquals([made, clock.pending], [[], 0]);
  assertEquals(order.run(0, 40, change("next")), undefined);
});

Deno.test("when the volume has failed every waiting change fails with it, and every new one", async () => {
  const { order, made, change, contents } = setUp();
  const fetched = Promise.withResolvers<void>();
  const late = [
    assertRejects(() => order.run(0, 10, change("a", fetched.promise))!, UsageError),
    assertRejects(() => order.run(0, 10, change("b"))!, UsageError),
    assertRejects(() => order.run(20, 30, change("c", "room", "room"))!, UsageError),
    assertRejects(() => order.run(30, 40, change("d"))!, UsageError),
  ];
  await settle();
  contents.fail(new UsageError("closed"));
  fetched.resolve();
  await Promise.all(late);
  assertThrows(() => order.run(50, 60, change("e")), UsageError);
  assertEquals(made, []);
});
