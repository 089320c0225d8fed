/** What a file system no longer uses is given back: the bucket holds less, and costs less. */
import { assertGreater, assertLess } from "@std/assert";
import { MIB, RECLAIM_BYTES_MIN } from "../../src/limits.ts";
import { Drive } from "../support/drive.ts";
import { KernelVm } from "../support/kernel_vm.ts";
import { type TestBucket, testInDirectory } from "../support/test_buckets.ts";
import { attach, CHECK_FILES, MAKE_FILES } from "./guest_steps.ts";

const KEPT_MIB = 8;
/** Several times what is left lying. */
const DELETED_MIB = 96;

async function storedMib(bucket: TestBucket): Promise<number> {
  const objects = await bucket.objects();
  return objects.reduce((sum, { size }) => sum + size, 0) / MIB;
}

testInDirectory({
  "fstrim gives back what deleted files took, and a new file system all the rest": async (
    bucket,
  ) => {
    {
      await using drive = await Drive.start({ bucket, size: "256M", tcp: true });
      await using guest = await KernelVm.boot({
        script: `${attach(drive)} ${MAKE_FILES}
          mke2fs -q -t ext4 -b 4096 /dev/nbd0
          mkdir /s3
          mount /dev/nbd0 /s3
          make_files deleted ${DELETED_MIB}
          make_files kept ${KEPT_MIB}
          rm -r /s3/deleted
          sync
          echo "deleted"
          read -r go_on
          fstrim /s3
          umount /s3
          nbd-client -d /dev/nbd0
        `,
      });
      await guest.says(/^deleted$/);
      assertGreater(await storedMib(bucket), KEPT_MIB + DELETED_MIB);
      await guest.answer("go on");
      await guest.succeeds();
      await drive.stopClean();
      assertLess(await storedMib(bucket), KEPT_MIB + RECLAIM_BYTES_MIN / MIB);
    }
    await using drive = await Drive.start({ bucket, tcp: true });
    await using guest = await KernelVm.boot({
      script: `${attach(drive)} ${CHECK_FILES}
        e2fsck -f -n /dev/nbd0
        mkdir /s3
        mount /dev/nbd0 /s3
        check_files kept
        umount /s3
        mke2fs -q -F -t ext4 -b 4096 /dev/nbd0
        nbd-client -d /dev/nbd0
      `,
    });
    await guest.succeeds();
    await drive.stopClean();
    assertLess(await storedMib(bucket), 1);
  },
});
