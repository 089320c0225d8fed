import { assert, assertEquals } from "@std/assert";
import { RANK_TURN_SEGMENTS } from "../../../src/limits.ts";
import { SegmentTable, type SegmentUse } from "../../../src/volume/segment_table.ts";
import { Seed } from "../../simulation/seed.ts";

type Model = Map<number, SegmentUse>;

function rowsOf(table: Iterable<[number, SegmentUse]>): string[] {
  return [...table].map(([seq, use]) => `${seq}: ${use.liveBytes} of ${use.storedBytes}`).sort();
}

function frozenRowsOf(table: SegmentTable): string[] {
  const model: Model = new Map();
  for (const { seqs, bytes } of table.frozen()) {
    seqs.forEach((seq, row) =>
      model.set(seq, { storedBytes: bytes[2 * row], liveBytes: bytes[2 * row + 1] })
    );
  }
  return rowsOf(model);
}

/** One change of a table, and the same of a plain map. */
function change(seed: Seed, table: SegmentTable, model: Model, next: number): void {
  const seqs = [...model.keys()];
  if (seqs.length === 0 || seed.chance(0.3)) {
    const use = { storedBytes: 100 + seed.below(1000), liveBytes: seed.below(100) };
    table.add(next, use.storedBytes, use.liveBytes);
    model.set(next, use);
    return;
  }
  const seq = seed.pick(seqs);
  if (seed.chance(0.2)) {
    table.delete(seq);
    model.delete(seq);
    return;
  }
  const use = model.get(seq)!;
  const liveBytes = seed.chance(0.3) ? 0 : seed.below(use.storedBytes);
  table.addLive(seq, liveBytes - use.liveBytes);
  model.set(seq, { ...use, liveBytes });
}

Deno.test("the table holds what a plain map does, and its sums are right", () => {
  const seed = new Seed(3);
  const table = new SegmentTable();
  const model: Model = new Map();
  for (let step = 1; step <= 3000; step++) {
    change(seed, table, model, step);
    if (step % 50 > 0) continue;
    table.checkInvariants();
    assertEquals(rowsOf(table), rowsOf(model));
  }
});

Deno.test("a frozen table tells what it was, whatever is added, changed and deleted meanwhile", () => {
  const seed = new Seed(4);
  const table = new SegmentTable();
  const model: Model = new Map();
  for (let seq = 1; seq <= 3000; seq++) {
    const use = { storedBytes: 100 + seq, liveBytes: seq % 90 };
    table.add(seq, use.storedBytes, use.liveBytes);
    model.set(seq, use);
  }
  let next = 3000;
  for (let time = 0; time < 3; time++) {
    const before = rowsOf(table);
    table.freeze();
    assertEquals(table.frozenSize, before.length);
    for (let step = 0; step < 1500; step++) change(seed, table, model, ++next);
    assertEquals(frozenRowsOf(table), before);
    assertEquals(rowsOf(table), rowsOf(model));
  }
});

const noPause = () => Promise.resolve();
const liveOf = (_storedBytes: number, liveBytes: number) => liveBytes;

Deno.test("the cheapest segments are those that a sort of all would have first", async () => {
  const seed = new Seed(5);
  for (const order of ["up", "down", "mixed"]) {
    const table = new SegmentTable();
    const costs: number[] = [];
    for (let seq = 1; seq <= 500; seq++) {
      const cost = order === "up" ? seq : order === "down" ? 501 - seq : 1 + seed.below(1000);
      table.add(seq, 1000, cost);
      costs.push(cost);
    }
    table.add(501, 1000, 0); // dead: nobody's
    costs.sort((a, b) => a - b);
    // of 256 classes, so that each cost below has one of its own
    const { seqs, liveBytes } = await table.cheapest(20, 256, liveOf, noPause);
    assertEquals(seqs.map((seq) => table.get(seq)!.liveBytes), costs.slice(0, 20), order);
    const movable = costs.filter((cost) => cost < 256);
    assertEquals(liveBytes, movable.reduce((sum, cost) => sum + cost, 0));
    const all = await table.cheapest(Infinity, 256, liveOf, noPause);
    assertEquals(all.seqs.map((seq) => table.get(seq)!.liveBytes), movable, order);
    assertEquals(await table.cheapest(20, 1, liveOf, noPause), { seqs: [], liveBytes: 0 });
  }
});

Deno.test("segments that cost nearly the same are not told apart, others are", async () => {
  const table = new SegmentTable();
  for (let seq = 1; seq <= 1000; seq++) table.add(seq, 1e6, 1001 - seq);
  const { seqs } = await table.cheapest(Infinity, 2048, liveOf, noPause);
  const costs = seqs.map((seq) => table.get(seq)!.liveBytes);
  assertEquals(costs.map((cost) => Math.floor(cost / 8)), costs.map((_, at) => (at + 1) >> 3));
});

Deno.test("the cheapest are looked for some rows a turn, among others that come and go", async () => {
  const table = new SegmentTable();
  const count = 3 * RANK_TURN_SEGMENTS + 1000;
  for (let seq = 1; seq <= count; seq++) table.add(seq, 1000, seq % 2 === 0 ? 500 : 700);
  let pauses = 0;
  const change = () => {
    pauses++;
    for (let n = 0; n < 100; n++) table.delete(pauses * 1000 + n);
    table.add(count + pauses, 1000, 1);
    return Promise.resolve();
  };
  const { seqs } = await table.cheapest(Infinity, 600, liveOf, change);
  assertEquals(pauses, 3);
  assertEquals(new Set(seqs).size, seqs.length);
  const missing = count / 2 - seqs.length;
  assert(missing < 300, `${missing} are not named`);
});
