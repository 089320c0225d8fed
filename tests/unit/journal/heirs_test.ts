/** Whose journal the next writer has, when starts die before they serve, other writers come in between, or none has died. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { join } from "node:path";
import type { Bucket } from "../../../src/bucket/bucket.ts";
import { UsageError } from "../../../src/errors.ts";
import { JournalFolder } from "../../../src/journal/journal_folder.ts";
import { JournaledDevice } from "../../../src/journal/journaled_device.ts";
import { silentLogger } from "../../../src/logger.ts";
import type { Volume } from "../../../src/volume/volume.ts";
import { ManualClock } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { Scratch } from "../../support/scratch.ts";
import { blocks, hostNamed, openVolume, readBytes } from "../volume/open_volume.ts";

/** A process that has the volume open and serves it. */
interface Server {
  volume: Volume;
  journaled: JournaledDevice;
}

/** A machine on which processes open a volume, one after the other. */
class Machine {
  readonly folder: JournalFolder;
  readonly #processes: Server[] = [];

  constructor(
    readonly path: string,
    readonly bucket = new MemoryBucket(),
    readonly clock = new ManualClock(),
    readonly name = "here",
  ) {
    this.folder = new JournalFolder(path, 0);
  }

  /** A start up to where it is to have its journal. */
  async open(bucket: Bucket = this.bucket, hasJournal = true): Promise<Volume> {
    const { folder, clock } = this;
    const journals = hasJournal ? folder : undefined;
    const host = { ...hostNamed(this.name), isGone: () => true };
    return (await openVolume({}, { bucket, clock, host, journals })).volume;
  }

  /** Opens the volume, makes the journal's changes again, and serves. */
  async start(): Promise<Server> {
    const volume = await this.open();
    const { info, epoch, unbrokenSince } = volume;
    const { path, files } = this.folder.adopt(info.uuid, epoch, unbrokenSince);
    const journaled = new JournaledDevice(volume, path, files, {
      bytesMax: 1 << 20,
      fileBytesMax: 1 << 16,
      logger: silentLogger,
    });
    const server = { volume, journaled };
    this.#processes.push(server);
    await journaled.replay();
    return server;
  }

  /**
   * A start that dies at a request of its opening, which may take effect all the same, or at the end of the opening if it
   * makes fewer. Returns whether it did.
   */
  async startAndDie(requests: number, takesEffect: boolean): Promise<boolean> {
    const death = Promise.withResolvers<"dead">();
    const dies = () => new Promise<never>(() => death.resolve("dead"));
    const ask = <T>(request: () => Promise<T>): Promise<T> => {
      if (--requests > 0) return request();
      return requests === 0 && takesEffect ? request().then(dies, dies) : dies();
    };
    const { bucket } = this;
    const opening = this.open({
      name: bucket.name,
      get: (key, range) => ask(() => bucket.get(key, range)),
      put: (key, bytes, condition) => ask(() => bucket.put(key, bytes, condition)),
      delete: (keys) => ask(() => bucket.delete(keys)),
      list: (prefix, startAfter) => ask(() => bucket.list(prefix, startAfter)),
      close() {},
    });
    const end = await Promise.race([opening, death.promise]);
    if (end === "dead") return false;
    end.abandon();
    return true;
  }

  die({ volume, journaled }: Server): void {
    volume.abandon();
    journaled.abandon();
  }

  [Symbol.dispose](): void {
    this.#processes.forEach(this.die);
  }
}

/** The first bytes of the first three blocks. */
async function disk({ volume }: Server): Promise<number[]> {
  const bytes = await readBytes(volume, 0, 3 * 4096);
  return [bytes[0], bytes[4096], bytes[8192]];
}

for (const takesEffect of [true, false]) {
  const what = `a request that ${takesEffect ? "takes effect" : "does not arrive"}`;
  Deno.test(`a start that dies at any point of its opening, at ${what}, leaves the journal to the next`, async () => {
    for (let requests = 1, hasOpened = false; !hasOpened; requests++) {
      await using scratch = await Scratch.make();
      using machine = new Machine(scratch.path);
      const first = await machine.start();
      first.journaled.write(0, blocks(2, 1));
      await first.journaled.flush();
      first.journaled.write(4096, blocks(2, 2));
      machine.die(first);
      for (let starts = 0; starts < 3; starts++) {
        hasOpened = await machine.startAndDie(requests, takesEffect);
      }
      const next = await machine.start();
      assertEquals(await disk(next), [1, 2, 2], `they died at request ${requests}`);
      assertEquals(next.volume.unbrokenSince, first.volume.unbrokenSince, `${requests}`);
    }
  });
}

Deno.test("starts that die after a clean stop do not have the kernel cut off", async () => {
  for (let requests = 1, hasOpened = false; !hasOpened; requests++) {
    await using scratch = await Scratch.make();
    using machine = new Machine(scratch.path);
    const first = await machine.start();
    first.journaled.write(0, blocks(3, 1));
    await first.volume.close();
    if (requests % 2 === 0) first.journaled.end(); // else it dies before
    for (let starts = 0; starts < 2; starts++) {
      hasOpened = await machine.startAndDie(requests, true);
    }
    const next = await machine.start();
    assertEquals(await disk(next), [1, 1, 1]);
    assertEquals(next.volume.unbrokenSince, first.volume.unbrokenSince, `${requests}`);
  }
});

Deno.test("a journal is of no use once anybody else has had the volume, before or after a start that died", async () => {
  const others: Record<string, (here: Machine, there: Machine) => Promise<unknown>> = {
    "another machine, which stores something": async (_, there) => {
      const { journaled, volume } = await there.start();
      journaled.write(0, blocks(1, 9));
      await volume.close();
    },
    "another machine, which only looks": async (_, there) => {
      const { volume } = await there.start();
      await volume.close();
    },
    "another machine, which dies with what it has written": async (_, there) => {
      const server = await there.start();
      server.journaled.write(0, blocks(1, 9));
      there.die(server);
    },
    "another machine's start, which dies": (_, there) => there.startAndDie(Infinity, true),
    "a process without a journal": async (here) => {
      (await here.open(here.bucket, false)).abandon();
    },
    "one that was named, and has stored something": async (here) => {
      const volume = await here.open();
      volume.write(0, blocks(1, 9));
      await volume.flush();
      volume.abandon();
    },
  };
  for (const [what, has] of Object.entries(others)) {
    for (const [before, after] of [[0, 0], [0, 2], [2, 0], [1, 1]]) {
      await using scratch = await Scratch.make();
      await using otherScratch = await Scratch.make();
      const { bucket, clock } = new Machine(scratch.path);
      using here = new Machine(scratch.path, bucket, clock);
      using there = new Machine(otherScratch.path, bucket, clock, "there");
      const first = await here.start();
      first.journaled.write(0, blocks(1, 1));
      await first.journaled.flush();
      first.journaled.write(0, blocks(3, 2));
      here.die(first);
      for (let starts = 0; starts < before; starts++) await here.startAndDie(Infinity, true);
      await has(here, there);
      for (let starts = 0; starts < after; starts++) await here.startAndDie(Infinity, true);
      const next = await here.start();
      const found = await disk(next);
      assert(found[1] === 0 && found[2] === 0, `${what}: ${found}`);
      assertEquals(next.volume.unbrokenSince, next.volume.epoch, what);
    }
  }
});

Deno.test("who serves is named no more, nor is anybody before it", async () => {
  await using scratch = await Scratch.make();
  using machine = new Machine(scratch.path);
  await machine.startAndDie(Infinity, true);
  const { volume } = await machine.start();
  const names = [...Deno.readDirSync(join(scratch.path, volume.info.uuid))].map(({ name }) => name);
  assertEquals(names, [`${volume.epoch}.${volume.unbrokenSince}`]);
});

Deno.test("names of an earlier boot lead to no journal, and one that has vanished ends the start", async () => {
  await using scratch = await Scratch.make();
  const uuid = "00000000-0000-4000-8000-000000000001";
  const folder = new JournalFolder(scratch.path, 0);
  folder.adopt(uuid, 3, 3);
  folder.announce(uuid, "a");
  const rebooted = new JournalFolder(scratch.path, Date.now() + 60_000);
  assertEquals(rebooted.inherit(uuid, 4, ["a"]), undefined);
  assertEquals([folder.inherit(uuid, 4, ["b"]), folder.inherit(uuid, 5, ["a"])], [
    undefined,
    undefined,
  ]);
  assertEquals(folder.inherit(uuid, 5, ["x", "a", "a"]), 3);
  Deno.removeSync(join(scratch.path, uuid), { recursive: true });
  assertThrows(() => folder.adopt(uuid, 6, 3), UsageError, "the journal of epoch 5 is gone");
});
