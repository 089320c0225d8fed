/// <reference lib="dom" />
/** What a user sees on the status page, for tests: texts as they change, and lines on charts. */
import type { Page } from "puppeteer-core";
import { within } from "./programs.ts";

/** The page shows anew once a second; on a busy machine a little later. */
const DEADLINE_S = 20;

/** Waits until the text of the element matches. */
export async function reads(page: Page, selector: string, pattern: RegExp): Promise<void> {
  const matches = page.evaluate(
    (selector, source) =>
      new Promise<void>((resolve) => {
        const pattern = new RegExp(source);
        const watch = new MutationObserver(look);
        watch.observe(document.body, { subtree: true, childList: true, characterData: true });
        look();

        function look() {
          if (!pattern.test(document.querySelector(selector)!.textContent!)) return;
          watch.disconnect();
          resolve();
        }
      }),
    selector,
    pattern.source,
  );
  await within(DEADLINE_S, `${selector} reads ${pattern}`, matches);
}

export function text(page: Page, selector: string): Promise<string> {
  return page.$eval(selector, (found) => found.textContent!);
}

/**
 * Where the first line is drawn of the chart that has a value in the element `selector`: its height in each column of
 * pixels, from 0 at the bottom of the canvas to 1 at the top, or null where there is none.
 */
export function drawnHeights(page: Page, selector: string): Promise<(number | null)[]> {
  return page.evaluate((selector) => {
    const figure = document.querySelector(selector)!.closest("figure")!;
    const canvas = figure.querySelector("canvas")!;
    const { width, height } = canvas;
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, width, height);
    const paint = getComputedStyle(document.documentElement).getPropertyValue("--line-1").trim();
    const wanted = [1, 3, 5].map((at) => parseInt(paint.slice(at, at + 2), 16));
    const isLine = (x: number, y: number) => {
      const at = (y * width + x) * 4;
      return data[at + 3] > 150 &&
        wanted.every((level, channel) => Math.abs(level - data[at + channel]) < 40);
    };
    return Array.from({ length: width }, (_, x) => {
      for (let y = 0; y < height; y++) if (isLine(x, y)) return 1 - y / height;
      return null;
    });
  }, selector);
}
