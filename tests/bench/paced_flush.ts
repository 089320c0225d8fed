/**
 * How long a flush takes while others write, all the time and no faster than they are told: what comes together
 * between two flushes is half a MiB.
 */
import { KIB } from "../../src/limits.ts";
import { run } from "../support/programs.ts";
import { type Done, runFio } from "./fio.ts";
import type { Contender } from "./contenders.ts";

const WRITE_BYTES = 4 * KIB;
const WRITES_PER_SECOND = 1280;
const EVERY_MS = 100;
export const FLUSHED_BYTES = WRITES_PER_SECOND * EVERY_MS / 1000 * WRITE_BYTES;
/** fio's, and Python's with libnbd, one after the other. */
const START_S = 0.5;

/** Writes 4 KiB and flushes, every so many ms for so long; prints how many ms each took. */
const METER = `
import json, nbd, os, sys, time
uri, seconds, every = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]) / 1000
drive = nbd.NBD()
drive.connect_uri(uri)
took = []
due = time.monotonic()
end = due + seconds
while due < end:
    time.sleep(max(0, due - time.monotonic()))
    begin = time.monotonic()
    drive.pwrite(os.urandom(4096), len(took) % 256 * 4096)
    drive.flush()
    took.append((time.monotonic() - begin) * 1000)
    due = max(due + every, time.monotonic())
drive.shutdown()
print(json.dumps(took))
`;

/** The times are of a write and the flush behind it; the bytes are everyone's. */
export async function flushBesideWrites(
  { uri }: Contender,
  secondsMax: number,
  deadlineS: number,
): Promise<Done> {
  const others = runFio(uri, [
    ...["rw=randwrite", `bs=${WRITE_BYTES}`, "iodepth=32", "size=256m", "randrepeat=0"],
    ...[`rate_iops=${WRITES_PER_SECOND}`, "time_based=1", `runtime=${secondsMax + START_S}`],
  ], deadlineS);
  const meter = run("/usr/bin/python3", ["-c", METER, uri, `${secondsMax}`, `${EVERY_MS}`], {
    deadlineS,
  });
  const [written, printed] = await Promise.all([others, meter]);
  const took: number[] = JSON.parse(printed).toSorted((a: number, b: number) => a - b);
  const at = (share: number) => took[Math.floor(share * (took.length - 1))];
  return {
    ...written,
    bytes: written.bytes + took.length * WRITE_BYTES,
    requests: written.requests + took.length,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
  };
}
