/** libnbd's programs: nbdinfo sees what the drive is, nbdcopy fills and empties it. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { assertHolds, assertSurvivesRestart, copyOut, Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInBothBuckets, testInDirectory } from "../support/test_buckets.ts";

const FAST = ["--connections=4", "--requests=64"];

/** What the drive's export is called: the directory's name. */
function volumeNameOf(bucket: TestBucket): string {
  return bucket.name.split("/").at(-1)!;
}

testInDirectory({
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
    const list = await run("nbdinfo", ["--list", drive.uri]);
    assertStringIncludes(list, `export="${volumeNameOf(bucket)}"`);
    const size = await run("nbdinfo", ["--size", `${drive.uri}/${volumeNameOf(bucket)}`]);
    assertEquals(size, "67108864\n");
    await drive.stopClean();
  },
});

testInBothBuckets({
  "what nbdcopy wrote over four connections comes out the same, now and after a restart": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", 256);
    await using drive = await Drive.start({ bucket, size: "256M", tcp: true });
    await run("nbdcopy", [...FAST, "--flush", image, drive.uri]);
    await assertHolds(drive, image);
    await assertSurvivesRestart(drive, bucket, image);
  },

  "a file with holes stays as it is, and its holes are not stored": async (bucket) => {
    await using scratch = await Scratch.make();
    const image = await scratch.hole("image", 512);
    using file = await Deno.open(image, { write: true });
    const bytes = crypto.getRandomValues(new Uint8Array(50_000));
    for (let offset = 12_345; offset < 500 << 20; offset += 70 << 20) {
      await file.seek(offset, Deno.SeekMode.Start);
      assertEquals(await file.write(bytes), bytes.length);
    }
    await using drive = await Drive.start({ bucket, size: "512M" });
    await run("nbdcopy", [...FAST, "--destination-is-zero", image, drive.uri]);
    await assertSurvivesRestart(drive, bucket, image);
    const stored = (await bucket.objects("log/")).reduce((sum, { size }) => sum + size, 0);
    assertEquals(stored < 2 << 20, true, `${stored} bytes stored`);
  },

  "a drive that is written over again and again holds what was written last": async (bucket) => {
    await using scratch = await Scratch.make();
    await using drive = await Drive.start({ bucket, size: "64M", server: { cachesize: 256 } });
    for (const round of [1, 2, 3]) {
      const image = await scratch.random("image", 64);
      await run("nbdcopy", [...FAST, "--request-size=65536", image, drive.uri]);
      await copyOut(drive, scratch.file(`out-${round}`));
      await run("cmp", [image, scratch.file(`out-${round}`)]);
    }
    await assertSurvivesRestart(drive, bucket, scratch.file("image"));
  },
});
