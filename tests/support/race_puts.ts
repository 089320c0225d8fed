/**
 * One of several processes that race: race_puts.ts PATH NUMBER COUNT ifAbsent|ifMatch
 *
 * Each round begins when all have said that they are ready for it, by a file each in PATH.ready, so that they
 * come as close together as processes can. Prints the rounds it won.
 */
import { DirectoryBucket } from "../../src/bucket/directory_bucket.ts";
import { systemChance, systemClock } from "../../src/clock.ts";

const ROUNDS = 20;
const [path, number, count, kind] = Deno.args;
const bytesOf = (text: string) => new TextEncoder().encode(text);
const bucket = await DirectoryBucket.open(path, { clock: systemClock, chance: systemChance });

/** Waits until all processes have come here. Spins: a sleep would spread them. */
function meet(place: string): void {
  const folder = `${path}/.tmp/ready-${place}`;
  Deno.mkdirSync(folder, { recursive: true });
  Deno.writeTextFileSync(`${folder}/${number}`, "");
  while ([...Deno.readDirSync(folder)].length < Number(count));
}

for (let round = 0; round < ROUNDS; round++) {
  const key = `race/${round}`;
  let condition: { ifAbsent: true } | { ifMatch: string } = { ifAbsent: true };
  if (kind === "ifMatch") {
    if (number === "0") await bucket.put(key, bytesOf("start"));
    meet(`${round}-etag`);
    condition = { ifMatch: (await bucket.get(key))!.etag };
  }
  meet(`${round}-go`);
  const result = await bucket.put(key, bytesOf(`writer ${number}`), condition);
  if (result.stored) Deno.stdout.writeSync(bytesOf(`${round}\n`));
}
bucket.close();
