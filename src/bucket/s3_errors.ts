/**
 * What went wrong with S3, in one line that says what was asked, of whom, what was answered, and, where
 * only a person can help, what to do.
 *
 * Everything is an `UnavailableError`; `permanent` is true where trying again can't help by itself
 * (keys, permissions, region, no such bucket, no such host). An unreachable endpoint is not permanent, though it may
 * be a slip of the pen: it is what an outage looks like.
 */
import type { Clock } from "../clock.ts";
import { messageOf, UnavailableError } from "../errors.ts";
import { oneLine } from "../logger.ts";
import { withoutSecrets } from "../secrets.ts";

/** What was being done, for the message. */
export interface Operation {
  /** As in "can't ... ": `read log/0000000001`. */
  what: string;
  /** The permission it needs, as IAM names it: `s3:GetObject`. */
  permission: string;
  /** The one a put asked for. */
  storageClass?: string;
}

/** Of what it was asked. */
export interface Target {
  /** `s3://bucket/prefix at ENDPOINT http://127.0.0.1:9000` */
  name: string;
  bucket: string;
  region: string;
  /** What says which host it is, as in "check ...": `ENDPOINT`. */
  hostSetting: string;
  clock: Clock;
}

/** The parts that errors of the SDK and of fetch have; each may be missing. */
interface SdkError {
  name?: string;
  message?: string;
  Code?: string;
  Region?: string;
  cause?: unknown;
  $metadata?: { httpStatusCode?: number; clockSkewCorrected?: boolean };
  $response?: { statusCode?: number; headers?: Record<string, string> };
}

interface Explanation {
  text: string;
  permanent: boolean;
}

/** HTTP status of an error, if S3 answered at all. */
export function statusOf(error: unknown): number | undefined {
  const { $metadata, $response } = error as SdkError;
  return $metadata?.httpStatusCode ?? $response?.statusCode;
}

/** S3's own code (`NoSuchKey`), or the class. */
export function codeOf(error: unknown): string {
  const { Code, name } = error as SdkError;
  return Code ?? name ?? "Error";
}

/** True if the key itself was refused, whatever it may do: another one may be had by now. */
export function isKeyRefused(error: unknown): boolean {
  const code = codeOf(error);
  return ADVICE[code] === newToken || code === "InvalidAccessKeyId" ||
    code === "SignatureDoesNotMatch";
}

/**
 * True if a store that does not know conditions may answer this to a put with one: OpenStack Swift says 501, others
 * find an argument that they don't know, or take the method for what does not fit.
 */
export function mayRefuseCondition(error: unknown): boolean {
  const status = statusOf(error);
  const codes = ["NotImplemented", "InvalidArgument", "InvalidRequest"];
  return status === 501 || status === 405 || (status === 400 && codes.includes(codeOf(error)));
}

/**
 * What RequestTimeTooSkewed means: this machine's clock is off, or was, and the SDK's correction is out of date.
 */
export function clockFault(error: unknown, clock: Clock): string {
  const aheadS = clockAheadS(error, clock);
  if (Number.isNaN(aheadS)) return "this machine's clock and the server's differ";
  if (isClockRight(error, clock)) return "this machine's clock was off until now";
  const side = aheadS > 0 ? "ahead of" : "behind";
  return `this machine's clock is ${Math.abs(aheadS)} s ${side} the server's: set it`;
}

/** By how many seconds this machine's clock is ahead of what the answer says; NaN if it says nothing. */
function clockAheadS(error: unknown, clock: Clock): number {
  const serverMs = Date.parse((error as SdkError).$response?.headers?.date ?? "");
  return Math.round((clock.now() - serverMs) / 1000);
}

/** S3 allows 15 minutes. */
function isClockRight(error: unknown, clock: Clock): boolean {
  return Math.abs(clockAheadS(error, clock)) < 60;
}

export function s3Failure(error: unknown, operation: Operation, target: Target): UnavailableError {
  const { text, permanent } = explain(error as SdkError, operation, target);
  const message = `can't ${operation.what} (${target.name}): ${text}`.replace(/\s+/g, " ");
  // a server may say whatever it was sent
  return new UnavailableError(oneLine(withoutSecrets(message)), permanent, { cause: error });
}

function explain(error: SdkError, operation: Operation, target: Target): Explanation {
  const answered = statusOf(error) !== undefined;
  return answered ? explainAnswer(error, operation, target) : explainSilence(error, target);
}

// ---- S3 answered with an error

function explainAnswer(error: SdkError, operation: Operation, target: Target): Explanation {
  const code = codeOf(error);
  const status = statusOf(error)!;
  const advice = ADVICE[code] ?? (status === 403 ? ADVICE.AccessDenied : undefined);
  // The SDK writes "UnknownError" where the server gave no message.
  const said = error.message && error.message !== "UnknownError" && error.message !== code
    ? `: ${error.message}`
    : "";
  if (advice) {
    const { text, permanent = true } = advice(error, operation, target);
    return { text: `${code}${said}; ${text}`, permanent };
  }
  if (status === 301 || status === 307) {
    return { text: regionAdvice(error, target), permanent: true };
  }
  if (status === 501 || status === 405) {
    return {
      text: `${code}${said}; the server does not know this request (HTTP ${status})`,
      permanent: true,
    };
  }
  return { text: `HTTP ${status} ${code}${said}`, permanent: false };
}

type Advice = (
  error: SdkError,
  operation: Operation,
  target: Target,
) => { text: string; permanent?: boolean };

const newToken: Advice = () => ({
  text: "the session token is not valid (any more): get new temporary credentials",
});
const badRegion: Advice = (error, _, target) => ({ text: regionAdvice(error, target) });
const badStorageClass: Advice = (_, { storageClass }) => ({
  text: `the server may not know STORAGE_CLASS=${storageClass}`,
});

/** By S3's code ("Error responses" in the S3 API reference, and radosgw's). */
const ADVICE: Record<string, Advice> = {
  InvalidAccessKeyId: () => ({
    text: "the server does not know this key: check AWS_ACCESS_KEY_ID",
  }),
  SignatureDoesNotMatch: () => ({
    text: "the secret does not belong to the access key: check AWS_SECRET_ACCESS_KEY",
  }),
  AccessDenied: (_, { permission }, { bucket }) => ({
    text: `this access key needs the permission ${permission} on bucket ${bucket}`,
  }),
  // radosgw's word
  UserSuspended: () => ({ text: "the user of this access key is suspended" }),
  AllAccessDisabled: () => ({ text: "the account or bucket is closed" }),
  RequestTimeTooSkewed: (error, _, { clock }) => ({
    text: clockFault(error, clock),
    // The SDK takes over the server's time, so the next try is likely to pass. It says so unless that is ours.
    permanent: !error.$metadata?.clockSkewCorrected && !isClockRight(error, clock),
  }),
  ExpiredToken: newToken,
  InvalidToken: newToken,
  TokenRefreshRequired: newToken,
  NoSuchBucket: (_, __, { bucket }) => ({ text: `there is no bucket ${bucket} (any more)` }),
  InvalidBucketName: (_, __, { bucket }) => ({
    text: `"${bucket}" can't be the name of a bucket: 3 to 63 of a-z, 0-9, "-" and "."`,
  }),
  PermanentRedirect: badRegion,
  AuthorizationHeaderMalformed: badRegion,
  IllegalLocationConstraintException: badRegion,
  InvalidLocationConstraint: badRegion,
  InvalidStorageClass: badStorageClass,
  // radosgw's word for the same; without a class it is some other argument.
  InvalidArgument: (error, operation, target) =>
    operation.storageClass
      ? badStorageClass(error, operation, target)
      : { text: "the server does not take this request", permanent: false },
  InvalidObjectState: () => ({
    text:
      "the object lies in an archive: restore it, and choose a STORAGE_CLASS that is read at once",
  }),
  QuotaExceeded: () => ({ text: "the quota is used up", permanent: false }),
  BucketAlreadyExists: (_, __, { bucket }) => ({
    text: `the bucket name ${bucket} belongs to somebody else: choose another BUCKET`,
  }),
};

function regionAdvice(error: SdkError, target: Target): string {
  const region = error.Region ?? error.$response?.headers?.["x-amz-bucket-region"];
  return region
    ? `the bucket is in region ${region}: set REGION=${region}`
    : `region "${target.region}" is not the bucket's, or not one of this server: check REGION and ENDPOINT`;
}

// ---- no answer

/** glibc's word for a name that the name server says is none; one that can't be asked has another. */
const NO_SUCH_NAME = /Name or service not known/;

/** Errors of the network have no codes: what their text holds, and what it means; SETTING is where the host is from. */
const NETWORK: [RegExp, string][] = [
  [
    /dns error|failed to lookup address/,
    "the host name is not known: check SETTING and the name server",
  ],
  [/Connection refused/, "nobody listens there: check SETTING"],
  [/Connection reset|Broken pipe|closed before message|SendRequest/, "the connection was cut"],
  [/timed out/, "no connection in time"],
  [/No route to host|Network is unreachable/, "there is no way to the host"],
  [
    /certificate/i,
    "the server's certificate is not accepted; a private CA is named by DENO_CERT=FILE, the system's by " +
    "DENO_TLS_CA_STORE=system",
  ],
  [
    /InvalidContentType|corrupt message/,
    "no TLS is spoken there: should ENDPOINT begin with http://?",
  ],
];

function explainSilence(error: SdkError, { hostSetting, region }: Target): Explanation {
  const code = codeOf(error);
  const said = messageOf(error);
  if (said.startsWith("Region not accepted")) {
    const allowed = "allowed in REGION, AWS_REGION or AWS_DEFAULT_REGION: such as eu-central-1";
    return { text: `"${region}" is no region; ${allowed}`, permanent: true };
  }
  if (code === "CredentialsProviderError" || code === "TokenProviderError") {
    return {
      // Of a credential_process the chain says nothing: starting programs is not among our permissions.
      text:
        `no credentials (${said}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in config.ini, or ` +
        "use the environment, ~/.aws (a credential_process is not run) or an instance role",
      permanent: true,
    };
  }
  const reason = said.replace(
    /^error sending request (for url|from .* for) .*?: (client error )?/,
    "",
  );
  const known = NETWORK.find(([text]) => text.test(said));
  const text = known ? `${known[1].replace("SETTING", hostSetting)} (${reason})` : said;
  return { text, permanent: NO_SUCH_NAME.test(said) };
}
