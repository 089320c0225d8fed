/** What writing costs in requests, bytes and memory, at a real S3 server on this machine. */
import { GIB, MIB } from "../../src/limits.ts";
import { Drive } from "../support/drive.ts";
import { startCeph } from "../support/ceph.ts";
import { run } from "../support/programs.ts";
import { S3TestBucket } from "../support/test_buckets.ts";
import type { Row } from "./table.ts";

/** What the drive prints when it stops. */
interface Traffic {
  puts: number;
  bytesUp: number;
}

export async function benchStored(): Promise<Row[]> {
  await using ceph = await startCeph();
  await using random = new S3TestBucket(ceph);
  await using zero = new S3TestBucket(ceph);
  const [inOrder, memory] = await write(random, 2 * GIB, []);
  const [zeroes] = await write(zero, GIB, ["--zero_buffers=1"]);
  const putsPerGib = inOrder.puts / 2;
  const bytesRatio = inOrder.bytesUp / (2 * GIB);
  const zeroBytes = (await zero.objects("log/")).reduce((sum, { size }) => sum + size, 0);
  const zeroPuts = (await zero.objects("log/")).length;
  return [
    {
      what: "2 GiB written in order to S3, PUTs a GiB",
      result: `**${putsPerGib.toFixed(1)}**, all kinds, opening and closing included`,
      target: "at most 140",
      met: putsPerGib <= 140,
    },
    {
      what: "the same, bytes stored a byte written",
      result: `**${bytesRatio.toFixed(4)}**`,
      target: "at most 1.02",
      met: bytesRatio <= 1.02,
    },
    {
      what: "a GiB of zeroes written",
      result: `**${zeroPuts}** segments of ${zeroBytes} bytes in all; ${zeroes.puts} PUTs with ` +
        "opening and closing",
      target: "under 5 PUTs of data",
      met: zeroPuts < 5,
    },
    memory,
  ];
}

async function write(
  bucket: S3TestBucket,
  bytes: number,
  more: string[],
): Promise<[Traffic, Row]> {
  await using drive = await Drive.start({ bucket, size: `${bytes}` });
  await run("fio", [
    "--name=in-order",
    "--ioengine=nbd",
    `--uri=${drive.uri}`,
    "--rw=write",
    "--bs=128k",
    "--iodepth=16",
    `--size=${bytes}`,
    "--end_fsync=1",
    ...more,
  ]);
  await run("nbdcopy", ["--connections=4", "--requests=64", drive.uri, "null:"]);
  const used = drive.memoryBytes("VmHWM");
  const bound = boundOf(drive.readyLine);
  await drive.stopClean();
  const line = await drive.says(/ PUT, /);
  const [, puts, bytesUp] = /(\d+) PUT,.* (\d+) bytes up/.exec(line)!;
  return [{ puts: Number(puts), bytesUp: Number(bytesUp) }, {
    what: "resident memory at its highest, 2 GiB written to S3 and read back, cache of 64 MiB",
    result: `**${Math.round(used / MIB)} MiB**`,
    target: `at most what the ready line says: ${Math.round(bound / MIB)} MiB`,
    met: used <= bound,
  }];
}

/** The bound in "... at most 517.1 MiB of memory ...", in bytes. */
function boundOf(readyLine: string): number {
  const [, value, unit] = /at most ([\d.]+) (MiB|GiB) of memory/.exec(readyLine)!;
  return Number(value) * (unit === "GiB" ? GIB : MIB);
}
