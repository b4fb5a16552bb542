// Names the ways in which QEMU's AMD IOMMU answers otherwise than the specification, as docs/amd-differences.md lists
// them.
//
// Each takes QEMU's answer one step towards the specification's. A difference is explained when steps that apply,
// together, turn QEMU's answer into viommu's.

import type { AmdLine } from './amd.ts';

/** What a line shows: whether the write landed, and the event records in hexadecimal. */
export interface Seen {
  readonly landed: boolean;
  readonly events: readonly string[];
}

const CODE = { pageFault: 2, pageTableError: 4 } as const;
/** Bits of the upper half of a record's first word (§2.5.3). */
const PR = 1 << 20;
const PE = 1 << 22;
const RZ = 1 << 23;

/** True where QEMU translated the write, be it to where nothing is: what it denies a device with V and TV it logs. */
const passed = (qemu: Seen, line: AmdLine): boolean =>
  qemu.events.length === 0 && (word(line.dte, 0) & 3) === 3;

function word(record: string, index: number): number {
  const bytes = record.slice(index * 8, index * 8 + 8).match(/../g)!;
  return Number.parseInt(bytes.toReversed().join(''), 16);
}
const codeOf = (record: string): number => word(record, 1) >>> 28;
const deviceOf = (record: string): number => word(record, 0) & 0xffff;

/** True when the record says nothing but its code, the device and `flags`. */
function bare(record: string, code: number, flags: number): boolean {
  const first = ((code << 28) | flags) >>> 0;
  return (
    word(record, 0) < 0x1_0000 && word(record, 1) === first && word(record, 2) === 0 && word(record, 3) === 0
  );
}

/** True when an entry of the line's tables is present with Next Level 7: its address says how large the page is. */
function hasPageSize(line: AmdLine): boolean {
  return line.mem.some(([, entry]) => (word(entry, 0) & 0xe01) === 0xe01);
}

interface Difference {
  readonly name: string;
  /** QEMU's answer, one step on; null where the difference is not there. */
  apply(qemu: Seen, got: Seen, line: AmdLine): Seen | null;
}

/** Puts viommu's record in the place of QEMU's, where both are of one device and code. */
function complete(qemu: Seen, got: Seen, code: number, flags: number): Seen | null {
  const at = qemu.events.findIndex((record) => bare(record, code, flags));
  const theirs = qemu.events[at];
  const ours = got.events.find((record) => codeOf(record) === code);
  if (theirs === undefined || ours === undefined || deviceOf(theirs) !== deviceOf(ours)) return null;
  return { landed: qemu.landed, events: qemu.events.map((record, i) => (i === at ? ours : record)) };
}

const DIFFERENCES: readonly Difference[] = [
  {
    name: 'directory-permissions-are-ignored',
    apply(qemu, got, line) {
      const [record] = got.events;
      if (!passed(qemu, line) || got.landed || record === undefined || (word(record, 1) & RZ) !== 0)
        return null;
      if (codeOf(record) !== CODE.pageFault || (word(record, 1) & PE) === 0) return null;
      return { landed: false, events: got.events };
    },
  },
  {
    // QEMU has translated, or has gone on to where an entry with reserved bits leads.
    name: 'reserved-bits-are-ignored',
    apply(qemu, got, line) {
      const [record] = got.events;
      if (got.landed || record === undefined || codeOf(record) !== CODE.pageFault) return null;
      if ((word(record, 1) & RZ) === 0) return null;
      const [first] = qemu.events;
      const failedLater = first !== undefined && codeOf(first) === CODE.pageTableError;
      return passed(qemu, line) || failedLater ? { landed: false, events: got.events } : null;
    },
  },
  {
    // The write is translated by a page of 8 KiB or more that stands where a larger table does.
    name: 'page-size-below-the-level',
    apply(qemu, got, line) {
      const [record] = got.events;
      if (got.landed || record === undefined || codeOf(record) !== CODE.pageFault) return null;
      const flags = word(record, 1) & (PR | PE | RZ);
      const [first] = qemu.events;
      const failedLater = first !== undefined && codeOf(first) === CODE.pageTableError;
      if (flags !== PR || !(passed(qemu, line) || failedLater) || !hasPageSize(line)) return null;
      return { landed: false, events: got.events };
    },
  },
  {
    name: 'untranslatable-device-faults-silently',
    apply(qemu, got, line) {
      const [record] = got.events;
      if (qemu.landed || qemu.events.length > 0 || record === undefined) return null;
      const flags = word(line.dte, 0) & 3;
      if (flags !== 1 || codeOf(record) !== CODE.pageFault || (word(record, 1) & PR) !== 0) return null;
      return { landed: false, events: got.events };
    },
  },
  {
    name: 'page-fault-follows-a-table-error',
    apply(qemu, got) {
      const [first, second] = qemu.events;
      if (first === undefined || second === undefined || got.events.length !== 1) return null;
      if (codeOf(first) !== CODE.pageTableError || codeOf(second) !== CODE.pageFault) return null;
      return { landed: qemu.landed, events: [first] };
    },
  },
  {
    name: 'table-error-without-its-fields',
    apply: (qemu, got) => complete(qemu, got, CODE.pageTableError, 0),
  },
  {
    // QEMU keeps the access's permissions (write: 2) where the record has NX, and sets I.
    name: 'page-fault-without-its-fields',
    apply: (qemu, got) => complete(qemu, got, CODE.pageFault, 0x000a_0000),
  },
];

/** The differences that account for all of it; none where they are the same, or where something else is different. */
export function classify(qemu: Seen, got: Seen, line: AmdLine): readonly string[] {
  const names: string[] = [];
  let seen = qemu;
  for (const { name, apply } of DIFFERENCES) {
    if (JSON.stringify(seen) === JSON.stringify(got)) break;
    const next = apply(seen, got, line);
    if (next === null || JSON.stringify(next) === JSON.stringify(seen)) continue;
    seen = next;
    names.push(name);
  }
  return JSON.stringify(seen) === JSON.stringify(got) ? names : [];
}
