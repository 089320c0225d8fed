/** Texts of a config.ini, and what is made of them. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { parseConfig } from "../../src/config.ts";
import { KEYS } from "../../src/config_keys.ts";
import { UsageError } from "../../src/errors.ts";

/** The smallest file there is, with more keys behind it. */
export function withBucket(rest: string, section: "s3" | "server" = "s3"): string {
  return `[s3]\nBUCKET=my-bucket\n${section === "server" ? "[server]\n" : ""}${rest}\n`;
}

export function settingsOf(text: string) {
  return parseConfig(text, "/etc/elasticdrive/config.ini");
}

export function mistakesOf(text: string): string[] {
  return assertThrows(() => parseConfig(text, "config.ini"), UsageError).message.split("\n");
}

/** The value of one key, alone in its section. */
export function valueOf(field: keyof typeof KEYS, text: string) {
  const { section, name } = KEYS[field];
  return settingsOf(withBucket(`${name}=${text}`, section))[field];
}

export function assertRefused(field: keyof typeof KEYS, text: string): void {
  const { section, name } = KEYS[field];
  const mistakes = mistakesOf(withBucket(`${name} = ${text}`, section));
  const line = section === "s3" ? 3 : 4;
  assertEquals(mistakes.length, 1, `${name}=${text}: ${mistakes}`);
  assert(
    mistakes[0].startsWith(`config.ini:${line}: ${name} can't be "${text}"; allowed: `),
    mistakes[0],
  );
}
