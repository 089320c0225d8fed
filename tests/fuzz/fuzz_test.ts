import { assert, assertEquals } from "@std/assert";
import { assertBugsHavePlace } from "../support/bug_hunt.ts";
import { cutAt } from "./cuts.ts";
import { FUZZER } from "./deliberate_bugs.ts";
import { fuzz } from "./fuzz.ts";
import { everyFrame } from "./sessions.ts";

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

Deno.test("a connection cut at any byte, with every option and command: what was received whole is done, nothing is left behind", async () => {
  const everywhere = Array.from({ length: 1000 }, (_, cut) => cut);
  const { sessions, frames } = await cutAt(everywhere, everyFrame);
  assert(sessions > 2000 && frames > 20_000, `${sessions} sessions of ${frames} frames`);
});

Deno.test("every deliberate bug still has its place in src/nbd", () => {
  // whether each is found is a matter of minutes: run tests/fuzz/deliberate_bugs.ts
  assertBugsHavePlace(FUZZER);
});
