import { assert } from "@std/assert";
import { TlsContext } from "../../src/nbd/openssl.ts";
import { Certificates } from "../support/certificates.ts";
import { loadTlsClient } from "../support/tls_client.ts";
import { cutTlsAtEveryByte } from "./cuts.ts";
import { fuzz } from "./fuzz.ts";
import { everyFrame } from "./sessions.ts";
import { TlsLink } from "./tls.ts";

/** Some 40 frames a session. */
const SEEDS = 40;

loadTlsClient();
const CERTIFICATES = await Certificates.makeForFile();

const FILES = {
  certificate: CERTIFICATES.file("server-cert.pem"),
  key: CERTIFICATES.file("server-key.pem"),
};
const OPEN = new TlsContext(FILES);
const MUTUAL = new TlsContext({ ...FILES, clientAuthorities: CERTIFICATES.authority });
const OWN = {
  certificate: CERTIFICATES.file("client-cert.pem"),
  key: CERTIFICATES.file("client-key.pem"),
};

Deno.test("by TLS, of what is behind a record that is not as it should be nothing is heard, and all before it is", async () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    await fuzz(seed, (chance) => {
      return seed % 2 ? new TlsLink(OPEN, chance) : new TlsLink(MUTUAL, chance, OWN);
    });
  }
});

Deno.test("cut at any byte of its handshake or of a record, a client by TLS leaves nothing behind", async () => {
  const sessions = await cutTlsAtEveryByte((seed) => new TlsLink(MUTUAL, seed, OWN), everyFrame);
  assert(sessions > 1000, `${sessions} sessions`);
});
