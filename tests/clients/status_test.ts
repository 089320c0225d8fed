/** The status service of the compiled program: what it tells is what was done, and it is in nobody's way. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { StatusReport } from "../../src/status/report.ts";
import { runFio } from "../bench/fio.ts";
import { configText, Drive, runElasticDrive } from "../support/drive.ts";
import { runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { startMemoryS3 } from "../support/start_memory_s3.ts";
import { type TestBucket, testInDirectory } from "../support/test_buckets.ts";

/** The empty segment that a new volume's first writer begins with. */
const CLAIM = "log/0000000001";
const STATUS_ANY = { status: "127.0.0.1:0" };

/** Where a drive says that it tells how it is, without a slash at the end. */
async function statusUrl(drive: Drive): Promise<string> {
  const line = await drive.says(/^elasticdrive: status: /);
  return /(http:\S+)\/$/.exec(line)![1];
}

async function report(url: string): Promise<StatusReport> {
  const response = await fetch(`${url}/status.json`);
  assertEquals(response.status, 200);
  return await response.json();
}

/** The samples, by name and labels. */
async function metrics(url: string): Promise<Map<string, number>> {
  const response = await fetch(`${url}/metrics`);
  assertEquals(response.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  const lines = (await response.text()).trimEnd().split("\n");
  return new Map(
    lines.filter((line) => !line.startsWith("#")).map((line) => {
      const [, name, value] = /^(\S+(?: \S+)*) (\S+)$/.exec(line)!;
      return [name, Number(value)];
    }),
  );
}

/** Each command a known number of times, one of them refused; the connection stays until the end. */
const EACH_COMMAND = `
h = nbd.NBD()
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri(uri)
for i in range(3):
    h.pwrite(b"a" * 8192, i * 65536)
for i in range(5):
    h.pread(4096, i * 65536)
h.flush()
h.trim(4096, 0)
h.zero(4096, 4096)
h.cache(4096, 0)
h.block_status(65536, 0, lambda *_: 0)
try:
    h.pread(4096, 1 << 40)
except nbd.Error:
    pass
import urllib.request
print(urllib.request.urlopen(sys.argv[2] + "/status.json").read().decode())
`;

testInDirectory({
  "libnbd's requests are counted, each as what it was, while it is connected": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "16M", server: STATUS_ANY });
    const url = await statusUrl(drive);
    const seen = JSON.parse(await runPython(EACH_COMMAND, [drive.uri, url])) as StatusReport;
    const counts = Object.entries(seen.commands).map((
      [command, { requests, errors, bytes }],
    ) => [command, requests, errors, bytes]);
    assertEquals(counts, [
      ["read", 6, 1, 5 * 4096],
      ["write", 3, 0, 3 * 8192],
      ["flush", 1, 0, 0],
      ["trim", 1, 0, 0],
      ["write_zeroes", 1, 0, 0],
      ["cache", 1, 0, 0],
      ["block_status", 1, 0, 0],
    ]);
    const [client] = seen.clients;
    assertEquals([seen.clients.length, client.address, client.isTls], [1, "unix", false]);
    assertEquals([client.readBytes, client.writtenBytes], [5 * 4096, 3 * 8192]);
    assertEquals([seen.trouble, seen.isFenced], [null, false]);
    assertEquals(seen.volume.bytes, 16 << 20);
    assertEquals(seen.cache.hits, 5);
    assert(seen.nowMs >= seen.startedAtMs);
    await drive.stopClean();
  },

  "fio's work is in the metrics, to the request and the byte": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "16M", server: STATUS_ANY });
    const url = await statusUrl(drive);
    const shape = ["bs=4k", "iodepth=32", "size=8M"];
    const writes = await runFio(drive.uri, ["rw=randwrite", ...shape, "end_fsync=1"]);
    const reads = await runFio(drive.uri, ["rw=randread", ...shape]);
    const found = await metrics(url);
    const of = (name: string, label: string) => found.get(`elasticdrive_${name}{${label}}`);
    for (const [command, { requests, bytes }] of [["read", reads], ["write", writes]] as const) {
      const label = `command="${command}"`;
      assertEquals(of("nbd_requests_total", label), requests);
      assertEquals(of("nbd_bytes_total", label), bytes);
      assertEquals(of("nbd_errors_total", label), 0);
      assertEquals(of("nbd_request_duration_seconds_count", label), requests);
    }
    assert(of("nbd_requests_total", 'command="flush"')! >= 1);
    assertEquals(found.get("elasticdrive_cache_hits_total"), reads.requests);
    assertEquals(found.get("elasticdrive_unstored_bytes"), 0);
    assertEquals(found.get("elasticdrive_healthy"), 1);
    const objects = await bucket.objects("log/");
    const stored = objects.filter(({ key }) => key !== CLAIM).reduce((sum, o) => sum + o.size, 0);
    assertEquals(found.get("elasticdrive_log_stored_bytes"), stored);
    assertEquals(found.get("elasticdrive_log_segments"), objects.length - 1);
    assert(of("s3_bytes_total", 'direction="up"')! >= stored);
    await drive.stopClean();
  },

  "an address that is taken: the default one is done without, one that was asked for is refused":
    async (bucket) => {
      using taken = takeDefault();
      await using drive = await Drive.startWith(withoutStatus(bucket));
      assertMatch(
        drive.stderr,
        /^elasticdrive: warning: can't serve status on 127\.0\.0\.1:9998: it is in use; set status /m,
      );
      assert(!drive.stderr.includes("status: http"), drive.stderr);
      await drive.stopClean();
      await using scratch = await Scratch.make();
      const config = configText({ bucket, server: { status: taken.address } });
      const { code, stderr } = await runElasticDrive([
        "-c",
        await scratch.write("config.ini", config),
      ]);
      assertEquals(code, 2);
      assertStringIncludes(stderr, `: can't serve status on ${taken.address}: it is in use;`);
    },

  "an address that others can reach is refused before anything is touched": async (bucket) => {
    await using scratch = await Scratch.make();
    const config = configText({ bucket, size: "1M", server: { status: "0.0.0.0:0" } });
    const file = await scratch.write("config.ini", config);
    const { code, stderr } = await runElasticDrive(["-c", file]);
    assertEquals(code, 2);
    assertMatch(stderr, /config\.ini:\d+: status can't be 0\.0\.0\.0:0 as it is: .*insecure = yes/);
    assertEquals(await bucket.objects(), []);
  },

  "it answers while the drive drains, and reads only": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "1M", server: STATUS_ANY });
    const url = await statusUrl(drive);
    const posted = await fetch(`${url}/`, { method: "POST", body: "stop" });
    assertEquals([posted.status, posted.headers.get("allow")], [405, "GET"]);
    await posted.body?.cancel();
    const page = await fetch(`${url}/`);
    assertMatch(page.headers.get("content-type")!, /^text\/html/);
    assertStringIncludes(await page.text(), "ElasticDrive");
    const health = await fetch(`${url}/healthz`);
    assertEquals([health.status, await health.text()], [200, "ok\n"]);
    await drive.stopClean();
  },
});

/** A configuration as those who know nothing of `status` have it. */
function withoutStatus(bucket: TestBucket): string {
  return configText({ bucket, size: "1M" }).replace("status=off\n", "");
}

/** The default address, taken by us or, which is as good, by somebody else. */
function takeDefault(): Disposable & { address: string } {
  const address = "127.0.0.1:9998";
  try {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 9998 });
    return { address, [Symbol.dispose]: () => listener.close() };
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    return { address, [Symbol.dispose]: () => {} };
  }
}

Deno.test("what S3 has counted is what the drive has, and no secret is told", async () => {
  const [id, secret] = ["AKIAVERYVISIBLE12345", "averysecretsecretofthistest"];
  await using s3 = await startMemoryS3();
  await using scratch = await Scratch.make();
  const config = `[s3]
AWS_ACCESS_KEY_ID=${id}
AWS_SECRET_ACCESS_KEY=${secret}
ENDPOINT=${s3.endpoint}
BUCKET=counted
VOLUMESIZE=16M
[server]
socket=${scratch.file("nbd.sock")}
status=127.0.0.1:0
debug=1
`;
  await using drive = await Drive.startWith(config);
  const url = await statusUrl(drive);
  await s3.resetCounts();
  const before = await report(url);
  await s3.set({ refusals: 0.3 });
  await runFio(drive.uri, [
    "rw=write",
    "bs=64k",
    "iodepth=8",
    "size=15M",
    "fsync=8",
    "end_fsync=1",
  ]);
  const after = await report(url);
  const { requests, refused } = await s3.counts();
  assert(refused > 0);
  let errors = 0;
  for (const kind of ["get", "put", "head", "list", "delete"] as const) {
    const [was, is] = [before, after].map(({ s3 }) => s3.operations[kind]);
    assertEquals(is.requests - was.requests, requests[kind.toUpperCase() as "GET"], kind);
    errors += is.errors - was.errors;
  }
  assertEquals(errors, refused);
  assertEquals(after.s3.retries - before.s3.retries, refused);
  assert(after.s3.bytesUp - before.s3.bytesUp >= 15 << 20);
  await s3.set({ refusals: 0 });

  const told = await Promise.all(
    ["/", "/status.json", "/metrics", "/healthz"].map(async (path) =>
      await (await fetch(url + path)).text()
    ),
  );
  await drive.stopClean();
  for (const text of [...told, drive.stderr]) {
    assert(!text.includes(secret) && !text.includes(id), text);
  }
});
