/** What the compiled program writes to stderr: for people, for systemd's journal, in a flood, and when nobody reads it. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { LOG_FIRST_LINES } from "../../src/limits.ts";
import { configText, Drive, PROGRAM } from "../support/drive.ts";
import { run, runProgram } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { testInDirectory } from "../support/test_buckets.ts";

/** Connections at once are bounded, so one after the other. */
const HOSTILE_CLIENTS = 200;

/** Says what no NBD client says, and waits until it is cut off. */
async function beHostile(connect: () => Promise<Deno.Conn>): Promise<void> {
  using client = await connect();
  const nonsense = new TextEncoder().encode("\n<3>error: forged\x1b[2J\n".repeat(8));
  await client.write(nonsense);
  const buffer = new Uint8Array(4096);
  const gone = () => null; // reset: it had not read all of it
  while (await client.read(buffer).catch(gone) !== null);
}

Deno.test("stderr that is systemd's journal has its levels, another file has words", async () => {
  await using scratch = await Scratch.make();
  await scratch.write("config.ini", "[s3]\nBUCKET=file:b\nnonsense=1\n");
  const errorsWith = async (stream: string) => {
    const script = `export JOURNAL_STREAM=${stream}; exec "$0" -c config.ini 2>log`;
    const { code } = await runProgram("sh", ["-c", script, PROGRAM], { cwd: scratch.path });
    assertEquals(code, 2);
    return await Deno.readTextFile(scratch.file("log"));
  };
  const rest = 'config.ini:3: unknown key "nonsense"';
  const people = await errorsWith("1:2");
  assert(people.startsWith(`elasticdrive: error: ${scratch.path}/${rest}`), people);
  const journal = await errorsWith("$(stat -c %d:%i log)");
  assert(journal.startsWith(`<3>error: ${scratch.path}/${rest}`), journal);
});

testInDirectory({
  "hostile clients fill no log, forge no line, and each is counted": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "1M", tcp: true });
    const from = drive.lines.length;
    const connect = () => Deno.connect({ port: drive.port });
    for (let n = 0; n < HOSTILE_CLIENTS; n++) await beHostile(connect);
    await run("nbdinfo", ["--size", drive.uri]);
    assert(drive.lines.length - from <= LOG_FIRST_LINES, drive.stderr);
    await drive.stopClean();
    let clients = 0;
    for (const line of drive.lines.slice(from)) {
      assertMatch(line, /^elasticdrive: [\x20-\x7e]+$/);
      if (!line.includes("was cut off: ")) continue;
      clients += Number(/\(the last of (\d+) more like it\)$/.exec(line)?.[1] ?? 1);
    }
    assertEquals(clients, HOSTILE_CLIENTS, drive.stderr);
  },

  "a log whose reader has gone is no reason to end": async (bucket) => {
    await using scratch = await Scratch.make();
    await scratch.write("config.ini", configText({ bucket, size: "1M" }));
    // what stderr goes to ends with the ready line
    const script = `exec "$0" -c config.ini 2> >(head -n 1 >&2)`;
    await using drive = await Drive.spawn("bash", ["-c", script, PROGRAM], scratch.path);
    const connect = () => Deno.connect({ transport: "unix", path: drive.address });
    for (let n = 0; n < 2; n++) await beHostile(connect);
    assertEquals(await run("nbdinfo", ["--size", drive.uri]), `${1 << 20}\n`);
    assertEquals(await drive.stop(), 0);
    assertEquals(drive.lines.length, 1);
  },
});
