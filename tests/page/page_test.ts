/// <reference lib="dom" />
/** The status page in Chromium, before a drive that does what the test wants. */
import { assert, assertAlmostEquals, assertEquals, assertMatch } from "@std/assert";
import type { Page } from "puppeteer-core";
import { Browser } from "../support/browser.ts";
import { FakeStatus } from "../support/fake_status.ts";
import { drawnHeights, reads, text } from "../support/page_watch.ts";
import { happen, idleReport } from "../support/status_report.ts";

const MIB = 2 ** 20;

/** A phone of the smallest kind that is still about. */
const PHONE = { width: 360, height: 740 };

/** Reads and writes, flushes, and what they make S3 do. */
function work({ report }: FakeStatus): void {
  happen(report.commands.read, 100, 0.0005, 32 * 1024);
  happen(report.commands.write, 50, 0.0005, 16 * 1024);
  happen(report.commands.flush, 5, 0.05);
  happen(report.s3.operations.put, 2, 0.05, MIB);
  report.cache.hits += 90;
  report.cache.misses += 10;
}

Deno.test("the page", async (test) => {
  await using browser = await Browser.start();

  await test.step("its lines rise with what the drive does, and it asks nobody else", async () => {
    using status = new FakeStatus().startServing();
    const { page, complaints, requests } = await browser.open(status.url);
    await reads(page, "#value-readBytes", /^0\sB/);
    const idle = await drawnHeights(page, "#value-readBytes");
    status.onAsked = () => work(status);
    await reads(page, "#value-readBytes", /^[1-9].*MiB/);
    await reads(page, "#value-writeRequests", /^[1-9]/);
    await reads(page, "#value-flushMedian", /^55\sms$/);
    await reads(page, "#value-s3Put", /^55\sms$/);
    await reads(page, "#value-s3List", /^–$/);
    await reads(page, "#value-hits", /^90\s%$/);
    const busy = await drawnHeights(page, "#value-readBytes");
    const top = (heights: (number | null)[]) => Math.max(...heights.map((height) => height ?? 0));
    assert(top(idle) < 0.3, `idle, its line is at ${top(idle)} of the height`);
    assert(top(busy) > 0.6, `at work, its line is at ${top(busy)} of the height`);

    status.report.map.cells = "c".repeat(512) + "d".repeat(100) + ".".repeat(412);
    status.report.unstored = { bytes: 64 * MIB, bytesMax: 256 * MIB, oldestSeconds: 3.5 };
    await reads(page, "#cells-dirty", /^100$/);
    assertMatch(await text(page, "#tile-unstored"), /^64\sMiB$/);
    assertMatch(await text(page, "#tile-age"), /^3\.5\ss$/);
    const bar = await page.$eval(
      "#unstored-bar",
      (bar) => bar.getBoundingClientRect().width / bar.parentElement!.getBoundingClientRect().width,
    );
    assertAlmostEquals(bar, 0.25, 0.01);

    assertEquals(new Set(requests), new Set([status.url, `${status.url}status.json`]));
    assertEquals(complaints, []);
  });

  await test.step("goes on when the drive restarts: history stays, with a gap", async () => {
    using status = new FakeStatus().startServing();
    const { page } = await browser.open(status.url);
    // What the page never may show, noted each time something changes on it.
    await page.evaluate(() => {
      const watch = new MutationObserver(() => {
        if (/[-−]\d/.test(document.querySelector("#charts")!.textContent!)) {
          document.body.dataset.wasNegative = "yes";
        }
      });
      watch.observe(document.querySelector("#charts")!, { subtree: true, childList: true });
    });
    status.onAsked = () => {
      work(status);
      status.report.unstored.bytes = 64 * MIB;
    };
    status.report.commands.read.requests = 1e6;
    await reads(page, "#value-readBytes", /^[1-9].*MiB/);

    status.isDown = true;
    await reads(page, "#banner", /The drive does not answer: trying again/);
    assertEquals(await text(page, "#state"), "No answer");
    status.report = { ...idleReport(), startedAtMs: Date.now() };
    status.isDown = false;
    await reads(page, "#state", /^Healthy$/);
    assertEquals(await text(page, "#banner"), "");
    await reads(page, "#value-readBytes", /^[1-9].*MiB/);
    const heights = await drawnHeights(page, "#value-unstored");
    const drawn = heights.map((height) => height === null ? " " : "-").join("").trim();
    assertMatch(drawn, /-\s+-/);
    assertEquals(await page.$eval("body", (body) => body.dataset.wasNegative), undefined);
  });

  await test.step("a price that is edited changes the bill, and is kept", async () => {
    using status = new FakeStatus().startServing();
    status.report.startedAtMs -= 30 * 86_400_000;
    status.report.log.storedBytes = 100 * 1024 * MIB;
    status.report.s3.operations.put.requests = 1_000_000;
    const { page } = await browser.open(status.url);
    await reads(page, "#cost-sum", /^\$7\.30$/);
    const put = await page.$("#price-thousandPuts");
    await put!.click({ count: 3 });
    await page.keyboard.type("0.02");
    await reads(page, "#cost-sum", /^\$22\.30$/);
    assertEquals(await text(page, "#tile-bill"), "$22.30");

    await page.reload();
    await reads(page, "#cost-sum", /^\$22\.30$/);
    assertEquals(
      await page.$eval("#price-thousandPuts", (field) => (field as HTMLInputElement).value),
      "0.02",
    );
    await page.click("#prices-reset");
    await reads(page, "#cost-sum", /^\$7\.30$/);
  });

  await test.step("says what is wrong, and no longer when it is well", async () => {
    using status = new FakeStatus();
    const { page } = await browser.open(status.url);
    await reads(page, "#banner", /^Not ready: trying again. opening/);
    status.startServing();
    await reads(page, "#state", /^Healthy$/);
    status.report.s3.awaySeconds = 12;
    await reads(page, "#state", /^Waiting$/);
    assertMatch(await text(page, "#tile-s3-note"), /12\ss/);
    status.report.trouble = "S3 has been away for 75 s";
    await reads(page, "#banner", /^S3 has been away for 75 s$/);
    assertEquals(await page.title(), "Trouble: s3://my-disk");
    status.report.isFenced = true;
    await reads(page, "#banner", /^Another writer has taken over this volume/);
    status.report = { ...idleReport(), startedAtMs: status.report.startedAtMs };
    await reads(page, "#banner", /^$/);
    assertEquals(await text(page, "#state"), "Healthy");
  });

  await test.step("what the network says is text to it", async () => {
    using status = new FakeStatus().startServing();
    const evil = `<img src="/evil" onerror="document.body.dataset.owned = 1">`;
    status.report.volume.name = evil;
    status.report.trouble = evil;
    status.report.clients = [client(evil)];
    const { page, requests } = await browser.open(status.url);
    await reads(page, "#clients", /onerror/);
    assertEquals(await text(page, "#name"), evil);
    assertEquals(await page.$$("img"), []);
    assert(!requests.some((url) => url.includes("evil")));
  });

  await test.step("fits a phone, with the longest of everything", async () => {
    using status = new FakeStatus().startServing();
    const { report } = status;
    report.volume.name = `s3://${"bucket-with-a-long-name.".repeat(4)}`;
    report.trouble = `PUT ${"x".repeat(200)}`;
    report.clients = [client("[2001:db8:1234:5678:9abc:def0:1234:5678]:41239"), client("unix")];
    report.log.storedBytes = 1023.4 * 2 ** 40;
    for (const operation of Object.values(report.s3.operations)) happen(operation, 123_456, 0.5);
    status.onAsked = () => work(status);
    const { page } = await browser.open(status.url, PHONE.width, PHONE.height);
    await reads(page, "#value-readBytes", /^[1-9].*MiB/);
    const outside = await page.$$eval("main *", (all, width) =>
      all.filter((one) => {
        const { left, right } = one.getBoundingClientRect();
        return left < 0 || right > width;
      }).map((one) => one.outerHTML.slice(0, 100)), PHONE.width);
    assertEquals(outside, []);
    assertEquals(await page.evaluate(() => document.documentElement.scrollWidth), PHONE.width);
  });

  for (const scheme of ["light", "dark"]) {
    await test.step(`every text stands out from its ground, ${scheme}`, async () => {
      using status = new FakeStatus().startServing();
      status.report.trouble = "something";
      status.report.clients = [client("127.0.0.1:1234")];
      const { page } = await browser.open(status.url);
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await reads(page, "#banner", /something/);
      const ground = await page.$eval("body", (body) => getComputedStyle(body).backgroundColor);
      const [red] = ground.match(/\d+/g)!.map(Number);
      assertEquals(red < 128, scheme === "dark");
      assertEquals(await faintTexts(page), []);
    });
  }

  await test.step("is used with the keyboard alone, in the order of reading", async () => {
    using status = new FakeStatus().startServing();
    status.report.map.cells = "c".repeat(1024);
    const { page } = await browser.open(status.url);
    await reads(page, "#cells-clean", /^1024$/);
    const stops: string[] = [];
    for (;;) {
      await page.keyboard.press("Tab");
      const stop = await page.evaluate(() => {
        const at = document.activeElement as HTMLElement;
        if (at === document.body) return "";
        const name = at.id || (at as HTMLInputElement).value || at.textContent;
        const isSeen = getComputedStyle(at).outlineStyle !== "none" && at.matches(":focus-visible");
        return isSeen ? name : `${name}, unseen`;
      });
      if (stop === "" || stops.includes(stop!)) break;
      stops.push(stop!);
    }
    assertEquals(stops, [
      ...["estimate", "120", "ago", "cell"],
      ...["price-gibMonth", "price-thousandPuts", "price-thousandGets", "price-gibDown"],
      ...["status.json", "metrics"],
    ]);

    await page.focus("#ago");
    await page.keyboard.press("ArrowLeft");
    assertMatch(await text(page, "#ago-words"), /^1\ss ago$/);
    await page.focus("#cell");
    await page.keyboard.press("ArrowRight");
    assertMatch(await text(page, "#cell-words"), /^From 1\sGiB on: clean/);
    await page.focus("#spans input");
    await page.keyboard.press("ArrowRight");
    assertMatch(await page.$eval(".plot", (plot) => plot.ariaLabel!), /of the last 10\smin/);
  });

  await test.step("looking back shows what was then", async () => {
    using status = new FakeStatus().startServing();
    status.report.log.liveBytes = MIB;
    const { page } = await browser.open(status.url);
    await reads(page, "#value-live", /^1\sMiB$/);
    status.report.log.liveBytes = 2 * MIB;
    await reads(page, "#value-live", /^2\sMiB$/);
    await page.focus("#ago");
    for (let second = 0; second < 2; second++) await page.keyboard.press("ArrowLeft");
    await reads(page, "#value-live", /^1\sMiB$/);
    await page.keyboard.press("End");
    await reads(page, "#value-live", /^2\sMiB$/);
  });

  await test.step("whoever can't see it is told the same", async () => {
    using status = new FakeStatus().startServing();
    status.onAsked = () => work(status);
    status.report.map.cells = "c".repeat(24) + "d".repeat(6) + ".".repeat(994);
    const { page } = await browser.open(status.url);
    await reads(page, "#value-readBytes", /^[1-9].*MiB/);
    const nameless = await page.$$eval(
      "[role=img]",
      (drawings) => drawings.filter((one) => !one.ariaLabel).map((one) => one.outerHTML),
    );
    assertEquals(nameless, []);
    const tree = JSON.stringify(await page.accessibility.snapshot());
    assertMatch(tree, /Map of the volume, 1024 cells of 1.GiB: 994 unmapped, 24 clean, 6 dirty/);
    assertMatch(tree, /Throughput of the last 2.min, a line chart: Read [\d.]+.MiB/);
    for (const role of ["slider", "spinbutton", "radio"]) {
      assert(tree.includes(`"role":"${role}"`), `there is no ${role}`);
      assert(!tree.includes(`"role":"${role}","name":""`), `a ${role} has no name`);
    }
  });
});

function client(address: string) {
  const connectedAtMs = Date.now() - 3e6;
  const bytes = 1023.4 * MIB;
  return {
    address,
    connectedAtMs,
    isTls: true,
    inFlight: 64,
    readBytes: bytes,
    writtenBytes: bytes,
  };
}

/** Texts with less than 4.5 times the light of their ground, or the other way round (WCAG 2.2, 1.4.3). */
function faintTexts(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const channels = (colour: string) => colour.match(/[\d.]+/g)!.map(Number);
    const light = (colour: string) => {
      const [red, green, blue] = channels(colour).map((level) => {
        const share = level / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const groundOf = (one: Element): string => {
      const ground = getComputedStyle(one).backgroundColor;
      return channels(ground)[3] === 0 ? groundOf(one.parentElement!) : ground;
    };
    const faint: string[] = [];
    for (const one of document.body.querySelectorAll("*")) {
      const hasText = [...one.childNodes]
        .some((node) => node.nodeType === Node.TEXT_NODE && node.textContent!.trim() !== "");
      // A button that does nothing may be faint.
      if (!hasText || one.matches("script, style, noscript *, :disabled")) continue;
      const lights = [light(getComputedStyle(one).color), light(groundOf(one))];
      const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
      if (contrast < 4.5) faint.push(`${one.textContent!.trim()}: ${contrast.toFixed(2)}`);
    }
    return faint;
  });
}
