/** What a month would cost, as the page reckons it (page/bill.js), at the prices of the report. */
import { estimate, ROUGH_SECONDS } from "./page/bill.js";
import type { StatusReport } from "./report.ts";

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

export function billOf(report: StatusReport): Bill {
  const { seconds, costs, sum } = estimate(report, report.prices);
  const requests = costs.thousandPuts + costs.thousandGets;
  const isRough = seconds < ROUGH_SECONDS;
  return { storage: costs.gibMonth, requests, traffic: costs.gibDown, sum, isRough };
}
