import { assertEquals } from "@std/assert";
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
    const dead = [...model].filter(([, { liveBytes }]) => liveBytes === 0).map(([seq]) => seq);
    assertEquals(table.deadSeqs().sort(), dead.sort());
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

Deno.test("the cheapest segments are those that a sort of all would have first", () => {
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
    const seqs = table.cheapest(20, 400, (_storedBytes, liveBytes) => liveBytes);
    const wanted = costs.sort((a, b) => a - b).slice(0, 20);
    assertEquals(seqs.map((seq) => table.get(seq)!.liveBytes), wanted, order);
    assertEquals(table.cheapest(20, 1, (_storedBytes, liveBytes) => liveBytes), []);
  }
});
