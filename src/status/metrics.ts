/**
 * The report in Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4).
 *
 * Written here rather than by npm's prom-client: what the drive counts lies in its own arrays, and of that library only
 * the part that joins lines would be left, which is `Exposition` below.
 */
import type { HistogramReport, OperationReport, StatusReport } from "./report.ts";

export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

type Labels = Record<string, string>;

class Exposition {
  text = "";

  /** A metric with a sample for each set of labels. Infinite values don't occur. */
  add(
    name: string,
    type: "counter" | "gauge",
    help: string,
    ...samples: [value: number, labels?: Labels][]
  ): void {
    this.#begin(name, type, help);
    for (const [value, labels] of samples) this.#sample(name, value, labels);
  }

  histogram(name: string, help: string, samples: [HistogramReport, Labels][]): void {
    this.#begin(name, "histogram", help);
    for (const [{ bounds, counts, seconds }, labels] of samples) {
      let count = 0;
      counts.forEach((times, bucket) => {
        count += times;
        const le = bucket < bounds.length ? String(bounds[bucket]) : "+Inf";
        this.#sample(`${name}_bucket`, count, { ...labels, le });
      });
      this.#sample(`${name}_sum`, seconds, labels);
      this.#sample(`${name}_count`, count, labels);
    }
  }

  #begin(name: string, type: string, help: string): void {
    this.text += `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  }

  #sample(name: string, value: number, labels: Labels = {}): void {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escape(text)}"`);
    this.text += `${name}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value}\n`;
  }
}

function escape(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

export function metricsOf(report: StatusReport): string {
  const out = new Exposition();
  addDrive(out, report);
  addNbd(out, report);
  addVolume(out, report);
  addS3(out, report);
  addProcess(out, report);
  return out.text;
}

function addDrive(out: Exposition, { version, volume, trouble, isFenced }: StatusReport): void {
  const { name, uuid, bytes } = volume;
  out.add("elasticdrive_build_info", "gauge", "The version that runs.", [1, { version }]);
  out.add("elasticdrive_volume_info", "gauge", "The volume served.", [1, { name, uuid }]);
  out.add("elasticdrive_volume_bytes", "gauge", "Size of the disk.", [bytes]);
  const healthy = "1 unless fenced, or S3 has been away for more than a minute.";
  out.add("elasticdrive_healthy", "gauge", healthy, [trouble === null ? 1 : 0]);
  const fenced = "1 if another writer has taken the volume over.";
  out.add("elasticdrive_fenced", "gauge", fenced, [isFenced ? 1 : 0]);
}

function addNbd(out: Exposition, { commands, clients }: StatusReport): void {
  addOperations(out, "nbd", "command", "NBD requests answered", commands);
  out.add(
    "elasticdrive_nbd_bytes_total",
    "counter",
    "Payload of NBD requests that did not fail.",
    ...Object.entries(commands).map((
      [command, { bytes }],
    ): [number, Labels] => [bytes, { command }]),
  );
  out.add("elasticdrive_nbd_connections", "gauge", "Clients connected.", [clients.length]);
  out.add(
    "elasticdrive_nbd_in_flight_requests",
    "gauge",
    "NBD requests that wait, mostly for the bucket.",
    [clients.reduce((sum, { inFlight }) => sum + inFlight, 0)],
  );
}

function addVolume(out: Exposition, { cache, unstored, log }: StatusReport): void {
  const { hits, misses, readAheadBytes, readAheadVainBytes } = cache;
  out.add("elasticdrive_cache_bytes", "gauge", "Size of the stripe cache.", [cache.bytes]);
  const hit = "Stripes that reads had at once, cached or known to be zeroes.";
  out.add("elasticdrive_cache_hits_total", "counter", hit, [hits]);
  const miss = "Stripes that reads had to wait for.";
  out.add("elasticdrive_cache_misses_total", "counter", miss, [misses]);
  const ahead = "Fetched ahead of sequential readers.";
  out.add("elasticdrive_read_ahead_bytes_total", "counter", ahead, [readAheadBytes]);
  const vain = "Fetched ahead of readers that never came to it.";
  out.add("elasticdrive_read_ahead_vain_bytes_total", "counter", vain, [readAheadVainBytes]);
  const bytes = "Acknowledged and not yet in the bucket.";
  out.add("elasticdrive_unstored_bytes", "gauge", bytes, [unstored.bytes]);
  const limit = "Unstored bytes past which a write waits.";
  out.add("elasticdrive_unstored_limit_bytes", "gauge", limit, [unstored.bytesMax]);
  const age = "Age of the oldest change that is not in the bucket; 0 if there is none.";
  out.add("elasticdrive_unstored_age_seconds", "gauge", age, [unstored.oldestSeconds]);
  const live = "Bytes of the log that the disk is read from.";
  out.add("elasticdrive_log_live_bytes", "gauge", live, [log.liveBytes]);
  const stored = "Bytes of the log's objects, live or not.";
  out.add("elasticdrive_log_stored_bytes", "gauge", stored, [log.storedBytes]);
  out.add("elasticdrive_log_segments", "gauge", "Objects of the log.", [log.segments]);
  out.add("elasticdrive_checkpoints_total", "counter", "Checkpoints stored.", [log.checkpoints]);
  const reclaimed = "Bytes of segments deleted.";
  out.add("elasticdrive_reclaimed_bytes_total", "counter", reclaimed, [log.reclaimedBytes]);
}

function addS3(out: Exposition, { s3 }: StatusReport): void {
  addOperations(out, "s3", "operation", "Requests to the bucket, each try", s3.operations);
  out.add(
    "elasticdrive_s3_bytes_total",
    "counter",
    "Bytes of objects moved.",
    [s3.bytesUp, { direction: "up" }],
    [s3.bytesDown, { direction: "down" }],
  );
  const retries = "Tries beyond the first of their request.";
  out.add("elasticdrive_s3_retries_total", "counter", retries, [s3.retries]);
  const away = "How long the bucket has not served; 0 if it does.";
  out.add("elasticdrive_s3_away_seconds", "gauge", away, [s3.awaySeconds]);
}

function addOperations(
  out: Exposition,
  part: "nbd" | "s3",
  label: string,
  what: string,
  operations: Record<string, OperationReport>,
): void {
  const kinds = Object.entries(operations);
  const samples = (value: (report: OperationReport) => number) =>
    kinds.map(([kind, report]): [number, Labels] => [value(report), { [label]: kind }]);
  const requests = samples((report) => report.requests);
  out.add(`elasticdrive_${part}_requests_total`, "counter", `${what}.`, ...requests);
  const errors = samples((report) => report.errors);
  out.add(`elasticdrive_${part}_errors_total`, "counter", `${what}, that failed.`, ...errors);
  out.histogram(
    `elasticdrive_${part}_request_duration_seconds`,
    `${what}, by how long they took.`,
    kinds.map(([kind, { latency }]) => [latency, { [label]: kind }]),
  );
}

function addProcess(out: Exposition, { process, startedAtMs }: StatusReport): void {
  const cpu = "User and system time.";
  out.add("process_cpu_seconds_total", "counter", cpu, [process.cpuSeconds]);
  out.add("process_resident_memory_bytes", "gauge", "Resident memory.", [process.residentBytes]);
  const start = "When the process began, in seconds since 1970.";
  out.add("process_start_time_seconds", "gauge", start, [startedAtMs / 1000]);
}
