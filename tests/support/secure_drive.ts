/** A drive on TCP behind TLS. */
import type { Certificates } from "./certificates.ts";
import { Drive } from "./drive.ts";
import type { TestBucket } from "./test_buckets.ts";

/** One that shows its certificate, and with `mutual` asks for the client's. */
export function startSecure(
  bucket: TestBucket,
  certificates: Certificates,
  { mutual = true, size = "64M" } = {},
): Promise<Drive> {
  const server = { ...certificates.server, ...mutual && { tlsca: certificates.authority } };
  return Drive.start({ bucket, size, tcp: true, server });
}

/** The drive's address for libnbd, with the certificates of a directory. */
export function secureUri(drive: Drive, directory: string): string {
  return `nbds://localhost:${drive.port}?tls-certificates=${directory}`;
}
