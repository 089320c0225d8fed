/** Opening after a crash, 30 ms away from S3, with almost as many segments behind the last checkpoint as there can be. */
import { startCeph } from "../support/ceph.ts";
import { Drive } from "../support/drive.ts";
import { runPython } from "../support/programs.ts";
import { startS3Proxy } from "../support/s3_proxy.ts";
import { S3TestBucket } from "../support/test_buckets.ts";
import type { Row } from "./table.ts";

const ADDED_MS = 30;
/** A thousand, with the claim, would be one more than is left without a checkpoint. */
const FLUSHES = 998;

const FLUSH_OFTEN = `
drive = nbd.NBD()
drive.connect_uri(uri)
for number in range(int(sys.argv[2])):
    drive.pwrite(bytes([number % 256]) * 4096, number * 4096)
    drive.flush()
`;

export async function benchReplay(): Promise<Row[]> {
  await using ceph = await startCeph();
  await using proxy = startS3Proxy(ceph.endpoint);
  await using bucket = new S3TestBucket(ceph);
  await using first = await Drive.start({ bucket, size: "64M" });
  await runPython(FLUSH_OFTEN, [first.uri, `${FLUSHES}`]);
  await first.kill();

  let [heads, underWay, most] = [0, 0, 0];
  proxy.treat = ({ method, path }) => {
    if (method === "GET" && path.includes("/log/")) {
      heads++;
      most = Math.max(most, ++underWay);
    }
    return new Promise((resolve) => setTimeout(resolve, ADDED_MS, "pass"));
  };
  proxy.onServed = ({ method, path }) => {
    if (method === "GET" && path.includes("/log/")) underWay--;
  };
  const startedAt = performance.now();
  await using second = await Drive.start({ bucket: bucket.through(proxy) });
  const seconds = (performance.now() - startedAt) / 1000;
  await second.stopClean();
  return [{
    what:
      `start after a crash, ${FLUSHES} segments behind the last checkpoint, ${ADDED_MS} ms added`,
    result: `**${heads}** header reads, at most ${most} at a time; ready after ${
      seconds.toFixed(2)
    } s`,
    target: "at most 1,000 header reads, 32 at a time",
    met: heads <= 1000 && most === 32,
  }];
}
