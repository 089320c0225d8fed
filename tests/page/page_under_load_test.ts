/// <reference lib="dom" />
/** The status page of the compiled program: while a client works, after that, and through a restart. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { showCount } from "../../src/status/page/format.js";
import type { StatusReport } from "../../src/status/report.ts";
import { Browser } from "../support/browser.ts";
import { Drive } from "../support/drive.ts";
import { reads, text } from "../support/page_watch.ts";
import { SteadyClient } from "../support/steady_client.ts";
import { testInDirectory } from "../support/test_buckets.ts";

async function statusUrl(drive: Drive): Promise<string> {
  return /status: (.*)$/.exec(await drive.says(/^elasticdrive: status: /))![1];
}

async function ask(url: string): Promise<StatusReport> {
  return await (await fetch(`${url}status.json`)).json();
}

function exactly(text: string): RegExp {
  return new RegExp(`^${RegExp.escape(text)}$`);
}

testInDirectory({
  "the page shows what a client does, that it has gone, and goes on after a restart": async (
    bucket,
  ) => {
    await using first = await Drive.start({
      bucket,
      size: "64M",
      server: { status: "127.0.0.1:0" },
    });
    const url = await statusUrl(first);
    await using browser = await Browser.start();
    const { page, complaints, requests } = await browser.open(url);
    await reads(page, "#state", /^Healthy$/);
    await reads(page, "#about", /^64\sMiB · stripes of 64\sKiB · epoch 1$/);
    await reads(page, "#tile-clients", /^0$/);

    await using client = await SteadyClient.start(first.uri);
    await reads(page, "#value-readBytes", /^[1-9].*iB\/s$/);
    await reads(page, "#value-writeRequests", /^[1-9].*\/s$/);
    await reads(page, "#value-flushMedian", /^[1-9].*s$/);
    await reads(page, "#value-s3Put", /^[1-9].*s$/);
    await reads(page, "#tile-clients", /^[1-9]/);
    await reads(page, "#cells-clean", /^[1-9]/);
    await reads(page, "#tile-log", /MiB$/);
    // a directory costs nothing
    assertMatch(await text(page, "#cost-sum"), /^\$0\.00$/);
    await client.endIntact();
    await reads(page, "#clients-none", /Nobody/);
    await reads(page, "#tile-clients", /^0$/);
    await reads(page, "#tile-age-note", /^everything is stored$/);
    // Nothing goes on any more: the page and a look at the same moment say the same.
    const { s3, map } = await ask(url);
    await reads(page, "#operations td", exactly(showCount(s3.operations.put.requests)));
    await reads(page, "#cells-unmapped", exactly(showCount(map.cells.split(".").length - 1)));
    assertEquals(complaints, []);

    await first.stopClean();
    await reads(page, "#banner", /^The drive does not answer: trying again/);
    const { host } = new URL(url);
    await using second = await Drive.start({ bucket, server: { status: host } });
    assertEquals(await statusUrl(second), url);
    await reads(page, "#state", /^Healthy$/);
    await reads(page, "#about", /epoch 2$/);
    await reads(page, "#value-stored", /MiB$/);
    await reads(page, "#value-writeRequests", /^0\/s$/);
    // What the client wrote, before the restart, is still there to be looked back at.
    await page.focus("#ago");
    while (!/^[1-9]/.test(await text(page, "#value-writeRequests"))) {
      assert(/^(now|\d+\ss ago)$/.test(await text(page, "#ago-words")), "no write in a minute");
      await page.keyboard.press("ArrowLeft");
    }
    // Asked while there was no drive, or one that was opening: the browser notes that by itself.
    assertEquals(complaints.filter((line) => !line.startsWith("Failed to load resource: ")), []);
    assertEquals(new Set(requests), new Set([url, `${url}status.json`]));
  },
});
