/** The house rules that a program can check (README.md, "The life of a request"). */
import { assertEquals } from "@std/assert";
import { dirname, join, relative } from "node:path";

const ROOT = new URL("../../", import.meta.url).pathname;
/** What every folder may use. */
const COMMON = ["clock.ts", "counters.ts", "errors.ts", "limits.ts", "logger.ts"].map((file) =>
  `src/${file}`
);
/** What a folder may use of the next one. */
const NEXT: Record<string, string[]> = {
  "src/nbd": ["src/volume/block_device.ts"],
  "src/journal": ["src/volume/block_device.ts"],
  "src/volume": ["src/bucket/bucket.ts"],
  "src/bucket": [],
  "src/linux": ["src/nbd/constants.ts", "src/export_description.ts", "src/progress.ts"],
};

function sourceFiles(folder: string): string[] {
  return [...Deno.readDirSync(join(ROOT, folder))].flatMap(({ name, isDirectory }) => {
    const path = `${folder}/${name}`;
    if (isDirectory) return sourceFiles(path);
    return name.endsWith(".ts") ? [path] : [];
  });
}

function read(path: string): string {
  return Deno.readTextFileSync(join(ROOT, path));
}

/** The files of this repository that a file imports, as paths from its top. */
function importsOf(path: string): string[] {
  const found = read(path).matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g);
  return [...found].map(([, name]) => relative(ROOT, join(ROOT, dirname(path), name)));
}

Deno.test("requests go right: nbd sees volume's interface only, volume bucket's, bucket nobody's", () => {
  const wrong: string[] = [];
  for (const [folder, next] of Object.entries(NEXT)) {
    for (const file of sourceFiles(folder)) {
      for (const used of importsOf(file)) {
        const allowed = used.startsWith(`${folder}/`) || COMMON.includes(used) ||
          next.includes(used);
        if (!allowed) wrong.push(`${file} imports ${used}`);
      }
    }
  }
  assertEquals(wrong, []);
});

Deno.test("time and chance come from clock.ts alone", () => {
  const banned =
    /\b(Date\.now|new Date\(\)|performance\.now|setTimeout|setInterval|Math\.random|randomUUID)\b/;
  const wrong = sourceFiles("src")
    .filter((file) => file !== "src/clock.ts" && banned.test(withoutComments(read(file))));
  assertEquals(wrong, []);
});

Deno.test("every file and function that the README names is there", () => {
  const rows = read("README.md").split("\n").filter((line) => /^\| \d \|/.test(line));
  assertEquals(rows.length, 8);
  const missing: string[] = [];
  for (const row of rows) {
    const where = row.split("|").at(-2)!;
    let file = "";
    for (const [, name] of where.matchAll(/`([^`]+)`/g)) {
      if (name.endsWith(".ts")) {
        file = name.startsWith("src/") ? name : `${dirname(file)}/${name}`;
      }
      const word = name.split(".").at(-1)!;
      if (!name.endsWith(".ts") && !new RegExp(`${word}\\b[<(]`).test(read(file))) {
        missing.push(`${name} in ${file}`);
      }
    }
    read(file);
  }
  assertEquals(missing, []);
});

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/\/\/.*$/gm, "");
}
