/** `elasticdrive status`: how a drive that is served is, and what it says when none is. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { configText, Drive, PROGRAM, runElasticDrive } from "../support/drive.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { Terminal } from "../support/terminal.ts";
import { type TestBucket, testInBothBuckets, testInDirectory } from "../support/test_buckets.ts";

const ANY_PORT = { status: "127.0.0.1:0" };

/** Where a drive that was started with any port is asked. */
async function statusOf(drive: Drive): Promise<string> {
  const line = await drive.says(/^elasticdrive: status: /);
  return /http:\/\/([^/]+)\//.exec(line)![1];
}

function configFor(scratch: Scratch, bucket: TestBucket, status: string): Promise<string> {
  return scratch.write("config.ini", configText({ bucket, server: { status } }));
}

testInBothBuckets({
  "a drive that is well gives 0, and what was done with it; without one it is 2": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    await using drive = await Drive.start({ bucket, size: "32M", server: ANY_PORT });
    const config = await configFor(scratch, bucket, await statusOf(drive));
    await run("qemu-io", ["-f", "raw", "-c", "write -P 1 0 8M", "-c", "flush", drive.uri]);
    const { code, stdout, stderr } = await runElasticDrive(["-c", config, "status"]);
    assertEquals([code, stderr], [0, ""]);
    assertStringIncludes(stdout, `${bucket.name}: 32 MiB in stripes of 64 KiB, epoch 1, `);
    assertMatch(stdout, /^healthy$/m);
    assertMatch(stdout, /^unstored +0 bytes of at most /m);
    assertMatch(stdout, /^write +\d+ +[\d.]+ +.* ms +0$/m);
    assertMatch(stdout, /^S3 put +[1-9]/m);
    assertMatch(stdout, bucket.kind === "s3" ? /^bill +about \$\d/m : /^bill +none/m);
    const other = await scratch.write(
      "other.ini",
      `[s3]\nBUCKET=other-bucket\n[server]\nstatus=${await statusOf(drive)}\n`,
    );
    const asked = await runElasticDrive(["-c", other, "status"]);
    assertEquals([asked.code, asked.stdout.split(":", 1)], [2, stdout.split(":", 1)]);
    assertMatch(
      asked.stderr,
      /error: .*other\.ini:4: the drive at .* is another one, that of .*; .* give s3:\/\/other-bucket a status/,
    );
    const json = await runElasticDrive(["-c", config, "status", "--json"]);
    const report = JSON.parse(json.stdout);
    assertEquals([json.code, report.trouble, report.volume.name], [0, null, bucket.name]);
    assertEquals(report.commands.write.bytes, 8 << 20);
    await drive.stopClean();
    const away = await runElasticDrive(["-c", config, "status"]);
    assertEquals([away.code, away.stdout], [2, ""]);
    assertMatch(
      away.stderr,
      /error: no drive answers at 127\.0\.0\.1:\d+: nobody listens there\n$/,
    );
  },
});

testInDirectory({
  "a watch on a terminal outlives its drive, and Ctrl-C ends it with 0 and leaves the screen":
    async (bucket) => {
      await using scratch = await Scratch.make();
      await using first = await Drive.start({ bucket, size: "32M", server: ANY_PORT });
      const status = await statusOf(first);
      const config = await configFor(scratch, bucket, status);
      await using terminal = new Terminal(
        PROGRAM,
        ["-c", config, "status", "--watch"],
        scratch.path,
      );
      await terminal.until(/healthy/);
      await terminal.until(/in 2 s /);
      await first.stopClean();
      await terminal.until(/no report from 127\.0\.0\.1:\d+ for .*: nobody listens there/);
      await using second = await Drive.start({ bucket, server: { status } });
      await terminal.until(/the drive was started again at /);
      await terminal.interrupt();
      assertEquals(await terminal.exit(), 0, terminal.shown);
      assert(terminal.shown.includes("\x1b[?1049h"), "it had a screen of its own");
      assert(terminal.shown.trimEnd().endsWith("\x1b[?1049l"), "and left it");
      await second.stopClean();
    },

  "without an address to ask it says so; where something else listens, that": async (bucket) => {
    await using scratch = await Scratch.make();
    for (const status of ["off", "0"]) {
      const config = await configFor(scratch, bucket, status);
      const { code, stderr } = await runElasticDrive(["-c", config, "status"]);
      assertEquals(code, 2);
      assertStringIncludes(stderr, "names no address to ask");
    }
    const options = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
    await using other = Deno.serve(options, () => new Response("welcome"));
    const config = await configFor(scratch, bucket, `127.0.0.1:${other.addr.port}`);
    const { code, stderr } = await runElasticDrive(["-c", config, "status"]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "what answers there is no drive: not JSON");
    // the system takes the connection, and nobody says anything
    using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const toSilent = await configFor(scratch, bucket, `127.0.0.1:${silent.addr.port}`);
    const late = await runElasticDrive(["-c", toSilent, "status"]);
    assertEquals(late.code, 2);
    assertStringIncludes(late.stderr, "no answer within 5 s");
  },
});
