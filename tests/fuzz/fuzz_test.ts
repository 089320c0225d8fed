import { assert, assertEquals } from "@std/assert";
import { fuzz } from "./fuzz.ts";

/** A million frames and some more. */
const SEEDS = 200;
const FRAMES_MIN = 1_000_000;

Deno.test("a million frames, right and wrong, from seeds: every reply is one that proto.md allows, the disk holds what was written, nothing is left behind", async () => {
  // a failure names its seed: `deno task fuzz <seed>` replays it
  let frames = 0;
  for (let seed = 1; seed <= SEEDS; seed++) frames += (await fuzz(seed)).frames;
  assert(frames >= FRAMES_MIN, `only ${frames} frames`);
});

Deno.test("a seed replays the same life", async () => {
  assertEquals(await fuzz(4242), await fuzz(4242));
});
