/**
 * What a program does to the files below one folder, recorded, and every disk that a loss of power at any moment of it
 * can leave. The program is not changed for it: while a trace records, the file operations of `Deno` are wrapped.
 *
 * The model of a disk, which is POSIX's and no kinder (ext4 with its journal keeps more than this):
 *  - the bytes of a file are there for sure once an fsync of it has ended that began after they were written. Until
 *    then they are there, or the first half of them, or none;
 *  - a name in a directory (made, linked, renamed, removed) is there, or gone, for sure once an fsync of that directory has
 *    ended that began after the change had ended. Until then the change has happened or not, whatever
 *    became of others, older ones included. A rename from one directory to another is two such changes.
 *
 * Time is counted in ticks: one for each begin and each end of an operation. A cut at tick 7 is a loss of power before
 * anything later begins or ends.
 */
import { basename, dirname } from "node:path";
import type { Seed } from "./seed.ts";

interface FileNode {
  kind: "file";
  id: number;
}

interface DirectoryNode {
  kind: "directory";
  id: number;
  /** As the running program sees it. */
  entries: Map<string, Node>;
}

type Node = FileNode | DirectoryNode;

interface Span {
  /** Ticks between which it happened; the end is open while it has not. */
  begin: number;
  end: number;
  /** The tick from which on it survives. */
  safe: number;
}

/** A name in a directory stands for another node, or for none. */
interface NameChange extends Span {
  what: "name";
  node: DirectoryNode;
  name: string;
  is: Node | null;
}

/** Bytes were appended to a file. */
interface BytesChange extends Span {
  what: "bytes";
  node: FileNode;
  bytes: Uint8Array;
}

type Change = NameChange | BytesChange;

/** What became of a change that nothing had made safe. */
type Fate = "happened" | "half" | "empty" | "lost";

/** A disk after the loss of power: files with their bytes, and folders (null), by path, parents first. */
export type Disk = Map<string, Uint8Array | null>;

/** Names in folders of this name are of no account: the bucket puts files there that are to have another name. */
const SCRAP = ".tmp";

/** The operations that are wrapped, as they were. */
const { open, mkdir, link, rename, remove } = Deno;

export class DiskTrace implements Disposable {
  readonly #folder: string;
  readonly #root: DirectoryNode = { kind: "directory", id: 0, entries: new Map() };
  readonly #changes: Change[] = [];
  #nodes = 1;
  /** The newest tick. */
  tick = 0;

  /** Begins to record what this process does below `folder`, which exists, is empty, and is safe. */
  constructor(folder: string) {
    this.#folder = folder;
    Object.assign(Deno, {
      open: this.#open.bind(this),
      mkdir: this.#mkdir.bind(this),
      link: this.#link.bind(this),
      rename: this.#rename.bind(this),
      remove: this.#remove.bind(this),
    });
  }

  /** Ends the recording. */
  [Symbol.dispose](): void {
    Object.assign(Deno, { open, mkdir, link, rename, remove });
  }

  /** As if no fsync of files, or of directories, had been asked for: for tests of the tests. */
  forgetSyncs(kind: Node["kind"], among: (path: string) => boolean = () => true): void {
    for (const change of this.#changes) {
      if (change.node.kind === kind && among(this.#pathOf(change.node))) change.safe = Infinity;
    }
  }

  /**
   * Every disk that a cut at `tick` can leave, as far as one of these makes it: all changes lost that may be, all
   * happened, all with half of their bytes or none, each one alone lost or happened, and some by lot.
   */
  *disksAfter(tick: number, seed: Seed): Generator<CutDisk> {
    const begun = this.#changes.filter(({ begin }) => begin <= tick);
    const open = begun.filter(({ safe }) => safe > tick);
    const fates: ((change: Change) => Fate)[] = [
      ...(["lost", "happened", "half", "empty"] as const).map((fate) => () => fate),
      ...open.map((alone) => (change: Change): Fate => change === alone ? "lost" : "happened"),
      ...open.map((alone) => (change: Change): Fate => change === alone ? "happened" : "lost"),
      ...[1, 2, 3].map(() => () => seed.pick<Fate>(["happened", "half", "empty", "lost"])),
    ];
    for (const fate of fates) {
      const openFates = new Map(open.map((change) => [change, fate(change)]));
      yield new CutDisk(this.#root, begun, (change) => openFates.get(change) ?? "happened");
    }
  }

  /** True if a cut at `tick` can leave no other disks than one a tick earlier. */
  isAsBefore(tick: number): boolean {
    return this.#changes.every(({ begin, safe }) => begin !== tick && safe !== tick);
  }

  // ---- the wrapped operations

  async #open(path: string | URL, options?: Deno.OpenOptions): Promise<Deno.FsFile> {
    const inside = this.#isInside(path);
    const existing = inside && this.#find(String(path));
    const begin = inside ? this.#tick() : 0;
    const file = await open(path, options);
    if (!inside) return file;
    const node = existing || this.#newFile();
    const end = this.#tick();
    if (!existing) this.#name(String(path), node, begin, end);
    return this.#recorded(file, node);
  }

  #recorded(file: Deno.FsFile, node: Node): Deno.FsFile {
    const { write, sync } = file;
    file.write = async (bytes) => {
      const begin = this.#tick();
      const count = await write.call(file, bytes);
      const written = bytes.slice(0, count);
      const end = this.#tick();
      this.#changes.push({
        what: "bytes",
        node: node as FileNode,
        bytes: written,
        begin,
        end,
        safe: Infinity,
      });
      return count;
    };
    file.sync = async () => {
      const begin = this.#tick();
      await sync.call(file);
      const now = this.#tick();
      for (const change of this.#changes) {
        if (change.node === node && change.end < begin) change.safe = Math.min(change.safe, now);
      }
    };
    return file;
  }

  async #mkdir(path: string | URL, options?: Deno.MkdirOptions): Promise<void> {
    const begin = this.#tick();
    await mkdir(path, options);
    const end = this.#tick();
    if (this.#isInside(path)) this.#makeFolder(String(path), begin, end);
  }

  #makeFolder(path: string, begin: number, end: number): DirectoryNode {
    if (path === this.#folder) return this.#root;
    const parent = this.#makeFolder(dirname(path), begin, end);
    const existing = parent.entries.get(basename(path));
    if (existing) return existing as DirectoryNode;
    const node: DirectoryNode = { kind: "directory", id: this.#nodes++, entries: new Map() };
    this.#name(path, node, begin, end);
    return node;
  }

  async #link(from: string, to: string): Promise<void> {
    const node = this.#find(from)!;
    const begin = this.#tick();
    await link(from, to);
    this.#name(to, node, begin, this.#tick());
  }

  async #rename(from: string | URL, to: string | URL): Promise<void> {
    const node = this.#find(String(from))!;
    const begin = this.#tick();
    await rename(from, to);
    const end = this.#tick();
    this.#name(String(to), node, begin, end);
    this.#name(String(from), null, begin, end);
  }

  async #remove(path: string | URL, options?: Deno.RemoveOptions): Promise<void> {
    const inside = this.#isInside(path);
    const begin = inside ? this.#tick() : 0;
    await remove(path, options);
    if (inside) this.#name(String(path), null, begin, this.#tick());
  }

  // ---- within

  #tick(): number {
    return ++this.tick;
  }

  #newFile(): FileNode {
    return { kind: "file", id: this.#nodes++ };
  }

  #isInside(path: string | URL): boolean {
    return String(path) === this.#folder || String(path).startsWith(`${this.#folder}/`);
  }

  #find(path: string): Node | undefined {
    if (path === this.#folder) return this.#root;
    const parent = this.#find(dirname(path));
    return parent?.kind === "directory" ? parent.entries.get(basename(path)) : undefined;
  }

  #name(path: string, is: Node | null, begin: number, end: number): void {
    const node = this.#find(dirname(path)) as DirectoryNode;
    if (is) node.entries.set(basename(path), is);
    else node.entries.delete(basename(path));
    if (basename(dirname(path)) === SCRAP) return;
    const name = basename(path);
    this.#changes.push({ what: "name", node, name, is, begin, end, safe: Infinity });
  }

  /** The first path a node had, without the folder. */
  #pathOf(node: Node): string {
    const named = this.#changes.find((change) => change.what === "name" && change.is === node);
    return named ? `${this.#pathOf(named.node)}/${(named as NameChange).name}` : "";
  }
}

/** One disk after one cut; made into files only when asked to. */
export class CutDisk {
  readonly #names = new Map<Node, Map<string, Node>>();
  readonly #bytes = new Map<Node, Uint8Array[]>();

  constructor(private readonly root: Node, changes: Change[], fateOf: (change: Change) => Fate) {
    for (const change of changes) {
      const fate = fateOf(change);
      if (fate === "lost") continue;
      if (change.what === "name") this.#rename(change);
      else this.#write(change, fate);
    }
  }

  #rename({ node, name, is }: NameChange): void {
    const names = this.#names.get(node) ?? new Map();
    this.#names.set(node, names);
    if (is) names.set(name, is);
    else names.delete(name);
  }

  #write({ node, bytes }: BytesChange, fate: Fate): void {
    const parts = this.#bytes.get(node) ?? [];
    this.#bytes.set(node, parts);
    const share = { happened: 1, half: 0.5, empty: 0, lost: 0 }[fate];
    parts.push(bytes.subarray(0, Math.floor(bytes.length * share)));
  }

  /** The same for two disks that hold the same. */
  signature(): string {
    const lines: string[] = [];
    for (const [path, node] of this.#walk(this.root, "")) {
      const lengths = this.#bytes.get(node)?.map((part) => part.length) ?? [];
      lines.push(`${path} ${node.kind === "file" ? node.id : ""} ${lengths}`);
    }
    return lines.sort().join("\n");
  }

  /** Writes it into an empty folder. */
  async makeIn(folder: string): Promise<void> {
    for (const [path, node] of this.#walk(this.root, "")) {
      if (node.kind === "directory") await Deno.mkdir(`${folder}${path}`);
      else await Deno.writeFile(`${folder}${path}`, await this.#content(node));
    }
  }

  async #content(node: Node): Promise<Uint8Array> {
    const parts = this.#bytes.get(node) ?? [];
    return await new Blob(parts as BlobPart[]).bytes();
  }

  *#walk(folder: Node, path: string): Generator<[path: string, node: Node]> {
    for (const [name, node] of this.#names.get(folder) ?? []) {
      yield [`${path}/${name}`, node];
      if (node.kind === "directory") yield* this.#walk(node, `${path}/${name}`);
    }
  }
}
