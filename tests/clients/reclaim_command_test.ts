/** Space given back on request: `elasticdrive reclaim`, and SIGUSR1 to a drive that serves. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { configText, Drive, PROGRAM, runElasticDrive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { Terminal } from "../support/terminal.ts";
import { type TestBucket, testInBothBuckets, testInDirectory } from "../support/test_buckets.ts";

const MIB = 1 << 20;

async function reclaim(bucket: TestBucket) {
  await using scratch = await Scratch.make();
  const config = await scratch.write("config.ini", configText({ bucket }));
  return await runElasticDrive(["-c", config, "reclaim"]);
}

const qemuIo = (drive: Drive, ...commands: string[]) =>
  run("qemu-io", ["-f", "raw", ...commands.flatMap((command) => ["-c", command]), drive.uri]);

/** 16 MiB, half of each of two segments overwritten: too little for a drive to begin by itself. */
async function makeGarbage(drive: Drive): Promise<void> {
  for (const at of [0, 8]) await qemuIo(drive, `write -P 1 ${at}M 8M`, "flush");
  for (const at of [0, 8]) await qemuIo(drive, `write -P 2 ${at}M 4M`, "flush");
}

const HELD = ["read -P 2 0 4M", "read -P 1 4M 4M", "read -P 2 8M 4M", "read -P 1 12M 4M"];

async function logBytes(bucket: TestBucket): Promise<number> {
  return (await bucket.objects("log/")).reduce((sum, { size }) => sum + size, 0);
}

testInBothBuckets({
  "it gives back what nothing needs and says how much; while a drive serves it is refused": async (
    bucket,
  ) => {
    await using drive = await Drive.start({ bucket, size: "32M" });
    await makeGarbage(drive);
    const refused = await reclaim(bucket);
    assertEquals([refused.code, refused.stdout], [2, ""]);
    assertStringIncludes(
      refused.stderr,
      `is open on ${Deno.hostname()} (pid ${drive.pid}, epoch 1)`,
    );
    assertStringIncludes(refused.stderr, `kill -USR1 ${drive.pid} on ${Deno.hostname()}`);
    await drive.stopClean();
    assert(await logBytes(bucket) > 24 * MIB);
    const { code, stdout, stderr } = await reclaim(bucket);
    assertEquals(code, 0, stderr);
    assertMatch(
      stdout,
      /^8\.0 MiB given back: 16\.\d MiB are stored in \d segments, 16\.0 MiB of them live\n$/,
    );
    assertMatch(stderr, /^elasticdrive: reclaiming: 0 %, 0 bytes of 8\.0 MiB$/m);
    assert(await logBytes(bucket) < 16.1 * MIB);
    await using next = await Drive.start({ bucket });
    await qemuIo(next, ...HELD);
    await next.stopClean();
  },
});

testInDirectory({
  "a drive that ended without a word has to be started first": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "32M" });
    await makeGarbage(drive);
    await drive.kill();
    const before = await bucket.objects();
    const { code, stderr } = await reclaim(bucket);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "did not end cleanly; start the drive once");
    assertEquals(await bucket.objects(), before);
  },

  "a drive that gets SIGUSR1 gives back what nothing needs, and serves on": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "32M" });
    await makeGarbage(drive);
    drive.signal("SIGUSR1");
    assertMatch(await drive.says(/reclaim: .* given back/), /reclaim: 8\.0 MiB given back: /);
    assert(await logBytes(bucket) < 16.1 * MIB);
    await qemuIo(drive, ...HELD);
    await drive.stopClean();
  },

  "on a terminal its progress is a bar, which is gone at the end": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "32M" });
    await makeGarbage(drive);
    await drive.stopClean();
    await using scratch = await Scratch.make();
    const config = await scratch.write("config.ini", configText({ bucket }));
    await using terminal = new Terminal(PROGRAM, ["-c", config, "reclaim"], scratch.path);
    assertEquals(await terminal.exit(), 0, terminal.shown);
    assertMatch(terminal.shown, /reclaiming \[[.#]{20}\] \d+ %, .* of 8\.0 MiB/);
    assertMatch(terminal.shown, /\[2K8\.0 MiB given back: .*\r\n$/);
  },
});
