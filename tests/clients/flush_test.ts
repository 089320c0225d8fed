/** What a flush costs is one PUT, and nobody else waits for it. */
import { assertEquals } from "@std/assert";
import { startCeph } from "../support/ceph.ts";
import { assertSurvivesRestart, Drive } from "../support/drive.ts";
import { runPython } from "../support/programs.ts";
import { startS3Proxy, type Treatment } from "../support/s3_proxy.ts";
import { S3TestBucket } from "../support/test_buckets.ts";

/** A hundred writes and reads between the begin of a flush and its end, on the flush's own connection too. */
const WORK_DURING_FLUSH = `
import os
connections = [nbd.NBD(), nbd.NBD()]
for drive in connections:
    drive.connect_uri(uri)
for offset in range(0, 6 << 20, 1 << 20):
    connections[0].pwrite(os.urandom(1 << 20), offset)
flush = connections[0].aio_flush()
for number in range(100):
    data = bytes([number]) * 4096
    for drive in connections:
        offset = number * 40960
        drive.pwrite(data, offset)
        assert drive.pread(4096, offset) == data
assert not connections[0].aio_command_completed(flush)
open(sys.argv[2], "w").close()
while not connections[0].aio_command_completed(flush):
    connections[0].poll(-1)
connections[1].flush()
`;

Deno.test("a flush is one PUT; writes and reads complete while it is on its way", async () => {
  await using ceph = await startCeph();
  await using proxy = startS3Proxy(ceph.endpoint);
  await using bucket = new S3TestBucket(ceph);
  const server = { flushafter: 3600 };
  await using drive = await Drive.start({ bucket: bucket.through(proxy), size: "64M", server });
  const worked = await Deno.makeTempDir({ prefix: "elasticdrive-test-" });
  const watcher = Deno.watchFs(worked);
  const puts: string[] = [];
  proxy.treat = async ({ method, path }): Promise<Treatment> => {
    if (method === "PUT" && path.includes("/log/")) {
      puts.push(path);
      // the first one goes on when the client has done its work
      if (puts.length === 1) { for await (const _ of watcher) break; }
    }
    return "pass";
  };
  await runPython(WORK_DURING_FLUSH, [drive.uri, `${worked}/worked`]);
  assertEquals(puts.length, 2, "one for each flush");
  await assertSurvivesRestart(drive, bucket);
  await Deno.remove(worked, { recursive: true });
});
