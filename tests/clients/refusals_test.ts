/** What can't be served is refused in one line that says what, where and what is allowed; nothing is changed. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { decodeChecked, encodeChecked } from "../../src/volume/checked_json.ts";
import { VOLUME_KEY, type VolumeInfo } from "../../src/volume/volume_info.ts";
import {
  configText,
  Drive,
  type DriveOptions,
  PROGRAM,
  runElasticDrive,
} from "../support/drive.ts";
import { run, runProgram } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import {
  type S3TestBucket,
  testInBothBuckets,
  testInDirectory,
  testInS3,
} from "../support/test_buckets.ts";

/** Starts with the text of a config.ini; it must be refused with one line that matches. */
async function assertRefused(config: string, message: RegExp): Promise<string> {
  await using scratch = await Scratch.make();
  const file = await scratch.write("config.ini", config);
  const { code, stdout, stderr } = await runElasticDrive(["-c", file]);
  assertOneLine({ code, stderr }, message);
  assertEquals(stdout, "");
  return stderr;
}

/** It may say before, as a warning, what it waits for. */
function assertOneLine({ code, stderr }: { code: number; stderr: string }, message: RegExp): void {
  assertEquals(code, 2, stderr);
  const errors = stderr.trim().split("\n").filter((line) => !/: warning: /.test(line));
  assertEquals(errors.length, 1, stderr);
  assertMatch(errors[0], /^elasticdrive: error: /);
  assertMatch(errors[0], message);
}

/** A volume of 16 MiB, filled with 7s and closed. */
async function makeVolume(options: DriveOptions): Promise<void> {
  await using drive = await Drive.start({ size: "16M", ...options });
  await run("qemu-io", ["-f", "raw", "-c", "write -P 7 0 16M", drive.uri]);
  await drive.stopClean();
}

testInDirectory({
  "a mistake in config.ini": async (bucket) => {
    const cases: [Partial<DriveOptions>, RegExp][] = [
      [
        { s3: { STRIPE: "65535" } },
        /config\.ini:4: STRIPE .*"65535".*power of two from 4096 to 4 MiB/,
      ],
      [{ s3: { STRIPE: "2048" } }, /config\.ini:4: STRIPE .*power of two from 4096 to 4 MiB/],
      [{ s3: { STRIPE: "8M" } }, /config\.ini:4: STRIPE .*power of two from 4096 to 4 MiB/],
      [{ size: "100000" }, /config\.ini:3: VOLUMESIZE .*100000.*multiple of .*98304 or 102400/],
      [{ size: "1000K", s3: { STRIPE: "64K" } }, /config\.ini:3: VOLUMESIZE .*multiple of STRIPE/],
      [{ size: "lots" }, /config\.ini:3: VOLUMESIZE .*"lots".*in bytes or with K, M, G or T/],
      [
        { server: { cachsize: 10 } },
        /config\.ini:6: unknown key "cachsize".*did you mean cachesize\?/,
      ],
    ];
    for (const [options, message] of cases) {
      await assertRefused(configText({ bucket, size: "16M", ...options }), message);
    }
    await assertRefused(
      `[s3]\n${bucket.config}VOLUMESIZE 1G\n`,
      /config\.ini:3: .*neither \[section\] nor key = value/,
    );
    await assertRefused(`[s3]\nVOLUMESIZE=1G\n`, /config\.ini: \[s3\] BUCKET is missing/);
    assertEquals(await bucket.objects(), []);
  },

  "a port that is in use, and a socket too": async (bucket) => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    // Before anything is made: not even the directory of the bucket is there afterwards.
    const path = `${bucket.path}/new`;
    const config = `[s3]\nBUCKET=file:${path}\nVOLUMESIZE=1M\n[server]\n`;
    const message = new RegExp(
      `config\\.ini:5: can't listen on 127.0.0.1 port ${port}: the port is in use; .*choose`,
    );
    await assertRefused(`${config}port=${port}\n`, message);
    await using drive = await Drive.start({ bucket, size: "1M" });
    await assertRefused(
      `${config}socket=${drive.address}\n`,
      /config\.ini:5: .*nbd\.sock: another server is listening/,
    );
    assert(!await exists(path), "the bucket was made");
    await run("nbdinfo", ["--size", drive.uri]);
    await drive.stopClean();
  },

  "a directory that is not writable": async (bucket) => {
    await using scratch = await Scratch.make();
    await Deno.chmod(scratch.path, 0o755);
    const program = scratch.file("elasticdrive");
    await Deno.copyFile(PROGRAM, program);
    const config = scratch.file("config.ini");
    for (const path of [bucket.path, `${bucket.path}/new`]) {
      await Deno.writeTextFile(
        config,
        `[s3]\nBUCKET=file:${path}\nVOLUMESIZE=1M\n[server]\nport=0\n`,
      );
      await Deno.chmod(bucket.path, 0o555);
      const end = await runUnprivileged(program, ["-c", config]);
      assertOneLine(
        end,
        new RegExp(
          `config\\.ini:2: BUCKET=file:${path} can't be used: this user has no permission there .*must be a directory`,
        ),
      );
      await Deno.chmod(bucket.path, 0o755);
    }
    assertEquals([...Deno.readDirSync(bucket.path)], []);
    const file = await scratch.write("file", "not a directory");
    await assertRefused(
      `[s3]\nBUCKET=file:${file}\nVOLUMESIZE=1M\n`,
      /can't be used: .*must be a directory/,
    );
  },

  "a journal that can't be kept, and a socket without a directory": async (bucket) => {
    await using scratch = await Scratch.make();
    const file = await scratch.write("file", "not a directory");
    const refused = (server: Record<string, string>, message: RegExp) =>
      assertRefused(configText({ bucket, size: "1M", server }), message);
    await refused(
      { journal: file },
      /config\.ini:\d+: journal can't be in .*file: .*must be a directory/,
    );
    await refused(
      { socket: `${file}s/nbd.sock` },
      /config\.ini:\d+: .*files\/nbd\.sock: its directory is not there/,
    );
    assertEquals(await bucket.objects(), []);
  },

  "a cache that is larger than the machine's memory": async (bucket) => {
    const refused = (cachesize: number, size?: string) =>
      assertRefused(
        configText({ bucket, size, server: { cachesize } }),
        /config\.ini:\d+: cachesize is \d+: .* of \d+ bytes are \d+ MiB, and this machine has .*: set cachesize=\d+/,
      );
    await refused(16_000_000, "1M");
    assertEquals(await bucket.objects(), []);
    await makeVolume({ bucket, s3: { STRIPE: "4M" } });
    await refused(250_000);
  },

  "a volume of another format version, or one whose description is damaged": async (bucket) => {
    await makeVolume({ bucket });
    const path = `${bucket.path}/${VOLUME_KEY}`;
    const bytes = await Deno.readFile(path);
    const otherFormat = { ...decodeChecked<VolumeInfo>(VOLUME_KEY, bytes), format: 3 };
    const flipped = bytes.slice();
    flipped[bytes.indexOf("1".charCodeAt(0))] ^= 2;
    for (
      const [broken, message] of [
        [encodeChecked(otherFormat), /volume\.json has format 3; .*formats 1 and 2 only/],
        [
          flipped,
          /error: file:\S+: volume\.json: text is damaged: CRC-32 \w{8} expected, \w{8} found/,
        ],
        [
          bytes.slice(0, 30),
          /volume\.json: its 30 bytes do not end in a checksum, .*; elasticdrive check says/,
        ],
        [new Uint8Array(), /volume\.json: its 0 bytes do not end in a checksum/],
      ] as const
    ) {
      await Deno.writeFile(path, broken);
      const before = await bucket.objects();
      await assertRefused(configText({ bucket }), message);
      assertEquals(await bucket.objects(), before);
    }
  },

  "a piece of the log that is missing or damaged": async (bucket) => {
    await makeVolume({ bucket, args: [] });
    await using drive = await Drive.start({ bucket });
    await run("qemu-io", ["-f", "raw", "-c", "write -P 8 0 1M", "-c", "flush", drive.uri]);
    await run("qemu-io", ["-f", "raw", "-c", "write -P 9 1M 1M", "-c", "flush", drive.uri]);
    await drive.kill(); // so that there is no checkpoint of these two
    const log = await bucket.objects("log/");
    const key = log.toSorted((a, b) => a.key < b.key ? -1 : 1).at(-2)!.key;
    const path = `${bucket.path}/${key}`;
    const bytes = await Deno.readFile(path);
    bytes[40] ^= 1;
    await Deno.writeFile(path, bytes);
    const objects = () => bucket.objects("log/");
    const before = await objects();
    await assertRefused(configText({ bucket }), new RegExp(key));
    await Deno.remove(path);
    await assertRefused(configText({ bucket }), new RegExp(key));
    assertEquals(await objects(), before.filter((object) => object.key !== key));
  },
});

testInBothBuckets({
  "no VOLUMESIZE where there is no volume yet": async (bucket) => {
    await assertRefused(
      configText({ bucket }),
      /config\.ini:\d+: there is no volume at .*check BUCKET .*if VOLUMESIZE is set \(bytes, or with K, M, G or T\)/,
    );
    assertEquals(await bucket.objects(), []);
  },

  "another STRIPE or a smaller VOLUMESIZE than the volume's": async (bucket) => {
    await makeVolume({ bucket, s3: { STRIPE: "16K" } });
    const before = await bucket.objects();
    await assertRefused(
      configText({ bucket, size: "16M", s3: { STRIPE: "64K" } }),
      /config\.ini:\d+: STRIPE is 65536.*made with 16384.*set STRIPE=16384/,
    );
    await assertRefused(
      configText({ bucket, size: "8M" }),
      /config\.ini:\d+: VOLUMESIZE is 8388608.*has 16777216 bytes.*set VOLUMESIZE=16777216 or more/,
    );
    assertEquals(await bucket.objects(), before);
  },
});

Deno.test("certificate authorities that are not there", async () => {
  await using scratch = await Scratch.make();
  const text = "[s3]\nBUCKET=my-bucket\nVOLUMESIZE=1M\n[server]\nport=0\nstatus=off\n";
  const file = await scratch.write("config.ini", text);
  for (const [name, value] of [["DENO_CERT", "/nowhere.pem"], ["DENO_TLS_CA_STORE", "none"]]) {
    const end = await runProgram(PROGRAM, ["-c", file], { env: { [name]: value } });
    assertOneLine(end, /no certificate authorities \(DENO_TLS_CA_STORE and DENO_CERT/);
  }
});

Deno.test("a region or an endpoint of the environment that is not there is named, at once", async () => {
  await using scratch = await Scratch.make();
  const keys = "AWS_ACCESS_KEY_ID=testaccess\nAWS_SECRET_ACCESS_KEY=testsecret\n";
  const text = `[s3]\n${keys}BUCKET=my-bucket\nVOLUMESIZE=1M\n[server]\nport=0\nstatus=off\n`;
  const file = await scratch.write("config.ini", text);
  await Deno.chmod(file, 0o600);
  for (
    const [env, message] of [
      [{ AWS_REGION: "eu-nowhere-9" }, /at AWS\): .* check the region "eu-nowhere-9".*known\)$/],
      [
        { AWS_ENDPOINT_URL: "http://no-such-host.invalid/" },
        /at AWS_ENDPOINT_URL http:\/\/no-such-host\.invalid\): .*check AWS_ENDPOINT_URL, PATH_STYLE and .*known\)$/,
      ],
      [
        { AWS_ENDPOINT_URL_S3: "s3.example.com" },
        /AWS_ENDPOINT_URL_S3 in the environment can't be what it is; allowed: a URL such as/,
      ],
    ] as const
  ) {
    assertOneLine(await runProgram(PROGRAM, ["-c", file], { env }), message);
  }
});

testInS3({
  "a key that S3 does not know, or a secret that is not the key's": async (bucket) => {
    await makeVolume({ bucket });
    const before = await bucket.objects();
    for (
      const [key, message] of [
        ["AWS_ACCESS_KEY_ID", /InvalidAccessKeyId.*check AWS_ACCESS_KEY_ID/],
        ["AWS_SECRET_ACCESS_KEY", /SignatureDoesNotMatch.*check AWS_SECRET_ACCESS_KEY/],
      ] as const
    ) {
      const s3 = bucket.configWith({ [key]: "not-what-it-should-be" });
      const said = await assertRefused(`[s3]\n${s3}[server]\nport=0\n`, message);
      assertStringIncludes(said, bucket.name);
      assertStringIncludes(said, bucket.ceph.endpoint);
      assert(!said.includes("not-what-it-should-be") && !said.includes("testsecret"), said);
    }
    assertEquals(await bucket.objects(), before);
  },

  "a bucket that this key has no permission for": async (bucket) => {
    await makeVolume({ bucket });
    const { accessKeyId, secretAccessKey } = bucket.ceph.other;
    const keys = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
    const before = await bucket.objects();
    const config = `[s3]\n${bucket.configWith(keys)}[server]\nport=0\n`;
    await assertRefused(config, /AccessDenied.*permission s3:\w+ on bucket drive-\d+/);
    assertEquals(await bucket.objects(), before);
  },

  "an endpoint where nobody listens, a host that nobody knows": async (bucket) => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    listener.close();
    const refused = (ENDPOINT: string, message: RegExp) =>
      assertRefused(`[s3]\n${bucket.configWith({ ENDPOINT })}[server]\nport=0\n`, message);
    await Promise.all([
      refused(
        `http://127.0.0.1:${port}`,
        /127\.0\.0\.1:\d+\): nobody listens there: check ENDPOINT/,
      ),
      refused("http://no-such-host.invalid", /the host name is not known: check ENDPOINT/),
      refused(bucket.ceph.endpoint.replace("http:", "https:"), /should ENDPOINT begin with http:/),
      refusedByASilentOne(bucket),
    ]);
  },
});

/** A server that accepts connections and says nothing is given up after a while. */
async function refusedByASilentOne(bucket: S3TestBucket): Promise<void> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const connections: Deno.Conn[] = [];
  const accepting = (async () => {
    for await (const connection of listener) connections.push(connection);
  })();
  const ENDPOINT = `http://127.0.0.1:${listener.addr.port}`;
  await assertRefused(
    `[s3]\n${bucket.configWith({ ENDPOINT })}[server]\nport=0\n`,
    /no answer.*ENDPOINT http:\/\/127\.0\.0\.1:\d+/,
  );
  listener.close();
  await accepting;
  for (const connection of connections) connection.close();
}

/** Root may write anywhere: as root, the program runs as a user who may not. */
function runUnprivileged(program: string, args: string[]) {
  if (Deno.uid() !== 0) return runProgram(program, args);
  const user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
  return runProgram("setpriv", [...user, program, ...args]);
}

async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}
