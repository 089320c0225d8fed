/**
 * `deno task simulate [seed [count]]`: replays `count` lives of a volume, one a seed, from `seed` on; with one
 * argument that seed alone, with none 1,000 from a random one. The first that fails ends it, with its trace.
 */
import { simulate } from "./simulation.ts";

const first = Number(Deno.args[0] ?? Math.floor(Math.random() * 1e9));
const count = Number(Deno.args[1] ?? (Deno.args.length > 0 ? 1 : 1000));
if (!Number.isSafeInteger(first) || !(count > 0)) {
  say("usage: deno task simulate [seed [count]]");
  Deno.exit(2);
}

function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

let seed = first;
// an assertion in the volume that nobody awaits
globalThis.addEventListener("unhandledrejection", ({ reason }) => {
  say(`seed ${seed}: ${reason?.stack ?? reason}`);
  Deno.exit(1);
});

const totals: Record<string, number> = {};
try {
  for (; seed < first + count; seed++) {
    for (const [what, number] of Object.entries(await simulate(seed))) {
      if (what !== "seed") totals[what] = (totals[what] ?? 0) + number;
    }
  }
} catch (error) {
  say((error as Error).message);
  Deno.exit(1);
}
say(`seeds ${first} to ${first + count - 1} passed: ${JSON.stringify(totals)}`);
