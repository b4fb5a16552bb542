// The ways in which QEMU's AMD IOMMU answers otherwise than the specification, as docs/amd-differences.md lists them. A
// difference has them as its reason where viommu's answer is what amd-reference.ts reads from the line, and QEMU's is
// what comes of leaving out the rules that it leaves out.

import {
  type AmdLine,
  type AmdOutcome,
  entryOf,
  judge,
  type Laxities,
  RAM_END,
  STRICT,
} from './amd-reference.ts';

/** What a line shows: whether the write landed where it was to be, and the event records in hexadecimal. */
export interface Seen {
  readonly landed: boolean;
  readonly events: readonly string[];
}

const CODE = { illegalEntry: 1n, pageFault: 2n, pageTableError: 4n } as const;
/** Fields of a record's first 64 bits (§2.5.2 to §2.5.5). */
const DOMAIN_SHIFT = 32n;
const PR = 1n << 52n;
const RW = 1n << 53n;
const PE = 1n << 54n;
const RZ = 1n << 55n;
const MASTER_ABORT = 1n << 57n;
const CODE_SHIFT = 60n;
/** What QEMU says of a page fault: I, and the permissions of a write where NX is. */
const QEMU_PAGE_FAULT = 0xan << 48n;

/** The class that each rule has which QEMU leaves out. */
const CLASSES: Readonly<Record<keyof Laxities, string>> = {
  directoryPermissions: 'directory-permissions-are-ignored',
  reservedBits: 'reserved-bits-are-ignored',
  pageSizes: 'page-size-below-the-level',
  skippedLevels: 'skipped-address-bits-are-ignored',
  suppression: 'suppression-is-ignored',
  entryFields: 'device-entry-fields-are-not-checked',
  interruptHalf: 'interrupt-fields-are-checked-for-memory',
  invalidEntry: 'invalid-entry-is-checked',
  untranslatable: 'untranslatable-device-faults-silently',
  reservedMode: 'reserved-mode-faults-silently',
};
const RULES = Object.keys(CLASSES) as (keyof Laxities)[];
const QEMU_LAX = Object.fromEntries(RULES.map((rule) => [rule, true])) as unknown as Laxities;

function record(first: bigint, second: bigint): string {
  return [first, second]
    .map((word) => word.toString(16).padStart(16, '0').match(/../g)!.toReversed().join(''))
    .join('');
}

function landed(line: AmdLine, outcome: AmdOutcome): boolean {
  return outcome.kind === 'landed' && outcome.at < RAM_END && outcome.at === BigInt(line.pa);
}

/** What the specification has the IOMMU log. */
function records(line: AmdLine, outcome: AmdOutcome): readonly string[] {
  const device = BigInt(line.rid);
  const iova = BigInt(line.iova);
  const domain = (entryOf(line)[1] & 0xffffn) << DOMAIN_SHIFT;
  const flag = (set: boolean, bit: bigint): bigint => (set ? bit : 0n);
  switch (outcome.kind) {
    case 'illegal':
      return [record(device | (CODE.illegalEntry << CODE_SHIFT) | RW | flag(outcome.rz, RZ), iova & ~3n)];
    case 'page-fault': {
      const flags = RW | flag(outcome.pr, PR) | flag(outcome.pe, PE) | flag(outcome.rz, RZ);
      return [record(device | domain | (CODE.pageFault << CODE_SHIFT) | flags, iova)];
    }
    case 'table-error':
      return [record(device | domain | (CODE.pageTableError << CODE_SHIFT) | RW | MASTER_ABORT, outcome.at)];
    default:
      return [];
  }
}

/** The classes of how QEMU logs what it finds, and its records. */
function qemuRecords(
  line: AmdLine,
  outcome: AmdOutcome,
): { classes: readonly string[]; events: readonly string[] } {
  const bare = (code: bigint, more = 0n): string =>
    record(BigInt(line.rid) | (code << CODE_SHIFT) | more, 0n);
  const pageFault = bare(CODE.pageFault, QEMU_PAGE_FAULT);
  switch (outcome.kind) {
    case 'illegal': {
      const event = bare(CODE.illegalEntry);
      return {
        classes: ['illegal-entry-without-its-fields', 'illegal-entry-is-logged-early'],
        events: [event, event],
      };
    }
    case 'page-fault':
      return { classes: ['page-fault-without-its-fields'], events: [pageFault] };
    case 'table-error':
      return {
        classes: ['page-fault-follows-a-table-error', 'table-error-without-its-fields'],
        events: [bare(CODE.pageTableError), pageFault],
      };
    default:
      return { classes: [], events: [] };
  }
}

const same = (a: Seen, b: Seen): boolean =>
  a.landed === b.landed &&
  a.events.length === b.events.length &&
  a.events.every((event, i) => event === b.events[i]);
const alike = (a: AmdOutcome, b: AmdOutcome): boolean => Object.values(a).join() === Object.values(b).join();

/** What the specification has come of a line. */
export function specified(line: AmdLine): Seen {
  const outcome = judge(line, STRICT);
  return { landed: landed(line, outcome), events: records(line, outcome) };
}

/** The differences that account for all of it; none where something else is different. */
export function classify(qemu: Seen, got: Seen, line: AmdLine): readonly string[] {
  if (!same(got, specified(line))) return [];
  const lax = judge(line, QEMU_LAX);
  const { classes, events } = qemuRecords(line, lax);
  if (!same(qemu, { landed: landed(line, lax), events })) return [];
  // Rules without which it comes out otherwise.
  const left = RULES.filter((rule) => !alike(lax, judge(line, { ...QEMU_LAX, [rule]: false })));
  return [...left.map((rule) => CLASSES[rule]), ...classes];
}
