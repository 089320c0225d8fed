/** What S3 asks for. */
import type { Prices } from "./report.ts";

/** S3 Standard in us-east-1, as AWS lists it; the first price of each that has steps. */
const S3_PRICES: Prices = {
  gibMonth: 0.023,
  thousandPuts: 0.005,
  thousandGets: 0.0004,
  gibDown: 0.09,
};

/** A directory of this machine costs nothing. */
const NO_PRICES: Prices = { gibMonth: 0, thousandPuts: 0, thousandGets: 0, gibDown: 0 };

/** @param name of the bucket, as the log has it */
export function pricesOf(name: string): Prices {
  return name.startsWith("file:") ? NO_PRICES : S3_PRICES;
}
