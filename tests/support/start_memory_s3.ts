/** The S3 server of memory_s3.ts in a process of its own: `await using s3 = await startMemoryS3();` */
import { HeardLines } from "./heard_lines.ts";
import type { Counts, Settings } from "./memory_s3.ts";

const PROGRAM = new URL("./memory_s3.ts", import.meta.url).pathname;
const READY_S = 30;

export interface MemoryS3 extends AsyncDisposable {
  /** `http://127.0.0.1:PORT`; any keys will do. */
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** From the next request on. */
  set(settings: Partial<Settings>): Promise<void>;
  /** Since the start, or the last `resetCounts`. */
  counts(): Promise<Counts>;
  resetCounts(): Promise<void>;
  /** Removes a bucket with all that is in it. */
  forget(bucket: string): Promise<void>;
}

export async function startMemoryS3(): Promise<MemoryS3> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-net=127.0.0.1", PROGRAM],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const said = new HeardLines(child.stdout, "memory_s3.ts");
  const port = (await said.until(/^ready /, READY_S)).slice("ready ".length);
  const endpoint = `http://127.0.0.1:${port}`;
  const control = async (what: string, init: RequestInit = {}) =>
    await (await fetch(`${endpoint}/-/${what}`, init)).json();
  return {
    endpoint,
    accessKeyId: "anyaccess",
    secretAccessKey: "anysecret",
    set: (settings) => control("settings", { method: "POST", body: JSON.stringify(settings) }),
    counts: () => control("counts"),
    resetCounts: () => control("counts", { method: "DELETE" }),
    forget: (bucket) => control(bucket, { method: "DELETE" }),
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.status;
      await said.ended;
    },
  };
}
