/** QEMU's view of what is stored, images kept inside of the drive, and QEMU as a server on top of it. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { assertHolds, assertSurvivesRestart, Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { testInDirectory } from "../support/test_buckets.ts";

const MIB = 1 << 20;
const DISK_MIB = 64;

/** Runs commands of qemu-io; a pattern that is not found is an error. */
async function qemuIo(target: string, format: string, ...commands: string[]): Promise<void> {
  const options = commands.flatMap((command) => ["-c", command]);
  const said = await run("qemu-io", ["-f", format, "-d", "unmap", ...options, target]);
  assert(!/failed|error/i.test(said), said);
}

/** What QEMU takes for data, as [start, end) in bytes. */
async function dataIn(target: string): Promise<[number, number][]> {
  const text = await run("qemu-img", ["map", "--output=json", "-f", "raw", target]);
  const runs: { start: number; length: number; data: boolean; zero: boolean }[] = JSON.parse(text);
  for (const { data, zero } of runs) assertEquals(data, !zero, text);
  return runs.filter(({ data }) => data).map(({ start, length }) => [start, start + length]);
}

/** The drive for the options that take no URI. */
function asJson(drive: Drive, driver: string): string {
  const server = { type: "unix", path: drive.address };
  return `json:${JSON.stringify({ driver, file: { driver: "nbd", server } })}`;
}

testInDirectory({
  "qemu-img map shows what was written, without what was trimmed, and the same after a restart":
    async (
      bucket,
    ) => {
      await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
      await qemuIo(
        drive.uri,
        "raw",
        ...["write -P 1 1M 4M", "write -P 2 40M 12k", "write -P 3 67108352 512", "flush"],
        ...["discard 2M 1M", "write -z -u 4M 64k", "write -P 4 2304k 8k"],
      );
      const expected: [number, number][] = [
        [MIB, 2 * MIB],
        [2304 * 1024, 2312 * 1024],
        [3 * MIB, 4 * MIB],
        [4 * MIB + 65536, 5 * MIB],
        [40 * MIB, 40 * MIB + 12288],
        [DISK_MIB * MIB - 4096, DISK_MIB * MIB],
      ];
      assertEquals(await dataIn(drive.uri), expected);
      await assertSurvivesRestart(drive, bucket, undefined, async (reopened) => {
        assertEquals(await dataIn(reopened.uri), expected);
      });
    },

  "qemu-img convert leaves holes out on both ways, unless it is told not to": async (bucket) => {
    await using scratch = await Scratch.make();
    const image = await scratch.hole("image", DISK_MIB);
    await qemuIo(image, "raw", "write -P 7 5M 1M", "write -P 8 50M 68k");
    await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
    const raw = ["-f", "raw", "-O", "raw"];
    await run("qemu-img", ["convert", "-n", "--target-is-zero", ...raw, image, drive.uri]);
    assertEquals(await dataIn(drive.uri), [
      [5 * MIB, 6 * MIB],
      [50 * MIB, 50 * MIB + 68 * 1024],
    ]);
    const allocated: number[] = [];
    for (const sparse of ["64k", "0"]) {
      const out = scratch.file(`out-${sparse}`);
      await run("qemu-img", ["convert", "-W", "-m", "8", "-S", sparse, ...raw, drive.uri, out]);
      await run("cmp", [image, out]);
      allocated.push((await Deno.stat(out)).blocks! * 512);
    }
    assert(allocated[0] <= 2 * MIB && allocated[1] >= DISK_MIB * MIB, `${allocated}`);
    await assertSurvivesRestart(drive, bucket, image);
  },

  "what qemu-img bench writes, 32 requests at once among flushes, is there": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
    const bench = (...more: string[]) =>
      run("qemu-img", ["bench", "-f", "raw", "-w", "-d", "32", ...more, drive.uri]);
    await bench("--pattern=90", "-s", "4096", "-S", "12288", "-c", "2000", "--flush-interval=200");
    await bench("--pattern=91", "-s", "65536", "-o", "32M", "-c", "256", "--flush-interval=32");
    await bench(
      "--pattern=92",
      "-s",
      "512",
      "-S",
      "1536",
      "-o",
      "56M",
      "-c",
      "2000",
      "--no-drain",
      "--flush-interval=64",
    );
    const steps = Array.from({ length: 50 }, (_, n) => n * 40);
    const checks = steps.flatMap((n) => [
      `read -P 90 ${n * 12288} 4096`,
      `read -P 0 ${n * 12288 + 4096} 8192`,
      `read -P 92 ${56 * MIB + n * 1536} 512`,
    ]);
    const check = (at: Drive) => qemuIo(at.uri, "raw", ...checks, "read -P 91 32M 16M");
    await check(drive);
    await assertSurvivesRestart(drive, bucket, undefined, check);
  },

  "a qcow2 image kept in the drive is sound, with its snapshot, also after a restart": async (
    bucket,
  ) => {
    const look = async (drive: Drive) => {
      const said = await run("qemu-img", ["check", "-f", "qcow2", drive.uri]);
      assertStringIncludes(said, "No errors were found");
      await qemuIo(
        drive.uri,
        "qcow2",
        ...["read -P 3 1M 1M", "read -P 0 2M 64k", "read -P 1 2112k 1M", "read -P 2 20M 64k"],
      );
    };
    await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
    await run("qemu-img", ["create", "-f", "qcow2", drive.uri, "32M"]);
    await qemuIo(drive.uri, "qcow2", "write -P 1 1M 3M", "write -P 2 20M 64k");
    await run("qemu-img", ["snapshot", "-c", "one", asJson(drive, "qcow2")]);
    await qemuIo(drive.uri, "qcow2", "write -P 3 1M 1M", "discard 2M 64k");
    await look(drive);
    await assertSurvivesRestart(drive, bucket, undefined, async (reopened) => {
      await look(reopened);
      await run("qemu-img", ["snapshot", "-a", "one", asJson(reopened, "qcow2")]);
      await qemuIo(reopened.uri, "qcow2", "read -P 1 1M 3M");
    });
  },

  "qemu-nbd on top of the drive shows the same bytes and the same holes, and passes changes on":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      const image = await scratch.hole("image", DISK_MIB);
      await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
      const server = ["[", "qemu-nbd", "-f", "raw", "--discard=unmap", drive.uri, "]"];
      for (const commands of [["write -P 5 3M 10M"], ["write -P 6 9M 100k", "discard 4M 1M"]]) {
        await qemuIo(image, "raw", ...commands);
        await run("nbdcopy", ["--", image, ...server]);
        const map = await run("nbdinfo", ["--map", drive.uri]);
        assertEquals(await run("nbdinfo", ["--map", "--", ...server]), map);
        await run("nbdcopy", ["--", ...server, scratch.file("out")]);
        await run("cmp", [image, scratch.file("out")]);
        await assertHolds(drive, image);
      }
      await drive.stopClean();
    },
});
