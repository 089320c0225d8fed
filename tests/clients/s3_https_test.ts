/** A bucket that is reached over TLS, with a certificate of an authority that DENO_CERT names. */
import { startCeph } from "../support/ceph.ts";
import { Drive } from "../support/drive.ts";
import { run } from "../support/programs.ts";

Deno.test("what is written over HTTPS is read over HTTPS", async () => {
  await using ceph = await startCeph({ tls: true });
  const start = () =>
    Drive.startWith(
      `[s3]\nENDPOINT=${ceph.endpointTls}\nAWS_ACCESS_KEY_ID=${ceph.accessKeyId}\n` +
        `AWS_SECRET_ACCESS_KEY=${ceph.secretAccessKey}\nBUCKET=drive\nVOLUMESIZE=64M\n` +
        `[server]\nsocket=nbd.sock\ncachesize=128\n`, // 8 MiB: what is read comes from the bucket
      [],
      { DENO_CERT: ceph.caFile },
    );
  const disk = ["1 0 4k", "2 2M 1M", "3 3M 20M"];
  const all = (verb: string) => disk.flatMap((part) => ["-c", `${verb} -P ${part}`]);
  await using writer = await start();
  await run("qemu-io", ["-f", "raw", ...all("write"), "-c", "flush", writer.uri]);
  await writer.stopClean();
  await using reader = await start();
  const nothing = ["-c", "read -P 0 4k 1M", "-c", "read -P 0 23M 1M"];
  await run("qemu-io", ["-f", "raw", ...all("read"), ...nothing, reader.uri]);
  await reader.stopClean();
});
