import { assert, assertEquals, assertMatch } from "@std/assert";
import { STATUS_ANSWER_BYTES_MAX } from "../../../src/limits.ts";
import { metricsOf } from "../../../src/status/metrics.ts";
import { statusOf } from "../../../src/status/status.ts";
import { blocks } from "../volume/open_volume.ts";
import { testDrive } from "./drive_parts.ts";

/** All that is promised to whoever has made a dashboard or an alert of it. */
const NAMES = [
  ...["build_info", "volume_info", "volume_bytes", "healthy", "fenced"],
  ...["nbd_requests_total", "nbd_errors_total", "nbd_request_duration_seconds", "nbd_bytes_total"],
  ...["nbd_connections", "nbd_in_flight_requests"],
  ...["cache_bytes", "cache_hits_total", "cache_misses_total"],
  ...["read_ahead_bytes_total", "read_ahead_vain_bytes_total"],
  ...["unstored_bytes", "unstored_limit_bytes", "unstored_age_seconds"],
  ...["log_live_bytes", "log_stored_bytes", "log_segments"],
  ...["checkpoints_total", "reclaimed_bytes_total"],
  ...["s3_requests_total", "s3_errors_total", "s3_request_duration_seconds", "s3_bytes_total"],
  ...["s3_retries_total", "s3_away_seconds"],
].map((name) => `elasticdrive_${name}`);
const PROCESS = ["cpu_seconds_total", "resident_memory_bytes", "start_time_seconds"]
  .map((name) => `process_${name}`);

Deno.test("every metric has its help, its type and its samples, and no other is there", async () => {
  const client = {
    address: "unix",
    connectedAtMs: 0,
    isTls: false,
    inFlight: 3,
    readBytes: 0,
    writtenBytes: 0,
  };
  const drive = await testDrive({}, [client, { ...client, inFlight: 4 }]);
  const text = metricsOf(statusOf(drive));
  assert(text.endsWith("\n") && text.length < STATUS_ANSWER_BYTES_MAX);
  const lines = text.trimEnd().split("\n");
  const names: string[] = [];
  let type = "";
  for (const line of lines) {
    const help = /^# HELP (\S+) \S.*\.$/.exec(line);
    const typed = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line);
    if (help) {
      names.push(help[1]);
    } else if (typed) {
      type = typed[2];
      assertEquals(typed[1], names.at(-1));
    } else {
      const sample = /^([a-z_0-9]+)(?:\{(?:[a-z]+="[^"\\]*",?)+\})? (\d+(?:\.\d+)?(?:e-\d+)?)$/;
      const name = sample.exec(line)?.[1] ?? line;
      const suffix = type === "histogram" ? /_(bucket|sum|count)$/ : /^$/;
      assertEquals(name.replace(suffix, ""), names.at(-1), line);
      assertEquals(type === "counter", name.endsWith("_total"), line);
    }
  }
  assertEquals(names.toSorted(), [...NAMES, ...PROCESS].toSorted());
  assert(lines.includes('elasticdrive_build_info{version="1.2.3"} 1'));
  assert(lines.includes("elasticdrive_nbd_connections 2"));
  assert(lines.includes("elasticdrive_nbd_in_flight_requests 7"));
  await drive.volume.close();
});

Deno.test("a histogram's buckets add up, and its last has all of them", async () => {
  const drive = await testDrive();
  const { latency } = drive.requestCounts.read;
  latency.add(0.00005, 3);
  latency.add(0.002);
  latency.add(100, 2);
  const text = metricsOf(statusOf(drive));
  const of = (what: string) =>
    [...text.matchAll(
      new RegExp(
        `^elasticdrive_nbd_request_duration_seconds_${what}\\{command="read".*\\} (.*)$`,
        "gm",
      ),
    )].map(([, value]) => Number(value));
  const buckets = of("bucket");
  assertEquals(buckets, [...Array(5).fill(3), ...Array(14).fill(4), 6]);
  assertEquals([of("count"), of("sum")], [[6], [3 * 0.00005 + 0.002 + 200]]);
  assertMatch(text, /_bucket\{command="read",le="0\.00005"\} 3\n/);
  assertMatch(text, /_bucket\{command="read",le="\+Inf"\} 6\n/);
  await drive.volume.close();
});

Deno.test("a name can't break out of its label", async () => {
  const drive = await testDrive();
  const report = statusOf(drive);
  report.volume.name = 'file:/a"b\\c\nd';
  assertMatch(
    metricsOf(report),
    /^elasticdrive_volume_info\{name="file:\/a\\"b\\\\c\\nd",uuid="[0-9a-f-]+"\} 1$/m,
  );
  await drive.volume.close();
});

Deno.test("unstored bytes are in the metrics as in the report", async () => {
  const drive = await testDrive();
  drive.volume.write(0, blocks(2, 1));
  await drive.clock.advance(1500);
  const text = metricsOf(statusOf(drive));
  assertMatch(text, /^elasticdrive_unstored_bytes 8192$/m);
  assertMatch(text, /^elasticdrive_unstored_age_seconds 1\.5$/m);
  assertMatch(text, /^elasticdrive_healthy 1$/m);
  await drive.volume.close();
});
