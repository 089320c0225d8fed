/** What the tests of TLS share: a certificate, a context with it, and connections. */
import { TlsContext } from "../../../src/nbd/openssl.ts";
import { Certificates } from "../../support/certificates.ts";
import { loadTlsClient } from "../../support/tls_client.ts";

loadTlsClient();
export const CERTIFICATES = await Certificates.makeForFile();

export const CONTEXT = new TlsContext({
  certificate: CERTIFICATES.file("server-cert.pem"),
  key: CERTIFICATES.file("server-key.pem"),
});

export async function secured(conn: Deno.TcpConn): Promise<Deno.TlsConn> {
  const caCerts = [Deno.readTextFileSync(CERTIFICATES.file("ca-cert.pem"))];
  return await Deno.startTls(conn, { hostname: "localhost", caCerts });
}

/** Both ends of a TCP connection. */
export async function connectedPair(): Promise<[Deno.TcpConn, Deno.TcpConn]> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const dialled = Deno.connect({ port: listener.addr.port });
  return [await dialled, await listener.accept()];
}
