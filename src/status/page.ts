/**
 * The page at `/`: one HTML document with everything in it, so that it asks nobody for anything but `/status.json`.
 *
 * Its parts lie in the folder page/ as a browser's developer would expect them and are joined here. They are imported
 * as text (`raw-imports` in deno.json), which `deno bundle` puts into the executable. The modules are checked against
 * report.ts as modules; joined they share one scope, so that no name may be declared in two of them. What they reckon
 * with is imported as code, too: for a terminal, by bill.ts and lines.ts.
 */
import uPlotLicence from "uplot/LICENSE" with { type: "text" };
import uPlotScript from "uplot/dist/uPlot.iife.min.js" with { type: "text" };
import uPlotStyle from "uplot/dist/uPlot.min.css" with { type: "text" };
import bill from "./page/bill.js" with { type: "text" };
import charts from "./page/charts.js" with { type: "text" };
import dom from "./page/dom.js" with { type: "text" };
import format from "./page/format.js" with { type: "text" };
import history from "./page/history.js" with { type: "text" };
import main from "./page/main.js" with { type: "text" };
import page from "./page/page.html" with { type: "text" };
import sections from "./page/sections.css" with { type: "text" };
import style from "./page/page.css" with { type: "text" };
import tables from "./page/tables.js" with { type: "text" };
import volumeMap from "./page/volume_map.js" with { type: "text" };

/** Each after those it imports. */
const MODULES = [format, dom, history, charts, volumeMap, bill, tables, main];

/** Modules as one script: what they import of one another is there already, uPlot as a global name. */
function joined(modules: string[]): string {
  return modules.map((text) => text.replace(/^import [^;]+;\n|^export (?=\w)/gm, "")).join("\n");
}

/** Puts `text` in the place of the one element in `document` that names the file. */
function inlined(document: string, element: string, text: string): string {
  const parts = document.split(element);
  if (parts.length !== 2) throw new Error(`page.html has ${element} ${parts.length - 1} times`);
  return parts.join(text);
}

/** The page, ready to be sent. */
export const PAGE: string = [
  {
    element: '<link rel="stylesheet" href="page.css">',
    text: `<style>\n${uPlotStyle}\n${style}\n${sections}</style>`,
  },
  {
    element: '<script src="main.js" type="module"></script>',
    text: `<script>\n/*\nuPlot:\n${uPlotLicence}*/\n${uPlotScript}</script>\n` +
      `<script type="module">\n${joined(MODULES)}</script>`,
  },
].reduce((document, { element, text }) => inlined(document, element, text), page);
