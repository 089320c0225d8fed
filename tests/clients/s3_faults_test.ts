/** S3 on a bad day: a share of the requests fails in every way there is, or all of them for longer than iotimeout. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { startCeph } from "../support/ceph.ts";
import { assertHolds, assertSurvivesRestart, copyOut, Drive } from "../support/drive.ts";
import { run, within } from "../support/programs.ts";
import { startS3Proxy, type Treatment } from "../support/s3_proxy.ts";
import { Scratch } from "../support/scratch.ts";
import { SteadyClient } from "../support/steady_client.ts";
import { S3TestBucket } from "../support/test_buckets.ts";
import { TextLineStream } from "../support/text_lines.ts";

const FAULTS: Treatment[] = [
  "reset",
  "cut request",
  "lose answer",
  "cut answer",
  { status: 503, code: "SlowDown" },
  { status: 500, code: "InternalError" },
  { status: 409, code: "ConditionalRequestConflict" },
];
const FAULTY_SHARE = 0.1;
const FAULTY_SECONDS = 30;

Deno.test("a tenth of all requests fails: clients don't notice, and all is there after kill -9", async () => {
  await using ceph = await startCeph();
  await using proxy = startS3Proxy(ceph.endpoint);
  await using bucket = new S3TestBucket(ceph);
  await using drive = await Drive.start({
    bucket: bucket.through(proxy),
    size: "32M",
    server: { cachesize: 64 },
  });
  const met = new Map<Treatment, number>();
  proxy.treat = () => {
    if (Math.random() >= FAULTY_SHARE) return "pass";
    const fault = FAULTS[Math.floor(Math.random() * FAULTS.length)];
    met.set(fault, (met.get(fault) ?? 0) + 1);
    return fault;
  };
  await using client = await SteadyClient.start(drive.uri);
  await new Promise((resolve) => setTimeout(resolve, FAULTY_SECONDS * 1000));
  await client.endIntact();
  assertEquals(met.size, FAULTS.length, "every fault was met");

  await using scratch = await Scratch.make();
  await copyOut(drive, scratch.file("image"));
  await drive.kill();
  await using reopened = await Drive.start({ bucket });
  await assertHolds(reopened, scratch.file("image"));
  await reopened.stopClean();
});

/**
 * Without S3: a write that fits in memory is answered, and whatever needs S3 gets EIO in time. Then it waits for a line,
 * and flushes until that succeeds; all writes that were answered must be there.
 */
const IMPATIENT = `
import time
drive = nbd.NBD()
drive.connect_uri(uri)
stripe = 65536

def fails(request):
    begin = time.monotonic()
    try:
        request()
    except nbd.Error as error:
        assert error.errno == "EIO", error
        return time.monotonic() - begin
    return None

def say(what, seconds):
    print(what, round(seconds, 1), flush=True)

answered = {}
def write(number):
    data = bytes([number]) * stripe
    seconds = fails(lambda: drive.pwrite(data, number * stripe))
    if seconds is None:
        answered[number] = data
    return seconds

assert write(1) is None
say("flush", fails(drive.flush))
say("read", fails(lambda: drive.pread(stripe, 100 * stripe)))
number = 2
while (seconds := write(number)) is None:
    number += 1
say("write", seconds)
say("answered", len(answered))
sys.stdin.readline()
while fails(drive.flush) is not None:
    pass
for number, data in answered.items():
    assert drive.pread(stripe, number * stripe) == data, number
while fails(lambda: drive.pread(stripe, 100 * stripe)) is not None:
    pass
print("intact", flush=True)
`;

const IO_TIMEOUT_S = 3;

Deno.test("with iotimeout waiting requests get EIO in time, and nothing is lost when S3 is back", async () => {
  await using ceph = await startCeph();
  await using proxy = startS3Proxy(ceph.endpoint);
  await using bucket = new S3TestBucket(ceph);
  await using scratch = await Scratch.make();
  await using drive = await Drive.start({
    bucket: bucket.through(proxy),
    size: "16M",
    server: { cachesize: 64, iotimeout: IO_TIMEOUT_S },
  });
  await run("nbdcopy", ["--flush", await scratch.random("image", 16), drive.uri]);
  proxy.refuse();
  await using client = new Deno.Command("/usr/bin/python3", {
    args: ["-c", `import sys, nbd\nuri = sys.argv[1]\n${IMPATIENT}`, drive.uri],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const lines = client.stdout.pipeThrough(new TextLineStream()).getReader();
  const nextLine = async () => (await within(60, "a line of the client", lines.read())).value ?? "";
  for (const what of ["flush", "read", "write"]) {
    const line = await nextLine();
    assertMatch(line, new RegExp(`^${what} `));
    const seconds = Number(line.split(" ")[1]);
    assert(seconds > IO_TIMEOUT_S - 0.5 && seconds < IO_TIMEOUT_S + 5, line);
  }
  // three quarters of the cache may wait to be stored
  assertEquals(await nextLine(), "answered 48");
  assertMatch(drive.stderr, /no answer from the bucket within iotimeout=3 s/);

  proxy.accept();
  const stdin = client.stdin.getWriter();
  await stdin.write(new TextEncoder().encode("S3 is back\n"));
  assertEquals(await nextLine(), "intact");
  await stdin.close();
  await lines.cancel();
  await assertSurvivesRestart(drive, bucket);
});
