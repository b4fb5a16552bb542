/**
 * What a cache may still hold of tables: every leaf that an entry had since it was last invalidated there. `Leaf` is what
 * an entry leads to.
 */
export class StaleLeaves<Leaf> {
  readonly #leaves: Set<Leaf>[][];

  /** So many tables, each with so many entries that all have `leaf`. */
  constructor(tables: number, entries: number, leaf: Leaf) {
    this.#leaves = Array.from({ length: tables }, () =>
      Array.from({ length: entries }, () => new Set<Leaf>([leaf])),
    );
  }

  /** The entry has another leaf now. */
  note(table: number, entry: number, leaf: Leaf): void {
    this.#leaves[table]![entry]!.add(leaf);
  }

  /** Nothing is cached of the entry any more, which has `leaf`. */
  forget(table: number, entry: number, leaf: Leaf): void {
    this.#leaves[table]![entry] = new Set([leaf]);
  }

  of(table: number, entry: number): ReadonlySet<Leaf> {
    return this.#leaves[table]![entry]!;
  }
}
