/** What `elasticdrive status` makes of reports: figures, lines, and a watch that outlives its drive. */
import { assert, assertAlmostEquals, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import { WATCH_EVERY_MS, WATCH_LINES_EVERY_MS } from "../../../src/limits.ts";
import type { Answer } from "../../../src/status/ask.ts";
import { billOf } from "../../../src/status/bill.ts";
import { reportLines } from "../../../src/status/lines.ts";
import { quantile } from "../../../src/status/page/history.js";
import { latencyOf, rateOf } from "../../../src/status/rates.ts";
import type { StatusReport } from "../../../src/status/report.ts";
import { showStatus, type Size, watchStatus } from "../../../src/status/watch.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { happen, idleReport } from "../../support/status_report.ts";

const MIB = 1 << 20;
const START_MS = Date.UTC(2026, 0, 2, 3, 4, 5);

/** A drive's report `seconds` after its start. */
function reportAt(seconds: number, change: (report: StatusReport) => void = () => {}) {
  const report = { ...idleReport(), startedAtMs: START_MS, nowMs: START_MS + seconds * 1000 };
  change(report);
  return report;
}

Deno.test("a month's bill is what is stored, and the requests so far for thirty days", () => {
  const report = reportAt(3600, ({ log, s3, prices }) => {
    log.storedBytes = 10 * 2 ** 30;
    const { get, head, put, list } = s3.operations;
    [get.requests, head.requests, put.requests, list.requests] = [900, 100, 990, 10];
    s3.operations.delete.requests = 1e6; // for nothing
    s3.bytesDown = 2 ** 30;
    Object.assign(prices, { gibMonth: 0.02, thousandPuts: 0.005, thousandGets: 0.0004 });
    prices.gibDown = 0.01;
  });
  const bill = billOf(report);
  assertAlmostEquals(bill.storage, 0.2);
  assertAlmostEquals(bill.requests, 720 * (0.005 + 0.0004));
  assertAlmostEquals(bill.traffic, 7.2);
  assertAlmostEquals(bill.sum, bill.storage + bill.requests + bill.traffic);
  assertEquals([bill.isRough, billOf(reportAt(3599)).isRough], [false, true]);
});

Deno.test("rates and latencies are of what came between two reports; quantiles as Prometheus has them", () => {
  const before = reportAt(100, ({ commands: { read } }) => happen(read, 1000, 0.0005, 4096));
  const now = reportAt(110, ({ commands: { read } }) => {
    happen(read, 1000, 0.0005, 4096);
    happen(read, 98, 0.05, 1 * MIB);
    happen(read, 2, 5, 1 * MIB);
  });
  const read = ({ commands }: StatusReport) => commands.read;
  assertEquals(rateOf({ now, before }, (report) => read(report).bytes), 10 * MIB);
  assertEquals(rateOf({ now }, (report) => read(report).requests), 10);
  const latency = latencyOf({ now, before }, read);
  assertEquals(latency.counts, [0, 0, 98, 0, 2]);
  assertAlmostEquals(quantile(latency, 0.5)!, 0.01 + 0.09 * 50 / 98);
  assertEquals([quantile(latency, 0.99), quantile({ ...latency, counts: [0, 0, 0, 0, 0] }, 0.5)], [
    1,
    null,
  ]);
});

Deno.test("a report in lines says how the drive is, and only what was asked of it has a row", () => {
  const now = reportAt(7200, (report) => {
    happen(report.commands.write, 7200, 0.0005, 4096);
    happen(report.s3.operations.put, 72, 0.05, MIB);
    report.unstored = { bytes: 12 * MIB, bytesMax: 256 * MIB, oldestSeconds: 2 };
    report.trouble = "s3://my-disk has not served for 61 s: \x1b[31mnobody listens there";
    report.s3.awaySeconds = 61;
  });
  const lines = reportLines({ now });
  assertMatch(lines[0], /^s3:\/\/my-disk: 1 TiB in stripes of 64 KiB, epoch 7, .*, up 2 h$/);
  assertEquals(
    lines[1],
    "NOT WELL: s3://my-disk has not served for 61 s:  [31mnobody listens there",
  );
  assert(
    lines.includes("unstored  12 MiB of at most 256 MiB, the oldest for 2 s"),
    lines.join("\n"),
  );
  assert(lines.some((line) => line.startsWith("S3        AWAY for 1 min 1 s; ")));
  now.trouble = null;
  now.s3.awayReason = "nobody listens there";
  const soon = reportLines({ now });
  assertEquals(soon[1], "healthy");
  assert(
    soon.some((line) => line.startsWith("S3        AWAY for 1 min 1 s (nobody listens there); ")),
  );
  const rows = lines.slice(lines.findIndex((line) => line.startsWith("since the start")) + 1);
  assertEquals(rows.map((row) => row.split(/ {2,}/)), [
    ["write", "7200", "1.0", "4 KiB", "0.50 ms", "0.99 ms", "0"],
    ["S3 put", "72", "0.0", "10.2 KiB", "55 ms", "99 ms", "0"],
  ]);
  assertEquals(new Set([...rows].map((row) => row.length)).size, 1, "columns line up");
});

/** A watch of a drive that gives these answers, one each time; what it wrote each time. */
async function watch(answers: Answer[], size: Size, asJson = false) {
  const clock = new ManualClock();
  const stop = new AbortController();
  const written: string[] = [];
  let asked = 0;
  const watching = {
    clock,
    address: "127.0.0.1:9998",
    volume: "s3://my-disk",
    asJson,
    ask: () => Promise.resolve(answers[asked++]),
    write: (text: string) => void written.push(text),
  };
  const done = watchStatus(watching, () => size, stop.signal);
  const everyMs = size || asJson ? WATCH_EVERY_MS : WATCH_LINES_EVERY_MS;
  await clock.advance((answers.length - 1) * everyMs);
  stop.abort();
  await done;
  assertEquals([asked, clock.pending], [answers.length, 0]);
  return written;
}

const told = (report: StatusReport): Answer => ({ kind: "report", report });

Deno.test("a watch goes on while the drive is away and when it was started again, and says so", async () => {
  const again = { ...reportAt(1), startedAtMs: START_MS + 60_000, nowMs: START_MS + 61_000 };
  const blocks = await watch([
    told(reportAt(10)),
    told(reportAt(20)),
    { kind: "none", why: "nobody listens there" },
    { kind: "none", why: "nobody listens there" },
    { kind: "opening", why: "opening: the drive does not serve yet" },
    told(again),
  ], undefined);
  assertEquals(blocks.length, 6);
  assertMatch(blocks[0], /^since the start /m);
  assertMatch(blocks[1], /^in 10 s /m);
  assertMatch(
    blocks[2],
    /^no report from 127\.0\.0\.1:9998 for 0 s: nobody listens there\n\nthe last/,
  );
  assertMatch(blocks[3], /^no report from 127\.0\.0\.1:9998 for 10 s: nobody/);
  assertMatch(blocks[4], /for 20 s: opening: the drive does not serve yet/);
  assertMatch(blocks[5], /^since the start .*the drive was started again at 2026-01-02T03:05:05/ms);
  for (const block of blocks) assert(!block.includes("\x1b"), "no control characters");
  for (const block of blocks) assert(!block.includes("another one"), block);
  const [stranger] = await watch(
    [told(reportAt(10, ({ volume }) => volume.name = "s3://photos"))],
    undefined,
  );
  assertMatch(stranger, /^the drive at .* that of s3:\/\/photos; .* give s3:\/\/my-disk a status/);
});

Deno.test("on a terminal a watch has a screen of its own, no larger than that is, and leaves it", async () => {
  const written = await watch([told(reportAt(10)), told(reportAt(12))], { columns: 30, rows: 5 });
  assertEquals([written[0], written.at(-1)], ["\x1b[?1049h", "\x1b[?1049l"]);
  const screens = written.slice(1, -1);
  assertEquals(screens.length, 2);
  for (const screen of screens) {
    const lines = screen.replaceAll(/\p{Cc}\[[HJK]/gu, "").split("\n");
    assertEquals(lines.length, 5);
    for (const line of lines) assert(line.length <= 30, line);
  }
});

Deno.test("a watch of JSON is a line each time, and one without a reader ends", async () => {
  const lines = await watch([told(reportAt(1)), { kind: "none", why: "x" }], undefined, true);
  assertEquals(lines.map((line) => JSON.parse(line).trouble), [null, "x"]);
  const watching = {
    clock: new ManualClock(),
    address: "",
    volume: "s3://my-disk",
    asJson: false,
    ask: () => Promise.resolve(told(reportAt(1))),
    write: () => {
      throw new Deno.errors.BrokenPipe();
    },
  };
  await watchStatus(watching, () => undefined, new AbortController().signal);
});

Deno.test("asked once, it is well or not, or there is no drive", async () => {
  const once = (answer: Answer, volume = "s3://my-disk") =>
    showStatus({
      clock: new ManualClock(),
      address: "127.0.0.1:9998",
      volume,
      asJson: false,
      ask: () => Promise.resolve(answer),
      write: () => {},
    });
  assertEquals(await once(told(reportAt(1))), true);
  assertEquals(await once(told(reportAt(1, (report) => report.trouble = "fenced"))), false);
  assertEquals(await once({ kind: "opening", why: "opening" }), false);
  await assertRejects(
    () => once({ kind: "none", why: "nobody listens there" }),
    UsageError,
    "no drive answers at 127.0.0.1:9998: nobody listens there",
  );
  await assertRejects(
    () => once(told(reportAt(1)), "s3://photos"),
    UsageError,
    "the drive at 127.0.0.1:9998 is another one, that of s3://my-disk; name its configuration with -c, or give s3://photos a status",
  );
});
