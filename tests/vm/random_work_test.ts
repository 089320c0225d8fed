/**
 * Much work at random on a drive in the kernel, with checks: by fio on the device, and by our own fsx on a file system
 * that discards what it frees. The drive's cache is smaller than what is worked on.
 *
 * Another seed each time, that a failure names; `RANDOM_WORK_SEED=N` does the same work again.
 */
import { Drive, type DriveOptions } from "../support/drive.ts";
import { KernelVm } from "../support/kernel_vm.ts";
import { Scratch } from "../support/scratch.ts";
import { testInDirectory } from "../support/test_buckets.ts";
import { OURS } from "./guest_steps.ts";

const SEED = Number(Deno.env.get("RANDOM_WORK_SEED") ?? Date.now() % 1e6);
const WORK = new URL("./random_work.sh", import.meta.url);

const smallCache = { server: { cachesize: 64 }, tcp: true };

/** Fails with the seed if what fio wrote is not what it reads. */
const fio = (how: string) => `
  fio --name=seed-${SEED} --filename=/dev/nbd0 --direct=1 --ioengine=libaio --iodepth=16 --size=32M \\
    --randseed=${SEED} --verify=crc32c --verify_fatal=1 --output-format=terse ${how}
`;
/** Each place is trimmed, then written. */
const TRIMMED_FIRST = "--rw=randtrimwrite --bs=16k --io_size=16M";
const MIXED = "--rw=randwrite --bssplit=4k/40:8k/20:64k/30:252k/10 --fsync=64";

/** Fails unless what is discarded, 4000 blocks of 4 KiB, reads as zeroes and the rest as before. */
const DISCARD = `
  part() { dd if=/dev/nbd0 bs=4096 iflag=direct skip="$1" count="$2" 2>/dev/null; }
  rest() { (part 0 2001; part 6001 2191) | sha256sum; }
  before=$(rest)
  blkdiscard -o $((2001 * 4096)) -l $((4000 * 4096)) /dev/nbd0
  [ "$(rest)" = "$before" ]
  [ "$(part 2001 4000 | tr -d '\\0' | wc -c)" = 0 ]
`;

testInDirectory({
  "fio reads what it wrote, also when the bucket is opened again, and zeroes where it is discarded":
    async (bucket) => {
      const options: DriveOptions = { bucket, size: "32M", ...smallCache };
      await using drive = await Drive.start(options);
      await using guest = await KernelVm.boot({
        script: `${OURS.attach(drive)}
          ${fio(TRIMMED_FIRST)}
          ${fio(MIXED)}
          ${OURS.detach}
          echo "written"
          read -r reopened
          ${OURS.attach(drive)}
          ${fio(`${MIXED} --verify_only`)}
          ${DISCARD}
          ${OURS.detach}
        `,
      });
      await guest.says(/^written$/);
      await drive.stopClean();
      await using reopened = await Drive.start({
        ...options,
        tcp: false,
        server: { ...smallCache.server, port: drive.port },
      });
      await guest.answer("reopened");
      await guest.succeeds();
      await reopened.stopClean();
    },

  "the same work at random on a drive and on a local disk leaves the same bytes": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const disks = [await scratch.hole("local", 128)];
    {
      await using drive = await Drive.start({ bucket, size: "128M", ...smallCache });
      await using guest = await KernelVm.boot({
        disks,
        files: { "/guest/random_work.sh": await Deno.readTextFile(WORK) },
        script: `${OURS.attach(drive)}
          for disk in nbd0 vdb; do
            mke2fs -q -t ext4 -b 4096 /dev/$disk
            mkdir /$disk
            mount -o discard /dev/$disk /$disk
          done
          dd if=/dev/urandom of=/tmp/random bs=64k count=16
          RANDOM_BYTES=/tmp/random sh /guest/random_work.sh ${SEED} 300 /nbd0/file /vdb/file
          umount /nbd0 /vdb
          e2fsck -f -n /dev/nbd0
          ${OURS.detach}
        `,
      });
      await guest.succeeds();
      await drive.stopClean();
    }
    await using drive = await Drive.start({ bucket, ...smallCache });
    await using guest = await KernelVm.boot({
      disks,
      script: `${OURS.attach(drive)}
        for disk in nbd0 vdb; do
          mkdir /$disk
          mount -o ro /dev/$disk /$disk
        done
        cmp /nbd0/file /vdb/file
      `,
    });
    await guest.succeeds();
  },
});
