/**
 * Checkpoints: the map and the segment table as they were after one seq, so that opening reads a few objects
 * and not the whole log.
 *
 *   map/<seq>/<part>   pages that changed since the last checkpoint, packed into objects of up to 8 MiB
 *   checkpoint/<seq>   the root: where every page is, in this pack or an older one, and the segment table
 *
 * The root is stored last; a checkpoint without it does not exist. What a page holds is settled in one turn, between two
 * commits: a page that changes before it is encoded is encoded first (`MapPage.beforeChange`).
 *
 * Two checkpoints are kept, the older for the case that the newer is damaged. A writer's first one stores every
 * page anew: the pages it found belong to the checkpoints of the writer before it, which may still be alive
 * somewhere and clean up after itself. For the same reason packs from its own seq on are never deleted.
 *
 * | page at | size   | what                                                                           |
 * | ------- | ------ | ------------------------------------------------------------------------------ |
 * | 0       | 4      | CRC-32 of all that follows                                                     |
 * | 4       | 4      | page number                                                                    |
 * | 8       | 4      | bases                                                                          |
 * | 12      | 4      | patches                                                                        |
 * | 16      | 16 each | base: stripe in page, then the three words of stripe_map.ts                   |
 * |         | 24 each | patch, oldest first: stripe in page, first block and blocks (2 bytes each), then place: seq (8), offset, stored bytes; 0 for zeroes |
 *
 * | root at | size    | what                                                                 |
 * | ------- | ------- | -------------------------------------------------------------------- |
 * | 0       | 8       | magic "EDRVCKP1"                                                     |
 * | 8       | 4       | CRC-32 of all that follows                                           |
 * | 12      | 4       | pages                                                                |
 * | 16      | 8       | seq                                                                  |
 * | 24      | 8       | epoch                                                                |
 * | 32      | 4       | segments                                                             |
 * | 36      | 24 each | page: number, part, seq of the pack (8), offset, length              |
 * |         | 16 each | segment: seq (8), stored bytes, live bytes; both 0 for a claim       |
 */
import { crc32 } from "node:zlib";
import type { Bucket } from "../bucket/bucket.ts";
import { DamageError } from "../errors.ts";
import { CHECKPOINT_PART_BYTES_MAX, DOWNLOADS_MAX, MAP_PAGE_STRIPES } from "../limits.ts";
import { deleteAll, listAll } from "./keys.ts";
import { Limiter } from "./limiter.ts";
import { checkCrc, getUint64, setUint64, viewOf } from "./segment.ts";
import { MapPage, type Patch, type StripeMap } from "./stripe_map.ts";

const ROOT_MAGIC = new TextEncoder().encode("EDRVCKP1");
const ROOT_HEADER_BYTES = 36;
const ROOT_PAGE_BYTES = 24;
const ROOT_SEGMENT_BYTES = 16;
const PAGE_HEADER_BYTES = 16;
const PAGE_BASE_BYTES = 16;
const PAGE_PATCH_BYTES = 24;

/** Where a stored page lies. */
interface PagePlace {
  packSeq: number;
  part: number;
  offset: number;
  length: number;
}

/** What a root says. */
interface Root {
  seq: number;
  epoch: number;
  pages: Map<number, PagePlace>;
}

export const CHECKPOINT_PREFIX = "checkpoint/";
const PACK_PREFIX = "map/";

function digits(value: number, count: number): string {
  return String(value).padStart(count, "0");
}

export function checkpointKey(seq: number): string {
  return `${CHECKPOINT_PREFIX}${digits(seq, 10)}`;
}

function packKey(place: { packSeq: number; part: number }): string {
  return `${PACK_PREFIX}${digits(place.packSeq, 10)}/${digits(place.part, 4)}`;
}

/** The seqs of the checkpoints there are, newest first; a key of any other form is none. */
export async function listCheckpoints(bucket: Bucket): Promise<number[]> {
  const keys = await listAll(bucket, CHECKPOINT_PREFIX);
  return keys.map((key) => Number(key.slice(CHECKPOINT_PREFIX.length)))
    .filter((seq, at) => checkpointKey(seq) === keys[at]).reverse();
}

/** A checkpoint as opening needs it. */
export interface LoadedCheckpoint {
  seq: number;
  epoch: number;
  /** Keys of the packs it is made of. */
  packs: Set<string>;
}

/**
 * Reads the checkpoint `seq` into an empty map.
 *
 * @throws DamageError naming the key if any part of it is missing or not as it was written
 */
export async function loadCheckpoint(
  bucket: Bucket,
  seq: number,
  map: StripeMap,
): Promise<LoadedCheckpoint> {
  const key = checkpointKey(seq);
  const found = await bucket.get(key);
  if (!found) throw new DamageError(`${key}: missing`);
  const root = parseRoot(key, found.bytes, map);
  const byPack = new Map<string, [number, PagePlace][]>();
  for (const entry of root.pages) {
    const pack = packKey(entry[1]);
    if (!byPack.has(pack)) byPack.set(pack, []);
    byPack.get(pack)!.push(entry);
  }
  await new Limiter(DOWNLOADS_MAX / 4).forEach(byPack, async ([pack, pages]) => {
    const object = await bucket.get(pack);
    if (!object) throw new DamageError(`${pack}: missing, and ${key} needs it`);
    for (const [number, { offset, length }] of pages) {
      const page = parsePage(pack, number, object.bytes.subarray(offset, offset + length));
      map.pages.set(number, page);
      for (const patches of page.patches.values()) map.patchCount += patches.length;
    }
  });
  return { seq: root.seq, epoch: root.epoch, packs: new Set(byPack.keys()) };
}

/** Stores checkpoints of one map, one at a time. */
export class Checkpointer {
  readonly #bucket: Bucket;
  readonly #map: StripeMap;
  readonly #epoch: number;
  readonly #places = new Map<number, PagePlace>();
  /** By pack that this writer stored: its bytes. */
  readonly #packBytes = new Map<string, number>();
  /** The newest checkpoint, and the packs it needs. */
  #newest: { seq: number; packs: Set<string> } | null;

  /** @param found the checkpoint that the map was read from, if there was one */
  constructor(bucket: Bucket, map: StripeMap, epoch: number, found: LoadedCheckpoint | null) {
    this.#bucket = bucket;
    this.#map = map;
    this.#epoch = epoch;
    this.#newest = found;
    for (const page of map.pages.values()) page.changed = true;
  }

  get newestSeq(): number {
    return this.#newest?.seq ?? 0;
  }

  /**
   * Stores the map as it is in the turn of the call, which is after `seq` and nothing more. Not to be called
   * again before it ends. Returns the seq of the older of the two checkpoints there are then, or 0: opening may
   * have to read the log from there.
   */
  async store(seq: number): Promise<number> {
    const segments = encodeSegments(this.#map);
    const pages = this.#freeze();
    try {
      await this.#storePages(seq, pages);
      const root = encodeRoot({ seq, epoch: this.#epoch, pages: this.#places }, segments);
      await this.#bucket.put(checkpointKey(seq), root);
    } catch (error) {
      // the next one has to store them all
      for (const number of pages.keys()) this.#map.pages.get(number)!.changed = true;
      throw error;
    }
    const older = this.#newest;
    this.#newest = { seq, packs: new Set(Array.from(this.#places.values(), packKey)) };
    await this.#cleanUp(seq, older);
    return older?.seq ?? 0;
  }

  /** Settles which pages are to be stored, each as it is now. Values are filled when a page changes early. */
  #freeze(): Map<number, Uint8Array | null> {
    const poor = this.#poorPacks();
    const frozen = new Map<number, Uint8Array | null>();
    for (const [number, page] of this.#map.pages) {
      const place = this.#places.get(number);
      if (!page.changed && place && !poor.has(packKey(place))) continue;
      page.changed = false;
      page.beforeChange = () => frozen.set(number, encodePage(number, page));
      frozen.set(number, null);
    }
    return frozen;
  }

  /** Packs of which less than half is still needed: what is, moves on, so that they can be deleted. */
  #poorPacks(): Set<string> {
    const needed = new Map<string, number>();
    for (const [number, place] of this.#places) {
      if (this.#map.pages.get(number)?.changed) continue;
      needed.set(packKey(place), (needed.get(packKey(place)) ?? 0) + place.length);
    }
    const poor = new Set<string>();
    for (const [key, bytes] of this.#packBytes) {
      if ((needed.get(key) ?? 0) * 2 < bytes) poor.add(key);
    }
    return poor;
  }

  async #storePages(seq: number, frozen: Map<number, Uint8Array | null>): Promise<void> {
    let parts: [number, Uint8Array][] = [];
    let bytes = 0;
    let part = 0;
    const store = async () => {
      const pack = new Uint8Array(bytes);
      let offset = 0;
      for (const [number, page] of parts) {
        pack.set(page, offset);
        this.#places.set(number, { packSeq: seq, part, offset, length: page.length });
        offset += page.length;
      }
      const key = packKey({ packSeq: seq, part });
      await this.#bucket.put(key, pack);
      this.#packBytes.set(key, bytes);
      parts = [];
      bytes = 0;
      part++;
    };
    for (const [number, early] of frozen) {
      const page = this.#map.pages.get(number)!;
      const encoded = early ?? encodePage(number, page);
      page.beforeChange = null;
      frozen.set(number, null);
      if (encoded.length === PAGE_HEADER_BYTES) {
        this.#places.delete(number); // nothing is mapped there any more
        continue;
      }
      if (bytes + encoded.length > CHECKPOINT_PART_BYTES_MAX) await store();
      parts.push([number, encoded]);
      bytes += encoded.length;
    }
    if (bytes > 0) await store();
  }

  /** Deletes what neither of the two newest checkpoints needs, leftovers of a crash included. */
  async #cleanUp(seq: number, older: { seq: number; packs: Set<string> } | null): Promise<void> {
    const roots = (await listCheckpoints(this.#bucket))
      .filter((other) => other < (older?.seq ?? seq)).map(checkpointKey);
    const packs = (await listAll(this.#bucket, PACK_PREFIX)).filter((key) =>
      key < packKey({ packSeq: seq, part: 0 }) &&
      !this.#newest!.packs.has(key) && !older?.packs.has(key)
    );
    // roots first: a root whose packs are gone would look like damage
    await deleteAll(this.#bucket, roots);
    await deleteAll(this.#bucket, packs);
    for (const key of packs) this.#packBytes.delete(key);
  }
}

// ---- bytes

function encodePage(number: number, page: MapPage): Uint8Array {
  const bases: number[] = [];
  for (let index = 0; index < MAP_PAGE_STRIPES; index++) if (page.hasBase(index)) bases.push(index);
  let patchCount = 0;
  for (const patches of page.patches.values()) patchCount += patches.length;
  const bytes = new Uint8Array(
    PAGE_HEADER_BYTES + bases.length * PAGE_BASE_BYTES + patchCount * PAGE_PATCH_BYTES,
  );
  const view = viewOf(bytes);
  view.setUint32(4, number, true);
  view.setUint32(8, bases.length, true);
  view.setUint32(12, patchCount, true);
  let at = PAGE_HEADER_BYTES;
  for (const index of bases) {
    view.setUint32(at, index, true);
    for (let word = 0; word < 3; word++) {
      view.setUint32(at + 4 + 4 * word, page.words[3 * index + word], true);
    }
    at += PAGE_BASE_BYTES;
  }
  for (const [index, patches] of page.patches) {
    for (const { firstBlock, blockCount, place } of patches) {
      view.setUint32(at, index, true);
      view.setUint16(at + 4, firstBlock, true);
      view.setUint16(at + 6, blockCount, true);
      setUint64(view, at + 8, place?.seq ?? 0);
      view.setUint32(at + 16, place?.offset ?? 0, true);
      view.setUint32(at + 20, place?.storedBytes ?? 0, true);
      at += PAGE_PATCH_BYTES;
    }
  }
  view.setUint32(0, crc32(bytes.subarray(4)), true);
  return bytes;
}

function parsePage(key: string, number: number, bytes: Uint8Array): MapPage {
  const damaged = (what: string) => new DamageError(`${key}, page ${number}: ${what}`);
  if (bytes.length < PAGE_HEADER_BYTES) throw damaged(`only ${bytes.length} bytes are there`);
  const view = viewOf(bytes);
  checkCrc(damaged, "page", view.getUint32(0, true), bytes.subarray(4));
  if (view.getUint32(4, true) !== number) throw damaged(`holds page ${view.getUint32(4, true)}`);
  const page = new MapPage();
  let at = PAGE_HEADER_BYTES;
  const patchesAt = at + view.getUint32(8, true) * PAGE_BASE_BYTES;
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
      place: storedBytes === 0
        ? null
        : { seq: getUint64(view, at + 8), offset: view.getUint32(at + 16, true), storedBytes },
    };
    if (!page.isMapped(index)) page.countMapped(index, 1);
    const patches = page.patches.get(index);
    if (patches) patches.push(patch);
    else page.patches.set(index, [patch]);
  }
  return page;
}

function encodeSegments(map: StripeMap): Uint8Array {
  const bytes = new Uint8Array((map.segments.size + map.claims.size) * ROOT_SEGMENT_BYTES);
  const view = viewOf(bytes);
  let at = 0;
  const add = (seq: number, storedBytes: number, liveBytes: number) => {
    setUint64(view, at, seq);
    view.setUint32(at + 8, storedBytes, true);
    view.setUint32(at + 12, liveBytes, true);
    at += ROOT_SEGMENT_BYTES;
  };
  for (const [seq, use] of map.segments) add(seq, use.storedBytes, use.liveBytes);
  for (const seq of map.claims) add(seq, 0, 0);
  return bytes;
}

function encodeRoot(root: Root, segments: Uint8Array): Uint8Array {
  const pagesEnd = ROOT_HEADER_BYTES + root.pages.size * ROOT_PAGE_BYTES;
  const bytes = new Uint8Array(pagesEnd + segments.length);
  const view = viewOf(bytes);
  bytes.set(ROOT_MAGIC);
  view.setUint32(12, root.pages.size, true);
  setUint64(view, 16, root.seq);
  setUint64(view, 24, root.epoch);
  view.setUint32(32, segments.length / ROOT_SEGMENT_BYTES, true);
  let at = ROOT_HEADER_BYTES;
  for (const [number, { part, packSeq, offset, length }] of root.pages) {
    view.setUint32(at, number, true);
    view.setUint32(at + 4, part, true);
    setUint64(view, at + 8, packSeq);
    view.setUint32(at + 16, offset, true);
    view.setUint32(at + 20, length, true);
    at += ROOT_PAGE_BYTES;
  }
  bytes.set(segments, pagesEnd);
  view.setUint32(8, crc32(bytes.subarray(12)), true);
  return bytes;
}

/** Reads the root; the segment table goes into the map. */
function parseRoot(key: string, bytes: Uint8Array, map: StripeMap): Root {
  const damaged = (what: string) => new DamageError(`${key}: ${what}`);
  if (bytes.length < ROOT_HEADER_BYTES) throw damaged(`only ${bytes.length} bytes are there`);
  if (!ROOT_MAGIC.every((byte, at) => bytes[at] === byte)) throw damaged("not a checkpoint");
  const view = viewOf(bytes);
  checkCrc(damaged, "checkpoint", view.getUint32(8, true), bytes.subarray(12));
  const root: Root = { seq: getUint64(view, 16), epoch: getUint64(view, 24), pages: new Map() };
  if (checkpointKey(root.seq) !== key) throw damaged(`holds checkpoint ${root.seq}`);
  let at = ROOT_HEADER_BYTES;
  for (let left = view.getUint32(12, true); left > 0; left--, at += ROOT_PAGE_BYTES) {
    root.pages.set(view.getUint32(at, true), {
      part: view.getUint32(at + 4, true),
      packSeq: getUint64(view, at + 8),
      offset: view.getUint32(at + 16, true),
      length: view.getUint32(at + 20, true),
    });
  }
  for (let left = view.getUint32(32, true); left > 0; left--, at += ROOT_SEGMENT_BYTES) {
    const [seq, storedBytes] = [getUint64(view, at), view.getUint32(at + 8, true)];
    if (storedBytes === 0) map.claims.add(seq);
    else map.addSegment(seq, storedBytes, view.getUint32(at + 12, true));
  }
  return root;
}
