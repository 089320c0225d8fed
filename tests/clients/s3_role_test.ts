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

/** EKS with a role of the service account: a token in a file is changed for keys by STS. */
const WEB_IDENTITY: Source = {
  env: async (endpoint, home) => ({
    AWS_ENDPOINT_URL_STS: endpoint,
    AWS_ROLE_ARN: "arn:aws:iam::123456789012:role/disk-role",
    AWS_WEB_IDENTITY_TOKEN_FILE: await home.write("token", "a-service-account"),
  }),
  answer({ body }, keys) {
    assertStringIncludes(body, "Action=AssumeRoleWithWebIdentity");
    assertStringIncludes(body, "WebIdentityToken=a-service-account");
    return `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
      <AccessKeyId>${keys.accessKeyId}</AccessKeyId>
      <SecretAccessKey>${keys.secretAccessKey}</SecretAccessKey>
      <SessionToken>${keys.sessionToken}</SessionToken><Expiration>${EXPIRES}</Expiration>
      </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`;
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

for (const [name, source] of Object.entries({ ...SOURCES, "a service account": WEB_IDENTITY })) {
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
