// @ts-check
/// <reference lib="dom" />
/**
 * What a month would cost: 30 days that go on as the time since the process began, at prices that can be edited. What
 * was edited is kept in this browser; everything else is as the drive says.
 */
import { element, input, setText } from "./dom.js";
import { showBytes, showCount, showDollars, showDuration } from "./format.js";

/**
 * @import { StatusReport, Prices } from "../report.ts"
 */

const GIB = 2 ** 30;
const MONTH_SECONDS = 30 * 86_400;
/** Before it an estimate says more about the start than about the month. */
export const ROUGH_SECONDS = 3600;
/** Where this browser keeps what was edited. */
const KEPT_AS = "elasticdrive.prices";

/** @type {(keyof Prices)[]} */
const PRICES = ["gibMonth", "thousandPuts", "thousandGets", "gibDown"];

/** Prices that the user has set. @type {Partial<Prices>} */
let edited = {};
/** @type {StatusReport | undefined} */
let latest;

/**
 * How much of each there would be in a month, and its cost: bytes of storage, requests as S3 prices them (it lists at
 * the price of PUT, and deletes for nothing), bytes out of S3.
 * @param {StatusReport} report
 * @param {Prices} prices
 */
export function estimate({ startedAtMs, nowMs, log, s3 }, prices) {
  const seconds = Math.max(1, (nowMs - startedAtMs) / 1000);
  const { get, head, put, list } = s3.operations;
  const inMonth = (/** @type {number} */ count) => count / seconds * MONTH_SECONDS;
  const amounts = {
    gibMonth: log.storedBytes,
    thousandPuts: inMonth(put.requests + list.requests),
    thousandGets: inMonth(get.requests + head.requests),
    gibDown: inMonth(s3.bytesDown),
  };
  const costs = {
    gibMonth: amounts.gibMonth / GIB * prices.gibMonth,
    thousandPuts: amounts.thousandPuts / 1000 * prices.thousandPuts,
    thousandGets: amounts.thousandGets / 1000 * prices.thousandGets,
    gibDown: amounts.gibDown / GIB * prices.gibDown,
  };
  const sum = PRICES.reduce((total, price) => total + costs[price], 0);
  return { seconds, amounts, costs, sum };
}

export function startBill() {
  edited = keptPrices();
  for (const price of PRICES) {
    const field = input(`price-${price}`);
    field.addEventListener("input", () => {
      if (isPrice(field.valueAsNumber)) edited[price] = field.valueAsNumber;
      else if (field.value === "" && !field.validity.badInput) delete edited[price];
      keepPrices();
      showBill();
    });
    // Left empty or wrong, it says again what is reckoned with.
    field.addEventListener("change", showPrices);
  }
  element("prices-reset").addEventListener("click", () => {
    edited = {};
    keepPrices();
    showPrices();
    showBill();
  });
}

/** @param {StatusReport} report */
export function drawBill(report) {
  const isFirst = latest === undefined;
  latest = report;
  if (isFirst) showPrices();
  showBill();
}

/** Puts the prices into their fields. */
function showPrices() {
  if (!latest) return;
  const prices = { ...latest.prices, ...edited };
  for (const price of PRICES) input(`price-${price}`).value = String(prices[price]);
}

function showBill() {
  if (!latest) return;
  const { seconds, amounts, costs, sum } = estimate(latest, { ...latest.prices, ...edited });
  for (const price of PRICES) {
    const show = price.startsWith("gib") ? showBytes : showCount;
    setText(element(`amount-${price}`), show(amounts[price]));
    setText(element(`cost-${price}`), showDollars(costs[price]));
  }
  setText(element("cost-sum"), showDollars(sum));
  setText(element("tile-bill"), showDollars(sum));
  setText(element("bill-basis"), showDuration(seconds));
  setText(element("tile-bill-basis"), showDuration(seconds));
  element("bill-rough").hidden = seconds >= ROUGH_SECONDS;
  const isEdited = Object.keys(edited).length > 0;
  /** @type {HTMLButtonElement} */ (element("prices-reset")).disabled = !isEdited;
}

/** @param {unknown} value */
function isPrice(value) {
  return typeof value === "number" && Number.isFinite(value) && value >= 0;
}

/** What this browser has kept; nothing where that is none, or not what was put there. */
function keptPrices() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT_AS) ?? "{}");
    return Object.fromEntries(
      PRICES.filter((price) => isPrice(kept?.[price])).map((price) => [price, kept[price]]),
    );
  } catch {
    return {};
  }
}

function keepPrices() {
  try {
    localStorage.setItem(KEPT_AS, JSON.stringify(edited));
  } catch {
    // A browser that may keep nothing: the prices last as long as the page.
  }
}
