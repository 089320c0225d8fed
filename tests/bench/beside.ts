/**
 * What cached reads notice of 32 reads that wait for S3, 30 ms away, on the same connection: nothing but the time that
 * the others' bytes take to be copied.
 */
import { MIB } from "../../src/limits.ts";
import { runPython } from "../support/programs.ts";
import { startMemoryS3 } from "../support/start_memory_s3.ts";
import { BLOCK_BYTES_DEFAULT, CONTENDERS, DRIVE } from "./contenders.ts";
import type { Row } from "./table.ts";

const LATENCY_MS = 30;
const SIZE_BYTES = 256 * MIB;

/** All of it is written; what is read afterwards is in S3 only. */
const FILL = `
import os
drive = nbd.NBD()
drive.connect_uri(uri)
for at in range(0, drive.get_size(), 1 << 20): drive.pwrite(os.urandom(1 << 20), at)
drive.flush()
drive.shutdown()
`;

/**
 * Reads 4 KiB of the first MiB, cached, again and again, by turns alone and with 32 reads of 4 KiB elsewhere in flight on
 * the same connection. First for a tenth of a second each, in which for each of the others that is answered the
 * next is sent; then 200 times, in which the 32 are begun. Prints for each of the four: median, 99 %, 99.9 % and greatest ms.
 */
const METER = `
import random, time
drive = nbd.NBD()
drive.connect_uri(uri)
drive.pread(1 << 20, 0)
cold = list(range(16, drive.get_size() // 65536))
random.seed(7)
random.shuffle(cold)
waiting = 0
def ask():
    global waiting
    drive.aio_pread(nbd.Buffer(4096), cold.pop() * 65536)
    waiting += 1
def answered():
    global waiting
    cookie = drive.aio_peek_command_completed() if waiting > 0 else 0
    if cookie == 0: return False
    drive.aio_command_completed(cookie)
    waiting -= 1
    return True
def measure(rounds, seconds, reads_max, goes_on):
    took = {False: [], True: []}
    for round in range(rounds):
        is_beside = round % 2 == 1
        if is_beside:
            for _ in range(32): ask()
        end = time.monotonic() + seconds
        number = 0
        while number < reads_max and (begin := time.monotonic()) < end:
            drive.pread(4096, number % 256 * 4096)
            took[is_beside].append((time.monotonic() - begin) * 1000)
            number += 1
            while goes_on and answered(): ask()
        while waiting > 0:
            if not answered(): drive.poll(-1)
    for is_beside in False, True:
        times = sorted(took[is_beside])
        print(*(times[len(times) * part // 1000] for part in (500, 990, 999)), times[-1])
measure(40, 0.1, 1000000, True)
measure(60, 10, 200, False)
drive.shutdown()
`;

export async function benchBeside(): Promise<Row[]> {
  await using s3 = await startMemoryS3();
  const disk = {
    s3,
    bucketName: "beside",
    sizeBytes: SIZE_BYTES,
    blockBytes: BLOCK_BYTES_DEFAULT,
  };
  await using writer = await CONTENDERS[DRIVE](disk);
  await runPython(FILL, [writer.uri]);
  await writer.stop();
  await using drive = await CONTENDERS[DRIVE](disk);
  await s3.set({ latencyMs: LATENCY_MS });
  const printed = (await runPython(METER, [drive.uri])).trim().split("\n");
  await drive.stop();
  const [alone, beside, aloneShortly, beginning] = printed.map((line) =>
    line.split(" ").map(Number)
  );
  const what =
    "4 KiB cached, read beside 32 reads that wait for S3, 30 ms away, on the same connection";
  return [
    rowOf(`${what}: median/99 %/99.9 %/greatest ms (and without them)`, beside, alone),
    rowOf("— of these the 200 reads in which the 32 are begun", beginning, aloneShortly),
  ];
}

/** Of ms: median, 99 %, 99.9 % and greatest. */
function rowOf(what: string, beside: number[], alone: number[]): Row {
  const text = (times: number[]) => times.map((ms) => ms.toFixed(3)).join("/");
  const [inTheMiddle, at99] = beside.map((ms, index) => ms / alone[index]);
  return {
    what,
    result: `${text(beside)} (${text(alone)}): **${at99.toFixed(2)}** times at 99 %, ` +
      `${inTheMiddle.toFixed(2)} in the middle`,
    target: "99 % at most 3 times",
    met: at99 <= 3,
  };
}
