/**
 * Every bit flipped, every length cut to, every object deleted: a small volume gives what was written, an error, or
 * refuses to open, and names the object. Never other bytes, never no answer.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { Buffer } from "node:buffer";
import { DamageError } from "../../../src/errors.ts";
import { LEASE_KEY } from "../../../src/volume/lease.ts";
import { segmentKey } from "../../../src/volume/segment.ts";
import type { Volume } from "../../../src/volume/volume.ts";
import { VOLUME_KEY } from "../../../src/volume/volume_info.ts";
import { settle } from "../../support/manual_clock.ts";
import type { MemoryBucket } from "../../support/memory_bucket.ts";
import { blocks, openVolume, readBytes } from "./open_volume.ts";
import { crashedVolume, EXPECTED, reclaimedVolume, SMALL, stoppedVolume } from "./small_volume.ts";

const BLOCK = 4096;
const STRIPE = SMALL.stripeBytes!;
/** An opening of such a volume, and a read of all of it, make some forty. */
const REQUESTS_MAX = 200;

interface Damage {
  key: string;
  /** For messages. */
  what: string;
  /** True if there are bytes to take a CRC of. */
  isFlip: boolean;
  apply(bucket: MemoryBucket): void;
}

type Outcome = "right" | "EIO" | "refused";

function* flips(bucket: MemoryBucket, keys = [...bucket.objects.keys()]): Generator<Damage> {
  for (const key of keys) {
    for (let bit = 0; bit < bucket.objects.get(key)!.bytes.length * 8; bit++) {
      const what = `${key}, bit ${bit} flipped`;
      yield { key, what, isFlip: true, apply: (copy) => copy.flipBit(key, bit) };
    }
  }
}

function* cuts(bucket: MemoryBucket): Generator<Damage> {
  for (const [key, { bytes }] of bucket.objects) {
    for (let length = 0; length < bytes.length; length++) {
      const what = `${key}, cut to ${length} bytes`;
      yield { key, what, isFlip: false, apply: (copy) => copy.cut(key, length) };
    }
  }
}

function* deletions(bucket: MemoryBucket): Generator<Damage> {
  for (const key of [...bucket.objects.keys()]) {
    const apply = (copy: MemoryBucket) => void copy.objects.delete(key);
    yield { key, what: `${key}, deleted`, isFlip: false, apply };
  }
}

/** Opens a damaged copy and reads all of it. Throws if anything but the allowed comes of it. */
async function outcomeOf(bucket: MemoryBucket, damage: Damage): Promise<Outcome> {
  const copy = bucket.copy();
  damage.apply(copy);
  copy.requestsMax = REQUESTS_MAX;
  let outcome: Outcome | undefined;
  let failure: unknown;
  openAndRead(copy, damage).then((end) => outcome = end, (error) => failure = error);
  await settle(); // nothing waits for a timer: what is not answered by now never is
  if (outcome !== undefined) return outcome;
  throw new Error(`${damage.what}: ${failure ? "" : "no answer"}`, { cause: failure });
}

async function openAndRead(copy: MemoryBucket, damage: Damage): Promise<Outcome> {
  let volume: Volume;
  try {
    ({ volume } = await openVolume(SMALL, { bucket: copy }));
  } catch (error) {
    assertIsDamage(error, damage);
    // the refused start has left nothing behind that makes the next one less careful
    await assertRejects(() => openVolume(SMALL, { bucket: copy }), DamageError, damage.key);
    return "refused";
  }
  const outcome = await readAll(volume, damage);
  volume.checkInvariants();
  volume.abandon();
  return outcome;
}

/** As one piece, or, where that fails, stripe by stripe: no more than one may be hit. */
async function readAll(volume: Volume, damage: Damage, end = EXPECTED.length): Promise<Outcome> {
  if (await read(volume, 0, end, damage)) return "right";
  let hit = 0;
  for (let at = 0; at < end; at += STRIPE) if (!await read(volume, at, STRIPE, damage)) hit++;
  assertEquals(hit, 1);
  return "EIO";
}

/** False if it failed as damage may. Throws if other bytes came. */
async function read(volume: Volume, offset: number, length: number, damage: Damage) {
  let bytes: Uint8Array;
  try {
    bytes = await readBytes(volume, offset, length);
  } catch (error) {
    assertIsDamage(error, damage);
    assertMatch((error as Error).message, /at offset \d+/);
    return false;
  }
  if (Buffer.compare(bytes, EXPECTED.subarray(offset, offset + length)) === 0) return true;
  throw new Error(`wrong bytes between ${offset} and ${offset + length}`);
}

function assertIsDamage(error: unknown, { key, isFlip }: Damage): void {
  if (!(error instanceof DamageError)) throw error;
  assertStringIncludes(error.message, key);
  if (!isFlip) return;
  const named = /CRC-32 [0-9a-f]{8} expected, [0-9a-f]{8} found|wrong magic|end in a checksum/;
  assertMatch(error.message, named);
}

/** How often what came of damage to which object. */
async function outcomes(bucket: MemoryBucket, damages: Iterable<Damage>) {
  const counts: Record<string, Partial<Record<Outcome, number>>> = {};
  for (const damage of damages) {
    const outcome = await outcomeOf(bucket, damage);
    const count = counts[damage.key] ??= {};
    count[outcome] = (count[outcome] ?? 0) + 1;
  }
  return counts;
}

const sizeOf = (bucket: MemoryBucket, key: string) => bucket.objects.get(key)!.bytes.length;
/** A record of one block, with its prefix. */
const RECORD = 16 + BLOCK;
const STRIPE_RECORD = 16 + STRIPE;

Deno.test("after a crash: every bit flipped is found, or does no harm", async () => {
  const bucket = await crashedVolume();
  const bits = (key: string) => sizeOf(bucket, key) * 8;
  assertEquals(await outcomes(bucket, flips(bucket)), {
    [VOLUME_KEY]: { refused: bits(VOLUME_KEY) },
    [LEASE_KEY]: { refused: bits(LEASE_KEY) },
    // behind a checkpoint only the records count
    "log/0000000001": { right: 8 * 72 },
    "log/0000000002": { right: 8 * 100, EIO: 8 * STRIPE_RECORD },
    "log/0000000003": { right: 8 * 72 },
    "log/0000000004": { right: 8 * 128, EIO: 8 * RECORD },
    "log/0000000005": { refused: 8 * 72 },
    "log/0000000006": { refused: 8 * 100 },
    "log/0000000007": { refused: 8 * 100, EIO: 8 * RECORD },
    // what it says about its own past can't be known any more
    "log/0000000009": { refused: 8 * 100 },
    // either checkpoint can stand in for the other
    "map/0000000002/0000": { right: bits("map/0000000002/0000") },
    "map/0000000004/0000": { right: bits("map/0000000004/0000") },
    "checkpoint/0000000002": { right: bits("checkpoint/0000000002") },
    "checkpoint/0000000004": { right: bits("checkpoint/0000000004") },
  });
});

Deno.test("after a crash: every object cut short, to any length, is found, or does no harm", async () => {
  const bucket = await crashedVolume();
  const whole = (key: string) => sizeOf(bucket, key);
  assertEquals(await outcomes(bucket, cuts(bucket)), {
    [VOLUME_KEY]: { refused: whole(VOLUME_KEY) },
    [LEASE_KEY]: { refused: whole(LEASE_KEY) },
    "log/0000000001": { right: 72 },
    "log/0000000002": { EIO: 100 + STRIPE_RECORD },
    "log/0000000003": { right: 72 },
    "log/0000000004": { EIO: 128 + RECORD },
    "log/0000000005": { refused: 72 },
    "log/0000000006": { refused: 100 },
    "log/0000000007": { refused: 100 + RECORD },
    "log/0000000009": { refused: 100 },
    "map/0000000002/0000": { right: whole("map/0000000002/0000") },
    "map/0000000004/0000": { right: whole("map/0000000004/0000") },
    "checkpoint/0000000002": { right: whole("checkpoint/0000000002") },
    "checkpoint/0000000004": { right: whole("checkpoint/0000000004") },
  });
});

Deno.test("after a crash: every object deleted is found, or does no harm", async () => {
  const bucket = await crashedVolume();
  assertEquals(await outcomes(bucket, deletions(bucket)), {
    [VOLUME_KEY]: { refused: 1 },
    [LEASE_KEY]: { right: 1 },
    "log/0000000001": { right: 1 },
    "log/0000000002": { EIO: 1 },
    "log/0000000003": { right: 1 },
    "log/0000000004": { EIO: 1 },
    "log/0000000005": { refused: 1 },
    "log/0000000006": { refused: 1 },
    "log/0000000007": { refused: 1 },
    "log/0000000009": { right: 1 },
    "map/0000000002/0000": { right: 1 },
    "map/0000000004/0000": { right: 1 },
    "checkpoint/0000000002": { right: 1 },
    "checkpoint/0000000004": { right: 1 },
  });
});

/** Where a checkpoint has it all, nothing but the records in `needed` and the two JSON objects counts. */
async function assertLittleIsNeeded(before: MemoryBucket, bucket: MemoryBucket, needed: string[]) {
  const changed = [...bucket.objects.keys()]
    .filter((key) => bucket.objects.get(key) !== before.objects.get(key) && !needed.includes(key));
  const flipped = await outcomes(bucket, flips(bucket, changed));
  const cut = await outcomes(bucket, cuts(bucket));
  const deleted = await outcomes(bucket, deletions(bucket));
  for (const key of bucket.objects.keys()) {
    const size = sizeOf(bucket, key);
    const isJson = key === VOLUME_KEY || key === LEASE_KEY;
    const outcome = isJson ? "refused" : needed.includes(key) ? "EIO" : "right";
    assertEquals(cut[key], { [outcome]: size }, key);
    if (changed.includes(key)) assertEquals(flipped[key], { [outcome]: 8 * size }, key);
    if (!isJson) assertEquals(deleted[key], { [outcome]: 1 }, key);
  }
  assertEquals([deleted[VOLUME_KEY], deleted[LEASE_KEY]], [{ refused: 1 }, { right: 1 }]);
}

Deno.test("after a clean stop: nothing but the records and the two JSON objects is needed", async () => {
  const crashed = await crashedVolume();
  const bucket = await stoppedVolume(crashed);
  assert(bucket.objects.has("checkpoint/0000000009"));
  await assertLittleIsNeeded(crashed, bucket, [2, 4, 7].map(segmentKey));
});

Deno.test("after reclaim: nor does an older checkpoint need what was deleted behind the newer", async () => {
  const stopped = await stoppedVolume(await crashedVolume());
  const bucket = await reclaimedVolume(stopped);
  for (const seq of [2, 7]) assert(!bucket.objects.has(segmentKey(seq)), "reclaimed");
  assert(bucket.objects.has("checkpoint/0000000009"));
  await assertLittleIsNeeded(stopped, bucket, [4, 11].map(segmentKey));
});

Deno.test("a damaged volume that opens goes on: what is written heals it, and nothing else changes", async () => {
  const crashed = await crashedVolume();
  const stopped = await stoppedVolume(crashed);
  for (const bucket of [crashed, stopped, await reclaimedVolume(stopped)]) {
    const middle = (key: string) => sizeOf(bucket, key) * 4;
    const some = [...bucket.objects.keys()].flatMap((key): Damage[] => [
      { key, what: "flip", isFlip: true, apply: (copy) => copy.flipBit(key, middle(key)) },
      { key, what: "cut", isFlip: false, apply: (copy) => copy.cut(key, middle(key) >> 3) },
    ]);
    let opened = 0;
    for (const damage of [...some, ...deletions(bucket)]) {
      const copy = bucket.copy();
      damage.apply(copy);
      if (await outcomeOf(bucket, damage) === "refused") continue;
      opened++;
      const { volume } = await openVolume(SMALL, { bucket: copy });
      volume.write(7 * BLOCK, blocks(1, 9));
      await volume.close();
      const { volume: second } = await openVolume(SMALL, { bucket: copy });
      assertEquals(await readBytes(second, 7 * BLOCK, BLOCK), blocks(1, 9), damage.what);
      await readAll(second, damage, 6 * BLOCK);
      second.write(0, EXPECTED);
      await second.close();
      const { volume: third } = await openVolume(SMALL, { bucket: copy });
      assertEquals(Buffer.compare(await readBytes(third, 0, EXPECTED.length), EXPECTED), 0);
      third.abandon();
    }
    assert(opened > 20, `${opened}`);
  }
});
