/**
 * SHA-256. A long text would hold up every other request for as long as it takes (8 MiB: 5 to 11 ms): it is
 * hashed in another thread, by this machine's OpenSSL, at node:crypto's speed. A machine without it waits.
 * (`crypto.subtle` has a thread of its own, too, but copies first and is half as fast.)
 */
import { createHash } from "node:crypto";
import { SHA256_ASIDE_BYTES } from "../limits.ts";

const SYMBOLS = {
  EVP_sha256: { parameters: [], result: "pointer" },
  EVP_Digest: {
    parameters: ["buffer", "usize", "buffer", "pointer", "pointer", "pointer"],
    result: "i32",
    nonblocking: true,
  },
} as const;

const openssl = loadOpenSsl();

/** Undefined if there is none. */
function loadOpenSsl() {
  try {
    return Deno.dlopen("libcrypto.so.3", SYMBOLS).symbols;
  } catch {
    return undefined;
  }
}

/** In hexadecimal. `data` must not change until it is done. */
export async function sha256(data: string | Uint8Array): Promise<string> {
  const isShort = typeof data === "string" || data.length < SHA256_ASIDE_BYTES;
  if (isShort || openssl === undefined) return sha256Now(data);
  const { EVP_sha256, EVP_Digest } = openssl;
  const digest = new Uint8Array(32);
  const bytes = data as Uint8Array<ArrayBuffer>;
  const isDone = await EVP_Digest(bytes, BigInt(bytes.length), digest, null, EVP_sha256(), null);
  return isDone === 1 ? digest.toHex() : sha256Now(data);
}

export function sha256Now(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}
