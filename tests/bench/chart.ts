/**
 * A comparison as an SVG: bars for each work, in panels by unit, on scales where each vertical line is ten times the one
 * before. It has a ground of its own and follows the reader's choice of light or dark.
 */
import { BARE, type Result } from "./peers.ts";
import { headline, show } from "./report.ts";

const COLOURS = ["#8250df", "#1f6feb", "#8b949e", "#d29922", "#2da44e"];
const LABEL_PX = 470;
const BARS_PX = 420;
const VALUE_PX = 130;
const BAR_PX = 14;
const GAP_PX = 12;
const LEGEND_PX = 135;

const STYLE = ".ground{fill:#fff}text{fill:#1f2328}line{stroke:#d0d7de}" +
  "@media(prefers-color-scheme:dark){.ground{fill:#0d1117}text{fill:#e6edf3}line{stroke:#30363d}}";

const SECONDS = " s";
const PANELS = [
  { title: "MB/s: longer is better", figures: ["MB/s"], unit: " MB/s" },
  { title: "requests/s: longer is better", figures: ["requests/s"], unit: "/s" },
  { title: "time: shorter is better", figures: ["s", "ms"], unit: SECONDS },
];

/** What a chart is drawn with. */
class Drawing {
  readonly #parts: string[] = [];
  y = 0;

  text(x: number, y: number, content: string, more = ""): void {
    const escaped = content.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
    this.#parts.push(`<text x="${x.toFixed(1)}" y="${y}"${more}>${escaped}</text>`);
  }

  bar(x: number, y: number, width: number, colour: string): void {
    this.#parts.push(
      `<rect x="${x}" y="${y}" width="${width.toFixed(1)}" height="${
        BAR_PX - 2
      }" fill="${colour}"/>`,
    );
  }

  /** Behind all that is there. */
  line(x: number, from: number, to: number): void {
    const at = x.toFixed(1);
    this.#parts.unshift(`<line x1="${at}" x2="${at}" y1="${from}" y2="${to}"/>`);
  }

  svg(width: number): string {
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${this.y}" ` +
      `font-family="sans-serif" font-size="12">\n<style>${STYLE}</style>\n` +
      `<rect class="ground" width="${width}" height="${this.y}"/>\n${
        this.#parts.join("\n")
      }\n</svg>\n`;
  }
}

/** Who was not measured at any work has no bar, and is not named. */
export function chart(results: Result[], title: string): string {
  const contenders = [...new Set([BARE, ...results.map(({ contender }) => contender)])];
  const colourOf = ({ contender }: Result) => COLOURS[contenders.indexOf(contender)];
  const drawing = new Drawing();
  drawing.text(10, 20, title, ' font-size="15" font-weight="bold"');
  contenders.forEach((contender, number) => {
    drawing.bar(LABEL_PX - 150 + number * LEGEND_PX, 32, BAR_PX - 2, COLOURS[number]);
    drawing.text(LABEL_PX - 132 + number * LEGEND_PX, 43, contender);
  });
  drawing.y = 56;
  for (const { title, figures, unit } of PANELS) {
    const shown = results.filter(({ figure }) => figures.includes(figure));
    if (shown.some(({ rounds }) => rounds.length > 0)) {
      drawPanel(drawing, shown, title, unit, colourOf);
    }
  }
  return drawing.svg(LABEL_PX + BARS_PX + VALUE_PX);
}

function drawPanel(
  drawing: Drawing,
  results: Result[],
  title: string,
  unit: string,
  colourOf: (result: Result) => string,
): void {
  const values = results.map((result) => headline(result) / (result.figure === "ms" ? 1000 : 1));
  const measured = values.filter(Number.isFinite);
  const from = Math.floor(Math.log10(Math.min(...measured) * 0.8));
  const to = Math.ceil(Math.log10(Math.max(...measured)));
  const x = (value: number) => LABEL_PX + (Math.log10(value) - from) / (to - from) * BARS_PX;
  drawing.text(10, drawing.y + 14, title, ' font-weight="bold"');
  const top = drawing.y += 22;
  let work = results[0].work;
  results.forEach((result, number) => {
    if (result.work !== work) drawing.y += GAP_PX;
    if (result.work !== work || number === 0) {
      drawing.text(LABEL_PX - 10, drawing.y + 11, result.what, ' text-anchor="end"');
    }
    work = result.work;
    const value = values[number];
    const width = Number.isFinite(value) ? Math.max(x(value) - LABEL_PX, 1) : 0;
    drawing.bar(LABEL_PX, drawing.y, width, colourOf(result));
    const label = width > 0 ? valueText(value, unit) : `${result.contender}: ${result.failure}`;
    drawing.text(LABEL_PX + width + 5, drawing.y + 10, label);
    drawing.y += BAR_PX;
  });
  for (let power = from; power <= to; power++) {
    drawing.line(x(10 ** power), top, drawing.y);
    drawing.text(x(10 ** power), drawing.y + 14, `${10 ** power}${unit}`, ' text-anchor="middle"');
  }
  drawing.y += 32;
}

/** The axis says the unit, unless it is a time that has a better one. */
function valueText(value: number, unit: string): string {
  if (unit !== SECONDS) return show(value);
  return value < 1 ? `${show(value * 1000)} ms` : `${show(value)} s`;
}
