/** Who has a block device in use, as a person would name it: mount points, swap space, devices on top of it. */

/** /proc and /sys, or what a test has in their place. */
export interface SystemFiles {
  /** Undefined if there is no such file. */
  read(path: string): string | undefined;
  /** Names; none if there is no such folder. */
  list(path: string): string[];
}

/** Of /dev/nbd`index` and its partitions. */
export function usersOf(index: number, system: SystemFiles): string[] {
  const name = `nbd${index}`;
  const partitions = system.list(`/sys/block/${name}`).filter((entry) => isPartition(entry, name));
  const folders = [`/sys/block/${name}`, ...partitions.map((p) => `/sys/block/${name}/${p}`)];
  const isOurs = (path: string) => path === `/dev/${name}` || isPartition(path, `/dev/${name}`);
  const firsts = (file: string) =>
    (system.read(file) ?? "").split("\n").map((line) => line.split(/\s+/));
  return [
    ...firsts("/proc/mounts").filter(([from]) => isOurs(from))
      .map(([, at]) => `mounted at ${unescape(at)}`),
    ...firsts("/proc/swaps").filter(([from]) => isOurs(from)).map(() => "swap space"),
    ...folders.flatMap((folder) => system.list(`${folder}/holders`))
      .map((holder) => `part of /dev/${holder}`),
  ];
}

function isPartition(path: string, disk: string): boolean {
  return path.startsWith(`${disk}p`) && /^\d+$/.test(path.slice(disk.length + 1));
}

/** Blanks in a mount point are written as octal (proc(5)). */
function unescape(text: string): string {
  return text.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8)));
}
