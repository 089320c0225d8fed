import { assert, assertEquals } from "@std/assert";
import { BlockRuns, isAllZero, Zeroes } from "../../../src/volume/zeroes.ts";
import { Seed } from "../../simulation/seed.ts";

const BLOCKS = 200;

/** The runs of a set of blocks, cut to [start, end). */
function runsOf(blocks: Set<number>, start = 0, end = BLOCKS): [number, number][] {
  const runs: [number, number][] = [];
  for (let block = start; block < end; block++) {
    if (!blocks.has(block)) continue;
    const last = runs.at(-1);
    if (last && last[1] === block) last[1]++;
    else runs.push([block, block + 1]);
  }
  return runs;
}

Deno.test("runs hold the same blocks as a plain set, whatever is added and removed", () => {
  const seed = new Seed(1);
  for (let life = 0; life < 200; life++) {
    const runs = new BlockRuns();
    const model = new Set<number>();
    for (let step = 0; step < 60; step++) {
      const start = seed.below(BLOCKS);
      const end = start + 1 + seed.below(seed.chance(0.2) ? BLOCKS - start : 10);
      const isAdded = seed.chance(0.6);
      if (isAdded) runs.add(start, Math.min(end, BLOCKS));
      else runs.remove(start, Math.min(end, BLOCKS));
      for (let block = start; block < Math.min(end, BLOCKS); block++) {
        if (isAdded) model.add(block);
        else model.delete(block);
      }
      runs.checkInvariants();
      assertEquals([...runs], runsOf(model));
      assertEquals(runs.count, runsOf(model).length);
      const block = seed.below(BLOCKS);
      assertEquals(runs.has(block), model.has(block));
    }
  }
});

Deno.test("a run as long as the largest disk is one run", () => {
  const runs = new BlockRuns();
  runs.add(0, 2 ** 38);
  runs.remove(2 ** 37, 2 ** 37 + 1);
  assertEquals([...runs], [[0, 2 ** 37], [2 ** 37 + 1, 2 ** 38]]);
  runs.add(2 ** 37, 2 ** 37 + 1);
  assertEquals(runs.count, 1);
});

Deno.test("zeroes stay visible from trim to commit, and no longer", () => {
  const zeroes = new Zeroes();
  zeroes.pending.add(10, 20);
  const first = zeroes.seal();
  zeroes.pending.add(15, 30);
  const second = zeroes.seal();
  assertEquals([zeroes.has(10), zeroes.has(25), zeroes.count], [true, true, 2]);
  zeroes.commit(first);
  assertEquals([zeroes.has(10), zeroes.has(15), zeroes.has(25)], [false, true, true]);
  zeroes.commit(second);
  assertEquals([zeroes.has(15), zeroes.count], [false, 0]);
});

Deno.test("one byte that is not zero is found, wherever it is and however the data lies", () => {
  for (const shift of [0, 1, 4]) {
    const data = new Uint8Array(new ArrayBuffer(4096 + shift), shift);
    assert(isAllZero(data));
    for (const at of [0, 1, 2047, 4092, 4095]) {
      data[at] = 1;
      assert(!isAllZero(data), `byte ${at}, shifted by ${shift}`);
      data[at] = 0;
    }
  }
});
