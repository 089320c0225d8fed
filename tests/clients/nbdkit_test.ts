/**
 * nbdkit's nbd plugin as a client of the drive, and nbdkit's filters, which ask for other pieces than the clients above
 * them do.
 */
import { assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import { assertHolds, assertSurvivesRestart, Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { testInDirectory } from "../support/test_buckets.ts";

const DISK_MIB = 32;

interface Layer {
  filters?: string[];
  parameters?: string[];
}

/** Runs a shell command with nbdkit between it and the drive; `$uri` is where nbdkit serves. */
function through(drive: Drive, { filters = [], parameters = [] }: Layer, command: string) {
  const layers = filters.map((filter) => `--filter=${filter}`);
  const plugin = ["nbd", `uri=${drive.uri}`, ...parameters];
  return run("nbdkit", ["-U", "-", ...layers, ...plugin, "--run", `set -e; ${command}`]);
}

const COPY = "nbdcopy --connections=4 --requests=64";

testInDirectory({
  "nbdkit shows the drive as it is: abilities, block sizes, holes": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
    await run("qemu-io", [
      "-f",
      "raw",
      "-c",
      "write -P 1 1M 1M",
      "-c",
      "write -P 2 9M 1",
      drive.uri,
    ]);
    const directly = JSON.parse(await run("nbdinfo", ["--json", drive.uri])).exports[0];
    const layered = JSON.parse(await through(drive, {}, `nbdinfo --json "$uri"`)).exports[0];
    for (const one of [directly, layered]) {
      delete one.uri;
      delete one["export-name"];
    }
    assertEquals(layered, directly);
    const map = await run("nbdinfo", ["--map", drive.uri]);
    assertEquals(await through(drive, {}, `nbdinfo --map "$uri"`), map);
    await drive.stopClean();
  },

  "what goes in and out through nbdkit is the same, whatever pieces its filters make of it": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const layers: Layer[] = [
      {},
      { parameters: ["shared=true"] },
      { filters: ["blocksize"], parameters: ["minblock=512", "maxdata=60k", "maxlen=100k"] },
      {
        filters: ["blocksize-policy"],
        parameters: ["blocksize-minimum=4096", "blocksize-error-policy=error"],
      },
      { filters: ["noextents", "nozero"] },
      { filters: ["fua"], parameters: ["fuamode=force"] },
    ];
    for (const layer of layers) {
      const image = await scratch.hole("image", DISK_MIB);
      const source = await scratch.random("source", 5);
      const where = [`of=${image}`, "bs=1M", "seek=7", "conv=notrunc", "status=none"];
      await run("dd", [`if=${source}`, ...where]);
      await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
      await through(
        drive,
        layer,
        `${COPY} --flush '${image}' "$uri"; ${COPY} "$uri" '${image}.out'`,
      );
      await run("cmp", [image, `${image}.out`]);
      await assertHolds(drive, image);
      await drive.stopClean();
      await Deno.remove(image);
    }
  },

  "a window of the drive that begins and ends at odd bytes is a disk of its own": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", DISK_MIB);
    await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
    await run("nbdcopy", [image, drive.uri]);
    const [offset, range] = [1_000_001, 9_999_999];
    const window: Layer = {
      filters: ["offset"],
      parameters: [`offset=${offset}`, `range=${range}`],
    };
    const out = scratch.file("out");
    await through(drive, window, `nbdcopy "$uri" '${out}'`);
    await run("cmp", ["-i", `${offset}:0`, "-n", String(range), image, out]);
    assertEquals((await Deno.stat(out)).size, range);
    const commands = [
      ...["write -P 1 0 511", "write -P 2 4095 65537", "write -z 300000 100001"],
      ...["write -P 3 9999487 512", "write -z -f 9000000 4096"],
    ];
    const io = commands.map((command) => `-c '${command}'`).join(" ");
    const said = await through(drive, window, `qemu-io -f raw ${io} "$uri"`);
    assertEquals(/failed|error/i.test(said), false, said);
    for (const command of commands) {
      const [at, length] = command.split(" ").slice(-2).map(Number);
      const moved = command.replace(` ${at} ${length}`, ` ${at + offset} ${length}`);
      await run("qemu-io", ["-f", "raw", "-c", moved, image]);
    }
    await assertSurvivesRestart(drive, bucket, image);
  },

  "a partition of the drive, and a drive that a filter makes longer, hold what they should": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const partition = await scratch.random("partition", 8);
    const disk = scratch.file("disk");
    // what nbdkit's partitioning plugin makes a table for
    await run("nbdkit", [
      ...["-U", "-", "partitioning", partition, "partition-type=gpt"],
      ...["--run", `nbdcopy "$uri" '${disk}'`],
    ]);
    const { size } = await Deno.stat(disk);
    const bytes = Math.ceil(size / 65536) * 65536;
    await Deno.truncate(disk, bytes);
    await using drive = await Drive.start({ bucket, size: String(bytes) });
    await run("nbdcopy", [disk, drive.uri]);
    const out = scratch.file("out");
    const first: Layer = {
      filters: ["partition", "truncate"],
      parameters: ["partition=1", `truncate=${size}`],
    };
    await through(drive, first, `nbdcopy "$uri" '${out}'`);
    await run("cmp", [partition, out]);
    const longer: Layer = { filters: ["truncate"], parameters: [`truncate=${bytes + 12_345}`] };
    await Deno.remove(out);
    await through(drive, longer, `nbdcopy "$uri" '${out}'; nbdinfo --map "$uri"`);
    await Deno.truncate(disk, (await Deno.stat(out)).size);
    await run("cmp", [disk, out]);
    await drive.stopClean();
  },

  "changes that a filter keeps to itself leave the drive as it was": async (bucket) => {
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", DISK_MIB);
    await using drive = await Drive.start({ bucket, size: `${DISK_MIB}M` });
    await run("nbdcopy", ["--flush", image, drive.uri]);
    const out = scratch.file("out");
    const changes = "-c 'write -P 9 777 4000' -c 'discard 1M 1M' -c 'write -P 8 5M 70000'";
    const said = await through(
      drive,
      { filters: ["cow"] },
      `qemu-io -f raw -d unmap ${changes} -c 'read -P 9 777 4000' "$uri"; nbdcopy "$uri" '${out}'`,
    );
    assertStringIncludes(said, "read 4000/4000 bytes at offset 777");
    assertNotEquals(await Deno.readFile(out), await Deno.readFile(image));
    await assertHolds(drive, image);
    // bytes in another order, twice, are the bytes
    await through(
      drive,
      { filters: ["swab", "swab"], parameters: ["swab-bits=32"] },
      `${COPY} "$uri" '${out}'`,
    );
    await run("cmp", [image, out]);
    await drive.stopClean();
  },
});
