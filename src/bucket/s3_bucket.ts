/**
 * A bucket in S3, or any server that speaks its protocol, by the AWS SDK.
 *
 * Each call is one request, without a retry or a deadline of its own: those are retrying_bucket.ts's.
 * (The SDK's `maxAttempts: 1` keeps its correction of a wrong clock: it is made when the error is seen, for
 * every later request of the client.) The signal ends a request and closes its connection.
 *
 * Checksums of bodies are left to TLS, over HTTP to the signature, which covers the body's SHA-256, and to the
 * CRC-32 of every record.
 *
 * ETags are kept without quotes. `If-Match` wants them with, by RFC 9110; Ceph's gateway (radosgw 16, and
 * DigitalOcean Spaces, which is one) compares the header as it stands with the bare ETag and says 412. So
 * the first 412 is looked into: if the object has the very ETag that was asked for, the bare form is tried,
 * and whichever form the server was first seen to accept is used from then on. No harm can come
 * of it: the store decides each time, and a 412 has stored nothing.
 */
import {
  CreateBucketCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  type StorageClass,
} from "@aws-sdk/client-s3";
import type { Clock } from "../clock.ts";
import { noVolumeIn, UnavailableError, UsageError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { KEYS_MAX } from "../limits.ts";
import type { Access, Bucket, ByteRange, FoundObject, PutCondition, PutResult } from "./bucket.ts";
import { ConditionRefusedError } from "./bucket.ts";
import { HttpClient } from "./http_client.ts";
import type { HttpAnswer } from "./http_connection.ts";
import { partOf, readBody } from "./s3_body.ts";
import {
  createClient,
  refreshCredentials,
  resolveEndpoint,
  resolveRegion,
  type S3Options,
} from "./s3_client.ts";
import { DirectRequests } from "./s3_direct.ts";
import {
  clockFault,
  codeOf,
  isKeyRefused,
  mayRefuseCondition,
  type Operation,
  s3Failure,
  statusOf,
  type Target,
} from "./s3_errors.ts";
import { FetchHandler, type HandleOptions } from "./s3_http.ts";

export type { S3Options } from "./s3_client.ts";

export class S3Bucket implements Bucket {
  readonly name: string;
  readonly #options: S3Options;
  readonly #client: S3Client;
  readonly #http: HttpClient;
  readonly #direct: DirectRequests;
  readonly #prefix: string;
  readonly #target: Target;
  readonly #logger: Logger;
  #ifMatchForm: "unknown" | "quoted" | "bare" = "unknown";
  #clockWarned = false;

  private constructor(options: S3Options, deps: { clock: Clock; logger: Logger }) {
    this.#prefix = normalisePrefix(options.prefix);
    this.name = nameOf(options);
    this.#options = options;
    this.#client = createClient(options, new FetchHandler(deps.clock, deps.logger));
    this.#http = new HttpClient(deps.clock);
    this.#direct = new DirectRequests(this.#client, this.#http, deps.clock, deps.logger);
    this.#logger = deps.logger;
    this.#target = {
      name: targetName(options),
      bucket: options.bucket,
      region: resolveRegion(options),
      hostSetting: hostSettingOf(options),
      clock: deps.clock,
    };
  }

  /**
   * Checks that the bucket is there and answers to these keys, and creates it if there is none (and it may).
   * Throws `UnavailableError`, and `UsageError` if it can't be, or its name belongs to somebody else.
   */
  static async open(
    options: S3Options,
    deps: { clock: Clock; logger: Logger; access?: Access },
    signal?: AbortSignal,
  ): Promise<S3Bucket> {
    const bucket = new S3Bucket(options, deps);
    try {
      if (!await bucket.#isThere(signal)) {
        if ((deps.access ?? "create") !== "create") throw noVolumeIn(bucket.#target.name);
        await bucket.#create(signal);
        if (!await bucket.#isThere(signal)) {
          throw new UnavailableError(`${bucket.#target.name} was created but is not there yet`);
        }
      }
      return bucket;
    } catch (error) {
      bucket.close();
      throw error;
    }
  }

  async get(key: string, range?: ByteRange, signal?: AbortSignal): Promise<FoundObject | null> {
    if (range?.length === 0) return await this.#headAsEmpty(key, signal);
    const Range = range && `bytes=${range.offset}-${range.offset + range.length - 1}`;
    const headers: Record<string, string> = Range ? { range: Range } : {};
    try {
      const direct = await this.#direct.send("GET", this.#prefix + key, headers, undefined, signal);
      if (direct && isSuccess(direct)) return foundIn(direct, range);
      const command = new GetObjectCommand({ ...this.#at(key), Range });
      const answer = await this.#client.send(command, sendOptions(signal, direct));
      const { ContentLength: length, ContentRange } = answer;
      const body = answer.Body as unknown as ReadableStream<Uint8Array>;
      const found = await readBody({ body, length, range: ContentRange }, range, signal);
      return { ...found, etag: bare(answer.ETag) };
    } catch (error) {
      if (codeOf(error) === "NoSuchKey") return null;
      // The range lies behind the end (or the object is empty); the answer rarely says its size and ETag.
      if (statusOf(error) === 416) return await this.#headAsEmpty(key, signal);
      throw this.#failure(error, { what: `read ${key}`, permission: "s3:GetObject" }, signal);
    }
  }

  async put(
    key: string,
    bytes: Uint8Array,
    condition?: PutCondition,
    signal?: AbortSignal,
  ): Promise<PutResult> {
    if (!condition) return await this.#put(key, bytes, {}, signal);
    if ("ifAbsent" in condition) return await this.#put(key, bytes, { IfNoneMatch: "*" }, signal);
    const etag = condition.ifMatch;
    if (this.#ifMatchForm !== "bare") {
      const result = await this.#put(key, bytes, { IfMatch: `"${etag}"` }, signal);
      if (result.stored) this.#ifMatchForm = "quoted";
      if (result.stored || this.#ifMatchForm === "quoted") return result;
      if ((await this.#head(key, signal))?.etag !== etag) return result;
    }
    const result = await this.#put(key, bytes, { IfMatch: etag }, signal);
    if (result.stored) this.#ifMatchForm = "bare";
    return result;
  }

  prepare(bytes: Uint8Array): Promise<void> {
    return this.#direct.prepare(bytes);
  }

  async delete(keys: string[], signal?: AbortSignal): Promise<void> {
    if (keys.length === 0) return;
    const operation = {
      what: `delete ${keys[0]}${keys.length > 1 ? ` and ${keys.length - 1} more` : ""}`,
      permission: "s3:DeleteObject",
    };
    const command = new DeleteObjectsCommand({
      Bucket: this.#options.bucket,
      Delete: { Objects: keys.map((key) => ({ Key: this.#prefix + key })), Quiet: true },
    });
    const answer = await this.#send(() => this.#client.send(command, { abortSignal: signal }), {
      ...operation,
      signal,
    });
    // A key that is not there is no error, except to servers that say so here.
    const failed = answer.Errors?.find((error) => error.Code !== "NoSuchKey");
    if (!failed) return;
    const error = {
      Code: failed.Code,
      message: failed.Message,
      $metadata: { httpStatusCode: 200 },
    };
    throw s3Failure(error, { ...operation, what: `delete ${failed.Key}` }, this.#target);
  }

  async list(prefix: string, startAfter?: string, signal?: AbortSignal): Promise<string[]> {
    const command = new ListObjectsV2Command({
      Bucket: this.#options.bucket,
      Prefix: this.#prefix + prefix,
      StartAfter: startAfter ? this.#prefix + startAfter : undefined,
      MaxKeys: KEYS_MAX,
    });
    const answer = await this.#send(
      () => this.#client.send(command, { abortSignal: signal }),
      { what: `list ${prefix}*`, permission: "s3:ListBucket", signal },
    );
    return (answer.Contents ?? []).map(({ Key }) => Key!.slice(this.#prefix.length));
  }

  close(): void {
    this.#client.destroy();
    this.#http.close();
  }

  // ---- opening

  /** `again`: the SDK's correction of a wrong clock lives in this client, so the second try must be here. */
  async #isThere(signal?: AbortSignal, again = false): Promise<boolean> {
    const command = new ListObjectsV2Command({
      Bucket: this.#options.bucket,
      Prefix: this.#prefix,
      MaxKeys: 1,
    });
    try {
      await this.#client.send(command, { abortSignal: signal });
      return true;
    } catch (error) {
      if (codeOf(error) === "NoSuchBucket") return false;
      const operation = { what: "open the bucket", permission: "s3:ListBucket" };
      const failure = this.#failure(error, operation, signal);
      if (codeOf(error) === "RequestTimeTooSkewed" && !again) return this.#isThere(signal, true);
      throw failure;
    }
  }

  async #create(signal?: AbortSignal): Promise<void> {
    try {
      // In the client's region: the SDK sends it as LocationConstraint, except us-east-1, which S3 refuses there.
      await createBucket(this.#client, this.#options.bucket, signal).catch(async (error) => {
        // Other servers know no regions, or others: there REGION is but a word of the signature.
        if (codeOf(error) !== "InvalidLocationConstraint" || !this.#options.endpoint) throw error;
        const handler = new FetchHandler(this.#target.clock, this.#logger);
        const client = createClient({ ...this.#options, region: "us-east-1" }, handler);
        await createBucket(client, this.#options.bucket, signal).finally(() => client.destroy());
      });
      this.#logger.info(`created bucket ${this.#options.bucket} (${this.#target.name})`);
    } catch (error) {
      if (codeOf(error) === "BucketAlreadyOwnedByYou") return;
      const operation = { what: "create the bucket", permission: "s3:CreateBucket" };
      const failure = this.#failure(error, operation, signal);
      if (codeOf(error) === "BucketAlreadyExists") throw new UsageError((failure as Error).message);
      throw failure;
    }
  }

  // ---- one request

  #at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#options.bucket, Key: this.#prefix + key };
  }

  async #put(
    key: string,
    bytes: Uint8Array,
    condition: { IfMatch?: string; IfNoneMatch?: string },
    signal?: AbortSignal,
  ): Promise<PutResult> {
    // The log is what there is much of; the small objects beside it are rewritten too often for a
    // class that bills at least 30 days.
    const StorageClass = key.startsWith("log/")
      ? this.#options.storageClass as StorageClass
      : undefined;
    const headers: Record<string, string> = {};
    if (condition.IfMatch) headers["if-match"] = condition.IfMatch;
    if (condition.IfNoneMatch) headers["if-none-match"] = condition.IfNoneMatch;
    if (StorageClass) headers["x-amz-storage-class"] = StorageClass;
    try {
      const direct = await this.#direct.send("PUT", this.#prefix + key, headers, bytes, signal);
      if (direct && isSuccess(direct)) return { stored: true, etag: bare(direct.headers.etag) };
      const command = new PutObjectCommand({
        ...this.#at(key),
        ...condition,
        Body: bytes,
        StorageClass,
      });
      const answer = await this.#client.send(command, sendOptions(signal, direct));
      return { stored: true, etag: bare(answer.ETag) };
    } catch (error) {
      if (statusOf(error) === 412) return { stored: false };
      // What AWS says to If-Match on a key that is not there.
      if (condition.IfMatch && codeOf(error) === "NoSuchKey") return { stored: false };
      const failure = this.#failure(error, {
        what: `write ${key}`,
        permission: "s3:PutObject",
        storageClass: StorageClass,
      }, signal);
      const isConditional = condition.IfMatch || condition.IfNoneMatch;
      if (!isConditional || !mayRefuseCondition(error) || signal?.aborted) throw failure;
      throw new ConditionRefusedError((failure as Error).message, { cause: error });
    }
  }

  async #head(key: string, signal?: AbortSignal): Promise<{ size: number; etag: string } | null> {
    const command = new HeadObjectCommand(this.#at(key));
    try {
      const answer = await this.#client.send(command, { abortSignal: signal });
      return { size: answer.ContentLength!, etag: bare(answer.ETag) };
    } catch (error) {
      if (statusOf(error) === 404) return null;
      throw this.#failure(error, { what: `look at ${key}`, permission: "s3:GetObject" }, signal);
    }
  }

  async #headAsEmpty(key: string, signal?: AbortSignal): Promise<FoundObject | null> {
    const head = await this.#head(key, signal);
    return head && { bytes: new Uint8Array(0), ...head };
  }

  async #send<T>(
    send: () => Promise<T>,
    operation: Operation & { signal?: AbortSignal },
  ): Promise<T> {
    try {
      return await send();
    } catch (error) {
      throw this.#failure(error, operation, operation.signal);
    }
  }

  #failure(error: unknown, operation: Operation, signal?: AbortSignal): unknown {
    if (signal?.aborted) return signal.reason;
    if (codeOf(error) === "RequestTimeTooSkewed" && !this.#clockWarned) {
      this.#clockWarned = true;
      this.#logger.warn(
        `${clockFault(error, this.#target.clock)} (${this.#target.name}); ` +
          "requests are signed with the server's time from now on",
      );
    }
    // for the next try; if it can't, that fails as this one did
    if (isKeyRefused(error)) refreshCredentials(this.#client).catch(() => {});
    return s3Failure(error, operation, this.#target);
  }
}

/** `s3://bucket/prefix` */
function nameOf({ bucket, prefix }: S3Options): string {
  return `s3://${bucket}/${normalisePrefix(prefix)}`.replace(/\/$/, "");
}

/** The same with the server, for messages about reaching it. */
export function targetName(options: S3Options): string {
  const endpoint = resolveEndpoint(options);
  return `${nameOf(options)} at ${endpoint ? `${endpoint.setting} ${endpoint.url.origin}` : "AWS"}`;
}

/** What to check when the host is not to be had. */
function hostSettingOf(options: S3Options): string {
  const setting = resolveEndpoint(options)?.setting;
  if (setting === undefined) {
    return `the region "${resolveRegion(options)}" (REGION or AWS_REGION), AWS_ENDPOINT_URL`;
  }
  return options.pathStyle ? setting : `${setting}, PATH_STYLE`;
}

/** For a command of the SDK's; `direct` is what it has been answered already, if it has. */
function sendOptions(signal?: AbortSignal, direct?: HttpAnswer): { abortSignal?: AbortSignal } {
  const options: HandleOptions = { abortSignal: signal, answers: direct && [direct] };
  return options as { abortSignal?: AbortSignal };
}

function isSuccess({ status }: HttpAnswer): boolean {
  return status >= 200 && status < 300;
}

function foundIn({ headers, body }: HttpAnswer, range?: ByteRange): FoundObject {
  if (headers["content-length"] === undefined) {
    throw new Error("the server announces no Content-Length");
  }
  return { ...partOf(body, headers["content-range"], range), etag: bare(headers.etag) };
}

async function createBucket(client: S3Client, bucket: string, signal?: AbortSignal): Promise<void> {
  await client.send(new CreateBucketCommand({ Bucket: bucket }), { abortSignal: signal });
}

/** "/a//b/" becomes "a/b/", and nothing stays nothing. */
function normalisePrefix(prefix: string): string {
  const parts = prefix.split("/").filter((part) => part !== "");
  return parts.map((part) => `${part}/`).join("");
}

function bare(etag: string | undefined): string {
  return (etag ?? "").replace(/^"|"$/g, "");
}
