/** Clients that mean harm, or are badly broken, against the compiled program: what they cost, and that others don't notice. */
import { assert, assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { NBD_CMD_READ, NBD_OPT_LIST } from "../../src/nbd/constants.ts";
import { writeAll } from "../../src/nbd/socket.ts";
import { checkReplies } from "../fuzz/check_replies.ts";
import { type Disk, interpret } from "../fuzz/reference.ts";
import { join, makeFrames, mutate } from "../fuzz/sessions.ts";
import { Seed } from "../simulation/seed.ts";
import { assertSurvivesRestart, Drive } from "../support/drive.ts";
import { within } from "../support/programs.ts";
import { SteadyClient } from "../support/steady_client.ts";
import { testInDirectory } from "../support/test_buckets.ts";
import { Client, viewOf } from "../unit/nbd/session.ts";

const MIB = 1 << 20;
const SESSIONS = 500;

function connect(drive: Drive): Promise<Deno.Conn> {
  return Deno.connect({ transport: "unix", path: drive.address });
}

async function attach(drive: Drive): Promise<Client> {
  const client = new Client(await connect(drive));
  await client.handshake();
  return client;
}

async function exportName(drive: Drive): Promise<string> {
  const client = new Client(await connect(drive));
  await client.greet();
  const [{ data }] = await client.option(NBD_OPT_LIST);
  client.close();
  return new TextDecoder().decode(data.subarray(4, 4 + viewOf(data).getUint32(0)));
}

async function readDisk(client: Client, sizeBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const { errno, data } = await client.call({ type: NBD_CMD_READ, length: sizeBytes });
  assertEquals(errno, 0);
  return new Uint8Array(data);
}

/** Sends all that, ends its side, and returns what comes until the other side ends. */
async function converse(drive: Drive, bytes: Uint8Array): Promise<Uint8Array> {
  const conn = await connect(drive);
  const replies: Uint8Array[] = [];
  const taking = (async () => {
    const buffer = new Uint8Array(65_536);
    for (let count; (count = await conn.read(buffer)) !== null;) {
      replies.push(buffer.slice(0, count));
    }
  })();
  const sending = writeAll(conn, bytes).then(() => conn.closeWrite());
  for (const { reason } of (await Promise.allSettled([taking, sending])).filter(isRejected)) {
    const isCut = reason instanceof Deno.errors.BrokenPipe ||
      reason instanceof Deno.errors.ConnectionReset;
    if (!isCut) throw reason;
  }
  conn.close();
  return join(...replies);
}

function isRejected(result: PromiseSettledResult<void>): result is PromiseRejectedResult {
  return result.status === "rejected";
}

/** Floods end when the drive has taken nothing more for 2 s; its connections stay. */
const TAKE_ALL = `
import socket, struct, sys, time
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    keep.append(s)
    return s
def option(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data
def attach():
    s = connect()
    s.sendall(struct.pack(">I", 3) + option(1))
    got = 0
    while got < 18 + 10:
        got += len(s.recv(28 - got))
    return s
def request(type, length):
    return struct.pack(">IHHQQI", 0x25609513, 0, type, 1, 0, length)
def flood(s, data):
    s.settimeout(2)
    try:
        while True:
            s.sendall(data)
    except OSError:
        pass
keep = []
for i in range(4):  # reads without an end, whose replies nobody takes
    flood(attach(), request(0, 1 << 20) * 100)
for i in range(4):  # writes of 32 MiB, whose payload never comes
    attach().sendall(request(1, 32 << 20))
slow = attach()  # a request that comes a byte at a time, and never whole
for byte in request(0, 1)[:-1]:
    slow.sendall(bytes([byte]))
for i in range(40):  # nothing at all
    connect()
for i in range(10):  # options without an end
    s = connect()
    s.sendall(struct.pack(">I", 3))
    flood(s, option(3) * 100)
print("all taken", flush=True)
time.sleep(1000)
`;

testInDirectory({
  "mutated sessions get the replies that are theirs, and the disk holds what was written": async (
    bucket,
  ) => {
    await using drive = await Drive.start({ bucket, size: "4M" });
    const disk: Disk = {
      name: await exportName(drive),
      sizeBytes: 4 * MIB,
      blockBytes: 4096,
      readOnly: false,
      isFastKnown: false,
      bad: { start: 0, end: 0 },
    };
    const witness = await attach(drive);
    let contents = await readDisk(witness, disk.sizeBytes);
    for (let number = 1; number <= SESSIONS; number++) {
      const seed = new Seed(number);
      const frames = () => makeFrames(seed, disk, seed.below(200));
      const bytes = join(...(seed.chance(0.2) ? frames() : mutate(frames(), seed, frames)));
      const expected = interpret(bytes, disk, contents);
      const replies = await within(20, `session ${number}`, converse(drive, bytes));
      const isComplete = expected.end !== "cut" && expected.restBytes === 0;
      const strictness = { isComplete, knowsContents: false };
      checkReplies(replies, expected, disk.sizeBytes, strictness);
      const found = await readDisk(witness, disk.sizeBytes);
      const isKnown = isComplete && !expected.isOpen;
      if (isKnown) assert(Buffer.compare(found, contents) === 0, `after session ${number}`);
      contents = found;
    }
    witness.close();
    assert(!/this should not happen|ERROR|Uncaught/.test(drive.stderr), drive.stderr);
    await assertSurvivesRestart(drive, bucket);
  },

  "clients that take all they can cost no more memory than the ready line says, and others go on":
    async (bucket) => {
      await using drive = await Drive.start({ bucket, size: "64M", server: { cachesize: 1024 } });
      await using steady = await SteadyClient.start(drive.uri);
      const command = new Deno.Command("/usr/bin/python3", {
        args: ["-c", TAKE_ALL, drive.address],
        stdin: "null",
        stdout: "piped",
      });
      const hostile = command.spawn();
      const stdout = hostile.stdout.getReader();
      await within(60, "all that they can take", stdout.read());
      await steady.goesOn(60);
      const late = await attach(drive);
      assertEquals((await late.call({ type: NBD_CMD_READ, length: MIB })).errno, 0);
      late.close();
      await steady.goesOn(60);
      const stated = /at most ([\d.]+) (MiB|GiB) of memory/.exec(drive.readyLine)!;
      const bound = Number(stated[1]) * (stated[2] === "GiB" ? 1024 * MIB : MIB);
      const peak = drive.memoryBytes("VmHWM");
      assert(peak <= bound, `${peak / MIB} MiB of ${bound / MIB}`);
      hostile.kill("SIGKILL");
      await hostile.status;
      await stdout.cancel();
      await steady.endIntact();
      await drive.stopClean();
    },
});
