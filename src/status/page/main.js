// @ts-check
/// <reference lib="dom" />
/**
 * Asks the drive every second what it does, and shows it. A drive that does not answer is asked on; when it is there
 * again, be it as another process, the page goes on where it was.
 */
import { drawBill, startBill } from "./bill.js";
import { drawCharts, startCharts } from "./charts.js";
import { element, setText } from "./dom.js";
import { showBytes, showDuration, showTime } from "./format.js";
import { History } from "./history.js";
import { drawClients, drawFigures, drawOperations } from "./tables.js";
import { drawVolumeMap, startVolumeMap } from "./volume_map.js";

/** @import { StatusReport } from "../report.ts" */

const POLL_MS = 1000;
/** A drive that takes longer does not answer. */
const ANSWER_MS_MAX = 5000;

const history = new History();
/** When the first of the answers that are missing now was asked for. @type {number | null} */
let silentSinceMs = null;

/**
 * The drive's report; of one that is there and has none yet, why. Throws when there is no answer of the drive.
 * @returns {Promise<StatusReport | string>}
 */
async function askDrive() {
  const answer = await fetch("status.json", {
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_MS_MAX),
  });
  if (answer.status === 503) return (await answer.text()).trim();
  if (!answer.ok) throw new Error(`status.json: ${answer.status}`);
  return await answer.json();
}

/** Asks once, and shows what came of it. */
async function poll() {
  const askedAtMs = Date.now();
  const answer = await askDrive().catch(() => null);
  if (answer === null) silentSinceMs ??= askedAtMs;
  else silentSinceMs = null;
  if (answer === null || typeof answer === "string") {
    history.miss(now());
  } else {
    history.add(now(), answer);
    drawReport(answer);
  }
  drawState(answer);
  drawCharts(history);
}

/** Seconds since 1970 by a clock that nobody sets back while the page is open. */
function now() {
  return (performance.timeOrigin + performance.now()) / 1000;
}

/** @param {StatusReport} report */
function drawReport(report) {
  const { volume, version, startedAtMs, nowMs } = report;
  setText(element("name"), volume.name);
  setText(
    element("about"),
    `${showBytes(volume.bytes)}${volume.isReadOnly ? ", read only" : ""} · stripes of ` +
      `${showBytes(volume.stripeBytes)} · epoch ${volume.epoch}`,
  );
  setText(element("uuid"), volume.uuid);
  setText(element("version"), version);
  setText(element("uptime"), showDuration((nowMs - startedAtMs) / 1000));
  drawFigures(report, history);
  drawClients(report);
  drawOperations(report);
  drawVolumeMap(report.map);
  drawBill(report);
}

/**
 * How the drive is: a word for the badge and what there is to say about it, worst first.
 * @param {StatusReport | string | null} report
 */
function stateOf(report) {
  if (report === null) {
    const since = showTime(silentSinceMs ?? Date.now());
    return {
      kind: "silent",
      word: "No answer",
      words: `The drive does not answer: trying again. Without an answer since ${since}.`,
    };
  }
  if (typeof report === "string") {
    return { kind: "silent", word: "Not ready", words: `Not ready: trying again. ${report}` };
  }
  if (report.isFenced) {
    return {
      kind: "trouble",
      word: "Fenced",
      words: "Another writer has taken over this volume: nothing more is stored or acknowledged " +
        `here.${report.trouble ? ` ${report.trouble}` : ""}`,
    };
  }
  if (report.trouble !== null) return { kind: "trouble", word: "Trouble", words: report.trouble };
  if (report.s3.awaySeconds > 0) {
    return {
      kind: "waiting",
      word: "Waiting",
      words: "S3 does not answer: what needs it waits. Nothing that was acknowledged is lost.",
    };
  }
  return { kind: "healthy", word: "Healthy", words: "" };
}

/** @param {StatusReport | string | null} report */
function drawState(report) {
  const { kind, word, words } = stateOf(report);
  document.body.dataset.state = kind;
  setText(element("state"), word);
  setText(element("banner"), words);
  const name = element("name").textContent;
  document.title = kind === "healthy" ? `${name} · ElasticDrive` : `${word}: ${name}`;
}

/** Asks for as long as the page is open. */
async function watch() {
  await poll();
  setTimeout(watch, POLL_MS);
}

startCharts();
startVolumeMap();
startBill();
watch();
