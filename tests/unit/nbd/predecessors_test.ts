/** For whom a new connection's first change waits. */
import { assertEquals } from "@std/assert";
import { SOCKET_BYTES_MAX } from "../../../src/limits.ts";
import { Predecessors } from "../../../src/nbd/predecessors.ts";
import { ManualClock } from "../../support/manual_clock.ts";

/** From one look to the next. */
const LOOK_MS = 10;

/** A new connection beside an older one, which gets on by `movedALook` from one look to the next. */
async function looks(
  older: { isOver?: boolean; waitsForClient: boolean; emptiesALook: number; movedALook: number },
  most: number,
  waitsAtFirst = older.waitsForClient,
): Promise<number> {
  const clock = new ManualClock();
  let served = false;
  const at = { isOver: false, moved: 0, emptied: 0, ...older, waitsForClient: waitsAtFirst };
  const predecessors = new Predecessors([at], clock, () => served = true);
  if (predecessors.areServed()) return 0;
  let count = 1;
  at.waitsForClient = older.waitsForClient;
  for (; !served && count < most; count++) {
    at.moved += older.movedALook;
    at.emptied += older.emptiesALook;
    await clock.advance(LOOK_MS);
  }
  predecessors.forget();
  assertEquals(clock.pending, 0);
  return served ? count : Infinity;
}

const quiet = { waitsForClient: true, emptiesALook: 0, movedALook: 0 };

Deno.test("who has ended is not waited for, and who is quiet until that is sure", async () => {
  assertEquals(await looks({ ...quiet, isOver: true }, 10), 0);
  assertEquals(await looks(quiet, 10), 2);
  assertEquals(await looks(quiet, 10, false), 3, "at one look it was busy");
});

Deno.test("who always has something under way, but reads all there is, is not waited for longer", async () => {
  assertEquals(await looks({ ...quiet, movedALook: 30, emptiesALook: 1 }, 10), 2);
});

Deno.test("who sends without a pause is waited for until it has taken what a socket holds", async () => {
  const movedALook = SOCKET_BYTES_MAX / 16;
  assertEquals(await looks({ ...quiet, movedALook }, 100), 18);
});

Deno.test("who waits for the device is waited for as long as that takes", async () => {
  const busy = { ...quiet, waitsForClient: false };
  assertEquals(await looks(busy, 1000), Infinity);
  assertEquals(await looks({ ...busy, emptiesALook: 1 }, 1000), Infinity);
});
