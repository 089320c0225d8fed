/** Memory on huge pages: the kernel has been asked for them, and it is memory like any other. */
import { assert, assertEquals } from "@std/assert";
import { hugeBuffers } from "../../../src/linux/huge_pages.ts";
import { isAllZero } from "../../../src/volume/zeroes.ts";

const MIB = 1 << 20;
const newBuffer = hugeBuffers()!;

/** The kernel's flags of the memory at `address` (proc(5), smaps: "hg" for huge pages). */
function flagsAt(address: number): string[] {
  const smaps = Deno.readTextFileSync("/proc/self/smaps");
  for (const [, from, to, flags] of smaps.matchAll(/^(\w+)-(\w+) .*?^VmFlags: (.*?)$/gms)) {
    if (parseInt(from, 16) <= address && address < parseInt(to, 16)) return flags.split(" ");
  }
  throw new Error(`no memory at ${address}`);
}

Deno.test("a buffer of a segment's size lies on huge pages, empty and as long as asked for", () => {
  const bytes = newBuffer(8 * MIB + 12_345);
  const address = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes)));
  assert(flagsAt(address + 4 * MIB).includes("hg"));
  assertEquals(bytes.length, 8 * MIB + 12_345);
  assert(isAllZero(bytes.subarray(0, 8 * MIB)));
});

Deno.test("a small buffer is memory, too", () => {
  const bytes = newBuffer(4096);
  assertEquals(bytes.length, 4096);
  assert(isAllZero(bytes));
});
