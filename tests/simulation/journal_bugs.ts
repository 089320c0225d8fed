/** Bugs that lives with a journal have to find; run this file to see that they do: [seeds [words]]. */
import { type Bug, type Hunt, hunt } from "../support/bug_hunt.ts";

const BUGS: Bug[] = [
  {
    what: "a start that dies before it has its journal is not named",
    file: "journal_folder.ts",
    from: "Deno.writeFileSync(join(this.#folder, uuid, writer), new Uint8Array(0));",
    to: "",
  },
  {
    what: "whoever has stored nothing is taken for a start that died",
    file: "journal_folder.ts",
    from: " || !names.includes(writer)",
    to: "",
  },
  {
    what: "a journal that was given up is trusted before what it lacks is stored",
    file: "journaled_device.ts",
    from: "const isStored = await this.#stored();",
    to: "const isStored = true;",
  },
  {
    what: "a file is removed when the next is begun, not when it is stored",
    file: "journaled_device.ts",
    from: "if (!(await stored) || generation",
    to: "if (generation",
  },
  {
    what: "changes that are made again are stored as they come, not together",
    file: "journaled_device.ts",
    from: "await (this.#device.together?.(makeAll) ?? makeAll());",
    to: "await makeAll();",
  },
];

export const JOURNALS: Hunt = {
  bugs: BUGS,
  folder: "src/journal",
  script: "tests/simulation/journal_run.ts",
  allow: ["--allow-read", "--allow-write"],
};

if (import.meta.main) await hunt(JOURNALS, 2000);
