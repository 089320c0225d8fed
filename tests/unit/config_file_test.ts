import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "node:path";
import { defaultSettings, describe, parseConfig } from "../../src/config.ts";
import { type ConfigFile, findConfig } from "../../src/config_file.ts";
import { FIELDS, KEYS } from "../../src/config_keys.ts";
import { UsageError } from "../../src/errors.ts";
import { ORIGINAL_CONFIG } from "../support/original_config.ts";
import { run } from "../support/programs.ts";

function settingsOf(text: string) {
  return parseConfig(text, "/etc/elasticdrive/config.ini");
}

Deno.test("check-config shows every key with its value and where it comes from", () => {
  const lines = describe(settingsOf(ORIGINAL_CONFIG)).map((line) => line.replace(/ {2,}/g, "  "));
  assertEquals(lines.length, FIELDS.length + 3);
  assertEquals(lines[0], "/etc/elasticdrive/config.ini");
  for (
    const line of [
      "  BUCKET = the.name.of.the.bucket.to.create  line 4",
      "  STRIPE = 65536 bytes (64 KiB)  line 8",
      "  PATH_STYLE = yes  default",
      "  debug = no  line 18",
      "  cachesize = 1024 stripes  line 22",
      "  cachettl = 60 seconds  line 25",
      "  listen = 127.0.0.1  default",
      "  iotimeout = wait for ever  default",
      "  readahead = 16777216 bytes (16 MiB)  default",
    ]
  ) {
    assert(lines.includes(line), `${line} is not in\n${lines.join("\n")}`);
  }
});

Deno.test("check-config hides the secret, and all of the key but its end", () => {
  const shown = describe(settingsOf(ORIGINAL_CONFIG)).join("\n");
  assertStringIncludes(shown, "AWS_ACCESS_KEY_ID = ****GHIK ");
  assertStringIncludes(shown, "AWS_SECRET_ACCESS_KEY = **** ");
  assert(!shown.includes("RXRX") && !shown.includes("zzz"));
});

Deno.test("check-config says what does not apply", () => {
  const file = describe(settingsOf("[s3]\nBUCKET=file:/x\n[server]\nsocket=/run/s")).join("\n");
  assertStringIncludes(file, "REGION = (not used)");
  assertStringIncludes(file, "AWS_ACCESS_KEY_ID = (not used)");
  assertStringIncludes(file, "port = (none, because socket is given)");
  const builtIn = describe(defaultSettings("/d"));
  assertEquals(builtIn[0], "no config.ini: the built-in configuration");
  assert(builtIn.every((line) => !line.includes("undefined")), builtIn.join("\n"));
});

const EXAMPLE = Deno.readTextFileSync(new URL("../../config.ini.example", import.meta.url));

Deno.test("config.ini.example parses as it stands, and with its optional keys switched on", () => {
  settingsOf(EXAMPLE);
  const settings = settingsOf(EXAMPLE.replace(/^#(?=\w+=\S*$)/gm, ""));
  assertEquals(Object.keys(settings.lines).sort(), FIELDS.toSorted());
});

Deno.test("config.ini.example has every key in the table's order, with the table's default", () => {
  const rows = [...EXAMPLE.matchAll(/^#?(\w+) ?= ?(\S*)$/gm)];
  assertEquals(rows.map((row) => row[1]), FIELDS.map((field) => KEYS[field].name));
  for (const [, name, value] of rows) {
    const key = Object.values(KEYS).find((k) => k.name === name)!;
    if (key.default !== undefined) assertEquals(value, key.default, name);
  }
});

Deno.test("config.ini.example says in words what holds without a key that has no default", () => {
  const original = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "BUCKET"];
  for (const { name, default: text } of FIELDS.map((field) => KEYS[field])) {
    if (text !== undefined || original.includes(name)) continue;
    const comment = new RegExp(`((?:^#.*\n)+)#?${name}=`, "m").exec(EXAMPLE)?.[1] ?? "";
    assertMatch(comment, /Default:|Without this line/, name);
  }
});

/** A folder for the executable and one to be in, both empty. */
function folders(): { dir: string; executableDir: string; cwd: string } & Disposable {
  const dir = Deno.makeTempDirSync({ prefix: "elasticdrive-config-" });
  const [executableDir, cwd] = [join(dir, "bin"), join(dir, "cwd")];
  Deno.mkdirSync(executableDir);
  Deno.mkdirSync(cwd);
  const remove = () => Deno.removeSync(dir, { recursive: true });
  return { dir, executableDir, cwd, [Symbol.dispose]: remove };
}

Deno.test("config.ini is looked for beside the executable, then in the working directory", () => {
  using at = folders();
  const find = () => findConfig(undefined, at.executableDir, at.cwd) as ConfigFile;
  assertEquals(find(), undefined);
  Deno.writeTextFileSync(join(at.cwd, "config.ini"), "second");
  assertEquals([find().path, find().text], [join(at.cwd, "config.ini"), "second"]);
  Deno.writeTextFileSync(join(at.executableDir, "config.ini"), "first");
  assertEquals([find().path, find().text], [join(at.executableDir, "config.ini"), "first"]);
});

Deno.test("a file named with -c is the one that is read, relative to the working directory", () => {
  using at = folders();
  Deno.writeTextFileSync(join(at.executableDir, "config.ini"), "first");
  Deno.writeTextFileSync(join(at.cwd, "mine.ini"), "mine");
  assertEquals(findConfig("mine.ini", at.executableDir, at.cwd)?.text, "mine");
  const missing = assertThrows(() => findConfig("no.ini", at.executableDir, at.cwd), UsageError);
  assertEquals(missing.message, `${join(at.cwd, "no.ini")}: no such file (given with -c)`);
});

Deno.test("a symbolic link beside the executable leads to the folder that relative paths begin at", () => {
  using at = folders();
  Deno.writeTextFileSync(join(at.cwd, "config.ini"), "[s3]\nBUCKET=file:data");
  Deno.symlinkSync(join(at.cwd, "config.ini"), join(at.executableDir, "config.ini"));
  const { text, path } = findConfig(undefined, at.executableDir, "/") as ConfigFile;
  assertEquals(parseConfig(text, path).bucket, { kind: "directory", path: join(at.cwd, "data") });
});

Deno.test("what systemd hands over is read in place of the file of that name", () => {
  using at = folders();
  Deno.writeTextFileSync(join(at.cwd, "mine.ini"), "not for us");
  Deno.writeTextFileSync(join(at.executableDir, "mine.ini"), "handed over");
  Deno.env.set("CREDENTIALS_DIRECTORY", at.executableDir);
  try {
    const { text, path } = findConfig("mine.ini", "/", at.cwd) as ConfigFile;
    assertEquals([text, path], ["handed over", join(at.cwd, "mine.ini")]);
    Deno.writeTextFileSync(join(at.cwd, "other.ini"), "other");
    assertEquals(findConfig("other.ini", "/", at.cwd)?.text, "other");
  } finally {
    Deno.env.delete("CREDENTIALS_DIRECTORY");
  }
});

Deno.test("a config.ini that is there but can't be read is an error, not a reason to look on", () => {
  using at = folders();
  const path = join(at.executableDir, "config.ini");
  Deno.writeTextFileSync(join(at.cwd, "config.ini"), "second");
  const find = () => findConfig(undefined, at.executableDir, at.cwd);
  Deno.mkdirSync(path);
  assertThrows(find, UsageError, `${path} is a directory; allowed: a file`);
  Deno.removeSync(path);
  Deno.symlinkSync(join(at.dir, "nowhere.ini"), path);
  assertThrows(find, UsageError, `${path}: a symbolic link to nothing`);
});

Deno.test("a pipe, whose writer would be waited for, and a device without an end are no configuration", async () => {
  using at = folders();
  const pipe = join(at.cwd, "pipe");
  await run("mkfifo", [pipe]);
  for (const path of [pipe, "/dev/zero"]) {
    const find = () => findConfig(path, at.executableDir, at.cwd);
    assertThrows(find, UsageError, `${path} is a device or a pipe; allowed: a file`);
  }
});

Deno.test("a file that holds a secret and that others can read is warned of", () => {
  using at = folders();
  const path = join(at.cwd, "config.ini");
  const warningOf = (text: string, mode: number) => {
    Deno.writeTextFileSync(path, text);
    Deno.chmodSync(path, mode);
    return findConfig(undefined, at.executableDir, at.cwd)?.warning;
  };
  assertEquals(warningOf(ORIGINAL_CONFIG, 0o600), undefined);
  assertMatch(
    warningOf(ORIGINAL_CONFIG, 0o644) ?? "",
    /others can read it \(mode 0644\).* chmod 600 /,
  );
  assertMatch(warningOf(ORIGINAL_CONFIG, 0o640) ?? "", /mode 0640/);
  assertEquals(warningOf(EXAMPLE.replace(/^AWS/gm, "#AWS"), 0o644), undefined);
});
