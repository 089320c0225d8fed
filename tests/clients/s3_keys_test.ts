/** Keys that stop working under a running drive, and clocks that are off: an outage named in the log, then on it goes. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { assertSurvivesRestart, configText, Drive } from "../support/drive.ts";
import { runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { SteadyClient } from "../support/steady_client.ts";
import { testInS3 } from "../support/test_buckets.ts";

/** A cache of 4 MiB before it: reads and writes need S3 all the time. */
const BUSY = { size: "32M", server: { cachesize: 64 } };

const WRITE_AND_FLUSH = `
drive = nbd.NBD()
drive.connect_uri(uri)
drive.pwrite(b"x" * 4096, 0)
drive.flush()
`;

/** Debian's libfaketime, as its command has it loaded; \`file\` says by how much the clock is off. */
function clockFrom(file: string): Record<string, string> {
  return {
    LD_PRELOAD: `/usr/lib/${Deno.build.arch}-linux-gnu/faketime/libfaketime.so.1`,
    FAKETIME_TIMESTAMP_FILE: file,
    FAKETIME_NO_CACHE: "1",
    FAKETIME_DONT_FAKE_MONOTONIC: "1",
  };
}

/** The drive's clients wait while `lock` is in force, and go on after `unlock`. */
async function assertWaitsOut(
  drive: Drive,
  client: SteadyClient,
  reason: RegExp,
  lock: () => Promise<void>,
  unlock: () => Promise<void>,
): Promise<void> {
  const firstLine = drive.lines.length;
  await lock();
  try {
    const said = await drive.says(/ does not serve: /, firstLine);
    // radosgw has another word for a request that is under way when it hears of the change
    if (!said.includes("AccessDenied; ")) assertMatch(said, reason);
    client.assertUnharmed();
  } finally {
    await unlock();
  }
  await client.goesOn(60);
  await drive.says(/ serves again /, firstLine);
  assertEquals(drive.lines.length - firstLine, 2, drive.stderr);
}

const WITHDRAWN = /: InvalidAccessKeyId; .*: check AWS_ACCESS_KEY_ID/;
const KEYS = "--uid=test --key-type=s3 --access-key=testaccess";

testInS3({
  "a user who is suspended, and a key that is withdrawn, are waited out": async (bucket) => {
    const { ceph } = bucket;
    await using drive = await Drive.start({ bucket, ...BUSY });
    await using client = await SteadyClient.start(drive.uri);
    await assertWaitsOut(
      drive,
      client,
      /: UserSuspended; the user of this access key is suspended/,
      () => ceph.admin("user suspend --uid=test"),
      () => ceph.admin("user enable --uid=test"),
    );
    await assertWaitsOut(
      drive,
      client,
      WITHDRAWN,
      () => ceph.admin(`key rm ${KEYS}`),
      () => ceph.admin(`key create ${KEYS} --secret-key=testsecret`),
    );
    await client.endIntact();
    await assertSurvivesRestart(drive, bucket);
  },

  "new keys in ~/.aws are taken up when the old ones have expired": async (bucket) => {
    const { ceph } = bucket;
    await using home = await Scratch.make();
    await Deno.mkdir(home.file(".aws"));
    const writeKeys = (id: string, secret: string) =>
      home.write(
        ".aws/credentials",
        `[default]\naws_access_key_id=${id}\naws_secret_access_key=${secret}\n`,
      );
    await writeKeys(ceph.accessKeyId, ceph.secretAccessKey);
    const config = configText({ bucket, ...BUSY }).replaceAll(/^AWS_.*\n/gm, "");
    const env = { HOME: home.path, AWS_EC2_METADATA_DISABLED: "true" };
    await using drive = await Drive.startWith(config, [], env);
    await using client = await SteadyClient.start(drive.uri);
    await assertWaitsOut(
      drive,
      client,
      WITHDRAWN,
      () => ceph.admin(`key rm ${KEYS}`),
      async () => {
        await ceph.admin("key create --uid=test --key-type=s3 --access-key=new --secret-key=fresh");
        await writeKeys("new", "fresh");
      },
    );
    await client.endIntact();
    await drive.stopClean();
    await ceph.admin(`key create ${KEYS} --secret-key=testsecret`);
  },

  "a clock an hour off is said once, with what to do, and the drive works": async (bucket) => {
    await using scratch = await Scratch.make();
    const offset = await scratch.write("offset", "-3600");
    await using drive = await Drive.start({ bucket, size: "16M", env: clockFrom(offset) });
    assertMatch(
      drive.lines[0],
      /warning: this machine's clock is 3\d\d\d s behind the server's: set it \(s3:/,
    );
    await runPython(WRITE_AND_FLUSH, [drive.uri]);
    // it is set while the drive runs, and then it is off to the other side
    for (const seconds of ["+0", "+3600"]) {
      await Deno.writeTextFile(offset, seconds);
      await runPython(WRITE_AND_FLUSH, [drive.uri]);
    }
    await drive.stopClean();
    assertStringIncludes(drive.stderr, "everything is stored");
    assertEquals(drive.lines.filter((line) => line.includes("warning")).length, 1, drive.stderr);
  },
});
