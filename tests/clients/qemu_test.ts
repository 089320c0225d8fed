/** QEMU's programs: qemu-io writes patterns, qemu-img moves whole disk images through the drive. */
import { assert, assertEquals } from "@std/assert";
import { assertHolds, assertSurvivesRestart, Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInBothBuckets } from "../support/test_buckets.ts";

const SIZE_MIB = 64;

/** Runs commands of qemu-io on a file or a drive; a pattern that is not found is an error. */
async function qemuIo(target: string, commands: string[]): Promise<void> {
  const options = commands.flatMap((command) => ["-c", command]);
  const said = await run("qemu-io", ["-f", "raw", "-d", "unmap", ...options, target]);
  assert(!/failed|error/i.test(said), said);
}

/** Runs the same commands on the drive and on a file of the same size, which then says what the drive must hold. */
async function doBoth(drive: Drive, image: string, commands: string[]): Promise<void> {
  await qemuIo(image, commands);
  await qemuIo(drive.uri, commands);
}

async function startWithImage(bucket: TestBucket, scratch: Scratch) {
  const image = await scratch.hole("image", SIZE_MIB);
  return { image, drive: await Drive.start({ bucket, size: `${SIZE_MIB}M` }) };
}

testInBothBuckets({
  "patterns that qemu-io wrote anywhere, in any size, are read again": async (bucket) => {
    await using scratch = await Scratch.make();
    const { image, drive: started } = await startWithImage(bucket, scratch);
    await using drive = started;
    const patterns = [
      ["0x11", "0", "4k"],
      ["0x22", "65024", "1k"], // across the border of two stripes
      ["0x33", "1M", "8M"],
      ["0x44", "3000000", "1"],
      ["0x55", "3000001", "700001"],
      ["0x66", "67108352", "512"], // the last sector
      ["0x77", "20M", "12M"],
    ];
    await doBoth(drive, image, [
      ...patterns.map(([pattern, ...where]) => `write -P ${pattern} ${where.join(" ")}`),
      "flush",
    ]);
    const checks = ["read -P 0x11 0 4k", "read -P 0x44 3000000 1", "read -P 0x55 3000001 700001"];
    await qemuIo(drive.uri, [...checks, "read -P 0x33 1M 1951424", "read -P 0 10M 4M"]);
    await assertHolds(drive, image);
    await assertSurvivesRestart(drive, bucket, image, async (reopened) => {
      await qemuIo(reopened.uri, [...checks, "read -P 0x66 67108352 512"]);
    });
  },

  "many requests at once, some of them over one another's blocks, all take effect": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const { image, drive: started } = await startWithImage(bucket, scratch);
    await using drive = started;
    const writes = Array.from({ length: 200 }, (_, n) => {
      const offset = (n * 7_777_777) % ((SIZE_MIB - 1) << 20);
      return `aio_write -P ${n + 1} ${offset - offset % 512} ${512 * (1 + n * 37 % 300)}`;
    });
    // On a file qemu-io's requests may overtake each other: there they are made one by one.
    await qemuIo(image, writes.map((command) => command.replace("aio_write", "write")));
    await qemuIo(drive.uri, [...separate(writes), "aio_flush"]);
    await assertHolds(drive, image);
    await assertSurvivesRestart(drive, bucket, image);
  },

  "what was discarded or zeroed reads as zeroes, and what is beside it stays": async (bucket) => {
    await using scratch = await Scratch.make();
    const { image, drive: started } = await startWithImage(bucket, scratch);
    await using drive = started;
    const commands = [
      "write -P 0xaa 0 32M",
      "flush",
      "discard 1M 2M", // stored, whole stripes
      "write -z 5001 70000", // neither end on a block
      "write -z -u 8M 1M",
      "write -P 0xbb 8M 4k",
      "write -P 0xcc 40M 8M", // not stored yet
      "discard 41M 4k",
      "write -z 42M 100k",
      "discard 16M 8M",
      "write -P 0xdd 17M 1M",
      "write -z -f 18M 64k",
    ];
    await doBoth(drive, image, commands);
    await qemuIo(drive.uri, [
      "read -P 0 1M 2M",
      "read -P 0xaa 3M 1M",
      "read -P 0 5001 70000",
      "read -P 0xaa 75001 4096",
      "read -P 0xdd 17M 1M",
      "read -P 0 18M 6M",
    ]);
    await assertHolds(drive, image);
    await assertSurvivesRestart(drive, bucket, image);
  },

  "an image that qemu-img moved in as raw and as qcow2 comes out as it was": async (bucket) => {
    await using scratch = await Scratch.make();
    const image = await scratch.hole("image", SIZE_MIB);
    const source = await scratch.random("source", 9);
    for (const at of [0, 10, 55]) {
      const where = ["bs=1M", `seek=${at}`, "conv=notrunc,sparse", "status=none"];
      await run("dd", [`if=${source}`, `of=${image}`, ...where]);
    }
    const qcow2 = scratch.file("image.qcow2");
    await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", image, qcow2]);
    for (const [format, file] of [["raw", image], ["qcow2", qcow2]]) {
      await using drive = await Drive.start({ bucket, size: `${SIZE_MIB}M` });
      await run("qemu-io", ["-f", "raw", "-c", `write -P 0xee 0 ${SIZE_MIB}M`, drive.uri]);
      const convert = ["convert", "-n", "-W", "-m", "8"];
      await run("qemu-img", [...convert, "-f", format, "-O", "raw", file, drive.uri]);
      await run("qemu-img", ["compare", "-f", format, "-F", "raw", file, drive.uri]);
      const out = scratch.file(`out.${format}`);
      await run("qemu-img", ["convert", "-f", "raw", "-O", format, drive.uri, out]);
      await run("qemu-img", ["compare", "-f", format, "-F", "raw", out, image]);
      await assertSurvivesRestart(drive, bucket, image);
    }
  },

  "qemu-img map and info see a raw disk of the right size": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: `${SIZE_MIB}M` });
    await run("qemu-io", ["-f", "raw", "-c", "write -P 1 1M 1M", drive.uri]);
    const map = await run("qemu-img", ["map", "--output=json", "-f", "raw", drive.uri]);
    const runs: { start: number; length: number; data: boolean; zero: boolean }[] = JSON.parse(map);
    assertEquals(
      runs.reduce((end, { start, length }) => (assertEquals(start, end), end + length), 0),
      64 << 20,
    );
    const holdsData = runs.find(({ start, length }) =>
      start <= 1 << 20 && start + length > 1 << 20
    );
    assert(holdsData!.data && !holdsData!.zero, map);
    const info = JSON.parse(
      await run("qemu-img", ["info", "--output=json", "-f", "raw", drive.uri]),
    );
    assertEquals(info["virtual-size"], 64 << 20);
    await assertSurvivesRestart(drive, bucket);
  },
});

/** qemu-io gives no order to requests in flight that overlap: those have to wait for the ones before. */
function separate(writes: string[]): string[] {
  const open: [number, number][] = [];
  return writes.flatMap((command) => {
    const [offset, length] = command.split(" ").slice(-2).map(Number);
    const overlaps = open.some(([at, end]) => offset < end && at < offset + length);
    if (overlaps) open.length = 0;
    open.push([offset, offset + length]);
    return overlaps ? ["aio_flush", command] : [command];
  });
}
