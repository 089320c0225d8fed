import { encodeDataChunkHead } from "../../../src/nbd/chunk_codec.ts";
import { encodeSimpleReply, parseRequest, Request } from "../../../src/nbd/codec.ts";
import { NBD_REQUEST_MAGIC, REQUEST_HEADER_BYTES } from "../../../src/nbd/constants.ts";

const COUNT = 1000;
const received = new DataView(new ArrayBuffer(COUNT * REQUEST_HEADER_BYTES));
for (let at = 0; at < received.byteLength; at += REQUEST_HEADER_BYTES) {
  received.setUint32(at, NBD_REQUEST_MAGIC);
  received.setUint32(at + 12, at);
  received.setUint32(at + 20, at * 4096);
  received.setUint32(at + 24, 4096);
}
const request = new Request();
const sent = new DataView(new ArrayBuffer(COUNT * 64));

Deno.bench(`codec: ${COUNT} requests parsed`, () => {
  const end = received.byteLength;
  for (let at = 0; at < end; at += REQUEST_HEADER_BYTES) parseRequest(received, at, end, request);
});

Deno.bench(`codec: ${COUNT} simple replies`, () => {
  for (let n = 0; n < COUNT; n++) encodeSimpleReply(sent, n * 64, 0, request);
});

Deno.bench(`codec: heads of ${COUNT} structured replies`, () => {
  for (let n = 0; n < COUNT; n++) encodeDataChunkHead(sent, n * 64, true, request, n * 4096, 4096);
});
