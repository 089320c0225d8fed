/** The page at `/`: one HTML document with everything in it. */
export const PAGE = "<!doctype html><title>ElasticDrive</title>";
