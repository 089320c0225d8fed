/**
 * A page of the map: 4,096 stripes, each with a base or none, and patches (stripe_map.ts says what they are).
 *
 * Bases are 12 bytes in a typed array, 48 KiB a page. The words of a base:
 *   0: low 32 bits of the seq
 *   1: offset in the segment (24 bits; a segment is under 16 MiB) and above it bits 32 to 39 of the seq
 *   2: stored bytes behind the record's first prefix; 0 says there is no base
 *
 * A checkpoint freezes the page and encodes it turns later. A frozen page keeps what is about to change as it was: 3 KiB
 * for a base, and the lists of patches, so that a commit all over the disk is not held up by the checkpoint.
 */
import { MAP_GROUP_STRIPES, MAP_PAGE_STRIPES } from "../limits.ts";

const WORDS = 3;
const OFFSET_BITS = 24;
const OFFSET_MASK = 2 ** OFFSET_BITS - 1;
/** Words that are kept together: 256 stripes. */
const KEPT_WORDS = 256 * WORDS;
/** What `frozen` puts together: a copy for each page of thousands would keep the garbage collector busy. */
const FROZEN_WORDS = new Uint32Array(MAP_PAGE_STRIPES * WORDS);

/** Where a data record lies. */
export interface RecordLocation {
  seq: number;
  /** Of the record's first prefix. */
  offset: number;
  /** Behind that prefix. */
  storedBytes: number;
}

const NOWHERE: RecordLocation = { seq: 0, offset: 0, storedBytes: 0 };

/** A record over a part of a stripe; without a location it is zeroes. */
export interface Patch {
  firstBlock: number;
  blockCount: number;
  location: RecordLocation | null;
}

export interface PageContents {
  words: Uint32Array;
  patches: ReadonlyMap<number, Patch[]>;
}

const NO_PATCHES: ReadonlyMap<number, Patch[]> = new Map();

/** As few objects as can be: of a large volume there are 65,536 pages, and the garbage collector looks at each. */
export class MapPage {
  readonly words: Uint32Array;
  /** How many stripes of each MAP_GROUP_STRIPES have a base or a patch. */
  readonly mapped: Uint8Array;
  #patches: Map<number, Patch[]> | null = null;
  /** The newest cut (`StripeMap.freeze`) of which the page has been stored. */
  storedCut = 0;
  #isFrozen = false;
  /** While frozen: what of `words` has changed since, by number of KEPT_WORDS. */
  #keptWords: Uint32Array[] | null = null;
  /** `patches` as they were frozen, once any has changed. */
  #keptPatches: ReadonlyMap<number, Patch[]> | null = null;

  constructor() {
    const words = MAP_PAGE_STRIPES * WORDS;
    const buffer = new ArrayBuffer(words * 4 + MAP_PAGE_STRIPES / MAP_GROUP_STRIPES);
    this.words = new Uint32Array(buffer, 0, words);
    this.mapped = new Uint8Array(buffer, words * 4);
  }

  /** By stripe inside the page; oldest first, never empty. A list is replaced, and never changed. */
  get patches(): ReadonlyMap<number, Patch[]> {
    return this.#patches ?? NO_PATCHES;
  }

  /** No patches: the stripe has none any more. */
  setPatches(index: number, patches: Patch[]): void {
    if (this.#isFrozen) this.#keptPatches ??= this.#patches ? new Map(this.#patches) : NO_PATCHES;
    if (patches.length > 0) (this.#patches ??= new Map()).set(index, patches);
    else this.#patches?.delete(index);
  }

  base(index: number): RecordLocation | null {
    const storedBytes = this.baseBytes(index);
    if (storedBytes === 0) return null;
    return {
      seq: this.baseSeq(index),
      offset: this.words[index * WORDS + 1] & OFFSET_MASK,
      storedBytes,
    };
  }

  /** The base's segment. */
  baseSeq(index: number): number {
    const high = this.words[index * WORDS + 1] >>> OFFSET_BITS;
    return this.words[index * WORDS] + high * 2 ** 32;
  }

  /** The base's stored bytes; 0 if there is none. */
  baseBytes(index: number): number {
    return this.words[index * WORDS + 2];
  }

  setBase(index: number, location: RecordLocation | null): void {
    const at = index * WORDS;
    if (this.#isFrozen) this.#keepWords(Math.floor(at / KEPT_WORDS));
    const { seq, offset, storedBytes } = location ?? NOWHERE;
    this.words[at] = seq >>> 0;
    this.words[at + 1] = offset | Math.floor(seq / 2 ** 32) << OFFSET_BITS;
    this.words[at + 2] = storedBytes;
  }

  hasBase(index: number): boolean {
    return this.baseBytes(index) !== 0;
  }

  isMapped(index: number): boolean {
    return this.hasBase(index) || this.patches.has(index);
  }

  /** A stripe has become mapped, or is no more. */
  countMapped(index: number, sign: 1 | -1): void {
    this.mapped[groupOf(index)] += sign;
  }

  /** From now on the page is also kept as it is, until `thaw`. */
  freeze(): void {
    this.#isFrozen = true;
  }

  thaw(): void {
    this.#isFrozen = false;
    this.#keptWords = this.#keptPatches = null;
  }

  #keepWords(number: number): void {
    this.#keptWords ??= [];
    this.#keptWords[number] ??= this.words.slice(number * KEPT_WORDS, (number + 1) * KEPT_WORDS);
  }

  /** Words and patches as they were when the page was frozen; valid until the next call for any page, within this turn. */
  frozen(): PageContents {
    const patches = this.#keptPatches ?? this.patches;
    if (this.#keptWords === null) return { words: this.words, patches };
    FROZEN_WORDS.set(this.words);
    this.#keptWords.forEach((words, number) => FROZEN_WORDS.set(words, number * KEPT_WORDS));
    return { words: FROZEN_WORDS, patches };
  }
}

export function groupOf(index: number): number {
  return Math.floor(index / MAP_GROUP_STRIPES);
}
