/** What requests are counted as, seen by a client that knows what it has sent. */
import { assertEquals } from "@std/assert";
import { OperationCounts } from "../../../src/counters.ts";
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
} from "../../../src/nbd/constants.ts";
import { RequestCounts } from "../../../src/nbd/request_counts.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { pattern, request, serving, test, until } from "./session.ts";

/** [requests, errors, bytes, requests in the histogram] */
function figures({ requests, errors, bytes, latency }: OperationCounts): number[] {
  return [requests, errors, bytes, latency.counts.reduce((sum, count) => sum + count, 0)];
}

test("each command is counted under its name, with its bytes; what fails as an error without them", async () => {
  const clock = new ManualClock();
  const counts = new RequestCounts(clock);
  await serving(async ({ attachStructured, server }) => {
    const client = await attachStructured();
    const ask = (type: number, offset: number, length: number) =>
      client.chunks({ type, offset, length });
    await client.call({ type: NBD_CMD_WRITE, length: 8192 }, pattern(8192));
    await client.call({ type: NBD_CMD_WRITE, length: 512 }, pattern(512));
    await ask(NBD_CMD_READ, 0, 4096);
    await ask(NBD_CMD_READ, 2 ** 40, 4096);
    await client.call({ type: NBD_CMD_FLUSH });
    await client.call({ type: NBD_CMD_TRIM, length: 4096 });
    await client.call({ type: NBD_CMD_WRITE_ZEROES, length: 4096 });
    await client.call({ type: NBD_CMD_CACHE, length: 4096 });
    await ask(NBD_CMD_BLOCK_STATUS, 0, 4096);
    await ask(99, 0, 4096);
    await until(() => counts.blockStatus.requests === 1, "the last turn to be counted");
    assertEquals(figures(counts.write), [2, 0, 8704, 2]);
    assertEquals(figures(counts.read), [2, 1, 4096, 2]);
    for (const one of [counts.flush, counts.trim, counts.writeZeroes, counts.cache]) {
      assertEquals(figures(one), [1, 0, 0, 1]);
    }
    assertEquals(figures(counts.blockStatus), [1, 0, 0, 1]);
    assertEquals(server.clients(), [{
      address: "unix",
      connectedAtMs: clock.startMs,
      isTls: false,
      inFlight: 0,
      readBytes: 4096,
      writtenBytes: 8704,
    }]);
  }, { clock, counts });
});

test("what the device has to be waited for took the time it took, from its arrival on", async () => {
  const clock = new ManualClock();
  const counts = new RequestCounts(clock);
  await serving(async ({ attach, device, server }) => {
    const client = await attach();
    device.holds = () => true;
    await client.send(request({ type: NBD_CMD_READ, cookie: 5n, length: 4096 }));
    await until(() => server.inFlightRequests === 1, "the read to wait");
    assertEquals([server.clients()[0].inFlight, counts.read.requests], [1, 0]);
    await clock.advance(70);
    device.releaseAll();
    await client.reply(4096);
    await until(() => server.inFlightRequests === 0, "the read to end");
    assertEquals(figures(counts.read), [1, 0, 4096, 1]);
    assertEquals(counts.read.latency.seconds, 0.07);

    await client.send(request({ type: NBD_CMD_WRITE, length: 512 }), pattern(512));
    await until(() => server.inFlightRequests === 1, "the write to wait");
    device.failHeld(new Error("lost"));
    await client.reply();
    await until(() => server.inFlightRequests === 0, "the write to end");
    assertEquals(figures(counts.write), [1, 1, 0, 1]);
  }, { clock, counts });
});
