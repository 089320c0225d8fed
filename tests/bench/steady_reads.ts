/** A client that keeps so many reads of 4 KiB in flight, in simple replies, for as long as it is told. */
import { BLOCK_BYTES } from "../../src/limits.ts";
import { NBD_OPT_GO, SIMPLE_REPLY_BYTES } from "../../src/nbd/constants.ts";
import { Client, exportRequest, request } from "../unit/nbd/session.ts";

const REPLY_BYTES = SIMPLE_REPLY_BYTES + BLOCK_BYTES;

export class SteadyReads {
  readonly #conn: Deno.Conn;
  readonly #requests: Uint8Array;
  readonly #received = new Uint8Array(256 * 1024);
  readonly #depth: number;

  private constructor(conn: Deno.Conn, depth: number) {
    this.#conn = conn;
    this.#depth = depth;
    const all = Array.from({ length: depth }, (_, i) => [
      ...request({ type: 0, offset: i * BLOCK_BYTES, length: BLOCK_BYTES }),
    ]);
    this.#requests = new Uint8Array(all.flat());
  }

  static async connect(path: string, depth: number): Promise<SteadyReads> {
    const conn = await Deno.connect({ transport: "unix", path });
    const client = new Client(conn);
    await client.greet();
    await client.option(NBD_OPT_GO, exportRequest(""));
    return new SteadyReads(conn, depth);
  }

  /** Returns how many were answered; all of them are. */
  async run(milliseconds: number): Promise<number> {
    const endMs = performance.now() + milliseconds;
    let answered = 0;
    let bytes = 0;
    for (let asked = await this.#ask(this.#depth); asked > answered;) {
      bytes += (await this.#conn.read(this.#received))!;
      const now = Math.floor(bytes / REPLY_BYTES) - answered;
      answered += now;
      if (now > 0 && performance.now() < endMs) asked += await this.#ask(now);
    }
    return answered;
  }

  async #ask(count: number): Promise<number> {
    const bytes = this.#requests.subarray(0, count * this.#requests.length / this.#depth);
    for (let sent = 0; sent < bytes.length;) sent += await this.#conn.write(bytes.subarray(sent));
    return count;
  }

  close(): void {
    this.#conn.close();
  }
}
