/**
 * Real NBD clients against src/nbd on a disk in memory: what they find there, what they write, and whether
 * it is the same byte for byte.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { systemClock } from "../../src/clock.ts";
import { silentLogger } from "../../src/logger.ts";
import { listenTcp, listenUnix, NbdServer } from "../../src/nbd/server.ts";
import { MemoryDevice } from "../support/memory_device.ts";

const SIZE_BYTES = 40 << 20;

interface Disk {
  device: MemoryDevice;
  directory: string;
  /** The disk on its Unix socket, and on TCP, as libnbd and qemu name it. */
  uri: string;
  tcpUri: string;
}

/** A test that also fails when it leaves a socket, a process or a connection behind. */
function test(name: string, body: (disk: Disk) => Promise<void>): void {
  const fn = async () => {
    const directory = await Deno.makeTempDir();
    const device = new MemoryDevice(SIZE_BYTES);
    const server = new NbdServer(device, {
      exportName: "disk",
      description: "a disk for tests",
      clock: systemClock,
      logger: silentLogger,
    });
    const tcp = listenTcp("127.0.0.1", 0);
    server.serve(tcp);
    server.serve(await listenUnix(`${directory}/nbd.sock`));
    try {
      await body({
        device,
        directory,
        uri: `nbd+unix:///disk?socket=${directory}/nbd.sock`,
        tcpUri: `nbd://127.0.0.1:${(tcp.addr as Deno.NetAddr).port}/disk`,
      });
    } finally {
      await server.close();
      await Deno.remove(directory, { recursive: true });
    }
    assertEquals([server.connections, server.inFlightBytes, server.inFlightRequests], [0, 0, 0]);
  };
  Deno.test({ name, sanitizeOps: true, sanitizeResources: true, fn });
}

/** Runs a program to its end, which must be a success; returns what it printed. */
async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args, stdin: "null" })
    .output();
  const decoder = new TextDecoder();
  const said = decoder.decode(stdout);
  assertEquals(code, 0, `${decoder.decode(stderr)}${said}\nfrom ${program} ${args}`);
  return said;
}

function assertSameBytes(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  for (let i = 0; i < actual.length; i++) {
    if (actual[i] !== expected[i]) throw new Error(`byte ${i} is ${actual[i]}, not ${expected[i]}`);
  }
}

/** Bytes that repeat nowhere nearby, with a hole of zeroes in the middle. */
function content(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 2654435761) >>> 13;
  return bytes.fill(0, length >> 1, (length >> 1) + (length >> 2));
}

/** Opens `h` at the URI in argv[1], without libnbd's own checks, so that wrong requests get out. */
const PYTHON_HEAD = `
import errno, nbd, random, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
size = h.get_size()

def refused(number, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except nbd.Error as error:
        assert error.errnum == number, (call, args, kwargs, error)
    else:
        raise AssertionError((call, args, kwargs, "was not refused"))
    h.pread(1, 0)
`;

function python(script: string, ...args: string[]): Promise<string> {
  return run("/usr/bin/python3", "-c", PYTHON_HEAD + script, ...args);
}

test("nbdinfo sees the disk as it is, over the Unix socket and over TCP", async ({ uri, tcpUri }) => {
  for (const address of [uri, tcpUri]) {
    const [found] = JSON.parse(await run("nbdinfo", "--json", address)).exports;
    assertEquals(found["export-name"], "disk");
    assertEquals(found.description, "a disk for tests");
    assertEquals(found["export-size"], SIZE_BYTES);
    assertEquals(found.is_read_only, false);
    for (
      const ability of ["flush", "fua", "multi_conn", "trim", "zero", "fast_zero", "cache", "df"]
    ) {
      assertEquals(found[`can_${ability}`], true, ability);
    }
    assertEquals(found.block_size_minimum, 1);
    assertEquals(found.block_size_preferred, 65536);
    assertEquals(found.block_size_maximum, 33554432);
  }
  const list = await run("nbdinfo", "--list", uri.replace("/disk?", "/?"));
  assertStringIncludes(list, 'export="disk"');
});

test("nbd-client lists the disk", async ({ tcpUri }) => {
  const port = new URL(tcpUri.replace("nbd:", "http:")).port;
  assertStringIncludes(await run("nbd-client", "-l", "127.0.0.1", port), "disk");
});

test("libnbd reads back what it wrote with every command, at odd offsets and lengths", async (disk) => {
  const expected = `${disk.directory}/expected`;
  await python(
    `
random.seed(2711)
shadow = bytearray(size)
lengths = [1, 511, 512, 4095, 4096, 4097, 65536, 262144, 700001]
def check(offset, length):
    assert h.pread(length, offset) == shadow[offset:offset + length], (offset, length)
for step in range(600):
    length = random.choice(lengths)
    offset = random.choice([0, size - length, random.randrange(size - length + 1),
                            random.randrange(size // 4096 - 200) * 4096])
    fua = random.choice([0, nbd.CMD_FLAG_FUA])
    verb = random.choice("rwwztf")
    if verb == "r":
        assert h.pread(length, offset, flags=fua) == shadow[offset:offset + length]
    elif verb == "w":
        data = random.randbytes(length)
        h.pwrite(data, offset, flags=fua)
        shadow[offset:offset + length] = data
    elif verb == "z":
        h.zero(length, offset, flags=fua | random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        shadow[offset:offset + length] = bytes(length)
    elif verb == "t":
        h.trim(length, offset, flags=fua)
        first, end = -(-offset // 4096) * 4096, (offset + length) // 4096 * 4096
        if first < end: shadow[first:end] = bytes(end - first)
    else:
        h.flush(flags=fua)
    check(max(0, offset - 1), min(length + 2, size - max(0, offset - 1)))
largest = 32 << 20
data = random.randbytes(largest)
h.pwrite(data, 3)
shadow[3:3 + largest] = data
check(3, largest)
check(0, size >> 1)
open(sys.argv[2], "wb").write(shadow)
h.shutdown()
`,
    disk.uri,
    expected,
  );
  assertSameBytes(disk.device.bytes, await Deno.readFile(expected));
});

test("libnbd gets the errors of the specification, and the connection goes on after each", async (disk) => {
  await python(
    `
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
for length in [1, 511, 4095]:
    for offset in [size, size - length + 1, size + 1000, (1 << 63) - 1]:
        refused(errno.EINVAL, h.pread, length, offset)
        refused(errno.EINVAL, h.trim, length, offset)
        refused(errno.ENOSPC, h.pwrite, bytes(length), offset)
        refused(errno.ENOSPC, h.zero, length, offset)
refused(errno.ENOSPC, h.zero, 0xffffffff, 0)
refused(errno.EINVAL, h.trim, 0xffffffff, 0)
refused(errno.EINVAL, h.pread, (32 << 20) + 1, 0)
refused(errno.EINVAL, h.cache, 1, size)
h.pread(512, 0, flags=DF)
for flag in [NO_HOLE, REQ_ONE, FAST_ZERO, 0x4000]:
    refused(errno.EINVAL, h.pread, 512, 0, flags=flag)
for flag in [NO_HOLE, DF, REQ_ONE, FAST_ZERO, 0x4000]:
    refused(errno.EINVAL, h.cache, 512, 0, flags=flag)
    refused(errno.EINVAL, h.pwrite, bytes(512), 0, flags=flag)
    refused(errno.EINVAL, h.flush, flags=flag)
    refused(errno.EINVAL, h.trim, 512, 0, flags=flag)
refused(errno.EINVAL, h.zero, 512, 0, flags=DF)
refused(errno.ENOTSUP, h.zero, 511, 0, flags=FAST_ZERO)
h.zero(8192, 4096, flags=FAST_ZERO | NO_HOLE | FUA)
h.pread(512, 0, flags=FUA)
h.flush(flags=FUA)
h.shutdown()
`,
    disk.uri,
  );
});

test("libnbd with 64 requests in flight on each of four connections finds every byte right", async (disk) => {
  const expected = `${disk.directory}/expected`;
  await python(
    `
random.seed(11)
handles = [h] + [nbd.NBD() for _ in range(3)]
for other in handles[1:]: other.connect_uri(sys.argv[1])
shadow = bytearray(random.randbytes(size))
def drive(jobs):
    """Each job is (verb, offset, buffer); 64 of them in flight on each handle."""
    jobs = list(jobs)
    pending = {i: [] for i in range(len(handles))}
    while jobs or any(pending.values()):
        for i, handle in enumerate(handles):
            while jobs and len(pending[i]) < 64:
                verb, offset, buffer = jobs.pop()
                call = handle.aio_pwrite if verb == "w" else handle.aio_pread
                pending[i].append(call(buffer, offset))
            if pending[i]:
                handle.poll(-1)
                pending[i] = [cookie for cookie in pending[i] if not handle.aio_command_completed(cookie)]
cuts = sorted({0, size} | {random.randrange(size) for _ in range(2000)})
pieces = list(zip(cuts, cuts[1:]))
random.shuffle(pieces)
drive(("w", a, nbd.Buffer.from_bytearray(shadow[a:b])) for a, b in pieces)
random.shuffle(pieces)
reads = [(a, b, nbd.Buffer(b - a)) for a, b in pieces]
drive(("r", a, buffer) for a, b, buffer in reads)
for a, b, buffer in reads: assert buffer.to_bytearray() == shadow[a:b], (a, b)
open(sys.argv[2], "wb").write(shadow)
for handle in handles: handle.shutdown()
`,
    disk.tcpUri,
    expected,
  );
  assertSameBytes(disk.device.bytes, await Deno.readFile(expected));
});

test("libnbd goes by every name, option and old way in", async ({ uri }) => {
  await python(
    `
def connect(name, **settings):
    handle = nbd.NBD()
    handle.set_export_name(name)
    for setting, value in settings.items(): getattr(handle, "set_" + setting)(value)
    handle.connect_unix(sys.argv[1].split("=")[1])
    assert handle.get_size() == size
    handle.pwrite(b"x" * 5, 77)
    assert handle.pread(5, 77) == b"x" * 5
    handle.shutdown()
for name in ["", "disk"]:
    connect(name)
    connect(name, handshake_flags=0)
    connect(name, handshake_flags=nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE)
    connect(name, request_structured_replies=False)
    connect(name, full_info=True)
try:
    connect("nothing")
except nbd.Error as error:
    assert error.errnum == errno.ENOENT, error
else:
    raise AssertionError("an unknown export was accepted")
handle = nbd.NBD()
handle.set_opt_mode(True)
handle.connect_unix(sys.argv[1].split("=")[1])
names = []
handle.opt_list(lambda name, description: names.append((name, description)))
assert names == [("disk", "a disk for tests")], names
handle.set_export_name("disk")
handle.opt_info()
assert handle.get_size() == size
handle.opt_abort()
h.shutdown()
`,
    uri,
  );
});

test("nbdcopy brings a file in and out unchanged, over four connections", async (disk) => {
  const [source, target] = [`${disk.directory}/source`, `${disk.directory}/target`];
  const bytes = content(SIZE_BYTES);
  await Deno.writeFile(source, bytes);
  for (const uri of [disk.uri, disk.tcpUri]) {
    disk.device.bytes.fill(0xee);
    await run("nbdcopy", "--connections=4", "--requests=64", "--flush", source, uri);
    assertSameBytes(disk.device.bytes, bytes);
    await run("nbdcopy", "--connections=4", "--requests=64", uri, target);
    assertSameBytes(await Deno.readFile(target), bytes);
  }
});

test("qemu-io writes, zeroes and discards patterns and finds them again", async ({ uri, device }) => {
  const io = (...commands: string[]) =>
    run("qemu-io", "-f", "raw", "-t", "none", ...commands.flatMap((line) => ["-c", line]), uri);
  const said = await io(
    "write -P 0xab 0 3M",
    "write -f -P 0xcd 1536 512",
    "write -z 64k 64k",
    "write -z -u 1M 100k",
    "discard 2M 64k",
    "flush",
    "read -P 0xab 0 1536",
    "read -P 0xcd 1536 512",
    "read -P 0 64k 64k",
    "read -P 0 1M 100k",
    "read -P 0 2M 64k",
    "read -P 0xab 2112k 960k",
    "aio_write -P 0x11 5M 2M",
    "aio_write -P 0x22 8M 2M",
    "aio_flush",
    "read -P 0x11 5M 2M",
    "read -P 0x22 8M 2M",
  );
  assert(!said.includes("verification failed"), said);
  assertEquals(device.bytes[1535], 0xab);
  assertEquals(device.bytes[1536], 0xcd);
  assertEquals(device.bytes[5 << 20], 0x11);
});

test("qemu-img copies a disk in and compares it as the same", async (disk) => {
  const source = `${disk.directory}/source`;
  await Deno.writeFile(source, content(SIZE_BYTES));
  await run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, disk.uri);
  await run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, disk.uri);
  assertSameBytes(disk.device.bytes, await Deno.readFile(source));
});

test("fio verifies random writes of mixed sizes with flushes, two jobs at once", async ({ uri, directory }) => {
  await run(
    "fio",
    "--name=verify",
    "--ioengine=nbd",
    `--uri=${uri}`,
    "--rw=randwrite",
    "--bsrange=512-256k",
    "--bs_unaligned",
    "--iodepth=32",
    "--size=16m",
    "--offset_increment=20m",
    "--numjobs=2",
    "--fsync=64",
    "--verify=crc32c",
    "--do_verify=1",
    `--aux-path=${directory}`,
    "--verify_state_save=0",
  );
});
