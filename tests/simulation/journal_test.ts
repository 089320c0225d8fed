import { assert } from "@std/assert";
import { assertBugsHavePlace } from "../support/bug_hunt.ts";
import { liveWithJournal } from "./journal.ts";
import { JOURNALS } from "./journal_bugs.ts";

Deno.test("a drive with a journal that is killed again and again loses nothing, in 100 lives", async () => {
  let journals = 0;
  for (let seed = 1; seed <= 100; seed++) journals += (await liveWithJournal(seed)).inherited;
  assert(journals > 100, `${journals} journals were found`);
});

Deno.test("the deliberate bugs of a journal have their places", () =>
  assertBugsHavePlace(JOURNALS));
