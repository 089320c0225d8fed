/**
 * libnbd, from Python: every command and flag on the compiled program, with the eyes of a client that looks into each
 * chunk of a reply.
 */
import { assertEquals } from "@std/assert";
import { assertSurvivesRestart, Drive } from "../support/drive.ts";
import { run, runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInDirectory } from "../support/test_buckets.ts";

/** Runs a script that lies beside this file, with Debian's own Python: that has Debian's libnbd. */
function script(name: string, ...args: (string | number)[]): Promise<string> {
  const path = new URL(name, import.meta.url).pathname;
  return run("/usr/bin/python3", [path, ...args.map(String)]);
}

/** A drive that has stored an image and none of it in its cache. */
async function startCold(
  bucket: TestBucket,
  image: string,
  server: Record<string, number> = {},
): Promise<Drive> {
  const { size } = await Deno.stat(image);
  await using first = await Drive.start({ bucket, size: String(size) });
  await run("nbdcopy", ["--destination-is-zero", image, first.uri]);
  await first.stopClean();
  return await Drive.start({ bucket, server });
}

/** Reads in structured replies: `chunks` holds [offset, length, status, error] in the order of arrival. */
const CHUNKS = `
DATA, HOLE, ERROR = nbd.READ_DATA, nbd.READ_HOLE, nbd.READ_ERROR
def read(drive, offset, length, flags=0):
    chunks = []
    def take(data, at, status, error):
        chunks.append((at, len(data), status, error.value))
    try:
        return drive.pread_structured(length, offset, take, flags=flags), chunks, 0
    except nbd.Error as error:
        return None, chunks, error.errnum
`;

testInDirectory({
  "random changes: every byte is right and no data is called a hole, through a stop and a kill":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      const shadow = await scratch.hole("shadow", 16);
      const shape = { bucket, size: "16M", server: { cachesize: 64 }, args: ["--takeover"] };
      for (const seed of [1, 2, 3, 4]) {
        await using drive = await Drive.start(shape);
        await script("shadow_client.py", drive.uri, shadow, seed, 400);
        // flushed; so a kill takes nothing away
        if (seed % 2 === 0) await drive.kill();
        else await drive.stopClean();
      }
    },

  "changes in flight over one another take effect as they were sent, also those that wait for a fetch":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      const shadow = await scratch.random("shadow", 32);
      await using drive = await startCold(bucket, shadow, { cachesize: 256 });
      await script("overlapping_writes.py", drive.uri, shadow);
      await assertSurvivesRestart(drive, bucket, shadow);
    },

  "the chunks of a read cover it exactly, holes travel as holes, and with DF all comes in one":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      const image = await scratch.hole("image", 32);
      const source = await scratch.random("source", 7);
      await run("dd", [
        `if=${source}`,
        `of=${image}`,
        "bs=1M",
        "seek=9",
        "conv=notrunc",
        "status=none",
      ]);
      for (const isStructured of ["True", "False"]) {
        await using drive = await startCold(bucket, image);
        await runPython(
          `${CHUNKS}
image = open(sys.argv[2], "rb").read()
drive = nbd.NBD()
drive.set_request_structured_replies(${isStructured})
drive.connect_uri(uri)
assert drive.get_structured_replies_negotiated() == drive.can_df() == ${isStructured}
for length in [1, 511, 4095, 65536, 262144, 3 << 20, 32 << 20]:
    for offset in {0, 1, (9 << 20) - 1, (9 << 20) - length // 2, (16 << 20) - 1, (32 << 20) - length}:
        if offset < 0 or offset + length > len(image): continue
        for flags in [0, nbd.CMD_FLAG_DF] if ${isStructured} else [0]:
            what = (offset, length, flags)
            data, chunks, error = read(drive, offset, length, flags)
            assert error == 0 and data == image[offset:offset + length], what
            at = offset
            for begin, size, status, error in sorted(chunks):
                assert begin == at and size > 0 and error == 0, (what, chunks)
                if status == HOLE: assert not any(image[at:at + size]), (what, chunks)
                at += size
            assert at == offset + length, (what, chunks)
            kinds = [status for begin, size, status, error in chunks]
            if flags or not ${isStructured}: assert kinds == [DATA], (what, chunks)
            elif length == 32 << 20:
                holes = sum(size for begin, size, status, error in chunks if status == HOLE)
                assert holes == 25 << 20, (what, chunks)
`,
          [drive.uri, image],
        );
        await drive.stopClean();
      }
    },

  "of a read that meets damage the good parts arrive, with the place and the reason of what is missing":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      const image = await scratch.random("image", 16);
      await using whole = await startCold(bucket, image);
      await whole.stopClean();
      // 8 MiB in a segment, 64 KiB and 16 bytes a record, behind some 3.7 KiB of index
      const damaged: [key: string, stripe: number][] = [["log/0000000002", 5], [
        "log/0000000002",
        100,
      ]];
      for (const [key, stripe] of damaged) {
        const bytes = await bucket.read(key);
        bytes[4096 + stripe * (65536 + 16)] ^= 1;
        await bucket.write(key, bytes);
      }
      await using drive = await Drive.start({ bucket });
      const said = await runPython(
        `${CHUNKS}
image = open(sys.argv[2], "rb").read()
stripe = 65536
bad = {int(number) * stripe for number in sys.argv[3:]}
drive = nbd.NBD()
drive.set_debug_callback(lambda context, message: print(message) if "damaged" in message else None)
drive.set_pread_initialize(False)
drive.connect_uri(uri)
for offset, length in [(0, len(image)), (3 * stripe, 4 * stripe), (5 * stripe + 7, 100), (1000, 8 << 20)]:
    drive.set_debug(length == len(image)) # what the server says along with an error is only shown there
    data, chunks, error = read(drive, offset, length)
    drive.set_debug(False)
    assert data is None and error == 5, (offset, length, error)
    end = offset + length
    told = bytearray(image)
    told[offset:end] = bytes(length)
    for at, size, status, error in chunks:
        if status == ERROR:
            assert error == 5 and (at in bad or at == offset), chunks
            size = min(end, at - at % stripe + stripe) - at
        told[at:at + size] = image[at:at + size]
    assert told == image, (offset, length, chunks)
    data, chunks, error = read(drive, offset, length, nbd.CMD_FLAG_DF)
    assert error == 5 and not any(status != ERROR for at, size, status, error in chunks), chunks
plain = nbd.NBD()
plain.set_request_structured_replies(False)
plain.connect_uri(uri)
for at in range(0, len(image), stripe):
    for client in drive, plain:
        try:
            data = client.pread(stripe, at)
        except nbd.Error as error:
            assert error.errnum == 5 and at in bad, at
        else:
            assert at not in bad and data == image[at:at + stripe], at
`,
        [drive.uri, image, ...damaged.map(([_, stripe]) => String(stripe))],
      );
      const places = [...said.matchAll(/log\/0000000002 at offset (\d+): record is damaged/g)]
        .map(([_, offset]) => Number(offset) >> 16);
      assertEquals(places.toSorted((a, b) => a - b), damaged.map(([_, stripe]) => stripe), said);
    },

  "each change with FUA is there after a kill, on whatever connection it came": async (bucket) => {
    const shape = { bucket, size: "16M", args: ["--takeover"] };
    const changes = [
      "drive.pwrite(b'\\xbb' * 700001, 77, flags=FUA)",
      "drive.pwrite(b'\\xbb' * 4095, (1 << 20) + 1, flags=FUA)",
      "drive.zero(65536, 2 << 20, flags=FUA)",
      "drive.zero(511, (3 << 20) + 7, flags=FUA | nbd.CMD_FLAG_NO_HOLE)",
      "drive.zero(4096, (3 << 20) + 8192, flags=FUA | nbd.CMD_FLAG_FAST_ZERO)",
      "drive.trim(1 << 20, 4 << 20, flags=FUA)",
      "drive.pwrite(b'\\xbb' * 512, 5 << 20); other.flush(flags=FUA)",
    ];
    const open = `FUA = nbd.CMD_FLAG_FUA
drive, other = nbd.NBD(), nbd.NBD()
other.set_strict_mode(0) # a flush with FUA gets out
drive.connect_uri(uri)
other.connect_uri(uri)
`;
    await using filled = await Drive.start(shape);
    await runPython(`${open}drive.pwrite(b'\\xaa' * (16 << 20), 0, flags=FUA)`, [filled.uri]);
    await filled.kill();
    for (const change of changes) {
      await using drive = await Drive.start(shape);
      await runPython(open + change, [drive.uri]);
      await drive.kill();
    }
    await using reopened = await Drive.start(shape);
    await runPython(
      `${open}expected = bytearray(b"\\xaa" * (16 << 20))
def put(byte, length, offset): expected[offset:offset + length] = byte * length
put(b"\\xbb", 700001, 77)
put(b"\\xbb", 4095, (1 << 20) + 1)
put(b"\\0", 65536, 2 << 20)
put(b"\\0", 511, (3 << 20) + 7)
put(b"\\0", 4096, (3 << 20) + 8192)
put(b"\\0", 1 << 20, 4 << 20)
put(b"\\xbb", 512, 5 << 20)
assert drive.pread(16 << 20, 0) == expected`,
      [reopened.uri],
    );
  },

  "a fast zero is done at once or refused without a trace, and asked again without haste it is done":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      const image = await scratch.random("image", 16);
      await using drive = await startCold(bucket, image);
      await runPython(
        `import errno
shadow = bytearray(open(sys.argv[2], "rb").read())
drive = nbd.NBD()
drive.connect_uri(uri)
refused = 0
for length in [1, 511, 4095, 4096, 65536, 1 << 20]:
    for offset in [3 << 20, (5 << 20) + 4096, (7 << 20) + 1, (9 << 20) - 512]:
        try:
            drive.zero(length, offset, flags=nbd.CMD_FLAG_FAST_ZERO)
        except nbd.Error as error:
            assert error.errnum == errno.ENOTSUP and (offset % 4096 or length % 4096), (offset, length, error)
            assert drive.pread(length, offset) == shadow[offset:offset + length], (offset, length)
            drive.zero(length, offset)
            refused += 1
        shadow[offset:offset + length] = bytes(length)
        assert drive.pread(length + 2, offset - 1) == shadow[offset - 1:offset + length + 1], (offset, length)
assert refused == 18, refused
drive.zero(len(shadow), 0, flags=nbd.CMD_FLAG_FAST_ZERO)
assert drive.pread(len(shadow), 0) == bytes(len(shadow))`,
        [drive.uri, image],
      );
      await drive.stopClean();
    },

  "block status of 8 TiB is told in steps of 4 GiB - 1, from any byte, and in one extent when asked so":
    async (
      bucket,
    ) => {
      await using drive = await Drive.start({ bucket, size: "8T" });
      await runPython(
        `size, largest = 8 << 40, (1 << 32) - 1
drive = nbd.NBD()
drive.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
drive.connect_uri(uri)
def status(offset, length, flags=0):
    found = []
    def take(context, at, entries, error): found.extend(zip(entries[::2], entries[1::2]))
    drive.block_status(length, offset, take, flags=flags)
    return found
def whole():
    at, found = 0, []
    while at < size:
        for length, state in status(at, min(largest, size - at)):
            if found and found[-1][1] == state: found[-1][0] += length
            else: found.append([length, state])
            at += length
    return found
assert status(0, largest) == [(largest, 3)]
assert whole() == [[size, 3]]
place = (5 << 40) + 12288
drive.pwrite(b"x" * 8192, place)
assert whole() == [[place, 3], [8192, 0], [size - place - 8192, 3]]
for before in [1, 511, 4095]:
    expected = [(before, 3), (8192, 0), (4096 - before, 3)]
    assert status(place - before, 12288) == expected
    assert status(place - before, 12288, nbd.CMD_FLAG_REQ_ONE) == expected[:1]
    assert status(place + before, 8192 - before, nbd.CMD_FLAG_REQ_ONE) == [(8192 - before, 0)]
assert status(place + 1, 1) == [(1, 0)] and status(size - 1, 1) == [(1, 3)]
drive.zero(largest, place - 4096) # as much as a request can say; it ends within a block
drive.flush()
assert whole() == [[size, 3]]`,
        [drive.uri],
      );
      await drive.stopClean();
    },

  "a client that haggles finds the drive by its name and by none, with its context, and may think better of it":
    async (
      bucket,
    ) => {
      await using drive = await Drive.start({ bucket, size: "64M" });
      await runPython(
        `import errno
name, path = sys.argv[2], uri.split("=")[1]
def haggle(structured=True):
    drive = nbd.NBD()
    drive.set_request_structured_replies(structured)
    drive.set_full_info(True)
    drive.set_opt_mode(True)
    drive.connect_unix(path)
    return drive
def contexts(drive, *queries):
    found = []
    drive.clear_meta_contexts()
    for query in queries: drive.add_meta_context(query)
    drive.opt_list_meta_context(found.append)
    return found
def refused(call, number):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == number, error
    else:
        raise AssertionError((call, "was not refused"))

drive = haggle()
for export in ["", name]:
    drive.set_export_name(export)
    drive.clear_meta_contexts()
    drive.opt_info()
    assert drive.get_size() == 64 << 20 and drive.get_canonical_export_name() == name
    assert [drive.get_block_size(kind) for kind in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)] == [1, 65536, 32 << 20]
    for queries in [[], ["base:"], ["base:allocation"], ["x-other:", "base:allocation"]]:
        assert contexts(drive, *queries) == ["base:allocation"], queries
    for queries in [["x-other:"], ["base:nothing"], ["qemu:dirty-bitmap:x"]]:
        assert contexts(drive, *queries) == [], queries
    refused(lambda: contexts(drive, "no colon"), errno.ENOTSUP) # as libnbd 1.14 calls every error here
listed = []
drive.opt_list(lambda name, description: listed.append((name, description)))
assert len(listed) == 1 and listed[0][0] == name and listed[0][1].startswith("ElasticDrive "), listed
for wrong in [name + "x", "/", "x" * 4096]:
    drive.set_export_name(wrong)
    refused(drive.opt_info, errno.ENOENT)
    refused(drive.opt_go, errno.ENOENT)
drive.opt_abort()

for export in ["", name]:
    for structured in [True, False]:
        drive = haggle(structured)
        drive.set_export_name("nothing")
        refused(drive.opt_go, errno.ENOENT)
        drive.set_export_name(export)
        drive.add_meta_context("base:allocation")
        drive.opt_go()
        assert drive.can_df() == drive.can_meta_context("base:allocation") == structured
        drive.pwrite(b"here", 4095)
        assert drive.pread(4, 4095) == b"here"
        drive.shutdown()`,
        [drive.uri, bucket.path.split("/").at(-1)!],
      );
      await drive.stopClean();
    },
});
