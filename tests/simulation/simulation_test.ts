import { assertBugsHavePlace } from "../support/bug_hunt.ts";
import { SIMULATION } from "./deliberate_bugs.ts";
import { simulate } from "./simulation.ts";

const SEEDS = 2000;

Deno.test(`${SEEDS} seeded lives of a volume keep what was promised`, async () => {
  // a failure names its seed: `deno task simulate <seed>` replays it
  for (let seed = 1; seed <= SEEDS; seed++) await simulate(seed);
});

Deno.test("a seed replays the same life", async () => {
  const [first, second] = [await simulate(4242), await simulate(4242)];
  if (JSON.stringify(first) !== JSON.stringify(second)) {
    throw new Error(`${Deno.inspect(first)} and then ${Deno.inspect(second)}`);
  }
});

Deno.test("every deliberate bug still has its place in the source", () => {
  // whether each is found is a matter of minutes: `deno task bugs`
  assertBugsHavePlace(SIMULATION);
});
