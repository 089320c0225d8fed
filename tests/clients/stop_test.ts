/** Stopping: everything is stored first, and whoever can't wait is told what was not. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { assertHolds, configText, Drive, PROGRAM } from "../support/drive.ts";
import { runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { testInBothBuckets, testInDirectory, testInS3 } from "../support/test_buckets.ts";

/** So that nothing is stored unless somebody asks for it. */
const NEVER = { flushafter: 3600 };
const MIB = 1 << 20;

/** Writes a file to the start of the drive and goes away without a flush. */
const WRITE_UNFLUSHED = `
drive = nbd.NBD()
drive.connect_uri(uri)
data = open(sys.argv[2], "rb").read()
for offset in range(0, len(data), 1 << 20):
    drive.pwrite(data[offset:offset + (1 << 20)], offset)
drive.shutdown()
`;

/** The same, but the connection stays, and goes on writing the first MiB until it is closed. */
const WRITE_ON_AND_ON = `
drive = nbd.NBD()
drive.connect_uri(uri)
data = open(sys.argv[2], "rb").read()
number = 0
try:
    while True:
        drive.pwrite(data[:1 << 20], 0)
        number += 1
except nbd.Error:
    print(number)
`;

testInBothBuckets({
  // Less than a segment, which would be stored at once.
  "SIGTERM, SIGINT and SIGHUP store what no client had flushed, and say how much that is": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
      const image = await scratch.random("image", 5);
      await using drive = await Drive.start({ bucket, size: "5M", server: NEVER });
      await runPython(WRITE_UNFLUSHED, [drive.uri, image]);
      await drive.stopClean(signal);
      assertMatch(drive.stderr, /stopping: 0 %, 0 bytes of 5 MiB/);
      await using reopened = await Drive.start({ bucket });
      await assertHolds(reopened, image);
      await reopened.stopClean();
    }
  },

  "a client that goes on writing is disconnected, and the stop comes to its end": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", 1);
    await using drive = await Drive.start({ bucket, size: "1M", server: { cachesize: 64 } });
    const client = runPython(WRITE_ON_AND_ON, [drive.uri, image]);
    const before = (await bucket.objects("log/")).length;
    while ((await bucket.objects("log/")).length === before);
    await drive.stopClean();
    assert(Number(await client) > 0);
    await using reopened = await Drive.start({ bucket });
    await assertHolds(reopened, image);
    await reopened.stopClean();
  },
});

testInDirectory({
  "under nohup it outlives its terminal": async (bucket) => {
    await using scratch = await Scratch.make();
    const file = await scratch.write("config.ini", configText({ bucket, size: "1M" }));
    await using drive = await Drive.spawn("nohup", [PROGRAM, "-c", file], scratch.path);
    drive.signal("SIGHUP");
    const image = await scratch.random("image", 1);
    await runPython(WRITE_UNFLUSHED, [drive.uri, image]);
    assert(!drive.stderr.includes("stopp"), drive.stderr);
    await drive.stopClean();
  },

  "how much is not stored is said at once, also while a client waits for its flush": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", 5);
    await using drive = await Drive.start({ bucket, size: "5M", server: NEVER });
    await Deno.rename(bucket.path, scratch.file("away"));
    const flushed = WRITE_UNFLUSHED.replace("drive.shutdown()", "drive.flush()");
    const client = runPython(flushed, [drive.uri, image]);
    await drive.says(/does not serve: .*a directory of the path is not there/);
    drive.signal("SIGTERM");
    await drive.says(/stopping: 0 %, 0 bytes of 5 MiB/);
    await Deno.rename(scratch.file("away"), bucket.path);
    await client;
    assertEquals(await drive.exit(), 0, drive.stderr);
    await using reopened = await Drive.start({ bucket });
    await assertHolds(reopened, image);
    await reopened.stopClean();
  },
});

testInS3({
  "a stop with nothing to store that waits for S3 says so, and can be given up": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "64M", server: NEVER });
    await bucket.ceph.freeze();
    try {
      drive.signal("SIGTERM");
      await drive.says(
        /stopping: nothing is left to store, the lease is not released yet; a second/,
      );
      assertEquals(await drive.stop("SIGINT"), 4, drive.stderr);
      assertMatch(
        drive.stderr,
        /given up: 0 bytes were not stored, but the lease was not released/,
      );
    } finally {
      await bucket.ceph.thaw();
    }
  },

  "a second signal while S3 is silent gives up, with exit code 4 and the bytes that were not stored":
    async (bucket) => {
      await using scratch = await Scratch.make();
      const stored = await scratch.random("stored", 4);
      await using drive = await Drive.start({ bucket, size: "64M", server: NEVER });
      await runPython(
        WRITE_UNFLUSHED + "drive = nbd.NBD()\ndrive.connect_uri(uri)\ndrive.flush()",
        [
          drive.uri,
          stored,
        ],
      );
      await bucket.ceph.freeze();
      try {
        const lost = await scratch.random("lost", 20);
        await runPython(WRITE_UNFLUSHED, [drive.uri, lost]);
        drive.signal("SIGTERM");
        assertMatch(await drive.says(/stopping: /), /0 bytes of 20 MiB/);
        assertEquals(await drive.stop("SIGINT"), 4, drive.stderr);
        assertMatch(drive.stderr, new RegExp(`given up: ${20 * MIB} bytes were not stored`));
      } finally {
        await bucket.ceph.thaw();
      }
      await using reopened = await Drive.start({ bucket });
      const expected = await scratch.hole("expected", 64);
      await using file = await Deno.open(expected, { write: true });
      await file.write(await Deno.readFile(stored));
      await assertHolds(reopened, expected);
      await reopened.stopClean();
    },

  "a stop that S3 keeps waiting goes on when S3 is back": async (bucket) => {
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", 20);
    await using drive = await Drive.start({ bucket, size: "20M", server: NEVER });
    await bucket.ceph.kill();
    try {
      await runPython(WRITE_UNFLUSHED, [drive.uri, image]);
      drive.signal("SIGTERM");
      await drive.says(/stopping: 0 %, 0 bytes of 20 MiB/);
      // The outage is worth a line after a second.
      await drive.says(/s3:\/\/drive.*nobody listens there/);
    } finally {
      await bucket.ceph.start();
    }
    assertEquals(await drive.exit(), 0, drive.stderr);
    await using reopened = await Drive.start({ bucket });
    await assertHolds(reopened, image);
    await reopened.stopClean();
  },
});
