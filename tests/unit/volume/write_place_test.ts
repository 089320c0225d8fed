import { assert, assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/limits.ts";
import type { Place } from "../../../src/volume/block_device.ts";
import type { Volume } from "../../../src/volume/volume.ts";
import { settle } from "../../support/manual_clock.ts";
import {
  blocks,
  firstBytes,
  KIB,
  type Opened,
  openVolume,
  readBytes,
  reopenAfterCrash,
  stateOf,
} from "./open_volume.ts";

const STRIPE_BYTES = 16 * KIB;

/** A place for stripes from `first` on, full of `value`. */
function placeFull(volume: Volume, first: number, stripes: number, value: number): Place {
  const place = volume.place(first * STRIPE_BYTES, stripes * STRIPE_BYTES);
  assert(place !== undefined, "no place is offered");
  for (const part of place.parts) part.fill(value);
  return place;
}

Deno.test("what arrives in a place is seen and stored by nobody until it is written", async () => {
  const opened = await openVolume();
  const { volume } = opened;
  volume.write(0, blocks(8, 1));
  const place = placeFull(volume, 0, 2, 2);
  assertEquals(place.length, 2 * STRIPE_BYTES);
  assertEquals(await firstBytes(volume, 0, 9), [1, 1, 1, 1, 1, 1, 1, 1, 0]);
  await volume.flush();
  volume.checkInvariants();
  assertEquals(place.write(), undefined);
  assertEquals(await firstBytes(volume, 0, 9), [2, 2, 2, 2, 2, 2, 2, 2, 0]);
  place.giveUp(); // it is used up
  volume.checkInvariants();
  const crashed = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(crashed.volume, 0, 8), new Array(8).fill(1), "not flushed");
  crashed.volume.abandon();
});

Deno.test("a place is written over a stripe in any state, and what a batch has of that stays", async () => {
  const states: Record<string, (opened: Opened) => void> = {
    "not in the cache": () => {},
    dirty: ({ volume }) => void volume.write(0, blocks(4, 2)),
    "dirty in part": ({ volume }) => void volume.write(100, new Uint8Array(2 * BLOCK_BYTES)),
    clean: ({ volume }) => void volume.tryRead(0, new Uint8Array(10)),
    trimmed: ({ volume }) => void volume.trim(0, 2 * STRIPE_BYTES),
    sealed: ({ volume, bucket }) => {
      bucket.hold("put");
      volume.write(0, blocks(4, 2));
      volume.flush();
    },
    "sealed, and dirty anew": ({ volume, bucket }) => {
      bucket.hold("put");
      volume.write(0, blocks(4, 2));
      volume.flush();
      volume.write(0, blocks(1, 3));
    },
    "being fetched": ({ volume, bucket }) => {
      bucket.hold("get");
      volume.prefetch(0, STRIPE_BYTES);
    },
  };
  for (const [state, bring] of Object.entries(states)) {
    const first = await openVolume();
    first.volume.write(0, blocks(8, 1));
    await first.volume.flush();
    const opened = state === "clean" ? first : await reopenAfterCrash(first);
    const { volume, bucket } = opened;
    const place = placeFull(volume, 0, 2, 9);
    bring(opened);
    await settle();
    assertEquals(place.write(), undefined, state);
    assertEquals(await firstBytes(volume, 0, 9), [9, 9, 9, 9, 9, 9, 9, 9, 0], state);
    volume.checkInvariants();
    bucket.release("put");
    bucket.release("get");
    await settle();
    assertEquals(await firstBytes(volume, 0, 9), [9, 9, 9, 9, 9, 9, 9, 9, 0], state);
    await volume.flush();
    volume.checkInvariants();
    const { volume: next } = await reopenAfterCrash(opened);
    assertEquals(await firstBytes(next, 0, 9), [9, 9, 9, 9, 9, 9, 9, 9, 0], state);
    next.abandon();
  }
});

Deno.test("a batch that was sealed before a place was written has the older bytes", async () => {
  const opened = await openVolume();
  const { volume, bucket } = opened;
  const place = placeFull(volume, 0, 1, 9);
  volume.write(0, blocks(4, 1));
  bucket.hold("put");
  const flushed = volume.flush();
  await settle();
  place.write();
  bucket.release("put");
  await flushed;
  const { volume: next } = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(next, 0, 4), [1, 1, 1, 1]);
  next.abandon();
});

Deno.test("zeroes in a place take no room", async () => {
  const { volume } = await openVolume();
  volume.write(0, blocks(4, 1));
  await volume.flush();
  placeFull(volume, 0, 2, 0).write();
  assertEquals([volume.unstoredBytes, await firstBytes(volume, 0, 1)], [0, [0]]);
  volume.checkInvariants();
  placeFull(volume, 2, 2, 5).write();
  volume.abandon();
});

Deno.test("a place is for whole stripes, few at a time, and comes back when it is given up", async () => {
  const { volume } = await openVolume();
  assertEquals(volume.place(BLOCK_BYTES, STRIPE_BYTES), undefined);
  assertEquals(volume.place(0, STRIPE_BYTES + BLOCK_BYTES), undefined);
  assertEquals(volume.place(0, 3 * STRIPE_BYTES), undefined, "an eighth of the cache is two");
  const place = placeFull(volume, 0, 2, 1);
  assertEquals(volume.place(0, STRIPE_BYTES), undefined);
  place.giveUp();
  place.giveUp();
  volume.checkInvariants();
  placeFull(volume, 0, 2, 2).giveUp();
  assertEquals(await firstBytes(volume, 0, 1), [0]);
  volume.abandon();
});

Deno.test("what lies in a place waits for room, and behind changes that wait, as any write", async () => {
  const opened = await openVolume();
  opened.volume.write(0, blocks(4, 1));
  await opened.volume.flush();
  const { volume, bucket } = await reopenAfterCrash(opened);
  const [full, behind] = [placeFull(volume, 20, 1, 7), placeFull(volume, 0, 1, 8)];
  bucket.hold("put");
  bucket.hold("get");
  const before = volume.write(10, new Uint8Array(10).fill(2));
  for (let stripe = 30; stripe < 42; stripe++) {
    volume.write(stripe * STRIPE_BYTES, blocks(4, 3));
  }
  const [fullDone, behindDone] = [full.write(), behind.write()];
  volume.checkInvariants();
  assertEquals([await stateOf(fullDone), await stateOf(behindDone)], ["pending", "pending"]);
  assertEquals(await firstBytes(volume, 20 * 4, 1), [0]);
  bucket.release("put");
  bucket.release("get");
  await Promise.all([before, fullDone, behindDone]);
  assertEquals(await firstBytes(volume, 20 * 4, 4), [7, 7, 7, 7]);
  assertEquals(await readBytes(volume, 0, 12), new Uint8Array(12).fill(8));
  volume.checkInvariants();
  volume.abandon();
});

Deno.test("of a volume that has ended a place can't be written, however often, but given up", async () => {
  const { volume } = await openVolume();
  const place = placeFull(volume, 0, 1, 1);
  volume.abandon();
  assertThrows(() => place.write(), UsageError);
  assertThrows(() => place.write(), UsageError);
  place.giveUp();
  volume.checkInvariants();
});
