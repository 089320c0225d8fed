/**
 * The two homes a drive can have, for tests that are to hold for both: a directory and a bucket of a real S3
 * server, each empty at first and removed at the end.
 */
import { S3Bucket } from "../../src/bucket/s3_bucket.ts";
import { systemClock } from "../../src/clock.ts";
import { silentLogger } from "../../src/logger.ts";
import { keysBelow } from "./bucket_contract.ts";
import { type Ceph, startCeph } from "./ceph.ts";

export interface StoredObject {
  key: string;
  size: number;
  /** Another one after every put, even of the same bytes. */
  version: string;
}

export interface TestBucket extends AsyncDisposable {
  /** As the program names it in what it prints. */
  readonly name: string;
  /** Lines of `[s3]` that lead to it. */
  readonly config: string;
  readonly kind: "directory" | "s3";
  /** Objects whose keys begin with `prefix`. */
  objects(prefix?: string): Promise<StoredObject[]>;
  /** The bytes of an object. */
  read(key: string): Promise<Uint8Array>;
  /** Gives an object other bytes. */
  write(key: string, bytes: Uint8Array): Promise<void>;
}

export class DirectoryTestBucket implements TestBucket {
  readonly kind = "directory";

  private constructor(readonly path: string) {}

  static async make(): Promise<DirectoryTestBucket> {
    return new DirectoryTestBucket(await Deno.makeTempDir({ prefix: "elasticdrive-bucket-" }));
  }

  get name(): string {
    return `file:${this.path}`;
  }

  get config(): string {
    return `BUCKET=file:${this.path}\n`;
  }

  // deno-lint-ignore require-await
  async objects(prefix = ""): Promise<StoredObject[]> {
    const keys = this.#keysIn("").filter((key) => key.startsWith(prefix));
    return keys.flatMap((key) =>
      unlessGone(() => {
        const { ino, mtime, size } = Deno.statSync(`${this.path}/${key}`);
        return [{ key, size, version: `${ino} ${mtime?.getTime()}` }];
      })
    );
  }

  async read(key: string): Promise<Uint8Array> {
    return await Deno.readFile(`${this.path}/${key}`);
  }

  async write(key: string, bytes: Uint8Array): Promise<void> {
    await Deno.writeFile(`${this.path}/${key}`, bytes);
  }

  #keysIn(folder: string): string[] {
    const entries = unlessGone(() => [...Deno.readDirSync(`${this.path}/${folder}`)]);
    return entries.flatMap((entry) => {
      if (entry.name === ".tmp" || entry.name === ".lock") return [];
      const key = `${folder}${entry.name}`;
      return entry.isDirectory ? this.#keysIn(`${key}/`) : [key];
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

/** What `look` finds; nothing if a running drive has deleted it since it was listed. */
function unlessGone<T>(look: () => T[]): T[] {
  try {
    return look();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

let s3BucketsMade = 0;

export class S3TestBucket implements TestBucket {
  readonly kind = "s3";

  constructor(
    readonly ceph: Ceph,
    readonly bucketName = `drive-${++s3BucketsMade}`,
    readonly endpoint = ceph.endpoint,
  ) {}

  /** The same bucket by another way; whoever looks into it still goes the straight one. */
  through(proxy: { endpoint: string }): S3TestBucket {
    return new S3TestBucket(this.ceph, this.bucketName, proxy.endpoint);
  }

  get name(): string {
    return `s3://${this.bucketName}`;
  }

  get config(): string {
    return this.configWith({});
  }

  /** Its lines, with other values for some of them. */
  configWith(other: Record<string, string>): string {
    const values = {
      AWS_ACCESS_KEY_ID: this.ceph.accessKeyId,
      AWS_SECRET_ACCESS_KEY: this.ceph.secretAccessKey,
      ENDPOINT: this.endpoint,
      BUCKET: this.bucketName,
      ...other,
    };
    return Object.entries(values).map(([key, value]) => `${key}=${value}\n`).join("");
  }

  objects(prefix = ""): Promise<StoredObject[]> {
    return this.ask(async (bucket) => {
      const keys = await keysBelow(bucket, prefix);
      const ask = async (key: string) => {
        const found = await bucket.get(key, { offset: 0, length: 0 });
        return found ? [{ key, size: found.size, version: found.etag }] : []; // or deleted since
      };
      return (await Promise.all(keys.map(ask))).flat();
    });
  }

  read(key: string): Promise<Uint8Array> {
    return this.ask(async (bucket) => (await bucket.get(key))!.bytes);
  }

  write(key: string, bytes: Uint8Array): Promise<void> {
    return this.ask(async (bucket) => void await bucket.put(key, bytes));
  }

  /** Does something in it on behalf of a test. */
  async ask<T>(question: (bucket: S3Bucket) => Promise<T>): Promise<T> {
    const { accessKeyId, secretAccessKey, endpoint } = this.ceph;
    const bucket = await S3Bucket.open({
      bucket: this.bucketName,
      prefix: "",
      endpoint,
      pathStyle: true,
      accessKeyId,
      secretAccessKey,
    }, { clock: systemClock, logger: silentLogger });
    try {
      return await question(bucket);
    } finally {
      bucket.close();
    }
  }

  /** The server and all its buckets go at the end of the test. */
  async [Symbol.asyncDispose](): Promise<void> {}
}

export type Story<B extends TestBucket = TestBucket> = (bucket: B) => Promise<void>;

/** Each story is told of an empty directory, ... */
export function testInDirectory(stories: Record<string, Story<DirectoryTestBucket>>): void {
  for (const [name, story] of Object.entries(stories)) {
    Deno.test(`${name} (directory)`, async () => {
      await using bucket = await DirectoryTestBucket.make();
      await story(bucket);
    });
  }
}

const s3Stories: [string, Story<S3TestBucket>][] = [];

/** ... of an empty bucket of one S3 server for all of the file's stories, ... */
export function testInS3(stories: Record<string, Story<S3TestBucket>>): void {
  if (s3Stories.length === 0) Deno.test("in S3", tellS3Stories);
  s3Stories.push(...Object.entries(stories));
}

async function tellS3Stories(t: Deno.TestContext): Promise<void> {
  await using ceph = await startCeph();
  for (const [name, story] of s3Stories) {
    await t.step(`${name} (S3)`, async () => {
      await using bucket = new S3TestBucket(ceph);
      await story(bucket);
    });
  }
}

/** ... or of both. */
export function testInBothBuckets(stories: Record<string, Story>): void {
  testInDirectory(stories);
  testInS3(stories);
}
