import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { describe } from "../../src/config.ts";
import { assertRefused, mistakesOf, settingsOf, valueOf, withBucket } from "./config_texts.ts";

Deno.test("sizes are bytes or take K, M, G and T, which are powers of 1024", () => {
  const sizes = ["4096", "4k", "4 K", "4KB", "4KiB", "1M", "1G", "1T", "1024t"];
  const bytes = [4096, 4096, 4096, 4096, 4096, 2 ** 20, 2 ** 30, 2 ** 40, 2 ** 50];
  assertEquals(sizes.map((text) => valueOf("volumeBytes", text)), bytes);
  for (const text of ["4096.5", "-4096", "4X", "0x1000", "1e6", "4 K M", "K", "1025T", "0"]) {
    assertRefused("volumeBytes", text);
  }
});

Deno.test("yes and no can be written in four ways", () => {
  for (const text of ["1", "yes", "TRUE", "On"]) assertEquals(valueOf("debug", text), true);
  for (const text of ["0", "no", "False", "OFF"]) assertEquals(valueOf("debug", text), false);
  for (const text of ["2", "y", "constructor", "enabled"]) assertRefused("debug", text);
});

Deno.test("STRIPE is a power of two from 4096 to 4 MiB", () => {
  assertEquals(valueOf("stripeBytes", "4096"), 4096);
  assertEquals(valueOf("stripeBytes", "4M"), 4 * 1024 * 1024);
  for (const text of ["65535", "2048", "8M", "12K", "0"]) assertRefused("stripeBytes", text);
});

Deno.test("VOLUMESIZE is a multiple of STRIPE, or of 4096 as long as STRIPE is the volume's", () => {
  assertEquals(valueOf("volumeBytes", "12288"), 12288);
  assertEquals(settingsOf(withBucket("STRIPE=64K\nVOLUMESIZE=1G")).volumeBytes, 2 ** 30);
  assertEquals(mistakesOf(withBucket("VOLUMESIZE=16777217\nSTRIPE=64K")), [
    "config.ini:3: VOLUMESIZE can't be 16777217; allowed: a multiple of STRIPE (65536 bytes), " +
    "such as 16777216 or 16842752",
  ]);
  assertEquals(mistakesOf(withBucket("VOLUMESIZE=5000")), [
    "config.ini:3: VOLUMESIZE can't be 5000; allowed: a multiple of the block (4096 bytes), " +
    "such as 4096 or 8192",
  ]);
  assertStringIncludes(mistakesOf(withBucket("VOLUMESIZE=5000\nSTRIPE=64K"))[0], "such as 65536");
});

Deno.test("a wrong STRIPE is one mistake, and VOLUMESIZE is not measured by it", () => {
  assertEquals(mistakesOf(withBucket("STRIPE=65000\nVOLUMESIZE=65000")).length, 1);
});

Deno.test("bucket names follow S3's rules", () => {
  const good = ["abc", "my-bucket", "a.b.c", "1bucket", "x".repeat(63)];
  for (const name of good) {
    assertEquals(settingsOf(`[s3]\nBUCKET=${name}`).bucket, { kind: "s3", name });
  }
  const bad = ["ab", "x".repeat(64), "My-Bucket", "my_bucket", "-abc", "abc.", "a..b", "10.0.0.1"];
  for (const name of [...bad, "s3://abc", "abc/def", '"my-bucket"', "/srv/disk"]) {
    const [mistake, ...more] = mistakesOf(`[s3]\nBUCKET=${name}`);
    assertEquals(more, []);
    assertStringIncludes(mistake, `config.ini:2: BUCKET can't be "${name.slice(0, 60)}`);
  }
});

Deno.test("BUCKET=file: is a directory, relative to the file's folder", () => {
  const pathOf = (text: string) => settingsOf(`[s3]\nBUCKET=${text}`).bucket;
  assertEquals(pathOf("file:/srv/disk"), { kind: "directory", path: "/srv/disk" });
  assertEquals(pathOf("file:///srv/disk/"), { kind: "directory", path: "/srv/disk" });
  assertEquals(pathOf("file:disk"), { kind: "directory", path: "/etc/elasticdrive/disk" });
  assertEquals(pathOf("FILE:../my disk"), { kind: "directory", path: "/etc/my disk" });
  for (const text of ["file:", "file:~/disk", "file://host/disk"]) {
    assertStringIncludes(mistakesOf(`[s3]\nBUCKET=${text}`)[0], `BUCKET can't be "${text}"`);
  }
});

Deno.test("keys that mean nothing to a directory are refused with one", () => {
  const text = "[s3]\nBUCKET=file:/x\nENDPOINT=http://h\nREGION=r\nPATH_STYLE=no\nSTORAGE_CLASS=X";
  assertEquals(
    mistakesOf(text),
    ["ENDPOINT", "REGION", "PATH_STYLE", "STORAGE_CLASS"].map((name, i) =>
      `config.ini:${i + 3}: ${name} means nothing to a BUCKET=file: directory; remove it`
    ),
  );
});

Deno.test("an ENDPOINT is an http or https URL, and makes path style the default", () => {
  assertEquals(valueOf("endpoint", "http://127.0.0.1:9000/"), "http://127.0.0.1:9000");
  assertEquals(valueOf("endpoint", "https://s3.example.com"), "https://s3.example.com");
  for (const text of ["s3.example.com", "localhost:9000", "ftp://h", "http://", "http://a b"]) {
    assertRefused("endpoint", text);
  }
  assertRefused("endpoint", "http://h/#x");
  for (const text of ["http://user:pass@h", "http://h/?a=b"]) {
    const [mistake] = mistakesOf(withBucket(`ENDPOINT=${text}`));
    assert(mistake.startsWith("config.ini:3: ENDPOINT can't be what it is (not shown); "), mistake);
  }
  assertEquals(settingsOf(withBucket("ENDPOINT=http://h")).pathStyle, true);
  assertEquals(settingsOf(withBucket("ENDPOINT=http://h\nPATH_STYLE=no")).pathStyle, false);
});

Deno.test("PREFIX ends in a slash however it is written, and can't leave its place", () => {
  assertEquals(valueOf("prefix", "disks/one"), "disks/one/");
  assertEquals(valueOf("prefix", "disks/one/"), "disks/one/");
  for (
    const text of ["/", "/a", "a//b", "..", "a/../b", "./a", "a b", "a?b", "ü", "x".repeat(513)]
  ) {
    const mistakes = mistakesOf(withBucket(`PREFIX=${text}`));
    assertStringIncludes(mistakes[0], `config.ini:3: PREFIX can't be "${text.slice(0, 60)}`);
  }
});

Deno.test("a storage class that can't be read at once is refused", () => {
  assertEquals(valueOf("storageClass", "STANDARD_IA"), "STANDARD_IA");
  assertEquals(valueOf("storageClass", "GLACIER_IR"), "GLACIER_IR");
  for (const text of ["GLACIER", "deep_archive", "a class"]) assertRefused("storageClass", text);
});

Deno.test("numbers outside their range are refused", () => {
  assertEquals(valueOf("port", "0"), 0);
  for (const text of ["65536", "-1", "http", "99 99"]) assertRefused("port", text);
  assertEquals(valueOf("cacheStripes", "16"), 16);
  for (const text of ["15", "1e9", "12.5"]) assertRefused("cacheStripes", text);
  assertEquals([valueOf("uploads", "1"), valueOf("uploads", "64")], [1, 64]);
  for (const text of ["0", "65"]) assertRefused("uploads", text);
  assertEquals([valueOf("readaheadBytes", "0"), valueOf("readaheadBytes", "1G")], [0, 2 ** 30]);
  assertRefused("readaheadBytes", "2G");
});

Deno.test("seconds may have a fraction and become milliseconds; no iotimeout is waiting for ever", () => {
  assertEquals(valueOf("flushAfterMs", "0.25"), 250);
  assertEquals(valueOf("cacheTtlMs", "3600"), 3_600_000);
  assertEquals(valueOf("ioTimeoutMs", "30"), 30_000);
  assertEquals(valueOf("ioTimeoutMs", "0"), undefined);
  for (const text of ["0", "5s", "-1", "1e3", "2000001", "NaN"]) {
    assertRefused("flushAfterMs", text);
  }
});

Deno.test("a cache of a TiB or more is refused, reckoned with the stripe there will be", () => {
  const [mistake] = mistakesOf(withBucket("cachesize=16777216", "server"));
  assertStringIncludes(mistake, "config.ini:4: cachesize can't be 16777216");
  assertStringIncludes(mistake, "1 TiB of memory; allowed: up to 16777215");
  assertEquals(
    settingsOf("[s3]\nBUCKET=my-bucket\nSTRIPE=4096\n[server]\ncachesize=16777216").cacheStripes,
    16777216,
  );
});

Deno.test("listen takes one address or name, and points to port for the rest", () => {
  for (const host of ["0.0.0.0", "::", "::1", "fe80::1", "localhost", "nas.local"]) {
    const settings = settingsOf(withBucket(`listen=${host}\ninsecure=yes`, "server"));
    assertEquals(settings.listen, host);
  }
  assertEquals(valueOf("listen", "[::1]"), "::1");
  for (const text of ["127.0.0.1:9999", "a b", "tcp://h", "*"]) assertRefused("listen", text);
});

Deno.test("an address that others can reach needs TLS, or a line that says that it does not", () => {
  for (const host of ["127.0.0.1", "127.9.9.9", "::1", "0:0:0:0:0:0:0:1", "localhost"]) {
    assertEquals(valueOf("listen", host), host);
  }
  for (const host of ["0.0.0.0", "::", "fe80::1", "192.168.1.5", "nas.local", "127.evil.com"]) {
    const [mistake] = mistakesOf(withBucket(`listen=${host}`, "server"));
    assertStringIncludes(mistake, `config.ini:4: listen can't be ${host} as it is`);
    assertStringIncludes(mistake, "allowed: 127.0.0.1, ::1 or localhost; or with tlscert and tls");
    for (const more of ["insecure=yes", "tlscert=c.pem\ntlskey=k.pem"]) {
      assertEquals(settingsOf(withBucket(`listen=${host}\n${more}`, "server")).listen, host);
    }
    assertEquals(mistakesOf(withBucket(`listen=${host}\ninsecure=no`, "server")).length, 1);
  }
});

Deno.test("status takes a port, an address and a port, or off; 127.0.0.1:9998 without it", () => {
  for (
    const [text, hostname, port] of [
      ["9997", "127.0.0.1", 9997],
      ["127.0.0.1:0", "127.0.0.1", 0],
      ["[::1]:80", "::1", 80],
      ["localhost:65535", "localhost", 65535],
    ] as const
  ) {
    assertEquals(settingsOf(withBucket(`status=${text}`, "server")).status, { hostname, port });
  }
  assertEquals(settingsOf(withBucket("status=OFF", "server")).status, "off");
  for (
    const text of ["127.0.0.1", "::1:9998", "[::1]", "127.0.0.1:65536", ":9998", "http://h:1", "no"]
  ) {
    assertRefused("status", text);
  }
  const shown = describe(settingsOf(withBucket("status=[::1]:9998", "server"))).join("\n");
  assertStringIncludes(shown, "  status = [::1]:9998 ");
});

Deno.test("a status that others can reach needs a line that says so, also beside TLS", () => {
  const tls = "tlscert=c.pem\ntlskey=k.pem";
  for (const address of ["0.0.0.0:9998", "[::]:9998", "192.168.1.5:1", "nas.local:9998"]) {
    for (const more of ["", "insecure=no", tls]) {
      const [mistake, ...others] = mistakesOf(withBucket(`status=${address}\n${more}`, "server"));
      assertStringIncludes(mistake, `config.ini:4: status can't be ${address} as it is`);
      assertStringIncludes(mistake, "allowed: 127.0.0.1, ::1 or localhost; or with insecure = yes");
      assertEquals(others, []);
    }
    for (const more of ["insecure=yes", `insecure=yes\n${tls}`]) {
      settingsOf(withBucket(`status=${address}\n${more}`, "server"));
    }
  }
});

Deno.test("the files of TLS are found beside config.ini, and each is of use or refused", () => {
  const files = "tlscert=cert.pem\ntlskey=/k.pem\ntlsca=ca.pem";
  const { tlsCert, tlsKey, tlsCa } = settingsOf(withBucket(files, "server"));
  assertEquals(
    [tlsCert, tlsKey, tlsCa],
    ["/etc/elasticdrive/cert.pem", "/k.pem", "/etc/elasticdrive/ca.pem"],
  );
  const wrong: [string, string][] = [
    ["tlscert=c", "config.ini:4: tlscert is given without tlskey; allowed: both, or neither for "],
    ["tlskey=k", "config.ini:4: tlskey is given without tlscert; allowed: both, or neither for "],
    ["tlsca=a", "config.ini:4: tlsca is given without tlscert and tlskey; allowed: all three"],
    ["tlscert=c\ntlskey=k\nsocket=s", "config.ini:4: tlscert means nothing to a socket"],
    ["tlscert=c\ntlskey=k\ninsecure=yes", "config.ini:6: insecure means nothing with tlscert"],
  ];
  for (const [lines, expected] of wrong) {
    const mistakes = mistakesOf(withBucket(lines, "server"));
    assertEquals(mistakes.length, 1, mistakes.join("\n"));
    assertStringIncludes(mistakes[0], expected);
  }
  settingsOf(withBucket("tlscert=c\ntlskey=k\nsocket=s\nport=1", "server"));
});

Deno.test("what is stored in directories can't be where Deno opens no files", () => {
  for (const folder of ["/dev/shm/disk", "/proc", "/sys/disk"]) {
    const why =
      `can't be in ${folder}: Deno opens no files of a program's own in /dev, /proc and /sys; /run is in memory, too`;
    assertEquals(mistakesOf(withBucket(`journal=${folder}`, "server")), [
      `config.ini:4: journal ${why}`,
    ]);
    assertEquals(mistakesOf(`[s3]\nBUCKET=file:${folder}`), [`config.ini:2: BUCKET ${why}`]);
  }
  assertEquals(valueOf("journal", "/devices/journal"), "/devices/journal");
});

Deno.test("a path is neither in quotes nor followed by a comment, and journal is off in any case", () => {
  for (const field of ["socket", "journal"] as const) {
    for (const text of ['"/run/x"', "'/run/x'", "/run/x # mine", "/run/x ;mine"]) {
      assertRefused(field, text);
      assertStringIncludes(mistakesOf(`[s3]\nBUCKET=file:${text}`)[0], "BUCKET can't be");
    }
    const [mistake] = mistakesOf(withBucket(`${field}=${"x".repeat(1001)}`, "server"));
    assertStringIncludes(mistake, "up to 1,000 characters");
    assertEquals(mistakesOf(withBucket(`${field}=/run/\0`, "server")).length, 1);
  }
  assertEquals(valueOf("journal", "/run/x#y"), "/run/x#y");
  assertEquals(valueOf("journal", "OFF"), "off");
});

Deno.test("a key of an account is ASCII: another can't be sent", () => {
  const [mistake, ...others] = mistakesOf(
    withBucket("AWS_ACCESS_KEY_ID=\u00e4bc\nAWS_SECRET_ACCESS_KEY=x"),
  );
  assertEquals(others, []);
  assertStringIncludes(mistake, "config.ini:3: AWS_ACCESS_KEY_ID can't be");
});

Deno.test("a socket switches TCP off unless a line asks for it", () => {
  const alone = settingsOf(withBucket("socket=/run/ed.sock", "server"));
  assertEquals([alone.socket, alone.listen], ["/run/ed.sock", undefined]);
  for (const line of ["port=9999", "listen=127.0.0.1"]) {
    const both = settingsOf(withBucket(`socket=ed.sock\n${line}`, "server"));
    assertEquals(both.socket, "/etc/elasticdrive/ed.sock");
    assertEquals([both.listen, both.port], ["127.0.0.1", 9999]);
  }
});

Deno.test("a socket path longer than the system takes is refused", () => {
  const path = `/${"x".repeat(106)}`;
  assertEquals(valueOf("socket", path), path);
  const [mistake] = mistakesOf(withBucket(`socket=${path}x`, "server"));
  assertStringIncludes(mistake, "allowed: a path of at most 107 bytes");
  assertStringIncludes(mistakesOf(withBucket("socket=~/s", "server"))[0], "without ~");
});
