/**
 * Asks a drive how it is. Through node:http, for fetch would ask a proxy that the environment names.
 */
import { get } from "node:http";
import type { StatusAddress } from "../config_kinds.ts";
import { messageOf } from "../errors.ts";
import { STATUS_ANSWER_MS_MAX } from "../limits.ts";
import type { StatusReport } from "./report.ts";

/** A report; or why there is none: a drive that is opening its volume says so, nobody says nothing. */
export type Answer =
  | { kind: "report"; report: StatusReport }
  | { kind: "opening"; why: string }
  | { kind: "none"; why: string };

export async function askStatus(address: StatusAddress): Promise<Answer> {
  try {
    const { code, text } = await getText(address);
    if (code === 200) return { kind: "report", report: JSON.parse(text) };
    if (code === 503) return { kind: "opening", why: text.trim() };
    return { kind: "none", why: `what answers there is no drive: HTTP ${code}` };
  } catch (error) {
    if (error instanceof SyntaxError) {
      return { kind: "none", why: "what answers there is no drive: not JSON" };
    }
    const isRefused = (error as { code?: string }).code === "ECONNREFUSED";
    return { kind: "none", why: isRefused ? "nobody listens there" : messageOf(error) };
  }
}

function getText({ hostname, port }: StatusAddress): Promise<{ code: number; text: string }> {
  // what is served on every address is served on this machine's own
  const host = { "0.0.0.0": "127.0.0.1", "::": "::1" }[hostname] ?? hostname;
  return new Promise((resolve, reject) => {
    const options = {
      host,
      port,
      path: "/status.json",
      agent: false,
      timeout: STATUS_ANSWER_MS_MAX,
    };
    const request = get(options, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part: string) => text += part);
      response.on("end", () => resolve({ code: response.statusCode ?? 0, text }));
      response.on("error", reject);
    });
    request.on("timeout", () => {
      // before it is destroyed, which fails it, too
      reject(new Error(`no answer within ${STATUS_ANSWER_MS_MAX / 1000} s`));
      request.destroy();
    });
    request.on("error", reject);
  });
}
