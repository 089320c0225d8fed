/** What systemd hears, on a socket like its own. */
import { assertEquals } from "@std/assert";
import { NotifySocket } from "../../../src/linux/notify_socket.ts";
import { ServiceManager } from "../../../src/linux/service_manager.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { NotifyListener } from "../../support/notify_listener.ts";
import { Scratch } from "../../support/scratch.ts";

const EXTEND_START = "EXTEND_TIMEOUT_USEC=60000000";
const EXTEND_STOP = "EXTEND_TIMEOUT_USEC=900000000";

Deno.test("systemd hears of a start that goes on, of READY, of what is not stored, and of a stop that goes on", async () => {
  await using scratch = await Scratch.make();
  const path = scratch.file("notify");
  await using systemd = await NotifyListener.bind(path);
  const clock = new ManualClock();
  using manager = new ServiceManager(clock, new NotifySocket(path));
  assertEquals(await systemd.next(), ["STATUS=opening the volume", EXTEND_START]);
  await clock.advance(5000);
  assertEquals(await systemd.next(), [EXTEND_START]);

  const condition = { status: "all\nstored", isBucketThere: true };
  manager.ready(() => condition);
  assertEquals(await systemd.next(), ["READY=1", "STATUS=all stored"]);
  await clock.advance(5000); // nothing is new, nothing is said
  condition.status = "1 MiB not stored yet";
  await clock.advance(5000);
  assertEquals(await systemd.next(), ["STATUS=1 MiB not stored yet"]);

  manager.stopping(() => condition);
  assertEquals(await systemd.next(), ["STOPPING=1", EXTEND_STOP]);
  await clock.advance(5000);
  assertEquals(await systemd.next(), [EXTEND_STOP]);
  condition.isBucketThere = false; // from here on the unit's limit counts
  await clock.advance(60_000);
  condition.status = "waiting for the bucket";
  await clock.advance(5000);
  assertEquals(await systemd.next(), ["STATUS=waiting for the bucket"]);
  condition.isBucketThere = true;
  await clock.advance(5000);
  assertEquals(await systemd.next(), [EXTEND_STOP]);
});

Deno.test("a watched service gives a sign of life twice as often as it has to, while it serves", async () => {
  const path = `@elasticdrive-test-${crypto.randomUUID()}`;
  await using systemd = await NotifyListener.bind(path);
  const clock = new ManualClock();
  using manager = new ServiceManager(clock, new NotifySocket(path), 3000);
  await systemd.next();
  manager.ready(() => ({ status: "idle", isBucketThere: true }));
  assertEquals(await systemd.next(), ["READY=1", "STATUS=idle", "WATCHDOG=1"]);
  await clock.advance(3000);
  assertEquals(await systemd.next(), ["WATCHDOG=1"]);
  assertEquals(await systemd.next(), ["WATCHDOG=1"]);
});

Deno.test("what is not taken is said again at the next tick, and nothing waits for it", async () => {
  await using scratch = await Scratch.make();
  const path = scratch.file("notify");
  const clock = new ManualClock();
  using manager = new ServiceManager(clock, new NotifySocket(path)); // to nobody yet
  manager.ready(() => ({ status: "idle", isBucketThere: true }));
  await using systemd = await NotifyListener.bind(path);
  await clock.advance(5000);
  assertEquals(await systemd.next(), ["READY=1", "STATUS=idle"]);
});
