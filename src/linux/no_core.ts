/**
 * A process that crashes leaves no image of its memory: keys and private keys are in it.
 *
 * RLIMIT_CORE is set to 1, not 0: a program that core_pattern pipes cores to (systemd-coredump, apport) is not bound by
 * the limit, but of 1 the kernel starts none (fs/coredump.c); and a file of one byte is no core either. Not
 * PR_SET_DUMPABLE, which would hand /proc/PID to root and keep debuggers and profilers away from a process that lives:
 * that one is taken only where the limit can't be set, because it is 0 already.
 */
const RLIMIT_CORE = 4; // <bits/resource.h>
const PR_SET_DUMPABLE = 4; // <linux/prctl.h>

export function leaveNoCore(): void {
  const libc = Deno.dlopen("libc.so.6", {
    setrlimit: { parameters: ["i32", "buffer"], result: "i32" },
    prctl: { parameters: ["i32", "u64", "u64", "u64", "u64"], result: "i32" },
  });
  const limit = new BigUint64Array([1n, 1n]); // struct rlimit: soft, hard
  const failed = libc.symbols.setrlimit(RLIMIT_CORE, limit) !== 0;
  if (failed) libc.symbols.prctl(PR_SET_DUMPABLE, 0n, 0n, 0n, 0n);
  libc.close();
}
