/** A drive that is served read-only: everybody may read it, and nobody changes it. */
import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { assertHolds, Drive } from "../support/drive.ts";
import { run, runProgram, runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type TestBucket, testInDirectory } from "../support/test_buckets.ts";

const DISK_MIB = 32;

/** Serves read-only what an image with holes has put into the bucket; gives the image too. */
async function startReadOnly(bucket: TestBucket, scratch: Scratch) {
  const image = await scratch.hole("image", DISK_MIB);
  for (const write of ["write -P 1 1M 3M", "write -P 2 20M 100k"]) {
    await run("qemu-io", ["-f", "raw", "-c", write, image]);
  }
  await using writer = await Drive.start({ bucket, size: `${DISK_MIB}M` });
  await run("nbdcopy", ["--destination-is-zero", image, writer.uri]);
  await writer.stopClean();
  return { image, drive: await Drive.start({ bucket, server: { readonly: "yes" } }) };
}

testInDirectory({
  "every change is refused with EPERM, with every flag, and reading goes on": async (bucket) => {
    await using scratch = await Scratch.make();
    const { image, drive: started } = await startReadOnly(bucket, scratch);
    await using drive = started;
    await runPython(
      `import errno
image = open(sys.argv[2], "rb").read()
for structured in [True, False]:
    drive = nbd.NBD()
    drive.set_request_structured_replies(structured)
    drive.set_strict_mode(0) # libnbd would not let a change out
    drive.connect_uri(uri)
    assert drive.is_read_only() and drive.can_multi_conn() and drive.can_cache() and drive.can_flush()
    assert not drive.can_trim() and not drive.can_zero() and not drive.can_fast_zero()
    for call, flags in [
        (lambda flags: drive.pwrite(b"x" * 4096, 1 << 20, flags=flags), [0, 1]),
        (lambda flags: drive.pwrite(b"x" * (32 << 20), 0, flags=flags), [0]),
        (lambda flags: drive.trim(4096, 1 << 20, flags=flags), [0, 1]),
        (lambda flags: drive.zero(4096, 1 << 20, flags=flags), [0, 1, 2, 16]),
        (lambda flags: drive.pwrite(b"x", len(image), flags=flags), [0]),
    ]:
        for flag in flags:
            try:
                call(flag)
            except nbd.Error as error:
                assert error.errnum == errno.EPERM, error
            else:
                raise AssertionError("a change was accepted")
            assert drive.pread(8192, (1 << 20) - 4096) == image[(1 << 20) - 4096:(1 << 20) + 4096]
    drive.flush()
    drive.cache(1 << 20, 0)
    assert drive.pread(len(image), 0) == image`,
      [drive.uri, image],
    );
    await assertHolds(drive, image);
    await drive.stopClean();
  },

  "qemu-img, nbdcopy and nbdkit read it, holes and all, and find that they can't write": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const { image, drive: started } = await startReadOnly(bucket, scratch);
    await using drive = started;
    const [raw, qcow2, copy] = ["raw", "qcow2", "copy"].map((name) => scratch.file(name));
    for (const [format, out] of [["raw", raw], ["qcow2", qcow2]]) {
      await run("qemu-img", ["convert", "-f", "raw", "-O", format, drive.uri, out]);
      await run("qemu-img", ["compare", "-f", format, "-F", "raw", out, drive.uri]);
    }
    await run("cmp", [image, raw]);
    const copyOut = `nbdcopy "$uri" ${copy}`;
    await run("nbdkit", ["-U", "-", "--readonly", "nbd", `uri=${drive.uri}`, "--run", copyOut]);
    await run("cmp", [image, copy]);
    for (
      const [program, ...args] of [
        ["nbdcopy", image, drive.uri],
        ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, drive.uri],
        ["qemu-io", "-f", "raw", "-c", "write 0 4k", drive.uri],
      ]
    ) {
      const { code, stderr } = await runProgram(program, args);
      assertNotEquals(code, 0, program);
      assertMatch(stderr, /read[- ]only|Permission denied/i);
    }
    await assertHolds(drive, image);
    await drive.stopClean();
    await using writable = await Drive.start({ bucket });
    assertEquals((await runProgram("nbdinfo", ["--is", "read-only", writable.uri])).code, 2);
    await assertHolds(writable, image);
    await writable.stopClean();
  },
});
