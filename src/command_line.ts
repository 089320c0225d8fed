/** The command line: what may be said there, what was, and what the program ends with. */
import { parseArgs } from "@std/cli/parse-args";
import manifest from "../deno.json" with { type: "json" };
import { suggest } from "./config_quotes.ts";
import { UsageError } from "./errors.ts";

export const VERSION = manifest.version;

export const EXIT_CLEAN = 0;
export const EXIT_UNWELL = 1;
/** Of a running drive. */
export const EXIT_UNCAUGHT = 1;
export const EXIT_REFUSED = 2;
export const EXIT_FENCED = 3;
export const EXIT_NOT_STORED = 4;

export const HELP = `ElasticDrive ${VERSION}: a disk in an S3 bucket, served over NBD

usage: elasticdrive [-c FILE] [--takeover]    serve the drive
       elasticdrive [-c FILE] check           read all that the volume needs and say what is damaged
       elasticdrive [-c FILE] status          say how the running drive is and what it costs
                                              [--watch] [--json]; 1 if not well, 2 if none answers
       elasticdrive [-c FILE] info            say what the volume is, from the bucket alone [--json]
       elasticdrive [-c FILE] reclaim         give back the space that nothing needs, while no drive
                                              runs (one that runs does so by itself, or at SIGUSR1)
       elasticdrive [-c FILE] check-config    say what the configuration comes to, or what is wrong
       elasticdrive [-c FILE] attach DEVICE   make the running drive the device, such as /dev/nbd0;
                                              after a restart of the drive, reconnect the device
       elasticdrive [-c FILE] detach DEVICE   store what was written to it and let go of it [--force]

check, status, info and check-config change nothing; check and info also work beside a running drive.

  -c, --config FILE   the configuration; else config.ini beside the program or in the working
                      directory, or, if there is none, a 1 GiB drive in ./elasticdrive-data
  --takeover          fence a writer that seems to be alive: it can store nothing more
  --force             detach also what is in use, or has no server any more: what waits for it fails
  --watch             go on saying it, with what happened in between, until Ctrl-C
  --json              print what a program can read
  -h, --help          this text
  -V, --version       the version

Stop it with SIGTERM, SIGINT (Ctrl-C) or SIGHUP: it stores everything first. A second signal gives
that up.
Exit codes: 0 clean, 1 check found damage or status trouble, 2 configuration or start-up refused,
3 fenced by another writer, 4 stopped with data not stored.`;

const WORDS = ["status", "check", "info", "reclaim", "check-config", "attach", "detach"] as const;

type Command = "serve" | typeof WORDS[number] | "help" | "version";

/** Options that are not for every command. */
const ONLY_WITH: Record<"takeover" | "force" | "json" | "watch", Command[]> = {
  takeover: ["serve"],
  force: ["detach"],
  json: ["status", "info"],
  watch: ["status"],
};

export interface CommandLine {
  command: Command;
  /** Of attach and detach. */
  device: string;
  config?: string;
  takeover: boolean;
  force: boolean;
  json: boolean;
  watch: boolean;
}

/** @throws UsageError naming the argument that is not understood */
export function readCommandLine(args: string[]): CommandLine {
  const refuse = (argument: string, hint = "see elasticdrive --help") => {
    throw new UsageError(`unknown argument "${argument}"; ${hint}`);
  };
  // else --takeover=no would be a takeover
  const withValue = args.find((arg) => /^--(?!config=)[^=]+=/.test(arg));
  if (withValue) refuse(withValue);
  const found = parseArgs(args, {
    string: ["config"],
    collect: ["config"],
    boolean: ["help", "version", "takeover", "force", "json", "watch"],
    alias: { c: "config", h: "help", V: "version" },
    unknown: (argument: string, option?: string) => {
      if (option !== undefined) refuse(argument);
      return true; // a word: kept, and looked at below
    },
  });
  const [config, ...more] = found.config;
  if (config === "" || more.length > 0) {
    throw new UsageError("-c takes the name of one configuration file");
  }
  const words = found._.map(String);
  const command = WORDS.find((word) => word === words[0]);
  const takesDevice = command === "attach" || command === "detach";
  if (words.length > 0 && !command) {
    const hint = suggest(words[0], WORDS, (word) => word);
    refuse(words[0], `${hint}; without a command the drive is served`);
  }
  const unknown = words[takesDevice ? 2 : 1];
  if (unknown !== undefined) refuse(unknown, `${command} takes no more`);
  const device = words[1] ?? "";
  if (takesDevice && device === "" && !found.help) {
    throw new UsageError(`${command} takes a device: elasticdrive ${command} /dev/nbd0`);
  }
  for (const option of ["takeover", "force", "json", "watch"] as const) {
    const commands = ONLY_WITH[option];
    if (!found[option] || commands.includes(command ?? "serve")) continue;
    const place = commands[0] === "serve" ? "without a command" : `with ${commands.join(" and ")}`;
    throw new UsageError(`--${option} is allowed ${place} only; see elasticdrive --help`);
  }
  return {
    command: found.help ? "help" : found.version ? "version" : command ?? "serve",
    device,
    config,
    takeover: found.takeover,
    force: found.force,
    json: found.json,
    watch: found.watch,
  };
}
