// Names the ways in which QEMU's SMMUv3 answers otherwise than the specification, as docs/smmuv3-differences.md lists them.
//
// Each takes QEMU's record one step towards the specification's. A difference is explained when steps that apply, together,
// turn QEMU's record into viommu's.

/** What a line shows: whether the write landed, and the event records in hexadecimal. */
export interface Seen {
  readonly landed: boolean;
  readonly events: readonly string[];
}

/** The words of a line's memory, little-endian and in hexadecimal. */
export interface Tables {
  readonly mem: readonly (readonly [address: string, word: string])[];
}

/** The fields in which the two differ (§7.3). */
interface Fault {
  type: number;
  s2: boolean;
  class: number;
  read: boolean;
  /** Bits 191:128: InputAddr. */
  input: bigint;
  /** Bits 255:192: IPA or FetchAddr. */
  address: bigint;
  /** The other bits, to be equal. */
  rest: string;
}

const TYPE = {
  cdFetch: 0x09,
  badCd: 0x0a,
  walkAbort: 0x0b,
  translation: 0x10,
  addressSize: 0x11,
  access: 0x12,
  permission: 0x13,
} as const;
/** What a descriptor that maps memory can fault with. */
const LEAF_FAULTS: ReadonlySet<number> = new Set([TYPE.addressSize, TYPE.access, TYPE.permission]);
const CLASS = { cd: 0, table: 1, input: 2 } as const;
/** The output address size that the recorded model advertises (IDR5.OAS). */
const OAS = 44n;
const OFFSET_IN_PAGE = 0xfffn;
const S2 = 1n << 103n;
const RNW = 1n << 99n;

interface Difference {
  readonly name: string;
  /** Changes QEMU's record where it applies. */
  apply(qemu: Fault, got: Fault, line: Tables): void;
}

/** True for a record of a fault that stage 2 had while stage 1 asked for a table. */
const ofTable = (fault: Fault): boolean => fault.s2 && fault.class === CLASS.table;

const DIFFERENCES: readonly Difference[] = [
  {
    name: 'table-out-of-range-is-a-walk-abort',
    apply(qemu, got) {
      if (qemu.type !== TYPE.walkAbort || got.type !== TYPE.addressSize) return;
      // A stage 1 table out of stage 2's reach: QEMU names its IPA as the address that was fetched.
      if (qemu.address >> OAS === 0n && !ofTable(got)) return;
      qemu.type = got.type;
      qemu.address = got.address;
      if (!qemu.s2 && !got.s2) qemu.class = CLASS.input;
    },
  },
  {
    name: 'stage-2-fault-of-a-table-without-s2',
    apply(qemu, got) {
      if (ofTable(got) && qemu.class === CLASS.table) qemu.s2 = true;
    },
  },
  {
    name: 'ipa-of-a-table-not-its-descriptor',
    apply(qemu, got) {
      if (!ofTable(got)) return;
      const above = got.address - qemu.address;
      if (above > 0n && above < 0x1_0000n) qemu.address = got.address;
    },
  },
  {
    name: 'ipa-with-offset-in-page',
    apply(qemu, got) {
      if (got.s2 && got.class === CLASS.input) qemu.address &= ~OFFSET_IN_PAGE;
    },
  },
  {
    name: 'cd-fetch-reads',
    apply(qemu, got) {
      if (got.class === CLASS.cd && qemu.class === CLASS.cd && !got.read) qemu.read = false;
    },
  },
  {
    name: 'first-table-reads',
    apply(qemu, got) {
      if (ofTable(got) && qemu.class === CLASS.table && !got.read) qemu.read = false;
    },
  },
  {
    name: 'block-at-any-level',
    apply(qemu, got, { mem }) {
      if (got.type !== TYPE.translation || !LEAF_FAULTS.has(qemu.type)) return;
      const isBlock = ([, word]: readonly [string, string]): boolean =>
        (Number.parseInt(word[1]!, 16) & 3) === 1;
      if (mem.some(isBlock)) qemu.type = got.type;
    },
  },
  {
    name: 'address-size-judged-last',
    apply(qemu, got) {
      if (got.type !== TYPE.addressSize) return;
      if (qemu.type === TYPE.access || qemu.type === TYPE.permission) qemu.type = got.type;
    },
  },
  {
    name: 'fetch-address-in-the-wrong-words',
    apply(qemu, got) {
      if (qemu.type !== TYPE.cdFetch || got.type !== TYPE.cdFetch || qemu.input !== got.address) return;
      qemu.address = qemu.input;
      qemu.input = 0n;
    },
  },
  {
    name: 'stage-1-address-size-has-class-table',
    apply(qemu, got) {
      if (got.type !== TYPE.addressSize || got.s2 || qemu.class !== CLASS.table || qemu.s2) return;
      qemu.class = CLASS.input;
      qemu.address = 0n;
    },
  },
];
const UNRECORDED = 'bypassed-stage-1-address-size-unrecorded';

/** The difference by which QEMU lets a write through that ends in `ours`. */
function passed(ours: Fault): readonly string[] {
  if (ours.type === TYPE.permission && !ours.s2 && ours.class === CLASS.input)
    return ['privileges-unchecked'];
  if (ours.type === TYPE.badCd) return ['ttb-out-of-range-is-cut'];
  return ofTable(ours) ? ['ipa-of-a-table-not-its-descriptor'] : [];
}

/** The names of the differences that account for all of it; none where something else differs too. */
export function classify(qemu: Seen, got: Seen, line: Tables): readonly string[] {
  if (got.landed || got.events.length !== 1) return [];
  const ours = decode(got.events[0]!);
  if (qemu.events.length === 0) {
    if (qemu.landed) return passed(ours);
    const stage1 = ours.type === TYPE.addressSize && !ours.s2 && ours.class === CLASS.input;
    return stage1 ? [UNRECORDED] : [];
  }
  const fault = decode(qemu.events[0]!);
  const names: string[] = [];
  for (const difference of DIFFERENCES) {
    const before = { ...fault };
    difference.apply(fault, ours, line);
    if (!same(before, fault)) names.push(difference.name);
  }
  return same(fault, ours) ? names : [];
}

function decode(hex: string): Fault {
  const record = BigInt(`0x${hex.match(/../g)!.toReversed().join('')}`);
  const type = Number(record & 0xffn);
  const address = record >> 192n;
  const below = record & ((1n << 128n) - 1n) & ~0xffn & ~S2 & ~RNW & ~(3n << 104n);
  return {
    type,
    s2: (record & S2) !== 0n,
    class: Number((record >> 104n) & 3n),
    read: (record & RNW) !== 0n,
    input: (record >> 128n) & ((1n << 64n) - 1n),
    address,
    rest: below.toString(16),
  };
}

function same(a: Fault, b: Fault): boolean {
  return (
    a.type === b.type &&
    a.s2 === b.s2 &&
    a.class === b.class &&
    a.read === b.read &&
    a.input === b.input &&
    a.address === b.address &&
    a.rest === b.rest
  );
}
