/** A TLS session without a connection, and a client that breaks off, lies or asks for too much. */
import { assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../../src/nbd/codec.ts";
import { TlsContext, type TlsSession } from "../../../src/nbd/openssl.ts";
import { Certificates } from "../../support/certificates.ts";
import { loadTlsClient, TLS1_2, TLS1_3, TlsClient } from "../../support/tls_client.ts";
import { join, test } from "./session.ts";

loadTlsClient();
const CERTIFICATES = await Certificates.makeForFile();

const CONTEXT = new TlsContext({
  certificate: CERTIFICATES.file("server-cert.pem"),
  key: CERTIFICATES.file("server-key.pem"),
  clientAuthorities: CERTIFICATES.authority,
});
const OWN = {
  certificate: CERTIFICATES.file("client-cert.pem"),
  key: CERTIFICATES.file("client-key.pem"),
};
const space = new Uint8Array(65_536);

function output(session: TlsSession): Uint8Array {
  return space.slice(0, session.takeOutput(space));
}

/** Has both go on until they are done. */
function handshake(session: TlsSession, client: TlsClient): void {
  for (let answer: Uint8Array = new Uint8Array(0);;) {
    session.feed(client.advance(answer).flight);
    const isOver = session.accept();
    answer = output(session);
    if (!isOver) continue;
    client.advance(answer);
    return;
  }
}

test("what has been freed is never handed to the library", () => {
  const session = CONTEXT.newSession();
  session.free();
  const calls = [
    () => session.feed(space),
    () => session.takeOutput(space),
    () => session.accept(),
    () => session.read(space),
    () => session.write(space),
    () => session.end(),
    () => session.free(),
  ];
  for (const call of calls) assertThrows(call, Deno.errors.BadResource);
});

test("what is wrong behind data is told once that was read, also to who writes, and for good", () => {
  for (const version of [TLS1_2, TLS1_3] as const) {
    using client = new TlsClient({ version, ...OWN });
    const session = CONTEXT.newSession();
    handshake(session, client);
    const [good, bad] = [client.text("good"), client.data(space.subarray(0, 100))];
    bad[60] ^= 1;
    session.feed(join(good, bad, client.text("never")));
    assertEquals(session.read(space), 4);
    const reason = "TLS: decryption failed or bad record mac";
    assertThrows(() => session.write(space), ProtocolError, reason);
    for (let again = 0; again < 2; again++) {
      assertThrows(() => session.read(space), ProtocolError, reason);
    }
    session.free();
  }
});

test("a client of TLS 1.2 that wants another handshake is refused it, and goes on", () => {
  using client = new TlsClient({ version: TLS1_2, ...OWN });
  const session = CONTEXT.newSession();
  handshake(session, client);
  output(session);
  session.feed(join(client.text("before"), client.renegotiation()));
  assertEquals(session.read(space), 6);
  const alert = output(session);
  assertEquals(alert[0], 21);
  session.write(space);
  session.free();
});
