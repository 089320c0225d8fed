/**
 * Ceph's S3 server for the length of a test: `await using ceph = await startCeph();`
 *
 * The daemons are children of ceph.sh, which ends them when its stdin closes: also when a test fails, and when
 * the test process is killed. Needs Debian's ceph-mon, ceph-osd, ceph-common and radosgw; fails without.
 */
import { TextLineStream } from "./text_lines.ts";

const SCRIPT = new URL("./ceph.sh", import.meta.url).pathname;

export type Daemon = "rgw" | "osd" | "mon";

export interface Ceph extends AsyncDisposable {
  /** `http://127.0.0.1:PORT` */
  readonly endpoint: string;
  /** `https://127.0.0.1:PORT`, with `tls` only. */
  readonly endpointTls: string;
  /** The CA that signed the certificate: a client trusts it by DENO_CERT. */
  readonly caFile: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** A user who owns nothing and may nothing. */
  readonly other: { accessKeyId: string; secretAccessKey: string };
  /** SIGKILL: connections are reset and the port refuses. */
  kill(daemon?: Daemon): Promise<void>;
  /** Runs a killed daemon again on the same data; resolves when S3 answers. */
  start(daemon?: Daemon): Promise<void>;
  /** SIGSTOP: connections stay open and nothing answers. */
  freeze(daemon?: Daemon): Promise<void>;
  thaw(daemon?: Daemon): Promise<void>;
  /** Runs radosgw-admin; "test" is the uid of the user with the keys above. */
  admin(args: string): Promise<void>;
}

/** A TCP port of 127.0.0.1 that was free just now. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Starts a server; 1 to 3 s. `tls` gives it an https port too, `bluestore` data that outlive osd and mon. */
export async function startCeph(
  options: { tls?: boolean; bluestore?: boolean } = {},
): Promise<Ceph> {
  const parent = await Deno.makeTempDir({ prefix: "elasticdrive-ceph-" });
  const directory = `${parent}/ceph`;
  const ports = Array.from({ length: options.tls ? 3 : 2 }, freePort);
  const script = new Deno.Command(SCRIPT, {
    args: [directory, ...ports.map(String)],
    env: {
      ACCESS: "testaccess",
      SECRET: "testsecret",
      STORE: options.bluestore ? "bluestore" : "memstore",
    },
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const stdin = script.stdin.getWriter();
  const lines = script.stdout.pipeThrough(new TextLineStream()).getReader();

  const expect = async (answer: string) => {
    const { value } = await lines.read();
    if (value !== answer) throw new Error(`ceph.sh said ${value ?? "nothing more"}, not ${answer}`);
  };
  const obey = async (command: string) => {
    await stdin.write(new TextEncoder().encode(`${command}\n`));
    await expect("done");
  };
  const stop = async () => {
    await stdin.close().catch(() => {}); // closed already if the script is gone
    await lines.cancel();
    await script.status;
    await Deno.remove(parent, { recursive: true });
  };

  try {
    await expect("ready");
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    endpoint: `http://127.0.0.1:${ports[0]}`,
    endpointTls: `https://127.0.0.1:${ports[2]}`,
    caFile: `${directory}/ca.crt`,
    accessKeyId: "testaccess",
    secretAccessKey: "testsecret",
    other: { accessKeyId: "otheraccess", secretAccessKey: "othersecret" },
    kill: (daemon = "rgw") => obey(`kill ${daemon}`),
    start: (daemon = "rgw") => obey(`start ${daemon}`),
    freeze: (daemon = "rgw") => obey(`freeze ${daemon}`),
    thaw: (daemon = "rgw") => obey(`thaw ${daemon}`),
    admin: (args) => obey(`admin ${args}`),
    [Symbol.asyncDispose]: stop,
  };
}
