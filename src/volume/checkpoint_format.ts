/**
 * The objects of a checkpoint: packs of pages, and the root. All is little-endian.
 *
 * | page at | size   | what                                                                           |
 * | ------- | ------ | ------------------------------------------------------------------------------ |
 * | 0       | 4      | CRC-32 of all that follows                                                     |
 * | 4       | 4      | page number                                                                    |
 * | 8       | 4      | bases                                                                          |
 * | 12      | 4      | patches                                                                        |
 * | 16      | 16 each | base: stripe in page, then the three words of map_page.ts                     |
 * |         | 24 each | patch, oldest first: stripe in page, first block and blocks (2 bytes each), then location: seq (8), offset, stored bytes; 0 for zeroes |
 *
 * | root at | size    | what                                                                 |
 * | ------- | ------- | -------------------------------------------------------------------- |
 * | 0       | 8       | magic "EDRVCKP1"                                                     |
 * | 8       | 4       | CRC-32 of all that follows                                           |
 * | 12      | 4       | pages                                                                |
 * | 16      | 8       | seq                                                                  |
 * | 24      | 8       | epoch                                                                |
 * | 32      | 4       | segments                                                             |
 * | 36      | 24 each | page: number, number and seq (8) of its pack, offset, length         |
 * |         | 16 each | segment: seq (8), stored bytes, live bytes; both 0 for a claim       |
 */
import { crc32 } from "node:zlib";
import { DamageError } from "../errors.ts";
import { CHECKPOINT_TURN_LOOKS, MAP_PAGE_STRIPES, MIB } from "../limits.ts";
import { MapPage, type PageContents, type Patch } from "./map_page.ts";
import { checkCrc, getUint64, setUint64, viewOf } from "./segment.ts";
import type { SegmentTable } from "./segment_table.ts";
import type { StripeMap } from "./stripe_map.ts";

const ROOT_MAGIC = new TextEncoder().encode("EDRVCKP1");
const ROOT_HEADER_BYTES = 36;
const ROOT_PAGE_BYTES = 24;
const ROOT_SEGMENT_BYTES = 16;
export const PAGE_HEADER_BYTES = 16;
const PAGE_BASE_BYTES = 16;
const PAGE_PATCH_BYTES = 24;

/** Where a stored page lies. */
export interface PageLocation {
  /** Of the checkpoint that the pack was made for. */
  packSeq: number;
  /** Counts the packs of that checkpoint, from 0. */
  packNumber: number;
  /** The key of both: one string for all pages of a pack. */
  pack: string;
  offset: number;
  length: number;
}

/** What a root says. */
export interface Root {
  seq: number;
  epoch: number;
  pages: Map<number, PageLocation>;
}

export const CHECKPOINT_PREFIX = "checkpoint/";
export const PACK_PREFIX = "map/";

function digits(value: number, count: number): string {
  return String(value).padStart(count, "0");
}

export function checkpointKey(seq: number): string {
  return `${CHECKPOINT_PREFIX}${digits(seq, 10)}`;
}

export function packKey(packSeq: number, packNumber: number): string {
  return `${PACK_PREFIX}${digits(packSeq, 10)}/${digits(packNumber, 4)}`;
}

/** How long a page is when it is encoded; PAGE_HEADER_BYTES if nothing is mapped there. */
export function pageBytes({ words, patches }: PageContents): number {
  return PAGE_HEADER_BYTES + countBases(words) * PAGE_BASE_BYTES +
    countPatches(patches) * PAGE_PATCH_BYTES;
}

function countBases(words: Uint32Array): number {
  let count = 0;
  for (let at = 2; at < words.length; at += 3) if (words[at] !== 0) count++;
  return count;
}

function countPatches(patches: PageContents["patches"]): number {
  let count = 0;
  for (const { length } of patches.values()) count += length;
  return count;
}

/** @param bytes what is filled: as many as `pageBytes` says */
export function encodePage(
  number: number,
  { words, patches }: PageContents,
  bytes: Uint8Array,
): void {
  const view = viewOf(bytes);
  view.setUint32(4, number, true);
  view.setUint32(8, countBases(words), true);
  view.setUint32(12, countPatches(patches), true);
  let at = PAGE_HEADER_BYTES;
  for (let index = 0; index < MAP_PAGE_STRIPES; index++) {
    if (words[3 * index + 2] === 0) continue;
    view.setUint32(at, index, true);
    for (let word = 0; word < 3; word++) {
      view.setUint32(at + 4 + 4 * word, words[3 * index + word], true);
    }
    at += PAGE_BASE_BYTES;
  }
  for (const [index, list] of patches) {
    for (const { firstBlock, blockCount, location } of list) {
      view.setUint32(at, index, true);
      view.setUint16(at + 4, firstBlock, true);
      view.setUint16(at + 6, blockCount, true);
      setUint64(view, at + 8, location?.seq ?? 0);
      view.setUint32(at + 16, location?.offset ?? 0, true);
      view.setUint32(at + 20, location?.storedBytes ?? 0, true);
      at += PAGE_PATCH_BYTES;
    }
  }
  view.setUint32(0, crc32(bytes.subarray(4)), true);
}

export function parsePage(key: string, number: number, bytes: Uint8Array): MapPage {
  const damaged = (what: string) => new DamageError(`${key}, page ${number}: ${what}`);
  if (bytes.length < PAGE_HEADER_BYTES) throw damaged(`only ${bytes.length} bytes are there`);
  const view = viewOf(bytes);
  checkCrc(damaged, "page", view.getUint32(0, true), bytes.subarray(4));
  if (view.getUint32(4, true) !== number) throw damaged(`holds page ${view.getUint32(4, true)}`);
  const page = new MapPage();
  let at = PAGE_HEADER_BYTES;
  const patchesAt = at + view.getUint32(8, true) * PAGE_BASE_BYTES;
  const end = patchesAt + view.getUint32(12, true) * PAGE_PATCH_BYTES;
  if (end !== bytes.length) throw damaged(`what it counts ends at ${end}, not ${bytes.length}`);
  for (; at < patchesAt; at += PAGE_BASE_BYTES) {
    const index = view.getUint32(at, true);
    for (let word = 0; word < 3; word++) {
      page.words[3 * index + word] = view.getUint32(at + 4 + 4 * word, true);
    }
    page.countMapped(index, 1);
  }
  for (; at < bytes.length; at += PAGE_PATCH_BYTES) {
    const index = view.getUint32(at, true);
    const storedBytes = view.getUint32(at + 20, true);
    const patch: Patch = {
      firstBlock: view.getUint16(at + 4, true),
      blockCount: view.getUint16(at + 6, true),
      location: storedBytes === 0
        ? null
        : { seq: getUint64(view, at + 8), offset: view.getUint32(at + 16, true), storedBytes },
    };
    if (!page.isMapped(index)) page.countMapped(index, 1);
    page.setPatches(index, [...page.patches.get(index) ?? [], patch]);
  }
  return page;
}

export interface EncodedRoot {
  bytes: Uint8Array;
  /** The seqs of the segments that are dead in it. */
  dead: number[];
}

/** @param segments the table, frozen; the claims are beside it */
export async function encodeRoot(
  root: Root,
  segments: SegmentTable,
  claims: number[],
  pause: () => Promise<void>,
): Promise<EncodedRoot> {
  const segmentCount = segments.frozenSize + claims.length;
  const bytes = new Uint8Array(
    ROOT_HEADER_BYTES + root.pages.size * ROOT_PAGE_BYTES + segmentCount * ROOT_SEGMENT_BYTES,
  );
  const view = viewOf(bytes);
  bytes.set(ROOT_MAGIC);
  view.setUint32(12, root.pages.size, true);
  setUint64(view, 16, root.seq);
  setUint64(view, 24, root.epoch);
  view.setUint32(32, segmentCount, true);
  let at = ROOT_HEADER_BYTES;
  let pages = 0;
  for (const [number, { packSeq, packNumber, offset, length }] of root.pages) {
    view.setUint32(at, number, true);
    view.setUint32(at + 4, packNumber, true);
    setUint64(view, at + 8, packSeq);
    view.setUint32(at + 16, offset, true);
    view.setUint32(at + 20, length, true);
    at += ROOT_PAGE_BYTES;
    if (++pages % CHECKPOINT_TURN_LOOKS === 0) await pause();
  }
  const dead: number[] = [];
  let rows = 0;
  for (const { seqs, bytes } of segments.frozen()) {
    for (let row = 0; row < seqs.length; row++) {
      const [storedBytes, liveBytes] = [bytes[2 * row], bytes[2 * row + 1]];
      setUint64(view, at, seqs[row]);
      view.setUint32(at + 8, storedBytes, true);
      view.setUint32(at + 12, liveBytes, true);
      at += ROOT_SEGMENT_BYTES;
      if (liveBytes === 0) dead.push(seqs[row]);
    }
    rows += seqs.length;
    if (rows % CHECKPOINT_TURN_LOOKS === 0) await pause();
  }
  for (const seq of claims) {
    setUint64(view, at, seq); // and no bytes at all
    at += ROOT_SEGMENT_BYTES;
  }
  view.setUint32(8, await crcInTurns(bytes.subarray(12), pause), true);
  return { bytes, dead };
}

async function crcInTurns(bytes: Uint8Array, pause: () => Promise<void>): Promise<number> {
  let crc = 0;
  for (let at = 0; at < bytes.length; at += MIB) {
    if (at > 0) await pause();
    crc = crc32(bytes.subarray(at, at + MIB), crc);
  }
  return crc;
}

/** Reads the root; the segment table goes into the map. */
export function parseRoot(key: string, bytes: Uint8Array, map: StripeMap): Root {
  const damaged = (what: string) => new DamageError(`${key}: ${what}`);
  if (bytes.length < ROOT_HEADER_BYTES) throw damaged(`only ${bytes.length} bytes are there`);
  if (!ROOT_MAGIC.every((byte, at) => bytes[at] === byte)) throw damaged("not a checkpoint");
  const view = viewOf(bytes);
  checkCrc(damaged, "checkpoint", view.getUint32(8, true), bytes.subarray(12));
  const root: Root = { seq: getUint64(view, 16), epoch: getUint64(view, 24), pages: new Map() };
  if (checkpointKey(root.seq) !== key) throw damaged(`holds checkpoint ${root.seq}`);
  const [pages, segments] = [view.getUint32(12, true), view.getUint32(32, true)];
  let at = ROOT_HEADER_BYTES;
  const end = at + pages * ROOT_PAGE_BYTES + segments * ROOT_SEGMENT_BYTES;
  if (end !== bytes.length) throw damaged(`what it counts ends at ${end}, not ${bytes.length}`);
  for (let left = pages; left > 0; left--, at += ROOT_PAGE_BYTES) {
    const [packSeq, packNumber] = [getUint64(view, at + 8), view.getUint32(at + 4, true)];
    root.pages.set(view.getUint32(at, true), {
      packSeq,
      packNumber,
      pack: packKey(packSeq, packNumber),
      offset: view.getUint32(at + 16, true),
      length: view.getUint32(at + 20, true),
    });
  }
  for (let left = segments; left > 0; left--, at += ROOT_SEGMENT_BYTES) {
    const [seq, storedBytes] = [getUint64(view, at), view.getUint32(at + 8, true)];
    if (storedBytes === 0) map.claims.add(seq);
    else map.segments.add(seq, storedBytes, view.getUint32(at + 12, true));
  }
  return root;
}
