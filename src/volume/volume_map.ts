/**
 * A picture of the volume in a few cells: where nothing is, where all is stored, and where something is not stored yet.
 *
 * Its cost does not depend on the stripes there are: of what is stored it looks at one count for every
 * MAP_GROUP_STRIPES of the pages that exist, until a cell is known to hold something, and of what is not stored
 * at the list.
 */
import { MAP_GROUP_STRIPES, MAP_PAGE_STRIPES, VOLUME_MAP_CELLS_MAX } from "../limits.ts";
import type { Contents } from "./contents.ts";

const EMPTY = ".".charCodeAt(0);
const CLEAN = "c".charCodeAt(0);
const DIRTY = "d".charCodeAt(0);

/**
 * The volume in at most VOLUME_MAP_CELLS_MAX cells of equal size, but for the last, in order, a character each: `.` nothing
 * stored or written there, `c` something that is all stored, `d` something not stored yet.
 */
export interface VolumeMap {
  cellBytes: number;
  cells: string;
}

/** @param sealedStripes stripes that are in a batch and not in the map yet */
export function volumeMap(
  contents: Contents,
  sizeBytes: number,
  sealedStripes: Iterable<number>,
): VolumeMap {
  const { cache, map, zeroes, stripeBytes, blocksPerStripe } = contents;
  const groupBytes = MAP_GROUP_STRIPES * stripeBytes;
  const groups = Math.ceil(sizeBytes / groupBytes);
  const groupsPerCell = Math.ceil(groups / VOLUME_MAP_CELLS_MAX);
  const stripesPerCell = groupsPerCell * MAP_GROUP_STRIPES;
  const cells = new Uint8Array(Math.ceil(groups / groupsPerCell)).fill(EMPTY);

  const groupsPerPage = MAP_PAGE_STRIPES / MAP_GROUP_STRIPES;
  for (const [number, { mapped }] of map.pages) {
    for (let group = 0; group < groupsPerPage; group++) {
      const cell = Math.floor((number * groupsPerPage + group) / groupsPerCell);
      if (cells[cell] === CLEAN) group = (cell + 1) * groupsPerCell - number * groupsPerPage - 1;
      else if (mapped[group] > 0) cells[cell] = CLEAN;
    }
  }
  const cellOf = (stripe: number) => Math.floor(stripe / stripesPerCell);
  for (const slot of cache.dirtySlots) cells[cellOf(cache.stripeOf(slot))] = DIRTY;
  for (const stripe of sealedStripes) cells[cellOf(stripe)] = DIRTY;
  for (const [start, end] of zeroes) {
    const [first, last] = [start, end - 1].map((block) =>
      cellOf(Math.floor(block / blocksPerStripe))
    );
    cells.fill(DIRTY, first, last + 1);
  }
  return {
    cellBytes: stripesPerCell * stripeBytes,
    cells: new TextDecoder().decode(cells),
  };
}
