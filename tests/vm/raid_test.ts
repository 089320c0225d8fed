/**
 * The README's third use: a mirror of a local disk and a drive, by mdadm. Of the original's commands only the name of
 * the local disk is another.
 */
import { assertMatch, assertStringIncludes } from "@std/assert";
import { Drive } from "../support/drive.ts";
import { KernelVm } from "../support/kernel_vm.ts";
import { startS3Proxy } from "../support/s3_proxy.ts";
import { Scratch } from "../support/scratch.ts";
import { testInDirectory, testInS3 } from "../support/test_buckets.ts";
import {
  CHECK_FILES,
  MAKE_FILES,
  NBD_CLIENT,
  NBD_CLIENT_OF_MIRROR,
  OURS,
  UNTIL_MIRRORED,
} from "./guest_steps.ts";

const MIB = 64;
const SIZE = `${MIB}M`;

/** Waits until the mirror has let go of the drive. */
const UNTIL_FAILED = `
  until grep -q 'nbd0\\[1\\](W)(F)' /proc/mdstat; do usleep 100000; done
`;

testInDirectory({
  "a mirror reads from its local disk, goes on without it, and is recovered on another machine from the bucket alone":
    async (bucket) => {
      await using scratch = await Scratch.make();
      {
        await using drive = await Drive.start({ bucket, size: SIZE, tcp: true });
        await using guest = await KernelVm.boot({
          disks: [await scratch.hole("local", MIB)],
          script: `${NBD_CLIENT.attach(drive)} ${MAKE_FILES} ${CHECK_FILES}
            reads() { awk '{ print $1 }' /sys/block/nbd0/stat; }
            yes | mdadm --create /dev/md0 -n2 --level 1 /dev/vdb --write-mostly /dev/nbd0
            ${UNTIL_MIRRORED}
            mke2fs -q -b 4096 /dev/md0
            mkdir /s3
            mount /dev/md0 /s3
            make_files before 8
            echo 3 >/proc/sys/vm/drop_caches
            before=$(reads)
            check_files before
            echo "reads from the drive: $(($(reads) - before))"
            mdadm /dev/md0 --fail /dev/vdb
            make_files after 4
            echo "stored"
            read -r nothing
          `,
        });
        await guest.says(/^stored$/);
        await guest.cutPower();
        await drive.kill();
        assertStringIncludes(guest.lines.join("\n"), "reads from the drive: 0");
      }
      await using drive = await Drive.start({ bucket, tcp: true });
      await using guest = await KernelVm.boot({
        disks: [await scratch.hole("blank", MIB)],
        script: `${NBD_CLIENT.attach(drive)} ${CHECK_FILES}
          mdadm -A --run /dev/md0 /dev/nbd0
          e2fsck -p -f /dev/md0 || [ $? = 1 ]
          e2fsck -f -n /dev/md0
          mkdir /s3
          mount /dev/md0 /s3
          check_files before
          check_files after
          mdadm /dev/md0 --add /dev/vdb
          ${UNTIL_MIRRORED}
          umount /s3
          echo check >/sys/block/md0/md/sync_action
          until [ "$(cat /sys/block/md0/md/sync_action)" = idle ]; do usleep 100000; done
          echo "different sectors: $(cat /sys/block/md0/md/mismatch_cnt)"
          mdadm --stop /dev/md0
          ${NBD_CLIENT.detach}
        `,
      });
      assertStringIncludes(await guest.succeeds(), "different sectors: 0");
      await drive.stopClean();
    },

  "after a power cut in the midst of writing the rebooted machine assembles both sides": async (
    bucket,
  ) => {
    await using scratch = await Scratch.make();
    const disks = [await scratch.hole("local", MIB)];
    {
      await using drive = await Drive.start({ bucket, size: SIZE, tcp: true });
      await using guest = await KernelVm.boot({
        disks,
        script: `${OURS.attach(drive)} ${MAKE_FILES}
          yes | mdadm --create /dev/md0 -n2 --level 1 /dev/vdb --write-mostly /dev/nbd0
          ${UNTIL_MIRRORED}
          mke2fs -q -t ext4 -b 4096 /dev/md0
          mkdir /s3
          mount /dev/md0 /s3
          make_files before 4
          echo "stored"
          while :; do dd if=/dev/urandom of=/s3/more bs=64k count=64 2>/dev/null; done
        `,
      });
      await guest.says(/^stored$/);
      await guest.cutPower();
      await drive.kill();
    }
    await using drive = await Drive.start({ bucket, tcp: true });
    await using guest = await KernelVm.boot({
      disks,
      script: `${OURS.attach(drive)} ${CHECK_FILES}
        mdadm -A /dev/md0 /dev/vdb /dev/nbd0
        ${UNTIL_MIRRORED}
        mkdir /s3
        mount /dev/md0 /s3
        check_files before
        umount /s3
        e2fsck -f -n /dev/md0
        mdadm --stop /dev/md0
        mdadm -A --run /dev/md0 /dev/nbd0
        e2fsck -f -n /dev/md0
        mount -o ro /dev/md0 /s3
        check_files before
      `,
    });
    await guest.succeeds();
  },

  "when the server was killed a mirror goes on without the drive, and takes it back from the next server":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      await using killed = await Drive.start({ bucket, size: SIZE, tcp: true });
      await using guest = await KernelVm.boot({
        disks: [await scratch.hole("local", MIB)],
        script: `${NBD_CLIENT_OF_MIRROR.attach(killed)} ${MAKE_FILES} ${CHECK_FILES}
        yes | mdadm --create /dev/md0 -n2 --level 1 --bitmap internal /dev/vdb --write-mostly /dev/nbd0
        ${UNTIL_MIRRORED}
        mke2fs -q -b 4096 /dev/md0
        mkdir /s3
        mount /dev/md0 /s3
        make_files before 4
        echo "mirrored"
        read -r server_was_killed
        make_files alone 4
        ${UNTIL_FAILED}
        echo "goes on alone"
        read -r server_is_back
        mdadm /dev/md0 --remove /dev/nbd0
        ${NBD_CLIENT_OF_MIRROR.detach}
        ${NBD_CLIENT_OF_MIRROR.attach(killed)}
        mdadm /dev/md0 --re-add --write-mostly /dev/nbd0
        ${UNTIL_MIRRORED}
        mdadm /dev/md0 --fail /dev/vdb
        echo 3 >/proc/sys/vm/drop_caches
        for name in before alone; do check_files "$name"; done
        umount /s3
        e2fsck -f -n /dev/md0
      `,
      });
      await guest.says(/^mirrored$/);
      await killed.kill();
      await guest.answer("killed");
      await guest.says(/^goes on alone$/);
      await using _next = await Drive.start({ bucket, tcp: false, server: { port: killed.port } });
      await guest.answer("back");
      await guest.succeeds();
    },
});

testInS3({
  "when S3 is away for longer than iotimeout a mirror goes on without the drive, and takes it back after":
    async (
      bucket,
    ) => {
      await using scratch = await Scratch.make();
      await using proxy = startS3Proxy(bucket.ceph.endpoint);
      await using drive = await Drive.start({
        bucket: bucket.through(proxy),
        size: SIZE,
        tcp: true,
        server: { iotimeout: 2 },
      });
      await using guest = await KernelVm.boot({
        disks: [await scratch.hole("local", MIB)],
        script: `${OURS.attach(drive)} ${MAKE_FILES} ${CHECK_FILES}
        written() { awk '{ print $7 }' /sys/block/nbd0/stat; }
        yes | mdadm --create /dev/md0 -n2 --level 1 --bitmap internal --bitmap-chunk 1M /dev/vdb --write-mostly /dev/nbd0
        ${UNTIL_MIRRORED}
        mke2fs -q -b 4096 /dev/md0
        mkdir /s3
        mount /dev/md0 /s3
        make_files before 8
        echo "mirrored"
        read -r S3_is_away
        make_files meanwhile 4
        ${UNTIL_FAILED}
        make_files alone 4
        echo "goes on alone"
        read -r S3_is_back
        before=$(written)
        mdadm /dev/md0 --remove /dev/nbd0
        mdadm /dev/md0 --re-add --write-mostly /dev/nbd0
        ${UNTIL_MIRRORED}
        echo "resynced MiB: $((($(written) - before) / 2048))"
        mdadm /dev/md0 --fail /dev/vdb
        echo 3 >/proc/sys/vm/drop_caches
        for name in before meanwhile alone; do check_files "$name"; done
        umount /s3
        e2fsck -f -n /dev/md0
        mdadm --stop /dev/md0
        ${OURS.detach}
      `,
      });
      await guest.says(/^mirrored$/);
      proxy.refuse();
      await guest.answer("away");
      await guest.says(/^goes on alone$/);
      // the mirror may be quicker than a try that fails late enough to be called an outage
      await drive.says(/ does not serve: /);
      proxy.accept();
      await drive.says(/ serves again /);
      await guest.answer("back");
      assertMatch(await guest.succeeds(), /^resynced MiB: ([1-9]|1\d|2\d)$/m);
      await drive.stopClean();
    },
});
