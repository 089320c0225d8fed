/**
 * Stores without conditional PUT, played by a real S3 server behind a proxy: the drive says what is not guaranteed,
 * works, and still can't be opened twice by accident.
 */
import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { decodeChecked, encodeChecked } from "../../src/volume/checked_json.ts";
import { LEASE_KEY } from "../../src/volume/lease.ts";
import { startCeph } from "../support/ceph.ts";
import {
  assertHolds,
  assertSurvivesRestart,
  configText,
  Drive,
  runElasticDrive,
} from "../support/drive.ts";
import { run, runPython } from "../support/programs.ts";
import { type ProxiedRequest, startS3Proxy, type Treatment } from "../support/s3_proxy.ts";
import { Scratch } from "../support/scratch.ts";
import { S3TestBucket } from "../support/test_buckets.ts";

interface Store {
  missing: string;
  treat: (request: ProxiedRequest, bucket: S3TestBucket) => Treatment | Promise<Treatment>;
}

const REFUSED = { status: 501, code: "NotImplemented" };

const STORES: Record<string, Store> = {
  // as OpenStack Swift
  "refuses conditions": {
    missing: "If-None-Match and If-Match",
    treat: ({ headers }) => headers["if-none-match"] || headers["if-match"] ? REFUSED : "pass",
  },
  "knows If-None-Match only": {
    missing: "If-Match",
    treat: ({ headers }) => headers["if-match"] ? REFUSED : "pass",
  },
  // The header is signed, so it can't be taken out. Without the object the condition holds, as if nobody looked.
  "ignores If-None-Match": {
    missing: "If-None-Match and If-Match",
    treat: async ({ path, headers }, bucket) => {
      if (headers["if-match"]) return REFUSED;
      const key = path.split("/").slice(2).join("/");
      if (headers["if-none-match"]) await bucket.ask((direct) => direct.delete([key]));
      return "pass";
    },
  },
};

const WRITE_AND_FLUSH = `
drive = nbd.NBD()
drive.connect_uri(uri)
drive.pwrite(b"x" * 4096, 0)
drive.flush()
`;

interface Lease {
  holder: { host: string };
  renewedAt: number;
}

/** What the bucket says of who has it open. */
function readLease(bucket: S3TestBucket): Promise<Lease> {
  return bucket.ask(async (direct) => {
    const { bytes } = (await direct.get(LEASE_KEY))!;
    return decodeChecked<Lease>(LEASE_KEY, bytes);
  });
}

async function writeLease(bucket: S3TestBucket, lease: Lease): Promise<void> {
  await bucket.ask((direct) => direct.put(LEASE_KEY, encodeChecked(lease)));
}

async function assertRefused(bucket: S3TestBucket, place: string): Promise<void> {
  await using scratch = await Scratch.make();
  const config = await scratch.write("config.ini", configText({ bucket }));
  const { code, stderr } = await runElasticDrive(["-c", config]);
  assertEquals(code, 2, stderr);
  assertStringIncludes(stderr, `is open on ${place}`);
}

async function assertWorksAt(store: Store, through: S3TestBucket): Promise<void> {
  await using scratch = await Scratch.make();
  const image = await scratch.random("image", 20);
  await using first = await Drive.start({ bucket: through, size: "20M" });
  const warnings = first.lines.filter((line) => line.includes("warning"));
  assertEquals(warnings.length, 1, first.stderr);
  assertStringIncludes(warnings[0], `conditional PUTs (${store.missing}): `);
  await run("nbdcopy", ["--flush", image, first.uri]);
  await assertHolds(first, image);

  await assertRefused(through, `${Deno.hostname()} (pid ${first.pid}, epoch 1)`);
  await first.kill();
  const lease = await readLease(through);
  await writeLease(through, { ...lease, holder: { ...lease.holder, host: "elsewhere" } });
  await assertRefused(through, "elsewhere");
  await writeLease(through, lease);

  await using second = await Drive.start({ bucket: through });
  assertMatch(second.readyLine, /epoch 2;/);
  await assertHolds(second, image);
  await using third = await Drive.start({ bucket: through, args: ["--takeover"] });
  await assertRejects(() => runPython(WRITE_AND_FLUSH, [second.uri]));
  assertEquals(await second.exit(), 3, second.stderr);
  await assertSurvivesRestart(third, through, image);
}

Deno.test("a store without conditional PUT", async (t) => {
  await using ceph = await startCeph();
  for (const [name, store] of Object.entries(STORES)) {
    await t.step(`that ${name} is warned about, used, and opened by one at a time`, async () => {
      await using proxy = startS3Proxy(ceph.endpoint);
      await using bucket = new S3TestBucket(ceph);
      proxy.treat = (request) => request.method === "PUT" ? store.treat(request, bucket) : "pass";
      await assertWorksAt(store, bucket.through(proxy));
    });
  }
});
