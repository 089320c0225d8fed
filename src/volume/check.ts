/**
 * Check: reads all that the disk needs, and says what is not as it was written. It takes no lease, claims nothing and
 * stores nothing.
 *
 *   volume.json, lease.json → the state (recovery.ts) → checkpoints → each segment: its head, then its live records
 *
 * Which records of a segment are live, its index and the map say together. Where the index can't be read, or leaves
 * out what the map names, the map is searched for them.
 *
 * A drive may have the volume open meanwhile and delete what it needs no more. So damage is believed only if a state
 * read after it was seen still needs what is damaged; a stripe that has moved is checked where it is then.
 */
import { type Bucket, noVolumeIn } from "../bucket/bucket.ts";
import type { Clock } from "../clock.ts";
import { DamageError, messageOf } from "../errors.ts";
import { BLOCK_BYTES, DOWNLOADS_MAX, MAP_PAGE_STRIPES, SEGMENT_HEAD_BYTES_MAX } from "../limits.ts";
import { silentLogger } from "../logger.ts";
import { listCheckpoints, loadCheckpoint } from "./checkpoint.ts";
import { checkpointKey } from "./checkpoint_format.ts";
import { endOf, joinNeighbours } from "./fetch.ts";
import { type Host, LEASE_KEY, readTenancy, type Tenancy } from "./lease.ts";
import { listAll } from "./keys.ts";
import { Limiter } from "./limiter.ts";
import { type OnReading, readState, type VolumeState } from "./recovery.ts";
import {
  openPart,
  parseSegmentHead,
  partsOf,
  RECORD_DATA,
  RECORD_PREFIX_BYTES,
  segmentKey,
  type SegmentRecord,
  seqOfKey,
} from "./segment.ts";
import { type Place, StripeMap } from "./stripe_map.ts";
import { partBytesOf, readVolume, VOLUME_KEY, type VolumeInfo } from "./volume_info.ts";

/** A part of the disk, in bytes. */
export interface DiskRange {
  offset: number;
  length: number;
}

/** Something that is not as it was written. */
export interface Finding {
  /** Key, offset and checksums, as far as there are any. */
  what: string;
  /** What of the disk can't be read for it. */
  ranges: DiskRange[];
}

/** Objects of one kind. */
export interface Weight {
  objects: number;
  bytes: number;
}

/** A record that the map names. */
interface LiveRecord {
  stripe: number;
  /** From the disk's begin. */
  firstBlock: number;
  place: Place;
}

/** One of which a part could not be read. */
interface Suspect extends LiveRecord {
  /** Counted from 0. */
  part: number;
  what: string;
}

export class VolumeCheck {
  readonly findings: Finding[] = [];
  /** Undefined if it can't be read; then nothing else was. */
  info: VolumeInfo | undefined;
  /** Who has the volume open, or had. */
  tenancy: Tenancy | null | undefined;
  /** What was checked: the volume at one moment. Undefined if it can't be opened. */
  state: VolumeState | undefined;
  /** Segments that the state knows, claims included. */
  readonly segments: Weight = { objects: 0, bytes: 0 };
  /** Of them, what the map names. */
  liveBytes = 0;
  readonly checkpoints: Weight = { objects: 0, bytes: 0 };
  /** Of a writer or a checkpoint that came to nothing; or, if a drive has the volume open, still under way. */
  readonly leftovers: Weight = { objects: 0, bytes: 0 };
  /** Keys that no volume has. */
  readonly foreign: string[] = [];

  readonly #bucket: Bucket;
  readonly #gets = new Limiter(DOWNLOADS_MAX);
  #checkedBytes = 0;
  #onProgress: (doneBytes: number, allBytes: number) => void = () => {};

  private constructor(bucket: Bucket) {
    this.#bucket = bucket;
  }

  /**
   * Reads what a drive reads to open the volume; `findings` says what of it is damaged.
   *
   * @throws UsageError if there is no volume
   */
  static async begin(
    bucket: Bucket,
    host: Host,
    clock: Clock,
    onReading?: OnReading,
  ): Promise<VolumeCheck> {
    const check = new VolumeCheck(bucket);
    const found = await check.#note(() => readVolume(bucket));
    if (found === null) throw noVolumeIn(bucket.name);
    check.info = found?.info;
    // the lease first: what it says was stored must be there afterwards
    check.tenancy = await check.#note(() => readTenancy(bucket, host, clock));
    if (check.info) check.state = await check.#note(() => check.#readState(onReading));
    return check;
  }

  get isSound(): boolean {
    return this.findings.length === 0;
  }

  /** Checks all of it. */
  async run(onProgress: (doneBytes: number, allBytes: number) => void): Promise<void> {
    if (!this.state) return;
    this.#onProgress = onProgress;
    this.liveBytes += this.state.map.total.liveBytes;
    onProgress(0, this.liveBytes);
    const keys = await listAll(this.#bucket, "");
    const needed = await this.#checkCheckpoints(new Set(keys));
    await this.#confirm(await this.#checkSegments());
    await this.#weighTheRest(keys, needed);
  }

  // ---- what opening reads

  /** Undefined, and a finding, if it throws a DamageError. */
  async #note<T>(act: () => Promise<T>): Promise<T | undefined> {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      this.findings.push({ what: error.message, ranges: [] });
      return undefined;
    }
  }

  #readState(onReading?: OnReading): Promise<VolumeState> {
    return readState({
      bucket: this.#bucket,
      blocksPerStripe: this.#blocksPerStripe,
      logger: silentLogger,
      before: this.tenancy,
      onReading,
    });
  }

  get #blocksPerStripe(): number {
    return this.info!.stripeBytes / BLOCK_BYTES;
  }

  get #partBytes(): number {
    return partBytesOf(this.info!);
  }

  get #map(): StripeMap {
    return this.state!.map;
  }

  // ---- checkpoints

  /** Reads the two that are kept, and weighs them; returns the keys they are made of. */
  async #checkCheckpoints(keys: Set<string>): Promise<Set<string>> {
    const needed = new Set<string>();
    for (const seq of (await listCheckpoints(this.#bucket)).slice(0, 2)) {
      needed.add(checkpointKey(seq));
      try {
        const map = new StripeMap(this.#blocksPerStripe);
        const { packs } = await loadCheckpoint(this.#bucket, seq, map);
        for (const pack of packs.keys()) needed.add(pack);
        this.#assertUsable(seq, keys);
      } catch (error) {
        if (!(error instanceof DamageError)) throw error;
        // a drive that has stored a newer one cleans up
        if (!(await listCheckpoints(this.#bucket)).includes(seq)) continue;
        this.findings.push({ what: error.message, ranges: [] });
      }
    }
    await this.#weigh(needed, this.checkpoints);
    return needed;
  }

  /** What a checkpoint needs to stand in for a newer one: the log behind it. What that overwrites may be gone. */
  #assertUsable(checkpoint: number, keys: Set<string>): void {
    for (let seq = checkpoint + 1; seq <= this.state!.lastSeq; seq++) {
      // what the state itself needs is looked for later
      if (keys.has(segmentKey(seq)) || (this.#map.segments.get(seq)?.liveBytes ?? 0) > 0) continue;
      throw new DamageError(
        `${segmentKey(seq)}: missing, and ${checkpointKey(checkpoint)} needs it`,
      );
    }
  }

  // ---- segments

  async #checkSegments(): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    const notIndexed = new Set<number>();
    const claims = Array.from(this.#map.claims, (seq) => [seq, { liveBytes: 0 }] as const);
    await this.#gets.forEach([...this.#map.segments, ...claims], async ([seq, { liveBytes }]) => {
      if (await this.#checkSegment(seq, suspects) !== liveBytes) notIndexed.add(seq);
    });
    const records = recordsIn(this.#map, notIndexed, this.#blocksPerStripe);
    return [...suspects, ...await this.#checkRecords(records)];
  }

  /** Returns the bytes of the live records that its index led to. */
  async #checkSegment(seq: number, suspects: Suspect[]): Promise<number> {
    const key = segmentKey(seq);
    const found = await this.#bucket.get(key, { offset: 0, length: SEGMENT_HEAD_BYTES_MAX });
    if (!found) return 0; // nothing needs it any more, or each of its live records will be missed
    this.segments.objects++;
    this.segments.bytes += found.size;
    // deno-lint-ignore require-await
    const head = await this.#note(async () => parseSegmentHead(key, found.bytes, found.size));
    const records = head?.records.filter(({ kind }) => kind === RECORD_DATA) ?? [];
    const live = this.#liveOf(seq, records);
    for (const group of joinNeighbours(live)) suspects.push(...await this.#checkGroup(group));
    return records.reduce((sum, record) => sum + this.#map.liveBytes(seq, record), 0);
  }

  #liveOf(seq: number, records: SegmentRecord[]): LiveRecord[] {
    return records.map((record) => ({
      stripe: Math.floor(record.firstBlock / this.#blocksPerStripe),
      firstBlock: record.firstBlock,
      place: { seq, offset: record.offset, storedBytes: record.storedBytes },
    })).filter((record) => isNamed(this.#map, record));
  }

  async #checkRecords(records: Iterable<LiveRecord>): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    await this.#gets.forEach(joinNeighbours([...records]), async (group) => {
      suspects.push(...await this.#checkGroup(group));
    });
    return suspects;
  }

  /** One GET. */
  async #checkGroup(records: LiveRecord[]): Promise<Suspect[]> {
    const { seq, offset } = records[0].place;
    const key = segmentKey(seq);
    const length = endOf(records.at(-1)!.place) - offset;
    const found = await this.#bucket.get(key, { offset, length });
    const suspects: Suspect[] = [];
    for (const record of records) {
      for (const [part, place] of partsOf(record.place, this.#partBytes).entries()) {
        const bytes = found?.bytes.subarray(place.offset - offset, endOf(place) - offset);
        const firstBlock = record.firstBlock + part * this.#partBytes / BLOCK_BYTES;
        try {
          if (!bytes) throw new DamageError(`${key}: missing`);
          openPart(key, place.offset, firstBlock, place.storedBytes, bytes);
        } catch (error) {
          suspects.push({ ...record, part, what: messageOf(error) });
        }
      }
      this.#checkedBytes = Math.min(this.liveBytes, this.#checkedBytes + bytesOf(record.place));
    }
    this.#onProgress(this.#checkedBytes, this.liveBytes);
    return suspects;
  }

  // ---- what is damaged

  /** Takes those for damaged that the volume still needs; what has moved meanwhile is checked in its new place. */
  async #confirm(suspects: Suspect[]): Promise<void> {
    const ranges = new Map<string, DiskRange[]>();
    while (suspects.length > 0) {
      const state = await this.#note(() => this.#readState());
      if (!state) break;
      this.state = state;
      const moved = new Set<number>();
      for (const suspect of suspects) {
        const { what, stripe } = suspect;
        if (!isNamed(state.map, suspect)) moved.add(stripe);
        else {
          const found = this.#rangesOf(suspect);
          // of a part that is covered whole by newer records nothing is read
          if (found.length > 0) ranges.set(what, [...ranges.get(what) ?? [], ...found]);
        }
      }
      suspects = await this.#checkRecords(recordsOf(state.map, moved, this.#blocksPerStripe));
    }
    for (const [what, found] of ranges) this.findings.push({ what, ranges: joined(found) });
  }

  /** What of the disk is read from the part: it may be covered, in part or whole, by newer records. */
  #rangesOf({ stripe, firstBlock, place, part }: Suspect): DiskRange[] {
    const { stripeBytes, volumeBytes } = this.info!;
    const patches = this.#map.patches(stripe);
    const ranges: DiskRange[] = [];
    const blocksPerPart = this.#partBytes / BLOCK_BYTES;
    const begin = firstBlock % this.#blocksPerStripe + part * blocksPerPart;
    const end = Math.min(begin + blocksPerPart, this.#blocksPerStripe);
    for (let block = begin; block < end; block++) {
      const patch = patches.findLast(({ firstBlock, blockCount }) =>
        block >= firstBlock && block < firstBlock + blockCount
      );
      const source = patch ? patch.place : this.#map.base(stripe);
      const offset = stripe * stripeBytes + block * BLOCK_BYTES;
      const length = Math.min(BLOCK_BYTES, volumeBytes - offset);
      if (source && isSame(source, place) && length > 0) ranges.push({ offset, length });
    }
    return ranges;
  }

  // ---- what nothing needs

  async #weighTheRest(keys: string[], needed: Set<string>): Promise<void> {
    const leftovers: string[] = [];
    for (const key of keys) {
      if (key === VOLUME_KEY || key === LEASE_KEY || needed.has(key)) continue;
      const seq = seqOfKey(key);
      const isKnown = (seq: number) => this.#map.segments.has(seq) || this.#map.claims.has(seq);
      if (seq !== undefined && isKnown(seq)) continue;
      if (/^(log|checkpoint)\/\d{10}$|^map\/\d{10}\/\d{4}$/.test(key)) leftovers.push(key);
      else this.foreign.push(key);
    }
    await this.#weigh(leftovers, this.leftovers);
  }

  async #weigh(keys: Iterable<string>, weight: Weight): Promise<void> {
    await this.#gets.forEach(keys, async (key) => {
      const found = await this.#bucket.get(key, { offset: 0, length: 0 });
      if (!found) return;
      weight.objects++;
      weight.bytes += found.size;
    });
  }
}

function bytesOf(place: Place): number {
  return RECORD_PREFIX_BYTES + place.storedBytes;
}

function isSame(a: Place, b: Place): boolean {
  return a.seq === b.seq && a.offset === b.offset;
}

function isNamed(map: StripeMap, { firstBlock, place }: LiveRecord): boolean {
  return map.liveBytes(place.seq, { firstBlock, ...place }) > 0;
}

/** What the map names of these stripes. */
function* recordsOf(
  map: StripeMap,
  stripes: Iterable<number>,
  blocksPerStripe: number,
): Generator<LiveRecord> {
  for (const stripe of stripes) {
    const begin = stripe * blocksPerStripe;
    const base = map.base(stripe);
    if (base) yield { stripe, firstBlock: begin, place: base };
    for (const { firstBlock, place } of map.patches(stripe)) {
      if (place) yield { stripe, firstBlock: begin + firstBlock, place };
    }
  }
}

/** What the map names of these segments; a search through all of it. */
function* recordsIn(
  map: StripeMap,
  seqs: Set<number>,
  blocksPerStripe: number,
): Generator<LiveRecord> {
  if (seqs.size === 0) return;
  for (const [page] of map.pages) {
    const first = page * MAP_PAGE_STRIPES;
    const stripes = Array.from({ length: MAP_PAGE_STRIPES }, (_, index) => first + index);
    for (const record of recordsOf(map, stripes, blocksPerStripe)) {
      if (seqs.has(record.place.seq)) yield record;
    }
  }
}

/** Ranges in order, with those that touch made one. */
function joined(ranges: DiskRange[]): DiskRange[] {
  const result: DiskRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.offset - b.offset)) {
    const last = result.at(-1);
    if (last && range.offset <= last.offset + last.length) {
      last.length = Math.max(last.length, range.offset + range.length - last.offset);
    } else {
      result.push({ ...range });
    }
  }
  return result;
}
