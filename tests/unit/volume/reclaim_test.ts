import { assert, assertEquals, assertRejects } from "@std/assert";
import { DamageError, FencedError } from "../../../src/errors.ts";
import { BLOCK_BYTES, CHECKPOINT_MS, MIB } from "../../../src/limits.ts";
import { listCheckpoints, loadCheckpoint } from "../../../src/volume/checkpoint.ts";
import { checkpointKey } from "../../../src/volume/checkpoint_format.ts";
import { segmentKey } from "../../../src/volume/segment.ts";
import { StripeMap } from "../../../src/volume/stripe_map.ts";
import type { VolumeOptions } from "../../../src/volume/volume_options.ts";
import { ManualClock, settle } from "../../support/manual_clock.ts";
import type { MemoryBucket } from "../../support/memory_bucket.ts";
import {
  blocks,
  firstBytes,
  logKeys,
  type Opened,
  openVolume,
  OPTIONS,
  readBytes,
  rememberingLogger,
  reopenAfterCrash,
} from "./open_volume.ts";

const STRIPES = 64;
const BLOCKS_PER_STRIPE = 4;
const STRIPE_BYTES = BLOCKS_PER_STRIPE * BLOCK_BYTES;
/** Nearly any garbage is worth it. */
const EAGER = { garbageBytesMin: 4096 };

function logBytes(bucket: MemoryBucket): number {
  return logKeys(bucket).reduce((sum, key) => sum + bucket.objects.get(key)!.bytes.length, 0);
}

/** lru-cache takes the time 0 for "never". */
async function lateClock(): Promise<ManualClock> {
  const clock = new ManualClock();
  await clock.advance(1);
  return clock;
}

/** Writes `blockCount` blocks of `value` at a block and flushes: a segment of its own. */
async function put({ volume }: Opened, block: number, blockCount: number, value: number) {
  await volume.write(block * BLOCK_BYTES, blocks(blockCount, value));
  await volume.flush();
}

/** Lets reclaim do all it wants to, resting included. */
async function untilQuiet({ clock, bucket }: Opened) {
  for (let seen = -1; seen !== bucket.counts.put.requests;) {
    seen = bucket.counts.put.requests;
    for (let i = 0; i < 20; i++) await settle();
    await clock.advance(1000);
  }
}

/** Waits for `done`, for which reclaim needs turns and no time. */
async function during<T>(done: Promise<T>, { clock }: Opened): Promise<T> {
  let isOver = false;
  done.finally(() => isOver = true).catch(() => {});
  for (let turns = 0; !isOver; turns++) {
    assert(turns < 1000, "it takes time");
    await clock.advance(0);
  }
  return await done;
}

/** A volume that rests from a round of reclaim, which took 10 s, clients being active. */
async function resting(options: Partial<VolumeOptions> = {}): Promise<Opened> {
  const opened = await openVolume({ ...EAGER, cacheStripes: 64, ...options });
  const { bucket, clock, volume } = opened;
  const blocksPerStripe = (options.stripeBytes ?? STRIPE_BYTES) / BLOCK_BYTES;
  for (let stripe = 0; stripe < 4; stripe++) {
    await put(opened, stripe * blocksPerStripe, blocksPerStripe, 1);
  }
  bucket.hold("put");
  await volume.write(0, blocks(2 * blocksPerStripe, 2));
  volume.flush();
  for (const request of await heldPuts(opened, "log/")) request.release();
  const round = await heldPuts(opened, "checkpoint/", "map/", "log/");
  assert(round.length > 0, "no round");
  volume.tryRead(0, new Uint8Array(1));
  await clock.advance(10_000);
  return opened;
}

/** Puts that are held, once there are some. */
async function heldPuts({ bucket, clock }: Opened, ...prefixes: string[]) {
  const isMeant = ({ key }: { key: string }) => prefixes.some((prefix) => key.startsWith(prefix));
  for (let turns = 0; !bucket.held.some(isMeant) && turns < 20; turns++) await clock.advance(0);
  return bucket.held.filter(isMeant);
}

/** The newest checkpoint's map. */
async function storedMap(bucket: MemoryBucket): Promise<StripeMap> {
  const map = new StripeMap(BLOCKS_PER_STRIPE);
  await loadCheckpoint(bucket, (await listCheckpoints(bucket))[0], map);
  return map;
}

Deno.test("a disk that is written over and over takes hardly more than it holds", async () => {
  const opened = await openVolume(EAGER);
  const values = new Array(STRIPES * BLOCKS_PER_STRIPE).fill(0);
  for (let round = 1; round <= 20; round++) {
    for (let i = 0; i < STRIPES / 4; i++) {
      const stripe = (i * 29 + round * 7) % STRIPES;
      const first = stripe * BLOCKS_PER_STRIPE + round % 2;
      const count = BLOCKS_PER_STRIPE - round % 2;
      await put(opened, first, count, round);
      values.fill(round, first, first + count);
    }
  }
  await untilQuiet(opened);
  opened.volume.checkInvariants();
  const live = STRIPES * STRIPE_BYTES;
  assert(logBytes(opened.bucket) < 1.6 * live, `${logBytes(opened.bucket)} bytes for ${live}`);
  const { volume } = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(volume, 0, values.length), values);
});

Deno.test("what is trimmed is given back, and with the whole disk trimmed nothing is left but claims", async () => {
  const opened = await openVolume(EAGER);
  for (let stripe = 0; stripe < 8; stripe++) await put(opened, stripe * 4, 4, 1 + stripe);
  await opened.volume.trim(0, OPTIONS.volumeBytes!);
  await opened.volume.flush();
  await untilQuiet(opened);
  const map = await storedMap(opened.bucket);
  assertEquals(map.total.liveBytes, 0);
  const rest = logKeys(opened.bucket).filter((key) => !map.claims.has(Number(key.slice(4))));
  assert(rest.length <= 2, `left are ${rest}`);
});

Deno.test("on request all is given back but what is not worth moving, and the disk stays as it is", async () => {
  const opened = await openVolume({ cacheStripes: 64 }); // whose garbage is too little to begin unasked
  const values = new Array(STRIPES * BLOCKS_PER_STRIPE).fill(0);
  for (let stripe = 0; stripe < 32; stripe++) await put(opened, stripe * 4, 4, 1);
  await put(opened, 0, 128, 2);
  for (let stripe = 0; stripe < 32; stripe += 2) await put(opened, stripe * 4, 4, 3);
  for (let block = 0; block < 128; block++) values[block] = block % 8 < 4 ? 3 : 2;
  const before = logBytes(opened.bucket);
  const told: number[][] = [];
  const { freedBytes, storedBytes, liveBytes } = await opened.volume.reclaim((...progress) =>
    told.push(progress)
  );
  opened.volume.checkInvariants();
  const after = logBytes(opened.bucket);
  const live = 32 * STRIPE_BYTES;
  assert(before > 2.4 * live && after < 1.05 * live, `${before} became ${after} of ${live}`);
  assert(liveBytes >= live && storedBytes <= after, `${liveBytes} of ${storedBytes}`);
  const small = 2000; // claims are not counted as segments
  assert(Math.abs(freedBytes - (before - after)) < small, `${freedBytes} of ${before - after}`);
  const moved = 16 * (STRIPE_BYTES + 16);
  assertEquals([told[0], told.at(-1)], [[0, moved], [moved, moved]]);
  const { volume } = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(volume, 0, values.length), values);
});

Deno.test("what was moved does not stay in the cache, but what a client had there does", async () => {
  const before = await openVolume({ cacheStripes: 64 });
  await put(before, 0, 128, 1);
  await put(before, 0, 64, 2);
  const opened = await reopenAfterCrash(before, { cacheStripes: 64 });
  const isCached = (block: number) =>
    opened.volume.tryRead(block * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES));
  assertEquals(await firstBytes(opened.volume, 64, 1), [1]);
  await opened.volume.reclaim(() => {});
  assert(!opened.bucket.objects.has(segmentKey(2)), "nothing was moved");
  assertEquals([isCached(64), isCached(124)], [true, false]);
  opened.volume.abandon();
});

Deno.test("a request while nothing is garbage moves nothing; one after another is as good as one", async () => {
  const opened = await openVolume();
  await put(opened, 0, 16, 1);
  for (let time = 0; time < 2; time++) {
    const told: number[][] = [];
    const { liveBytes } = await opened.volume.reclaim((...progress) => told.push(progress));
    assertEquals([liveBytes, told], [4 * (STRIPE_BYTES + 16), [[0, 0]]]);
  }
  assertEquals(await firstBytes(opened.volume, 0, 17), [...new Array(16).fill(1), 0]);
  opened.volume.abandon();
});

Deno.test("a volume that is closed in the middle of a request is closed clean", async () => {
  const opened = await openVolume({ cacheStripes: 64 });
  await put(opened, 0, 128, 1);
  await put(opened, 0, 100, 2);
  opened.bucket.hold("get");
  const request = opened.volume.reclaim(() => {});
  await opened.bucket.untilHeld(1);
  const closed = opened.volume.close();
  opened.bucket.release("get");
  await Promise.all([request, closed]);
  assertEquals([opened.clock.pending, opened.failures], [0, []]);
  const { volume } = await openVolume({}, { bucket: opened.bucket });
  assertEquals(await firstBytes(volume, 99, 2), [2, 1]);
  volume.abandon();
});

Deno.test("a segment in which something is live is not deleted before that has moved", async () => {
  const opened = await openVolume({ ...EAGER, cacheStripes: 64 });
  await opened.volume.write(0, blocks(32, 1));
  await opened.volume.flush(); // eight stripes in one segment
  const [, first] = logKeys(opened.bucket);
  opened.bucket.hold("delete");
  await put(opened, 4, 28, 2); // seven of them once more
  await untilQuiet(opened);
  const { volume } = await openVolume({}, { bucket: opened.bucket.copy() });
  assertEquals(await firstBytes(volume, 0, 5), [1, 1, 1, 1, 2]);
  opened.bucket.release("delete");
  await put(opened, 100, 1, 3);
  await untilQuiet(opened);
  assert(!opened.bucket.objects.has(first), `${first} is still there`);
  const after = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(after.volume, 0, 5), [1, 1, 1, 1, 2]);
});

Deno.test("a crash at any request of a reclaim loses nothing, and the next opening ends it", async () => {
  const values = (opened: Opened) => firstBytes(opened.volume, 0, 64);
  const fill = async () => {
    const opened = await openVolume({ garbageBytesMin: 1e9 });
    for (let round = 1; round <= 6; round++) {
      for (let at = 0; at < 64; at += 8) await put(opened, at + round % 3, 5, round * 10 + at / 8);
    }
    return opened;
  };
  const expected = await values(await fill());
  let ended = false;
  for (let stopAfter = 1; !ended; stopAfter++) {
    const opened = await fill();
    const eager = await reopenAfterCrash(opened, EAGER);
    const countOf = ({ counts }: MemoryBucket) =>
      counts.put.requests + counts.get.requests + counts.delete.requests + counts.list.requests;
    const until = countOf(eager.bucket) + stopAfter;
    ended = true;
    for (let turns = 0; turns < 200; turns++) {
      if (countOf(eager.bucket) >= until) {
        ended = false;
        break;
      }
      await settle();
    }
    const after = await reopenAfterCrash(eager, EAGER);
    assertEquals(await values(after), expected, `after ${stopAfter} requests`);
    await untilQuiet(after);
    await after.volume.close();
    const map = await storedMap(after.bucket);
    const [, older] = await listCheckpoints(after.bucket);
    for (const key of logKeys(after.bucket)) {
      const seq = Number(key.slice(4));
      if (seq > older || map.claims.has(seq)) continue;
      assert(map.segments.get(seq)!.liveBytes > 0, `${key} is left after ${stopAfter} requests`);
    }
  }
});

Deno.test("a writer that slept through the reclaim of its successor still finds its number taken", async () => {
  const sleeper = await openVolume();
  await put(sleeper, 0, 4, 1);
  const successor = await openVolume(EAGER, { bucket: sleeper.bucket });
  for (let value = 2; value < 30; value++) await put(successor, 0, 4, value);
  await untilQuiet(successor);
  assert(!sleeper.bucket.objects.has(segmentKey(2)), "reclaim has not come so far");
  await sleeper.volume.write(0, blocks(4, 99));
  await assertRejects(async () => await sleeper.volume.flush(), FencedError);
  assertEquals(await firstBytes(successor.volume, 0, 1), [29]);
});

Deno.test("a fenced writer that looks for a segment which is gone hears that it is fenced", async () => {
  const sleeper = await openVolume({ cacheTtlMs: 1 }, { clock: await lateClock() });
  await put(sleeper, 0, 4, 1);
  await sleeper.clock.advance(10);
  const successor = await openVolume(EAGER, { bucket: sleeper.bucket });
  for (let value = 2; value < 30; value++) await put(successor, 0, 4, value);
  await untilQuiet(successor);
  await assertRejects(() => readBytes(sleeper.volume, 0, 4096), FencedError);
  assert(sleeper.failures[0] instanceof FencedError);
});

Deno.test("a fenced writer hears that it is fenced also while a third process opens the volume", async () => {
  const sleeper = await openVolume({ cacheTtlMs: 1 }, { clock: await lateClock() });
  await put(sleeper, 0, 4, 1);
  await sleeper.clock.advance(10);
  const { bucket } = sleeper;
  const successor = await openVolume(EAGER, { bucket });
  for (let value = 2; value < 30; value++) await put(successor, 0, 4, value);
  await untilQuiet(successor);
  bucket.hold("list");
  const third = openVolume(EAGER, { bucket }); // its name is in the lease, and it has claimed nothing yet
  await bucket.untilHeld(1);
  await assertRejects(() => readBytes(sleeper.volume, 0, 4096), FencedError);
  bucket.release("list");
  assertEquals(await firstBytes((await third).volume, 0, 1), [29]);
});

Deno.test("a read that was under way when its segment was deleted gets what was written since", async () => {
  const opened = await openVolume({ ...EAGER, cacheTtlMs: 1 }, { clock: await lateClock() });
  await put(opened, 0, 4, 1);
  await opened.clock.advance(10);
  opened.bucket.hold("get");
  const target = new Uint8Array(BLOCK_BYTES);
  const read = opened.volume.read(0, target);
  await opened.bucket.untilHeld(1);
  const held = [...opened.bucket.held];
  for (let value = 2; value < 10; value++) await put(opened, 0, 4, value);
  for (let i = 0; i < 400 && opened.bucket.objects.has(segmentKey(2)); i++) {
    for (const request of opened.bucket.held.filter((other) => !held.includes(other))) {
      request.release();
    }
    await opened.clock.advance(1000);
  }
  assert(!opened.bucket.objects.has(segmentKey(2)), "the segment was not deleted");
  opened.bucket.release("get");
  await read;
  assertEquals(target[0], 9);
});

Deno.test("a damaged segment stays where it is, and what is in order in others moves", async () => {
  const logger = rememberingLogger();
  const clock = await lateClock();
  const opened = await openVolume({ ...EAGER, cacheTtlMs: 1 }, { logger, clock });
  await opened.volume.write(0, blocks(16, 1));
  await opened.volume.flush();
  const [, damaged] = logKeys(opened.bucket);
  await opened.clock.advance(10);
  opened.bucket.flipBit(damaged, 8 * 5000);
  for (let value = 2; value < 12; value++) await put(opened, 4, 12, value);
  await untilQuiet(opened);
  assert(logger.warnings.some((line) => line.includes(damaged) && line.includes("reclaim leaves")));
  assert(opened.bucket.objects.has(damaged));
  await assertRejects(() => readBytes(opened.volume, 0, 4096), DamageError);
  assertEquals(await firstBytes(opened.volume, 4, 12), new Array(12).fill(11));
  assert(logKeys(opened.bucket).length < 8, `left are ${logKeys(opened.bucket)}`);

  // what can't be given back is no reason to try again
  const checkpoints = await listCheckpoints(opened.bucket);
  for (const value of [1, 2]) await put(opened, 20, 4, value);
  await untilQuiet(opened);
  assertEquals(await listCheckpoints(opened.bucket), checkpoints);
});

Deno.test("what died behind the older checkpoint stays: the newer may be damaged", async () => {
  const opened = await openVolume();
  await put(opened, 0, 4, 1);
  await opened.clock.advance(CHECKPOINT_MS);
  for (const value of [2, 3]) await put(opened, 0, 4, value);
  await opened.clock.advance(CHECKPOINT_MS);
  const [newest, older] = await listCheckpoints(opened.bucket);
  assert(older > 0, "there are two");
  opened.bucket.flipBit(checkpointKey(newest), 0);
  const { volume } = await reopenAfterCrash(opened);
  assertEquals(await firstBytes(volume, 0, 1), [3]);
  volume.abandon();
});

Deno.test("a segment that died and was deleted while it was to be moved is no damage", async () => {
  const logger = rememberingLogger();
  const opened = await openVolume({ cacheStripes: 64 }, { logger });
  await put(opened, 0, 32, 1);
  await put(opened, 0, 16, 2);
  opened.bucket.hold("get");
  const request = opened.volume.reclaim(() => {});
  for (let turns = 0; opened.bucket.held.length === 0; turns++) {
    assert(turns < 100, "reclaim does not begin");
    await opened.clock.advance(0);
  }
  const { key } = opened.bucket.held[0];
  await put(opened, 0, 32, 3);
  for (const value of [4, 5]) {
    await opened.clock.advance(CHECKPOINT_MS);
    await put(opened, 100, 1, value);
  }
  await opened.clock.advance(CHECKPOINT_MS);
  assert(!opened.bucket.objects.has(key), `${key} was not deleted`);
  opened.bucket.release("get");
  await opened.clock.advance(100 * CHECKPOINT_MS); // it rests nine times as long as it took
  await request;
  assertEquals(logger.warnings, []);
  assertEquals(await firstBytes(opened.volume, 0, 1), [3]);
  opened.volume.abandon();
});

Deno.test("objects of the log that no table knows are swept away at an opening's first checkpoint", async () => {
  const opened = await openVolume(EAGER);
  for (let value = 1; value < 8; value++) await put(opened, 0, 4, value);
  await untilQuiet(opened);
  await opened.volume.close();
  const gone = segmentKey(2);
  assert(!opened.bucket.objects.has(gone), "reclaim has not come so far");
  // a put of the first writer, which was on its way all the time
  await opened.bucket.put(gone, new Uint8Array(100), { ifAbsent: true });
  const next = await openVolume(EAGER, { bucket: opened.bucket });
  await put(next, 8, 4, 1);
  await next.clock.advance(CHECKPOINT_MS);
  await untilQuiet(next);
  assert(!opened.bucket.objects.has(gone), `${gone} is still there`);
});

Deno.test("reclaim, which flushes, begins behind the changes of a journal that survived, not among them", async () => {
  const before = await openVolume();
  for (const value of [1, 2]) await put(before, 0, 4, value);
  await put(before, 4, 8, 3);
  await put(before, 4, 4, 4);
  before.volume.abandon();
  const { bucket } = before;
  const opened = await openVolume(EAGER, { bucket, journals: { announce() {}, inherit: () => 1 } });
  const keys = logKeys(bucket);
  await opened.volume.together(async () => {
    await opened.volume.write(0, blocks(4, 5));
    await untilQuiet(opened);
    assertEquals(logKeys(bucket), keys);
  });
  await untilQuiet(opened);
  assertEquals(logKeys(bucket).includes(segmentKey(2)), false);
  opened.volume.abandon();
});

Deno.test("while clients are active, reclaim rests nine times as long as it worked", async () => {
  const { clock, bucket, volume } = await openVolume(EAGER);
  bucket.hold("put");
  let [workedMs, restedMs] = [0, 0];
  for (let ms = 0; ms < 20_000; ms += 10) {
    await volume.write(0, blocks(4, 1 + ms % 200)); // each time four blocks of garbage
    volume.flush();
    await clock.advance(10); // which is what every put takes
    if (bucket.held.some(({ key }) => /^(map|checkpoint)/.test(key))) workedMs += 10;
    else restedMs += 10;
    for (const request of [...bucket.held]) request.release();
  }
  assert(workedMs > 100, `worked ${workedMs} ms in all`);
  assert(restedMs > 8 * workedMs, `worked ${workedMs} ms, rested ${restedMs}`);
});

Deno.test("who closes, or asks for all to be given back, waits for no rest of reclaim", async () => {
  for (const how of ["close before", "close", "reclaim"]) {
    const opened = await resting();
    const { bucket, clock, volume } = opened;
    if (how !== "close before") {
      bucket.release("put");
      for (let turns = 0; turns < 100; turns++) await clock.advance(0);
    }
    const sinceMs = clock.monotonic();
    const done = how === "reclaim" ? volume.reclaim(() => {}) : volume.close();
    bucket.release("put");
    await during<unknown>(done, opened);
    assertEquals(clock.monotonic(), sinceMs);
    volume.abandon();
  }
});

Deno.test("reclaim rests no longer once clients have stored nine times as much as it may have", async () => {
  for (const isBefore of [true, false]) {
    const opened = await resting({ stripeBytes: MIB, volumeBytes: 16 * MIB });
    const { bucket, clock, volume } = opened;
    const turns = async () => {
      for (let turn = 0; turn < 100; turn++) await clock.advance(0);
    };
    const store = async (times: number) => {
      for (let time = 0; time < times; time++) {
        await volume.write(8 * MIB, blocks(8 * MIB / BLOCK_BYTES, 1 + time));
        let isOver = false;
        Promise.resolve(volume.flush()).then(() => isOver = true);
        while (!isOver) {
          for (const request of await heldPuts(opened, "log/")) request.release();
          await clock.advance(0);
        }
      }
    };
    if (!isBefore) {
      bucket.release("put");
      await turns();
    }
    const sinceMs = clock.monotonic();
    const [before = 0] = await listCheckpoints(bucket);
    await store(8);
    await turns();
    assertEquals((await listCheckpoints(bucket))[0] ?? 0, before, "it rests, or works");
    await store(3);
    bucket.release("put");
    await turns();
    const [newest, older] = await listCheckpoints(bucket);
    assert(isBefore ? older > before : newest > before, `${older}, ${newest} behind ${before}`);
    assertEquals(clock.monotonic(), sinceMs);
    volume.abandon();
  }
});
