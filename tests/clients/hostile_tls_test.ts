/** Clients by TLS that mean harm, or are badly broken, against the compiled program: what they cost, and that others don't notice. */
import { assert, assertMatch } from "@std/assert";
import {
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_OPT_GO,
  NBD_OPT_LIST,
  NBD_OPT_STARTTLS,
} from "../../src/nbd/constants.ts";
import { writeAll } from "../../src/nbd/socket.ts";
import { Certificates } from "../support/certificates.ts";
import type { Drive } from "../support/drive.ts";
import { within } from "../support/programs.ts";
import { secureUri, startSecure } from "../support/secure_drive.ts";
import { SteadyClient } from "../support/steady_client.ts";
import { testInDirectory } from "../support/test_buckets.ts";
import { loadTlsClient, TlsClient, type TlsClientOptions } from "../support/tls_client.ts";
import { Client, exportRequest, join, optionBytes, request, until } from "../unit/nbd/session.ts";

const MIB = 1 << 20;
/** At once; with more the oldest would give way, being in the handshake. */
const TOGETHER = 8;
const ROUNDS = 6;
/**
 * What the drive may grow by, by other things that it does, each time that clients go all ways; 15 MiB was seen. Sessions
 * of OpenSSL that stay are 50 MiB, sockets that stay 190 MiB.
 */
const GROWTH_BYTES_MAX = 30 * MIB;
const TIMES_MIN = 3;
const TIMES_MAX = 5;

const GO = optionBytes(NBD_OPT_GO, exportRequest(""));
const WRITE = request({ type: NBD_CMD_WRITE, length: 4096 });
const GARBAGE = new Uint8Array(1000).fill(23);

/** A connection on which NBD_OPT_STARTTLS was acknowledged. */
async function begin(drive: Drive): Promise<Deno.Conn> {
  const client = new Client(await Deno.connect({ port: drive.port }));
  await client.greet();
  await client.option(NBD_OPT_STARTTLS);
  return client.conn;
}

function openFiles(drive: Drive): number {
  return [...Deno.readDirSync(`/proc/${drive.pid}/fd`)].length;
}

/** Writes on until nothing has been taken for a while; `written` is what waits then, and ends with the drive. */
async function flood(
  conn: Deno.Conn,
  more: () => Uint8Array,
): Promise<{ written: Promise<unknown> }> {
  for (;;) {
    const written = writeAll(conn, more()).then(() => "taken", () => "gone");
    let timer = 0;
    const late = new Promise((resolve) => timer = setTimeout(resolve, 2000, "late"));
    const what = await Promise.race([written, late]);
    clearTimeout(timer);
    if (what !== "taken") return { written };
  }
}

loadTlsClient();

testInDirectory({
  "clients that break TLS off, or are strangers, leave nothing behind, and others go on": async (
    bucket,
  ) => {
    await using certificates = await Certificates.make();
    await using strangers = await Certificates.make();
    const own = {
      certificate: certificates.file("client-cert.pem"),
      key: certificates.file("client-key.pem"),
    };
    const expired = { ...own, certificate: await certificates.expired() };
    const foreign = {
      certificate: strangers.file("client-cert.pem"),
      key: strangers.file("client-key.pem"),
    };
    await using drive = await startSecure(bucket, certificates, { size: "16M" });
    await using steady = await SteadyClient.start(secureUri(drive, certificates.directory));

    const inTls = (
      say: (tls: TlsClient) => Uint8Array,
      options: TlsClientOptions = own,
    ) =>
    async (conn: Deno.Conn) => {
      using tls = new TlsClient(options);
      await tls.handshake(conn);
      await writeAll(conn, say(tls));
    };
    const half = (say: (hello: Uint8Array) => Uint8Array) => async (conn: Deno.Conn) => {
      using tls = new TlsClient(own);
      await writeAll(conn, say(tls.advance().flight));
    };
    const ways = [
      (conn: Deno.Conn) => writeAll(conn, GO),
      half((hello) => hello),
      half((hello) => hello.subarray(0, 100)),
      half((hello) => join(hello, GARBAGE)),
      inTls(() => GO, {}),
      inTls(() => GO, foreign),
      inTls(() => GO, expired),
      inTls(() => GARBAGE),
      inTls((tls) => tls.data(GO).subarray(0, 20)),
      inTls((tls) => join(tls.data(join(GO, WRITE)), GARBAGE)),
      inTls((tls) => join(tls.data(GO), tls.keyUpdates(1000))),
    ];
    const attempt = async (way: (conn: Deno.Conn) => Promise<void>, waits: boolean) => {
      const conn = await begin(drive);
      try {
        await way(conn);
        if (waits) await conn.closeWrite();
        while (waits && await conn.read(new Uint8Array(4096)) !== null);
      } catch { /* it was cut off, which it was to be */ }
      conn.close();
    };
    /** The least memory meanwhile: what waits to be collected is tens of MiB, at any one moment more or less. */
    const allWays = async (rounds = ROUNDS) => {
      let bytesMin = Infinity;
      for (let round = 0; round < rounds; round++) {
        for (const way of ways) {
          const attempts = Array.from({ length: TOGETHER }, (_, n) => attempt(way, n % 2 === 0));
          await within(20, "clients that break off", Promise.all(attempts));
          bytesMin = Math.min(bytesMin, drive.memoryBytes("VmRSS"));
        }
      }
      return bytesMin;
    };
    const files = openFiles(drive);
    await allWays(2); // then it has what it needs at work
    const least: number[] = [];
    let growth = 0;
    do {
      least.push(await allWays());
      growth = (least.at(-1)! - least[0]) / (least.length - 1);
    } while (least.length < TIMES_MIN || growth > GROWTH_BYTES_MAX && least.length < TIMES_MAX);
    const mib = least.map((bytes) => Math.round(bytes / MIB));
    assert(growth <= GROWTH_BYTES_MAX, `${mib} MiB, time after time`);
    await until(() => openFiles(drive) <= files, "the connections are gone");
    await steady.goesOn(60);
    await steady.endIntact();
    await drive.stopClean();
    for (const why of [/certificate has expired/, /bad record mac|wrong version/, /without data/]) {
      assertMatch(drive.stderr, why);
    }
    assert(!/this should not happen|ERROR|Uncaught/.test(drive.stderr), drive.stderr);
  },

  "clients by TLS that take nothing, dawdle or stay in the handshake keep nobody out, nor the drive from stopping":
    async (bucket) => {
      await using certificates = await Certificates.make();
      await using drive = await startSecure(bucket, certificates, { mutual: false });
      await using steady = await SteadyClient.start(secureUri(drive, certificates.directory));
      const conns: Deno.Conn[] = [];
      using clients = new DisposableStack();
      const connect = async () => {
        const conn = conns[conns.push(await begin(drive)) - 1];
        const tls = clients.use(new TlsClient());
        await tls.handshake(conn);
        return { conn, tls };
      };
      const floods: ReturnType<typeof flood>[] = [];
      const reads = join(...Array(50).fill(request({ type: NBD_CMD_READ, length: MIB })));
      for (let count = 0; count < 4; count++) {
        const { conn, tls } = await connect();
        await writeAll(conn, tls.data(GO));
        floods.push(flood(conn, () => tls.data(reads)));
      }
      for (let count = 0; count < 2; count++) {
        const { conn, tls } = await connect();
        floods.push(flood(conn, () => tls.keyUpdates(1000)));
        const other = await connect();
        const lists = join(...Array(100).fill(optionBytes(NBD_OPT_LIST)));
        floods.push(flood(other.conn, () => other.tls.data(lists)));
      }
      const waiting = await Promise.all(floods);
      const { conn, tls } = await connect();
      for (const byte of tls.data(GO)) await conn.write(Uint8Array.of(byte));
      for (let count = 0; count < 40; count++) conns.push(await begin(drive));
      await steady.goesOn(60);
      const late = await connect();
      await writeAll(late.conn, late.tls.data(GO));
      assert((await late.conn.read(new Uint8Array(1000)))! > 0);
      await steady.goesOn(60);
      const stated = /at most ([\d.]+) (MiB|GiB) of memory/.exec(drive.readyLine)!;
      const bound = Number(stated[1]) * (stated[2] === "GiB" ? 1024 * MIB : MIB);
      const peak = drive.memoryBytes("VmHWM");
      assert(peak <= bound, `${peak / MIB} MiB of ${bound / MIB}`);
      await steady.endIntact();
      await drive.stopClean();
      await Promise.all(waiting.map(({ written }) => written));
      for (const conn of conns) conn.close();
    },
});
