import { assert, assertEquals, assertRejects } from "@std/assert";
import { TLS_BARE_READS_MAX, TLS_WRITE_BYTES } from "../../../src/limits.ts";
import { ProtocolError } from "../../../src/nbd/codec.ts";
import { TlsSocket } from "../../../src/nbd/tls.ts";
import { settle } from "../../support/manual_clock.ts";
import { TlsClient } from "../../support/tls_client.ts";
import { Client, equal, MIB, pattern, test } from "./session.ts";
import { connectedPair, CONTEXT, secured } from "./tls_parts.ts";

/** A TLS server's end of a connection, before its handshake, and what becomes of the client's end with it. */
async function socketPair(bytesAtOnce = Infinity) {
  const [near, far] = await connectedPair();
  const limited: Deno.Conn = Object.create(far, {
    read: {
      value: (bytes: Uint8Array) => far.read(bytes.subarray(0, bytesAtOnce)),
      writable: true,
    },
    write: {
      value: (bytes: Uint8Array) => far.write(bytes.subarray(0, bytesAtOnce)),
      writable: true,
    },
    close: { value: () => far.close() },
  });
  return { near, far: limited, socket: new TlsSocket(limited, CONTEXT) };
}

test("records come through whole, in whatever pieces the network carries them", async () => {
  for (const bytesAtOnce of [1, 5, 1000, 16_401]) {
    const { near, socket } = await socketPair(bytesAtOnce);
    const [client] = await Promise.all([secured(near), socket.startTls()]);
    const sent = pattern(bytesAtOnce < 1000 ? 20_000 : MIB);
    const [there, back] = await Promise.all([
      takeAll(socket, sent.length),
      takeAll(client, sent.length),
      new Client(client).send(sent),
      sendAll(socket, sent),
    ]);
    assert(equal(there, sent) && equal(back, sent), `${bytesAtOnce} bytes at a time`);
    client.close();
    socket.close();
  }
});

test("a peer that takes nothing holds the writer up, after what is encrypted at a time", async () => {
  const room = Promise.withResolvers<void>();
  const { near, socket, far } = await socketPair();
  const [client] = await Promise.all([secured(near), socket.startTls()]);
  const write = far.write.bind(far);
  far.write = async (bytes) => {
    await room.promise;
    return await write(bytes);
  };
  const sent = pattern(MIB);
  let taken: number | undefined;
  const writing = socket.write(sent).then((count) => taken = count);
  await settle();
  assertEquals(taken, undefined);
  room.resolve();
  assert(equal(await takeAll(client, TLS_WRITE_BYTES), sent.subarray(0, TLS_WRITE_BYTES)));
  assertEquals(await writing, TLS_WRITE_BYTES);
  client.close();
  socket.close();
});

test("a peer that wants new keys again and again is cut off, also when it takes its time", async () => {
  for (const together of [TLS_BARE_READS_MAX, 1]) {
    const { near, socket } = await socketPair();
    using peer = new TlsClient();
    await Promise.all([peer.handshake(near), socket.startTls()]);
    const heard = async (text: string) => {
      assertEquals(new TextDecoder().decode(await takeAll(socket, text.length)), text);
    };
    // Now and then it may, and more often when there is much to protect.
    for (let count = 0; count < TLS_BARE_READS_MAX / 2; count++) {
      await Promise.all([
        new Client(near).send(peer.keyUpdates(1), peer.text("here")),
        heard("here"),
      ]);
    }
    for (let count = 0; count < 4; count++) {
      const text = `${count}`.repeat(MIB / 2);
      await Promise.all([new Client(near).send(peer.text(text)), heard(text)]);
    }
    await Promise.all([
      new Client(near).send(peer.keyUpdates(1), peer.text("still")),
      heard("still"),
    ]);
    const failed = assertRejects(() => heard("?"), ProtocolError, "too many records without data");
    for (let count = 0; count < TLS_BARE_READS_MAX; count += together) {
      await new Client(near).send(peer.keyUpdates(together));
    }
    await failed;
    near.close();
    socket.close();
  }
});

test("a socket that was closed fails what waits for it and what comes after", async () => {
  const { near, socket } = await socketPair();
  const [client] = await Promise.all([secured(near), socket.startTls()]);
  const waiting = assertRejects(() => socket.read(new Uint8Array(1)));
  socket.close();
  await waiting;
  await assertRejects(() => socket.read(new Uint8Array(1)), Deno.errors.BadResource);
  await assertRejects(() => socket.write(new Uint8Array(1)), Deno.errors.BadResource);
  assertEquals(await client.read(new Uint8Array(1)), null);
  client.close();
});

test("a peer that does not trust the certificate is named as the reason", async () => {
  const { near, socket } = await socketPair();
  const failed = assertRejects(
    () => socket.startTls(),
    ProtocolError,
    "client says: tlsv1 alert unknown ca",
  );
  const distrustful = await Deno.startTls(near, { hostname: "localhost" });
  await assertRejects(() => distrustful.handshake());
  await failed;
  distrustful.close();
  socket.close();
});

async function sendAll(socket: TlsSocket, bytes: Uint8Array): Promise<void> {
  for (let sent = 0; sent < bytes.length;) sent += await socket.write(bytes.subarray(sent));
}

async function takeAll(from: Pick<Deno.Conn, "read">, length: number): Promise<Uint8Array> {
  const taken = new Uint8Array(length);
  for (let filled = 0; filled < length;) {
    const count = await from.read(taken.subarray(filled));
    assert(count !== null && count > 0);
    filled += count;
  }
  return taken;
}
