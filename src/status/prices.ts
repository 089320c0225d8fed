/** S3 Standard in us-east-1, as AWS lists it; the first price of each that has steps. */
import type { Prices } from "./report.ts";

export const PRICES: Prices = {
  gibMonth: 0.023,
  thousandPuts: 0.005,
  thousandGets: 0.0004,
  gibDown: 0.09,
};
