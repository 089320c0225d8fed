/** The order of changes when one client's connection dies and its successor goes on, over a real volume. */
import { assertEquals } from "@std/assert";
import { NBD_CMD_FLUSH, NBD_CMD_TRIM, NBD_CMD_WRITE } from "../../../src/nbd/constants.ts";
import { silentLogger } from "../../../src/logger.ts";
import { NbdServer } from "../../../src/nbd/server.ts";
import { systemClock } from "../../../src/clock.ts";
import { settle } from "../../support/manual_clock.ts";
import { MemoryListener } from "../../support/memory_conn.ts";
import { blocks, openVolume, readBytes, reopenAfterCrash } from "../volume/open_volume.ts";
import { Client, request, test, until } from "./session.ts";

const BLOCK_BYTES = 4096;

test("a write of a dead connection that waits for S3 comes before its successor's, and a flush stores both", async () => {
  const first = await openVolume();
  first.volume.write(0, blocks(8, 1));
  await first.volume.flush();
  const opened = await reopenAfterCrash(first);
  const { volume, bucket } = opened;
  const listener = new MemoryListener();
  const server = new NbdServer(volume, {
    exportName: "",
    description: "",
    clock: systemClock,
    logger: silentLogger,
  });
  server.serve(listener as unknown as Deno.Listener);
  const attach = async () => {
    const client = new Client(listener.connect() as unknown as Deno.Conn);
    await client.handshake();
    return client;
  };
  bucket.hold("get");

  const dead = await attach();
  // parts of blocks: both have to be fetched first
  await dead.send(request({ type: NBD_CMD_WRITE, offset: 10, length: BLOCK_BYTES }));
  await dead.send(new Uint8Array(BLOCK_BYTES).fill(2));
  await bucket.untilHeld(1);
  dead.close();
  await settle();

  const successor = await attach();
  // what the kernel sends once more, then something newer, a trim, and a flush
  await successor.send(
    request({ type: NBD_CMD_WRITE, offset: 10, length: BLOCK_BYTES, cookie: 1n }),
  );
  await successor.send(new Uint8Array(BLOCK_BYTES).fill(2));
  await successor.send(request({ type: NBD_CMD_WRITE, offset: 0, length: 20, cookie: 2n }));
  await successor.send(new Uint8Array(20).fill(3));
  const trim = { type: NBD_CMD_TRIM, offset: BLOCK_BYTES, length: BLOCK_BYTES };
  await successor.send(request({ ...trim, cookie: 3n }));
  await until(() => server.inFlightRequests === 4, "all four wait");
  bucket.release("get");
  await successor.replies(new Map([[1n, 0], [2n, 0], [3n, 0]]));
  await until(() => server.connections === 1, "the dead connection is gone");
  assertEquals((await successor.call({ type: NBD_CMD_FLUSH })).errno, 0);
  successor.close();
  await server.close();

  const after = await reopenAfterCrash(opened);
  const found = await readBytes(after.volume, 0, 2 * BLOCK_BYTES);
  assertEquals([found[0], found[19], found[20], found[BLOCK_BYTES - 1]], [3, 3, 2, 2]);
  assertEquals(found.subarray(BLOCK_BYTES), new Uint8Array(BLOCK_BYTES));
  after.volume.abandon();
});
