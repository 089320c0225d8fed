/** Replays lives with a journal, one a seed: `[seed [count]]`, or 1,000 from a random one. */
import { replaySeeds } from "../support/seeds.ts";
import { liveWithJournal } from "./journal.ts";

await replaySeeds("simulate", 1000, liveWithJournal);
