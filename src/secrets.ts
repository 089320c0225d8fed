/**
 * What no text that leaves the program shows: log, errors, what a client or systemd is told.
 *
 * Who learns of a secret keeps it here (`keepSecret`), and every such text passes `withoutSecrets` on its way out. So
 * it does not matter which way a secret found into a message: a server may say in its refusal whatever it was sent.
 * What was made from one, such as a signature, is known by its form.
 */
import { SECRET_CHARS_MIN, SECRETS_KEPT_MAX } from "./limits.ts";

/** Each in every form that it may be quoted in, with what is shown for it; oldest first. */
const kept = new Map<string, string>();

/** A signature, a signed header or the query of a presigned URL, up to its value; and a bare signature. */
const SIGNED =
  /((?:authorization|credential|signature|security-token)["']?\s*[=:]\s*["']?)[^\s,&;"'<>]+/gi;
const SIGNATURE = /\b[0-9a-f]{64}\b/gi;

/** Has `secret` hidden from now on; at most its `shownChars` last characters are shown. */
export function keepSecret(secret: string | undefined, shownChars = 0): void {
  // not one of a few letters: it would be found in every other word
  if (secret === undefined || secret.length < SECRET_CHARS_MIN) return;
  const shown = shownChars === 0 ? "***" : `****${secret.slice(-shownChars)}`;
  for (const form of new Set([secret, encodeURIComponent(secret), escapeXml(secret)])) {
    kept.delete(form);
    kept.set(form, shown);
  }
  for (const oldest of kept.keys()) {
    if (kept.size <= SECRETS_KEPT_MAX) return;
    kept.delete(oldest);
  }
}

/** The text, with what is shown for each secret in its place. */
export function withoutSecrets(text: string): string {
  let result = text;
  for (const [secret, shown] of kept) result = result.replaceAll(secret, shown);
  return result.replace(SIGNED, "$1***").replace(SIGNATURE, "***");
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
