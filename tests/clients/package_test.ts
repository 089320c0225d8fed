/**
 * `deno task package`: what a person gets who has a tarball, root, and no network.
 *
 * It is made twice, the second time of a copy of the sources in another place and with another umask: the same
 * commit has to give the same bytes.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import manifest from "../../deno.json" with { type: "json" };
import { configText, Drive } from "../support/drive.ts";
import { run, runProgram } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const NAME = `elasticdrive-${manifest.version}`;
/** The codes of ELF's e_machine. */
const MACHINES = { "x86_64": 62, aarch64: 183 };
/** What an executable may have beside Deno's runtime; what it uses is 1.7 MB. */
const PROGRAM_BYTES_MAX = 3_000_000;

function archiveOf(machine: string): string {
  return `${NAME}-linux-${machine}.tar.gz`;
}

/** Runs the task; `dist` of the repository is where the tarballs are then. */
async function makePackages(root: string, env: Record<string, string> = {}): Promise<void> {
  // two machines, each half a minute of gzip on a slow core
  await run(Deno.execPath(), ["task", "package"], { cwd: root, env, deadlineS: 600 });
}

/** What follows the ELF file that Deno's runtime is, as text a byte a character. */
async function programIn(executable: string): Promise<{ text: string; machine: number }> {
  const bytes = await Deno.readFile(executable);
  const header = new DataView(bytes.buffer);
  const runtimeBytes = Number(header.getBigUint64(0x28, true)) +
    header.getUint16(0x3a, true) * header.getUint16(0x3c, true);
  const text = new TextDecoder("latin1").decode(bytes.subarray(runtimeBytes));
  return { text, machine: header.getUint16(0x12, true) };
}

async function unpack(machine: string, folder: string): Promise<string> {
  await run("tar", ["-xzf", `${ROOT}/dist/${archiveOf(machine)}`, "-C", folder]);
  return `${folder}/${NAME}`;
}

Deno.test("deno task package", async (t) => {
  await makePackages(ROOT);

  await t.step("SHA256SUMS names a tarball for each machine, and is right", async () => {
    const said = await run("sha256sum", ["--check", "--strict", "SHA256SUMS"], {
      cwd: `${ROOT}/dist`,
    });
    assertEquals(said, Object.keys(MACHINES).map((name) => `${archiveOf(name)}: OK\n`).join(""));
  });

  for (const [name, code] of Object.entries(MACHINES)) {
    await t.step(`${name}: one folder, of root, that everybody may read`, async () => {
      const args = ["--list", "--verbose", "--gzip", "--file", archiveOf(name)];
      const lines = (await run("tar", args, { cwd: `${ROOT}/dist` })).trim().split("\n");
      const members = lines.map((line) => {
        const [mode, owner, , , , path] = line.split(/\s+/);
        assertEquals(owner, "root/root", line);
        return [path.replace(NAME, ""), mode];
      });
      const systemd = members.filter(([path]) => path.startsWith("/systemd/"));
      assert(systemd.length > 1, lines.join("\n"));
      for (const [path, mode] of systemd.slice(1)) assertEquals(mode, "-rw-r--r--", path);
      assertEquals(members.filter((member) => !systemd.includes(member)), [
        ["/", "drwxr-xr-x"],
        ["/LICENSE", "-rw-r--r--"],
        ["/LICENSES.bundled", "-rw-r--r--"],
        ["/README.md", "-rw-r--r--"],
        ["/config.ini.example", "-rw-r--r--"],
        ["/elasticdrive", "-rwxr-xr-x"],
        ["/install.sh", "-rwxr-xr-x"],
        ["/monitoring/", "drwxr-xr-x"],
        ["/monitoring/alerts.yml", "-rw-r--r--"],
        ["/monitoring/dashboard.json", "-rw-r--r--"],
      ]);
      assertEquals(systemd[0], ["/systemd/", "drwxr-xr-x"]);
    });

    await t.step(`${name}: the licence of everything that is joined into the program`, async () => {
      const member = `${NAME}/LICENSES.bundled`;
      const args = ["--extract", "--to-stdout", "--gzip", "--file", archiveOf(name), member];
      const text = await run("tar", args, { cwd: `${ROOT}/dist` });
      for (const name of ["@aws-sdk/client-s3", "lru-cache"]) {
        assertMatch(text, new RegExp(`^${name} [\\d.]+\n`, "m"));
      }
      assert(text.includes("Apache License") && text.includes("Blue Oak"), text.slice(0, 400));
    });

    await t.step(`${name}: beside Deno's runtime only what is used`, async () => {
      await using scratch = await Scratch.make();
      const folder = await unpack(name, scratch.path);
      const { text, machine } = await programIn(`${folder}/elasticdrive`);
      assertEquals(machine, code);
      assert(text.length < PROGRAM_BYTES_MAX, `${text.length} bytes`);
      // its table of files: no package, no type file, no source of TypeScript, no source map
      const files = Array.from(text.matchAll(/\{"File":\{"n":"([^"]+)"/g), ([, file]) => file);
      assert(files.includes("main.js"), text.slice(0, 4000));
      assertEquals(files.filter((file) => !/^[\w-]+\.js$/.test(file)), []);
      assert(!text.includes("sourceMappingURL"));
    });
  }

  await t.step("unpacked it says its version and serves", async () => {
    await using scratch = await Scratch.make();
    await using bucket = await DirectoryTestBucket.make();
    const program = `${await unpack(Deno.build.arch, scratch.path)}/elasticdrive`;
    assertEquals(await run(program, ["--version"]), `elasticdrive ${manifest.version}\n`);
    const config = await scratch.write("config.ini", configText({ bucket, size: "16M" }));
    await using drive = await Drive.spawn(program, ["-c", config], scratch.path);
    assertEquals(await run("nbdinfo", ["--size", drive.uri]), `${16 << 20}\n`);
    await drive.stopClean();
  });

  await t.step("the README's user data unpacks it, and install.sh takes what it says", async () => {
    await using scratch = await Scratch.make();
    const readme = await Deno.readTextFile(`${ROOT}/README.md`);
    const [, script] = /^```sh\n(#!\/bin\/sh\n.*?)^```$/ms.exec(readme)!;
    const versions = new Set(readme.match(/elasticdrive-\d[\w.]*|(?<=version=)\S+/g));
    assertEquals([...versions].toSorted(), [manifest.version, NAME]);
    const file = await scratch.write("user-data", script);
    await run("shellcheck", [file]);
    await Deno.mkdir(scratch.file("bin"));
    // the stand-in for the bucket that the package is in
    const aws =
      `#!/bin/sh -e\n[ "$1 $2" = "s3 cp" ] && cp "${ROOT}/dist/\${3#s3://my-software/}" "$4"\n`;
    await Deno.writeTextFile(scratch.file("bin/aws"), aws, { mode: 0o755 });
    await Deno.mkdir(scratch.file("opt"));
    // its text as it stands, with a folder of this test for /opt
    const inside = 'cd() { [ "$*" = /opt ] && command cd "$0/opt"; }; . "$0/user-data"';
    const { stdout, stderr } = await runProgram("sh", ["-c", inside, scratch.path], {
      env: { PATH: `${scratch.file("bin")}:${Deno.env.get("PATH")}`, ELASTICDRIVE_DRY_RUN: "yes" },
    });
    assertMatch(stdout, /^write \/opt\/elasticdrive\/config.ini$/m, stderr);
    assertMatch(stdout, /^mkfs.ext4 .*\/dev\/nbd0$/m, stderr);
    // nothing but what this machine may lack
    const lacks = stderr.split("\n").filter((line) => line.startsWith("  - "));
    assertEquals(lacks.filter((line) => !/systemd|module|modprobe|root:/.test(line)), [], stderr);
  });

  await t.step("elsewhere, of the same sources, it has the same bytes", async () => {
    await using scratch = await Scratch.make();
    const copy = scratch.file("a/deeper/place");
    const files = "git ls-files -z --cached --others --exclude-standard";
    await run("sh", [
      "-ec",
      `umask 077; mkdir -p "$1"; cd "$2"; ${files} | xargs -0 cp --parents -t "$1"; ` +
      `mkdir "$1/dist"; ln -s "$2/dist/.denort" "$1/dist/"`,
      "sh",
      copy,
      ROOT,
    ]);
    const commit = await run("git", ["log", "-1", "--format=%ct"], { cwd: ROOT });
    await makePackages(copy, { SOURCE_DATE_EPOCH: commit.trim(), HOME: scratch.path });
    await run("cmp", [`${ROOT}/dist/SHA256SUMS`, `${copy}/dist/SHA256SUMS`]);
  });

  await t.step("a part that is missing is named, and nothing is made", async () => {
    await using scratch = await Scratch.make();
    await run("cp", [
      "-R",
      `${ROOT}/.ci`,
      `${ROOT}/deno.json`,
      `${ROOT}/import_map.json`,
      scratch.path,
    ]);
    const error = await makePackages(scratch.path).then(() => "", String);
    assertMatch(
      error,
      /package: missing in .*: LICENSE, README.md, config.ini.example, install.sh, monitoring, systemd/,
    );
    assert(!error.includes("dist/"), error);
  });
});
