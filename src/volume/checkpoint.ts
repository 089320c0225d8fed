/**
 * Checkpoints: the map and the segment table as they were after one seq, so that opening reads a few objects
 * and not the whole log.
 *
 *   map/<seq>/<pack>   pages that changed since the last checkpoint, packed into objects of up to 8 MiB
 *   checkpoint/<seq>   the root: where every page is, in this pack or an older one, and the segment table
 *
 * The root is stored last; a checkpoint without it does not exist. What it holds is settled in one turn, between two
 * commits, in which what changed is only listed and frozen (stripe_map.ts). All else is done a few milliseconds a turn,
 * so that clients don't notice: 1 TiB in order are 4,096 pages and 256 MiB to be encoded.
 *
 * Two checkpoints are kept, the older for the case that the newer is damaged. A writer cleans up behind each that it has
 * stored: it deletes packs of a lower seq that neither of the two names.
 *
 * What another writer may have stored or may delete is told from the keys. Checkpoints have the seqs of their writer,
 * which are its own from its claim to the next one (recovery.ts): no two writers store the same key, and none
 * deletes a pack of a later one. A pack that its newest checkpoint names it has never asked to be deleted, but may
 * when it has stored two more; a writer that was taken over may yet do that. One that had opened the volume before a
 * checkpoint of its predecessor's arrived does not know the packs of that, and deletes them behind its own first one. So
 * the first checkpoint of a successor stores every page anew (`StripeMap.changeAll`), unless all writers since the one
 * of the checkpoint that was found have released the volume (lease.ts): they began nothing after that, and no request of
 * theirs that is still under way deletes what is named.
 *
 * What the objects hold is described in checkpoint_format.ts.
 */
import type { Bucket } from "../bucket/bucket.ts";
import { DamageError } from "../errors.ts";
import {
  CHECKPOINT_PACK_BYTES_MAX,
  CHECKPOINT_PAGE_LOOKS,
  CHECKPOINT_TURN_LOOKS,
  DOWNLOADS_MAX,
} from "../limits.ts";
import {
  CHECKPOINT_PREFIX,
  checkpointKey,
  type EncodedRoot,
  encodePage,
  encodeRoot,
  PACK_PREFIX,
  packKey,
  PAGE_HEADER_BYTES,
  pageBytes,
  type PageLocation,
  parsePage,
  parseRoot,
  type Root,
} from "./checkpoint_format.ts";
import { deleteAll, listAll } from "./keys.ts";
import { Limiter } from "./limiter.ts";
import type { MapPage } from "./map_page.ts";
import type { StripeMap } from "./stripe_map.ts";

/** The seqs of the checkpoints there are, newest first; a key of any other form is none. */
export async function listCheckpoints(bucket: Bucket): Promise<number[]> {
  const keys = await listAll(bucket, CHECKPOINT_PREFIX);
  return keys.map((key) => Number(key.slice(CHECKPOINT_PREFIX.length)))
    .filter((seq, at) => checkpointKey(seq) === keys[at]).reverse();
}

/** A checkpoint as opening needs it. */
export interface LoadedCheckpoint extends Root {
  /** By key of the packs it is made of: their bytes. */
  packs: Map<string, number>;
}

/**
 * Reads the root of the checkpoint `seq`; the segment table goes into the map.
 *
 * @throws DamageError naming the key if it is missing or not as it was written
 */
export async function readRoot(bucket: Bucket, seq: number, map: StripeMap): Promise<Root> {
  const key = checkpointKey(seq);
  const found = await bucket.get(key);
  if (!found) throw new DamageError(`${key}: missing`);
  return parseRoot(key, found.bytes, map);
}

/**
 * Reads the checkpoint `seq` into an empty map.
 *
 * @param onProgress told of the bytes of the map that were read, and of all of them
 * @throws DamageError naming the key if any part of it is missing or not as it was written
 */
export async function loadCheckpoint(
  bucket: Bucket,
  seq: number,
  map: StripeMap,
  onProgress: (doneBytes: number, allBytes: number) => void = () => {},
): Promise<LoadedCheckpoint> {
  const root = await readRoot(bucket, seq, map);
  let [doneBytes, allBytes] = [0, 0];
  for (const { length } of root.pages.values()) allBytes += length;
  const byPack = new Map<string, [number, PageLocation][]>();
  for (const entry of root.pages) {
    const { pack } = entry[1];
    if (!byPack.has(pack)) byPack.set(pack, []);
    byPack.get(pack)!.push(entry);
  }
  const packs = new Map<string, number>();
  await new Limiter(DOWNLOADS_MAX / 4).forEach(byPack, async ([pack, pages]) => {
    const object = await bucket.get(pack);
    if (!object) throw new DamageError(`${pack}: missing, and ${checkpointKey(seq)} needs it`);
    packs.set(pack, object.size);
    for (const [number, { offset, length }] of pages) {
      const page = parsePage(pack, number, object.bytes.subarray(offset, offset + length));
      map.load(number, page);
      doneBytes += length;
    }
    onProgress(doneBytes, allBytes);
  });
  return { ...root, packs };
}

/** What there is once a checkpoint is stored. */
export interface StoredCheckpoint {
  /** The seq of the older of the two there are then, or 0: opening may have to read the log from there. */
  olderSeq: number;
  /** The segments that are dead in the newer. */
  dead: number[];
}

/** Stores checkpoints of one map, one at a time. */
export class Checkpointer {
  readonly #bucket: Bucket;
  readonly #map: StripeMap;
  readonly #epoch: number;
  readonly #pause: () => Promise<void>;
  /** What packs are filled in: fresh memory for each would cost more than all that is done with it. */
  #buffer: Uint8Array | null = null;
  /** Of the pages of the newest checkpoint. */
  readonly #locations: Map<number, PageLocation>;
  /** By pack: its bytes. */
  readonly #packBytes: Map<string, number>;
  /** The newest checkpoint, and the packs it needs. */
  #newest: { seq: number; packs: Set<string> } | null;

  /**
   * @param found the checkpoint that the map was read from, if there was one; of its pages those stay where they are that
   *   have not changed: see the head for when all have to count as changed
   * @param pause resolves when all else that can be done has had its turn
   */
  constructor(
    bucket: Bucket,
    map: StripeMap,
    epoch: number,
    found: LoadedCheckpoint | null,
    pause: () => Promise<void>,
  ) {
    this.#pause = pause;
    this.#bucket = bucket;
    this.#map = map;
    this.#epoch = epoch;
    this.#locations = found?.pages ?? new Map();
    this.#packBytes = found?.packs ?? new Map();
    this.#newest = found && { seq: found.seq, packs: new Set(found.packs.keys()) };
  }

  get newestSeq(): number {
    return this.#newest?.seq ?? 0;
  }

  /**
   * Stores the map as it is in the turn of the call, which is after `seq` and nothing more, and settled
   * (`StripeMap.settle`). Not to be called again before it ends.
   */
  async store(seq: number): Promise<StoredCheckpoint> {
    const pages = this.#map.freeze();
    const claims = [...this.#map.claims];
    let encoded: EncodedRoot;
    try {
      await this.#addPoor(pages);
      await this.#storePages(seq, pages);
      const root = { seq, epoch: this.#epoch, pages: this.#locations };
      encoded = await encodeRoot(root, this.#map.segments, claims, this.#pause);
      await this.#bucket.put(checkpointKey(seq), encoded.bytes);
    } catch (error) {
      this.#map.thaw(false); // the next one has to store them all
      throw error;
    }
    this.#map.thaw(true);
    const older = this.#newest;
    const packs = new Set<string>();
    await this.#inTurns(this.#locations, ([, { pack }]) => packs.add(pack));
    this.#newest = { seq, packs };
    await this.#cleanUp(seq, older);
    return { olderSeq: older?.seq ?? 0, dead: encoded.dead };
  }

  /** Adds pages of packs of which less than half is still needed: what is, moves on, so that they can be deleted. */
  async #addPoor(pages: ReadonlyMap<number, MapPage | null>): Promise<void> {
    const needed = new Map<string, number>();
    await this.#inTurns(this.#locations, ([number, { pack, length }]) => {
      if (!pages.has(number)) needed.set(pack, (needed.get(pack) ?? 0) + length);
    });
    await this.#inTurns(this.#locations, ([number, { pack }]) => {
      const isPoor = (needed.get(pack) ?? 0) * 2 < this.#packBytes.get(pack)!;
      if (isPoor) this.#map.freezeAlso(number);
    });
  }

  async #storePages(seq: number, pages: ReadonlyMap<number, MapPage | null>): Promise<void> {
    const buffer = this.#buffer ??= new Uint8Array(CHECKPOINT_PACK_BYTES_MAX);
    let end = 0;
    let packNumber = 0;
    let pack = packKey(seq, packNumber);
    const store = async () => {
      await this.#bucket.put(pack, buffer.subarray(0, end));
      this.#packBytes.set(pack, end);
      pack = packKey(seq, ++packNumber);
      end = 0;
    };
    let inTurn = 0;
    for (const [number, page] of pages) {
      let contents = page?.frozen();
      const length = contents ? pageBytes(contents) : PAGE_HEADER_BYTES;
      if (end + length > buffer.length) {
        await store();
        contents = page?.frozen();
      }
      if (!contents || length === PAGE_HEADER_BYTES) {
        this.#locations.delete(number); // nothing is mapped there any more
      } else {
        encodePage(number, contents, buffer.subarray(end, end + length));
        this.#locations.set(number, { packSeq: seq, packNumber, pack, offset: end, length });
        end += length;
      }
      if (page) this.#map.stored(page);
      inTurn += page ? CHECKPOINT_PAGE_LOOKS : 1;
      if (inTurn >= CHECKPOINT_TURN_LOOKS) {
        inTurn = 0;
        await this.#pause();
      }
    }
    if (end > 0) await store();
  }

  /** Does `act` with each, a few milliseconds a turn. */
  async #inTurns<T>(items: Iterable<T>, act: (item: T) => void): Promise<void> {
    let inTurn = 0;
    for (const item of items) {
      act(item);
      if (++inTurn % CHECKPOINT_TURN_LOOKS === 0) await this.#pause();
    }
  }

  /** Deletes what neither of the two newest checkpoints needs, leftovers of a crash included. */
  async #cleanUp(seq: number, older: { seq: number; packs: Set<string> } | null): Promise<void> {
    const roots = (await listCheckpoints(this.#bucket))
      .filter((other) => other < (older?.seq ?? seq)).map(checkpointKey);
    const packs = (await listAll(this.#bucket, PACK_PREFIX)).filter((key) =>
      key < packKey(seq, 0) &&
      !this.#newest!.packs.has(key) && !older?.packs.has(key)
    );
    // roots first: a root whose packs are gone would look like damage
    await deleteAll(this.#bucket, roots);
    await deleteAll(this.#bucket, packs);
    for (const key of packs) this.#packBytes.delete(key);
  }
}
