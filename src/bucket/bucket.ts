/**
 * Objects under keys: all that src/volume knows of S3, or of a directory that behaves like it.
 *
 * Every implementation promises:
 *  - `put` is atomic: a reader sees the old object, the new one, or none, never a part;
 *  - an acknowledged `put` survives the loss of power;
 *  - `ifAbsent` and `ifMatch` are decided atomically against every other writer of the bucket;
 *  - after a `put` or `delete` is acknowledged, every `get` and `list` sees it (S3 has been strongly
 *    consistent since December 2020).
 *
 * A store that can't decide conditions atomically is found out by `probeConditions`.
 *
 * Failures are `UnavailableError` (nothing is known: the request may have been applied, or may yet be)
 * or `UsageError`. "No such key" and "the condition did not hold" are answers, not failures.
 */
import { UnavailableError } from "../errors.ts";

/** What a bucket is opened for: to be made if there is none, to be written to if there is one, or to be read only. */
export type Access = "create" | "write" | "read";

/** A part of an object, in bytes. */
export interface ByteRange {
  offset: number;
  length: number;
}

/** What a `get` found. */
export interface FoundObject {
  /** The bytes asked for; fewer than the range's length when the object ends before. */
  bytes: Uint8Array;
  /** Size of the whole object, in bytes. */
  size: number;
  /** Identifies this version of the object, for `ifMatch`. */
  etag: string;
}

/** When a `put` may take place: only if there is no such key, or only over the version named. */
export type PutCondition = { ifAbsent: true } | { ifMatch: string };

/** What a `put` came to: stored, or refused by its condition. */
export type PutResult = { stored: true; etag: string } | { stored: false };

/** The store does not take a put with this condition, whatever is there; nothing was stored. */
export class ConditionRefusedError extends UnavailableError {
  override name = "ConditionRefusedError";
  constructor(message: string, options?: ErrorOptions) {
    super(message, true, options);
  }
}

export interface Bucket {
  /** For messages: `s3://bucket/prefix` or `file:/path`. */
  readonly name: string;
  /**
   * Reads an object, or a part of it. Returns null if there is no such key. A range that begins at
   * or behind the object's end gives zero bytes.
   */
  get(key: string, range?: ByteRange, signal?: AbortSignal): Promise<FoundObject | null>;
  /** Stores an object, whole. `bytes` must not change until the promise settles. */
  put(
    key: string,
    bytes: Uint8Array,
    condition?: PutCondition,
    signal?: AbortSignal,
  ): Promise<PutResult>;
  /**
   * Does ahead what a put of this very array takes besides its sending, for who has it ready before its time. Its bytes
   * must not change from then on, for as long as it may be put. A bucket without it has nothing to do ahead.
   */
  prepare?(bytes: Uint8Array): Promise<void>;
  /** Removes objects; a key that is not there is no error. At most 1,000 keys. */
  delete(keys: string[], signal?: AbortSignal): Promise<void>;
  /**
   * The first of the keys that begin with `prefix` and sort behind `startAfter` (both relative to the
   * bucket's own prefix), in byte order: as many as one request brings. None means that there are no more.
   */
  list(prefix: string, startAfter?: string, signal?: AbortSignal): Promise<string[]>;
  /**
   * Finds out which conditions the store honours, by puts over `key` that it must refuse; `key` is there, and keeps its
   * bytes. To be called once, before anything rests on conditions. From then on those that are not honoured
   * are decided as well as they can be, which is not atomically. A bucket without it honours all of them.
   *
   * @returns the headers that are not honoured: "If-None-Match", "If-Match", both or, as it should be, none
   */
  probeConditions?(key: string, signal?: AbortSignal): Promise<string[]>;
  /** Gives back connections and handles. */
  close(): void;
}
