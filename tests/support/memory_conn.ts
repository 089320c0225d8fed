/**
 * A pair of connected sockets without a kernel: what one end writes the other reads, with a bounded amount in
 * between, and ends as sockets have them (end of stream, broken pipe, reset).
 *
 * As in Deno, closing ends a pending read of its own, and no pending write.
 */

const BUFFERED_BYTES_MAX = 256 * 1024;

/** One direction. */
class Pipe {
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;
  /** No more comes; what is there can be read. */
  isEnded = false;
  /** Nobody reads any more. */
  isBroken = false;
  onReadable: (() => void) | undefined = undefined;
  onWritable: (() => void) | undefined = undefined;

  get isReadable(): boolean {
    return this.#bytes > 0 || this.isEnded;
  }

  get isWritable(): boolean {
    return this.#bytes < BUFFERED_BYTES_MAX || this.isBroken;
  }

  get isEmpty(): boolean {
    return this.#bytes === 0;
  }

  push(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, BUFFERED_BYTES_MAX - this.#bytes);
    this.#chunks.push(bytes.slice(0, count));
    this.#bytes += count;
    return count;
  }

  take(target: Uint8Array): number {
    let taken = 0;
    while (taken < target.length && this.#chunks.length > 0) {
      const chunk = this.#chunks[0];
      const count = Math.min(chunk.length, target.length - taken);
      target.set(count < chunk.length ? chunk.subarray(0, count) : chunk, taken);
      taken += count;
      if (count === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(count);
    }
    this.#bytes -= taken;
    return taken;
  }

  end(): void {
    this.isEnded = true;
    this.changed();
  }

  break(): void {
    this.isBroken = true;
    this.#chunks.length = this.#bytes = 0;
    this.changed();
  }

  changed(): void {
    if (this.isReadable) this.onReadable?.();
    if (this.isWritable) this.onWritable?.();
  }
}

export class MemoryConn implements Pick<Deno.Conn, "read" | "write" | "closeWrite" | "close"> {
  readonly remoteAddr: Deno.Addr = { transport: "unix", path: "" };
  #closed = false;

  private constructor(private readonly incoming: Pipe, private readonly outgoing: Pipe) {}

  static pair(): [MemoryConn, MemoryConn] {
    const [there, back] = [new Pipe(), new Pipe()];
    return [new MemoryConn(back, there), new MemoryConn(there, back)];
  }

  async read(target: Uint8Array): Promise<number | null> {
    if (this.#closed) throw new Deno.errors.BadResource("closed");
    const { incoming } = this;
    while (!incoming.isReadable) {
      await new Promise<void>((resolve) => incoming.onReadable = resolve);
      incoming.onReadable = undefined;
      if (this.#closed) throw new Deno.errors.Interrupted("closed meanwhile");
    }
    const count = incoming.take(target);
    if (count === 0 && target.length > 0) {
      if (incoming.isBroken) throw new Deno.errors.ConnectionReset("reset");
      return null;
    }
    incoming.changed();
    return count;
  }

  async write(bytes: Uint8Array): Promise<number> {
    if (this.#closed) throw new Deno.errors.BadResource("closed");
    const { outgoing } = this;
    while (!outgoing.isWritable) {
      await new Promise<void>((resolve) => outgoing.onWritable = resolve);
      outgoing.onWritable = undefined;
    }
    if (outgoing.isBroken) throw new Deno.errors.BrokenPipe("broken pipe");
    const count = outgoing.push(bytes);
    outgoing.changed();
    return count;
  }

  /** What can be read without waiting; 0 at the end and on failure too. */
  readNow(target: Uint8Array): number {
    const count = this.#closed ? 0 : this.incoming.take(target);
    if (count > 0) this.incoming.changed();
    return count;
  }

  /** Likewise. */
  writeNow(bytes: Uint8Array): number {
    const { outgoing } = this;
    if (this.#closed || outgoing.isBroken || !outgoing.isWritable) return 0;
    const count = outgoing.push(bytes);
    outgoing.changed();
    return count;
  }

  closeWrite(): Promise<void> {
    this.outgoing.end();
    return Promise.resolve();
  }

  /** The peer is told by an end of stream, or by a reset if it had sent what nobody read. */
  close(): void {
    if (this.#closed) throw new Deno.errors.BadResource("closed");
    this.#closed = true;
    const isReset = !this.incoming.isEmpty;
    this.incoming.isEnded = true;
    this.incoming.break();
    if (isReset) this.outgoing.break();
    this.outgoing.end();
  }
}

/** One that is also read and written at once, each time as much as `bytesMax` says. */
export class DirectMemoryConn {
  constructor(private readonly conn: MemoryConn, private readonly bytesMax: () => number) {}

  sendNow(parts: readonly Uint8Array[]): number {
    return this.#move(parts, (part) => this.conn.writeNow(part));
  }

  receiveNow(parts: readonly Uint8Array[]): number {
    return this.#move(parts, (part) => this.conn.readNow(part));
  }

  #move(parts: readonly Uint8Array[], move: (part: Uint8Array) => number): number {
    let left = this.bytesMax();
    let moved = 0;
    for (const part of parts) {
      const piece = part.subarray(0, left);
      const count = piece.length === 0 ? 0 : move(piece);
      moved += count;
      left -= count;
      if (count < part.length) break;
    }
    return moved;
  }

  read(bytes: Uint8Array): Promise<number | null> {
    return this.conn.read(bytes);
  }

  write(bytes: Uint8Array): Promise<number> {
    return this.conn.write(bytes);
  }

  closeWrite(): Promise<void> {
    return this.conn.closeWrite();
  }

  close(): void {
    this.conn.close();
  }
}

/** Where a server accepts such pairs. */
export class MemoryListener {
  readonly addr: Deno.Addr = { transport: "unix", path: "" };
  readonly #waiting: MemoryConn[] = [];
  #isClosed = false;
  #wake: () => void = () => {};

  /** The client's end of a new connection. */
  connect(): MemoryConn {
    const [client, server] = MemoryConn.pair();
    this.#waiting.push(server);
    this.#wake();
    return client;
  }

  async accept(): Promise<MemoryConn> {
    while (this.#waiting.length === 0) {
      if (this.#isClosed) throw new Deno.errors.BadResource("closed");
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    return this.#waiting.shift()!;
  }

  close(): void {
    this.#isClosed = true;
    this.#wake();
  }
}
