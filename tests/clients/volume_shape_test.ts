/** Size and stripe: fixed or grown, asked for or taken from the bucket, and several volumes side by side. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { assertHolds, assertSurvivesRestart, Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { testInBothBuckets } from "../support/test_buckets.ts";

const MIB = 1 << 20;

/** The smallest, an odd one and the largest. */
for (const STRIPE of ["4096", "32K", "4M"]) {
  testInBothBuckets({
    [`stripes of ${STRIPE} hold what is written in small pieces`]: async (bucket) => {
      await using scratch = await Scratch.make();
      const image = await scratch.random("image", 12);
      const server = { cachesize: STRIPE === "4M" ? 16 : 256 };
      await using drive = await Drive.start({ bucket, size: "12M", s3: { STRIPE }, server });
      await run("nbdcopy", ["--request-size=4096", image, drive.uri]);
      await assertSurvivesRestart(drive, bucket, image);
    },
  });
}

testInBothBuckets({
  "a start without STRIPE and VOLUMESIZE takes them from the bucket": async (bucket) => {
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", 20);
    await using first = await Drive.start({ bucket, size: "20M", s3: { STRIPE: "16K" } });
    await run("nbdcopy", [image, first.uri]);
    await first.stopClean();
    await using second = await Drive.start({ bucket });
    assertStringIncludes(second.readyLine, "20 MiB in stripes of 16 KiB");
    await assertHolds(second, image);
    await second.stopClean();
  },

  "a larger VOLUMESIZE grows the disk: what was there stays, what is new is zeroes and writable":
    async (bucket) => {
      await using scratch = await Scratch.make();
      const image = await scratch.random("image", 20);
      await using small = await Drive.start({ bucket, size: "20M" });
      await run("nbdcopy", [image, small.uri]);
      await small.stopClean();

      await using grown = await Drive.start({ bucket, size: "1T" });
      assertEquals(await run("nbdinfo", ["--size", grown.uri]), `${1024 ** 4}\n`);
      await run("qemu-io", [
        ...["-f", "raw", "-c", "read -P 0 20M 8M", "-c", "read -P 0 1023G 8M"],
        ...["-c", "write -P 5 1099509530624 2M", "-c", "write -z 30M 1G", grown.uri],
      ]);
      await grown.stopClean();

      await using again = await Drive.start({ bucket });
      assertStringIncludes(again.readyLine, "1 TiB in stripes of 64 KiB");
      await run("qemu-io", [
        ...["-f", "raw", "-c", "read -P 5 1099509530624 2M", "-c", "read -P 0 20M 10M", again.uri],
      ]);
      const length = String(20 * MIB);
      const compare = ["compare", "-f", "raw", "-F", "raw"];
      const beginning = `json:{"driver":"raw","size":${length},"file":` +
        `{"driver":"nbd","server":{"type":"unix","path":"${again.address}"}}}`;
      await run("qemu-img", [...compare, image, beginning]);
      await again.stopClean();
    },

  "volumes with different PREFIXes share a bucket and nothing else": async (bucket) => {
    await using scratch = await Scratch.make();
    const prefixes = ["disks/one/", "disks/two/", "disks/on"];
    const drives: Drive[] = [];
    await using closing = new AsyncDisposableStack();
    for (const PREFIX of prefixes) {
      drives.push(closing.use(await Drive.start({ bucket, size: "8M", s3: { PREFIX } })));
    }
    const fill = async (drive: Drive, n: number) => {
      await run("nbdcopy", [await scratch.random(`image-${n}`, 8), drive.uri]);
    };
    await Promise.all(drives.map(fill));
    for (const drive of drives) await drive.stopClean();
    for (const [n, PREFIX] of prefixes.entries()) {
      await using reopened = await Drive.start({ bucket, s3: { PREFIX } });
      await assertHolds(reopened, scratch.file(`image-${n}`));
      await reopened.stopClean();
    }
  },

  "a volume lives through many starts and stops": async (bucket) => {
    await using scratch = await Scratch.make();
    const image = await scratch.hole("image", 16);
    for (let n = 0; n < 8; n++) {
      await using drive = await Drive.start({ bucket, size: "16M" });
      await assertHolds(drive, image);
      const write = ["-f", "raw", "-c", `write -P ${n + 1} ${n * 1_500_000} 2500000`];
      for (const target of [image, drive.uri]) await run("qemu-io", [...write, target]);
      if (n % 3 === 2) await assertSurvivesRestart(drive, bucket, image);
      else if (n % 3 === 1) await drive.kill();
      else await drive.stopClean();
    }
  },
});
