/**
 * What a flush costs 30 ms away from S3: as much as a PUT of the same bytes by itself, both by turns; and what
 * other requests notice of it.
 */
import { systemClock } from "../../src/clock.ts";
import { S3Bucket } from "../../src/bucket/s3_bucket.ts";
import { KIB, MIB } from "../../src/limits.ts";
import { silentLogger } from "../../src/logger.ts";
import { showBytes } from "../../src/progress.ts";
import { startCeph } from "../support/ceph.ts";
import { Drive } from "../support/drive.ts";
import { runPython } from "../support/programs.ts";
import { type S3Proxy, startS3Proxy } from "../support/s3_proxy.ts";
import { S3TestBucket } from "../support/test_buckets.ts";
import { TextLineStream } from "../support/text_lines.ts";
import { median } from "./fio.ts";
import type { Row } from "./table.ts";

const ADDED_MS = 30;
const SIZES = [4 * KIB, 256 * KIB, MIB, 4 * MIB];
const ROUNDS = 25;

export async function benchFlush(): Promise<Row[]> {
  await using ceph = await startCeph();
  await using proxy = startS3Proxy(ceph.endpoint);
  await using bucket = new S3TestBucket(ceph);
  const server = { flushafter: 3600 };
  await using drive = await Drive.start({ bucket: bucket.through(proxy), size: "256M", server });
  proxy.treat = () => new Promise((resolve) => setTimeout(resolve, ADDED_MS, "pass"));
  const rows: Row[] = [];
  for (const size of SIZES) rows.push(await againstBarePut(bucket, proxy, drive, size));
  rows.push(await othersDuringFlush(drive));
  await drive.stopClean();
  return rows;
}

/** For each line of input: writes so many bytes and flushes; prints how many ms the flush took. */
const FLUSH_WHEN_TOLD = `
import os, time
drive = nbd.NBD()
drive.connect_uri(uri)
size = int(sys.argv[2])
for line in sys.stdin:
    drive.pwrite(os.urandom(size), 0)
    begin = time.monotonic()
    drive.flush()
    print((time.monotonic() - begin) * 1000, flush=True)
`;

async function againstBarePut(
  bucket: S3TestBucket,
  proxy: S3Proxy,
  drive: Drive,
  size: number,
): Promise<Row> {
  const { ceph, bucketName } = bucket;
  const place = { endpoint: proxy.endpoint, pathStyle: true, bucket: bucketName, prefix: "bare" };
  const options = { ...ceph, ...place };
  const bare = await S3Bucket.open(options, { clock: systemClock, logger: silentLogger });
  await using client = new Deno.Command("/usr/bin/python3", {
    args: ["-c", `import sys, nbd\nuri = sys.argv[1]\n${FLUSH_WHEN_TOLD}`, drive.uri, `${size}`],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const stdin = client.stdin.getWriter();
  const lines = client.stdout.pipeThrough(new TextLineStream()).getReader();
  const bytes = new Uint8Array(size);
  const flushes: number[] = [];
  const puts: number[] = [];
  // the first round opens connections
  for (let round = -1; round < ROUNDS; round++) {
    for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
    const begin = performance.now();
    await bare.put(`${size}/${round}`, bytes);
    const putMs = performance.now() - begin;
    await stdin.write(new TextEncoder().encode("flush\n"));
    const flushMs = Number((await lines.read()).value);
    if (round < 0) continue;
    puts.push(putMs);
    flushes.push(flushMs);
  }
  await stdin.close();
  bare.close();
  const [ours, theirs] = [median(flushes), median(puts)];
  return {
    what: `flush of ${showBytes(size)} written, ${ADDED_MS} ms added to every request`,
    result: `${ours.toFixed(1)} ms, a bare PUT ${theirs.toFixed(1)} ms: **${
      (ours / theirs).toFixed(2)
    }** times`,
    target: "at most 1.2 times",
    met: ours / theirs <= 1.2,
  };
}

/**
 * One connection writes 4 MiB and flushes, again and again, with pauses; another one writes and reads 4 KiB all the
 * time. Prints for both of these, within flushes and without: how many, median and greatest ms.
 */
const METER = `
import os, statistics, threading, time
def connect():
    drive = nbd.NBD()
    drive.connect_uri(uri)
    return drive

flushes = []
over = threading.Event()
def flush_on():
    drive = connect()
    for _ in range(40):
        drive.pwrite(os.urandom(4 << 20), 0)
        begin = time.monotonic()
        drive.flush()
        end = time.monotonic()
        flushes.append((begin, end))
        time.sleep(end - begin)
    over.set()

drive = connect()
block = os.urandom(4096)
drive.pwrite(block * 2560, 16 << 20)
drive.flush()
thread = threading.Thread(target=flush_on)
thread.start()
took = {"write": [], "read": []}
number = 0
while not over.is_set():
    number += 1
    offset = (16 << 20) + number % 2560 * 4096
    for what, request in ("write", lambda: drive.pwrite(block, offset)), ("read", lambda: drive.pread(4096, offset)):
        begin = time.monotonic()
        request()
        took[what].append((begin, time.monotonic()))
thread.join()
for what, requests in took.items():
    for during in True, False:
        times = [(end - begin) * 1000 for begin, end in requests
                 if any(first <= begin < last for first, last in flushes) == during]
        print(len(times), statistics.median(times), sorted(times)[len(times) * 99 // 100], max(times))
`;

async function othersDuringFlush(drive: Drive): Promise<Row> {
  const printed = (await runPython(METER, [drive.uri])).trim().split("\n");
  const [writeIn, writeOut, readIn, readOut] = printed.map((line) => {
    const [count, median, most99, most] = line.split(" ").map(Number);
    return { count, median, text: `${median.toFixed(2)}/${most99.toFixed(1)}/${most.toFixed(1)}` };
  });
  return {
    what: "4 KiB written and read by others while 4 MiB are flushed: median/99 %/greatest ms " +
      "(and between the flushes)",
    result: `write ${writeIn.text} (${writeOut.text}), read ${readIn.text} (${readOut.text}); ` +
      `${writeIn.count + readIn.count} requests during 40 flushes`,
    target: "they go on: median under 1 ms",
    met: writeIn.median < 1 && readIn.median < 1,
  };
}
