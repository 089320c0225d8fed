/**
 * bare.ts ENDPOINT WORK SECONDS: what the drive's own S3 client reaches without a drive; prints a JSON of `Bare`.
 * In a process of its own, so that its processor time can be held against the drive's.
 */
import process from "node:process";
import { S3Bucket } from "../../src/bucket/s3_bucket.ts";
import { systemClock } from "../../src/clock.ts";
import { DOWNLOADS_MAX, GET_BYTES_MAX, GIB, KIB, MIB } from "../../src/limits.ts";
import { silentLogger } from "../../src/logger.ts";
import { FLUSHED_BYTES } from "./paced_flush.ts";

export interface Bare {
  bytes: number;
  requests: number;
  seconds: number;
  p50Ms: number;
  p99Ms: number;
  processorSeconds: number;
  peakBytes: number;
}

export const BARE_BUCKET = "bare";
const SEGMENT_BYTES = 8 * MIB;
const OBJECTS = 8;

/** Requests of so many bytes, so many at once, as many as the drive makes by itself, and what of it is of interest. */
export const BARE_WORKS = {
  "put-8m": { bytes: SEGMENT_BYTES, atOnce: 4, figure: "MB/s" },
  "put-512k": { bytes: FLUSHED_BYTES, atOnce: 1, figure: "ms" },
  "put-4k": { bytes: 4 * KIB, atOnce: 1, figure: "ms" },
  "get-2m": { bytes: GET_BYTES_MAX, atOnce: 8, figure: "MB/s" },
  "get-64k": { bytes: 64 * KIB, atOnce: 1, figure: "ms" },
  "get-64k-32": { bytes: 64 * KIB, atOnce: DOWNLOADS_MAX, figure: "requests/s" },
} as const;
export type BareWork = keyof typeof BARE_WORKS;

if (import.meta.main) {
  const [endpoint, work, seconds] = Deno.args;
  const measured = await measure(endpoint, work as BareWork, Number(seconds));
  Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(measured)));
}

async function measure(endpoint: string, work: BareWork, secondsMax: number): Promise<Bare> {
  const keys = { accessKeyId: "anyaccess", secretAccessKey: "anysecret" };
  const options = { ...keys, endpoint, bucket: BARE_BUCKET, prefix: "", pathStyle: true };
  const bucket = await S3Bucket.open(options, { clock: systemClock, logger: silentLogger });
  const { bytes, atOnce } = BARE_WORKS[work];
  const data = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += 65536) crypto.getRandomValues(data.subarray(at, at + 65536));
  const isPut = work.startsWith("put");
  const request = async (number: number) => {
    if (isPut) return await bucket.put(`${number}`, data, { ifAbsent: true });
    const offset = (number * 7919 * bytes) % (SEGMENT_BYTES - bytes + 1);
    return await bucket.get(`${number % OBJECTS}`, { offset, length: bytes });
  };
  // what is read, and connections; what is put is new, as segments are, and a GiB of it, as the drive is given
  const requestsMax = isPut ? GIB / bytes : Infinity;
  let made = 0;
  const segment = new Uint8Array(isPut ? 0 : SEGMENT_BYTES);
  for (let number = 0; number < OBJECTS && !isPut; number++) await bucket.put(`${number}`, segment);
  await Promise.all(Array.from({ length: atOnce }, () => request(made++)));
  const before = process.cpuUsage();
  const begin = performance.now();
  const elapsed = () => (performance.now() - begin) / 1000;
  const tookMs: number[] = [];
  const one = async () => {
    while (elapsed() < secondsMax && made < requestsMax) {
      const begunMs = performance.now();
      await request(made++);
      tookMs.push(performance.now() - begunMs);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, one));
  const seconds = elapsed();
  const { user, system } = process.cpuUsage(before);
  bucket.close();
  tookMs.sort((a, b) => a - b);
  const at = (share: number) => tookMs[Math.floor(share * (tookMs.length - 1))];
  return {
    bytes: tookMs.length * bytes,
    requests: tookMs.length,
    seconds,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    processorSeconds: (user + system) / 1e6,
    peakBytes: process.memoryUsage.rss(),
  };
}
