/** open_s3.ts ENDPOINT: opens a bucket there with the keys that the AWS default chain finds, and says what came of it. */
import { S3Bucket } from "../../src/bucket/s3_bucket.ts";
import { systemClock } from "../../src/clock.ts";
import { UnavailableError } from "../../src/errors.ts";
import { silentLogger } from "../../src/logger.ts";

let outcome = "opened";
try {
  const options = { bucket: "drive", prefix: "", endpoint: Deno.args[0], pathStyle: true };
  const bucket = await S3Bucket.open(options, { clock: systemClock, logger: silentLogger });
  bucket.close();
} catch (error) {
  const { name, message, permanent } = error as UnavailableError;
  outcome = `${name}${permanent ? " (permanent)" : ""}: ${message}`;
}
Deno.stdout.writeSync(new TextEncoder().encode(`${outcome}\n`));
