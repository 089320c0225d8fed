/**
 * Objects whose checksums are right and whose contents can't be: no crash, no loop without an end, no other bytes, but
 * damage, and the object named.
 */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { crc32 } from "node:zlib";
import { DamageError } from "../../../src/errors.ts";
import { VolumeCheck } from "../../../src/volume/check.ts";
import { decodeChecked, encodeChecked } from "../../../src/volume/checked_json.ts";
import { LEASE_KEY } from "../../../src/volume/lease.ts";
import {
  INDEX_ENTRY_BYTES,
  SEGMENT_HEADER_BYTES,
  segmentKey,
  setUint64,
  viewOf,
} from "../../../src/volume/segment.ts";
import { VOLUME_KEY } from "../../../src/volume/volume_info.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { blocks, firstBytes, hostNamed, openVolume, OPTIONS, readBytes } from "./open_volume.ts";

const SEGMENT = segmentKey(2);
const [BASE, PATCH] = [0, 1].map((index) => SEGMENT_HEADER_BYTES + index * INDEX_ENTRY_BYTES);

/** A volume with a stripe that has a base, and one with a patch of a block. */
async function volume(isStopped: boolean): Promise<MemoryBucket> {
  const opened = await openVolume();
  opened.volume.write(0, blocks(4, 7));
  opened.volume.write(OPTIONS.stripeBytes!, blocks(1, 9));
  await opened.volume.flush();
  if (isStopped) await opened.volume.close();
  else opened.volume.abandon();
  return opened.bucket.copy();
}

/** Changes an object's bytes, and makes its checksums right again. */
function change(bucket: MemoryBucket, key: string, act: (view: DataView) => void): void {
  const bytes = bucket.objects.get(key)!.bytes.slice();
  const view = viewOf(bytes);
  act(view);
  const seal = (at: number, from: number, end = bytes.length) =>
    view.setUint32(at, crc32(bytes.subarray(from, end)), true);
  if (key.startsWith("map/")) seal(0, 4);
  else if (key.startsWith("checkpoint/")) seal(8, 12);
  else {
    seal(60, SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES + view.getUint32(56, true));
    seal(68, 0, 68);
  }
  bucket.objects.set(key, { bytes, etag: "changed" });
}

Deno.test("a segment with a record that no volume can have is refused, and named", async () => {
  const changes: ((view: DataView) => void)[] = [
    (view) => setUint64(view, BASE, 2 ** 50),
    (view) => setUint64(view, PATCH, 2 ** 63),
    (view) => setUint64(view, BASE + 8, 2 ** 40),
    (view) => setUint64(view, PATCH + 8, 0),
    (view) => setUint64(view, PATCH + 8, 2),
    (view) => view.setUint32(BASE + 16, 0xffffffff, true),
    (view) => view.setUint32(BASE + 20, 0xffffffff, true),
    (view) => view.setUint32(BASE + 20, 0, true),
    (view) => {
      setUint64(view, PATCH + 8, 2 ** 45);
      view.setUint32(PATCH + 24, 2, true); // zeroes
    },
  ];
  for (const act of changes) {
    const bucket = await volume(false);
    change(bucket, SEGMENT, act);
    await assertRejects(() => openVolume({}, { bucket }), DamageError, `${SEGMENT}: a record {`);
  }
});

Deno.test("a checkpoint that counts other than it has is passed over", async () => {
  for (const prefix of ["checkpoint/", "map/"]) {
    for (const at of prefix === "map/" ? [8, 12] : [12, 32]) {
      for (const count of [0, 0xffffffff]) {
        const bucket = await volume(true);
        const key = [...bucket.objects.keys()].find((key) => key.startsWith(prefix))!;
        change(bucket, key, (view) => view.setUint32(at, count, true));
        const opened = await openVolume({}, { bucket });
        assertEquals(await firstBytes(opened.volume, 0, 6), [7, 7, 7, 7, 9, 0]);
        opened.volume.abandon();
      }
    }
  }
});

Deno.test("a record that is shorter than its blocks gives no bytes that were there before", async () => {
  const bucket = await volume(true);
  const pack = [...bucket.objects.keys()].find((key) => key.startsWith("map/"))!;
  const shorter = 100;
  change(bucket, pack, (view) => view.setUint32(16 + 12, shorter, true));
  const segment = bucket.objects.get(SEGMENT)!.bytes.slice();
  const view = viewOf(segment);
  const offset = view.getUint32(BASE + 16, true);
  view.setUint32(offset + 4, shorter, true);
  view.setUint32(offset, crc32(segment.subarray(offset + 4, offset + 16 + shorter)), true);
  bucket.objects.set(SEGMENT, { bytes: segment, etag: "changed" });
  const opened = await openVolume({}, { bucket });
  await assertRejects(() => readBytes(opened.volume, 0, 4096), DamageError, SEGMENT);
  opened.volume.abandon();
});

Deno.test("a map that names another length than the segment's index does is damage, for a check too", async () => {
  const bucket = await volume(true);
  const pack = [...bucket.objects.keys()].find((key) => key.startsWith("map/"))!;
  const root = [...bucket.objects.keys()].find((key) => key.startsWith("checkpoint/"))!;
  const shorter = 100;
  change(bucket, pack, (view) => view.setUint32(16 + 12, shorter, true));
  change(bucket, root, (view) => {
    let at = 36 + 24; // of the only page
    while (Number(view.getBigUint64(at, true)) !== 2) at += 16;
    const liveBytes = view.getUint32(at + 12, true);
    view.setUint32(at + 12, liveBytes - OPTIONS.stripeBytes! + shorter, true);
  });
  const check = await VolumeCheck.begin(bucket, hostNamed("here"), new ManualClock());
  await check.run(() => {});
  const [found, ...more] = check.findings;
  assertEquals(more, []);
  assertStringIncludes(found.what, `${SEGMENT} at offset`);
  assertEquals(found.ranges, [{ offset: 0, length: OPTIONS.stripeBytes! }]);
});

Deno.test("a volume.json that describes no volume, or a lease.json that names nobody, is refused", async () => {
  const changes: [key: string, members: Record<string, unknown>][] = [
    ...[0, 3, 12288, 2 ** 40, "16384", undefined].map((stripeBytes) => ({ stripeBytes })),
    ...[0, -4096, 2 ** 60, 4096.5, "x", undefined].map((volumeBytes) => ({ volumeBytes })),
    ...[0, 100, 2 ** 20].map((partBytes) => ({ format: 2, partBytes })),
  ].map((members) => [VOLUME_KEY, members]);
  changes.push([LEASE_KEY, { holder: undefined }], [LEASE_KEY, { holder: null }]);
  for (const [key, members] of changes) {
    const bucket = await volume(true);
    const { bytes } = bucket.objects.get(key)!;
    const changed = encodeChecked({ ...decodeChecked<object>(key, bytes), ...members });
    bucket.objects.set(key, { bytes: changed, etag: "changed" });
    const options = { stripeBytes: undefined, volumeBytes: undefined };
    await assertRejects(() => openVolume(options, { bucket }), DamageError, key);
  }
});
