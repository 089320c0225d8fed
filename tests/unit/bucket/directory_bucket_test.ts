import { assert, assertEquals, assertRejects } from "@std/assert";
import { DirectoryBucket } from "../../../src/bucket/directory_bucket.ts";
import { systemChance, systemClock } from "../../../src/clock.ts";
import { UnavailableError, UsageError } from "../../../src/errors.ts";
import { keysBelow, testBucketContract } from "../../support/bucket_contract.ts";

const deps = { clock: systemClock, chance: systemChance };
const bytesOf = (text: string) => new TextEncoder().encode(text);

async function inTempDir(test: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempDir({ prefix: "elasticdrive-test-" });
  try {
    await test(path);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

Deno.test("a directory bucket keeps the contract", async (t) => {
  await inTempDir(async (path) => {
    let n = 0;
    await testBucketContract(t, () => DirectoryBucket.open(`${path}/${n++}`, deps));
  });
});

Deno.test("open makes the directory with its parents, and a second opening finds the objects", async () => {
  await inTempDir(async (path) => {
    const first = await DirectoryBucket.open(`${path}/a/b/`, deps);
    await first.put("log/1", bytesOf("x"));
    first.close();
    const second = await DirectoryBucket.open(`${path}/a/b`, deps);
    assertEquals(second.name, `file:${path}/a/b`);
    assertEquals(await second.list(""), ["log/1"]);
    second.close();
    assertEquals(await Deno.readTextFile(`${path}/a/b/log/1`), "x");
  });
});

Deno.test("what is opened to be read stays as it is, as if it were on a read-only file system", async () => {
  await inTempDir(async (path) => {
    await Deno.mkdir(`${path}/log`);
    await Deno.writeTextFile(`${path}/log/1`, "x");
    const bucket = await DirectoryBucket.open(path, { ...deps, access: "read" });
    assertEquals(await bucket.list(""), ["log/1"]);
    assertEquals((await bucket.get("log/1"))?.bytes, bytesOf("x"));
    await assertRejects(() => bucket.put("log/2", bytesOf("y")));
    await assertRejects(() => bucket.delete(["log/1"]));
    bucket.close();
    const left = [Deno.readDirSync(path), Deno.readDirSync(`${path}/log`)].flatMap((found) =>
      Array.from(found, ({ name }) => name)
    );
    assertEquals(left, ["log", "1"]);
    const opening = DirectoryBucket.open(`${path}/log/1`, { ...deps, access: "read" });
    await assertRejects(() => opening, UsageError, "that this user can read");
  });
});

Deno.test("a path that can't be a bucket is refused in one line that says why", async () => {
  await inTempDir(async (path) => {
    await Deno.writeTextFile(`${path}/file`, "");
    const cases = {
      [`${path}/file`]: "a part of the path is a file (ENOTDIR)",
      [`${path}/file/below`]: "a part of the path is a file (ENOTDIR)",
      "/proc/elasticdrive": "can't be used",
    };
    for (const [bad, reason] of Object.entries(cases)) {
      const error = await assertRejects(() => DirectoryBucket.open(bad, deps), UsageError);
      assert(error.message.startsWith(`BUCKET=file:${bad} can't be used: `), error.message);
      assert(error.message.includes(reason), error.message);
      assert(error.message.includes("directory that this user can write to"), error.message);
      assert(!error.message.includes("\n"));
    }
    assertEquals([...Deno.readDirSync(path)].map((entry) => entry.name), ["file"]);
  });
});

Deno.test("a storage that is full or denied becomes an UnavailableError that names it", async () => {
  await inTempDir(async (path) => {
    const bucket = await DirectoryBucket.open(path, deps);
    // A file where the folder should be fails as a broken storage does, also for root.
    await Deno.writeTextFile(`${path}/log`, "");
    const error = await assertRejects(() => bucket.put("log/1", bytesOf("x")), UnavailableError);
    assert(error.message.startsWith(`can't write log/1 in file:${path}: `), error.message);
    assertEquals([...Deno.readDirSync(`${path}/.tmp`)], []);
    // Putting succeeds again as soon as the cause is gone.
    await Deno.remove(`${path}/log`);
    assert((await bucket.put("log/1", bytesOf("x"))).stored);
    await Deno.rename(path, `${path}-away`);
    const gone = await assertRejects(() => bucket.put("log/2", bytesOf("x")), UnavailableError);
    await Deno.rename(`${path}-away`, path);
    assert(gone.message.endsWith("a directory of the path is not there (ENOENT)"), gone.message);
    bucket.close();
  });
});

Deno.test("temporary files of dead writers go at the next opening, fresh ones stay", async () => {
  await inTempDir(async (path) => {
    (await DirectoryBucket.open(path, deps)).close();
    await Deno.writeTextFile(`${path}/.tmp/old`, "x");
    await Deno.writeTextFile(`${path}/.tmp/fresh`, "x");
    const twoHoursAgo = Date.now() / 1000 - 7200;
    await Deno.utime(`${path}/.tmp/old`, twoHoursAgo, twoHoursAgo);
    (await DirectoryBucket.open(path, deps)).close();
    assertEquals([...Deno.readDirSync(`${path}/.tmp`)].map((e) => e.name), ["fresh"]);
  });
});

Deno.test("a folder that was emptied goes, and comes back while others delete", async () => {
  await inTempDir(async (path) => {
    const bucket = await DirectoryBucket.open(path, deps);
    await bucket.put("map/7/1", bytesOf("x"));
    await bucket.delete(["map/7/1"]);
    assertEquals([...Deno.readDirSync(`${path}/map`)], []);
    const other = await DirectoryBucket.open(path, deps);
    const churn = async (b: DirectoryBucket, key: string) => {
      for (let i = 0; i < 200; i++) {
        assert((await b.put(key, bytesOf("x"), i % 2 ? { ifAbsent: true } : undefined)).stored);
        await b.delete([key]);
      }
    };
    await Promise.all([churn(bucket, "map/8/1"), churn(other, "map/8/2")]);
    bucket.close();
    other.close();
  });
});

Deno.test("100,000 keys are listed in seconds", async () => {
  await inTempDir(async (path) => {
    const bucket = await DirectoryBucket.open(path, deps);
    await Deno.mkdir(`${path}/log`);
    // By xargs, which makes them in half a second; one by one from here it takes eight.
    const made = await new Deno.Command("sh", {
      args: ["-c", "seq -f %010.0f 0 99999 | xargs touch"],
      cwd: `${path}/log`,
    }).output();
    assert(made.success);
    await Deno.utime(`${path}/log`, 1e9, 1e9);
    const startMs = performance.now();
    assertEquals((await keysBelow(bucket, "log/")).length, 100_000);
    const tookMs = performance.now() - startMs;
    assert(tookMs < 10_000, `took ${tookMs} ms`);
    bucket.close();
  });
});

// ---- between processes

const RACER = new URL("../../support/race_puts.ts", import.meta.url).pathname;

/** Starts `count` processes that put the keys told to them at the same moment; gives each one's wins. */
async function race(path: string, count: number, condition: string): Promise<string[][]> {
  const racers = Array.from({ length: count }, (_, n) =>
    new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--allow-read",
        "--allow-write",
        RACER,
        path,
        String(n),
        String(count),
        condition,
      ],
      stdout: "piped",
    }).output());
  const outputs = await Promise.all(racers);
  return outputs.map((output, n) => {
    assert(output.success, `racer ${n} failed`);
    return new TextDecoder().decode(output.stdout).split(/\s+/).filter((word) => word !== "");
  });
}

for (const condition of ["ifAbsent", "ifMatch"]) {
  Deno.test(`of 16 processes that put with ${condition}, one wins each of 20 rounds`, async () => {
    await inTempDir(async (path) => {
      const wins = await race(path, 16, condition);
      const winnersOf = (round: number) =>
        wins.flatMap((rounds, n) => rounds.includes(String(round)) ? [n] : []);
      const bucket = await DirectoryBucket.open(path, deps);
      for (let round = 0; round < 20; round++) {
        assertEquals(winnersOf(round).length, 1, `round ${round}: ${winnersOf(round)}`);
        const found = await bucket.get(`race/${round}`);
        assertEquals(new TextDecoder().decode(found!.bytes), `writer ${winnersOf(round)[0]}`);
      }
      bucket.close();
    });
  });
}
