// @ts-check
/** Numbers as people read them: three digits that matter and a unit, which a line never ends before. */

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const COUNT_UNITS = ["", "k", "M", "G", "T"];
/** Between a number and its unit: a space at which no line breaks. */
const SPACE = "\u00a0";
/** For what there is nothing to say of. */
export const NOTHING = "–";

/**
 * 0.123, 1.23, 12.3, 123, 1234: three digits that matter, without zeroes at the end.
 * @param {number} value
 */
function digits(value) {
  const size = Math.abs(value);
  const places = size === 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return String(Number(value.toFixed(places)));
}

/**
 * @param {number} value
 * @param {number} step From one unit to the next.
 * @param {string[]} units
 */
function scaled(value, step, units) {
  let unit = 0;
  while (unit < units.length - 1 && Math.abs(value) >= step * 0.9995) {
    value /= step;
    unit++;
  }
  return [digits(value), units[unit]].filter((part) => part !== "").join(SPACE);
}

/** @param {number} bytes */
export function showBytes(bytes) {
  return scaled(bytes, 1024, BYTE_UNITS);
}

/** @param {number} bytes a second */
export function showByteRate(bytes) {
  return `${showBytes(bytes)}/s`;
}

/** @param {number} count */
export function showCount(count) {
  return count < 10_000 ? digits(count) : scaled(count, 1000, COUNT_UNITS);
}

/** @param {number} count a second */
export function showRate(count) {
  return count > 0 && count < 0.05 ? `${digits(count * 3600)}/h` : `${showCount(count)}/s`;
}

/** @param {number} share of 1 */
export function showShare(share) {
  return `${digits(share * 100)}${SPACE}%`;
}

/** @param {number} seconds */
export function showSeconds(seconds) {
  if (seconds === 0) return `0${SPACE}s`;
  if (seconds < 0.000_999_5) return `${digits(seconds * 1e6)}${SPACE}µs`;
  if (seconds < 0.999_5) return `${digits(seconds * 1e3)}${SPACE}ms`;
  if (seconds < 60) return `${digits(seconds)}${SPACE}s`;
  return showDuration(seconds);
}

/**
 * In the largest units, two or fewer: 3 d 4 h, 4 h 5 min, 5 min 6 s.
 * @param {number} seconds
 * @param {number} [units]
 */
export function showDuration(seconds, units = 2) {
  const whole = Math.floor(seconds);
  const parts = [
    { size: 86_400, unit: "d" },
    { size: 3_600, unit: "h" },
    { size: 60, unit: "min" },
    { size: 1, unit: "s" },
  ].map(({ size, unit }, at, all) => {
    const left = at === 0 ? whole : whole % all[at - 1].size;
    return { count: Math.floor(left / size), unit };
  });
  const first = parts.findIndex(({ count }) => count > 0);
  if (first === -1) return `0${SPACE}s`;
  return parts.slice(first, first + units)
    .filter(({ count }, at) => at === 0 || count > 0)
    .map(({ count, unit }) => `${count}${SPACE}${unit}`)
    .join(" ");
}

/** @param {number} dollars */
export function showDollars(dollars) {
  if (dollars >= 1e6) return `$${showCount(dollars)}`;
  const places = dollars >= 1000 ? 0 : dollars === 0 || dollars >= 0.01 ? 2 : 4;
  const text = dollars.toLocaleString("en", {
    minimumFractionDigits: places,
    maximumFractionDigits: places,
  });
  return `$${text}`;
}

/**
 * Of the day, as this browser's user writes it.
 * @param {number} ms Since 1970.
 * @param {boolean} [withSeconds]
 */
export function showTime(ms, withSeconds = true) {
  return new Date(ms).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    ...(withSeconds ? { second: "2-digit" } : {}),
    hour12: false,
  });
}
