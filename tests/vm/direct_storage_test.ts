/** A drive as a user has it: attached by nbd-client to Debian's kernel, with a file system on it. */
import { Drive } from "../support/drive.ts";
import { KernelVm } from "../support/kernel_vm.ts";
import { testInDirectory } from "../support/test_buckets.ts";

const attach = (port: number) => `
  modprobe nbd
  nbd-client -b 4096 10.0.2.2 ${port} /dev/nbd0
  until [ -e /sys/block/nbd0/pid ]; do usleep 50000; done
`;

testInDirectory({
  "what is written to ext4 on an attached drive is there when the bucket is opened again": async (
    bucket,
  ) => {
    let sums: string;
    {
      await using drive = await Drive.start({ bucket, size: "256M", tcp: true });
      await using guest = await KernelVm.boot({
        script: `${attach(drive.port)}
          mke2fs -q -t ext4 -b 4096 /dev/nbd0
          mount -t ext4 /dev/nbd0 /mnt
          for n in 1 2 3 4; do dd if=/dev/urandom of=/mnt/$n bs=64k count=32 2>/dev/null; done
          sync
          (cd /mnt && sha256sum 1 2 3 4 | sed 's/^/sum: /')
          umount /mnt
          e2fsck -f -n /dev/nbd0
          nbd-client -d /dev/nbd0
        `,
      });
      sums = (await guest.succeeds()).split("\n").filter((line) => line.startsWith("sum: "))
        .map((line) => line.slice(5) + "\n").join("");
      await drive.stopClean();
    }
    await using drive = await Drive.start({ bucket, tcp: true });
    await using guest = await KernelVm.boot({
      files: { "/guest/sums": sums },
      script: `${attach(drive.port)}
        e2fsck -f -n /dev/nbd0
        mount -t ext4 -o ro /dev/nbd0 /mnt
        (cd /mnt && sha256sum -c /guest/sums)
        umount /mnt
        nbd-client -d /dev/nbd0
      `,
    });
    await guest.succeeds();
    await drive.stopClean();
  },
});
