/** The program on its own: what it prints, which configuration it takes, and what it does without one. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import manifest from "../../deno.json" with { type: "json" };
import { configText, Drive, PROGRAM, runElasticDrive } from "../support/drive.ts";
import { ORIGINAL_CONFIG } from "../support/original_config.ts";
import { run, runProgram } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { testInBothBuckets, testInDirectory, testInS3 } from "../support/test_buckets.ts";

/** A copy of the program that has its folder to itself. */
async function copyProgram(scratch: Scratch): Promise<string> {
  await Deno.mkdir(scratch.file("bin"));
  await Deno.copyFile(PROGRAM, scratch.file("bin/elasticdrive"));
  return scratch.file("bin/elasticdrive");
}

async function assertSize(drive: Drive, bytes: number): Promise<void> {
  assertEquals(await run("nbdinfo", ["--size", drive.uri]), `${bytes}\n`);
}

Deno.test("--help names every option and exit code, --version the version", async () => {
  for (const option of ["--help", "-h"]) {
    const { code, stdout, stderr } = await runElasticDrive([option]);
    assertEquals([code, stderr], [0, ""]);
    for (
      const word of [
        "-c",
        "--config",
        "--takeover",
        "--version",
        "] check ",
        "] status ",
        "--watch",
        "--json",
        "] info ",
        "] reclaim ",
        "check-config",
        "] attach ",
        "] detach ",
        "--force",
        "config.ini",
      ]
    ) {
      assertStringIncludes(stdout, word);
    }
    assertMatch(stdout, /0 clean,\s1 .*,\s2 .*,\s3 .*,\s4 /s);
  }
  for (const option of ["--version", "-V"]) {
    const { code, stdout } = await runElasticDrive([option]);
    assertEquals([code, stdout], [0, `elasticdrive ${manifest.version}\n`]);
  }
});

Deno.test("a word that is no command is refused, and says how to serve", async () => {
  for (const word of ["start", "serve"]) {
    const { code, stdout, stderr } = await runElasticDrive([word]);
    assertEquals([code, stdout], [2, ""]);
    assertMatch(stderr, /unknown argument "\w+"; .*; without a command the drive is served$/m);
  }
});

Deno.test("an argument it does not know is refused", async () => {
  for (
    const args of [
      ["--takover"],
      ["serve"],
      ["check-config", "please"],
      ["check", "check"],
      ["attach"],
      ["detach"],
      ["attach", "/dev/nbd0", "/dev/nbd1"],
      ["attach", "/dev/nbd0", "--force"],
      ["--force"],
      ["check", "--takeover"],
      ["reclaim", "--takeover"],
      ["check", "--json"],
      ["info", "--watch"],
      ["status", "now"],
      ["--takeover=no"],
      ["-c"],
      ["-c", ""],
      ["-c", "one.ini", "--config=two.ini"],
      ["-x"],
    ]
  ) {
    const { code, stderr } = await runElasticDrive(args);
    assertEquals(code, 2, args.join(" "));
    assertMatch(
      stderr,
      /^elasticdrive: error: .*(unknown argument|takes|is allowed).*\n$/,
      args.join(" "),
    );
  }
  for (
    const [args, says] of [
      [["stauts"], 'unknown argument "stauts"; did you mean status?'],
      [["check", "status"], 'unknown argument "status"; check takes no more'],
      [["status", "--takeover"], "--takeover is allowed without a command only"],
      [["--json"], "--json is allowed with status and info only"],
    ] as const
  ) {
    assertStringIncludes((await runElasticDrive([...args])).stderr, says);
  }
});

Deno.test("what can't be printed is said in one line, but not to who has stopped reading", async () => {
  const full = await runProgram("sh", ["-c", '"$0" --help >/dev/full', PROGRAM]);
  const message = "elasticdrive: error: can't print: No space left on device (os error 28)\n";
  assertEquals([full.code, full.stderr], [2, message]);
  await using scratch = await Scratch.make();
  // a pipe whose only reader is gone
  const script = 'mkfifo "$1"; exec 3<>"$1" 4>"$1" 3<&-; "$0" --help >&4';
  const pipe = await runProgram("sh", ["-c", script, PROGRAM, scratch.file("pipe")]);
  assertEquals([pipe.code, pipe.stderr], [2, ""]);
});

Deno.test("attach says what is missing, and which devices there can be; detach of one that is not attached is done", async () => {
  await using scratch = await Scratch.make();
  const config = await scratch.write(
    "config.ini",
    `[s3]\nBUCKET=file:bucket\n[server]\nsocket=${scratch.file("nbd.sock")}\n`,
  );
  const tell = async (...args: string[]) => await runElasticDrive(["-c", config, ...args]);
  const { code, stderr } = await tell("attach", "/dev/nbd0");
  assertEquals(code, 2);
  // which of the two comes first depends on the machine
  assertMatch(
    stderr,
    /^elasticdrive: error: \/dev\/nbd0: .*(modprobe nbd|no server listens there)/,
  );
  for (const device of ["nbd0", "/dev/sda", "/dev/nbd", "/dev/nbd0p1", "/dev/nbd0/..", "0"]) {
    for (const command of ["attach", "detach"]) {
      const { code, stderr } = await tell(command, device);
      assertEquals(code, 2);
      assertStringIncludes(stderr, "is not the name of an NBD device; allowed: /dev/nbd0");
    }
  }
  assertEquals(await tell("detach", "/dev/nbd4321"), {
    code: 0,
    stdout: "/dev/nbd4321: not attached\n",
    stderr: "",
  });
});

testInBothBuckets({
  "the ready line says where, how large, in what, how much memory, and what to type next": async (
    bucket,
  ) => {
    for (const tcp of [true, false]) {
      const shape = { size: "80M", s3: { STRIPE: "32K" } };
      await using drive = await Drive.start({ bucket, tcp, ...shape });
      const parts =
        /^elasticdrive: ready: (.*), (.*) in stripes of (.*), at most (.*) of memory, (.*), epoch (\d+); next, as root: (.*)$/
          .exec(drive.readyLine);
      assert(parts, drive.readyLine);
      const [, address, size, stripe, memory, name, epoch, next] = parts;
      assertMatch(address, tcp ? /^127\.0\.0\.1:\d+$/ : /^\/.*\/nbd\.sock$/);
      assertEquals([size, stripe, name], ["80 MiB", "32 KiB", bucket.name]);
      assertMatch(memory, /^[\d.]+ MiB$/);
      assertEquals(epoch, tcp ? "1" : "2");
      const where = tcp ? `127.0.0.1 ${drive.port}` : `-unix ${address}`;
      assertEquals(next, `nbd-client -b 4096 ${where} /dev/nbd0`);
      if (!tcp) assertEquals(Deno.statSync(address).mode! & 0o777, 0o600);
      await drive.stopClean();
    }
  },
});

testInDirectory({
  "check-config prints what the configuration comes to, without the secret, and opens nothing":
    async (bucket) => {
      await using scratch = await Scratch.make();
      const keys = { AWS_ACCESS_KEY_ID: "AKIDVISIBLE", AWS_SECRET_ACCESS_KEY: "verysecretindeed" };
      const s3 = { ...keys, BUCKET: "some-bucket" };
      const text = configText({ bucket, size: "1G", s3 }).replace(bucket.config, "");
      const file = await scratch.write("config.ini", text);
      const { code, stdout, stderr } = await runElasticDrive(["-c", file, "check-config"]);
      assertEquals([code, stderr], [0, ""]);
      assertStringIncludes(stdout, file);
      assertMatch(stdout, /VOLUMESIZE = 1073741824 bytes \(1 GiB\)\s+line \d/);
      assertMatch(stdout, /AWS_ACCESS_KEY_ID = \*\*\*\*IBLE/);
      assert(!stdout.includes("AKIDV") && !stdout.includes("secretindeed"), stdout);
      assertEquals(await bucket.objects(), []);
    },

  "check-config names every mistake with its line": async (bucket) => {
    await using scratch = await Scratch.make();
    const text = `[s3]\n${bucket.config}STRIPE=70000\nVOLUMSIZE=1G\n[server]\nport=70000\nwhat\n`;
    const file = await scratch.write("config.ini", text);
    for (const command of [["check-config"], []]) {
      const { code, stdout, stderr } = await runElasticDrive(["-c", file, ...command]);
      assertEquals([code, stdout], [2, ""]);
      const lines = stderr.trim().split("\n");
      assertEquals(lines.length, 4, stderr);
      for (const [at, line] of [3, 4, 6, 7].entries()) {
        assertStringIncludes(lines[at], `error: ${file}:${line}: `);
      }
      assertStringIncludes(lines[1], "VOLUMESIZE");
    }
    assertEquals(await bucket.objects(), []);
  },

  "config.ini is found beside the program, then in the working directory, and -c comes first":
    async (bucket) => {
      await using scratch = await Scratch.make();
      const program = await copyProgram(scratch);
      const serve = async (size: number, args: string[], removeAfter?: string) => {
        await using work = await Scratch.make();
        const inWork = configText({ bucket, size: "3M", s3: { PREFIX: "work" } });
        await work.write("config.ini", inWork);
        await using drive = await Drive.spawn(program, args, work.path);
        await assertSize(drive, size << 20);
        await drive.stopClean();
        if (removeAfter) await Deno.remove(removeAfter);
      };
      const named = await scratch.write("mine.ini", withPrefix("1M", "named"));
      const beside = await scratch.write("bin/config.ini", withPrefix("2M", "beside"));
      await serve(1, ["-c", named]);
      await serve(1, [`--config=${named}`]);
      await serve(2, [], beside);
      await serve(3, []);
      const missing = await runElasticDrive(["-c", scratch.file("nowhere.ini")]);
      assertEquals(missing.code, 2);
      assertStringIncludes(missing.stderr, `${scratch.file("nowhere.ini")}: no such file`);

      function withPrefix(size: string, prefix: string): string {
        const server = { socket: scratch.file("nbd.sock") };
        return configText({ bucket, size, s3: { PREFIX: prefix }, server });
      }
    },
});

Deno.test("without any configuration it serves a GiB in ./elasticdrive-data on port 9999", async () => {
  await using scratch = await Scratch.make();
  const program = await copyProgram(scratch);
  await using work = await Scratch.make();
  for (const epoch of [1, 2]) {
    await using drive = await Drive.spawn(program, [], work.path);
    assertEquals(drive.address, "127.0.0.1:9999");
    assertStringIncludes(drive.stderr, "no config.ini found");
    const place = `file:${work.path}/elasticdrive-data, epoch ${epoch};`;
    assertStringIncludes(drive.readyLine, place);
    await assertSize(drive, 1 << 30);
    await drive.stopClean();
  }
});

testInS3({
  "the original program's configuration works as it stands": async (bucket) => {
    const { accessKeyId, secretAccessKey, endpoint } = bucket.ceph;
    const config = ORIGINAL_CONFIG
      .replace("1234567890ABCDEFGHIK", accessKeyId)
      .replace("RXRXRXRXR123890713287525ABCDEFGGHIJKLzzz", secretAccessKey)
      .replace("BUCKET=", `ENDPOINT=${endpoint}\nBUCKET=`);
    for (const command of ["write -P 7 0 16M", "read -P 7 0 16M"]) {
      await using drive = await Drive.startWith(config);
      assertEquals(drive.address, "127.0.0.1:9999");
      assertStringIncludes(drive.readyLine, "16 MiB in stripes of 64 KiB");
      assertStringIncludes(drive.readyLine, "s3://the.name.of.the.bucket.to.create");
      await run("qemu-io", ["-f", "raw", "-c", command, drive.uri]);
      await drive.stopClean();
    }
  },

  "a file with a secret that others can read is worth a warning": async (bucket) => {
    await using scratch = await Scratch.make();
    const file = await scratch.write("config.ini", configText({ bucket, size: "1M" }));
    await Deno.chmod(file, 0o644);
    await using drive = await Drive.spawn(PROGRAM, ["-c", file], scratch.path);
    assertMatch(drive.stderr, /warning: .*mode 0644.*chmod 600/);
    assert(!drive.stderr.includes(bucket.ceph.secretAccessKey));
    await drive.stopClean();
  },
});
