import { assertEquals, assertMatch } from "@std/assert";
import { UnavailableError } from "../../../src/errors.ts";
import { statusOf, troubleOf } from "../../../src/status/status.ts";
import { settle } from "../../support/manual_clock.ts";
import { blocks, openVolume, readBytes } from "../volume/open_volume.ts";
import { testDrive } from "./drive_parts.ts";

const KIB = 1024;

Deno.test("a drive is not well once S3 has been away for more than a minute, and well when it is back", async () => {
  const drive = await testDrive();
  const { clock, volume, memory } = drive;
  memory.outage = new UnavailableError("no route to it");
  volume.write(0, blocks(1, 1));
  const flushed = volume.flush()!;
  await clock.advance(59_000);
  const { s3, trouble } = statusOf(drive);
  assertEquals([s3.awaySeconds > 50, trouble], [true, null]);
  assertEquals(s3.awayReason, "no route to it");
  await clock.advance(2_000);
  assertMatch(troubleOf(drive) ?? "", /^memory: has not served for 6\d s: no route to it$/);
  assertEquals(statusOf(drive).isFenced, false);
  memory.outage = null;
  await clock.advance(10_000);
  await flushed;
  const after = statusOf(drive);
  assertEquals([after.trouble, after.s3.awaySeconds, after.s3.awayReason], [null, 0, null]);
  // the lease's requests failed too; each try counts, and all but the first of a request are retries
  const failed = after.s3.operations.put.errors + after.s3.operations.get.errors;
  assertEquals(failed, memory.counts.failed);
  assertEquals(after.s3.retries, failed);
  await volume.close();
});

Deno.test("a drive whose volume another writer has taken over is fenced, and says so", async () => {
  const drive = await testDrive();
  const { volume, clock, memory } = drive;
  const other = await openVolume({ takeover: true }, { bucket: memory, clock });
  volume.write(0, blocks(1, 1));
  await volume.flush()!.catch(() => {});
  const { isFenced, trouble } = statusOf(drive);
  assertEquals(isFenced, true);
  assertMatch(trouble ?? "", /another writer has taken the volume over/);
  await other.volume.close();
});

Deno.test("what is not stored has its bytes, its age and its bound, and its place on the map", async () => {
  const drive = await testDrive();
  const { volume, clock, memory } = drive;
  // cells of 16 stripes of 16 KiB
  const cell = 256 * KIB;
  const map = () => statusOf(drive).map;
  assertEquals(map(), { cellBytes: cell, cells: "...." });
  volume.write(cell, blocks(2, 1));
  await clock.advance(3_000);
  volume.write(2 * cell - 4 * KIB, blocks(1, 1));
  await clock.advance(1_000);
  assertEquals(statusOf(drive).unstored, {
    bytes: 3 * 4 * KIB,
    bytesMax: 12 * 16 * KIB,
    oldestSeconds: 4,
  });
  assertEquals(map().cells, ".d..");

  memory.hold("put");
  const flushed = volume.flush()!;
  await memory.untilHeld(1);
  await clock.advance(500);
  const { unstored } = statusOf(drive);
  assertEquals([unstored.oldestSeconds, unstored.bytes > 0], [4.5, true]);
  assertEquals(map().cells, ".d..");
  memory.release("put");
  await flushed;
  assertEquals([statusOf(drive).unstored.bytes, statusOf(drive).unstored.oldestSeconds], [0, 0]);
  assertEquals(map().cells, ".c..");

  volume.trim(cell, cell);
  assertEquals(map().cells, ".d..");
  await volume.flush();
  assertEquals(map().cells, "....");
  await volume.close();
});

Deno.test("the map is the same after a restart, and has no more than 1,024 cells", async () => {
  // 65,536 stripes of 16 KiB: a cell is 64 of them
  const options = { volumeBytes: 1024 ** 3 };
  const drive = await testDrive(options);
  const { volume, clock, memory } = drive;
  const written = [0, 100, 511, 1023];
  for (const cell of written) volume.write(cell * 1024 * KIB, blocks(4, 1));
  volume.write(700 * 1024 * KIB, blocks(1, 1));
  await volume.close();
  const expected = Array.from(
    { length: 1024 },
    (_, cell) => [...written, 700].includes(cell) ? "c" : ".",
  );
  assertEquals(statusOf(drive).map, { cellBytes: 1024 * KIB, cells: expected.join("") });
  const { volume: reopened } = await openVolume(options, { bucket: memory, clock });
  reopened.checkInvariants();
  assertEquals(statusOf({ ...drive, volume: reopened }).map.cells, expected.join(""));
  await reopened.close();
});

Deno.test("stripes that reads find count as hits, and those they wait for as misses, once each", async () => {
  const drive = await testDrive();
  const { volume, clock, memory } = drive;
  volume.write(0, blocks(12, 1));
  await readBytes(volume, 0, 48 * KIB);
  assertEquals(cacheOf(drive), { hits: 3, misses: 0 });
  await volume.close();
  const { volume: reopened } = await openVolume({}, { bucket: memory, clock });
  const next = { ...drive, volume: reopened };
  await readBytes(reopened, 0, 32 * KIB);
  assertEquals(cacheOf(next), { hits: 0, misses: 2 });
  await readBytes(reopened, 0, 48 * KIB);
  assertEquals(cacheOf(next), { hits: 2, misses: 3 });
  reopened.lend(0, 48 * KIB);
  assertEquals(cacheOf(next), { hits: 5, misses: 3 });
  await reopened.close();
});

function cacheOf(drive: Parameters<typeof statusOf>[0]) {
  const { hits, misses } = statusOf(drive).cache;
  return { hits, misses };
}

Deno.test("the bucket's requests are counted by kind, with their bytes and their times", async () => {
  const drive = await testDrive();
  const { volume, clock, memory } = drive;
  const before = statusOf(drive).s3;
  volume.write(0, blocks(4, 1));
  memory.hold("put");
  const flushed = volume.flush()!;
  await memory.untilHeld(1);
  await clock.advance(40);
  memory.release("put");
  await flushed;
  await settle();
  const { operations, bytesUp } = statusOf(drive).s3;
  const { put } = operations;
  assertEquals(put.requests - before.operations.put.requests, 1);
  assertEquals(bytesUp, memory.counts.put.bytes);
  const bucket = put.latency.bounds.findIndex((bound) => bound >= 0.04);
  assertEquals(put.latency.counts[bucket] - before.operations.put.latency.counts[bucket], 1);
  assertEquals(put.latency.seconds, 0.04);
  for (const [kind, { requests }] of Object.entries(operations)) {
    if (kind === "head") continue;
    assertEquals(requests, memory.counts[kind as "get"].requests, kind);
  }
  await volume.close();
});
