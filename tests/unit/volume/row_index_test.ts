import { assertEquals } from "@std/assert";
import { RowIndex } from "../../../src/volume/row_index.ts";
import { Seed } from "../../simulation/seed.ts";

Deno.test("a row index holds what a plain map does, with seqs in order, at random, dense and sparse", () => {
  const seed = new Seed(7);
  for (let life = 0; life < 20; life++) {
    const index = new RowIndex();
    const model = new Map<number, number>();
    const first = seed.pick([0, 2 ** 33 - 100]);
    const seqs = seed.pick([20, 300, 5000]);
    const deletes = seed.pick([0.1, 0.5, 0.9]);
    for (let step = 0; step < 3000; step++) {
      const seq = first + (seed.chance(0.5) ? step % seqs : seed.below(seqs));
      if (seed.chance(deletes)) {
        index.delete(seq);
        model.delete(seq);
      } else {
        index.set(seq, step);
        model.set(seq, step);
      }
      const other = first + seed.below(seqs);
      for (const at of [seq, other]) assertEquals(index.get(at), model.get(at));
      assertEquals([index.size, index.has(other)], [model.size, model.has(other)]);
    }
    for (let seq = first; seq < first + seqs; seq++) assertEquals(index.get(seq), model.get(seq));
  }
});
