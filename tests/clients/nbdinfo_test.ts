/** nbdinfo and nbd-client's list: what the drive says of itself before a client uses it, and what of it is stored. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { Drive } from "../support/drive.ts";
import { run, runProgram, runPython } from "../support/programs.ts";
import { type TestBucket, testInDirectory } from "../support/test_buckets.ts";

/** What the drive's export is called: the directory's name. */
function volumeNameOf(bucket: TestBucket): string {
  return bucket.name.split("/").at(-1)!;
}

const KIB = 1024;
const MIB = 1024 * KIB;
const DISK_BYTES = 64 * MIB;

const ABILITIES = [
  ...["connect", "structured", "read", "df", "cache", "flush", "fua", "multi-conn"],
  ...["write", "trim", "zero", "fast-zero"],
];

/** The abilities of which `nbdinfo --can` says yes; an error is not a no. */
async function abilitiesOf(drive: Drive): Promise<string[]> {
  const codes = await Promise.all(ABILITIES.map(async (ability) => {
    const { code, stderr } = await runProgram("nbdinfo", ["--can", ability, drive.uri]);
    assertEquals([0, 2].includes(code), true, `--can ${ability} ended with ${code}: ${stderr}`);
    return code;
  }));
  return ABILITIES.filter((_, at) => codes[at] === 0);
}

interface MapLine {
  offset: number;
  length: number;
  type: number;
  description: string;
}

async function mapOf(drive: Drive): Promise<[offset: number, length: number, type: number][]> {
  const lines: MapLine[] = JSON.parse(await run("nbdinfo", ["--map", "--json", drive.uri]));
  for (const { type, description } of lines) {
    assertEquals(description, type === 0 ? "data" : "hole,zero");
  }
  return lines.map(({ offset, length, type }) => [offset, length, type]);
}

/** Bytes of data and of holes, as `--totals` adds them up. */
async function totalsOf(drive: Drive): Promise<Record<string, number>> {
  const args = ["--map=base:allocation", "--totals", "--json", drive.uri];
  const totals: { size: number; description: string }[] = JSON.parse(await run("nbdinfo", args));
  return Object.fromEntries(totals.map(({ size, description }) => [description, size]));
}

testInDirectory({
  "clients in clear are served by system calls of our own, over TCP and a Unix socket": async (
    bucket,
  ) => {
    for (const tcp of [true, false]) {
      await using drive = await Drive.start({ bucket, size: "16M", tcp, server: { debug: 1 } });
      await run("nbdinfo", ["--size", drive.uri]);
      await drive.says(/debug: client .*: by system calls of our own, too$/);
      await drive.stopClean();
    }
  },

  "nbdinfo says how large the drive is and what it can do": async (bucket) => {
    for (const tcp of [false, true]) {
      await using drive = await Drive.start({ bucket, size: "3G", tcp });
      const { exports } = JSON.parse(await run("nbdinfo", ["--json", drive.uri]));
      assertEquals(exports.length, 1);
      const { description, contexts, uri: _, ...told } = exports[0];
      assertEquals(contexts, ["base:allocation"]);
      assertStringIncludes(description, `ElasticDrive ${bucket.name}, volume `);
      assertEquals(told, {
        "export-name": volumeNameOf(bucket),
        "export-size": 3221225472,
        "export-size-str": "3G",
        "block_size_minimum": 1,
        "block_size_preferred": 65536,
        "block_size_maximum": 33554432,
        "can_cache": true,
        "can_df": true,
        "can_fast_zero": true,
        "can_flush": true,
        "can_fua": true,
        "can_multi_conn": true,
        "can_trim": true,
        "can_zero": true,
        content: "data",
        "is_read_only": false,
        "is_rotational": false,
      });
      await drive.stopClean();
    }
  },

  "nbdinfo and nbd-client list the one export": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "64M", tcp: true });
    const listed = await run("nbd-client", ["-l", "127.0.0.1", String(drive.port)]);
    assertStringIncludes(listed, `\n${volumeNameOf(bucket)}`);
    const list = JSON.parse(await run("nbdinfo", ["--list", "--json", drive.uri]));
    assertEquals(list.protocol, "newstyle-fixed");
    assertEquals(
      list.exports.map((one: Record<string, unknown>) => [one["export-name"], one.contexts]),
      [[volumeNameOf(bucket), ["base:allocation"]]],
    );
    const size = await run("nbdinfo", ["--size", `${drive.uri}/${volumeNameOf(bucket)}`]);
    assertEquals(size, "67108864\n");
    const { code, stderr } = await runProgram("nbdinfo", [`${drive.uri}/nothing`]);
    assertEquals(code, 1);
    assertStringIncludes(stderr, "nothing");
    await drive.stopClean();
  },

  "nbdinfo can everything on a drive, and change nothing of one that is served read-only": async (
    bucket,
  ) => {
    await using drive = await Drive.start({ bucket, size: "64M" });
    assertEquals(await abilitiesOf(drive), ABILITIES);
    assertEquals((await runProgram("nbdinfo", ["--is", "read-only", drive.uri])).code, 2);
    await drive.stopClean();
    await using reader = await Drive.start({ bucket, server: { readonly: "yes" } });
    const changes = ["write", "trim", "zero", "fast-zero"];
    assertEquals(
      await abilitiesOf(reader),
      ABILITIES.filter((ability) => !changes.includes(ability)),
    );
    assertEquals((await runProgram("nbdinfo", ["--is", "read-only", reader.uri])).code, 0);
    await reader.stopClean();
  },

  "nbdinfo --map shows what was written and nothing else: at once, after a flush and after a restart":
    async (
      bucket,
    ) => {
      await using drive = await Drive.start({ bucket, size: "64M" });
      assertEquals(await mapOf(drive), [[0, DISK_BYTES, 3]]);
      assertEquals(await totalsOf(drive), { "hole,zero": DISK_BYTES });
      await runPython(
        `drive = nbd.NBD()
drive.connect_uri(uri)
drive.pwrite(b"a" * (1 << 20), 1 << 20)
drive.pwrite(b"b" * 100 * 1024, 10 << 20)
drive.pwrite(b"c", (20 << 20) + 5000)
drive.pwrite(b"d" * 4096, (64 << 20) - 4096)
drive.flush()
drive.trim(128 * 1024, (1 << 20) + 65536)
drive.zero(8192, (10 << 20) + 4096)`,
        [drive.uri],
      );
      const data = [
        [MIB, 64 * KIB],
        [MIB + 192 * KIB, 832 * KIB],
        [10 * MIB, 4 * KIB],
        [10 * MIB + 12 * KIB, 88 * KIB],
        [20 * MIB + 4 * KIB, 4 * KIB],
        [DISK_BYTES - 4 * KIB, 4 * KIB],
      ];
      const expected: [number, number, number][] = [];
      let behind = 0;
      for (const [offset, length] of data) {
        expected.push([behind, offset - behind, 3], [offset, length, 0]);
        behind = offset + length;
      }
      const dataBytes = data.reduce((sum, [_, length]) => sum + length, 0);
      const totals = { data: dataBytes, "hole,zero": DISK_BYTES - dataBytes };
      assertEquals(await mapOf(drive), expected);
      await runPython("drive = nbd.NBD()\ndrive.connect_uri(uri)\ndrive.flush()", [drive.uri]);
      assertEquals(await mapOf(drive), expected);
      assertEquals(await totalsOf(drive), totals);
      await drive.stopClean();
      await using reopened = await Drive.start({ bucket });
      assertEquals(await mapOf(reopened), expected);
      assertEquals(await totalsOf(reopened), totals);
      await reopened.stopClean();
    },
});
