/** What `deno task bench peers` writes: works, targets, tables and chart fit together. */
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { BARE_WORKS } from "./bare.ts";
import { chart } from "./chart.ts";
import { BLOCK_BYTES_DEFAULT, CONTENDERS, DRIVE, FLOOR, S3BACKER } from "./contenders.ts";
import { BARE, type Result, type Round, WORK_NAMES } from "./peers.ts";
import { comparison, summary } from "./report.ts";
import { between } from "./results.ts";
import { rowsOf, TARGETS } from "./targets.ts";
import { FILLINGS, WORKS } from "./works.ts";

function round(value: number): Round {
  return {
    bytesPerSecond: value * 1e6,
    requestsPerSecond: value * 100,
    seconds: value,
    p50Ms: value,
    p99Ms: 2 * value,
    upPerByte: 1.25,
    downPerByte: NaN,
    s3Puts: 128,
    s3Gets: 0,
    s3Requests: 1234,
    processorSeconds: value,
    peakBytes: 100 << 20,
  };
}

/** All that a run measures: the drive at 20, 30 and 10, each other one at 2, 3 and 1. */
function everything(): Result[] {
  const bare = Object.entries(BARE_WORKS).map(([work, { figure }]): Result => {
    return {
      work,
      what: `${work} & <more>`,
      figure,
      contender: BARE,
      rounds: [2, 3, 1].map(round),
    };
  });
  const others = WORKS.flatMap(({ name: work, what, figure, isLocal }) =>
    Object.keys(CONTENDERS).filter((who) => who !== FLOOR || isLocal).map((contender): Result => {
      const values = contender === DRIVE ? [20, 30, 10] : [2, 3, 1];
      return { work, what, figure, contender, rounds: values.map(round) };
    })
  );
  return [...bare, ...others];
}

/** The same with one that was given up. */
function withFailure(): Result[] {
  return everything().map((result) =>
    result.work === "mkfs" && result.contender === S3BACKER
      ? { ...result, rounds: [], failure: "not within 60 s" }
      : result
  );
}

function cells(line: string): number {
  return line.split("|").length;
}

Deno.test("works are told apart by name, have bare requests beside them, and those that share what is on a disk share its shape", () => {
  assertEquals(new Set(WORK_NAMES).size, WORK_NAMES.length);
  const bare = WORKS.flatMap((work) => work.bare ?? []);
  assertEquals(bare.toSorted(), Object.keys(BARE_WORKS).toSorted(), "each is some work's, once");
  const shapes: Record<string, string> = {};
  for (const { name, filling, sizeBytes, peerBlockBytes = BLOCK_BYTES_DEFAULT } of WORKS) {
    assertEquals(sizeBytes % peerBlockBytes, 0, name);
    if (filling === undefined) continue;
    assert(filling in FILLINGS, `${name} wants "${filling}"`);
    const shape = `${sizeBytes} ${peerBlockBytes}`;
    assertEquals(shapes[filling] ??= shape, shape, name);
  }
});

Deno.test("every target finds the works it is about, and is met or missed by the medians", () => {
  const rows = rowsOf(everything());
  assertEquals(rows.length, TARGETS.length);
  const find = (results: Result[], start: string) =>
    rowsOf(results).find(({ what }) => what.startsWith(start))!;
  const inOrder = find(everything(), "durable writing in order");
  assertStringIncludes(inOrder.result, "**10.00** times (10.00 to 10.00)");
  assert(inOrder.met);
  // a time that is ten times a bare request's
  assert(!find(everything(), "4 KiB written and flushed").met);
  const failed = everything().map((result) =>
    result.contender === DRIVE ? { ...result, rounds: [], failure: "failed" } : result
  );
  const given = find(failed, "durable writing in order");
  assertEquals([given.result, given.met], [`${DRIVE}: failed`, false]);
});

Deno.test("tables have a cell for every column, medians first, and say who was given up", () => {
  for (const text of [comparison(withFailure()), summary(withFailure())]) {
    const lines = text.trimEnd().split("\n");
    assertEquals(new Set(lines.map(cells)).size, 1, text);
    assertStringIncludes(text, "not within 60 s");
    assert(!/NaN|Infinity|undefined/.test(text), text);
  }
  const first = comparison(everything()).split("\n").find((line) => line.startsWith(`| ${DRIVE}`))!;
  assertStringIncludes(first, "**20.0** MB/s (10.0 to 30.0) | 20.0 | 20.0 / 40.0 |");
});

Deno.test("the chart is well-formed, its bars grow with their values and stay inside", async () => {
  await using scratch = await Scratch.make();
  const svg = chart(withFailure(), "a & b");
  const parse = "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])";
  await run("python3", ["-c", parse, await scratch.write("chart.svg", svg)]);
  assert(!/NaN|Infinity|undefined/.test(svg));
  assertStringIncludes(svg, "not within 60 s");
  const [width] = /viewBox="0 0 (\d+)/.exec(svg)!.slice(1).map(Number);
  const bars = [...svg.matchAll(/<rect x="(\d+)" y="\d+" width="([\d.]+)"[^>]*fill="(.*?)"/g)]
    .map(([, x, wide, colour]) => ({ end: Number(x) + Number(wide), wide: Number(wide), colour }));
  for (const { end } of bars) assert(end < width);
  // the first bars of the first work: a legend and the bare requests of the same unit come before
  const ofUnit = everything().filter(({ figure }) => figure === WORKS[0].figure);
  const before = new Set(everything().map(({ contender }) => contender)).size +
    ofUnit.filter(({ contender }) => contender === BARE).length;
  const [drive, peer] = bars.slice(before);
  assert(drive.wide > peer.wide, `${drive.wide} > ${peer.wide}`);
});

Deno.test("only what is between the marks of the README is written anew", async () => {
  const readme = await Deno.readTextFile(new URL("../../README.md", import.meta.url));
  const written = between(readme, "new");
  assertEquals(between(written, "new"), written);
  const [before, after] = written.split("\n\nnew\n\n");
  assert(readme.startsWith(before) && readme.endsWith(after));
  assertThrows(() => between("no marks", "new"), Error, "README.md has no");
});
