/**
 * A machine with Debian and systemd, without a network and without nbd-client, from the package to a mounted file
 * system, through a year's events, and back to what it was.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { NEXT_VERSION, packageTar, VERSION } from "../support/package_tar.ts";
import { Scratch } from "../support/scratch.ts";
import { SystemdVm } from "../support/systemd_vm.ts";

const PACKAGE = `/opt/elasticdrive-${VERSION}`;
const NEXT_PACKAGE = `/opt/elasticdrive-${NEXT_VERSION}`;
const DRIVE = "--unattended --bucket file:/var/lib/drive --size 96M --mount /s3 --format";
/** Everything that install.sh may have a hand in, with the times of its last change; but for what drives store. */
const LOOK = "find /opt /etc /s3 -xdev -printf '%p %m %u %s %T@ %C@\\n' 2>/dev/null | sort";

/** Prints what has changed since `LOOK >/tmp/before`. */
const CHANGES = `{ ${LOOK}; } >/tmp/after; diff /tmp/before /tmp/after`;

/** Writes for some seconds; `written` waits for it to end well. */
async function startWriting(guest: SystemdVm, file: string): Promise<void> {
  await guest.run(
    `rm -f /tmp/wrote
    (for n in 1 2 3 4 5 6 7 8; do
      dd if=/dev/urandom of=${file} bs=64k count=20 seek=$((n * 20 - 20)) conv=notrunc 2>/dev/null && sync -f ${file} || exit
      echo $n >>/tmp/wrote
    done; sha256sum ${file} >/tmp/sum && echo all >>/tmp/wrote) >/dev/null 2>&1 &
    until [ -s /tmp/wrote ]; do sleep 0.1; done`,
  );
}

async function assertWritten(guest: SystemdVm): Promise<void> {
  await guest.run(
    "until grep -q all /tmp/wrote; do sleep 0.2; done; echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /tmp/sum",
  );
}

async function units(guest: SystemdVm): Promise<string> {
  const { stdout } = await guest.try(
    "systemctl is-active elasticdrive elasticdrive-attach s3.mount | paste -sd ' '",
  );
  return stdout;
}

async function untilActive(guest: SystemdVm): Promise<void> {
  const all = "elasticdrive elasticdrive-attach s3.mount";
  await guest.run(
    `until [ "$(systemctl is-active ${all} | grep -cx active)" = 3 ]; do sleep 0.2; done`,
  );
}

Deno.test("install.sh on Debian with systemd, without a network and without nbd-client", async (t) => {
  await using scratch = await Scratch.make();
  await using guest = await SystemdVm.boot({
    payload: {
      "this.tar": await packageTar(scratch, VERSION),
      "next.tar": await packageTar(scratch, NEXT_VERSION),
    },
  });
  await guest.run("tar -xf /payload/this.tar -C /opt");
  // each goes on where the one before has left the machine
  const step = async (name: string, act: () => Promise<void>) => {
    if (!await t.step(name, act)) throw new Error(`what follows needs: ${name}`);
  };

  await step("all that is missing is said at once, and nothing is changed", async () => {
    await guest.run(
      "cd /lib/modules/*/kernel/drivers/block && mv nbd.ko /root && depmod && mkdir /full && touch /full/file",
    );
    await guest.run(`{ ${LOOK}; } >/tmp/before`);
    const { code, stdout } = await guest.try(
      `PATH=/usr/bin:/bin:/sbin:/none; ${PACKAGE}/install.sh --unattended --nbd-client --mount /full --fs btrfs`,
    );
    assertEquals(code, 1, stdout);
    assertMatch(stdout, /^install.sh: nothing was changed; it lacks:$/m);
    assertMatch(stdout, /- --fs can't be "btrfs"; allowed: ext4 or xfs/);
    assertMatch(
      stdout,
      /- the kernel \S+ has no module nbd: install the package that has it \(Debian: linux-image-amd64/,
    );
    assertMatch(
      stdout,
      /- nbd-client is missing: install the package nbd-client .* or leave --nbd-client away/,
    );
    assertMatch(stdout, /- \/full is not empty/);
    assertMatch(stdout, /- a bucket: give --bucket/);
    assertEquals(stdout.match(/^ {2}- /gm)?.length, 5, stdout);
    await guest.run(CHANGES);
    await guest.run("mv /root/nbd.ko /lib/modules/*/kernel/drivers/block/ && depmod");
  });

  await step("one command leads from the package to a mounted file system", async () => {
    await guest.run(`{ ${LOOK}; } >/tmp/before`);
    const planned = await guest.run(`${PACKAGE}/install.sh ${DRIVE} --dry-run`);
    await guest.run(CHANGES);
    const said = await guest.run(`${PACKAGE}/install.sh ${DRIVE}`);
    assertStringIncludes(said, `ElasticDrive ${VERSION}: /dev/nbd0 at /s3`);
    assertEquals(planned.split("\n").sort(), said.split("\n").slice(0, -1).sort());
    await guest.run("mountpoint -q /s3 && echo hello >/s3/hello");
    assertEquals(await units(guest), "active active active");
    assertEquals(await guest.run("stat -c '%a %U' /opt/elasticdrive/config.ini"), "600 root");
    assertEquals(
      await guest.run("/opt/elasticdrive/elasticdrive --version"),
      `elasticdrive ${VERSION}`,
    );
    assertMatch(
      await guest.run("cd / && /opt/elasticdrive/elasticdrive check-config"),
      /^\/opt\/elasticdrive\/config.ini$/m,
    );
  });

  await step("the service is confined, and the kernel knows what depends on it", async () => {
    const security = await guest.run("systemd-analyze security elasticdrive.service | tail -n 1");
    const exposure = Number(/: (\d\.\d) /.exec(security)![1]);
    assert(exposure < 2.5, security);
    await guest.run("systemctl status elasticdrive | grep -q 'Status: .*stored'");
    const pid = await guest.run("systemctl show -p MainPID --value elasticdrive");
    assertEquals(await guest.run(`stat -c %U /proc/${pid}`), "elasticdrive");
    assertEquals(await guest.run(`cat /proc/${pid}/oom_score_adj`), "-1000");
    const flags = Number(await guest.run(`cut -d ' ' -f 9 /proc/${pid}/stat`)); // proc(5)
    assert(flags & 0x00080000, "PF_MEMALLOC_NOIO of <linux/sched.h> is not set");
  });

  await step("a second run changes nothing", async () => {
    await guest.run("sync");
    await guest.run(`{ ${LOOK}; } >/tmp/before`);
    assertStringIncludes(await guest.run(`${PACKAGE}/install.sh ${DRIVE}`), "nothing was changed");
    await guest.run(CHANGES);
  });

  await step(
    "the program is killed under a file system: systemd starts it again, what is asked meanwhile waits, nothing is lost",
    async () => {
      // acknowledged and not flushed: neither the bucket has it nor the kernel
      await guest.run(
        `dd if=/dev/urandom of=/root/unflushed bs=1M count=4 2>/dev/null
        pid=$(systemctl show -p MainPID --value elasticdrive)
        dd if=/root/unflushed of=/s3/unflushed bs=1M oflag=direct 2>/dev/null
        kill -9 $pid`,
      );
      await startWriting(guest, "/s3/killed");
      await assertWritten(guest);
      await guest.run(
        `until journalctl -b -u elasticdrive-attach | grep 'nbd0: attached again'; do sleep 0.2; done
        journalctl -b -u elasticdrive | grep 'changes that were not stored are made again'
        echo 3 >/proc/sys/vm/drop_caches
        cmp /root/unflushed /s3/unflushed`,
      );
      assertEquals(await guest.run("cat /s3/hello"), "hello");
      await untilActive(guest);
    },
  );

  await step("systemctl restart: the file system stays mounted and waits", async () => {
    const mount = await guest.run("mountpoint -d /s3; grep ' /s3 ' /proc/self/mountinfo");
    await startWriting(guest, "/s3/restarted");
    await guest.run("systemctl restart elasticdrive");
    await assertWritten(guest);
    assertEquals(await guest.run("mountpoint -d /s3; grep ' /s3 ' /proc/self/mountinfo"), mount);
    await untilActive(guest);
  });

  await step("a further drive has a device and units of its own", async () => {
    const second = "--unattended --name second --bucket file:/var/lib/second --size 32M";
    const said = await guest.run(
      `${PACKAGE}/install.sh ${second} --mount /mnt/second --fs ext4 --format`,
    );
    assertStringIncludes(said, "/dev/nbd1 at /mnt/second");
    await guest.run("mountpoint -q /mnt/second && echo second >/mnt/second/file");
    await guest.run(
      "systemctl is-active elasticdrive@second elasticdrive-attach@second 'mnt-second.mount'",
    );
    const status = "status: http://127.0.0.1:9997/";
    await guest.run(`journalctl -o cat -u elasticdrive@second | grep -F '${status}'`);
    const { code, stdout } = await guest.try(`${PACKAGE}/install.sh ${second} --device /dev/nbd0`);
    assertEquals(code, 1, stdout);
    assertMatch(
      stdout,
      /- the drive is attached to \/dev\/nbd1: systemctl stop elasticdrive-attach@second.service first/,
    );
  });

  await step(
    "shut down with data that was never synced, it is all there and mounted at the next boot",
    async () => {
      await guest.run(
        "dd if=/dev/urandom of=/s3/dirty bs=64k count=200 2>/dev/null; sha256sum /s3/dirty >/root/sum; sync -f /root/sum",
      );
      await guest.reboot();
      await untilActive(guest);
      await guest.run("sha256sum -c /root/sum");
      assertEquals(await guest.run("cat /s3/hello /mnt/second/file"), "hello\nsecond");
      const order =
        /Unmounted s3.mount[^]*nbd0: detached, everything is stored[^]*stopped after .*: everything is stored/;
      const journal = await guest.run("journalctl --no-pager -b -1");
      assertMatch(journal, order);
      assert(
        !/elasticdrive.*(SIGKILL|status=9)|I\/O error/.test(journal.slice(journal.search(order))),
        journal,
      );
    },
  );

  await step(
    "an upgrade keeps what is mounted and what was edited, and can be taken back",
    async () => {
      await guest.run("sed -i 's/^cachesize=.*/cachesize=512/' /opt/elasticdrive/config.ini");
      await startWriting(guest, "/s3/upgraded");
      const said = await guest.run(
        `tar -xf /payload/next.tar -C /root; /root/elasticdrive-${NEXT_VERSION}/install.sh ${DRIVE}`,
      );
      assertStringIncludes(said, "/opt/elasticdrive/config.ini is there and is left as it is");
      assertEquals(
        await guest.run("/opt/elasticdrive/elasticdrive --version"),
        `elasticdrive ${NEXT_VERSION}`,
      );
      await assertWritten(guest);
      const program = "readlink /proc/$(systemctl show -p MainPID --value elasticdrive)/exe";
      assertEquals(await guest.run(program), `${NEXT_PACKAGE}/elasticdrive`);
      await guest.run("grep -qx cachesize=512 /opt/elasticdrive/config.ini");

      await guest.run(`${NEXT_PACKAGE}/install.sh --rollback`);
      assertEquals(await guest.run(program), `${PACKAGE}/elasticdrive`);
      await untilActive(guest);
      assertEquals(await guest.run("cat /s3/hello /mnt/second/file"), "hello\nsecond");
    },
  );

  await step(
    "systemctl stop unmounts and detaches; systemctl start brings all back",
    async () => {
      await guest.run("systemctl stop elasticdrive");
      assertEquals(await units(guest), "inactive inactive inactive");
      assertEquals(await guest.run("cat /sys/block/nbd0/size"), "0");
      await guest.run("systemctl start elasticdrive");
      await untilActive(guest);
      assertEquals(await guest.run("cat /s3/hello"), "hello");
    },
  );

  await step("a device that is not empty is never formatted", async () => {
    await guest.run(
      "systemctl stop s3.mount && rm /etc/systemd/system/s3.mount && systemctl daemon-reload",
    );
    const { code, stdout } = await guest.try(`${PACKAGE}/install.sh ${DRIVE} --fs xfs`);
    assertEquals(code, 1, stdout);
    assertMatch(stdout, /\/dev\/nbd0 is not empty, it holds ext4: nothing is formatted/);
    await guest.run(`${PACKAGE}/install.sh ${DRIVE}`);
    assertEquals(await guest.run("cat /s3/hello"), "hello");
  });

  await step("a drive whose machine is gone without a word is waited for", async () => {
    const config = "[s3]\\nBUCKET=file:/var/lib/lost\\nVOLUMESIZE=32M\\n[server]\\nport=0\\n";
    await guest.run(
      `here=$(hostname); hostname elsewhere; printf '${config}' >/root/lost.ini
      /opt/elasticdrive/elasticdrive -c /root/lost.ini 2>/root/lost.log & pid=$!
      until grep -q ready /root/lost.log; do sleep 0.2; done
      kill -9 $pid; hostname "$here"`,
    );
    const said = await guest.run(
      `${PACKAGE}/install.sh --unattended --name lost --bucket file:/var/lib/lost`,
      300,
    );
    assertStringIncludes(said, "another machine holds the drive");
    await guest.run(
      `systemctl is-active elasticdrive@lost elasticdrive-attach@lost
      ${PACKAGE}/install.sh --purge --name lost`,
    );
  });

  await step("while it is in use nothing is removed", async () => {
    await guest.run("sleep 1000 </s3/hello >/dev/null 2>&1 & echo $! >/tmp/user");
    const { code, stdout } = await guest.try(`${PACKAGE}/install.sh --uninstall`);
    assertEquals(code, 1, stdout);
    assertMatch(stdout, /s3.mount does not stop: is it in use\?/);
    assertEquals(await units(guest), "active active active");
    await guest.run("kill $(cat /tmp/user)");
  });

  await step("--uninstall leaves data and configuration, --purge the data alone", async () => {
    await guest.run(`${PACKAGE}/install.sh --uninstall`);
    const names =
      "find /opt /etc/systemd /etc/modules-load.d /etc/modprobe.d /s3 /mnt -path '*lastic*' -o -path '/s3*' -o -path '/mnt/*'";
    const left = (await guest.try(`${names} 2>/dev/null | sort`)).stdout;
    assertEquals(
      left,
      "/opt/elasticdrive\n/opt/elasticdrive/config.ini\n/opt/elasticdrive/second.ini",
    );
    assertEquals((await guest.try("id elasticdrive")).code, 1);
    await guest.run("test -s /var/lib/drive/volume.json");

    await guest.run(
      `tar -xf /payload/this.tar -C /opt; ${PACKAGE}/install.sh --unattended --mount /s3`,
    );
    assertEquals(await guest.run("cat /s3/hello"), "hello");
    await guest.run(`${PACKAGE}/install.sh --purge`);
    assertEquals((await guest.try(`${names} 2>/dev/null | sort`)).stdout, "");
    await guest.run("test -s /var/lib/drive/volume.json && test -s /var/lib/second/volume.json");
  });
});
