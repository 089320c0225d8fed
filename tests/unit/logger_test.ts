import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  LOG_FIRST_LINES,
  LOG_KNOWN_MAX,
  LOG_LINE_CHARS_MAX,
  LOG_WINDOW_MS,
  SECRETS_KEPT_MAX,
} from "../../src/limits.ts";
import { type LogOptions, oneLine, type StderrLogger, stderrLogger } from "../../src/logger.ts";
import { keepSecret, withoutSecrets } from "../../src/secrets.ts";
import { ManualClock } from "../support/manual_clock.ts";

interface Log {
  logger: StderrLogger;
  /** What was written, without its head and its end. */
  lines: string[];
  clock: ManualClock;
}

function logTo({ debug = false, ...options }: LogOptions & { debug?: boolean } = {}): Log {
  const lines: string[] = [];
  const clock = new ManualClock();
  const write = (line: string) => void lines.push(line.replace(/^elasticdrive: (.*)\n$/, "$1"));
  return {
    logger: stderrLogger(debug, { clock, isJournal: false, write, ...options }),
    lines,
    clock,
  };
}

Deno.test("a line says who speaks and how bad it is; to the journal as sd-daemon(3) has it", () => {
  for (
    const [isJournal, expected] of [
      [
        false,
        "elasticdrive: error: a|elasticdrive: warning: b|elasticdrive: c|elasticdrive: debug: d",
      ],
      [true, "<3>error: a|<4>warning: b|<6>c|<7>debug: d"],
    ] as const
  ) {
    const lines: string[] = [];
    const logger = stderrLogger(true, { isJournal, write: (line) => void lines.push(line) });
    logger.error("a");
    logger.warn("b");
    logger.info("c");
    logger.debug(() => "d");
    assertEquals(lines, expected.split("|").map((line) => `${line}\n`));
  }
});

Deno.test("without debug=1 a debug line is not even made", () => {
  const { logger, lines } = logTo();
  logger.debug(() => {
    throw new Error("made");
  });
  assertEquals(lines, []);
});

Deno.test("whatever is in a message, it is one line that a terminal does not obey", () => {
  const { logger, lines } = logTo();
  logger.info(
    "client a\nelasticdrive: error: forged\r\n<3>forged\x1b[2J\x1b]0;title\x07\x9b31m\u202eback\0",
  );
  assertEquals(lines, [
    "client a elasticdrive: error: forged <3>forged\\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u202eback\\x00",
  ]);
  assertEquals(oneLine("größe 你好 \u{1f600} a\\b"), "größe 你好 \u{1f600} a\\b");
  assertEquals(oneLine("x".repeat(100_000)).length, LOG_LINE_CHARS_MAX + 3);
});

Deno.test("of a flood the first lines are shown, the others counted, and the last one shown", async () => {
  const { logger, lines, clock } = logTo();
  for (let n = 1; n <= 1000; n++) logger.warn(`refused ${n}`, "refused");
  const first = Array.from({ length: LOG_FIRST_LINES }, (_, n) => n + 1);
  assertEquals(lines, first.map((n) => `warning: refused ${n}`));
  await clock.advance(LOG_WINDOW_MS);
  const held = 1000 - LOG_FIRST_LINES;
  assertEquals(lines.splice(0).at(-1), `warning: refused 1000 (the last of ${held} more like it)`);

  // it goes on: two lines a minute
  for (let second = 0; second < 600; second++) {
    for (let n = 0; n < 100; n++) logger.warn(`refused at ${second}`, "refused");
    await clock.advance(1000);
  }
  assertEquals(lines.length, 2 * 10, lines.join("\n"));
  assertMatch(
    lines.splice(0).at(-1)!,
    /^warning: refused at 599 \(the last of \d+ more like it\)$/,
  );

  // a quiet minute, and it is news again
  await clock.advance(2 * LOG_WINDOW_MS);
  for (const n of first) logger.warn(`again ${n}`, "refused");
  assertEquals(lines, first.map((n) => `warning: again ${n}`));
});

Deno.test("a line that was held back alone is shown as it is", async () => {
  const { logger, lines, clock } = logTo();
  for (let n = 0; n <= LOG_FIRST_LINES; n++) logger.warn(`away ${n}`, "outage");
  assertEquals(lines.length, LOG_FIRST_LINES);
  await clock.advance(LOG_WINDOW_MS);
  assertEquals(lines.slice(LOG_FIRST_LINES), [`warning: away ${LOG_FIRST_LINES}`]);
});

Deno.test("what is said again and again leaves room for what is new", async () => {
  const { logger, lines, clock } = logTo();
  const fail = (offset: number, place: string) =>
    logger.error(`read at ${offset}: ${place} is damaged`, "failed", place);
  for (let n = 0; n < 500; n++) fail(n, "log/1");
  fail(7, "log/2");
  assertEquals(lines, ["error: read at 0: log/1 is damaged", "error: read at 7: log/2 is damaged"]);
  await clock.advance(LOG_WINDOW_MS);
  for (let n = 0; n < 500; n++) fail(n, "log/1");
  fail(8, "log/3");
  assertEquals(lines.slice(2), [
    "error: read at 499: log/1 is damaged (the last of 499 more like it)",
    "error: read at 8: log/3 is damaged",
  ]);
});

Deno.test("a flood of one kind hides no line of another, nor one without a kind", () => {
  const { logger, lines } = logTo();
  for (let n = 0; n < 100; n++) logger.info("client was cut off", "cut off");
  logger.warn("S3 does not serve", "outage");
  for (let n = 0; n < 10; n++) logger.error("another writer has taken the volume over");
  assertEquals(lines.length, LOG_FIRST_LINES + 1 + 10);
});

Deno.test("at the end of the program what was counted is said", () => {
  const { logger, lines, clock } = logTo();
  for (let n = 1; n <= LOG_FIRST_LINES + 7; n++) logger.info(`client ${n} was cut off`, "cut off");
  logger.flush();
  const last = LOG_FIRST_LINES + 7;
  assertEquals(lines.at(-1), `client ${last} was cut off (the last of 7 more like it)`);
  assertEquals(clock.pending, 0);
});

Deno.test("with debug=1 every line is shown", () => {
  const { logger, lines } = logTo({ debug: true });
  for (let n = 0; n < 100; n++) logger.info("client was cut off", "cut off", "reason");
  assertEquals(lines.length, 100);
});

Deno.test("a flood in which each line is about something new has two lines a minute, and ends", async () => {
  const { logger, lines, clock } = logTo();
  for (let minute = 0; minute < 100; minute++) {
    for (let n = 0; n < 100; n++) logger.info(`${minute}.${n}`, "cut off", `${minute}.${n}`);
    await clock.advance(LOG_WINDOW_MS);
  }
  assert(lines.length <= LOG_FIRST_LINES + 2 * 100, `${lines.length} lines`);
  await clock.advance(LOG_WINDOW_MS);
  assertEquals(clock.pending, 0);
});

Deno.test("of what a long flood is about the oldest is forgotten, and is news again", async () => {
  const { logger, lines, clock } = logTo();
  for (let minute = 0; minute <= LOG_KNOWN_MAX; minute++) {
    // one is shown, one goes on with the flood
    for (const about of [minute, minute]) logger.info("cut off", "cut off", `${about}`);
    await clock.advance(LOG_WINDOW_MS);
  }
  const shown = lines.length;
  logger.info("cut off", "cut off", `${LOG_KNOWN_MAX}`);
  assertEquals(lines.length, shown);
  logger.info("cut off", "cut off", "0");
  assertEquals(lines.length, shown + 1);
});

Deno.test("no secret is in a line, in whatever form it was sent back", () => {
  const secret = "wJalr<XUtnFEMI/K7&DENG+bPxRfiCY";
  keepSecret(secret);
  keepSecret("AKIAIOSFODNN7EXAMPLE", 4);
  keepSecret("short");
  const { logger, lines } = logTo();
  const forms = [
    secret,
    encodeURIComponent(secret),
    secret.replace("&", "&amp;").replace("<", "&lt;"),
  ];
  for (const form of forms) logger.error(`can't (${form}): refused`);
  assertEquals(lines, forms.map(() => "error: can't (***): refused"));
  assertEquals(withoutSecrets("key AKIAIOSFODNN7EXAMPLE, short"), "key ****MPLE, short");
});

Deno.test("nor what was signed with one", () => {
  const hex = "a9".repeat(32);
  const said = withoutSecrets(
    `Authorization: AWS4-HMAC-SHA256 Credential=AKIA123/20261124/us-east-1/s3/aws4_request, ` +
      `SignedHeaders=host, Signature=${hex}; ` +
      `http://h/b?X-Amz-Credential=AKIA123%2F2026&X-Amz-Security-Token=FwoGZXIv%2FYXdz&X-Amz-Signature=ab12; ` +
      `x-amz-security-token: "IQoJb3Jp"; ${hex}`,
  );
  for (const part of ["AKIA123", "a9a9", "FwoGZXIv", "IQoJb3Jp", "ab12"]) {
    assert(!said.includes(part), said);
  }
  assertStringIncludes(said, "SignedHeaders=host");
  const fine = "SignatureDoesNotMatch: The request signature we calculated does not match";
  assertEquals(withoutSecrets(fine), fine);
});

Deno.test("of secrets that were replaced many times the newest are hidden", () => {
  const secrets = Array.from({ length: SECRETS_KEPT_MAX + 1 }, (_, n) => `rotated-secret-${n}.`);
  for (const secret of secrets) keepSecret(secret);
  assertEquals(withoutSecrets(secrets[0]), secrets[0]);
  assertEquals(withoutSecrets(secrets.slice(1).join(" ")), secrets.slice(1).fill("***").join(" "));
});
