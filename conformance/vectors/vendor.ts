/** What a model answered to one line, beside what the recording says. */
export interface Answer {
  readonly expected: unknown;
  readonly got: unknown;
  /** Where they differ: the names of the vendor's list that account for all of it, empty where none do. */
  readonly classes: readonly string[];
}

/** A family of recordings. The first line of a file says whose it is. */
export interface Vendor {
  readonly name: string;
  /** The list of differences, from the repository's root: a heading for each class. */
  readonly differences: string;
  accepts(first: Readonly<Record<string, unknown>>): boolean;
  /** Prepares for lines that follow `first`. */
  open(first: Readonly<Record<string, unknown>>): (line: Readonly<Record<string, unknown>>) => Answer;
}
