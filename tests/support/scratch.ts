/** Files for the length of a test: `await using scratch = await Scratch.make();` */

const MIB = 1 << 20;

export class Scratch implements AsyncDisposable {
  private constructor(readonly path: string) {}

  static async make(): Promise<Scratch> {
    return new Scratch(await Deno.makeTempDir({ prefix: "elasticdrive-test-" }));
  }

  file(name: string): string {
    return `${this.path}/${name}`;
  }

  async write(name: string, text: string): Promise<string> {
    await Deno.writeTextFile(this.file(name), text, { mode: 0o600 });
    return this.file(name);
  }

  /** A file of `mib` MiB of random bytes. */
  async random(name: string, mib: number): Promise<string> {
    using file = await Deno.open(this.file(name), { write: true, create: true });
    const buffer = new Uint8Array(MIB);
    for (let n = 0; n < mib; n++) {
      for (let at = 0; at < MIB; at += 65536) {
        crypto.getRandomValues(buffer.subarray(at, at + 65536));
      }
      for (let done = 0; done < MIB;) done += await file.write(buffer.subarray(done));
    }
    return this.file(name);
  }

  /** A file of `mib` MiB without a byte in it: all of it a hole. */
  async hole(name: string, mib: number): Promise<string> {
    using file = await Deno.open(this.file(name), { write: true, create: true });
    await file.truncate(mib * MIB);
    return this.file(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}
