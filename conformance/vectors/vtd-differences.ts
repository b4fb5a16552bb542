// The ways in which QEMU's VT-d answers otherwise than the specification, as docs/vtd-differences.md lists them. A difference
// has them as its reason where viommu's answer is what vtd-reference.ts reads from the line, and QEMU's is what comes of
// the fewest of them that give it.

import {
  judge,
  type Laxities,
  RAM_END,
  STRICT,
  type VtdLine,
  type VtdOutcome,
  WIDTH,
} from './vtd-reference.ts';

/** What a line shows: whether the write landed where it was to be, and the fault recording register. */
export interface Seen {
  readonly landed: boolean;
  readonly events: readonly string[];
}

/** How a fault is recorded. */
interface Recording {
  /** In scalable mode root and context entries have the reasons of legacy mode; */
  readonly rootReasons: boolean;
  readonly contextReasons: boolean;
  /** the address is whole. */
  readonly wholeAddress: boolean;
}

const CLASSES: Readonly<Record<keyof Laxities | keyof Recording, string>> = {
  otherHalf: 'root-entry-is-judged-whole',
  contextReserved: 'context-entry-reserved-bits-are-ignored',
  pasidReserved: 'pasid-entry-reserved-bits-are-ignored',
  passWidth: 'pass-through-beyond-the-width',
  accessed: 'accessed-flags-without-coherency',
  passPointer: 'pass-through-checks-the-table-pointer',
  typeFirst: 'pasid-entry-type-judged-first',
  eachLevel: 'permissions-judged-at-each-level',
  ownDisable: 'disabled-fault-is-recorded',
  firstWidth: 'first-stage-as-wide-as-aw',
  rootReasons: 'root-fault-of-the-wrong-mode',
  contextReasons: 'context-fault-of-the-wrong-mode',
  wholeAddress: 'fault-address-above-the-width',
};
const RECORDING = ['rootReasons', 'contextReasons', 'wholeAddress'] as const;
const RULES = Object.keys(STRICT) as (keyof Laxities)[];
/** More than so many have never been found together. */
const RULES_MAX = 4;
const PLAIN: Recording = { rootReasons: false, contextReasons: false, wholeAddress: false };
const ROOT_REASONS: ReadonlyMap<number, number> = new Map([
  [0x38, 0x08],
  [0x39, 0x01],
  [0x3a, 0x0a],
]);
const CONTEXT_REASONS: ReadonlyMap<number, number> = new Map([
  [0x40, 0x09],
  [0x41, 0x02],
  [0x42, 0x0b],
]);
const FAULTED = 1n << 63n;
const REASON_SHIFT = 32n;

/** §11.4.7.6 */
function record(line: VtdLine, reason: number, how: Recording): string {
  const root = how.rootReasons ? ROOT_REASONS.get(reason) : undefined;
  const context = how.contextReasons ? CONTEXT_REASONS.get(reason) : undefined;
  const page = BigInt(line.iova) & ~0xfffn;
  const address = how.wholeAddress ? page : page & ((1n << WIDTH) - 1n);
  const rest = FAULTED | (BigInt(root ?? context ?? reason) << REASON_SHIFT) | BigInt(line.rid);
  return [address, rest]
    .map((word) => word.toString(16).padStart(16, '0').match(/../g)!.toReversed().join(''))
    .join('');
}

function shows(line: VtdLine, outcome: VtdOutcome, how: Recording): Seen {
  if ('reason' in outcome)
    return { landed: false, events: outcome.recorded ? [record(line, outcome.reason, how)] : [] };
  return { landed: outcome.at < RAM_END && outcome.at === BigInt(line.pa), events: [] };
}

const same = (a: Seen, b: Seen): boolean => a.landed === b.landed && a.events.join() === b.events.join();

/** Sets of some of them, those of few first. */
function sets<T>(of: readonly T[], most: number): readonly (readonly T[])[] {
  return Array.from({ length: 2 ** of.length }, (_, set) => of.filter((_each, i) => (set & (1 << i)) !== 0))
    .filter((each) => each.length <= most)
    .toSorted((a, b) => a.length - b.length);
}
const RULE_SETS = sets(RULES, RULES_MAX);
const RECORDING_SETS = sets(RECORDING, RECORDING.length);
const taking = <T extends string>(ways: readonly T[]): Partial<Record<T, boolean>> =>
  Object.fromEntries(ways.map((way) => [way, true])) as Partial<Record<T, boolean>>;

/** What the specification has come of a line. */
export function specified(line: VtdLine): Seen {
  return shows(line, judge(line, STRICT), PLAIN);
}

/** The differences that account for all of it; none where something else is different. */
export function classify(qemu: Seen, got: Seen, line: VtdLine): readonly string[] {
  if (!same(got, specified(line))) return [];
  for (const rules of RULE_SETS) {
    const outcome = judge(line, { ...STRICT, ...taking(rules) });
    const how = RECORDING_SETS.find((ways) =>
      same(qemu, shows(line, outcome, { ...PLAIN, ...taking(ways) })),
    );
    if (how !== undefined) return [...rules, ...how].map((way) => CLASSES[way]);
  }
  return [];
}
