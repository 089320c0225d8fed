/** What the page reckons: rates and quantiles out of counts, a bill out of both, and how numbers are written. */
import { assertAlmostEquals, assertEquals } from "@std/assert";
import { estimate } from "../../../src/status/page/bill.js";
import {
  showByteRate,
  showBytes,
  showCount,
  showDollars,
  showDuration,
  showRate,
  showSeconds,
} from "../../../src/status/page/format.js";
import { History, quantile } from "../../../src/status/page/history.js";
import type { StatusReport } from "../../../src/status/report.ts";
import { happen, idleReport } from "../../support/status_report.ts";

const GIB = 2 ** 30;

/** The report of the same process `seconds` later. */
function later(report: StatusReport, seconds: number): StatusReport {
  const next = structuredClone(report);
  next.nowMs += seconds * 1000;
  return next;
}

Deno.test("a rate is what a count grew by, over the server's time", () => {
  const history = new History();
  const first = idleReport();
  const second = later(first, 2);
  happen(second.commands.read, 10, 0.001, 4096);
  history.add(100, first);
  history.add(101, second);
  assertEquals(history.columns.readRequests, [null, 5]);
  assertEquals(history.columns.readBytes, [null, 20480]);
  assertEquals(history.columns.writeBytes, [null, 0]);
});

Deno.test("a restart and a time without an answer leave a gap, and never a rate below 0", () => {
  const history = new History();
  const first = idleReport();
  happen(first.commands.write, 1000, 0.001, 4096);
  history.add(100, first);
  history.add(101, later(first, 1));
  const restarted = { ...idleReport(), startedAtMs: first.nowMs + 1500, nowMs: first.nowMs + 2000 };
  history.add(102, restarted);
  history.add(103, later(restarted, 1));
  history.miss(104);
  history.add(105, later(restarted, 3));
  assertEquals(history.times, [100, 101, 101.5, 102, 103, 104, 105]);
  assertEquals(history.columns.writeBytes, [null, 0, null, null, 0, null, null]);
  assertEquals(history.columns.unstored, [0, 0, null, 0, 0, null, 0]);
});

Deno.test("no rate comes of a server's clock that was set back", () => {
  const history = new History();
  const first = idleReport();
  history.add(100, first);
  history.add(101, later(first, -3600));
  assertEquals(history.columns.readRequests, [null, null, null]);
});

Deno.test("latencies and hits are of the last ten seconds", () => {
  const history = new History();
  let report = idleReport();
  happen(report.commands.flush, 100, 0.5);
  report.cache.misses = 100;
  history.add(0, report);
  for (let second = 1; second <= 30; second++) {
    report = later(report, 1);
    if (second === 5) happen(report.commands.flush, 4, 0.05);
    if (second === 5) report.cache.hits += 3;
    if (second === 5) report.cache.misses += 1;
    history.add(second, report);
  }
  const { flushMedian, hits } = history.columns;
  // of the bucket from 0.01 to 0.1 half of the way
  for (const second of [5, 10, 14]) assertAlmostEquals(flushMedian[second]!, 0.055);
  for (const second of [0, 4, 15, 30]) assertEquals(flushMedian[second], null);
  assertEquals([hits[4], hits[5], hits[14], hits[15]], [null, 0.75, 0.75, null]);
});

Deno.test("an hour is kept", () => {
  const history = new History();
  let report = idleReport();
  for (let minute = 0; minute <= 90; minute++) {
    history.add(minute * 60, report);
    report = later(report, 60);
  }
  assertEquals([history.times[0], history.times.at(-1)], [30 * 60, 90 * 60]);
  assertEquals(history.columns.unstored.length, 61);
});

Deno.test("a quantile lies in its bucket as far as its rank, past the last bound at that", () => {
  const bounds = [1, 2, 4];
  assertEquals(quantile({ bounds, counts: [0, 0, 0, 0] }, 0.5), null);
  assertEquals(quantile({ bounds, counts: [10, 0, 0, 0] }, 0.5), 0.5);
  assertEquals(quantile({ bounds, counts: [5, 0, 5, 0] }, 0.75), 3);
  assertEquals(quantile({ bounds, counts: [1, 0, 0, 9] }, 0.99), 4);
});

Deno.test("the bill is the requests so far, for 30 days, and what is stored", () => {
  const report = idleReport();
  report.nowMs = report.startedAtMs + 3 * 86_400_000;
  happen(report.s3.operations.put, 900, 0.1);
  happen(report.s3.operations.list, 100, 0.1);
  happen(report.s3.operations.get, 4000, 0.1);
  happen(report.s3.operations.head, 1000, 0.1);
  happen(report.s3.operations.delete, 1_000_000, 0.1);
  report.s3.bytesDown = GIB;
  report.log.storedBytes = 100 * GIB;
  const prices = { gibMonth: 0.02, thousandPuts: 0.005, thousandGets: 0.0004, gibDown: 0.09 };
  const { amounts, costs, sum } = estimate(report, prices);
  assertEquals(amounts.thousandPuts, 10_000);
  assertEquals(amounts.thousandGets, 50_000);
  assertAlmostEquals(costs.gibMonth, 2);
  assertAlmostEquals(costs.thousandPuts, 0.05);
  assertAlmostEquals(costs.thousandGets, 0.02);
  assertAlmostEquals(costs.gibDown, 0.9);
  assertAlmostEquals(sum, 2.97);
});

Deno.test("numbers have three digits that matter, and a unit", () => {
  const written = [
    [showBytes(0), "0 B"],
    [showBytes(1023), "1023 B"],
    [showBytes(1024 * 1024 - 1), "1 MiB"],
    [showBytes(1536 * 1024), "1.5 MiB"],
    [showByteRate(123.4 * 2 ** 20), "123 MiB/s"],
    [showCount(9999), "9999"],
    [showCount(12_345), "12.3 k"],
    [showRate(0.01), "36/h"],
    [showSeconds(0.000_123), "123 µs"],
    [showSeconds(0.999_9), "1 s"],
    [showSeconds(0.045_6), "45.6 ms"],
    [showSeconds(75), "1 min 15 s"],
    [showDuration(0), "0 s"],
    [showDuration(3600), "1 h"],
    [showDuration(100_000), "1 d 3 h"],
    [showDuration(100_000, 1), "1 d"],
    [showDollars(1234.5), "$1,235"],
    [showDollars(123.4), "$123.40"],
    [showDollars(0.0012), "$0.0012"],
  ];
  for (const [text, expected] of written) assertEquals(text.replaceAll("\u00a0", " "), expected);
});
