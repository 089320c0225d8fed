/**
 * The SDK's client, set up for this program and for Deno; why is said at each setting.
 */
import { createHash } from "node:crypto";
import { S3Client } from "@aws-sdk/client-s3";
import { UsageError } from "../errors.ts";
import { KEY_ID_SHOWN_CHARS } from "../limits.ts";
import { keepSecret } from "../secrets.ts";
import type { FetchHandler } from "./s3_http.ts";

export interface S3Options {
  bucket: string;
  /** What all keys begin with; slashes at its ends are of no account. May be empty. */
  prefix: string;
  /** `http://host:port` of a server that is not AWS. */
  endpoint?: string;
  region?: string;
  /** Both, or neither: then the AWS default chain (environment, ~/.aws, instance role). */
  accessKeyId?: string;
  secretAccessKey?: string;
  sessionToken?: string;
  /** `host/bucket/key` instead of `bucket.host/key`. */
  pathStyle: boolean;
  /** For the segments of the log. */
  storageClass?: string;
}

/** As the AWS command line does it; us-east-1 is also what other servers expect in a signature. */
export function resolveRegion(options: S3Options): string {
  return options.region || Deno.env.get("AWS_REGION") || Deno.env.get("AWS_DEFAULT_REGION") ||
    "us-east-1";
}

/**
 * Another server than AWS, and the setting that names it. One that is named by endpoint_url in ~/.aws is known to the
 * SDK alone.
 *
 * @throws UsageError if what the environment names is no URL
 */
export function resolveEndpoint(options: S3Options): { setting: string; url: URL } | undefined {
  if (options.endpoint) return { setting: "ENDPOINT", url: new URL(options.endpoint) };
  const setting = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].find((name) => Deno.env.get(name));
  if (setting === undefined) return undefined;
  const url = URL.parse(Deno.env.get(setting)!);
  if (url && /^https?:$/.test(url.protocol)) return { setting, url };
  const allowed = "a URL such as https://s3.example.com or http://127.0.0.1:9000";
  throw new UsageError(`${setting} in the environment can't be what it is; allowed: ${allowed}`);
}

const silent = { debug() {}, info() {}, warn() {}, error() {}, trace() {} };

export function createClient(options: S3Options, requestHandler: FetchHandler): S3Client {
  let region = resolveRegion(options);
  const client = new S3Client({
    endpoint: options.endpoint,
    region: () => Promise.resolve(region),
    credentials: options.accessKeyId
      ? {
        accessKeyId: options.accessKeyId,
        secretAccessKey: options.secretAccessKey ?? "",
        sessionToken: options.sessionToken,
      }
      : undefined,
    forcePathStyle: options.pathStyle,
    followRegionRedirects: true,
    // Retrying is retrying_bucket.ts's, which signs afresh and has a deadline for each try.
    maxAttempts: 1,
    // A CRC nobody checks (radosgw) or needs (the signature covers the body) costs 3 ms for 4 MiB.
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    // A body of 2 MiB and more would wait for a word of the server first.
    expectContinueHeader: false,
    requestHandler,
    logger: silent,
    // goes to the default chain: when it looks again, it is to read ~/.aws again
    ...{ ignoreCache: true },
  });
  learnRegion(client, (found) => region = found);
  learnSecrets(client);
  addContentMd5(client);
  return client;
}

/**
 * Has the default chain look again, for keys that have expired or were replaced; one in config.ini stays what it is.
 * By itself the SDK does so only when the keys came with a date.
 */
export async function refreshCredentials(client: S3Client): Promise<void> {
  await client.config.credentials({ forceRefresh: true });
}

/**
 * S3 names the bucket's region in its answers. The SDK follows a redirect, but asks the wrong region again
 * each time, body and all; so the region is taken over from the first answer that names it.
 */
function learnRegion(client: S3Client, learn: (region: string) => void): void {
  client.middlewareStack.add(
    (next) => async (args) => {
      const result = await next(args);
      const headers = (result.response as { headers?: Record<string, string> }).headers;
      const region = headers?.["x-amz-bucket-region"];
      if (region) learn(region);
      return result;
    },
    { step: "deserialize", name: "learnRegion", priority: "low" },
  );
}

/** Wherever keys come from, they are known as secrets before anything is sent that is signed with them. */
function learnSecrets(client: S3Client): void {
  client.middlewareStack.add(
    (next) => async (args) => {
      const { accessKeyId, secretAccessKey, sessionToken } = await client.config.credentials();
      keepSecret(secretAccessKey);
      keepSecret(sessionToken);
      // not a secret, but half of what a signature needs
      keepSecret(accessKeyId, KEY_ID_SHOWN_CHARS);
      return await next(args);
    },
    { step: "build", name: "learnSecrets" },
  );
}

/** DeleteObjects with a CRC alone, as the SDK sends it, is refused by servers that know only Content-MD5. */
function addContentMd5(client: S3Client): void {
  client.middlewareStack.add(
    (next, context) => (args) => {
      if (context.commandName !== "DeleteObjectsCommand") return next(args);
      const request = args.request as {
        headers: Record<string, string>;
        body: string | Uint8Array;
      };
      request.headers["content-md5"] = createHash("md5").update(request.body).digest("base64");
      return next(args);
    },
    { step: "build", name: "addContentMd5", priority: "low" },
  );
}
