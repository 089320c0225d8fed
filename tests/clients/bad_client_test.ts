/** A client that sends nonsense gets an error or is cut off, and a long copy on another connection goes on. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { assertHolds, Drive } from "../support/drive.ts";
import { run, runPython, within } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { testInDirectory } from "../support/test_buckets.ts";

/** Without its own checks libnbd sends what it is told; each request must be refused, and the next one served. */
const ASK_FOR_TOO_MUCH = `
drive = nbd.NBD()
drive.set_strict_mode(0)
drive.connect_uri(uri)
size = drive.get_size()
requests = {
    "read past the end": lambda: drive.pread(4096, size - 2048),
    "read far past the end": lambda: drive.pread(4096, 1 << 62),
    "write past the end": lambda: drive.pwrite(bytes(8192), size - 4096),
    "large write past the end": lambda: drive.pwrite(bytes(8 << 20), size - 4096),
    "trim past the end": lambda: drive.trim(8192, size - 4096),
    "zero past the end": lambda: drive.zero(8192, size - 4096),
    "read too much": lambda: drive.pread(33 << 20, 0),
    "write too much": lambda: drive.pwrite(bytes(33 << 20), 0),
    "unknown command flag": lambda: drive.pread(4096, 0, 1 << 12),
}
for name, request in requests.items():
    try:
        request()
        print(name, "was allowed")
    except nbd.Error as error:
        print(name, error.errno)
        reason = error
    if not drive.aio_is_ready():
        drive = nbd.NBD()
        drive.set_strict_mode(0)
        drive.connect_uri(uri)
        print("cut off after", name, "by", reason)
drive.pread(4096, 0)
print("served")
`;

const EXPORT_NAME_OPTION = [
  ...[0, 0, 0, 3], // client flags
  ...new TextEncoder().encode("IHAVEOPT"),
  ...[0, 0, 0, 1, 0, 0, 0, 0], // NBD_OPT_EXPORT_NAME, ""
];
const OPTION_OF_4_GIB = [
  ...[0, 0, 0, 3],
  ...new TextEncoder().encode("IHAVEOPT"),
  ...[0, 0, 0, 7, 255, 255, 255, 255],
];
const NONSENSE = [...crypto.getRandomValues(new Uint8Array(2000))];

/** What an ill client sends, before and after the handshake. */
const ILL_CLIENTS: Record<string, number[]> = {
  "random bytes": NONSENSE,
  "HTTP": [...new TextEncoder().encode("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3))],
  "an option of 4 GiB": [...OPTION_OF_4_GIB, ...NONSENSE],
  "random bytes after the handshake": [...EXPORT_NAME_OPTION, ...NONSENSE],
};

/** Sends the bytes, and nothing more, and reads until the server has ended the connection. */
async function sendAsIllClient(drive: Drive, bytes: number[]): Promise<void> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port: drive.port });
  const buffer = new Uint8Array(65536);
  const conversation = async () => {
    await connection.write(new Uint8Array(bytes));
    await connection.closeWrite();
    while (await connection.read(buffer) !== null);
  };
  // A reset is as good as an end.
  const isCut = (error: unknown) =>
    error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe;
  await within(20, "the end of an ill client", conversation()).catch((error) => {
    if (!isCut(error)) throw error;
  });
}

/** Goes away in the middle of a request: 1 MiB announced, half of it sent. */
async function leaveInTheMiddle(drive: Drive): Promise<void> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port: drive.port });
  const request = new Uint8Array(28 + (1 << 19));
  const view = new DataView(request.buffer);
  view.setUint32(0, 0x25609513);
  view.setUint16(6, 1); // NBD_CMD_WRITE
  view.setUint32(24, 1 << 20);
  await connection.write(new Uint8Array(EXPORT_NAME_OPTION));
  const greeting = new Uint8Array(18 + 10); // then size and flags
  for (let read = 0; read < greeting.length;) {
    read += (await connection.read(greeting.subarray(read)))!;
  }
  for (let sent = 0; sent < request.length;) sent += await connection.write(request.subarray(sent));
}

testInDirectory({
  "a long copy is not disturbed by clients that send nonsense, too much, or leave in the middle":
    async (bucket) => {
      await using scratch = await Scratch.make();
      const image = await scratch.random("image", 512);
      await using drive = await Drive.start({ bucket, size: "512M", tcp: true });
      // All is in the bucket, and two copies of it are under way while the others misbehave.
      await run("nbdcopy", ["--flush", image, drive.uri]);
      let isCopying = true;
      const copies = Promise.all([
        run("nbdcopy", ["--requests=8", drive.uri, scratch.file("copy-1")]),
        run("nbdcopy", ["--connections=2", "--requests=4", drive.uri, scratch.file("copy-2")]),
      ]).finally(() => isCopying = false);
      do {
        for (const bytes of Object.values(ILL_CLIENTS)) await sendAsIllClient(drive, bytes);
        await leaveInTheMiddle(drive);
      } while (isCopying);
      await copies;
      // each way to be ill has a line; clients that are ill in the same way are only counted
      const reasons = Array.from(
        drive.stderr.matchAll(/client .* was cut off: (.*)/g),
        ([, why]) => why,
      );
      assert(new Set(reasons).size >= 3, drive.stderr);
      for (const copy of ["copy-1", "copy-2"]) await run("cmp", [image, scratch.file(copy)]);
      await assertHolds(drive, image);
      await drive.stopClean();
    },

  "a request past the end, too large or unknown gets an error, and the connection goes on": async (
    bucket,
  ) => {
    await using drive = await Drive.start({ bucket, size: "64M", tcp: true });
    const lines = (await runPython(ASK_FOR_TOO_MUCH, [drive.uri])).trim().split("\n");
    assertEquals(lines, [
      "read past the end EINVAL",
      "read far past the end EINVAL",
      "write past the end ENOSPC",
      "large write past the end ENOSPC",
      "trim past the end EINVAL",
      "zero past the end ENOSPC",
      "read too much EINVAL",
      "write too much EINVAL",
      "unknown command flag EINVAL",
      "served",
    ]);
    await drive.stopClean();
  },

  "nothing of a write that never came whole is on the disk": async (bucket) => {
    await using scratch = await Scratch.make();
    await using drive = await Drive.start({ bucket, size: "4M", tcp: true });
    await leaveInTheMiddle(drive);
    await assertHolds(drive, await scratch.hole("image", 4));
    await drive.stopClean();
  },

  "one connection too many is refused, and there is room again when one has gone": async (
    bucket,
  ) => {
    await using drive = await Drive.start({ bucket, size: "4M", tcp: true });
    const said = await runPython(CONNECT_TOO_OFTEN, [drive.uri]);
    assertStringIncludes(said, "16 connections\nrefused\nconnected\n");
    await drive.says(/a connection was refused: there are 16, which is the limit/);
    await drive.stopClean();
  },
});

const CONNECT_TOO_OFTEN = `
def connect():
    drive = nbd.NBD()
    drive.connect_uri(uri)
    drive.pread(512, 0)
    return drive
drives = [connect() for _ in range(16)]
print(len(drives), "connections")
try:
    connect()
    print("allowed")
except nbd.Error:
    print("refused")
drives.pop().shutdown()
for _ in range(200):
    try:
        connect()
        print("connected")
        break
    except nbd.Error:
        pass
for drive in drives:
    drive.pread(512, 0)
`;
