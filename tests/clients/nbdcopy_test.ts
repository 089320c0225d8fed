/** nbdcopy fills a drive and empties it. */
import { assertEquals } from "@std/assert";
import { assertHolds, assertSurvivesRestart, copyOut, Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { startS3Proxy } from "../support/s3_proxy.ts";
import { Scratch } from "../support/scratch.ts";
import {
  DirectoryTestBucket,
  testInBothBuckets,
  testInDirectory,
  testInS3,
} from "../support/test_buckets.ts";

const FAST = ["--connections=4", "--requests=64"];

/** 128 MiB of which some 5 are data: most of it in one place, the rest in odd pieces, one in the last block. */
async function sparseImage(scratch: Scratch): Promise<string> {
  const image = await scratch.hole("image", 128);
  const source = await scratch.random("source", 4);
  const pieces: [at: number, length: number][] = [
    [30 << 20, 4 << 20],
    [1000, 700_001],
    [(77 << 20) - 1, 2],
    [(128 << 20) - 100, 100],
  ];
  for (const [at, length] of pieces) {
    const where = [`seek=${at}`, `count=${length}`, "iflag=count_bytes", "oflag=seek_bytes"];
    const how = ["bs=1M", "conv=notrunc", "status=none"];
    await run("dd", [`if=${source}`, `of=${image}`, ...where, ...how]);
  }
  return image;
}

/** What a file takes on disk. */
async function bytesAllocated(file: string): Promise<number> {
  return (await Deno.stat(file)).blocks! * 512;
}

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

  "what nbdcopy moves from one drive to another is the same there, holes and all": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const image = await sparseImage(scratch);
    await using elsewhere = await DirectoryTestBucket.make();
    await using from = await Drive.start({ bucket, size: "128M", server: { cachesize: 256 } });
    await using to = await Drive.start({ bucket: elsewhere, size: "128M" });
    await run("nbdcopy", [...FAST, image, from.uri]);
    await run("nbdcopy", [...FAST, "--destination-is-zero", "--flush", from.uri, to.uri]);
    const map = (drive: Drive) => run("nbdinfo", ["--map", drive.uri]);
    assertEquals(await map(to), await map(from));
    await assertSurvivesRestart(from, bucket, image);
    await assertSurvivesRestart(to, elsewhere, image);
  },
});

testInDirectory({
  "a sparse file over old data comes out as it went in, sparse, in small requests and in the largest":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      const image = await sparseImage(scratch);
      await using drive = await Drive.start({ bucket, size: "128M" });
      for (const how of [["--request-size=262144"], ["--request-size=33554432"], ["--allocated"]]) {
        await run("qemu-io", ["-f", "raw", "-c", "write -P 0xee 0 128M", drive.uri]);
        await run("nbdcopy", [...FAST, ...how, "--flush", image, drive.uri]);
        const out = scratch.file("out");
        await run("nbdcopy", [
          ...FAST,
          ...how.filter((one) => one !== "--allocated"),
          drive.uri,
          out,
        ]);
        await run("cmp", [image, out]);
        assertEquals(await bytesAllocated(out) <= 6 << 20, true, `${how}`);
        await Deno.remove(out);
      }
      await assertSurvivesRestart(drive, bucket, image);
    },
});

testInS3({
  "looking at the map asks nothing of S3, and neither does copying the holes": async (bucket) => {
    await using scratch = await Scratch.make();
    await using proxy = startS3Proxy(bucket.ceph.endpoint);
    const segmentsRead: string[] = [];
    proxy.treat = ({ method, path }) => {
      if (method === "GET" && path.includes("/log/")) segmentsRead.push(path);
      return "pass";
    };
    const image = await sparseImage(scratch);
    await using first = await Drive.start({ bucket, size: "128M" });
    await run("nbdcopy", ["--destination-is-zero", image, first.uri]);
    await first.stopClean();

    await using cold = await Drive.start({ bucket: bucket.through(proxy) });
    segmentsRead.length = 0;
    const found = await run("nbdinfo", ["--map", "--totals", "--json", cold.uri]);
    assertEquals(segmentsRead, [], "by nbdinfo --map");
    const [data] = JSON.parse(found) as { size: number; type: number }[];
    assertEquals(data.type, 0);
    await copyOut(cold, scratch.file("out"));
    await run("cmp", [image, scratch.file("out")]);
    // a stripe of data is asked for at most once; there are 2048 stripes in all
    const stripes = Math.ceil(data.size / 65536);
    const isFew = segmentsRead.length > 0 && segmentsRead.length <= stripes;
    assertEquals(isFew, true, `${segmentsRead.length} GETs for ${stripes} stripes`);

    await run("qemu-io", ["-f", "raw", "-d", "unmap", "-c", "discard 0 128M", cold.uri]);
    segmentsRead.length = 0;
    await copyOut(cold, scratch.file("empty"));
    assertEquals(await bytesAllocated(scratch.file("empty")), 0);
    assertEquals(segmentsRead, [], "of a drive that was trimmed");
    await cold.stopClean();
  },
});
