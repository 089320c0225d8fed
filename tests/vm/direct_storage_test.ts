/** The README's first use: a drive attached to Debian's kernel, with a file system on it. */
import { assertEquals } from "@std/assert";
import { Drive } from "../support/drive.ts";
import { KernelVm } from "../support/kernel_vm.ts";
import { type DirectoryTestBucket, testInDirectory } from "../support/test_buckets.ts";
import { attach, CHECK_FILES, MAKE_FILES } from "./guest_steps.ts";

interface Steps {
  make: string;
  mount: string;
  check: string;
}

/** What one machine writes another finds, and neither has anything to repair. */
async function writeAndReopen(
  bucket: DirectoryTestBucket,
  { make, mount, check }: Steps,
): Promise<void> {
  {
    await using drive = await Drive.start({ bucket, size: "320M", tcp: true });
    await using guest = await KernelVm.boot({
      script: `${attach(drive)} ${MAKE_FILES}
        ${make}
        mkdir /s3
        ${mount}
        make_files files 16
        umount /s3
        ${check}
        nbd-client -d /dev/nbd0
      `,
    });
    await guest.succeeds();
    await drive.stopClean();
  }
  await using drive = await Drive.start({ bucket, tcp: true });
  await using guest = await KernelVm.boot({
    script: `${attach(drive)} ${CHECK_FILES}
      ${check}
      mkdir /s3
      ${mount}
      check_files files
      umount /s3
      nbd-client -d /dev/nbd0
    `,
  });
  await guest.succeeds();
  await drive.stopClean();
}

testInDirectory({
  "what the original's commands make and write is there when the bucket is opened again": (
    bucket,
  ) =>
    writeAndReopen(bucket, {
      make: "mke2fs -b 4096 /dev/nbd0",
      mount: "mount /dev/nbd0 /s3",
      check: "e2fsck -f -n /dev/nbd0",
    }),

  "what is written to ext4 is there when the bucket is opened again": (bucket) =>
    writeAndReopen(bucket, {
      make: "mke2fs -t ext4 -b 4096 /dev/nbd0",
      mount: "mount -t ext4 /dev/nbd0 /s3",
      check: "e2fsck -f -n /dev/nbd0",
    }),

  "what is written to xfs is there when the bucket is opened again": (bucket) =>
    writeAndReopen(bucket, {
      make: "mkfs.xfs /dev/nbd0",
      mount: "mount -t xfs /dev/nbd0 /s3",
      check: "xfs_repair -n /dev/nbd0",
    }),

  "the kernel sees a disk with a volatile cache that it may flush, write through and discard on":
    async (
      bucket,
    ) => {
      await using drive = await Drive.start({ bucket, size: "100M", tcp: true });
      await using guest = await KernelVm.boot({
        script: `${attach(drive)}
        cd /sys/block/nbd0
        echo "bytes: $(($(cat size) * 512))"
        for name in write_cache fua logical_block_size physical_block_size discard_granularity; do
          echo "$name: $(cat queue/$name)"
        done
        echo "discards: $(($(cat queue/discard_max_bytes) > 0))"
        echo "read-only: $(cat ro)"
        nbd-client -d /dev/nbd0
      `,
      });
      await guest.succeeds();
      assertEquals(guest.lines.slice(guest.lines.indexOf(`bytes: ${100 << 20}`), -1), [
        `bytes: ${100 << 20}`,
        "write_cache: write back",
        "fua: 1",
        "logical_block_size: 4096",
        "physical_block_size: 4096",
        "discard_granularity: 4096",
        "discards: 1",
        "read-only: 0",
      ]);
    },
});
