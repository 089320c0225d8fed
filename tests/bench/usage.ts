/** What a process has used, as the kernel counts it (proc(5)). */

/** sysconf(_SC_CLK_TCK), which is 100 on every Linux that Debian has. */
const TICKS_PER_SECOND = 100;

/** User and system time of all of its threads, in seconds. */
export function processorSeconds(pid: number): number {
  const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  // behind the name, which may have blanks, field 3 comes first; utime is 14, stime 15
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** The same to the nanosecond, of the threads there are now: the difference of two calls is what those have used. */
export function threadSeconds(pid: number): number {
  const threads = [...Deno.readDirSync(`/proc/${pid}/task`)];
  const nanoseconds = threads.map(({ name }) =>
    Number(Deno.readTextFileSync(`/proc/${pid}/task/${name}/schedstat`).split(" ")[0])
  );
  return nanoseconds.reduce((sum, each) => sum + each, 0) / 1e9;
}

/** Resident memory at its highest so far, in bytes. */
export function peakMemoryBytes(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/^VmHWM:\s*(\d+) kB/m.exec(status)![1]) * 1024;
}
