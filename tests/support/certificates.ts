/**
 * An authority and what it signed, made anew by openssl, in a directory laid out as libnbd, QEMU and nbdkit want it:
 * ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem.
 */
import { run } from "./programs.ts";
import { Scratch } from "./scratch.ts";

const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

export class Certificates implements AsyncDisposable {
  readonly #scratch: Scratch;

  private constructor(scratch: Scratch) {
    this.#scratch = scratch;
  }

  static async make(): Promise<Certificates> {
    const made = new Certificates(await Scratch.make());
    await made.#make("ca", ["basicConstraints=critical,CA:true", "keyUsage=critical,keyCertSign"]);
    for (const name of ["server", "client"]) {
      const names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
      const authority = ["-CA", made.authority, "-CAkey", made.file("ca-key.pem")];
      await made.#make(name, ["basicConstraints=CA:false", names], authority);
    }
    return made;
  }

  /** For all tests of a file: they are gone when it ends. */
  static async makeForFile(): Promise<Certificates> {
    const made = await Certificates.make();
    globalThis.addEventListener("unload", () => {
      Deno.removeSync(made.directory, { recursive: true });
    });
    return made;
  }

  get directory(): string {
    return this.#scratch.path;
  }

  file(name: string): string {
    return this.#scratch.file(name);
  }

  /** Lines of `[server]` that lead to them. */
  get server(): Record<"tlscert" | "tlskey", string> {
    return { tlscert: this.file("server-cert.pem"), tlskey: this.file("server-key.pem") };
  }

  get authority(): string {
    return this.file("ca-cert.pem");
  }

  /** The client's certificate as it would be if it had ended yesterday. */
  async expired(): Promise<string> {
    const [request, certificate] = [this.file("client-request.pem"), this.file("expired-cert.pem")];
    const key = ["-key", this.file("client-key.pem")];
    await run("openssl", ["req", "-new", ...key, "-subj", "/CN=client", "-out", request]);
    const authority = ["-CA", this.authority, "-CAkey", this.file("ca-key.pem")];
    const signed = ["-days", "-1", "-out", certificate];
    await run("openssl", ["x509", "-req", "-in", request, ...authority, ...signed]);
    return certificate;
  }

  /** A directory with some of the files. */
  async only(...names: string[]): Promise<Scratch> {
    const scratch = await Scratch.make();
    for (const name of names) await Deno.copyFile(this.file(name), scratch.file(name));
    return scratch;
  }

  async #make(name: string, extensions: string[], authority: string[] = []): Promise<void> {
    const files = ["-keyout", this.file(`${name}-key.pem`), "-out", this.file(`${name}-cert.pem`)];
    const added = extensions.flatMap((extension) => ["-addext", extension]);
    const subject = ["-subj", `/CN=${name} of a test`, "-days", "2"];
    await run("openssl", [
      "req",
      "-x509",
      ...NEW_KEY,
      ...files,
      ...subject,
      ...added,
      ...authority,
    ]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scratch[Symbol.asyncDispose]();
  }
}
