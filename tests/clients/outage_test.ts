/**
 * S3 goes away under a drive that clients use, and comes back: they wait, nothing fails, nothing is lost, and the
 * log tells it as one story.
 *
 * CI has it away for seconds. `OUTAGE_SECONDS=600 OUTAGE_KINDS="refuses,is silent" deno task test
 * tests/clients/outage_test.ts` is the long run.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { startCeph } from "../support/ceph.ts";
import { assertSurvivesRestart, Drive } from "../support/drive.ts";
import { type S3Proxy, startS3Proxy, type Treatment } from "../support/s3_proxy.ts";
import { SteadyClient } from "../support/steady_client.ts";
import { S3TestBucket } from "../support/test_buckets.ts";

interface Outage {
  seconds: number;
  begin: (proxy: S3Proxy) => void;
  /** What the log is to say of it. */
  reason: RegExp;
}

/** Each request is treated in one of these ways, by turns. */
function treatedBy(...treatments: Treatment[]): (proxy: S3Proxy) => void {
  return (proxy) => {
    let count = 0;
    proxy.treat = () => treatments[count++ % treatments.length];
    // otherwise a request that is under way is still answered as before
    if (treatments[0] !== "hang") proxy.cutConnections();
  };
}

const CUT = /the connection was cut|the answer (broke off|ended) after/;
const OUTAGES: Record<string, Outage> = {
  "refuses": {
    seconds: 35,
    begin: (proxy) => proxy.refuse(),
    reason: /nobody listens there: check ENDPOINT|the connection was cut/,
  },
  "is silent": { seconds: 12, begin: treatedBy("hang"), reason: /no answer (for|within) \d+ s/ },
  "slows down": {
    seconds: 10,
    begin: treatedBy({ status: 503, code: "SlowDown" }),
    reason: /HTTP 503 SlowDown|the connection was cut/,
  },
  "cuts requests and answers": {
    seconds: 12,
    begin: treatedBy("reset", "cut request", "lose answer", "cut answer"),
    reason: CUT,
  },
  "lets credentials expire": {
    seconds: 10,
    begin: treatedBy({ status: 400, code: "ExpiredToken" }),
    reason: /ExpiredToken; the session token is not valid \(any more\)|the connection was cut/,
  },
};

const seconds = Deno.env.get("OUTAGE_SECONDS");
const kinds = Deno.env.get("OUTAGE_KINDS")?.split(",") ?? Object.keys(OUTAGES);

Deno.test("S3 goes away for a while: clients wait, and all goes on when it is back", async (t) => {
  await using ceph = await startCeph();
  await using proxy = startS3Proxy(ceph.endpoint);
  await using bucket = new S3TestBucket(ceph);
  // a cache of 4 MiB before 32 MiB: reads and writes need S3 all the time
  await using drive = await Drive.start({
    bucket: bucket.through(proxy),
    size: "32M",
    server: { cachesize: 64 },
  });
  await using client = await SteadyClient.start(drive.uri);

  for (const kind of kinds) {
    const outage = OUTAGES[kind];
    if (seconds) outage.seconds = Number(seconds);
    await t.step(`it ${kind} for ${outage.seconds} s`, async () => {
      const firstLine = drive.lines.length;
      outage.begin(proxy);
      await drive.says(/ does not serve: /, firstLine);
      const { flushes, reads } = client;
      await passSeconds(outage.seconds);
      client.assertUnharmed();
      assertEquals([client.flushes, client.reads], [flushes, reads], "answered without S3");
      proxy.accept();
      proxy.treat = () => "pass";
      await client.goesOn(90);
      await drive.says(/ serves again /, firstLine, 90);
      assertOneStory(drive.lines.slice(firstLine), outage);
    });
  }

  await client.endIntact();
  await assertSurvivesRestart(drive, bucket);
});

function passSeconds(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

/** One line when it begins, one every 30 s, one when it ends, and nothing else. */
function assertOneStory(lines: string[], { seconds, reason }: Outage): void {
  const story = lines.join("\n");
  const [begin, ...between] = lines;
  const end = between.pop()!;
  assertMatch(begin, /^elasticdrive: warning: s3:\/\/drive-\d+ .*does not serve: /, story);
  assertMatch(begin, reason, story);
  assertMatch(end, /serves again after \d+ s$/, story);
  const awayS = Number(/after (\d+) s$/.exec(end)![1]);
  assert(awayS >= seconds, story);
  // the first of them comes 30 s after the line that begins, which is up to 11 s late itself
  const expected = [(awayS - 12) / 30, awayS / 30].map(Math.floor);
  assert(between.length >= expected[0] && between.length <= expected[1], story);
  for (const line of between) {
    assertMatch(line, /has not served for \d+ s: .*; \d+ requests? waits?$/, story);
  }
}
