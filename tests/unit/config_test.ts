import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { defaultSettings } from "../../src/config.ts";
import { ORIGINAL_CONFIG } from "../support/original_config.ts";
import { mistakesOf, settingsOf, withBucket } from "./config_texts.ts";

Deno.test("the original program's configuration is accepted as it stands", () => {
  const { file: _file, lines: _lines, ...settings } = settingsOf(ORIGINAL_CONFIG);
  assertEquals(settings, {
    accessKeyId: "1234567890ABCDEFGHIK",
    secretAccessKey: "RXRXRXRXR123890713287525ABCDEFGGHIJKLzzz",
    bucket: { kind: "s3", name: "the.name.of.the.bucket.to.create" },
    stripeBytes: 65536,
    volumeBytes: 16777216,
    prefix: "",
    pathStyle: true,
    port: 9999,
    debug: false,
    cacheStripes: 1024,
    cacheTtlMs: 60_000,
    listen: "127.0.0.1",
    insecure: false,
    readOnly: false,
    status: { hostname: "127.0.0.1", port: 9998 },
    ioTimeoutMs: undefined,
    uploads: 4,
    readaheadBytes: 16 * 1024 * 1024,
    flushAfterMs: 5000,
  });
});

Deno.test("a bucket alone is a configuration, and everything else has its default", () => {
  const settings = settingsOf("[s3]\nBUCKET=my-bucket");
  assertEquals(settings.bucket, { kind: "s3", name: "my-bucket" });
  assertEquals(settings.stripeBytes, undefined);
  assertEquals(settings.volumeBytes, undefined);
  assertEquals(settings.accessKeyId, undefined);
  assertEquals(settings.pathStyle, false);
  assertEquals([settings.listen, settings.port], ["127.0.0.1", 9999]);
});

Deno.test("without a file the disk is 1 GiB in the working directory", () => {
  const settings = defaultSettings("/home/me");
  assertEquals(settings.bucket, { kind: "directory", path: "/home/me/elasticdrive-data" });
  assertEquals(settings.volumeBytes, 1024 ** 3);
  assertEquals([settings.listen, settings.port], ["127.0.0.1", 9999]);
});

Deno.test("case, spaces, CRLF, a byte order mark, and both kinds of comment don't matter", () => {
  const text =
    "\uFEFF[S3]\r\n; one\r\n  # two\r\n\tbucket \t=  my-bucket  \r\n\r\n[Server]\r\nPort=1\r\n";
  const settings = settingsOf(text);
  assertEquals(settings.bucket, { kind: "s3", name: "my-bucket" });
  assertEquals(settings.port, 1);
  assertEquals(settings.lines, { bucket: 4, port: 7 });
});

Deno.test("a value goes to the end of its line, so a secret may hold # and =", () => {
  const settings = settingsOf(
    withBucket("AWS_ACCESS_KEY_ID=AKIA\nAWS_SECRET_ACCESS_KEY=a/b+c=#d;e"),
  );
  assertEquals(settings.secretAccessKey, "a/b+c=#d;e");
});

Deno.test("a section may be opened twice", () => {
  const settings = settingsOf("[s3]\nBUCKET=my-bucket\n[server]\nport=1\n[s3]\nREGION=eu-west-1");
  assertEquals(settings.region, "eu-west-1");
});

Deno.test("a line that is not UTF-8 is refused, unless it is a comment", () => {
  const latin1 = new TextDecoder().decode(Uint8Array.from([0xfc]));
  settingsOf(withBucket(`# for T${latin1}bingen`));
  const place = "[s3]\nBUCKET=file:/srv/T" + latin1 + "bingen";
  assertEquals(
    mistakesOf(place).at(-1),
    "config.ini:2: not all of this is UTF-8; allowed: a file in UTF-8",
  );
});

Deno.test("the original's file is accepted with its bucket switched to a directory", () => {
  const settings = settingsOf(ORIGINAL_CONFIG.replace(/^BUCKET=.*/m, "BUCKET=file:/srv/disk"));
  assertEquals(settings.bucket, { kind: "directory", path: "/srv/disk" });
});

Deno.test("a missing BUCKET is a mistake of the whole file, and a wrong one isn't also missing", () => {
  assertMatch(mistakesOf("")[0], /^config\.ini: \[s3\] BUCKET is missing: /);
  assertEquals(mistakesOf("[s3]\nBUCKET=?").length, 1);
  assertEquals(mistakesOf("[s3]\nBUCKET=").length, 1);
});

Deno.test("one half of the AWS key is refused, whichever it is", () => {
  assertStringIncludes(
    mistakesOf(withBucket("AWS_ACCESS_KEY_ID=AKIA"))[0],
    "config.ini:3: AWS_ACCESS_KEY_ID is given without AWS_SECRET_ACCESS_KEY; allowed: both, or neither",
  );
  assertStringIncludes(
    mistakesOf(withBucket("AWS_SECRET_ACCESS_KEY=s"))[0],
    "config.ini:3: AWS_SECRET_ACCESS_KEY is given without AWS_ACCESS_KEY_ID",
  );
});

Deno.test("no error message shows a secret, however it is written wrong", () => {
  const secret = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00";
  const id = "AWS_ACCESS_KEY_ID=AKIA";
  const wrong = [
    `${id}\nAWS_SECRET_ACCESS_KEY="${secret}"`,
    `${id}\nAWS_SECRET_ACCESS_KEY=x ${secret}`,
    `${id}\nAWS_SECRET_ACCESS_KEY ${secret}`,
    `${id}\nAWS_SECRET_ACCESS_KEY: ${secret}`,
    `${id}\nAWS_SECRET_ACCESS_KEY=\n${secret}`,
    `${id}\nAWS_SECRET_KEY=${secret}`,
    `${id}\nAWS_SECRET_ACCESS_KEY=${secret}\nAWS_SECRET_ACCESS_KEY=${secret}`,
    `AWS_SECRET_ACCESS_KEY=${secret}`,
    `STRIPE=${secret}`,
    `PREFIX=/${secret}`,
    `ENDPOINT=https://me:${secret.slice(0, 20)}@s3.example.com`,
    `ENDPOINT=https://s3.example.com/?X-Amz-Signature=${secret.slice(0, 20)}`,
    `${secret}=`,
    `[${secret}]`,
    `AWS_SECRET_ACCESS_KEY${secret}=1`,
  ];
  for (const text of wrong) {
    const message = mistakesOf(withBucket(text)).join("\n");
    assert(!message.includes(secret.slice(0, 8)), message);
  }
});

Deno.test("an unknown key is refused with the nearest known one, if one is near", () => {
  assertEquals(mistakesOf(withBucket("cachsize=1", "server")), [
    'config.ini:4: unknown key "cachsize" in [server]; did you mean cachesize?',
  ]);
  assertEquals(mistakesOf(withBucket("VOLUME_SIZE=1")), [
    'config.ini:3: unknown key "VOLUME_SIZE" in [s3]; did you mean VOLUMESIZE?',
  ]);
  assertMatch(mistakesOf(withBucket("compression=1"))[0], /"compression" in \[s3\]; allowed: AWS_/);
});

Deno.test("an unknown section is one mistake, whatever stands in it", () => {
  assertEquals(mistakesOf(withBucket("[sever]\nport=1\nfoo=2")), [
    "config.ini:3: unknown section [sever]; did you mean [server]?",
  ]);
  assertMatch(mistakesOf(withBucket("[database]"))[0], /allowed: \[s3\], \[server\]$/);
});

Deno.test("a key in the wrong section, or in none, is told where it belongs", () => {
  assertEquals(mistakesOf("port=1\n[server]\nBUCKET=my-bucket"), [
    "config.ini:1: port stands before any section; it belongs in [server]",
    "config.ini:3: BUCKET stands in [server]; it belongs in [s3]",
  ]);
});

Deno.test("a key given twice is refused, with both lines", () => {
  assertEquals(mistakesOf(withBucket("bucket=other")), [
    "config.ini:3: BUCKET is given a second time; the first is in line 2",
  ]);
});

Deno.test("a key without a value, and a line that is nothing, are refused", () => {
  assertEquals(mistakesOf(withBucket("REGION=\nREGION\n[server\n= 5\n\u0000")), [
    "config.ini:3: REGION has no value; allowed: a region's name, such as eu-central-1",
    'config.ini:4: "REGION ..." is neither [section] nor key = value nor a # comment',
    'config.ini:5: "[server ..." is neither [section] nor key = value nor a # comment',
    "config.ini:6: this is neither [section] nor key = value nor a # comment",
    "config.ini:7: this is neither [section] nor key = value nor a # comment",
  ]);
});

Deno.test("all mistakes are reported together, in the order of their lines", () => {
  const text = "[s3]\nSTRIPE=65000\nBUKET=x\n[server]\nport=70000\ncachettl=x\nlog=1";
  const places = mistakesOf(text).map((m) => /^config\.ini(:\d+)?/.exec(m)![0]);
  const lines = ["", ":2", ":3", ":5", ":6", ":7"];
  assertEquals(places, lines.map((line) => `config.ini${line}`));
});

Deno.test("of a file that is something else the first mistakes are shown, and the rest is counted", () => {
  const mistakes = mistakesOf("what\n".repeat(1000));
  assertEquals(mistakes.length, 31);
  assertEquals(mistakes.at(-1), "config.ini: 971 more");
});
