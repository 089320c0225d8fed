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
import { attach } from "./guest_steps.ts";

const SEED = Number(Deno.env.get("RANDOM_WORK_SEED") ?? Date.now() % 1e6);
const WORK = new URL("./random_work.sh", import.meta.url);

const smallCache = { server: { cachesize: 64 }, tcp: true };

/** Fails with the seed if what fio wrote is not what it reads. */
const fio = (how: string) => `
  fio --name=seed-${SEED} --filename=/dev/nbd0 --direct=1 --ioengine=libaio --iodepth=16 --size=64M \\
    --randseed=${SEED} --verify=crc32c --verify_fatal=1 --rw=randwrite --output-format=terse ${how}
`;
const TRIMMED =
  "--bs=16k --verify_backlog=64 --trim_percentage=30 --trim_backlog=64 --trim_verify_zero=1";
const MIXED = "--bssplit=4k/40:8k/20:64k/30:252k/10 --fsync=64";

testInDirectory({
  "fio reads from the device what it wrote and zeroes where it trimmed, also when the bucket is opened again":
    async (bucket) => {
      const options: DriveOptions = { bucket, size: "64M", ...smallCache };
      await using drive = await Drive.start(options);
      await using guest = await KernelVm.boot({
        script: `${attach(drive)}
          ${fio(TRIMMED)}
          ${fio(MIXED)}
          nbd-client -d /dev/nbd0
          echo "written"
          read -r reopened
          ${attach(drive)}
          ${fio(`${MIXED} --verify_only`)}
          nbd-client -d /dev/nbd0
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
        script: `${attach(drive)}
          for disk in nbd0 vdb; do
            mke2fs -q -t ext4 -b 4096 /dev/$disk
            mkdir /$disk
            mount -o discard /dev/$disk /$disk
          done
          dd if=/dev/urandom of=/tmp/random bs=64k count=16
          RANDOM_BYTES=/tmp/random sh /guest/random_work.sh ${SEED} 300 /nbd0/file /vdb/file
          umount /nbd0 /vdb
          e2fsck -f -n /dev/nbd0
          nbd-client -d /dev/nbd0
        `,
      });
      await guest.succeeds();
      await drive.stopClean();
    }
    await using drive = await Drive.start({ bucket, ...smallCache });
    await using guest = await KernelVm.boot({
      disks,
      script: `${attach(drive)}
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
