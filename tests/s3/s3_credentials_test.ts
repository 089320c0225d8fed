/**
 * Where keys come from when config.ini has none, and what the SDK needs of Deno: each case is a process of
 * its own with the permissions of the compiled program, and nobody to ask for more.
 */
import { assert, assertEquals } from "@std/assert";
import { type Ceph, startCeph } from "../support/ceph.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const OPENER = new URL("../support/open_s3.ts", import.meta.url).pathname;

/** The flags of the `start` task, which the compiled program gets too. */
function permissions(): string[] {
  const tasks = Deno.readTextFileSync(`${ROOT}/deno.json`);
  const start = /"command": "(.*) main\.ts"/.exec(tasks)![1];
  return start.split(" ").filter((word) => /^--(allow-|no-prompt)/.test(word));
}

/** What a process prints that opens a bucket, with these variables and no others of AWS. */
async function open(ceph: Ceph, env: Record<string, string>): Promise<string> {
  const inherited = Object.entries(Deno.env.toObject()).filter(([name]) =>
    !name.startsWith("AWS_")
  );
  const cache = JSON.parse(
    new TextDecoder().decode(
      (await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output()).stdout,
    ),
  ).denoDir;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--quiet",
      "--lock=deno.lock",
      "--frozen",
      ...permissions(),
      OPENER,
      ceph.endpoint,
    ],
    clearEnv: true,
    // HOME decides where Deno keeps its cache, too.
    env: { ...Object.fromEntries(inherited), DENO_DIR: cache, ...env },
    cwd: ROOT,
  }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

Deno.test("without keys in config.ini the AWS default chain is asked", async (t) => {
  await using ceph = await startCeph();
  const home = await Deno.makeTempDir({ prefix: "elasticdrive-home-" });
  await Deno.mkdir(`${home}/.aws`);
  const writeProfile = (text: string) =>
    Deno.writeTextFile(`${home}/.aws/credentials`, `[default]\n${text}\n`);
  // No instance role is looked for: on a machine in EC2 there might be one.
  const alone = { HOME: home, AWS_EC2_METADATA_DISABLED: "true" };
  try {
    await t.step("the environment", async () => {
      const keys = {
        AWS_ACCESS_KEY_ID: ceph.accessKeyId,
        AWS_SECRET_ACCESS_KEY: ceph.secretAccessKey,
      };
      assertEquals(await open(ceph, { ...alone, ...keys }), "opened\n");
    });

    await t.step("the profile in the home directory", async () => {
      await writeProfile(
        `aws_access_key_id=${ceph.accessKeyId}\naws_secret_access_key=${ceph.secretAccessKey}`,
      );
      assertEquals(await open(ceph, alone), "opened\n");
    });

    await t.step("a credential_process is not run, and that is said", async () => {
      await writeProfile(`credential_process=touch ${home}/was-run`);
      const said = await open(ceph, alone);
      assert(said.includes("a credential_process is not run"), said);
      assertEquals([...Deno.readDirSync(home)].map((entry) => entry.name), [".aws"]);
    });

    await t.step("nothing anywhere", async () => {
      await Deno.remove(`${home}/.aws`, { recursive: true });
      const said = await open(ceph, alone);
      assert(said.startsWith("UnavailableError (permanent): can't open the bucket"), said);
      assert(said.includes("no credentials (Could not load credentials from any providers)"), said);
      assertEquals(said.trim().split("\n").length, 1);
    });

    await t.step("not even a home", async () => {
      const said = await open(ceph, { ...alone, HOME: "" });
      assert(!said.includes("Requires"), said);
    });
  } finally {
    await Deno.remove(home, { recursive: true });
  }
});
