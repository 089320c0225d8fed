/**
 * Read-ahead: who reads in order finds what comes next in the cache already.
 *
 * A stream is a run of reads, each of which goes on where the one before it ended; several are told apart. One that has
 * reached its second stripe has the stripes ahead of it fetched: a little first, then twice as much each time, up
 * to what the user allows and what the cache has room for, which the streams share.
 *
 * A stream that ends leaves behind what was fetched for it in vain. If that is more than it used, the next ones have to read
 * on for twice as many stripes before anything is fetched for them; one that used more brings that down again. So whoever
 * reads a few stripes here and a few there, each few in order, soon gets no more than was asked for.
 */
import {
  BLOCK_BYTES,
  READ_AHEAD_BYTES_FIRST,
  READ_AHEAD_BYTES_STEP,
  READ_AHEAD_STRIPES_MAX,
  READ_AHEAD_STRIPES_MIN,
  READ_STREAMS_MAX,
} from "../limits.ts";
import type { Contents } from "./contents.ts";
import type { Fetcher } from "./fetch.ts";

interface Stream {
  /** Where it began. */
  start: number;
  /** Where its next read begins if it goes on. */
  next: number;
  /** Bytes to have ahead of it; 0 until it is recognised. */
  windowBytes: number;
  /** Where it was when it was recognised. */
  aheadFrom: number;
  /** Up to where the stripes ahead have been asked for. */
  fetchedUpTo: number;
  /** Of them, bytes that were fetched: what reads as zero or is cached is not. */
  fetchedBytes: number;
}

export class ReadAhead {
  readonly #contents: Contents;
  readonly #fetcher: Fetcher;
  readonly #sizeBytes: number;
  readonly #bytesMax: number;
  /** Most recently used last. */
  readonly #streams: Stream[] = [];
  /** Stripes in order that make a stream. */
  #stripesMin = READ_AHEAD_STRIPES_MIN;
  /** Fetched ahead of all streams, in bytes. */
  bytes = 0;
  /** Fetched ahead of streams that ended before they came to it, in bytes. */
  vainBytes = 0;

  /** @param bytesMax fetched ahead of one stream, at most */
  constructor(contents: Contents, fetcher: Fetcher, sizeBytes: number, bytesMax: number) {
    this.#contents = contents;
    this.#fetcher = fetcher;
    this.#sizeBytes = sizeBytes;
    this.#bytesMax = bytesMax;
  }

  /** Notes a read of so many bytes; keeps the stripes ahead coming if it belongs to a stream. */
  note(offset: number, length: number): void {
    const stream = this.#streamAt(offset);
    stream.next = offset + length;
    if (this.#stripesOf(stream) < this.#stripesMin || stream.start === offset) return;
    if (stream.windowBytes === 0) {
      stream.windowBytes = READ_AHEAD_BYTES_FIRST / 2;
      stream.aheadFrom = stream.fetchedUpTo = stream.next;
    }
    // as soon as a GET is worth it: who waits until half is used has half of them under way
    const usedBytes = stream.windowBytes - (stream.fetchedUpTo - stream.next);
    if (usedBytes < Math.min(stream.windowBytes / 2, READ_AHEAD_BYTES_STEP)) return;
    stream.windowBytes = Math.min(stream.windowBytes * 2, this.#windowBytesMax());
    const from = Math.max(stream.fetchedUpTo, stream.next);
    stream.fetchedUpTo = Math.min(stream.next + stream.windowBytes, this.#sizeBytes);
    const bytes = this.#fetch(from, stream.fetchedUpTo);
    stream.fetchedBytes += bytes;
    this.bytes += bytes;
  }

  /** The stream that goes on here, or a new one; the one that has rested longest ends for it. */
  #streamAt(offset: number): Stream {
    const at = this.#streams.findIndex((stream) => stream.next === offset);
    if (at >= 0) {
      const [stream] = this.#streams.splice(at, 1);
      this.#streams.push(stream);
      return stream;
    }
    if (this.#streams.length === READ_STREAMS_MAX) this.#end(this.#streams.shift()!);
    const stream = {
      start: offset,
      next: offset,
      windowBytes: 0,
      aheadFrom: offset,
      fetchedUpTo: offset,
      fetchedBytes: 0,
    };
    this.#streams.push(stream);
    return stream;
  }

  #stripesOf({ start, next }: Stream): number {
    const { stripeBytes } = this.#contents;
    return Math.floor((next - 1) / stripeBytes) - Math.floor(start / stripeBytes) + 1;
  }

  #end({ windowBytes, aheadFrom, next, fetchedUpTo, fetchedBytes }: Stream): void {
    if (windowBytes === 0) return;
    const vainBytes = Math.min(Math.max(fetchedUpTo - next, 0), fetchedBytes);
    this.vainBytes += vainBytes;
    this.#stripesMin = vainBytes > next - aheadFrom
      ? Math.min(this.#stripesMin * 2, READ_AHEAD_STRIPES_MAX)
      : Math.max(this.#stripesMin / 2, READ_AHEAD_STRIPES_MIN);
  }

  /** A quarter of the cache for one stream or two, half of it for all: it must not drive out what is being read. */
  #windowBytesMax(): number {
    const { cache, stripeBytes } = this.#contents;
    const streams = this.#streams.filter(({ windowBytes }) => windowBytes > 0).length;
    return Math.min(this.#bytesMax, cache.slotCount * stripeBytes / 2 / Math.max(streams, 2));
  }

  /** Begins to fetch what of the range's stripes is stored and not cached, if there is room; says how many bytes. */
  #fetch(from: number, end: number): number {
    const { cache, stripeBytes } = this.#contents;
    const ranges = this.#contents.toFetch(
      Math.floor(from / stripeBytes) * stripeBytes,
      Math.ceil(end / stripeBytes) * stripeBytes,
    ).filter(({ stripe }) => !this.#fetcher.isUnderWay(stripe));
    const isRoom = cache.available >= cache.slotCount / 4 + ranges.length;
    if (ranges.length === 0 || !isRoom) return 0;
    const missing = ranges.reduce((sum, range) => sum + this.#contents.countMissing(range), 0);
    // a failure is met again, and reported, by whoever reads there
    this.#fetcher.fetch(ranges).catch(() => {});
    return missing * BLOCK_BYTES;
  }
}
