/**
 * The licences of what is joined into the program: a text for every package of npm of which the bundle holds a part,
 * each text once, under the packages it comes with. A package that brings none is named with what its package.json
 * says. Deno's own is MIT, and part of the runtime.
 */

import { join } from "node:path";

const LICENCE_FILE = /^licen[cs]e(\.(md|txt))?$/i;
/** The bundle names each file it was made of in a comment, relative to the repository. */
const SOURCE = /^\/\/ (.*\/npm\/[^/]+\/((?:@[^/]+\/)?[^/]+)\/([^/]+))\//gm;

interface Package {
  folder: string;
  /** "lru-cache 11.5.3" */
  title: string;
}

/** @param bundle the folder of the bundle's parts @param root what the names in it are relative to */
export function licencesOf(bundle: string, root: string): string {
  const titlesByText = new Map<string, string[]>();
  for (const { folder, title } of packagesIn(bundle)) {
    const text = licenceOf(join(root, folder));
    titlesByText.set(text, [...titlesByText.get(text) ?? [], title]);
  }
  const rule = "-".repeat(80);
  return [...titlesByText]
    .map(([text, titles]) => `${rule}\n${titles.join("\n")}\n\n${text.trim()}\n`)
    .join("\n");
}

function packagesIn(bundle: string): Package[] {
  const folders = new Map<string, string>();
  for (const { name } of Deno.readDirSync(bundle)) {
    const part = Deno.readTextFileSync(join(bundle, name));
    for (const [, folder, name, version] of part.matchAll(SOURCE)) {
      folders.set(folder, `${name} ${version}`);
    }
  }
  return [...folders]
    .map(([folder, title]) => ({ folder, title }))
    .sort((a, b) => a.title < b.title ? -1 : 1);
}

function licenceOf(folder: string): string {
  const file = [...Deno.readDirSync(folder)].find(({ name }) => LICENCE_FILE.test(name));
  if (file) return Deno.readTextFileSync(join(folder, file.name));
  const { license, homepage } = JSON.parse(Deno.readTextFileSync(join(folder, "package.json")));
  return `${license}, as its package.json says (${homepage})`;
}
