/** What a drive costs: memory here, requests and bytes in the bucket. */
import { assert, assertEquals } from "@std/assert";
import { assertHolds, assertSurvivesRestart, copyOut, Drive } from "../support/drive.ts";
import { run, runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInBothBuckets, testInDirectory } from "../support/test_buckets.ts";

const MIB = 1 << 20;
/** So that how many objects there are does not depend on how fast this machine is. */
const NEVER = { flushafter: 3600 };

/** As the kernel does it: in pieces of up to 2 GiB, then a flush. */
const TRIM_ALL = `
drive = nbd.NBD()
drive.connect_uri(uri)
for offset in range(0, drive.get_size(), 2 << 30):
    drive.trim(2 << 30, offset)
drive.flush()
`;

async function logOf(bucket: TestBucket) {
  const objects = await bucket.objects("log/");
  return { count: objects.length, bytes: objects.reduce((sum, { size }) => sum + size, 0) };
}

/** The bound that the ready line states, in bytes. */
function statedBound(drive: Drive): number {
  const found = /at most ([\d.]+) (MiB|GiB) of memory/.exec(drive.readyLine)!;
  return Number(found[1]) * (found[2] === "GiB" ? 1024 * MIB : MIB);
}

/** Bytes that the drive fetched from its bucket in its whole life; it has ended. */
function bytesFetched(drive: Drive): number {
  return Number(/ bytes up, (\d+) down$/m.exec(drive.stderr)![1]);
}

function fioAtOnce(drive: Drive, seconds: number): Promise<string> {
  const all = ["--ioengine=nbd", `--uri=${drive.uri}`, "--time_based", `--runtime=${seconds}`];
  const jobs = [
    ["--name=large", "--rw=randrw", "--bs=1M", "--iodepth=32"],
    ["--name=largest", "--rw=randrw", "--bs=32M", "--iodepth=4"],
    ["--name=small", "--rw=randrw", "--bs=4k", "--iodepth=64", "--fsync=1000"],
    ["--name=ordered", "--rw=rw", "--bs=256k", "--iodepth=16"],
  ];
  const withAll = jobs.flatMap(([name, ...options]) => [name, ...options, ...all, "--size=1G"]);
  return run("fio", ["--output-format=terse", ...withAll]);
}

testInDirectory({
  "a GiB of random bytes in order takes at most 140 objects and 1.02 GiB": async (bucket) => {
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", 1024);
    await using drive = await Drive.start({ bucket, size: "1G", server: NEVER });
    await run("nbdcopy", ["--connections=1", "--requests=64", image, drive.uri]);
    await drive.stopClean();
    const { count, bytes } = await logOf(bucket);
    assert(count <= 140, `${count} objects`);
    assert(bytes <= 1.02 * 1024 * MIB, `${bytes} bytes`);
    await using reopened = await Drive.start({ bucket });
    await assertHolds(reopened, image);
    await reopened.stopClean();
  },

  "a GiB of zero bytes stores no data and takes fewer than 5 objects": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "1G", server: NEVER });
    await run("fio", [
      ...["--name=zeroes", "--ioengine=nbd", `--uri=${drive.uri}`, "--output-format=terse"],
      ...["--rw=write", "--bs=256k", "--iodepth=16", "--size=1G", "--zero_buffers"],
    ]);
    await drive.stopClean();
    const { count, bytes } = await logOf(bucket);
    assert(count < 5, `${count} objects`);
    assert(bytes < 1024, `${bytes} bytes`);
  },

  "a GiB of zeroes over a GiB of data takes fewer than 5 objects more": async (bucket) => {
    await using scratch = await Scratch.make();
    await using drive = await Drive.start({ bucket, size: "1G", server: NEVER });
    const writes = Array.from({ length: 16 }, (_, n) => ["-c", `write -P 7 ${n * 64}M 3M`]);
    await run("qemu-io", ["-f", "raw", ...writes.flat(), "-c", "flush", drive.uri]);
    const before = await logOf(bucket);
    await run("nbdcopy", ["--allocated", await scratch.hole("image", 1024), drive.uri]);
    await assertSurvivesRestart(drive, bucket, scratch.file("image"));
    const after = await logOf(bucket);
    // The restart claims the volume with an empty segment.
    assert(after.count - before.count - 1 < 5, `${after.count - before.count - 1} objects`);
    assert(after.bytes - before.bytes < 1024, `${after.bytes - before.bytes} bytes`);
  },

  "a TiB that mkfs trims takes one object": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "1T", server: NEVER });
    await run("qemu-io", ["-f", "raw", "-c", "write -P 7 700G 1M", "-c", "flush", drive.uri]);
    const before = await logOf(bucket);
    await runPython(TRIM_ALL, [drive.uri]);
    const after = await logOf(bucket);
    assertEquals(after.count - before.count, 1);
    assert(after.bytes - before.bytes < 1024, `${after.bytes - before.bytes} bytes`);
    await drive.stopClean();
    await using reopened = await Drive.start({ bucket });
    await run("qemu-io", ["-f", "raw", "-c", "read -P 0 700G 1M", reopened.uri]);
    await reopened.stopClean();
  },

  "memory stays below the bound of the ready line, whatever is written and read": async (
    bucket,
  ) => {
    await using drive = await Drive.start({ bucket, size: "1G", server: { uploads: 8 } });
    await fioAtOnce(drive, 15);
    const readers = Array.from({ length: 3 }, () => run("nbdcopy", [drive.uri, "null:"]));
    await Promise.all(readers);
    const [peak, bound] = [drive.memoryBytes("VmHWM"), statedBound(drive)];
    assert(peak <= bound, `${peak / MIB} MiB of ${bound / MIB}`);
    await drive.stopClean();
  },

  "segments are filled in memory on huge pages": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "64M" });
    const isOnHugePages = () => / hg( |$)/m.test(Deno.readTextFileSync(`/proc/${drive.pid}/smaps`)); // proc(5), VmFlags
    assert(!isOnHugePages());
    await run("qemu-io", ["-f", "raw", "-c", "write -P 7 0 1M", "-c", "flush", drive.uri]);
    assert(isOnHugePages());
    await drive.stopClean();
  },

  "starting, and standing by, takes less than 128 MiB": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "64M" });
    const peak = drive.memoryBytes("VmHWM");
    assert(peak < 128 * MIB, `${peak / MIB} MiB`);
    await drive.stopClean();
  },
});

testInBothBuckets({
  "a scattered disk, larger than the cache, is fetched about once by many readers at once": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const server = { cachesize: 128 }; // 8 MiB
    await using writer = await Drive.start({ bucket, size: "64M", server });
    await run("fio", [
      ...["--name=scattered", "--ioengine=nbd", `--uri=${writer.uri}`, "--output-format=terse"],
      ...["--rw=randwrite", "--bsrange=4k-96k", "--blockalign=4k", "--size=64M", "--fsync=50"],
    ]);
    await copyOut(writer, scratch.file("image"));
    await writer.stopClean();
    await using reader = await Drive.start({ bucket, server });
    await assertHolds(reader, scratch.file("image"));
    await reader.stopClean();
    const times = bytesFetched(reader) / (64 * MIB);
    assert(times < 3, `the disk was fetched ${times.toFixed(1)} times`);
  },

  "what is in the cache, or was never written, is read without the bucket": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "1G" });
    await run("qemu-io", ["-f", "raw", "-c", "write -P 9 5M 20M", "-c", "flush", drive.uri]);
    for (let times = 0; times < 3; times++) await run("nbdcopy", [drive.uri, "null:"]);
    await drive.stopClean();
    // What opening an empty volume reads: volume.json, and no byte of the disk.
    const fetched = bytesFetched(drive);
    assertEquals(fetched < 4096, true, `${fetched} bytes were fetched`);
  },
});
