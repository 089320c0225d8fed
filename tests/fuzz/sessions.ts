/**
 * Bytes that a client sends, made from a seed: a session that speaks NBD well enough to get deep, with every option,
 * command and flag, and with values around every edge; and what mutation makes of it.
 */
import * as nbd from "../../src/nbd/constants.ts";
import type { Seed } from "../simulation/seed.ts";
import type { Disk } from "./reference.ts";

const MIB = 1 << 20;

/** Messages, one an element, so that they can be dropped, repeated and exchanged. */
export type Frames = Uint8Array[];

/** A session as its seed has it. */
export function makeFrames(seed: Seed, disk: Disk, requests: number): Frames {
  const frames: Frames = [u32(seed.chance(0.9) ? 3 : seed.below(6))];
  for (let options = seed.below(6); options > 0; options--) frames.push(makeOption(seed, disk));
  if (seed.chance(0.02)) return frames;
  const goes = seed.chance(0.9);
  if (seed.chance(0.6)) frames.push(option(nbd.NBD_OPT_STRUCTURED_REPLY));
  const name = seed.pick(["", disk.name]);
  if (seed.chance(0.6)) {
    frames.push(option(nbd.NBD_OPT_SET_META_CONTEXT, contexts(name, ["base:allocation"])));
  }
  // a context that was selected under one name does not hold under the other
  const begun = seed.chance(0.8) ? name : seed.pick(["", disk.name]);
  if (goes) frames.push(option(nbd.NBD_OPT_GO, exportRequest(begun, [3])));
  else frames.push(option(nbd.NBD_OPT_EXPORT_NAME, text(begun)));
  const isReader = seed.chance(0.1);
  for (let i = 0; i < requests; i++) {
    if (isReader && i % 10 === 9) frames.push(makeLargeRead(seed, disk, i));
    else if (!isReader) frames.push(makeRequest(seed, disk, i));
  }
  if (seed.chance(0.3)) frames.push(request(nbd.NBD_CMD_DISC, 0, 0n, 0n, 0));
  return frames;
}

/** A short session with every option and every command in it, right and refused. */
export function everyFrame(disk: Disk): Frames {
  const { name } = disk;
  const payload = (length: number) => new Uint8Array(length).fill(length);
  const { NBD_CMD_FLAG_FUA: FUA, NBD_CMD_FLAG_DF: DF, NBD_CMD_FLAG_REQ_ONE: ONE } = nbd;
  return [
    u32(3),
    option(nbd.NBD_OPT_LIST),
    option(nbd.NBD_OPT_STARTTLS),
    option(nbd.NBD_OPT_LIST_META_CONTEXT, contexts(name, [])),
    option(nbd.NBD_OPT_STRUCTURED_REPLY),
    option(nbd.NBD_OPT_EXTENDED_HEADERS),
    option(nbd.NBD_OPT_INFO, exportRequest(name, [1, 2, 3])),
    option(nbd.NBD_OPT_LIST_META_CONTEXT, contexts(name, ["base:"])),
    option(nbd.NBD_OPT_SET_META_CONTEXT, contexts(name, ["base:allocation"])),
    option(nbd.NBD_OPT_GO, exportRequest(name, [3])),
    request(nbd.NBD_CMD_WRITE, 0, 1n, 8192n, 40, payload(40)),
    request(nbd.NBD_CMD_READ, 0, 2n, 8190n, 44),
    request(nbd.NBD_CMD_WRITE, FUA, 3n, 8200n, 30, payload(30)),
    request(nbd.NBD_CMD_WRITE, 0, 4n, BigInt(disk.sizeBytes), 20, payload(20)),
    request(nbd.NBD_CMD_READ, DF, 5n, 0n, 9000),
    request(nbd.NBD_CMD_FLUSH, 0, 6n, 0n, 0),
    request(nbd.NBD_CMD_TRIM, 0, 7n, 4096n, 4096),
    request(nbd.NBD_CMD_CACHE, 0, 8n, 0n, 8192),
    request(nbd.NBD_CMD_WRITE_ZEROES, FUA, 9n, 8199n, 10),
    request(nbd.NBD_CMD_BLOCK_STATUS, ONE, 10n, 0n, 20_000),
    request(nbd.NBD_CMD_BLOCK_STATUS, 0, 11n, 0n, disk.sizeBytes),
    request(99, 0, 12n, 0n, 1),
    request(nbd.NBD_CMD_DISC, 0, 13n, 0n, 0),
  ];
}

/** One to three accidents. */
export function mutate(frames: Frames, seed: Seed, other: () => Frames): Frames {
  const mutated = frames.slice();
  for (let times = 1 + seed.below(3); times > 0; times--) {
    const at = seed.below(mutated.length);
    const frame = mutated[at];
    if (frame === undefined) return mutated;
    switch (seed.below(9)) {
      case 0: // a few bits
        mutated[at] = frame.slice();
        for (let bits = 1 + seed.below(4); bits > 0; bits--) {
          // mostly in the header: payload has no meaning
          const byte = seed.below(Math.min(frame.length, seed.chance(0.9) ? 32 : frame.length));
          mutated[at][byte] ^= 1 << seed.below(8);
        }
        break;
      case 1: // a byte of any value
        mutated[at] = frame.slice();
        mutated[at][seed.below(Math.min(frame.length, 32))] = seed.below(256);
        break;
      case 2: // cut short, and what follows moves up
        mutated[at] = frame.subarray(0, seed.below(frame.length));
        break;
      case 3:
        mutated.splice(at, 0, frame);
        break;
      case 4:
        mutated.splice(at, 1);
        break;
      case 5: { // exchanged
        const to = seed.below(mutated.length);
        [mutated[at], mutated[to]] = [mutated[to], mutated[at]];
        break;
      }
      case 6: { // spliced with another session
        const donor = other();
        mutated.splice(at, mutated.length, ...donor.slice(seed.below(donor.length)));
        break;
      }
      case 7: // garbage in between
        mutated.splice(at, 0, randomBytes(seed, 1 + seed.below(40)));
        break;
      default: // the end
        mutated.length = at;
    }
  }
  return mutated;
}

function makeOption(seed: Seed, disk: Disk): Uint8Array {
  const name = seed.chance(0.8)
    ? seed.pick(["", disk.name])
    : seed.pick(["no", `${disk.name} `, "x".repeat(4096), "x".repeat(4097), "größe\0"]);
  const queries = Array.from(
    { length: seed.below(4) },
    () =>
      seed.pick(["base:", "base:allocation", "base:other", "qemu:all", "base", "", ":", "a:b:c"]),
  );
  switch (seed.below(14)) {
    case 0:
      return option(nbd.NBD_OPT_LIST, randomBytes(seed, seed.pick([0, 0, 0, 1, 40])));
    case 1:
    case 2:
    case 3: {
      const infos = Array.from({ length: seed.below(7) }, () => seed.pick([0, 1, 2, 3, 4, 65535]));
      // GO as often as INFO would end every handshake here
      const which = seed.chance(0.05) ? nbd.NBD_OPT_GO : nbd.NBD_OPT_INFO;
      return option(which, exportRequest(name, infos));
    }
    case 4:
    case 5:
      return option(nbd.NBD_OPT_STRUCTURED_REPLY, randomBytes(seed, seed.chance(0.9) ? 0 : 4));
    case 6:
      return option(nbd.NBD_OPT_LIST_META_CONTEXT, contexts(name, queries));
    case 7:
    case 8:
      return option(nbd.NBD_OPT_SET_META_CONTEXT, contexts(name, queries));
    case 9:
      return option(nbd.NBD_OPT_STARTTLS, randomBytes(seed, seed.pick([0, 0, 3])));
    case 10:
      return option(seed.pick([0, 4, nbd.NBD_OPT_EXTENDED_HEADERS, 12, 77, 0xffffffff]));
    case 11: {
      const length = seed.pick([0, 4095, 4096, 16_384, 16_385, 70_000]);
      return option(1 + seed.below(12), new Uint8Array(length));
    }
    case 12: // a length that the data does not have
      return option(seed.below(12), randomBytes(seed, seed.below(64)), seed.pick(LENGTHS));
    default:
      return seed.chance(0.1) ? option(nbd.NBD_OPT_ABORT) : option(nbd.NBD_OPT_LIST);
  }
}

const LENGTHS = [0, 1, 4095, 4096, 32 * MIB, 32 * MIB + 1, 2 ** 31, 2 ** 32 - 1];

function makeRequest(seed: Seed, disk: Disk, index: number): Uint8Array {
  const type = seed.chance(0.97) ? seed.pick(COMMANDS) : seed.below(65536);
  const flags = seed.chance(0.8) ? 0 : seed.chance(0.9) ? 1 << seed.below(5) : seed.below(65536);
  const cookie = cookieOf(seed, index);
  if (type === nbd.NBD_CMD_FLUSH && seed.chance(0.9)) return request(type, flags, cookie, 0n, 0);
  const isEdge = seed.chance(0.1);
  const length = isEdge ? edgeLength(seed, disk, type) : usualLength(seed);
  const offset = seed.chance(0.1)
    ? edgeOffset(seed, disk, length)
    : usualOffset(seed, disk, length);
  // of the largest only the announcement is sent: what follows is taken for the payload
  const isSent = type === nbd.NBD_CMD_WRITE && length <= 4 * MIB;
  const payload = isSent ? randomBytes(seed, length) : undefined;
  return request(type, flags, cookie, offset, length, payload);
}

function cookieOf(seed: Seed, index: number): bigint {
  return (BigInt(seed.below(2 ** 32)) << 32n) | BigInt(index);
}

/** Too large to be answered at once: in several chunks, if structured replies were agreed on. */
function makeLargeRead(seed: Seed, disk: Disk, index: number): Uint8Array {
  const length = disk.sizeBytes - seed.below(disk.sizeBytes / 2);
  const flags = seed.chance(0.2) ? nbd.NBD_CMD_FLAG_DF : 0;
  const offset = BigInt(seed.below(disk.sizeBytes - length + 1));
  return request(nbd.NBD_CMD_READ, flags, cookieOf(seed, index), offset, length);
}

/** 0 to 7, those that matter more often. */
const COMMANDS = [0, 0, 0, 1, 1, 1, 3, 4, 4, 5, 6, 6, 7, 7];

function usualLength(seed: Seed): number {
  const edges = [0, 1, 511, 512, 4095, 4096, 4097, 8192];
  return seed.chance(0.3) ? seed.pick(edges) : 1 + seed.below(seed.chance(0.02) ? 70_000 : 600);
}

/** Of a write only what is worth sending: its payload follows. */
function edgeLength(seed: Seed, disk: Disk, type: number): number {
  // one that fills a buffer, or the disk, takes the time of a hundred others
  const isLarge = seed.chance(0.02);
  if (type === nbd.NBD_CMD_WRITE && !seed.chance(0.01)) {
    if (!isLarge) return seed.pick([0, 1, 4095, 4096]);
    return seed.pick([458_000, 470_000, disk.sizeBytes, disk.sizeBytes + 1]);
  }
  if (!isLarge) return seed.pick(LENGTHS);
  return seed.pick([disk.sizeBytes - 1, disk.sizeBytes, disk.sizeBytes + 1]);
}

function usualOffset(seed: Seed, disk: Disk, length: number): bigint {
  const last = Math.max(0, disk.sizeBytes - length);
  const offset = seed.below(last + 1);
  return BigInt(seed.chance(0.5) ? offset : offset - offset % disk.blockBytes);
}

function edgeOffset(seed: Seed, disk: Disk, length: number): bigint {
  const size = BigInt(disk.sizeBytes);
  const near = seed.pick([0n, size, size - BigInt(length), 2n ** 53n, 2n ** 63n, 2n ** 64n]);
  return BigInt.asUintN(64, near + BigInt(seed.below(5) - 2));
}

// ---- Encoding

export function request(
  type: number,
  flags: number,
  cookie: bigint,
  offset: bigint,
  length: number,
  payload?: Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(28 + (payload?.length ?? 0));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, nbd.NBD_REQUEST_MAGIC);
  view.setUint16(4, flags);
  view.setUint16(6, type);
  view.setBigUint64(8, cookie);
  view.setBigUint64(16, BigInt.asUintN(64, offset));
  view.setUint32(24, length);
  if (payload !== undefined) bytes.set(payload, 28);
  return bytes;
}

export function option(number: number, data = new Uint8Array(0), length = data.length): Uint8Array {
  return join(u32(nbd.IHAVEOPT_HIGH), u32(nbd.IHAVEOPT_LOW), u32(number), u32(length), data);
}

function exportRequest(name: string, infos: number[]): Uint8Array<ArrayBuffer> {
  const bytes = text(name);
  return join(u32(bytes.length), bytes, u16(infos.length), ...infos.map(u16));
}

function contexts(name: string, queries: string[]): Uint8Array<ArrayBuffer> {
  const strings = [name, ...queries].map(text).map((bytes) => join(u32(bytes.length), bytes));
  return join(strings[0], u32(queries.length), ...strings.slice(1));
}

function text(value: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(value);
}

/** Not so random where they are many: what counts is that they differ. */
function randomBytes(seed: Seed, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length).fill(1 + seed.below(255));
  for (let i = 0; i < Math.min(length, 40); i++) bytes[i] = seed.below(256);
  for (let i = 40; i < length; i += 1021) bytes[i] = seed.below(256);
  return bytes;
}

export function join(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function u16(value: number): Uint8Array {
  return Uint8Array.of(value >> 8, value & 0xff);
}

export function u32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}
