/** The README's second use: a local file system is copied to a drive with dd, and back to a blank disk. */
import { Drive } from "../support/drive.ts";
import { KernelVm } from "../support/kernel_vm.ts";
import { run } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { testInDirectory } from "../support/test_buckets.ts";
import { attach, CHECK_FILES, MAKE_FILES } from "./guest_steps.ts";

const MIB = 64;
const BLOCKS = MIB << 8;

testInDirectory({
  "a file system that dd copied to a drive is the same, byte for byte, on the blank disk it is restored to":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      const original = await scratch.hole("original", MIB);
      {
        await using drive = await Drive.start({ bucket, size: `${MIB}M`, tcp: true });
        await using guest = await KernelVm.boot({
          disks: [original],
          script: `${MAKE_FILES}
          mke2fs -q -t ext4 -b 4096 /dev/vdb
          mkdir /s3
          mount /dev/vdb /s3
          make_files files 16
          ln /s3/files/1 /s3/hard_link
          umount /s3
          ${attach(drive)}
          dd if=/dev/vdb of=/dev/nbd0 bs=4096 count=${BLOCKS}
          nbd-client -d /dev/nbd0
        `,
        });
        await guest.succeeds();
        await drive.stopClean();
      }
      const restored = await scratch.hole("restored", MIB);
      await using drive = await Drive.start({ bucket, tcp: true });
      await using guest = await KernelVm.boot({
        disks: [restored],
        script: `${attach(drive)} ${CHECK_FILES}
        dd if=/dev/nbd0 of=/dev/vdb bs=4096 count=${BLOCKS}
        nbd-client -d /dev/nbd0
        mkdir /s3
        mount -o ro,noload /dev/vdb /s3
        check_files files
        cmp /s3/files/1 /s3/hard_link
        umount /s3
      `,
      });
      await guest.succeeds();
      await run("cmp", [original, restored]);
      await drive.stopClean();
    },
});
