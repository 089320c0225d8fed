/** A drive on TCP behind TLS, as the clients of other people find it: libnbd's, QEMU's, nbd-client. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Certificates } from "../support/certificates.ts";
import { assertSurvivesRestart, configText, Drive, runElasticDrive } from "../support/drive.ts";
import { type ProgramEnd, run, runProgram, runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { secureUri, startSecure } from "../support/secure_drive.ts";
import { testInBothBuckets, testInDirectory } from "../support/test_buckets.ts";

const FAST = ["--connections=4", "--requests=64"];

/** Options that have a program of QEMU use the certificates of a directory, and the drive as an image. */
function qemuTls(directory: string, priority?: string): string[] {
  const chosen = priority === undefined ? "" : `,priority=${priority}`;
  const credentials = `tls-creds-x509,id=tls,endpoint=client,dir=${directory}${chosen}`;
  return ["--object", credentials, "--image-opts"];
}

function qemuImage(drive: Drive): string {
  const server = `server.type=inet,server.host=localhost,server.port=${drive.port}`;
  return `driver=nbd,${server},tls-creds=tls`;
}

function assertFailed({ code, stdout, stderr }: ProgramEnd, why: RegExp): void {
  assert(code !== 0, stdout);
  assertMatch(stderr + stdout, why);
}

testInDirectory({
  "libnbd, QEMU and nbd-client find the drive behind TLS, and show it their certificates": async (
    bucket,
  ) => {
    await using certificates = await Certificates.make();
    await using drive = await startSecure(bucket, certificates);
    const { directory } = certificates;
    const told = await run("nbdinfo", [secureUri(drive, directory)]);
    assertMatch(told, /^protocol: newstyle-fixed with TLS/);
    assertMatch(told, /export-size: 67108864 /);
    const image = [...qemuTls(directory), qemuImage(drive)];
    assertMatch(await run("qemu-img", ["info", ...image]), /virtual size: 64 MiB/);
    const files = ["ca-cert", "client-cert", "client-key"].map((name) =>
      certificates.file(`${name}.pem`)
    );
    const options = ["-cacertfile", "-certfile", "-keyfile"].flatMap((name, n) => [name, files[n]]);
    const where = ["localhost", String(drive.port)];
    assertMatch(await run("nbd-client", ["-l", ...where, ...options]), /^elasticdrive\b/m);
    assertStringIncludes(
      drive.readyLine,
      `nbd-client -b 4096 -cacertfile ca-cert.pem -certfile client-cert.pem -keyfile client-key.pem ` +
        `127.0.0.1 ${drive.port} /dev/nbd0`,
    );
    await drive.stopClean();
  },

  "without tlsca a client needs no certificate of its own": async (bucket) => {
    await using certificates = await Certificates.make();
    await using bare = await certificates.only("ca-cert.pem");
    await using drive = await startSecure(bucket, certificates, { mutual: false });
    assertEquals(await run("nbdinfo", ["--size", secureUri(drive, bare.path)]), "67108864\n");
    await drive.stopClean();
  },

  "a client without a certificate, or with a stranger's, or without TLS, gets nothing": async (
    bucket,
  ) => {
    await using certificates = await Certificates.make();
    await using strangers = await Certificates.make();
    await using bare = await certificates.only("ca-cert.pem");
    // A stranger who trusts our authority all the same.
    await using stranger = await strangers.only("client-cert.pem", "client-key.pem");
    await Deno.copyFile(certificates.file("ca-cert.pem"), stranger.file("ca-cert.pem"));
    await using drive = await startSecure(bucket, certificates);
    const attempts: [string, RegExp][] = [
      [secureUri(drive, bare.path), /TLS: peer did not return a certificate/],
      [secureUri(drive, stranger.path), /TLS: certificate verify failed: /],
    ];
    for (const [uri, said] of attempts) {
      const from = drive.lines.length;
      assertFailed(await runProgram("nbdinfo", [uri]), /TLS fatal alert|gnutls/);
      assertMatch(await drive.says(/was cut off/, from), said);
    }
    assertFailed(await runProgram("nbdinfo", [drive.uri]), /server replied with error/);
    const clear = ["-l", "localhost", String(drive.port)];
    assertFailed(await runProgram("nbd-client", clear), /this server requires TLS/);
    // All that was in vain; who has a certificate comes in.
    assertEquals(
      await run("nbdinfo", ["--size", secureUri(drive, certificates.directory)]),
      "67108864\n",
    );
    await drive.stopClean();
  },

  "a client that trusts another authority does not trust the drive": async (bucket) => {
    await using certificates = await Certificates.make();
    await using strangers = await Certificates.make();
    await using drive = await startSecure(bucket, certificates, { mutual: false });
    const mistaken = await runProgram("nbdinfo", [secureUri(drive, strangers.directory)]);
    assertFailed(mistaken, /certificate verification/);
    await drive.stopClean();
  },

  "TLS 1.2 and 1.3 are spoken, 1.1 is not": async (bucket) => {
    await using certificates = await Certificates.make();
    await using drive = await startSecure(bucket, certificates);
    const info = (version: string) => {
      const priority = `NORMAL:-VERS-ALL:+VERS-TLS${version}`;
      return runProgram("qemu-img", [
        "info",
        ...qemuTls(certificates.directory, priority),
        qemuImage(drive),
      ]);
    };
    for (const version of ["1.2", "1.3"]) {
      const { code, stderr } = await info(version);
      assertEquals(code, 0, `TLS ${version}: ${stderr}`);
    }
    assertFailed(await info("1.1"), /TLS|handshake/);
    await drive.stopClean();
  },

  "beside it the Unix socket is in clear, for its owner": async (bucket) => {
    await using certificates = await Certificates.make();
    await using scratch = await Scratch.make();
    const socket = scratch.file("nbd.sock");
    const server = { ...certificates.server, socket };
    await using drive = await Drive.start({ bucket, size: "64M", tcp: true, server });
    const local = `nbd+unix:///?socket=${socket}`;
    assertMatch(await run("nbdinfo", [local]), /^protocol: newstyle-fixed without TLS/);
    assert(drive.readyLine.endsWith(`nbd-client -b 4096 -unix ${socket} /dev/nbd0`));
    await drive.stopClean();
  },

  "python's libnbd reads what it wrote, and takes no drive in clear for one in TLS": async (
    bucket,
  ) => {
    await using certificates = await Certificates.make();
    await using drive = await startSecure(bucket, certificates);
    const script = `
def connect(require):
    h = nbd.NBD()
    h.set_tls(nbd.TLS_REQUIRE if require else nbd.TLS_DISABLE)
    h.set_tls_certificates(sys.argv[3])
    h.set_tls_verify_peer(True)
    h.connect_tcp("localhost", sys.argv[2])
    return h
h = connect(True)
assert h.get_tls_negotiated()
data = bytes(i * 31 % 251 for i in range(3000001))
h.pwrite(data, 77777, nbd.CMD_FLAG_FUA)
assert h.pread(len(data), 77777) == data
h.zero(100000, 90000)
h.flush()
assert h.pread(100000, 90000) == bytes(100000)
h.shutdown()
try:
    connect(False)
    raise SystemExit("connected in clear")
except nbd.Error as error:
    print(error)`;
    const said = await runPython(script, [drive.uri, String(drive.port), certificates.directory]);
    assertMatch(said, /server replied with error|server requires TLS|ENOTSUP|not supported/i);
    await drive.stopClean();
  },

  "check-config names a file of TLS that is not there, and start is refused for it": async (
    bucket,
  ) => {
    await using certificates = await Certificates.make();
    await using scratch = await Scratch.make();
    const server = { ...certificates.server, tlskey: certificates.file("client-key.pem") };
    const config = configText({ bucket, size: "64M", tcp: true, server });
    const file = await scratch.write("config.ini", config);
    for (const command of [["check-config"], []]) {
      const { code, stderr } = await runElasticDrive(["-c", file, ...command]);
      assertEquals(code, 2);
      assertMatch(
        stderr,
        /error: .*config\.ini:\d+: tlskey can.t be .*client-key\.pem: key values/,
      );
    }
    assertEquals(await bucket.objects(), []);
  },
});

testInBothBuckets({
  "what nbdcopy and QEMU moved through TLS is the same byte for byte, also after a restart": async (
    bucket,
  ) => {
    await using certificates = await Certificates.make();
    await using scratch = await Scratch.make();
    const image = await scratch.random("image", 128);
    await using drive = await startSecure(bucket, certificates, { size: "128M" });
    const uri = secureUri(drive, certificates.directory);
    await run("nbdcopy", [...FAST, "--flush", image, uri]);
    await run("nbdcopy", [...FAST, uri, scratch.file("copied")]);
    await run("cmp", [image, scratch.file("copied")]);
    const [credentials, through] = [qemuTls(certificates.directory), qemuImage(drive)];
    await run("qemu-img", ["convert", ...credentials, "-O", "raw", through, scratch.file("out")]);
    await run("cmp", [image, scratch.file("out")]);
    await assertSurvivesRestart(drive, bucket, image);
  },
});
