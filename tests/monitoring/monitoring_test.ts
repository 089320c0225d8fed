/**
 * monitoring/: the alerts are raised when they should be, and every metric that they and the dashboard name is one that
 * a drive has. Prometheus itself (Debian's) asks a drive that is at work.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { freePort } from "../support/ceph.ts";
import { Drive } from "../support/drive.ts";
import { HeardLines } from "../support/heard_lines.ts";
import { run, within } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { DirectoryTestBucket } from "../support/test_buckets.ts";

const HERE = import.meta.dirname!;
const MONITORING = new URL("../../monitoring", import.meta.url).pathname;
const ALERTS = `${MONITORING}/alerts.yml`;
const SEVERITIES = ["critical", "warning", "info"];
/** Of the scrapes below, which come every second. */
const RATE_INTERVAL = "10s";

interface Panel {
  title: string;
  type: string;
  description?: string;
  targets?: { expr: string }[];
}

interface Rule {
  name: string;
  query: string;
  duration: number;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

/** Each query of the dashboard as Grafana would send it, with all drives chosen. */
function dashboardQueries(): { title: string; query: string }[] {
  const dashboard = JSON.parse(Deno.readTextFileSync(`${MONITORING}/dashboard.json`));
  const panels: Panel[] = [...dashboard.panels, ...dashboard.annotations.list.map(asPanel)];
  return panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }) => ({
      title,
      query: expr.replaceAll("$__rate_interval", RATE_INTERVAL).replaceAll("$instance", ".*"),
    }))
  );
}

function asPanel({ name, expr }: { name: string; expr: string }): Panel {
  return { title: name, type: "annotation", targets: [{ expr }] };
}

/** Names of metrics in a query or in a drive's answer. */
function namesIn(text: string): string[] {
  return text.match(/\b(?:elasticdrive|process)_\w+/g) ?? [];
}

class Prometheus implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #said: HeardLines;

  private constructor(readonly url: string, child: Deno.ChildProcess) {
    this.#child = child;
    this.#said = new HeardLines(child.stderr, "prometheus");
  }

  /** Has it ask `target` every second, and watch the alerts. */
  static async start(target: string, scratch: Scratch): Promise<Prometheus> {
    await scratch.write(
      "prometheus.yml",
      `global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: ["${ALERTS}"]\n` +
        `scrape_configs: [{ job_name: elasticdrive, static_configs: [{ targets: ["${target}"] }] }]\n`,
    );
    const address = `127.0.0.1:${freePort()}`;
    const child = new Deno.Command("prometheus", {
      args: [
        `--config.file=${scratch.file("prometheus.yml")}`,
        `--storage.tsdb.path=${scratch.file("data")}`,
        `--web.listen-address=${address}`,
      ],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const prometheus = new Prometheus(`http://${address}/api/v1`, child);
    await prometheus.#said.until(/Server is ready to receive web requests/, 30);
    return prometheus;
  }

  async get<T>(path: string): Promise<T> {
    const answer = await (await fetch(`${this.url}/${path}`)).json();
    assertEquals(answer.status, "success", JSON.stringify(answer));
    return answer.data;
  }

  async query(
    query: string,
  ): Promise<{ metric: Record<string, string>; value: [number, string] }[]> {
    const path = `query?query=${encodeURIComponent(query)}`;
    return (await this.get<{ result: [] }>(path)).result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await this.#child.status;
    await this.#said.ended;
  }
}

Deno.test("the alerts are raised for what they are meant for, and for nothing else", async () => {
  const files = [...Deno.readDirSync(HERE)].map(({ name }) => name).filter((name) =>
    name.endsWith(".yml")
  );
  assertEquals(files.length, 2);
  await run("promtool", ["test", "rules", ...files], { cwd: HERE });
  // each is raised at one time at least, and at another not
  const cases = files.map((file) => Deno.readTextFileSync(`${HERE}/${file}`)).join("\n");
  const alerts = [...Deno.readTextFileSync(ALERTS).matchAll(/- alert: (\w+)/g)].map(([, name]) =>
    name
  );
  for (const name of alerts) {
    assertMatch(
      cases,
      new RegExp(`alertname: ${name}\n +exp_alerts:\n`),
      `${name} is never raised`,
    );
    assertMatch(
      cases,
      new RegExp(`alertname: ${name}\n +exp_alerts: \\[\\]\n`),
      `${name} always is`,
    );
  }
});

Deno.test("Prometheus finds in a drive all that the alerts and the dashboard ask for", async (t) => {
  await using bucket = await DirectoryTestBucket.make();
  await using scratch = await Scratch.make();
  const server = { status: "127.0.0.1:0" };
  await using drive = await Drive.start({ bucket, size: "16M", server });
  const url = (await drive.says(/: status: /)).split(": status: ")[1];
  const work = () =>
    run("qemu-io", ["-f", "raw", "-c", "write 0 1M", "-c", "flush", "-c", "read 0 2M", drive.uri]);
  await work();

  const metrics = await (await fetch(`${url}metrics`)).text();
  await t.step("a drive's metrics are as Prometheus wants them", async () => {
    const file = await scratch.write("metrics", metrics);
    const said = await run("sh", ["-c", `promtool check metrics <${file} 2>&1`]);
    assertEquals(said, "");
  });

  await using prometheus = await Prometheus.start(new URL(url).host, scratch);
  await t.step("the rules say who is needed, what happened and after how long", async () => {
    const { groups } = await prometheus.get<{ groups: { rules: Rule[] }[] }>("rules");
    const rules = groups.flatMap((group) => group.rules);
    assert(rules.length > 10, `${rules.length} rules`);
    const texts = Deno.readTextFileSync(ALERTS).split("- alert: ").slice(1);
    assertEquals(texts.filter((text) => !/^ +for: /m.test(text)), []);
    for (const { name, query, labels, annotations } of rules) {
      assert(SEVERITIES.includes(labels.severity), name);
      assertEquals(Object.keys(annotations).sort(), ["description", "summary"], name);
      assertEquals(namesIn(query).filter((metric) => !namesIn(metrics).includes(metric)), [], name);
    }
  });

  await t.step("each panel of the dashboard shows something", async () => {
    const queries = dashboardQueries();
    assert(queries.length > 25, `${queries.length} queries`);
    const samples = () =>
      prometheus.query(`count_over_time(elasticdrive_healthy[${RATE_INTERVAL}])`);
    const scrapedTwice = async () => {
      while (Number((await samples())[0]?.value[1] ?? 0) < 2) await work();
    };
    await within(60, "two scrapes", scrapedTwice());
    const empty: string[] = [];
    for (const { title, query } of queries) {
      assert(namesIn(query).length > 0, `${title}: ${query}`);
      // an event that has not happened is shown by nothing
      if (query.endsWith(" > 0")) continue;
      if ((await prometheus.query(query)).length === 0) empty.push(`${title}: ${query}`);
    }
    assertEquals(empty, []);
  });

  await t.step("no alert is raised for a drive that is well", async () => {
    assertEquals((await prometheus.query(`ALERTS{alertstate="firing"}`)).map((a) => a.metric), []);
    assertEquals((await prometheus.query("up")).map(({ value }) => value[1]), ["1"]);
  });
  await drive.stopClean();
});
