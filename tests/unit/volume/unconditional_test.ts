/** A volume in a store that ignores or refuses conditional PUTs. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { ConditionalBucket } from "../../../src/bucket/conditional_bucket.ts";
import { FencedError, UsageError } from "../../../src/errors.ts";
import { LEASE_EXPIRED_MS, LEASE_RENEW_MS } from "../../../src/limits.ts";
import { LEASE_KEY } from "../../../src/volume/lease.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { blocks, firstBytes, hostNamed, openVolume, rememberingLogger } from "./open_volume.ts";

const here = hostNamed("here");
const there = hostNamed("there");

const STORES: [string, Partial<MemoryBucket["conditions"]>][] = [
  ["If-None-Match and If-Match", { ifAbsent: "ignored", ifMatch: "ignored" }],
  ["If-None-Match and If-Match", { ifAbsent: "refused", ifMatch: "refused" }],
  ["If-Match", { ifMatch: "refused" }],
];

/** What every program finds: a bucket of its own, which has to find out for itself, over one store. */
function storeWith(conditions: Partial<MemoryBucket["conditions"]>) {
  const store = new MemoryBucket();
  Object.assign(store.conditions, conditions);
  return { store, open: () => new ConditionalBucket(store) };
}

Deno.test("a volume is made, warned about in one line, and there again after a crash", async () => {
  for (const [missing, conditions] of STORES) {
    const { open } = storeWith(conditions);
    const logger = rememberingLogger();
    const { volume, clock } = await openVolume({}, { bucket: open(), logger, host: here });
    assertEquals(logger.warnings.length, 1);
    assertStringIncludes(logger.warnings[0], `conditional PUTs (${missing}):`);
    volume.write(0, blocks(1, 1));
    await volume.flush();
    volume.abandon();
    const { volume: next } = await openVolume({}, { bucket: open(), clock, host: here });
    assertEquals([await firstBytes(next, 0, 1), next.epoch], [[1], 2]);
    await next.close();
  }
});

Deno.test("a second start is refused while the lease is fresh, and changes nothing", async () => {
  for (const [, conditions] of STORES) {
    const { store, open } = storeWith(conditions);
    const { volume, clock } = await openVolume({}, { bucket: open(), host: here });
    await clock.advance(3 * LEASE_EXPIRED_MS); // it is renewed
    const before = new Map(store.objects);
    await assertRejects(() => openVolume({}, { bucket: open(), clock, host: there }), UsageError);
    assertEquals(store.objects, before);
    volume.abandon();
  }
});

Deno.test("a writer that was taken over is fenced by what it sees when it looks", async () => {
  for (const [, conditions] of STORES) {
    const { open } = storeWith(conditions);
    const first = await openVolume({}, { bucket: open(), host: here });
    const { volume: second } = await openVolume({ takeover: true }, {
      bucket: open(),
      host: there,
    });
    second.write(0, blocks(1, 2));
    await second.flush();
    first.volume.write(0, blocks(1, 1));
    await assertRejects(async () => await first.volume.flush(), FencedError);
    assertEquals(await firstBytes(second, 0, 1), [2]);
    second.abandon();
  }
});

Deno.test("of two that start in the same instant one is left, at the latest when the lease is renewed", async () => {
  for (const [, conditions] of STORES) {
    const { store, open } = storeWith(conditions);
    (await openVolume({}, { bucket: open(), host: here })).volume.abandon();
    store.objects.delete(LEASE_KEY);
    const clock = new ManualClock();
    const starts = await Promise.allSettled(
      [here, there].map((host) => openVolume({}, { bucket: open(), host, clock })),
    );
    await clock.advance(2 * LEASE_RENEW_MS);
    const alive = starts.filter((start) =>
      start.status === "fulfilled" && start.value.failures.length === 0
    );
    assertEquals(alive.length, 1);
    for (const start of starts) if (start.status === "fulfilled") start.value.volume.abandon();
  }
});
