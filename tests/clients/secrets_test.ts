/**
 * No secret is in anything that the program says or leaves: it is run with keys that can't be mistaken for anything
 * else, from each place where keys can be, through all that can go wrong with them, against a server that sends
 * back whatever it is sent; then every byte is looked through.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Certificates } from "../support/certificates.ts";
import { Drive, PROGRAM } from "../support/drive.ts";
import { type EchoingS3, startEchoingS3 } from "../support/echoing_s3.ts";
import { type MemoryS3, startMemoryS3 } from "../support/start_memory_s3.ts";
import { run, runProgram } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";

const KEY_ID = "AKIAQ7ZXVJ2PLMW3RT5N";
const SECRET = "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";
const TOKEN = "FwoGZXIvYXdzEHq//jWq3nVb8RkT+Zy5LmXcPd6SgUo1AeHi7B0wQzJfK2tN9vMs4Cxy/G==";
const PASSWORD = "Vb3nQy8wKs5TzLd";

/** What no piece of may be found, and pieces so long that none is there by chance. */
const PIECE = 10;

function forms(secret: string): string[] {
  return [secret, encodeURIComponent(secret), btoa(secret)];
}

/** Throws if a piece of a secret is in what was said; of the key's id the last four characters may be. */
function assertNoSecret(said: string, more: Iterable<string> = []): void {
  for (const secret of [SECRET, TOKEN, KEY_ID, PASSWORD, ...more]) {
    for (const form of forms(secret)) {
      for (let at = 0; at + PIECE <= form.length; at++) {
        const piece = form.slice(at, at + PIECE);
        assert(!said.includes(piece), `"${piece}" of ${secret} is in:\n${excerpt(said, piece)}`);
      }
    }
  }
}

function excerpt(text: string, piece: string): string {
  const at = text.indexOf(piece);
  return text.slice(Math.max(0, at - 300), at + 300);
}

/** All bytes below a folder, but of the files that have secrets by right. */
function bytesBelow(folder: string, except: string[]): string {
  const entries = [...Deno.readDirSync(folder)].filter(({ name }) => !except.includes(name));
  return entries.map(({ name, isDirectory, isFile }) => {
    const path = `${folder}/${name}`;
    if (isDirectory) return bytesBelow(path, except);
    return isFile ? name + new TextDecoder("latin1").decode(Deno.readFileSync(path)) : name;
  }).join("\n");
}

interface Source {
  /** Lines of `[s3]`. */
  config: string;
  env: Record<string, string>;
  /** Text of ~/.aws/credentials. */
  credentials?: string;
}

const SOURCES: Record<string, Source> = {
  "config.ini": {
    config: `AWS_ACCESS_KEY_ID=${KEY_ID}\nAWS_SECRET_ACCESS_KEY=${SECRET}\n`,
    env: {},
  },
  "the environment": {
    config: "",
    env: {
      AWS_ACCESS_KEY_ID: KEY_ID,
      AWS_SECRET_ACCESS_KEY: SECRET,
      AWS_SESSION_TOKEN: TOKEN,
    },
  },
  "~/.aws": {
    config: "",
    env: {},
    credentials: `[default]\naws_access_key_id=${KEY_ID}\naws_secret_access_key=${SECRET}\n` +
      `aws_session_token=${TOKEN}\n`,
  },
};
/** Of a scratch folder: where secrets are by right. */
const HAVE_SECRETS = ["config.ini", "credentials"];

Deno.test("no secret is in anything the program says or leaves", async (t) => {
  await using server = await startMemoryS3();
  await using s3 = startEchoingS3(server.endpoint);
  for (const [name, source] of Object.entries(SOURCES)) {
    await t.step(`with keys from ${name}`, () => liveThrough(source, server, s3));
  }
});

/** A life of a drive in which everything goes wrong. */
async function liveThrough(source: Source, server: MemoryS3, s3: EchoingS3): Promise<void> {
  await using scratch = await Scratch.make();
  await Deno.mkdir(scratch.file(".aws"));
  if (source.credentials) await scratch.write(".aws/credentials", source.credentials);
  const env = { HOME: scratch.path, AWS_EC2_METADATA_DISABLED: "true", ...source.env };
  await scratch.write(
    "config.ini",
    `[s3]\n${source.config}BUCKET=kept\nENDPOINT=${s3.endpoint}\nVOLUMESIZE=16M\n` +
      `[server]\nsocket=nbd.sock\ndebug=1\niotimeout=0.3\nstatus=127.0.0.1:0\nflushafter=0.2\njournal=journal\n`,
  );
  const elasticdrive = async (...args: string[]) => {
    const options = { cwd: scratch.path, env };
    const { stdout, stderr } = await runProgram(PROGRAM, ["-c", "config.ini", ...args], options);
    return stdout + stderr;
  };
  let said = "";

  s3.answers = "refusals";
  const refused = await elasticdrive();
  // the server's words are there, but for what they quote
  assertMatch(
    refused,
    /SignatureDoesNotMatch: The signature \*\*\* does not match what was sent: /,
  );
  assertMatch(refused, /authorization:\*\*\* .*x-amz-date:\d+/);
  assertMatch(refused, /\\x9b2J/);
  said += refused + await elasticdrive("check");
  s3.answers = "no XML";
  said += await elasticdrive() + await elasticdrive("check");
  s3.answers = "passed on";

  const whole = ["-c", `exec "$0" -c config.ini >stdout`, PROGRAM];
  await using drive = await Drive.spawn("sh", whole, scratch.path, undefined, env);
  // the way a relative socket was found from the working directory
  const io = (...commands: string[]) => {
    const args = ["-f", "raw", ...commands.flatMap((command) => ["-c", command]), drive.uri];
    return runProgram("qemu-io", args);
  };
  assertEquals((await io("write -P 7 0 1M", "flush", "write -P 8 1M 1M")).code, 0);
  await drive.says(/debug: write of 1048576 bytes at 0, flags 0x1: done, [\d.]+ ms$/);
  await drive.says(/debug: PUT http:.*\/kept\/log\/\d+: 200, [\d.]+ ms$/);
  const from = drive.lines.length;
  s3.answers = "refusals";
  const failed = await io("write -P 9 2M 64K", "flush");
  assertStringIncludes(failed.stdout + failed.stderr, "error");
  await drive.says(/does not serve: .*SignatureDoesNotMatch/, from);
  await drive.says(/debug: PUT http:.*: 403, [\d.]+ ms$/, from);
  await drive.says(/debug: flush of 0 bytes at 0: errno 5, no answer .*, [\d.]+ ms$/, from);
  said += failed.stdout + failed.stderr + await elasticdrive("attach", "/dev/nbd0") +
    await elasticdrive("check-config") + await elasticdrive("check") + await statusText(drive);
  s3.answers = "passed on";
  await drive.says(/serves again/, from);
  said += await statusText(drive);
  await drive.kill();
  said += drive.stderr + await elasticdrive("check");
  if (source.config) assertStringIncludes(said, `AWS_ACCESS_KEY_ID = ****${KEY_ID.slice(-4)} `);
  assertNoSecret(said + bytesBelow(scratch.path, HAVE_SECRETS), s3.proofs);
  assert(s3.proofs.size > 10, "nothing was signed");
  await server.forget("kept");
}

/** All that the status service answers. */
async function statusText(drive: Drive): Promise<string> {
  const url = (await drive.says(/: status: /)).split(": status: ")[1];
  const paths = ["", "metrics", "status.json", "healthz"];
  const answers = await Promise.all(paths.map((path) => fetch(url + path)));
  return (await Promise.all(answers.map((answer) => answer.text()))).join("\n");
}

Deno.test("no secret is in what is said of a wrong configuration", async () => {
  await using scratch = await Scratch.make();
  await using certificates = await Certificates.make();
  const rest = "BUCKET=file:bucket\nVOLUMESIZE=1M\n";
  const keys = `AWS_ACCESS_KEY_ID=${KEY_ID}\nAWS_SECRET_ACCESS_KEY=${SECRET}\n`;
  const wrong = [
    `[s3]\n${keys}${rest}STRIPE=${SECRET}\n`,
    `[s3]\n${rest}AWS_ACCESS_KEY_ID=${SECRET}\n`,
    `[s3]\n${rest}AWS_SECRET_ACCESS_KEY ${SECRET}\n${SECRET}=\n${KEY_ID} ${SECRET}\n`,
    `[s3]\n${rest}AWS_SECRET_ACCESS_KEY='${SECRET}'\n[${SECRET}]\nAWS_SESSION_TOKEN=${TOKEN}\n`,
    `[s3]\n${rest}ENDPOINT=https://${KEY_ID}:${PASSWORD}@s3.example.com\n`,
    `[s3]\n${rest}ENDPOINT=https://s3.example.com/?X-Amz-Signature=${PASSWORD}\n`,
    `[s3]\n${keys}${keys}PREFIX=/${SECRET}\n`,
  ];
  let said = "";
  for (const text of wrong) {
    await scratch.write("config.ini", text);
    for (const command of [[], ["check-config"], ["check"], ["detach", "/dev/nbd0"]]) {
      const { code, stdout, stderr } = await runProgram(PROGRAM, command, { cwd: scratch.path });
      assertEquals(code, 2, text + stderr);
      said += stdout + stderr;
    }
  }
  assertMatch(said, /can't be what it is \(not shown\)/);

  // a private key that is none, one that is another's, and one that stands in config.ini itself
  const key = await Deno.readTextFile(`${certificates.directory}/client-key.pem`);
  const body = key.split("\n").slice(1, -2).join("");
  await scratch.write("bad.pem", key.replace(body.slice(4, 8), "AAAA"));
  const lines = [
    `tlskey=bad.pem`,
    `tlskey=${certificates.directory}/client-key.pem`,
    `tlskey=${key}`,
  ];
  for (const line of lines) {
    const server = `[server]\nport=0\ntlscert=${certificates.directory}/server-cert.pem\n${line}\n`;
    await scratch.write("config.ini", `[s3]\n${rest}${server}`);
    const { code, stdout, stderr } = await runProgram(PROGRAM, [], { cwd: scratch.path });
    assertEquals(code, 2, stderr);
    said += stdout + stderr;
  }
  assertNoSecret(said, [body]);
});

Deno.test("a program that crashes leaves no core", async () => {
  await using scratch = await Scratch.make();
  await Deno.chmod(scratch.path, 0o755);
  const cores = () => [...Deno.readDirSync(scratch.path)].filter(({ name }) => /core/.test(name));
  const inFolder = { cwd: scratch.path };
  // that this machine writes one where it may, is what makes the rest a test
  const control = await run(
    "sh",
    ["-c", "ulimit -c unlimited; sh -c 'kill -ABRT $$' 2>&1; true"],
    inFolder,
  );
  assertStringIncludes(control, "core dumped", "this machine writes no cores at all");

  await scratch.write(
    "config.ini",
    "[s3]\nBUCKET=file:bucket\nVOLUMESIZE=1M\n[server]\nsocket=nbd.sock\n",
  );
  for (const { name } of cores()) await Deno.remove(scratch.file(name));
  // not SIGSEGV: one that is sent Rust's runtime takes for its own, and ignores
  for (const signal of ["SIGABRT", "SIGILL"] as const) {
    const script = `ulimit -c unlimited; "$0" -c config.ini & echo "pid $!" >&2
      wait $!; echo "status $?" >&2`;
    await using drive = await Drive.spawn("bash", ["-c", script, PROGRAM], scratch.path);
    const pid = Number((await drive.says(/^pid /)).slice("pid ".length));
    const limits = await Deno.readTextFile(`/proc/${pid}/limits`);
    Deno.kill(pid, signal);
    await drive.exit();
    assertMatch(limits, /^Max core file size +1 +1 +bytes/m);
    assertMatch(drive.stderr, /status (134|132)$/);
    assert(!drive.stderr.includes("core dumped"), drive.stderr);
    assertEquals(cores(), []);
  }
});
