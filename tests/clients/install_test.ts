/** install.sh before it changes anything: what it refuses, what it misses, what it would do. tests/vm does the rest. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { NEXT_VERSION, packageFolder } from "../support/package_tar.ts";
import { type ProgramEnd, runProgram } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";

interface Package extends AsyncDisposable {
  folder: string;
  install(args: string, env?: Record<string, string>): Promise<ProgramEnd>;
}

/** A package that is unpacked somewhere; this machine may lack what it likes. */
async function unpacked(): Promise<Package> {
  const scratch = await Scratch.make();
  const folder = await packageFolder(scratch, NEXT_VERSION);
  return {
    folder,
    install: (args, env) =>
      runProgram("sh", [`${folder}/install.sh`, ...args.split(" ").filter(Boolean)], { env }),
    [Symbol.asyncDispose]: () => scratch[Symbol.asyncDispose](),
  };
}

Deno.test("an option that is unknown or lacks its value is refused before anything else", async () => {
  await using pack = await unpacked();
  for (
    const [args, message] of [
      ["--mout /s3", 'install.sh: unknown option "--mout"; see install.sh --help\n'],
      ["s3", 'install.sh: unknown option "s3"; see install.sh --help\n'],
      ["--mount", "install.sh: --mount needs a value; see install.sh --help\n"],
    ]
  ) {
    assertEquals(await pack.install(args), { code: 2, stdout: "", stderr: message });
  }
  const { code, stderr } = await pack.install("", { ELASTICDRIVE_FORMAT: "maybe" });
  assertEquals([code, stderr], [
    2,
    'install.sh: ELASTICDRIVE_FORMAT can\'t be "maybe"; allowed: yes or no; see install.sh --help\n',
  ]);
});

Deno.test("all settings that can't be are named together, each with what is allowed", async () => {
  await using pack = await unpacked();
  const wrong =
    "--unattended --name a/b --device /dev/sda --mount s3 --fs ntfs --set COLOUR=red --set debug --bucket No_Bucket --size 5X";
  const { code, stderr } = await pack.install(wrong);
  assertEquals(code, 1);
  for (
    const line of [
      /- --name can't be "a\/b"; allowed: letters, digits, _ and \./,
      /- --device can't be "\/dev\/sda"; allowed: \/dev\/nbd0 to/,
      /- --mount can't be "s3"; allowed: a path that begins with \//,
      /- --fs can't be "ntfs"; allowed: ext4 or xfs/,
      /- --set COLOUR=red: there is no key COLOUR; allowed: AWS_ACCESS_KEY_ID .* flushafter/,
      /- --set can't be "debug"; allowed: KEY=VALUE/,
    ]
  ) assertMatch(stderr, line);
  const config = await pack.install("--unattended --bucket No_Bucket --size 5X");
  assertMatch(
    config.stderr,
    /- \/opt\/elasticdrive\/config.ini:\d+: BUCKET can't be "No_Bucket"; allowed: .*VOLUMESIZE can't be "5X"; allowed: /,
  );
});

Deno.test("a dry run prints what would be done, in order, and does nothing of it", async () => {
  await using pack = await unpacked();
  const bucket = `${pack.folder}/bucket`;
  const args =
    `--dry-run --unattended --bucket file:${bucket} --size 1G --mount /srv/elasticdrive-test --fs xfs --format`;
  const { stdout, stderr } = await pack.install(args);
  const steps = [
    `mv -T /opt/elasticdrive-${NEXT_VERSION}.new /opt/elasticdrive-${NEXT_VERSION}`,
    "write /opt/elasticdrive/config.ini",
    `chown -R elasticdrive: ${bucket}`,
    "write /etc/systemd/system/elasticdrive.service",
    "write /etc/systemd/system/srv-elasticdrive\\x2dtest.mount",
    "systemctl start elasticdrive.service",
    "mkfs.xfs -q /dev/nbd0",
    "systemctl start srv-elasticdrive\\x2dtest.mount",
  ];
  const found = steps.map((step) => stdout.split("\n").indexOf(step));
  assertEquals(found.includes(-1), false, stdout + stderr);
  assertEquals(found, found.toSorted((a, b) => a - b), stdout);
  for (const path of [bucket, `/opt/elasticdrive-${NEXT_VERSION}`, "/srv/elasticdrive-test"]) {
    assertEquals((await runProgram("test", ["-e", path])).code, 1, path);
  }
});

Deno.test("a package for another machine, and one that is not whole, are told apart from a missing module", async () => {
  await using pack = await unpacked();
  using program = await Deno.open(`${pack.folder}/elasticdrive`, { write: true });
  await program.seek(18, Deno.SeekMode.Start);
  await program.write(new Uint8Array([183, 0])); // EM_AARCH64
  await Deno.remove(`${pack.folder}/systemd/elasticdrive@.service`);
  const { code, stderr } = await pack.install("--unattended --bucket file:/nowhere --size 1G");
  assertEquals(code, 1);
  assertStringIncludes(
    stderr,
    "- this package is for aarch64, and this machine is x86_64: take the one for x86_64",
  );
  assertStringIncludes(
    stderr,
    "systemd/elasticdrive@.service: it belongs to this package; unpack it anew",
  );
  assert(!stderr.includes("config.ini:"), stderr);
});
