/** `elasticdrive check`: what it says, what it exits with, and that it changes nothing. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { configText, Drive, runElasticDrive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import {
  type DirectoryTestBucket,
  type TestBucket,
  testInBothBuckets,
  testInDirectory,
} from "../support/test_buckets.ts";

const MIB = 1 << 20;

async function check(bucket: TestBucket, size?: string) {
  await using scratch = await Scratch.make();
  const config = await scratch.write("config.ini", configText({ bucket, size }));
  return await runElasticDrive(["-c", config, "check"]);
}

const qemuIo = (drive: Drive, ...commands: string[]) =>
  run("qemu-io", ["-f", "raw", ...commands.flatMap((command) => ["-c", command]), drive.uri]);

/** 24 MiB in three segments behind the claim, of which the first is half overwritten, and a clean stop. */
async function makeVolume(bucket: TestBucket): Promise<void> {
  await using drive = await Drive.start({ bucket, size: "32M" });
  for (const [value, at] of [[1, 0], [2, 8], [3, 16]]) {
    await qemuIo(drive, `write -P ${value} ${at}M 8M`, "flush");
  }
  await qemuIo(drive, "write -P 4 0 4M", "flush");
  await drive.stopClean();
}

testInBothBuckets({
  "a sound volume gives 0 and its share of garbage, and stays as it is": async (bucket) => {
    await makeVolume(bucket);
    const before = await bucket.objects();
    const { code, stdout, stderr } = await check(bucket);
    assertEquals(code, 0, stderr + stdout);
    assertEquals(await bucket.objects(), before);
    assertStringIncludes(stdout, `${bucket.name}: 32 MiB in stripes of 64 KiB\n`);
    assertMatch(stdout, /^log: 5 objects, 28.0 MiB, up to segment 5 in epoch 1$/m);
    assertMatch(stdout, /^garbage: 14\.3 % of the stored bytes \(4\.0 MiB\)$/m);
    assertMatch(stdout, /^leftovers that nothing needs: 0 objects/m);
    assertMatch(stdout, /^sound: /m);
    assertMatch(stderr, /^elasticdrive: checking: 0 %, 0 bytes of 24\.0 MiB$/m);
  },

  "while a drive has the volume open it is named, and what it has flushed is checked": async (
    bucket,
  ) => {
    await using drive = await Drive.start({ bucket, size: "32M" });
    await qemuIo(drive, "write -P 1 0 8M", "flush");
    const { code, stdout } = await check(bucket);
    assertEquals(code, 0, stdout);
    assertStringIncludes(stdout, `is open on ${Deno.hostname()} (pid ${drive.pid}, epoch 1)`);
    assertMatch(stdout, /up to segment 2 in epoch 1/);
    await qemuIo(drive, "write -P 2 0 8M", "flush", "read -P 2 0 8M");
    await drive.kill();
    const crashed = await check(bucket);
    assertEquals(crashed.code, 0, crashed.stdout);
    assertMatch(crashed.stdout, /not stopped cleanly/);
    await using next = await Drive.start({ bucket });
    await qemuIo(next, "read -P 2 0 8M");
    await next.stopClean();
  },

  "where there is no volume it says so, exits with 2 and creates none": async (bucket) => {
    const { code, stdout, stderr } = await check(bucket, "32M");
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, `there is no volume at ${bucket.name}`);
    assertEquals(await bucket.objects().catch(() => []), []);
  },
});

async function flipBit(bucket: DirectoryTestBucket, key: string, byte: number): Promise<void> {
  const file = `${bucket.path}/${key}`;
  const bytes = await Deno.readFile(file);
  bytes[byte] ^= 1;
  await Deno.writeFile(file, bytes);
}

testInDirectory({
  "a bit flipped in a record gives 1, and key, offset, checksums and the part of the disk": async (
    bucket,
  ) => {
    await makeVolume(bucket);
    // of 128 records of 64 KiB, each with its prefix, behind a head of 72 + 128 * 28 bytes
    const head = 72 + 128 * 28;
    const record = 16 + 65536;
    await flipBit(bucket, "log/0000000003", head + 10 * record + 5000);
    await flipBit(bucket, "log/0000000002", head + 10 * record + 5000); // overwritten since
    const { code, stdout } = await check(bucket);
    assertEquals(code, 1, stdout);
    const offset = head + 10 * record;
    const damage = `damaged: log/0000000003 at offset ${offset}: record is damaged: CRC-32 `;
    assertStringIncludes(stdout, damage);
    assertMatch(stdout, /CRC-32 [0-9a-f]{8} expected, [0-9a-f]{8} found/);
    const from = 8 * MIB + 10 * 65536;
    assertStringIncludes(stdout, `  bytes ${from} to ${from + 65535} of the disk (64 KiB)\n`);
    assertStringIncludes(stdout, "damaged: 1 finding; 64 KiB of the disk can't be read\n");
    assert(!stdout.includes("sound"), stdout);
  },

  "a segment that is missing gives 1, and all of the disk that was in it": async (bucket) => {
    await makeVolume(bucket);
    await Deno.remove(`${bucket.path}/log/0000000003`);
    const { code, stdout } = await check(bucket);
    assertEquals(code, 1, stdout);
    assertStringIncludes(stdout, "damaged: log/0000000003: missing\n");
    assertStringIncludes(stdout, `  bytes ${8 * MIB} to ${16 * MIB - 1} of the disk (8 MiB)\n`);
  },

  "a volume that can't be opened gives 1, and what is in the way": async (bucket) => {
    await makeVolume(bucket);
    await flipBit(bucket, "volume.json", 40);
    const { code, stdout } = await check(bucket);
    assertEquals(code, 1, stdout);
    assertMatch(stdout, /^damaged: volume\.json: .*CRC-32/m);
    assertMatch(stdout, /the volume can't be opened$/m);
  },
});
