import { assert, assertEquals } from "@std/assert";
import { GroupedMap } from "../../../src/volume/grouped_map.ts";
import { Seed } from "../../simulation/seed.ts";

const sorted = (entries: Iterable<[number, number]>) => [...entries].sort((a, b) => a[0] - b[0]);

Deno.test("a grouped map holds what a plain one does, and gives out what lies between two keys", () => {
  const seed = new Seed(6);
  for (let life = 0; life < 20; life++) {
    const map = new GroupedMap<number>();
    const model = new Map<number, number>();
    const keys = 1 + seed.below(9000);
    for (let step = 0; step < 1000; step++) {
      const key = 2 ** 33 + seed.below(keys);
      if (seed.chance(0.7)) {
        map.set(key, step);
        model.set(key, step);
      } else if (seed.chance(0.9)) {
        map.delete(key);
        model.delete(key);
      } else {
        const end = key + seed.below(keys / 2);
        const taken = map.takeOut(key, end).flatMap((group) => [...group]);
        const between = [...model].filter(([other]) => other >= key && other < end);
        for (const [other] of between) model.delete(other);
        assertEquals(sorted(taken), sorted(between));
      }
      assertEquals([map.size, map.get(key), map.has(key)], [
        model.size,
        model.get(key),
        model.has(key),
      ]);
    }
    assertEquals(sorted(map), sorted(model));
  }
});

Deno.test("what lies between two keys is given out by whole groups", () => {
  const map = new GroupedMap<number>();
  for (let key = 0; key < 100_000; key++) map.set(key, key);
  const taken = map.takeOut(10, 99_990);
  assert(taken.length < 100, `${taken.length} groups`);
  assertEquals(sorted(map).map(([key]) => key).slice(9, 11), [9, 99_990]);
});
