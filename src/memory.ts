/** The bound on resident memory that the program states when it starts. */
import {
  CONNECTION_BYTES_MAX,
  CONNECTIONS_MAX,
  HANDSHAKES_MAX,
  IN_FLIGHT_BYTES_MAX,
  RECEIVE_BUFFER_BYTES,
  REQUEST_BYTES_MAX,
  RUNTIME_BYTES,
  SMALL_REQUEST_BYTES,
  STATUS_ANSWER_BYTES_MAX,
  STATUS_CONNECTIONS_MAX,
  STATUS_HEAD_BYTES_MAX,
  TLS_BYTES_MAX,
} from "./limits.ts";
import { volumeMemoryBytesMax } from "./volume/memory.ts";
import type { VolumeOptions } from "./volume/volume_options.ts";
import type { VolumeInfo } from "./volume/volume_info.ts";

/** Bytes that the whole process takes, at most. */
export function memoryBytesMax(options: VolumeOptions, info: VolumeInfo): number {
  const requests = IN_FLIGHT_BYTES_MAX + REQUEST_BYTES_MAX +
    CONNECTIONS_MAX * (SMALL_REQUEST_BYTES + CONNECTION_BYTES_MAX) +
    HANDSHAKES_MAX * (RECEIVE_BUFFER_BYTES + TLS_BYTES_MAX);
  // an answer as text, as bytes, and with its head
  const status = STATUS_CONNECTIONS_MAX * (2 * STATUS_HEAD_BYTES_MAX + 3 * STATUS_ANSWER_BYTES_MAX);
  return RUNTIME_BYTES + volumeMemoryBytesMax(options, info) + requests + status;
}
