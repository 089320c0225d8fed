/**
 * `deno task fuzz [seed [count]]`: replays `count` lives of an NBD server among ill clients, one a seed, from `seed` on; with
 * one argument that seed alone, with none 100 from a random one. The first that fails ends it.
 */
import { replaySeeds } from "../support/seeds.ts";
import { fuzz } from "./fuzz.ts";

await replaySeeds("fuzz", 100, async (seed) => ({ ...await fuzz(seed) }));
