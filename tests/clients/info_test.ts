/** `elasticdrive info`: what a volume is, from its bucket alone. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { configText, Drive, runElasticDrive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInBothBuckets, testInDirectory } from "../support/test_buckets.ts";

const MIB = 1 << 20;

async function info(bucket: TestBucket, ...args: string[]) {
  await using scratch = await Scratch.make();
  const config = await scratch.write("config.ini", configText({ bucket }));
  return await runElasticDrive(["-c", config, "info", ...args]);
}

const qemuIo = (drive: Drive, ...commands: string[]) =>
  run("qemu-io", ["-f", "raw", ...commands.flatMap((command) => ["-c", command]), drive.uri]);

testInBothBuckets({
  "it says what the volume is, beside a drive and after it, and changes nothing": async (
    bucket,
  ) => {
    await using drive = await Drive.start({ bucket, size: "32M" });
    for (const value of [1, 2]) await qemuIo(drive, `write -P ${value} 0 8M`, "flush");
    const beside = await info(bucket);
    assertEquals(beside.code, 0, beside.stderr);
    assertMatch(beside.stdout, /^size +32 MiB in stripes of 64 KiB$/m);
    const who = `${Deno.hostname()} (pid ${drive.pid}), epoch 1, last heard of `;
    assertStringIncludes(beside.stdout, who);
    assertMatch(beside.stdout, /^lease +held/m);
    assertMatch(beside.stdout, /^checkpoint +none yet/m);
    assertMatch(beside.stdout, /^stored +16\.0 MiB in 3 segments$/m);
    await drive.stopClean();

    const before = await bucket.objects();
    const { code, stdout } = await info(bucket, "--json");
    assertEquals(await bucket.objects(), before);
    assertEquals(code, 0);
    const found = JSON.parse(stdout);
    assertEquals(found.name, bucket.name);
    assertEquals([found.volumeBytes, found.stripeBytes], [32 * MIB, 65536]);
    assertEquals([found.writer.lease, found.writer.pid], ["released", drive.pid]);
    const { liveBytes, segments, seq } = found.checkpoint;
    assertEquals([liveBytes, seq], [8 * MIB + 128 * 16, 3]);
    assertEquals([segments.objects, found.newer.objects], [2, 0]);
    const log = before.filter(({ key }) => key.startsWith("log/"));
    assert(Math.abs(segments.bytes - log.reduce((sum, { size }) => sum + size, 0)) < 200);
    assertEquals([found.objects.all, found.objects.log], [before.length, log.length]);

    await using next = await Drive.start({ bucket });
    await qemuIo(next, "read -P 2 0 8M", "write -P 3 8M 4M", "flush");
    await next.kill();
    const crashed = (await info(bucket)).stdout;
    assertMatch(crashed, /^lease +not released/m);
    assertMatch(crashed, /^live +8\.0 MiB, as of checkpoint 3$/m);
    assertMatch(crashed, /^stored +20\.0 MiB in 4 segments; 4\.0 MiB of it since checkpoint 3$/m);
  },

  "where there is no volume it says so, and creates none": async (bucket) => {
    const { code, stdout, stderr } = await info(bucket);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, `there is no volume at ${bucket.name}`);
    assertEquals(await bucket.objects().catch(() => []), []);
  },
});

testInDirectory({
  "of large stripes it says in what parts they are read": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "8M", s3: { STRIPE: "1M" } });
    await drive.stopClean();
    const size = /^size +8 MiB in stripes of 1 MiB, read in parts of 16 KiB$/m;
    assertMatch((await info(bucket)).stdout, size);
    assertEquals(JSON.parse((await info(bucket, "--json")).stdout).partBytes, 16384);
  },

  "segments that are missing are counted, and the first named": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "32M" });
    await qemuIo(drive, "write -P 1 0 20M", "flush");
    await drive.stopClean();
    const log = (await bucket.objects("log/")).map(({ key }) => key).sort();
    assert(!/^missing/m.test((await info(bucket)).stdout));
    for (const key of log.slice(2, 4)) await Deno.remove(`${bucket.path}/${key}`);
    const { code, stdout } = await info(bucket);
    assertEquals(code, 0);
    const line = new RegExp(
      `^missing +2 segments that checkpoint \\d+ needs, the first ${log[2]};`,
      "m",
    );
    assertMatch(stdout, line);
    const { missing } = JSON.parse((await info(bucket, "--json")).stdout).checkpoint;
    assertEquals(missing, { objects: 2, first: log[2] });
  },

  "a checkpoint that is damaged is named, and the one before it described": async (bucket) => {
    for (const value of [1, 2]) {
      await using drive = await Drive.start({ bucket, size: "32M" });
      await qemuIo(drive, `write -P ${value} 0 8M`, "flush");
      await drive.stopClean();
    }
    const checkpoints = (await bucket.objects("checkpoint/")).map(({ key }) => key).sort();
    const bytes = await bucket.read(checkpoints[1]);
    bytes[20] ^= 1;
    await bucket.write(checkpoints[1], bytes);
    const { code, stdout } = await info(bucket);
    assertEquals(code, 0);
    assertMatch(stdout, /^checkpoint +2 of epoch 1/m);
    assertMatch(stdout, new RegExp(`^damaged +${checkpoints[1]}: .*CRC-32`, "m"));
  },
});
