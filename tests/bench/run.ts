/**
 * `deno task bench [part ...]`: measures the compiled program and prints the README's table. Nothing here fails
 * a test: these are figures of one machine at one time, as ratios against a peer in the same run where speed
 * is concerned.
 */
import { benchBeside } from "./beside.ts";
import { benchFlush } from "./flush.ts";
import { benchHot } from "./hot.ts";
import { benchOpening } from "./opening.ts";
import { benchReclaim } from "./reclaim.ts";
import { benchReplay } from "./replay.ts";
import { benchStored } from "./stored.ts";
import { markdown, type Row } from "./table.ts";
import { benchTls } from "./tls.ts";

const PARTS: Record<string, () => Promise<Row[]>> = {
  hot: benchHot,
  beside: benchBeside,
  tls: benchTls,
  stored: benchStored,
  flush: benchFlush,
  opening: benchOpening,
  replay: benchReplay,
  reclaim: benchReclaim,
};

const wanted = Deno.args.length > 0 ? Deno.args : Object.keys(PARTS);
const rows: Row[] = [];
for (const name of wanted) {
  const part = PARTS[name];
  if (!part) throw new Error(`no part "${name}"; there are ${Object.keys(PARTS).join(", ")}`);
  rows.push(...await part());
}
Deno.stdout.writeSync(new TextEncoder().encode(markdown(rows) + "\n"));
