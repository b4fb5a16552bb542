import type { Made } from './environment.ts';

/** A request that works, the steps in front of it and those behind it, which undo it where it can be done once. */
export interface Request extends Made {
  readonly name: string;
  readonly after?: readonly string[];
}
