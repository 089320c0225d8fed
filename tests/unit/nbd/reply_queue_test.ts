import { assertEquals } from "@std/assert";
import { REPLY_BUFFER_BYTES } from "../../../src/limits.ts";
import { ReplyQueue } from "../../../src/nbd/reply_queue.ts";

/** A socket whose writes end when the test lets them; it keeps the first byte of every reply of `unit` bytes. */
class SlowSocket {
  readonly written: number[] = [];
  #waiting: (() => void)[] = [];

  write(bytes: Uint8Array): Promise<number> {
    for (let at = 0; at < bytes.length; at += bytes[at + 1] === 0 ? 100 : 70_000) {
      this.written.push(bytes[at]);
    }
    return new Promise((resolve) => this.#waiting.push(() => resolve(bytes.length)));
  }

  async letGo(): Promise<void> {
    this.#waiting.shift()?.();
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  }

  get isWriting(): boolean {
    return this.#waiting.length > 0;
  }
}

/** A reply that says its number, and whether it is large. */
function reply(number: number, isLarge: boolean): Uint8Array {
  const bytes = new Uint8Array(isLarge ? 70_000 : 100);
  bytes[0] = number;
  bytes[1] = isLarge ? 1 : 0;
  return bytes;
}

Deno.test("replies leave in the order in which they were added, small ones and large, whatever is being written", async () => {
  for (let shape = 0; shape < 64; shape++) {
    for (const between of [0, 1, 2]) {
      const socket = new SlowSocket();
      const queue = new ReplyQueue(socket as unknown as Deno.Conn, () => {});
      const gone: number[] = [];
      for (let number = 0; number < 6; number++) {
        queue.add(reply(number, (shape >> number & 1) === 1), () => gone.push(number));
        for (let writes = 0; writes < between; writes++) await socket.letGo();
      }
      while (socket.isWriting) await socket.letGo();
      await queue.idle();
      assertEquals(socket.written, [0, 1, 2, 3, 4, 5], `shape ${shape.toString(2)}, ${between}`);
      assertEquals(gone.toSorted(), [0, 1, 2, 3, 4, 5]);
    }
  }
});

/** A socket that takes at once, or else after a wait, as much as it is told. */
class PortionedSocket {
  readonly taken: number[] = [];
  constructor(readonly portions: number[]) {}

  sendNow(parts: readonly Uint8Array[]): number {
    let left = this.portions.shift() ?? 0;
    const before = this.taken.length;
    for (const part of parts) {
      for (const byte of part.subarray(0, left)) this.taken.push(byte);
      left -= Math.min(left, part.length);
    }
    return this.taken.length - before;
  }

  async write(bytes: Uint8Array): Promise<number> {
    await Promise.resolve();
    const count = Math.min(bytes.length, this.portions.shift() || 1);
    for (const byte of bytes.subarray(0, count)) this.taken.push(byte);
    return count;
  }
}

Deno.test("a reply sent from elsewhere leaves whole, between those before and after it, in whatever portions", async () => {
  // behind two replies of 20 bytes: a head of 10, and 30 lent in parts of 12, 0 and 18
  for (let first = 0; first <= 80; first++) {
    for (const second of [0, 1, 17, 100]) {
      const socket = new PortionedSocket([first, second, 5]);
      const queue = new ReplyQueue(socket as unknown as Deno.Conn, () => {});
      const gone: number[] = [];
      const number = (from: number, length: number) =>
        Uint8Array.from({ length }, (_, index) => from + index);
      queue.tryAdd(number(0, 20));
      queue.tryAdd(number(20, 20));
      const at = queue.reserve(40);
      queue.bytes.set(number(40, 10), at);
      const lent = number(50, 30);
      assertEquals(queue.sendsNow, true);
      queue.sendFrom([lent.subarray(0, 12), lent.subarray(12, 12), lent.subarray(12)], 30);
      lent.fill(0xff); // it was lent for the call only
      queue.add(number(80, 10), () => gone.push(1));
      queue.add(number(90, 10), () => gone.push(2));
      await queue.idle();
      assertEquals(socket.taken, [...number(0, 100)], `${first}, ${second}`);
      assertEquals(gone, [1, 2]);
    }
  }
});

Deno.test("a large reply gets its turn however many small ones keep coming", async () => {
  const socket = new SlowSocket();
  const queue = new ReplyQueue(socket as unknown as Deno.Conn, () => {});
  queue.tryAdd(reply(1, false));
  queue.send();
  queue.add(reply(9, true), () => {});
  for (let turn = 0; turn < 4; turn++) {
    queue.tryAdd(reply(1, false));
    await socket.letGo();
  }
  assertEquals(socket.written.includes(9), true);
  while (socket.isWriting) await socket.letGo();
});

Deno.test("a small reply finds no room in a full buffer, and does when it has been written", async () => {
  const socket = new SlowSocket();
  let progress = 0;
  const queue = new ReplyQueue(socket as unknown as Deno.Conn, () => progress++);
  for (const buffer of [1, 2]) {
    for (let used = 0; used + 100 <= REPLY_BUFFER_BYTES; used += 100) {
      assertEquals(queue.tryAdd(reply(buffer, false)), true);
    }
    queue.send();
  }
  assertEquals(queue.tryAdd(reply(3, false)), false);
  await socket.letGo();
  assertEquals([progress > 0, queue.tryAdd(reply(3, false))], [true, true]);
  while (socket.isWriting) await socket.letGo();
});
