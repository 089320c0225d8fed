/**
 * Debian's Chromium, without a window: `await using browser = await Browser.start();`. A page it opened remembers
 * what went wrong on it, and what it asked for.
 */
import puppeteer, { type Browser as Chromium, type Page } from "puppeteer-core";

const CHROMIUM = "/usr/bin/chromium";
/** Chromium refuses its sandbox to root, who runs the tests in CI; what it is shown here is our own. */
const ARGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"];

export interface OpenPage {
  page: Page;
  /** What the console had to complain of, thrown errors and violations of the policy among it. */
  complaints: string[];
  /** The address of everything that was asked for. */
  requests: string[];
}

export class Browser implements AsyncDisposable {
  readonly #chromium: Chromium;

  private constructor(chromium: Chromium) {
    this.#chromium = chromium;
  }

  static async start(): Promise<Browser> {
    const options = { executablePath: CHROMIUM, args: ARGS, pipe: true };
    return new Browser(await puppeteer.launch(options));
  }

  /** Opens a page as someone who was never there before. */
  async open(url: string, width = 1280, height = 900): Promise<OpenPage> {
    const context = await this.#chromium.createBrowserContext();
    const page = await context.newPage();
    await page.setViewport({ width, height });
    const complaints: string[] = [];
    const requests: string[] = [];
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warn") complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => requests.push(request.url()));
    await page.goto(url);
    return { page, complaints, requests };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#chromium.close();
  }
}
