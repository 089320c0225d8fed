// @ts-check
/// <reference lib="dom" />
/**
 * The charts: what each shows, and how uPlot draws it. All show the same time and have their cursor at the same moment,
 * which the mouse over one of them sets, or the slider above them. Beside each stand the values of that moment as text,
 * otherwise the newest: the drawing is for those who can see it.
 */
import uPlot from "uplot";
import { colour, element, input, make, setText } from "./dom.js";
import {
  NOTHING,
  showByteRate,
  showBytes,
  showDuration,
  showRate,
  showSeconds,
  showShare,
  showTime,
} from "./format.js";
import { WINDOW_SECONDS } from "./history.js";

/** @import { History } from "./history.js" */

/** @typedef {{ metric: string, label: string }} Line */

/**
 * @typedef {object} ChartShape
 * @property {string} title
 * @property {string} [note]
 * @property {Line[]} lines
 * @property {(value: number) => string} show
 * @property {number} top Of the scale, at least: a drive that does little shows a low line, not noise.
 * @property {boolean} [isFixed] Never higher than that.
 * @property {boolean} [isBinary] Steps of the scale are powers of two.
 */

const KIB = 1024;
const MIB = 1024 * KIB;

/** @type {ChartShape[]} */
const SHAPES = [
  {
    title: "Throughput",
    lines: [{ metric: "readBytes", label: "Read" }, { metric: "writeBytes", label: "Write" }],
    show: showByteRate,
    top: 64 * KIB,
    isBinary: true,
  },
  {
    title: "Requests",
    lines: [{ metric: "readRequests", label: "Read" }, { metric: "writeRequests", label: "Write" }],
    show: showRate,
    top: 10,
  },
  {
    title: "Flush latency",
    note: `of ${WINDOW_SECONDS} s`,
    lines: [
      { metric: "flushMedian", label: "Median" },
      { metric: "flushTail", label: "99 %" },
    ],
    show: showSeconds,
    top: 0.01,
  },
  {
    title: "Cache hits",
    note: `of ${WINDOW_SECONDS} s`,
    lines: [{ metric: "hits", label: "Found in the cache" }],
    show: showShare,
    top: 1,
    isFixed: true,
  },
  {
    title: "S3 latency",
    note: `median of ${WINDOW_SECONDS} s`,
    lines: [
      { metric: "s3Get", label: "GET" },
      { metric: "s3Put", label: "PUT" },
      { metric: "s3Head", label: "HEAD" },
      { metric: "s3List", label: "LIST" },
      { metric: "s3Delete", label: "DELETE" },
    ],
    show: showSeconds,
    top: 0.05,
  },
  {
    title: "Unstored bytes",
    lines: [{ metric: "unstored", label: "Dirty" }, { metric: "unstoredMax", label: "Bound" }],
    show: showBytes,
    top: MIB,
    isBinary: true,
  },
  {
    title: "Oldest unstored byte",
    lines: [{ metric: "age", label: "Age" }],
    show: showSeconds,
    top: 10,
  },
  {
    title: "The log in the bucket",
    lines: [{ metric: "stored", label: "Stored" }, { metric: "live", label: "Live" }],
    show: showBytes,
    top: MIB,
    isBinary: true,
  },
];

/** Lines are told apart by dashes as well as by colour; the colours are page.css's --line-1 and so on. */
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3], [14, 5]];
const HEIGHT_PX = 132;
const FONT = "11px system-ui, sans-serif";
const POWERS_OF_TWO = Array.from({ length: 60 }, (_, power) => 2 ** power);

/** @type {Chart[]} */
let charts = [];
/** How long is shown. */
let spanSeconds = 120;

/** Makes all charts, and what is shown of them change as the user wants it. */
export function startCharts() {
  charts = SHAPES.map((shape) => new Chart(shape));
  for (const choice of element("spans").querySelectorAll("input")) {
    choice.addEventListener("change", () => {
      spanSeconds = Number(choice.value);
      input("ago").min = String(-spanSeconds);
      input("ago").value = "0";
      lookBack();
      for (const chart of charts) chart.draw();
    });
  }
  input("ago").addEventListener("input", lookBack);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of charts) chart.draw();
  });
}

/** Draws what came in. @param {History} history */
export function drawCharts(history) {
  for (const chart of charts) chart.take(history);
}

/** Puts the cursor of all charts where the slider is. */
function lookBack() {
  const ago = -Number(input("ago").value);
  const words = ago === 0 ? "now" : `${showDuration(ago)} ago`;
  setText(element("ago-words"), words);
  input("ago").setAttribute("aria-valuetext", words);
  for (const chart of charts) chart.look(ago);
}

class Chart {
  #shape;
  #plot;
  #figure;
  /** @type {HTMLElement[]} */
  #values = [];
  #moment = make("span", { class: "note" });

  /** @param {ChartShape} shape */
  constructor(shape) {
    this.#shape = shape;
    const drawing = make("div", { class: "plot", role: "img" });
    this.#figure = make("figure", { class: "card chart" }, this.#caption(), drawing);
    element("charts").append(this.#figure);
    this.#plot = new uPlot(this.#options(drawing.clientWidth), undefined, drawing);
    new ResizeObserver(() => {
      this.#plot.setSize({ width: drawing.clientWidth, height: HEIGHT_PX });
    }).observe(drawing);
  }

  /** Title, and a name and a value for each line. */
  #caption() {
    const { title, note, lines } = this.#shape;
    const legend = lines.map(({ metric, label }, at) => {
      const value = make("dd", { id: `value-${metric}` }, NOTHING);
      this.#values.push(value);
      return make("div", {}, make("dt", {}, swatch(at), label), value);
    });
    const heading = make("h3", {}, title);
    if (note) heading.append(" ", make("span", { class: "note" }, note));
    return make(
      "figcaption",
      {},
      make("div", { class: "title" }, heading, this.#moment),
      make("dl", {}, ...legend),
    );
  }

  /**
   * @param {number} width
   * @returns {uPlot.Options}
   */
  #options(width) {
    const { lines, show, top, isFixed, isBinary } = this.#shape;
    const axis = {
      stroke: () => colour("faint"),
      font: FONT,
      grid: { stroke: () => colour("grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      width,
      height: HEIGHT_PX,
      padding: [6, 26, 0, 0], // at the right half a time of day
      legend: { show: false },
      cursor: { sync: { key: "moment" }, y: false, drag: { x: false, y: false } },
      scales: {
        x: { range: (plot) => shownRange(plot.data[0]) },
        y: { range: (_plot, _low, high) => [0, isFixed ? top : Math.max(top, high * 1.1)] },
      },
      axes: [
        {
          ...axis,
          size: 22,
          space: 64,
          values: (_plot, times) => times.map((time) => showTime(time * 1000, spanSeconds <= 120)),
        },
        {
          ...axis,
          size: 66,
          space: 26,
          ...(isBinary ? { incrs: POWERS_OF_TWO } : {}),
          values: (_plot, values) => values.map(show),
        },
      ],
      series: [
        {},
        ...lines.map((_line, at) => ({
          stroke: () => colour(`line-${at + 1}`),
          fill: () => at === 0 ? `${colour("line-1")}1c` : "",
          width: 1.5,
          dash: DASHES[at],
          points: { size: 4 },
        })),
      ],
      hooks: { setCursor: [() => this.#showValues()] },
    };
  }

  /** @param {History} history */
  take({ times, columns }) {
    const lines = this.#shape.lines.map(({ metric }) => columns[metric]);
    this.#plot.setData([times, ...lines]);
    this.#showValues();
  }

  draw() {
    this.#plot.setData(this.#plot.data);
  }

  /** Puts the cursor `ago` seconds before now, or takes it away. @param {number} ago */
  look(ago) {
    const now = this.#plot.scales.x.max ?? 0;
    const left = ago === 0 ? -1 : this.#plot.valToPos(now - ago, "x");
    this.#plot.setCursor({ left, top: ago === 0 ? -1 : 0 }, false);
    this.#showValues();
  }

  /** The values at the cursor, or the newest, and which of the two. */
  #showValues() {
    const { data, cursor } = this.#plot;
    const chosen = cursor.idx ?? null;
    const at = chosen ?? data[0].length - 1;
    setText(this.#moment, chosen === null ? "" : showTime(data[0][at] * 1000));
    const shown = this.#shape.lines.map(({ label }, line) => {
      const value = data[line + 1]?.[at] ?? null;
      const text = value === null ? NOTHING : this.#shape.show(value);
      setText(this.#values[line], text);
      return `${label} ${text}`;
    });
    const summary = `${this.#shape.title} of the last ${showDuration(spanSeconds)}, a line chart: ${
      shown.join(", ")
    }`;
    this.#figure.querySelector(".plot")?.setAttribute("aria-label", summary);
  }
}

/** A piece of a line, as it is drawn. @param {number} line */
function swatch(line) {
  const [drawing, stroke] = ["svg", "path"].map((name) =>
    document.createElementNS("http://www.w3.org/2000/svg", name)
  );
  drawing.setAttribute("class", "swatch");
  drawing.setAttribute("aria-hidden", "true");
  stroke.setAttribute("d", "M0 2H18");
  stroke.setAttribute("stroke", `var(--line-${line + 1})`);
  stroke.setAttribute("stroke-dasharray", DASHES[line].join(" "));
  drawing.append(stroke);
  return drawing;
}

/**
 * From so long before the newest time to that.
 * @param {ArrayLike<number>} times
 * @returns {[number, number]}
 */
function shownRange(times) {
  const newest = times.length > 0 ? times[times.length - 1] : Date.now() / 1000;
  return [newest - spanSeconds, newest];
}
