/** `elasticdrive attach` on Debian's kernel, and what its device goes through: servers that die, S3 that is away. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Drive } from "../support/drive.ts";
import { type GuestOptions, KernelVm } from "../support/kernel_vm.ts";
import { startS3Proxy } from "../support/s3_proxy.ts";
import { DirectoryTestBucket, testInDirectory, testInS3 } from "../support/test_buckets.ts";

/** How long S3 is away; by hand for longer: nothing here is to depend on it. */
const AWAY_S = Number(Deno.env.get("ELASTICDRIVE_TEST_AWAY_S") ?? 65);

/** The configuration of a guest whose server is on this machine. */
function configFor(port: number): string {
  return `[s3]\nBUCKET=file:/nowhere\n[server]\nlisten=10.0.2.2\ninsecure=yes\nport=${port}\n`;
}

/** A guest with /etc/drive.ini, and `drive` for the program with it. */
function boot(config: string, { script, files, ...options }: GuestOptions): Promise<KernelVm> {
  return KernelVm.boot({
    ...options,
    files: { "/etc/drive.ini": config, ...files },
    script: `
      drive() { /program/elasticdrive -c /etc/drive.ini "$@"; }
      modprobe nbd
      ${script}
    `,
  });
}

const MAKE_FILE_SYSTEM = `
  mke2fs -q -t ext4 -b 4096 /dev/nbd0
  mount -t ext4 /dev/nbd0 /mnt
`;
/** Writes one file after the other, each fsynced, until it is told that there are enough. */
const WRITE_FILES = `
  dd if=/dev/urandom of=/tmp/data bs=1M count=2 2>/dev/null
  write_files() {
    n=0
    until [ -e /tmp/enough ]; do
      n=$((n + 1))
      dd if=/tmp/data of=/mnt/$n bs=64k conv=fsync 2>/dev/null
      echo $n >/tmp/written
      echo "written $n"
    done
  }
  write_files &
  writer=$!
`;
/** The server in the guest itself: to start it, and to attach it once it is there. */
const SERVE_BESIDE = `
  serve() { /program/elasticdrive -c /etc/drive.ini & server=$!; }
  attach() {
    until [ -S /tmp/nbd.sock ]; do usleep 100000; done
    until drive attach /dev/nbd0 2>/dev/null; do usleep 100000; done
  }
`;
/** No request has failed. */
const CHECK_KERNEL_LOG = `if dmesg | grep -E "I/O error|EXT4-fs (error|warning)"; then exit 9; fi`;

/** Waits until `count` more files are written. */
async function writesOn(guest: KernelVm, count: number): Promise<void> {
  const last = guest.lines.findLast((line) => line.startsWith("written "));
  const n = Number(last?.split(" ")[1] ?? 0) + count;
  await guest.says(new RegExp(`^written ${n}$`));
}

testInDirectory({
  "a server that is stopped and started again under ext4 fails nothing and loses nothing": async (
    bucket,
  ) => {
    await using first = await Drive.start({ bucket, size: "256M", tcp: true });
    const again = { bucket, tcp: true, server: { port: first.port } };
    await using guest = await boot(configFor(first.port), {
      script: `
        drive attach /dev/nbd0
        drive attach /dev/nbd0
        ${MAKE_FILE_SYSTEM}
        ${WRITE_FILES}
        for restart in 1 2; do
          read -r restarted
          drive attach /dev/nbd0
        done
        read -r enough
        touch /tmp/enough
        wait $writer
        umount /mnt
        e2fsck -f -n /dev/nbd0
        mount -t ext4 -o ro /dev/nbd0 /mnt
        for file in /mnt/[0-9]*; do cmp $file /tmp/data; done
        umount /mnt
        drive detach /dev/nbd0
        ${CHECK_KERNEL_LOG}
      `,
    });
    await guest.says(/attached, 256 MiB, ElasticDrive file:.*, volume /);
    await guest.says(/attached already/);
    await writesOn(guest, 2);
    await first.stopClean();
    await using second = await Drive.start(again);
    await guest.answer("restarted");
    await guest.says(/attached again/);
    await writesOn(guest, 3);
    await second.stopClean();
    const from = guest.lines.length;
    await using third = await Drive.start(again);
    await guest.answer("restarted");
    await guest.says(/attached again/, from);
    await writesOn(guest, 3);
    await guest.answer("enough");
    assertStringIncludes(await guest.succeeds(), "detached, everything is stored");
    await third.stopClean();
  },

  "a server that is killed under ext4 does not come back as if nothing were lost; what was fsynced is there":
    async (bucket) => {
      await using first = await Drive.start({ bucket, size: "256M", tcp: true });
      await using guest = await boot(configFor(first.port), {
        script: `
          drive attach /dev/nbd0
          ${MAKE_FILE_SYSTEM}
          ${WRITE_FILES}
          read -r frozen
          until grep -q "[1-9]" /sys/block/nbd0/inflight; do usleep 20000; done
          echo "in flight"
          read -r restarted
          drive attach /dev/nbd0 || echo "exit $?"
          if wait $writer; then exit 8; fi
          umount /mnt
          drive attach /dev/nbd0
          mount -t ext4 /dev/nbd0 /mnt
          for n in $(seq $(cat /tmp/written)); do cmp /mnt/$n /tmp/data; done
          umount /mnt
          e2fsck -f -n /dev/nbd0
          drive detach /dev/nbd0
        `,
      });
      await writesOn(guest, 2);
      first.signal("SIGSTOP");
      await guest.answer("frozen");
      await guest.says(/^in flight$/);
      await first.kill();
      await using second = await Drive.start({ bucket, tcp: true, server: { port: first.port } });
      await guest.answer("restarted");
      await guest.says(/nbd0: cut off, because the server .*; in use: mounted at \/mnt; /);
      await guest.says(/^exit 2$/);
      await guest.succeeds();
      await second.stopClean();
    },

  "what can't be attached or detached is refused, and the message says why": async (bucket) => {
    await using drive = await Drive.start({ bucket, size: "64M", tcp: true });
    await using otherBucket = await DirectoryTestBucket.make();
    await using other = await Drive.start({ bucket: otherBucket, size: "64M", tcp: true });
    const otherDrive = "/program/elasticdrive -c /etc/other.ini";
    const story: [steps: string, says: RegExp][] = [
      ["rmmod nbd; drive attach /dev/nbd0", /nbd0: .* not loaded; as root: modprobe nbd$/],
      ["modprobe nbd; drive detach /dev/nbd0", /^\/dev\/nbd0: not attached$/],
      [
        "start-stop-daemon -S -c nobody -x /program/elasticdrive -- -c /etc/drive.ini attach /dev/nbd0",
        /nbd0: only root may attach and detach/,
      ],
      [
        "sed s/port=.*/port=1/ /etc/drive.ini >/tmp/none.ini; /program/elasticdrive -c /tmp/none.ini attach /dev/nbd0",
        /nbd0: no drive at 10.0.2.2 port 1: no server listens there/,
      ],
      ["drive attach /dev/nbd0", /nbd0: attached, 64 MiB/],
      [`${otherDrive} attach /dev/nbd0`, /nbd0: attached to another volume \(/],
      [`${otherDrive} detach /dev/nbd0`, /nbd0: attached to another volume \(/],
      [
        `mke2fs -q -t ext4 /dev/nbd0; mkdir "/my files"; mount /dev/nbd0 "/my files"; drive detach /dev/nbd0`,
        /nbd0: in use: mounted at \/my files; /,
      ],
      [
        `umount "/my files"; mkswap /dev/nbd0 >/dev/null; swapon /dev/nbd0; drive detach /dev/nbd0`,
        /nbd0: in use: swap space; /,
      ],
      [
        `swapoff /dev/nbd0; nbd-client -b 4096 10.0.2.2 ${other.port} /dev/nbd1 >/dev/null 2>&1; ` +
        "drive attach /dev/nbd1",
        /nbd1: attached by another program/,
      ],
      ["drive detach /dev/nbd0", /^\/dev\/nbd0: detached, everything is stored$/],
      // the kernel makes devices as they are asked for
      ["drive attach /dev/nbd77", /nbd77: attached, 64 MiB/],
    ];
    await using guest = await boot(configFor(drive.port), {
      files: {
        "/etc/other.ini": configFor(other.port),
        "/etc/passwd": "nobody:x:65534:65534:nobody:/:/bin/false\n",
      },
      script: "set +e\n" + story.map(([steps]) => `${steps}\necho "exit $?"\n`).join(""),
    });
    const said = (await guest.succeeds()).split("\n").slice(1);
    assertEquals(said.length, 2 * story.length + 1, said.join("\n"));
    for (const [at, [, says]] of story.entries()) {
      assertMatch(said[2 * at], says);
      assertEquals(said[2 * at + 1], said[2 * at].startsWith("/dev/") ? "exit 0" : "exit 2");
    }
  },
});

Deno.test("a server beside its device, on a Unix socket: started again with more space, and given up at last", async () => {
  await using guest = await boot(
    "[s3]\nBUCKET=file:/tmp/bucket\nVOLUMESIZE=64M\n[server]\nsocket=/tmp/nbd.sock\n",
    {
      memoryMib: 1024,
      script: `
        ${SERVE_BESIDE}
        serve
        attach
        ${MAKE_FILE_SYSTEM}
        ${WRITE_FILES}
        until [ -e /tmp/written ]; do usleep 20000; done
        kill $server
        wait $server
        sed -i s/64M/100M/ /etc/drive.ini
        serve
        attach
        touch /tmp/enough
        wait $writer
        ${CHECK_KERNEL_LOG}
        umount /mnt
        e2fsck -f -n /dev/nbd0
        mount -t ext4 -o ro /dev/nbd0 /mnt
        for n in $(seq $(cat /tmp/written)); do cmp /mnt/$n /tmp/data; done
        umount /mnt
        drive detach /dev/nbd0
        drive attach /dev/nbd0
        blockdev --getsize64 /dev/nbd0

        kill -9 $server
        (dd if=/dev/nbd0 of=/dev/null bs=1M count=1 iflag=direct 2>/dev/null || echo "read failed") &
        reader=$!
        wait $server || true
        serve
        attach
        wait $reader

        kill -9 $server
        drive detach /dev/nbd0 || echo "exit $?"
        drive detach --force /dev/nbd0
        blockdev --getsize64 /dev/nbd0

        echo READONLY=1 >>/etc/drive.ini
        serve
        attach
        blockdev --getro /dev/nbd0
        drive detach /dev/nbd0
      `,
    },
  );
  const said = await guest.succeeds();
  for (
    const line of [
      /nbd0: attached again, 64 MiB \(100 MiB once it is detached and attached anew\), /,
      /^104857600$/,
      /nbd0: attached, 100 MiB, .*; anew, because the server before ended without storing all/,
      /nbd0: no drive at \/tmp\/nbd.sock: no server listens there/,
      /^exit 2$/,
      /^read failed$/,
      /nbd0: detached; what was not stored yet has failed/,
      /^0$/,
      /^1$/,
    ]
  ) {
    assertMatch(said, new RegExp(line, "m"));
  }
});

testInS3({
  "while S3 is away reads and flushes of a mounted file system wait, and none fails": async (
    bucket,
  ) => {
    await using proxy = startS3Proxy(bucket.ceph.endpoint);
    // a cache of 4 MiB, so that what is read is not in it
    await using drive = await Drive.start({
      bucket: bucket.through(proxy),
      size: "256M",
      tcp: true,
      server: { cachesize: 64 },
    });
    await using guest = await boot(configFor(drive.port), {
      deadlineS: 180 + AWAY_S,
      script: `
        drive attach /dev/nbd0
        ${MAKE_FILE_SYSTEM}
        for name in old new; do dd if=/dev/urandom of=/tmp/$name bs=1M count=8 2>/dev/null; done
        cp /tmp/old /mnt/old
        sync
        echo 3 >/proc/sys/vm/drop_caches
        echo "before"
        read -r away
        (cmp /tmp/old /mnt/old; echo "read") &
        reader=$!
        (dd if=/tmp/new of=/mnt/new bs=64k count=8 conv=fsync 2>/dev/null; echo "flushed") &
        writer=$!
        sleep ${AWAY_S}
        echo "away for long"
        read -r back
        wait $reader
        wait $writer
        umount /mnt
        e2fsck -f -n /dev/nbd0
        drive detach /dev/nbd0
        ${CHECK_KERNEL_LOG}
      `,
    });
    await guest.says(/^before$/);
    proxy.refuse();
    await guest.answer("away");
    await guest.says(/^away for long$/);
    assertEquals(guest.lines.filter((line) => /^(read|flushed)$/.test(line)), []);
    proxy.accept();
    await guest.answer("back");
    await guest.succeeds();
    await drive.stopClean();
  },
});

Deno.test("a server with a journal that is killed again and again under ext4 fails nothing and loses nothing", async () => {
  await using guest = await boot(
    "[s3]\nBUCKET=file:/tmp/bucket\nVOLUMESIZE=256M\n" +
      "[server]\nsocket=/tmp/nbd.sock\njournal=/run/journal\nflushafter=3600\n",
    {
      memoryMib: 1536,
      script: `
        ${SERVE_BESIDE}
        kill_and_serve() {
          kill -9 $server
          wait $server || true
          rm -f /tmp/nbd.sock
          serve
          attach
        }
        serve
        attach
        ${MAKE_FILE_SYSTEM}
        # acknowledged by the server and not flushed: the kernel keeps no copy of it
        dd if=/dev/urandom of=/tmp/unflushed bs=1M count=4 2>/dev/null
        dd if=/tmp/unflushed of=/mnt/unflushed bs=1M oflag=direct 2>/dev/null
        kill_and_serve
        ${WRITE_FILES}
        for kill in 1 2; do
          n=$(cat /tmp/written 2>/dev/null || echo 0)
          until [ "$(cat /tmp/written 2>/dev/null || echo 0)" -gt $((n + 1)) ]; do usleep 20000; done
          kill_and_serve
        done
        touch /tmp/enough
        wait $writer
        ${CHECK_KERNEL_LOG}
        umount /mnt
        e2fsck -f -n /dev/nbd0
        mount -t ext4 -o ro /dev/nbd0 /mnt
        for n in $(seq $(cat /tmp/written)); do cmp /mnt/$n /tmp/data; done
        cmp /mnt/unflushed /tmp/unflushed
        umount /mnt
        drive detach /dev/nbd0
        kill $server
        wait $server
        ls -A /run/journal/*
      `,
    },
  );
  const said = await guest.succeeds();
  assertEquals(said.match(/attached again, 256 MiB/g)?.length, 3, said);
  assertMatch(said, /changes that were not stored are made again/);
});
