/** `elasticdrive info`: what a volume is and what is in its bucket, in lines for people or as JSON. */
import { showBytes, showCount, showSeconds } from "./progress.ts";
import type { Tenancy } from "./volume/lease.ts";
import type { VolumeDescription } from "./volume/description.ts";
import type { VolumeInfo } from "./volume/volume_info.ts";

const LEASES: Record<Tenancy["state"], string> = {
  held: "held: the drive is open there",
  silent: "held, but not renewed for too long: the drive has ended without a word, or is cut off",
  gone: "not released: the drive has ended without a word",
  released: "released: the drive was stopped, with everything stored",
};

/** @param nowMs since 1970 */
export function showInfo(name: string, about: VolumeDescription, nowMs: number): string[] {
  const { info, tenancy, checkpoint, unreadable, newer, objects } = about;
  const rows: [string, string][] = [
    ["volume", name],
    ["uuid", info.uuid],
    ["size", showShape(info)],
    ["created", info.created],
  ];
  if (tenancy) {
    const { holder, epoch, renewedAt, state } = tenancy;
    const at = new Date(renewedAt).toISOString();
    const ago = showSeconds(Math.max(0, nowMs - renewedAt) / 1000);
    rows.push(
      [
        "writer",
        `${holder.host} (pid ${holder.pid}), epoch ${epoch}, last heard of ${at}, ${ago} ago`,
      ],
      ["lease", LEASES[state]],
    );
  } else {
    rows.push(["lease", "none: the drive was never open"]);
  }
  const stored = `${showBytes((checkpoint?.segments.bytes ?? 0) + newer.bytes)} in ` +
    showCount((checkpoint?.segments.objects ?? 0) + newer.objects, "segment");
  if (checkpoint) {
    const { seq, epoch, mapBytes, liveBytes } = checkpoint;
    rows.push(
      ["checkpoint", `${seq} of epoch ${epoch}, with a map of ${showBytes(mapBytes)}`],
      ["live", `${showBytes(liveBytes)}, as of checkpoint ${seq}`],
      ["stored", `${stored}; ${showBytes(newer.bytes)} of it since checkpoint ${seq}`],
    );
  } else {
    rows.push(["checkpoint", "none yet, so what is live is not known"], ["stored", stored]);
  }
  rows.push([
    "objects",
    `${objects.all}: ${objects.log} of the log, ${objects.map} of maps, ` +
    showCount(objects.checkpoints, "checkpoint"),
  ]);
  if (checkpoint?.missing.first) {
    const { objects, first } = checkpoint.missing;
    rows.push([
      "missing",
      `${showCount(objects, "segment")} that checkpoint ${checkpoint.seq} ` +
      `needs, the first ${first}; "elasticdrive check" says what of the disk that is`,
    ]);
  }
  for (const what of unreadable) rows.push(["damaged", `${what}; "elasticdrive check" says more`]);
  return rows.map(([label, text]) => `${label.padEnd(11)} ${text}`);
}

function showShape({ volumeBytes, stripeBytes, partBytes }: VolumeInfo): string {
  const parts = partBytes === undefined ? "" : `, read in parts of ${showBytes(partBytes)}`;
  return `${showBytes(volumeBytes)} in stripes of ${showBytes(stripeBytes)}${parts}`;
}

/** The same for programs; times in ms since 1970, sizes in bytes. */
export function infoJson(name: string, about: VolumeDescription): string {
  const { info, tenancy, checkpoint, unreadable, newer, objects } = about;
  const writer = tenancy && {
    host: tenancy.holder.host,
    pid: tenancy.holder.pid,
    epoch: tenancy.epoch,
    renewedAtMs: tenancy.renewedAt,
    lease: tenancy.state,
  };
  return JSON.stringify({ name, ...info, writer, checkpoint, newer, objects, unreadable }, null, 2);
}
