/**
 * What TLS costs: a drive with it and one without, and nbdkit's memory plugin with it and without, all on TCP, by
 * turns. The client, on the same machine, decrypts what the server encrypts and the other way round.
 */
import { GIB, KIB } from "../../src/limits.ts";
import { freePort } from "../support/ceph.ts";
import { Certificates } from "../support/certificates.ts";
import { Drive } from "../support/drive.ts";
import { Scratch } from "../support/scratch.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";
import { type FioJob, median, requestsPerSecond } from "./fio.ts";
import { fill, SET_BYTES, startNbdkit } from "./hot.ts";
import type { Row } from "./table.ts";

const ROUNDS = 5;
const JOBS: FioJob[] = [
  { work: "randread", blockBytes: 4 * KIB, depth: 32 },
  { work: "randwrite", blockBytes: 4 * KIB, depth: 32 },
  { work: "randread", blockBytes: 256 * KIB, depth: 8 },
  { work: "randwrite", blockBytes: 256 * KIB, depth: 8 },
].map((job) => ({ ...job, sizeBytes: SET_BYTES, seconds: 2 }) as FioJob);

export async function benchTls(): Promise<Row[]> {
  await using scratch = await Scratch.make();
  await using certificates = await Certificates.make();
  await using clearBucket = await DirectoryTestBucket.make();
  await using secureBucket = await DirectoryTestBucket.make();
  const shape = { size: "256M", tcp: true };
  const cachesize = GIB / (64 * KIB);
  await using clear = await Drive.start({ ...shape, bucket: clearBucket, server: { cachesize } });
  const server = { cachesize, ...certificates.server };
  await using secure = await Drive.start({ ...shape, bucket: secureBucket, server });
  const ports = [freePort(), freePort()].map(String);
  const onTcp = (n: number) => ["-i", "127.0.0.1", "-p", ports[n]];
  const tls = ["--tls=require", `--tls-certificates=${certificates.directory}`];
  await using _clearPeer = await startNbdkit(scratch.file("pid0"), onTcp(0));
  await using _securePeer = await startNbdkit(scratch.file("pid1"), [...onTcp(1), ...tls]);
  const uris = [
    ...[`nbd://localhost:${clear.port}`, `nbds://localhost:${secure.port}`],
    ...[`nbd://localhost:${ports[0]}`, `nbds://localhost:${ports[1]}`],
  ];
  for (const uri of uris) await fill(uri);
  const rows: Row[] = [];
  for (const job of JOBS) rows.push(await compare(job, uris));
  for (const drive of [clear, secure]) await drive.stopClean();
  return rows;
}

async function compare(job: FioJob, uris: string[]): Promise<Row> {
  const found: number[][] = uris.map(() => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [n, uri] of uris.entries()) found[n].push(await requestsPerSecond(uri, job));
  }
  const [clear, secure, clearPeer, securePeer] = found.map((values) => Math.round(median(values)));
  const share = (secure: number[], clear: number[]) =>
    median(secure.map((value, round) => value / clear[round])).toFixed(2);
  return {
    what: `${job.work} ${job.blockBytes / KIB} KiB at depth ${job.depth}, cached, in TLS`,
    result:
      `${secure} requests/s, in clear ${clear}: **${
        share(found[1], found[0])
      }** times; nbdkit-memory ` +
      `${securePeer} and ${clearPeer}: ${share(found[3], found[2])} times`,
    target: "no aim: it is what it costs, on one core where nbdkit has all",
    met: true,
  };
}
