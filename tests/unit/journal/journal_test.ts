import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { join } from "node:path";
import { DamageError, TimeoutError } from "../../../src/errors.ts";
import { JournalFolder } from "../../../src/journal/journal_folder.ts";
import { JournaledDevice, type JournalOptions } from "../../../src/journal/journaled_device.ts";
import { silentLogger } from "../../../src/logger.ts";
import type { Volume } from "../../../src/volume/volume.ts";
import { ManualClock, settle } from "../../support/manual_clock.ts";
import { MemoryBucket } from "../../support/memory_bucket.ts";
import { MemoryDevice } from "../../support/memory_device.ts";
import { Scratch } from "../../support/scratch.ts";
import { blocks, openVolume, readBytes } from "../volume/open_volume.ts";

const KIB = 1024;
const UUID = "00000000-0000-4000-8000-000000000001";
const OPTIONS: JournalOptions = {
  bytesMax: 1024 * KIB,
  fileBytesMax: 64 * KIB,
  logger: silentLogger,
};

/** What the processes of one machine have together: a folder, and how to go on as epoch 1, 2, ... */
interface Machine {
  root: string;
  folder: JournalFolder;
  /** The device of an epoch, with the journal of the one before, if there is any, replayed. */
  start(device: MemoryDevice, epoch: number, more?: Partial<JournalOptions>): Promise<Started>;
}

interface Started {
  journaled: JournaledDevice;
  replayed: number;
  /** Names in the volume's folder. */
  names(): string[];
  /** Numbers of the files of this epoch. */
  files(): number[];
}

async function onMachine(body: (machine: Machine) => Promise<void>): Promise<void> {
  await using scratch = await Scratch.make();
  const root = scratch.path;
  const folder = new JournalFolder(root, 0);
  const started: JournaledDevice[] = [];
  const list = (path: string) => [...Deno.readDirSync(path)].map((entry) => entry.name);
  const start = async (device: MemoryDevice, epoch: number, more = {}) => {
    const { path, files } = folder.adopt(
      UUID,
      epoch,
      folder.inherit(UUID, epoch - 1, []) ?? epoch,
    );
    const journaled = new JournaledDevice(device, path, files, { ...OPTIONS, ...more });
    started.push(journaled);
    const replayed = await journaled.replay();
    return {
      journaled,
      replayed,
      names: () => list(join(root, UUID)),
      files: () => list(path).map(Number).toSorted((a, b) => a - b),
    };
  };
  await body({ root, folder, start });
  for (const journaled of started) journaled.abandon();
}

/** A device that holds every flush until it is let go, as a bucket that is away would. */
function withoutBucket(): MemoryDevice {
  const device = new MemoryDevice(1024 * KIB);
  device.holds = (verb) => verb === "flush";
  return device;
}

Deno.test("what a dead process acknowledged and did not store is made again, in order, by the next", () =>
  onMachine(async ({ folder, start }) => {
    const first = withoutBucket();
    const { journaled } = await start(first, 1);
    journaled.write(4096, blocks(3, 1));
    journaled.flush();
    journaled.write(8192 + 7, new Uint8Array(5).fill(2));
    journaled.trim(0, 8192 + 7);
    assertEquals([first.bytes[8191], first.bytes[8192]], [0, 1], "a part of a block stays");
    journaled.zero(8192 + 9, 1);
    journaled.write(500 * KIB, new Uint8Array(200 * KIB).fill(3));
    assertEquals(folder.inherit(UUID, 1, []), 1);

    const second = withoutBucket();
    const next = await start(second, 2);
    assertEquals(next.replayed, 5);
    assertEquals(second.bytes, first.bytes);
    assertEquals([folder.inherit(UUID, 1, []), folder.inherit(UUID, 2, [])], [undefined, 1]);

    // it dies before it could store anything: the one after makes the same changes
    const third = new MemoryDevice(1024 * KIB);
    assertEquals((await start(third, 3)).replayed, 5);
    assertEquals(third.bytes, first.bytes);
    first.releaseAll();
    second.releaseAll();
  }));

Deno.test("what is made again waits for the bucket as long as it takes, whatever a client's time limit is", () =>
  onMachine(async ({ start }) => {
    const { journaled } = await start(withoutBucket(), 1);
    for (const value of [1, 2]) journaled.write(7, new Uint8Array(5).fill(value));
    const device = new MemoryDevice(1024 * KIB);
    device.holds = (verb) => verb === "write";
    const next = start(device, 2);
    await device.untilHeld(1);
    device.failHeld(new TimeoutError("no answer"));
    await device.untilHeld(1);
    device.holds = () => false;
    device.release();
    assertEquals([(await next).replayed, device.bytes[7]], [2, 2]);
  }));

Deno.test("a change that can't be made again is named, and what it takes to start without", () =>
  onMachine(async ({ start }) => {
    const { journaled } = await start(withoutBucket(), 1);
    journaled.write(7, new Uint8Array(5));
    for (const epoch of [2, 3]) {
      const device = new MemoryDevice(1024 * KIB);
      device.holds = (verb) => verb === "write";
      const next = start(device, epoch);
      await device.untilHeld(1);
      device.failHeld(new DamageError("log/0000000002 at offset 100: record is damaged"));
      const { message } = await assertRejects(() => next, DamageError);
      assertMatch(
        message,
        /^the journal in \/.*\.1 has a change of 5 bytes at 7 that can't be made/,
      );
      assertMatch(message, /log\/0000000002 at offset 100.*journal = off.*not stored.* is lost/);
    }
  }));

Deno.test("a file goes when all in it is stored, the oldest first, and nothing is left after the end", () =>
  onMachine(async ({ start }) => {
    const device = withoutBucket();
    const { journaled, files, names } = await start(device, 1);
    journaled.write(0, blocks(1, 1));
    assertEquals(files(), [1]);
    const flushed = journaled.flush();
    journaled.write(0, blocks(1, 2));
    void journaled.flush();
    void journaled.flush(); // nothing to record: no file of its own
    journaled.write(0, blocks(1, 3));
    assertEquals(files(), [1, 2, 3]);
    device.releaseAll();
    await flushed;
    await settle();
    assertEquals(files(), [3]);
    journaled.end();
    assertEquals(names(), []);
  }));

Deno.test("a change that waits keeps its file until it is made and stored", () =>
  onMachine(async ({ start }) => {
    const device = new MemoryDevice(1024 * KIB);
    device.holds = (verb) => verb === "write";
    const { journaled, files } = await start(device, 1);
    const waiting = journaled.write(0, blocks(1, 1));
    await journaled.flush();
    await settle();
    assertEquals(files(), [1, 2]);
    device.release();
    await waiting;
    await settle();
    assertEquals(files(), [2]);
  }));

Deno.test("a full file is followed by another and stored unasked, and a time-out of the flush is tried again", () =>
  onMachine(async ({ start }) => {
    const device = withoutBucket();
    const { journaled, files } = await start(device, 1);
    for (let at = 0; at < 20; at++) journaled.write(at * 4096, blocks(1, at));
    assertEquals(files(), [1, 2]);
    await device.untilHeld(1);
    device.failHeld(new TimeoutError("no answer"));
    await device.untilHeld(1);
    assertEquals(files(), [1, 2]);
    device.release();
    await settle();
    assertEquals(files(), [2]);
  }));

Deno.test("the change that fills a file, or is too much for the journal, is stored before either is done with", () =>
  onMachine(async ({ folder, start }) => {
    for (const [epoch, limits] of [{ fileBytesMax: 64 * KIB }, { bytesMax: 64 * KIB }].entries()) {
      const device = new MemoryDevice(1024 * KIB);
      const { journaled, files, names } = await start(device, 2 * epoch + 1, limits);
      const isDealtWith = () =>
        names().every((name) => !name.endsWith("incomplete")) && files()[0] > 1;
      for (let at = 0; at < 15; at++) journaled.write(at * 4096, blocks(1, at));
      device.record = true;
      device.holds = (verb) => verb === "write";
      const waiting = journaled.write(15 * 4096, blocks(1, 15));
      await settle();
      assertEquals([device.calls, isDealtWith()], [["write 61440 4096"], false]);
      device.holds = () => false;
      device.release();
      await waiting;
      await settle();
      assertEquals([device.calls, isDealtWith()], [["write 61440 4096", "flush 0 0"], true]);
      assertEquals(folder.inherit(UUID, 2 * epoch + 1, []), 2 * epoch + 1);
    }
  }));

Deno.test("a journal that grows too large is trusted no more, until what it lacks is stored", () =>
  onMachine(async ({ folder, start }) => {
    const device = withoutBucket();
    const warnings: string[] = [];
    const logger = { ...silentLogger, warn: (text: string) => void warnings.push(text) };
    const { journaled } = await start(device, 1, { bytesMax: 100 * KIB, logger });
    for (let times = 0; times < 30; times++) journaled.write(0, blocks(1, times));
    assertEquals(warnings.length, 1);
    assertEquals(folder.inherit(UUID, 1, []), undefined);
    device.holds = () => false;
    device.releaseAll();
    await settle();
    assertEquals(folder.inherit(UUID, 1, []), 1);
    journaled.write(4096, blocks(1, 77));
    const next = new MemoryDevice(1024 * KIB);
    await start(next, 2);
    assertEquals(next.bytes.subarray(4096, 8192), device.bytes.subarray(4096, 8192));
  }));

Deno.test("a journal that can't be written fails no request, and is trusted no more", () =>
  onMachine(async ({ root, folder, start }) => {
    const device = withoutBucket();
    const { journaled } = await start(device, 1);
    journaled.write(0, blocks(1, 1));
    await Deno.remove(join(root, UUID), { recursive: true });
    journaled.flush(); // the next file has no folder
    journaled.write(0, blocks(1, 2));
    assertEquals(device.bytes[0], 2);
    assertEquals(folder.inherit(UUID, 1, []), undefined);
    device.releaseAll();
  }));

Deno.test("a journal that can't be given another name when it is given up is trusted no more all the same", () =>
  onMachine(async ({ root, start }) => {
    const folder = new JournalFolder(root, 1);
    const device = withoutBucket();
    const { journaled } = await start(device, 1, { bytesMax: 8 * KIB });
    assertEquals(folder.inherit(UUID, 1, []), 1);
    await Deno.mkdir(join(root, UUID, "1.1.incomplete", "occupied"), { recursive: true });
    for (let times = 0; times < 3; times++) journaled.write(0, blocks(1, times));
    assertEquals(folder.inherit(UUID, 1, []), undefined);
    assertEquals(device.bytes[0], 2);
    device.releaseAll();
  }));

Deno.test("a journal that was emptied, or given up and begun anew, has all its room again", () =>
  onMachine(async ({ start }) => {
    const device = new MemoryDevice(1024 * KIB);
    const warnings: string[] = [];
    const logger = { ...silentLogger, warn: (text: string) => void warnings.push(text) };
    const { journaled } = await start(device, 1, { bytesMax: 100 * KIB, logger });
    const write = async (count: number) => {
      for (let times = 0; times < count; times++) journaled.write(0, blocks(1, times));
      await journaled.flush();
      await settle();
    };
    for (let round = 0; round < 10; round++) await write(12);
    assertEquals(warnings.length, 0);
    device.holds = (verb) => verb === "flush";
    for (let times = 0; times < 30; times++) journaled.write(0, blocks(1, times));
    assertEquals(warnings.length, 1);
    device.holds = () => false;
    device.releaseAll();
    await settle();
    for (let round = 0; round < 10; round++) await write(12);
    assertEquals(warnings.length, 1);
  }));

Deno.test("an old file stays until those before it are gone, though its own changes are stored", () =>
  onMachine(async ({ start }) => {
    const device = withoutBucket();
    const { journaled, files } = await start(device, 1, { fileBytesMax: 4 * KIB });
    journaled.write(0, blocks(1, 1));
    journaled.write(0, blocks(1, 2));
    assertEquals(files(), [1, 2, 3]);
    device.failHeld(new TimeoutError("no answer"));
    device.release(); // what the second file waits for
    await settle();
    assertEquals([device.heldCount, files()], [1, [1, 2, 3]]);
    device.release();
    await settle();
    assertEquals(files(), [3]);
  }));

Deno.test("a record that the file system takes piece by piece is whole all the same", () =>
  onMachine(async ({ start }) => {
    const { journaled } = await start(withoutBucket(), 1);
    const { prototype } = Deno.FsFile;
    const { writeSync } = prototype;
    prototype.writeSync = function (bytes) {
      return writeSync.call(this, bytes.subarray(0, 1000));
    };
    try {
      for (const value of [1, 2]) journaled.write(value * 4096, blocks(1, value));
    } finally {
      prototype.writeSync = writeSync;
    }
    const device = new MemoryDevice(1024 * KIB);
    assertEquals((await start(device, 2)).replayed, 2);
    assertEquals(
      device.bytes.subarray(4096, 12288),
      Uint8Array.from([...blocks(1, 1), ...blocks(1, 2)]),
    );
  }));

Deno.test("a record cut short by the end of its process was never acknowledged, and is left out", () =>
  onMachine(async ({ root, start }) => {
    const { journaled } = await start(withoutBucket(), 1);
    journaled.write(0, blocks(1, 1));
    journaled.write(4096, blocks(1, 2));
    const path = join(root, UUID, "1.1", "1");
    const bytes = await Deno.readFile(path);
    for (const length of [bytes.length - 1, bytes.length - 4096, bytes.length - 4097]) {
      const folder = join(root, `cut-${length}`);
      await Deno.mkdir(folder);
      await Deno.writeFile(join(folder, "1"), bytes.subarray(0, length));
      const device = new MemoryDevice(1024 * KIB);
      const next = new JournaledDevice(device, folder, [1], OPTIONS);
      const replayed = await next.replay();
      next.abandon();
      assertEquals([replayed, device.bytes[0], device.bytes[4096]], [1, 1, 0]);
    }
  }));

Deno.test("a journal counts for the next epoch only, and only until the machine is started again", () =>
  onMachine(async ({ root, start, folder }) => {
    const { journaled } = await start(withoutBucket(), 1);
    journaled.write(0, blocks(1, 1));
    assertEquals(folder.inherit(UUID, 2, []), undefined, "somebody else had epoch 2");
    const rebooted = new JournalFolder(root, Date.now() + 60_000);
    assertEquals(rebooted.inherit(UUID, 1, []), undefined);
    const device = new MemoryDevice(1024 * KIB);
    const late = await start(device, 4);
    assertEquals([late.replayed, device.bytes[0], late.names()], [0, 0, ["4.4"]]);
  }));

Deno.test("a volume whose process dies is whole and unbroken with its journal, and neither without", () =>
  onMachine(async ({ folder }) => {
    const bucket = new MemoryBucket();
    const open = async (isKept: boolean) => {
      const journals = isKept ? folder : undefined;
      const { volume } = await openVolume({}, { bucket, journals });
      const { info, epoch, unbrokenSince } = volume;
      const { path, files } = folder.adopt(info.uuid, epoch, unbrokenSince);
      const journaled = new JournaledDevice(volume, path, files, OPTIONS);
      await journaled.replay();
      return { volume, journaled };
    };
    const die = ({ volume, journaled }: { volume: Volume; journaled: JournaledDevice }) => {
      volume.abandon();
      journaled.abandon();
    };
    const first = await open(true);
    first.journaled.write(0, blocks(2, 1));
    await first.journaled.flush();
    first.journaled.write(4096, blocks(2, 2));
    die(first);
    const second = await open(true);
    assertEquals(second.volume.unbrokenSince, first.volume.unbrokenSince);
    const bytes = await readBytes(second.volume, 0, 3 * 4096);
    assertEquals([bytes[0], bytes[4096], bytes[8192]], [1, 2, 2]);
    second.journaled.write(0, blocks(1, 3));
    await settle();
    die(second);
    const third = await open(true);
    assertEquals(third.volume.unbrokenSince, first.volume.unbrokenSince);
    assertEquals((await readBytes(third.volume, 0, 1))[0], 3);
    third.journaled.write(0, blocks(1, 4));
    die(third);
    const without = await open(false);
    assert(without.volume.unbrokenSince > first.volume.unbrokenSince);
    die(without);
  }));

Deno.test("a machine that crashes while changes are made again leaves no part of them over what is stored", () =>
  onMachine(async ({ folder }) => {
    const bucket = new MemoryBucket();
    const clock = new ManualClock();
    const open = async () => {
      const { volume } = await openVolume({}, {
        bucket,
        clock,
        journals: folder,
      });
      const { path, files } = folder.adopt(volume.info.uuid, volume.epoch, volume.unbrokenSince);
      return { volume, path, journaled: new JournaledDevice(volume, path, files, OPTIONS) };
    };
    const first = await open();
    first.journaled.write(0, blocks(1, 1));
    first.journaled.write(5 * 4096 + 7, new Uint8Array(5).fill(3));
    first.journaled.write(0, blocks(1, 2));
    const file = join(first.path, "1");
    const bytes = Deno.readFileSync(file);
    await first.journaled.flush();
    await settle();
    Deno.writeFileSync(file, bytes); // it died just before the file was to go
    first.volume.abandon();
    first.journaled.abandon();

    const second = await open();
    bucket.hold("get");
    void second.journaled.replay(); // waits for the block of which a part is written
    await bucket.untilHeld(1);
    await clock.advance(60_000);
    const left = bucket.copy();
    second.volume.abandon();
    second.journaled.abandon();
    const after = await openVolume({}, { bucket: left, clock });
    assertEquals((await readBytes(after.volume, 0, 1))[0], 2);
    after.volume.abandon();
  }));
