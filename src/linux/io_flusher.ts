/**
 * Tells the kernel that its dirty pages leave through this process (prctl(2), PR_SET_IO_FLUSHER, Linux 5.6). When
 * memory is short it then neither lets our own allocations wait for the disk that we serve nor slows us down for what it
 * has yet to write to it.
 *
 * It holds for the calling thread, the one that does all the serving, and those that it starts from then on.
 */
const PR_SET_IO_FLUSHER = 57;

/** False if the kernel does not know it, or the process has no CAP_SYS_RESOURCE. */
export function becomeIoFlusher(): boolean {
  const libc = Deno.dlopen("libc.so.6", {
    prctl: { parameters: ["i32", "u64", "u64", "u64", "u64"], result: "i32" },
  });
  const result = libc.symbols.prctl(PR_SET_IO_FLUSHER, 1n, 0n, 0n, 0n);
  libc.close();
  return result === 0;
}
