/**
 * Keys that are in no file: the machine has a role, and somebody near it hands out keys that change every few hours.
 *
 * Who hands them out is played by a server of ours, with the answers that AWS documents; what the keys open is a
 * real S3 server. That one knows no session tokens, so there the keys come without, and what becomes of one
 * is seen at a server that refuses everything.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { configText, Drive, PROGRAM } from "../support/drive.ts";
import { type FakeRequest, type FakeS3, startFakeS3 } from "../support/fake_s3.ts";
import { runProgram, runPython } from "../support/programs.ts";
import { Scratch } from "../support/scratch.ts";
import { type S3TestBucket, testInS3 } from "../support/test_buckets.ts";

interface Keys {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken: string;
}

/** One who hands out keys: the variables that lead to it, and what it answers. */
interface Source {
  env(endpoint: string, home: Scratch): Promise<Record<string, string>> | Record<string, string>;
  answer(request: FakeRequest, keys: Keys): string;
}

const EXPIRES = "2036-01-01T00:00:00Z";

function json({ accessKeyId, secretAccessKey, sessionToken }: Keys): string {
  return JSON.stringify({
    Code: "Success",
    Type: "AWS-HMAC",
    AccessKeyId: accessKeyId,
    SecretAccessKey: secretAccessKey,
    Token: sessionToken,
    LastUpdated: "2026-01-01T00:00:00Z",
    Expiration: EXPIRES,
  });
}

/** EC2's instance metadata, version 2: a session's token, the role's name, its keys. */
const INSTANCE: Source = {
  env: (endpoint) => ({ AWS_EC2_METADATA_SERVICE_ENDPOINT: endpoint }),
  answer({ method, path, headers }, keys) {
    if (method === "PUT" && path === "/latest/api/token") return "a-session";
    assertEquals(headers["x-aws-ec2-metadata-token"], "a-session");
    const role = "/latest/meta-data/iam/security-credentials/";
    if (path === role) return "disk-role";
    assertEquals(path, `${role}disk-role`);
    return json(keys);
  },
};

/** ECS, and EKS with Pod Identity. */
const CONTAINER: Source = {
  env: (endpoint) => ({
    AWS_CONTAINER_CREDENTIALS_FULL_URI: `${endpoint}/keys`,
    AWS_CONTAINER_AUTHORIZATION_TOKEN: "a-container",
  }),
  answer({ path, headers }, keys) {
    assertEquals([path, headers.authorization], ["/keys", "a-container"]);
    return json(keys);
  },
};

function stsAnswer(action: string, { accessKeyId, secretAccessKey, sessionToken }: Keys): string {
  return `<${action}Response><${action}Result><Credentials><AccessKeyId>${accessKeyId}</AccessKeyId>
    <SecretAccessKey>${secretAccessKey}</SecretAccessKey><SessionToken>${sessionToken}</SessionToken>
    <Expiration>${EXPIRES}</Expiration></Credentials></${action}Result></${action}Response>`;
}

const ROLE = "arn:aws:iam::123456789012:role/disk-role";

/** EKS with a role of the service account: a token in a file is changed for keys by STS. */
const WEB_IDENTITY: Source = {
  env: async (endpoint, home) => ({
    AWS_ENDPOINT_URL_STS: endpoint,
    AWS_ROLE_ARN: ROLE,
    AWS_WEB_IDENTITY_TOKEN_FILE: await home.write("token", "a-service-account"),
  }),
  answer({ body }, keys) {
    assertStringIncludes(body, "Action=AssumeRoleWithWebIdentity&");
    assertStringIncludes(body, "WebIdentityToken=a-service-account");
    return stsAnswer("AssumeRoleWithWebIdentity", keys);
  },
};

/** A profile in ~/.aws that takes another one's keys to STS. */
const PROFILE: Source = {
  async env(endpoint, home) {
    await Deno.mkdir(home.file(".aws"));
    await home.write(".aws/credentials", "[me]\naws_access_key_id=AKME\naws_secret_access_key=s\n");
    const profile = `[profile disk]\nrole_arn=${ROLE}\nsource_profile=me\nregion=us-east-1\n`;
    await home.write(".aws/config", profile);
    return { AWS_PROFILE: "disk", AWS_ENDPOINT_URL_STS: endpoint };
  },
  answer({ body, headers }, keys) {
    assertStringIncludes(headers.authorization, "Credential=AKME/");
    assertStringIncludes(body, "Action=AssumeRole&");
    return stsAnswer("AssumeRole", keys);
  },
};

/** Who has signed in by `aws sso login`, so long ago that the token is to be had anew. */
const SINGLE_SIGN_ON: Source = {
  async env(endpoint, home) {
    await Deno.mkdir(home.file(".aws/sso/cache"), { recursive: true });
    const session = "sso_start_url=https://sign.in\nsso_region=us-east-1";
    const account = "sso_session=us\nsso_account_id=123456789012\nsso_role_name=disk-role";
    await home.write(".aws/config", `[sso-session us]\n${session}\n[profile disk]\n${account}\n`);
    const name = await crypto.subtle.digest("SHA-1", new TextEncoder().encode("us"));
    const token = {
      ...{ accessToken: "old", expiresAt: "2026-01-01T00:00:00Z", refreshToken: "refresh" },
      ...{ clientId: "id", clientSecret: "secret", registrationExpiresAt: EXPIRES },
    };
    const cache = `.aws/sso/cache/${new Uint8Array(name).toHex()}.json`;
    await home.write(cache, JSON.stringify(token));
    const endpoints = { AWS_ENDPOINT_URL_SSO: endpoint, AWS_ENDPOINT_URL_SSO_OIDC: endpoint };
    return { AWS_PROFILE: "disk", ...endpoints };
  },
  answer({ path, headers }, keys) {
    if (path === "/token") return JSON.stringify({ accessToken: "new", expiresIn: 3600 });
    assert(path.startsWith("/federation/credentials?"), path);
    assertEquals(headers["x-amz-sso_bearer_token"], "new");
    return JSON.stringify({ roleCredentials: { ...keys, expiration: Date.parse(EXPIRES) } });
  },
};

const WRITE_AND_FLUSH = `
drive = nbd.NBD()
drive.connect_uri(uri)
drive.pwrite(b"x" * 4096, 0)
drive.flush()
`;

function startSource(source: Source, keys: Keys): Promise<FakeS3> {
  return startFakeS3((request) => ({ body: source.answer(request, keys) }));
}

/** A drive that has its keys from nowhere else. */
async function startDrive(bucket: S3TestBucket, source: Source, endpoint: string, home: Scratch) {
  const config = configText({ bucket, size: "16M" }).replaceAll(/^AWS_.*\n/gm, "");
  return await Drive.startWith(config, [], {
    HOME: home.path,
    ...await source.env(endpoint, home),
  });
}

const SOURCES = { "an EC2 instance": INSTANCE, "a container": CONTAINER };
const MORE_SOURCES = {
  ...SOURCES,
  "a service account": WEB_IDENTITY,
  "a profile": PROFILE,
  "a single sign-on": SINGLE_SIGN_ON,
};

testInS3(Object.fromEntries(
  Object.entries(SOURCES).map(([name, source]) => [
    `the keys of ${name}'s role open the bucket, and the next ones are taken up`,
    async (bucket: S3TestBucket) => {
      const { ceph } = bucket;
      const { accessKeyId, secretAccessKey } = ceph;
      const keys = { accessKeyId, secretAccessKey, sessionToken: "" };
      await using role = await startSource(source, keys);
      await using home = await Scratch.make();
      await using drive = await startDrive(bucket, source, role.endpoint, home);
      await runPython(WRITE_AND_FLUSH, [drive.uri]);

      const asked = role.requests.length;
      assert(asked > 0);
      const key = "--uid=test --key-type=s3";
      await ceph.admin(`key create ${key} --access-key=next --secret-key=fresh`);
      Object.assign(keys, { accessKeyId: "next", secretAccessKey: "fresh" });
      await ceph.admin(`key rm ${key} --access-key=${accessKeyId}`);
      try {
        await runPython(WRITE_AND_FLUSH, [drive.uri]);
        assert(role.requests.length > asked);
        await drive.stopClean();
      } finally {
        await ceph.admin(
          `key create ${key} --access-key=${accessKeyId} --secret-key=${secretAccessKey}`,
        );
      }
    },
  ]),
));

for (const [name, source] of Object.entries(MORE_SOURCES)) {
  Deno.test(`the session token of ${name}'s role goes along with its keys`, async () => {
    const keys = { accessKeyId: "AKROLE", secretAccessKey: "secret", sessionToken: "a-token" };
    await using role = await startSource(source, keys);
    await using s3 = await startFakeS3(() => ({ status: 403 }));
    await using home = await Scratch.make();
    const config = `[s3]\nBUCKET=disk\nVOLUMESIZE=16M\nENDPOINT=${s3.endpoint}\n` +
      "[server]\nsocket=nbd.sock\n";
    const file = await home.write("config.ini", config);
    const env = { HOME: home.path, ...await source.env(role.endpoint, home) };
    const { code, stderr } = await runProgram(PROGRAM, ["-c", file], { cwd: home.path, env });
    assertEquals(code, 2, stderr);
    const { headers } = s3.requests[0];
    assertEquals(headers["x-amz-security-token"], "a-token");
    assertStringIncludes(headers.authorization, "Credential=AKROLE/");
  });
}
