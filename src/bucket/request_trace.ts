/** With `debug=1`, a line for each request to S3: what it came to, and after how long. */
import type { Clock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import type { Logger } from "../logger.ts";

/** Says what becomes of a request that is made now, an answer or an error. */
export function traceRequest(
  answer: Promise<{ status: number }>,
  request: string,
  clock: Clock,
  logger: Logger,
): void {
  const begunMs = clock.monotonic();
  const say = (outcome: number | string) =>
    logger.debug(() => `${request}: ${outcome}, ${(clock.monotonic() - begunMs).toFixed(1)} ms`);
  answer.then(({ status }) => say(status), (error) => say(messageOf(error)));
}
