/**
 * The drive is killed and the whole guest loses its power while programs write to a file system: the next guest finds
 * every file that was synced, whole, and after its journal was replayed a file system without a fault.
 *
 * A round goes on with what the one before left. The moments are chosen by a seed that a failure names;
 * `POWER_CUT_SEED=N` chooses the same ones again.
 */
import { assertEquals } from "@std/assert";
import { Seed } from "../simulation/seed.ts";
import { Drive } from "../support/drive.ts";
import { KernelVm } from "../support/kernel_vm.ts";
import { type DirectoryTestBucket, testInDirectory } from "../support/test_buckets.ts";
import { attach } from "./guest_steps.ts";

const SEED = Number(Deno.env.get("POWER_CUT_SEED") ?? Date.now() % 1e6);

interface FileSystem {
  type: "ext4" | "xfs";
  /** Of the volume: the smallest that mkfs takes without a word. */
  size: string;
  make: string;
  /** Succeeds only if there is nothing to repair. */
  check: string;
}

const EXT4: FileSystem = {
  type: "ext4",
  size: "128M",
  make: "mke2fs -q -t ext4 -b 4096",
  check: "e2fsck -f -n",
};
const XFS: FileSystem = {
  type: "xfs",
  size: "320M",
  make: "mkfs.xfs -q",
  check: "xfs_repair -n",
};

/** `content N`: the bytes of file N, 5 to 35 KiB. */
const CONTENT = `
  content() { seq "$(($1 * 1000))" "$(($1 * 1000 + 999 + $1 % 7 * 700))"; }
`;

/** Ways to write a file and have it synced; each comes down to another request of the disk. */
const WAYS = {
  /** Its blocks are new, so the journal has to be stored: a write with FUA. */
  newFile: {
    prepare: (_first: number) => "",
    step: 'content "$n" >"/mnt/file$n"; sync "/mnt/file$n"',
  },
  /** Nothing but its bytes changes: a flush. */
  inPlace: {
    prepare: (first: number) => `
      for n in $(seq ${first} ${first + 100}); do
        content "$n" | tr 0-9 a-j >"/mnt/file$n"
      done
      sync
    `,
    step: 'content "$n" | dd of="/mnt/file$n" conv=notrunc 2>/dev/null; sync -d "/mnt/file$n"',
  },
};

/** Files FIRST and on, each synced by itself and then said to be, beside others that come and go and are not. */
const write = ({ type }: FileSystem, way: keyof typeof WAYS, first: number) => `
  noise() {
    while :; do
      for n in $(seq 10); do
        dd if=/dev/urandom of="/mnt/noise$n" bs=64k count="$n" 2>/dev/null
        mv "/mnt/noise$n" "/mnt/moved$((n % 3))"
      done
    done
  }
  mount -t ${type} /dev/nbd0 /mnt
  ${WAYS[way].prepare(first)}
  noise &
  n=${first}
  while :; do
    ${WAYS[way].step}
    echo "synced $n"
    n=$((n + 1))
  done
`;

/** Replays the journal, checks, and says which of the first files it found as they were written. */
const findAll = ({ type, check }: FileSystem, count: number) => `
  mount -t ${type} /dev/nbd0 /mnt
  umount /mnt
  ${check} /dev/nbd0
  mount -t ${type} /dev/nbd0 /mnt
  for n in $(seq ${count}); do
    if content "$n" | cmp - "/mnt/file$n"; then echo "found $n"; fi
  done
  umount /mnt
`;

/** The last file that was said to be synced. */
function lastSynced(guest: KernelVm): number {
  const numbers = guest.lines.flatMap((line) => /^synced (\d+)$/.exec(line)?.[1] ?? []);
  return Number(numbers.at(-1));
}

async function cutAgainAndAgain(
  bucket: DirectoryTestBucket,
  fileSystem: FileSystem,
  rounds: number,
): Promise<void> {
  try {
    await cutRounds(bucket, fileSystem, rounds, new Seed(SEED));
  } catch (error) {
    throw new Error(`POWER_CUT_SEED=${SEED}`, { cause: error });
  }
}

async function cutRounds(
  bucket: DirectoryTestBucket,
  fileSystem: FileSystem,
  rounds: number,
  seed: Seed,
): Promise<void> {
  let synced = 0;
  for (let round = 1; round <= rounds; round++) {
    const begin = round === 1 ? `${fileSystem.make} /dev/nbd0` : findAll(fileSystem, synced);
    const work = write(fileSystem, round % 2 === 1 ? "newFile" : "inPlace", synced + 1);
    await using drive = await Drive.start({ bucket, size: fileSystem.size, tcp: true });
    await using guest = await KernelVm.boot({
      script: `${attach(drive)} ${CONTENT} ${begin} ${work}`,
    });
    await guest.says(new RegExp(`^synced ${synced + 1 + seed.below(25)}$`));
    if (round > 2) await passMs(seed.below(300)); // the first two die just behind a flush
    // who dies first: a flush that is under way is never answered, or answered to nobody
    const ends = [() => drive.kill(), () => guest.cutPower()];
    for (const end of seed.chance(0.5) ? ends : ends.toReversed()) await end();
    assertFound(guest, synced);
    synced = lastSynced(guest);
  }
  await using drive = await Drive.start({ bucket, tcp: true });
  await using guest = await KernelVm.boot({
    script: `${attach(drive)} ${CONTENT} ${findAll(fileSystem, synced)} nbd-client -d /dev/nbd0`,
  });
  await guest.succeeds();
  assertFound(guest, synced);
  await drive.stopClean();
}

function assertFound(guest: KernelVm, synced: number): void {
  const found = guest.lines.filter((line) => /^found \d+$/.test(line)).length;
  assertEquals(found, synced, guest.lines.join("\n"));
}

function passMs(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

testInDirectory({
  "what was synced to ext4 outlives kill -9 of the drive and a power cut, again and again": (
    bucket,
  ) => cutAgainAndAgain(bucket, EXT4, 4),
  "what was synced to xfs outlives kill -9 of the drive and a power cut, again and again": (
    bucket,
  ) => cutAgainAndAgain(bucket, XFS, 2),
});
