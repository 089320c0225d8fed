/**
 * What a month would cost: 30 days at the rate of requests since the process began, with what is stored now. S3 charges
 * for a LIST as for a PUT, for a HEAD as for a GET, and for a DELETE nothing. The page's bill is the same.
 */
import { GIB } from "../limits.ts";
import type { StatusReport } from "./report.ts";

const MONTH_SECONDS = 30 * 86_400;
/** Before it an estimate says more about the start than about the month. */
const ROUGH_SECONDS = 3600;

/** US dollars a month. */
export interface Bill {
  storage: number;
  requests: number;
  /** Out of S3; within a region of AWS it is free. */
  traffic: number;
  sum: number;
  /** The process has not run for long enough to tell. */
  isRough: boolean;
}

export function billOf({ startedAtMs, nowMs, log, s3, prices }: StatusReport): Bill {
  const seconds = Math.max(1, (nowMs - startedAtMs) / 1000);
  const inMonth = (count: number) => count / seconds * MONTH_SECONDS;
  const { get, head, put, list } = s3.operations;
  const storage = log.storedBytes / GIB * prices.gibMonth;
  const requests = inMonth(put.requests + list.requests) / 1000 * prices.thousandPuts +
    inMonth(get.requests + head.requests) / 1000 * prices.thousandGets;
  const traffic = inMonth(s3.bytesDown) / GIB * prices.gibDown;
  const isRough = seconds < ROUGH_SECONDS;
  return { storage, requests, traffic, sum: storage + requests + traffic, isRough };
}
