// @ts-check
/// <reference lib="dom" />
/**
 * The map of the volume: a square for each cell, in the order of the volume. What a cell is shows in its form as well
 * as in its colour: a dot, a square, a square with a notch. The slider below it, or the mouse, asks for one of them.
 */
import { colour, element, input, setText } from "./dom.js";
import { showBytes, showCount } from "./format.js";

/** @import { VolumeMap } from "../../volume/volume_map.ts" */

/** What the characters of a map mean, in the order of the legend. */
const STATES = [
  { character: ".", id: "unmapped", words: "unmapped: nothing written, or trimmed" },
  { character: "c", id: "clean", words: "clean: stored" },
  { character: "d", id: "dirty", words: "dirty: some of it is not stored yet" },
];
const CELL_PX_MIN = 9;

/** @type {VolumeMap} */
let shown = { cellBytes: 0, cells: "" };
/** The cell that was asked for. @type {number | null} */
let chosen = null;

export function startVolumeMap() {
  const canvas = element("map");
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  input("cell").addEventListener("input", () => choose(Number(input("cell").value)));
  canvas.addEventListener("pointermove", (event) => {
    const { columns, size } = grid();
    const cell = Math.floor(event.offsetY / size) * columns + Math.floor(event.offsetX / size);
    if (cell < shown.cells.length) choose(cell);
  });
}

/** @param {VolumeMap} map */
export function drawVolumeMap(map) {
  shown = map;
  const counts = STATES.map(({ character, id }) => {
    const count = map.cells.split(character).length - 1;
    setText(element(`cells-${id}`), showCount(count));
    return `${count} ${id}`;
  });
  const size = showBytes(map.cellBytes);
  setText(element("cell-bytes"), `${showCount(map.cells.length)} cells of ${size}`);
  element("map").setAttribute(
    "aria-label",
    `Map of the volume, ${map.cells.length} cells of ${size}: ${counts.join(", ")}`,
  );
  input("cell").max = String(Math.max(0, map.cells.length - 1));
  draw();
  if (chosen !== null) describe(chosen);
}

/** @param {number} cell */
function choose(cell) {
  chosen = cell;
  input("cell").value = String(cell);
  describe(cell);
  draw();
}

/** @param {number} cell */
function describe(cell) {
  const state = STATES.find(({ character }) => character === shown.cells[cell]);
  if (!state) return;
  const words = `From ${showBytes(cell * shown.cellBytes)} on: ${state.words}`;
  setText(element("cell-words"), words);
  input("cell").setAttribute("aria-valuetext", words);
}

/** As many columns, a power of two, as the page has room for, and the pixels of a cell. */
function grid() {
  const width = element("map").clientWidth;
  const columns = 2 ** Math.max(3, Math.floor(Math.log2(width / CELL_PX_MIN)));
  return { columns, size: width / columns };
}

function draw() {
  const canvas = /** @type {HTMLCanvasElement} */ (element("map"));
  const { columns, size } = grid();
  const rows = Math.max(1, Math.ceil(shown.cells.length / columns));
  const scale = devicePixelRatio;
  canvas.style.height = `${rows * size}px`;
  canvas.width = Math.round(columns * size * scale);
  canvas.height = Math.round(rows * size * scale);
  const pen = canvas.getContext("2d");
  if (!pen) return;
  pen.scale(scale, scale);
  const paints = { unmapped: colour("unmapped"), clean: colour("clean"), dirty: colour("dirty") };
  for (const [cell, character] of [...shown.cells].entries()) {
    const x = (cell % columns) * size;
    const y = Math.floor(cell / columns) * size;
    if (character === "c") drawClean(pen, paints.clean, x, y, size);
    else if (character === "d") drawDirty(pen, paints.dirty, x, y, size);
    else drawUnmapped(pen, paints.unmapped, x, y, size);
    if (cell === chosen) {
      pen.strokeStyle = colour("text");
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, size - 2, size - 2);
    }
  }
}

/** @typedef {(pen: CanvasRenderingContext2D, paint: string, x: number, y: number, size: number) => void} DrawCell */

/** A dot. @type {DrawCell} */
function drawUnmapped(pen, paint, x, y, size) {
  pen.fillStyle = paint;
  pen.beginPath();
  pen.arc(x + size / 2, y + size / 2, Math.max(1, size / 9), 0, 2 * Math.PI);
  pen.fill();
}

/** A square. @type {DrawCell} */
function drawClean(pen, paint, x, y, size) {
  pen.fillStyle = paint;
  pen.fillRect(x + 0.5, y + 0.5, size - 1, size - 1);
}

/** A square without its upper right half. @type {DrawCell} */
function drawDirty(pen, paint, x, y, size) {
  pen.fillStyle = paint;
  pen.beginPath();
  pen.moveTo(x + 0.5, y + 0.5);
  pen.lineTo(x + 0.5, y + size - 0.5);
  pen.lineTo(x + size - 0.5, y + size - 0.5);
  pen.fill();
}
