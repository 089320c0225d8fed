/** What long work says of itself where there is no terminal; and how sizes and times read. */
import { assertEquals } from "@std/assert";
import { type Logger, silentLogger } from "../../src/logger.ts";
import { OPENING_QUIET_MS, PROGRESS_LINE_MS } from "../../src/limits.ts";
import { Progress, showBytes, showSeconds } from "../../src/progress.ts";
import { ReadingProgress } from "../../src/reading_progress.ts";
import { ManualClock } from "../support/manual_clock.ts";

const MIB = 1 << 20;

function listener() {
  const lines: string[] = [];
  const logger: Logger = { ...silentLogger, info: (line) => lines.push(line) };
  const clock = new ManualClock();
  return { lines, clock, options: { logger, clock, isTerminal: false } };
}

Deno.test("progress is a line at once and then every few seconds: how much, how fast, how long still", async () => {
  const { lines, clock, options } = listener();
  using progress = await Progress.begin("checking", options);
  progress.update(0, 100 * MIB);
  for (let second = 1; second <= 12; second++) {
    await clock.advance(1000);
    progress.update(second * MIB, 100 * MIB);
  }
  assertEquals(lines, [
    "checking: 0 %, 0 bytes of 100 MiB",
    "checking: 5 %, 5 MiB of 100 MiB, 1 MiB/s, 1 min 35 s left",
    "checking: 10 %, 10 MiB of 100 MiB, 1 MiB/s, 1 min 30 s left",
  ]);
  assertEquals(progress.seconds, 12);
  assertEquals(PROGRESS_LINE_MS, 5000);
});

Deno.test("the rate is of what was done since the first news, and of nothing to do nothing is said", async () => {
  const { lines, clock, options } = listener();
  using progress = await Progress.begin("stopping", options);
  progress.update(0, 0);
  await clock.advance(60_000);
  progress.update(10 * MIB, 30 * MIB);
  await clock.advance(10_000);
  progress.update(20 * MIB, 30 * MIB);
  assertEquals(lines, [
    "stopping: 33 %, 10 MiB of 30 MiB",
    "stopping: 66 %, 20 MiB of 30 MiB, 1 MiB/s, 10 s left",
  ]);
});

Deno.test("an opening that is soon over says nothing, a longer one how far map and log are read", async () => {
  const { lines, clock, options } = listener();
  using reading = await ReadingProgress.begin(options);
  reading.onReading("map", MIB, 4 * MIB);
  await clock.advance(OPENING_QUIET_MS - 1);
  reading.onReading("log", 100, 1000);
  assertEquals(lines, []);
  await clock.advance(1);
  reading.onReading("map", 3 * MIB, 4 * MIB);
  await clock.advance(999);
  reading.onReading("log", 300, 1000);
  assertEquals(lines, [
    "reading the map: 75 %, 3 MiB of 4 MiB, 1 MiB/s, 1 s left",
    "reading the log: 30 %, 300 of 1000 segments, 200 segments/s, 4 s left",
  ]);
});

Deno.test("sizes and times read as people say them", () => {
  const sizes = [0, 1023, 1024, 1536, 64 * 1024, 2 * MIB, 5 * 2 ** 40];
  assertEquals(sizes.map(showBytes), [
    "0 bytes",
    "1023 bytes",
    "1 KiB",
    "1.5 KiB",
    "64 KiB",
    "2 MiB",
    "5 TiB",
  ]);
  const times = [0.4, 1, 59.6, 60, 61, 3600, 3661, 86_400, 93_600];
  assertEquals(times.map(showSeconds), [
    "0 s",
    "1 s",
    "1 min",
    "1 min",
    "1 min 1 s",
    "1 h",
    "1 h 1 min",
    "1 d",
    "1 d 2 h",
  ]);
});
