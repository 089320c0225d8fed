/**
 * What a user sees of a damaged bucket: each object of a small volume damaged in turn, under the real program. Every
 * bit and every length is the business of tests/unit/volume/damage_test.ts.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { Drive, PROGRAM } from "../support/drive.ts";
import { run, runProgram, runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type DirectoryTestBucket, testInDirectory } from "../support/test_buckets.ts";

const KIB = 1024;
const BLOCK = 4 * KIB;
const BLOCKS = 64;
const SHAPE = { size: "256K", s3: { STRIPE: "16K" } };

/** Prints of each block the byte that it is full of, "EIO", or "mixed". */
const READ_BLOCKS = `
import json, errno
drive = nbd.NBD()
drive.connect_uri(uri)
found = []
for block in range(${BLOCKS}):
    try:
        data = drive.pread(${BLOCK}, block * ${BLOCK})
        found.append(data[0] if data == data[:1] * ${BLOCK} else "mixed")
    except nbd.Error as error:
        found.append(errno.errorcode[error.errnum])
print(json.dumps(found))
`;

const WRITES = [
  // a base for six stripes
  [{ value: 1, at: 0, length: 96 * KIB }],
  // patches, one of zeroes, on two of them, and a stripe with nothing else
  [{ value: 2, at: 4 * KIB, length: 4 * KIB }, { value: 0, at: 24 * KIB, length: 4 * KIB }, {
    value: 3,
    at: 132 * KIB,
    length: 8 * KIB,
  }],
  // what is only in the log
  [{ value: 4, at: 200 * KIB, length: 4 * KIB }, { value: 0, at: 64 * KIB, length: 32 * KIB }],
];

/** Two lives that end well, one that is killed, and one that is killed when it has just begun. */
async function makeVolume(bucket: DirectoryTestBucket): Promise<number[]> {
  const expected = new Array(BLOCKS).fill(0);
  for (const writes of [...WRITES, []]) {
    await using drive = await Drive.start({ bucket, ...SHAPE });
    for (const { value, at, length } of writes) {
      await run("qemu-io", ["-f", "raw", "-c", `write -P ${value} ${at} ${length}`, drive.uri]);
      expected.fill(value, at / BLOCK, (at + length) / BLOCK);
    }
    if (writes === WRITES[0] || writes === WRITES[1]) await drive.stopClean();
    else await drive.kill();
  }
  return expected;
}

/** A bit flipped, cut by a byte, deleted. */
const HARMS: ((file: string) => Promise<void>)[] = [
  async (file) => {
    const bytes = await Deno.readFile(file);
    bytes[bytes.length >> 1] ^= 1;
    await Deno.writeFile(file, bytes);
  },
  async (file) => await Deno.truncate(file, (await Deno.stat(file)).size - 1),
  async (file) => await Deno.remove(file),
];

type Outcome = "refused" | "EIO" | "right";

/** Starts a drive on a copy of the bucket in which the object has been harmed. */
async function outcomeOf(
  bucket: DirectoryTestBucket,
  key: string,
  harm: (file: string) => Promise<void>,
  expected: number[],
): Promise<Outcome> {
  await using scratch = await Scratch.make();
  await run("cp", ["-a", bucket.path, scratch.file("copy")]);
  await harm(scratch.file(`copy/${key}`));
  const text = `[s3]\nBUCKET=file:${scratch.file("copy")}\n[server]\nsocket=nbd.sock\n`;
  const config = await scratch.write("config.ini", text);
  const args = ["-c", config, "--takeover"]; // of one that was killed
  let drive: Drive;
  try {
    drive = await Drive.spawn(PROGRAM, args, scratch.path);
  } catch {
    const { code, stderr } = await runProgram(PROGRAM, args, { cwd: scratch.path });
    assertEquals(code, 2, stderr);
    assertMatch(stderr, new RegExp(`error: .*${key}`));
    assert(!stderr.includes("should not happen"), stderr);
    return "refused";
  }
  await using running = drive;
  const found: (number | string)[] = JSON.parse(await runPython(READ_BLOCKS, [running.uri]));
  const wrong = found.filter((value, block) => value !== expected[block]);
  assert(wrong.every((value) => value === "EIO"), `${key}: ${found}`);
  if (wrong.length > 0) await running.says(new RegExp(`${key} at offset `));
  return wrong.length > 0 ? "EIO" : "right";
}

testInDirectory({
  "each object damaged in turn gives what was written, EIO, or a refusal that names it": async (
    bucket,
  ) => {
    const expected = await makeVolume(bucket);
    const outcomes: Record<string, Outcome[]> = {};
    for (const { key } of await bucket.objects()) {
      const harmed = HARMS.map((harm) => outcomeOf(bucket, key, harm, expected));
      outcomes[key] = await Promise.all(harmed);
    }
    const all = (outcome: Outcome) => [outcome, outcome, outcome];
    assertEquals(outcomes, {
      "volume.json": all("refused"),
      "lease.json": all("right"), // with --takeover
      // before the newest checkpoint
      "log/0000000001": all("right"),
      "log/0000000002": ["EIO", "right", "EIO"], // its last stripes were overwritten
      "log/0000000003": all("right"),
      "log/0000000004": all("EIO"),
      "log/0000000005": all("right"),
      "log/0000000006": all("EIO"),
      // behind it
      "log/0000000007": all("refused"),
      "log/0000000008": ["EIO", "refused", "refused"],
      "log/0000000009": all("refused"),
      "log/0000000010": all("refused"),
      // each can stand in for the other
      "checkpoint/0000000002": all("right"),
      "checkpoint/0000000006": all("right"),
      "map/0000000002/0000": all("right"),
      "map/0000000006/0000": all("right"),
    });
  },
});
