/**
 * Debian's kernel in qemu, with the NBD client that users have:
 *
 *   await using guest = await KernelVm.boot({ script: `modprobe nbd; echo "loaded"; ...` });
 *   await guest.says(/^loaded$/);
 *   await guest.succeeds();
 *
 * The guest is an initramfs with busybox and the programs of kernel_vm.sh; nothing is installed and no KVM is
 * needed: qemu translates (TCG), at about a tenth of the machine's speed, and a boot takes three seconds. /program
 * has dist/elasticdrive. Servers on this machine's 127.0.0.1 are at 10.0.2.2 in the guest. Its script is run by
 * `sh -eu`; what it prints are the lines that `says` waits for, and it reads what the test answers. What the kernel
 * has to say comes apart from it, as `kernelLog`.
 *
 * A guest lives as long as the test at most, and no longer than its deadline. Whoever runs several at a time finds two
 * cores too few.
 */
import { assertEquals } from "@std/assert";
import { dirname, join } from "node:path";
import { PROGRAM } from "./drive.ts";
import { HeardLines } from "./heard_lines.ts";
import { run, within } from "./programs.ts";
import { Scratch } from "./scratch.ts";

/** What is made once: named by what makes it, so that nothing stale is found. */
const CACHE = join(dirname(PROGRAM), "vm");
const MAKERS = ["kernel_vm.sh", "kernel_vm_init.sh"].map((name) =>
  new URL(`./${name}`, import.meta.url).pathname
);
/** One boot of fourteen never came to its first process, with two processors; it is tried again. */
const BOOTS_MAX = 3;
const BOOT_S = 60;
/** Of a script, if its test gives no other. */
const DEADLINE_S = 180;

export interface GuestOptions {
  /** Steps of sh. */
  script: string;
  /** Text files for the script, by their path in the guest. */
  files?: Record<string, string>;
  /** Images on this machine: /dev/vdb, /dev/vdc, ... They keep what the guest wrote, also through a power cut. */
  disks?: string[];
  memoryMib?: number;
  cpus?: number;
  /** Seconds from the boot on. */
  deadlineS?: number;
}

export class KernelVm implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #said: HeardLines;
  readonly #errors: HeardLines;
  readonly #scratch: Scratch;
  readonly #endsAt: number;
  #hasEnded = false;

  private constructor(child: Deno.ChildProcess, scratch: Scratch, deadlineS: number) {
    this.#child = child;
    this.#scratch = scratch;
    this.#input = child.stdin.getWriter();
    this.#said = new HeardLines(child.stdout, "the guest");
    this.#errors = new HeardLines(child.stderr, "qemu");
    this.#endsAt = performance.now() + deadlineS * 1000;
  }

  /** Boots a guest; resolves when its script is about to begin. */
  static async boot(options: GuestOptions): Promise<KernelVm> {
    const base = await makeBase();
    const program = await makeProgramDisk();
    for (let boot = 1;; boot++) {
      const scratch = await Scratch.make();
      await writeInitramfs(base, scratch, options);
      const { deadlineS = DEADLINE_S } = options;
      const child = qemu(base, scratch, [program, ...options.disks ?? []], options).spawn();
      const guest = new KernelVm(child, scratch, deadlineS);
      try {
        await guest.#said.until(/^guest: started$/, BOOT_S);
        return guest;
      } catch (error) {
        const about = `${guest.#errors.text}\n${guest.kernelLog}`;
        await guest[Symbol.asyncDispose]();
        if (boot === BOOTS_MAX) throw new Error(`no guest: ${error}\n${about}`);
      }
    }
  }

  /** Lines that the script has printed. */
  get lines(): readonly string[] {
    return this.#said.lines;
  }

  /** What the kernel has said, from warnings up; from its beginning if it is in trouble. */
  get kernelLog(): string {
    return Deno.readTextFileSync(this.#scratch.file("kernel.log")).replaceAll("\r", "");
  }

  /** Resolves to the first line that matches, of those from line `from` on. */
  async says(pattern: RegExp, from = 0): Promise<string> {
    try {
      return await this.#said.until(pattern, this.#secondsLeft(), from);
    } catch (error) {
      throw new Error(`${error}\nthe guest said:\n${this.#said.text}\n${this.kernelLog}`);
    }
  }

  /** A line that the script reads. */
  async answer(line: string): Promise<void> {
    await this.#input.write(new TextEncoder().encode(`${line}\n`));
  }

  /** Waits for the end of the script, which has to be a good one; all that it printed. */
  async succeeds(): Promise<string> {
    const end = await this.says(/^guest: ended with \d+$/);
    const about = `${this.#said.text}\n${this.kernelLog}`;
    assertEquals(end, "guest: ended with 0", about);
    await within(this.#secondsLeft(), "the end of the guest", this.#child.status);
    return this.#said.text;
  }

  /** The whole guest is gone at once: only what it wrote to its disks and sent remains. */
  async cutPower(): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.#end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cutPower();
    await this.#scratch[Symbol.asyncDispose]();
  }

  async #end(): Promise<void> {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    await this.#child.status;
    await this.#input.close().catch(() => {}); // nobody reads it any more
    await Promise.all([this.#said.ended, this.#errors.ended]);
  }

  #secondsLeft(): number {
    return Math.max(0, (this.#endsAt - performance.now()) / 1000);
  }
}

function qemu(
  base: string,
  scratch: Scratch,
  disks: string[],
  { memoryMib = 512, cpus = 1 }: GuestOptions,
): Deno.Command {
  const drives = disks.flatMap((file, at) => [
    "-drive",
    `file=${file},if=virtio,format=raw,cache=unsafe,discard=unmap,readonly=${
      at === 0 ? "on" : "off"
    }`,
  ]);
  const args = [
    ...["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", String(cpus)],
    ...["-m", `${memoryMib}M`, "-nodefaults", "-display", "none", "-no-reboot"],
    ...["-kernel", join(base, "vmlinuz"), "-initrd", scratch.file("initramfs")],
    ...["-append", "console=ttyS0 quiet loglevel=5 panic=-1 net.ifnames=0 mitigations=off"],
    ...["-serial", `file:${scratch.file("kernel.log")}`, "-serial", "stdio"],
    ...["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="],
    ...drives,
  ];
  const program = "qemu-system-x86_64";
  return new Deno.Command(program, { args, stdin: "piped", stdout: "piped", stderr: "piped" });
}

/** The kernel's loader takes several archives one behind the other (its buffer-format.rst), each at a multiple of four. */
async function writeInitramfs(
  base: string,
  scratch: Scratch,
  { script, files }: GuestOptions,
): Promise<void> {
  const all = { "/guest/script": script, ...files };
  for (const [path, text] of Object.entries(all)) {
    const file = scratch.file(`files${path}`);
    await Deno.mkdir(dirname(file), { recursive: true });
    await Deno.writeTextFile(file, text);
  }
  const pack = 'find . | cpio -o -H newc -R 0:0 --quiet | cat - "$1" > ../initramfs';
  await run("sh", ["-ec", pack, "sh", join(base, "base.cpio.gz")], { cwd: scratch.file("files") });
  await Deno.writeTextFile(scratch.file("kernel.log"), "");
}

/** The folder with vmlinuz and base.cpio.gz. */
async function makeBase(): Promise<string> {
  const base = await placeFor(MAKERS);
  await makeOnce(base, (part) => run("sh", [MAKERS[0], part, PROGRAM]));
  return base;
}

/** Where what these files make is kept. */
export async function placeFor(makers: string[]): Promise<string> {
  const texts = await Promise.all(makers.map((file) => Deno.readFile(file)));
  const hash = await crypto.subtle.digest("SHA-256", await new Blob(texts).arrayBuffer());
  return join(CACHE, new Uint8Array(hash).toHex().slice(0, 16));
}

/** A file system with the program, as it was last compiled. */
async function makeProgramDisk(): Promise<string> {
  const { size, mtime } = await Deno.stat(PROGRAM);
  const disk = join(CACHE, `program-${size}-${mtime!.getTime()}`);
  await makeOnce(disk, async (part) => {
    await using scratch = await Scratch.make();
    await Deno.copyFile(PROGRAM, scratch.file("elasticdrive"));
    const kib = Math.ceil(size / 1024 * 1.05) + 4096;
    const shape = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", scratch.path];
    await run("mke2fs", [...shape, part, `${kib}k`]);
  });
  return disk;
}

/** Makes a file or folder under another name, which it keeps if it isn't made to its end. */
export async function makeOnce(
  path: string,
  make: (part: string) => Promise<unknown>,
): Promise<void> {
  try {
    await Deno.stat(path);
    return;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  const part = `${path}.part`;
  await Deno.mkdir(dirname(path), { recursive: true });
  await Deno.remove(part, { recursive: true }).catch(() => {}); // of a test that was stopped
  await make(part);
  await Deno.rename(part, path);
}
