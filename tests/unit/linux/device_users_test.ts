import { assertEquals } from "@std/assert";
import { type SystemFiles, usersOf } from "../../../src/linux/device_users.ts";

function system(files: Record<string, string>, folders: Record<string, string[]>): SystemFiles {
  return { read: (path) => files[path], list: (path) => folders[path] ?? [] };
}

Deno.test("mounts, swap space and devices on top are named, those of partitions too, and no others", () => {
  const files = {
    "/proc/mounts": [
      "/dev/nbd1 /s3 ext4 rw 0 0",
      "/dev/nbd1p2 /my\\040files xfs rw 0 0",
      "/dev/nbd10 /other ext4 rw 0 0",
      "proc /proc proc rw 0 0",
    ].join("\n"),
    "/proc/swaps":
      "Filename Type Size\n/dev/nbd1p3 partition 8 0 -2\n/dev/nbd11 partition 8 0 -2\n",
  };
  const folders = {
    "/sys/block/nbd1": ["queue", "nbd1p1", "nbd1p2", "holders", "power"],
    "/sys/block/nbd1/holders": ["md0"],
    "/sys/block/nbd1/nbd1p1/holders": ["dm-0"],
    "/sys/block/nbd10/holders": ["md1"],
  };
  assertEquals(usersOf(1, system(files, folders)), [
    "mounted at /s3",
    "mounted at /my files",
    "swap space",
    "part of /dev/md0",
    "part of /dev/dm-0",
  ]);
  assertEquals(usersOf(2, system(files, folders)), []);
  assertEquals(usersOf(0, system({}, {})), []);
});
