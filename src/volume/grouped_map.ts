/**
 * A map from whole numbers to values, in groups of neighbours: a map of maps.
 *
 * One JavaScript map copies itself whenever it has doubled, all in one turn: with a million entries that takes a tenth
 * of a second. And what lies between two numbers leaves this one by whole groups, however many there are.
 */

/** Numbers of a group. */
const GROUP = 1024;

export class GroupedMap<T> {
  readonly #groups = new Map<number, Map<number, T>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(key: number): T | undefined {
    return this.#groups.get(Math.floor(key / GROUP))?.get(key);
  }

  has(key: number): boolean {
    return this.#groups.get(Math.floor(key / GROUP))?.has(key) ?? false;
  }

  set(key: number, value: T): void {
    const number = Math.floor(key / GROUP);
    let group = this.#groups.get(number);
    if (!group) this.#groups.set(number, group = new Map());
    this.#size -= group.size;
    group.set(key, value);
    this.#size += group.size;
  }

  delete(key: number): void {
    const number = Math.floor(key / GROUP);
    const group = this.#groups.get(number);
    if (!group?.delete(key)) return;
    this.#size--;
    if (group.size === 0) this.#groups.delete(number);
  }

  /** Takes out the keys of [first, end) and returns them with their values, a group at a time. */
  takeOut(first: number, end: number): Map<number, T>[] {
    const taken: Map<number, T>[] = [];
    for (let number = Math.floor(first / GROUP); number * GROUP < end; number++) {
      const group = this.#groups.get(number);
      if (!group) continue;
      const [from, to] = [Math.max(first, number * GROUP), Math.min(end, (number + 1) * GROUP)];
      if (to - from === GROUP) {
        this.#groups.delete(number);
        this.#size -= group.size;
        taken.push(group);
        continue;
      }
      const part = new Map<number, T>();
      for (let key = from; key < to; key++) {
        const value = group.get(key);
        if (value !== undefined) part.set(key, value);
        this.delete(key);
      }
      taken.push(part);
    }
    return taken;
  }

  *[Symbol.iterator](): Generator<[key: number, value: T]> {
    for (const group of this.#groups.values()) yield* group;
  }
}
