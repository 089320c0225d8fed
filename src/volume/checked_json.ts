/**
 * The objects that people may want to read, `volume.json` and `lease.json`: JSON whose last member is the CRC-32
 * of every byte before it. A digit that flips in a size is JSON as good as any; the CRC tells.
 *
 * The text is for reading only: whoever changes a byte of it has damaged it.
 */
import { crc32 } from "node:zlib";
import { DamageError } from "../errors.ts";
import { checkCrc } from "./segment.ts";

const TAIL = /^,\n "crc32": "([0-9a-f]{8})"\n}\n$/;
const TAIL_BYTES = tailWith(0).length;

/** The object with its members in order, a line each, and the CRC as the last. */
export function encodeChecked(value: object): Uint8Array {
  const encoder = new TextEncoder();
  const text = JSON.stringify(value, null, 1).slice(0, -"\n}".length);
  return encoder.encode(text + tailWith(crc32(encoder.encode(text))));
}

/**
 * Reads what `encodeChecked` wrote.
 *
 * @throws DamageError naming the key, and both checksums where there are two
 */
export function decodeChecked<T>(key: string, bytes: Uint8Array): T {
  const damaged = (what: string) => new DamageError(`${key}: ${what}`);
  const end = Math.max(0, bytes.length - TAIL_BYTES);
  const decoder = new TextDecoder();
  const tail = decoder.decode(bytes.subarray(end));
  const expected = TAIL.exec(tail)?.[1];
  if (expected === undefined) {
    throw damaged(`its ${bytes.length} bytes do not end in a checksum, as they were written`);
  }
  checkCrc(damaged, "text", parseInt(expected, 16), bytes.subarray(0, end));
  const { crc32: _, ...value } = JSON.parse(decoder.decode(bytes));
  return value;
}

function tailWith(crc: number): string {
  return `,\n "crc32": "${crc.toString(16).padStart(8, "0")}"\n}\n`;
}
