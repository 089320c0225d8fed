/**
 * A server from source, on a volume in memory, that counts its requests or does not: `counting_server.ts SOCKET
 * counted|uncounted`. Says "ready" on stdout, and ends when it is killed.
 */
import { systemChance, systemClock } from "../../src/clock.ts";
import { MIB } from "../../src/limits.ts";
import { silentLogger } from "../../src/logger.ts";
import { ConnectionCounts, RequestCounts } from "../../src/nbd/request_counts.ts";
import { listenUnix, NbdServer } from "../../src/nbd/server.ts";
import { Volume } from "../../src/volume/volume.ts";
import { MemoryBucket } from "../support/memory_bucket.ts";
import { hostNamed, OPTIONS } from "../unit/volume/open_volume.ts";

class NothingCounted extends ConnectionCounts {
  override arrived(): void {}
  override answered(): void {}
  override turnEnds(): void {}
}

class Uncounted extends RequestCounts {
  override connection(): ConnectionCounts {
    return new NothingCounted(this);
  }
}

const [path, kind] = Deno.args;
const around = { clock: systemClock, logger: silentLogger };
const volume = await Volume.open(
  { ...OPTIONS, stripeBytes: 65_536, volumeBytes: 256 * MIB, cacheStripes: 1024 },
  {
    ...around,
    bucket: new MemoryBucket(),
    chance: systemChance,
    host: hostNamed("bench"),
    onFailure: (error) => {
      throw error;
    },
  },
);
// what is read is in the cache
await volume.write(0, new Uint8Array(MIB).fill(1));
const server = new NbdServer(volume, {
  ...around,
  exportName: "bench",
  description: "",
  counts: kind === "counted" ? new RequestCounts(systemClock) : new Uncounted(systemClock),
});
server.serve(await listenUnix(path));
Deno.stdout.writeSync(new TextEncoder().encode("ready\n"));
