/** The service and a bucket that is slow, or away: at shutdown, at boot, and at a stop. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { startCeph } from "../support/ceph.ts";
import { packageTar, VERSION } from "../support/package_tar.ts";
import { startS3Proxy } from "../support/s3_proxy.ts";
import { Scratch } from "../support/scratch.ts";
import { SystemdVm } from "../support/systemd_vm.ts";

/** Each request takes so long: a stop needs several, one after the other. */
const SLOW_MS = 1500;
/** In place of the unit's quarter of an hour. */
const STOP_S = 4;

Deno.test("a service whose bucket is slow or away", async (t) => {
  await using scratch = await Scratch.make();
  await using ceph = await startCeph();
  await using proxy = startS3Proxy(ceph.endpoint);
  const slow = () => new Promise<"pass">((resolve) => setTimeout(() => resolve("pass"), SLOW_MS));
  await using guest = await SystemdVm.boot({
    payload: { "this.tar": await packageTar(scratch, VERSION) },
    network: true,
  });
  const step = async (name: string, act: () => Promise<void>) => {
    if (!await t.step(name, act)) throw new Error(`what follows needs: ${name}`);
  };
  const endpoint = proxy.endpoint.replace("127.0.0.1", "10.0.2.2");
  await guest.run(
    `tar -xf /payload/this.tar -C /opt
    export AWS_ACCESS_KEY_ID=${ceph.accessKeyId} AWS_SECRET_ACCESS_KEY=${ceph.secretAccessKey}
    export ELASTICDRIVE_BUCKET=drive ELASTICDRIVE_SIZE=64M ELASTICDRIVE_SET=ENDPOINT=${endpoint}
    ELASTICDRIVE_FORMAT=yes /opt/elasticdrive-${VERSION}/install.sh --unattended --mount /s3
    mkdir -p /etc/systemd/system/elasticdrive.service.d
    printf '[Service]\\nTimeoutStopSec=${STOP_S}s\\n' >/etc/systemd/system/elasticdrive.service.d/test.conf
    systemctl daemon-reload`,
  );

  await step(
    "shut down, it takes the time that storing takes, far beyond the unit's limit",
    async () => {
      await guest.run(
        "dd if=/dev/urandom of=/s3/dirty bs=64k count=160 2>/dev/null; sha256sum /s3/dirty >/root/sum; sync -f /root/sum",
      );
      proxy.treat = slow;
      await guest.powerOff(300);
      proxy.treat = () => "pass";
    },
  );

  await step(
    "with the bucket away the machine boots without it; when it is back, all that was written is mounted",
    async () => {
      proxy.refuse();
      await guest.start();
      // by its level, which the journal has to have understood
      const errors = await guest.run("journalctl -b -p err -u elasticdrive");
      assertMatch(errors, /error: .*drive/);
      proxy.accept();
      await guest.run("until mountpoint -q /s3; do sleep 0.2; done; sha256sum -c /root/sum");
      const before = await guest.run(
        "journalctl --no-pager -b -1 -u elasticdrive -u elasticdrive-attach -u s3.mount",
      );
      assertMatch(
        before,
        /nbd0: detached, everything is stored[^]*stopped after .*: everything is stored/,
      );
      const [, seconds] = /stopped after ([\d.]+) s: everything/.exec(before)!;
      assert(Number(seconds) > STOP_S, `nothing to wait for: ${seconds} s`);
      assert(!/SIGKILL|timed out/.test(before), before);
    },
  );

  await step(
    "a stop with the bucket away ends at the unit's limit, and says what is not stored; systemctl says why it waits",
    async () => {
      await guest.run("systemctl stop s3.mount");
      proxy.refuse();
      await guest.run("dd if=/dev/urandom of=/dev/nbd0 bs=64k count=64 seek=500 2>/dev/null");
      await guest.run(
        "until systemctl show -p StatusText --value elasticdrive | grep 'not stored yet; waiting for s3://drive'; do sleep 0.2; done",
      );
      await guest.run("systemctl stop --no-block elasticdrive");
      await guest.run(
        "until journalctl -b -u elasticdrive | grep 'given up: [0-9]* bytes were not stored'; do sleep 0.2; done",
      );
      await guest.run("until systemctl is-failed elasticdrive; do sleep 0.2; done");
      assertEquals(await guest.run("systemctl show -p ExecMainStatus --value elasticdrive"), "4");
      await guest.cutPower();
    },
  );
});
