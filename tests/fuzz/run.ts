/**
 * `deno task fuzz [seed [count]]`: replays `count` lives of an NBD server among ill clients, one a seed, from `seed` on; with
 * one argument that seed alone, with none 100 from a random one. The first that fails ends it.
 */
import { fuzz, type Totals } from "./fuzz.ts";

const first = Number(Deno.args[0] ?? Math.floor(Math.random() * 1e9));
const count = Number(Deno.args[1] ?? (Deno.args.length > 0 ? 1 : 100));
if (!Number.isSafeInteger(first) || !(count > 0)) {
  say("usage: deno task fuzz [seed [count]]");
  Deno.exit(2);
}

function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

let seed = first;
// what the server leaves to nobody
globalThis.addEventListener("unhandledrejection", ({ reason }) => {
  say(`seed ${seed}: ${reason?.stack ?? reason}`);
  Deno.exit(1);
});

const totals: Totals = { sessions: 0, frames: 0, bytes: 0, answers: 0 };
const begun = performance.now();
try {
  for (; seed < first + count; seed++) {
    const life = await fuzz(seed);
    for (const key of Object.keys(totals) as (keyof Totals)[]) totals[key] += life[key];
  }
} catch (error) {
  say((error as Error).message);
  Deno.exit(1);
}
const seconds = (performance.now() - begun) / 1000;
const perSecond = Math.round(totals.frames / seconds);
say(
  `seeds ${first} to ${seed - 1} passed: ${JSON.stringify(totals)}, ${perSecond} frames a second`,
);
