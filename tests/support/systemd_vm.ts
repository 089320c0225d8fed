/**
 * Debian 12 with systemd in qemu, as a machine that somebody installs on:
 *
 *   await using guest = await SystemdVm.boot({ payload: { "package.tar.gz": file } });
 *   await guest.run("tar -xzf /payload/package.tar.gz -C /opt");
 *   await guest.reboot();
 *
 * It has no network unless a test asks for one; then this machine's 127.0.0.1 is 10.0.2.2 there. A root shell on its
 * second serial port takes the commands, one after the other. The disk is a fresh copy for each guest, and keeps what
 * is written through reboots and power cuts. qemu translates (TCG): a boot takes about 20 seconds.
 */
import { assertEquals } from "@std/assert";
import { join } from "node:path";
import { HeardLines } from "./heard_lines.ts";
import { makeOnce, placeFor } from "./kernel_vm.ts";
import { type ProgramEnd, run, within } from "./programs.ts";
import { Scratch } from "./scratch.ts";

const MAKER = new URL("./systemd_vm.sh", import.meta.url).pathname;
const BOOT_S = 180;
/** One boot in some fourteen stops before its first process; it is tried again. */
const BOOTS_MAX = 3;
const COMMAND_S = 180;

export interface SystemdVmOptions {
  /** Files of this machine, by their names in /payload. */
  payload: Record<string, string>;
  network?: boolean;
}

export class SystemdVm implements AsyncDisposable {
  readonly #scratch: Scratch;
  readonly #base: string;
  readonly #options: SystemdVmOptions;
  #qemu: Deno.ChildProcess | undefined;
  #input!: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  #said!: HeardLines;
  #errors!: HeardLines;
  #commands = 0;

  private constructor(scratch: Scratch, base: string, options: SystemdVmOptions) {
    this.#scratch = scratch;
    this.#base = base;
    this.#options = options;
  }

  static async boot(options: SystemdVmOptions): Promise<SystemdVm> {
    const base = await placeFor([MAKER]);
    await makeOnce(base, (part) => run("sh", [MAKER, part], { deadlineS: 600 }));
    const scratch = await Scratch.make();
    const guest = new SystemdVm(scratch, base, options);
    const overlay = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", join(base, "root.ext4")];
    await run("qemu-img", [...overlay, scratch.file("disk")]);
    await makePayload(scratch, options.payload);
    await guest.start();
    return guest;
  }

  /** Switches it on; resolves when it has booted to its target. */
  async start(): Promise<void> {
    for (let boot = 1;; boot++) {
      this.#switchOn();
      try {
        await this.#said.until(/^guest: started$/, BOOT_S);
        return;
      } catch (error) {
        await this.cutPower();
        if (boot === BOOTS_MAX) throw new Error(`${error}\n${this.#errors.text}\n${this.console}`);
      }
    }
  }

  /** Runs a command of sh in the guest that has to succeed; what it printed, stderr as well. */
  async run(command: string, deadlineS = COMMAND_S): Promise<string> {
    const { code, stdout } = await this.try(command, deadlineS);
    assertEquals(code, 0, `${command}\n${stdout}`);
    return stdout;
  }

  /** The same to any end. */
  async try(command: string, deadlineS = COMMAND_S): Promise<Pick<ProgramEnd, "code" | "stdout">> {
    const from = this.#said.lines.length;
    const end = `guest: command ${++this.#commands} ended with`;
    await this.#say(`(${command}\n) </dev/null 2>&1; echo "\n${end} $?"\n`);
    try {
      const line = await this.#said.until(new RegExp(`^${end} \\d+$`), deadlineS, from);
      const lines = this.#said.lines.slice(from, this.#said.lines.indexOf(line, from));
      return { code: Number(line.split(" ").at(-1)), stdout: lines.join("\n").trimEnd() };
    } catch (error) {
      const said = this.#said.lines.slice(from).join("\n");
      throw new Error(`${command}\n${said}\n${error}\n${this.console}`);
    }
  }

  /** Begins a shutdown, and waits until the machine is off. */
  async powerOff(deadlineS = COMMAND_S): Promise<void> {
    await this.#say("systemctl --no-block poweroff\n");
    await within(deadlineS, `the guest's end\n${this.console}`, this.#qemu!.status);
    await this.#end();
  }

  async reboot(): Promise<void> {
    await this.powerOff();
    await this.start();
  }

  /** Off at once: what was not on its disk is gone. */
  async cutPower(): Promise<void> {
    try {
      this.#qemu?.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.#end();
  }

  /** What the kernel and systemd have said since it was switched on. */
  get console(): string {
    return Deno.readTextFileSync(this.#scratch.file("console")).replaceAll("\r", "");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cutPower();
    await this.#scratch[Symbol.asyncDispose]();
  }

  #switchOn(): void {
    const drive = (file: string, more: string) => ["-drive", `file=${file},if=virtio,${more}`];
    const network = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="];
    const args = [
      ...["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "1024M"],
      ...["-nodefaults", "-display", "none", "-no-reboot"],
      ...["-kernel", join(this.#base, "vmlinuz"), "-initrd", join(this.#base, "initrd.gz")],
      ...["-append", "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off"],
      ...["-serial", `file:${this.#scratch.file("console")}`, "-serial", "stdio"],
      ...drive(this.#scratch.file("disk"), "format=qcow2,cache=unsafe"),
      ...drive(this.#scratch.file("payload"), "format=raw,readonly=on"),
      ...[
        "-object",
        "rng-random,id=rng,filename=/dev/urandom",
        "-device",
        "virtio-rng-pci,rng=rng",
      ],
      ...this.#options.network ? network : [],
    ];
    Deno.writeTextFileSync(this.#scratch.file("console"), "");
    const streams = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
    this.#qemu = new Deno.Command("qemu-system-x86_64", { args, ...streams }).spawn();
    this.#input = this.#qemu.stdin.getWriter();
    this.#said = new HeardLines(this.#qemu.stdout, "the guest");
    this.#errors = new HeardLines(this.#qemu.stderr, "qemu");
  }

  async #say(text: string): Promise<void> {
    await this.#input.write(new TextEncoder().encode(text));
  }

  async #end(): Promise<void> {
    if (!this.#qemu) return;
    await this.#qemu.status;
    this.#qemu = undefined;
    await this.#input.close().catch(() => {}); // nobody reads it any more
    await Promise.all([this.#said.ended, this.#errors.ended]);
  }
}

/** A file system with the files. */
async function makePayload(scratch: Scratch, payload: Record<string, string>): Promise<void> {
  const folder = scratch.file("files");
  await Deno.mkdir(folder);
  let bytes = 0;
  for (const [name, file] of Object.entries(payload)) {
    await Deno.copyFile(file, join(folder, name));
    bytes += (await Deno.stat(file)).size;
  }
  const kib = Math.ceil(bytes / 1024 * 1.1) + 16384;
  const shape = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", folder];
  await run("mke2fs", [...shape, scratch.file("payload"), `${kib}k`]);
}
