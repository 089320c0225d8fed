/**
 * `deno task simulate [seed [count]]`: replays `count` lives of a volume, one a seed, from `seed` on; with one
 * argument that seed alone, with none 1,000 from a random one. The first that fails ends it, with its trace.
 */
import { replaySeeds } from "../support/seeds.ts";
import { simulate } from "./simulation.ts";

await replaySeeds("simulate", 1000, async (life) => {
  const { seed: _, ...happenings } = await simulate(life);
  return happenings;
});
