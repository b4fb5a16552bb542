// Runs one recorded DMA write on the VT-d model: programs it as the recorder programmed QEMU's, with the line's root
// table and memory, and compares where the write landed and what the fault recording register says.

import { type IntelConfig, intelConfigFromRegisters } from '@viommu/core/iommu/intel/hardware/config';
import { IntelIommu } from '@viommu/core/iommu/intel/hardware/intel-iommu';
import { FAULT } from '@viommu/core/iommu/intel/spec/faults';
import { OFFSET } from '@viommu/core/iommu/intel/spec/registers';
import type { PhysicalMemory } from '@viommu/core/memory/physical';
import type { Answer, Vendor } from './vendor.ts';

interface Header {
  readonly model: string;
  readonly cap: string;
  readonly ecap: string;
}

interface Line {
  readonly rid: number;
  readonly mode: 'legacy' | 'scalable';
  readonly root: string;
  readonly iova: string;
  readonly pa: string;
  readonly mem: readonly (readonly [address: string, word: string])[];
  readonly qemu: { readonly landed: boolean; readonly events: readonly string[] };
}

/** QEMU's q35 machine: a word of its RAM is zero until it is written; accesses elsewhere abort. */
const RAM_END = 0x4000_0000;
/** VER_REG of QEMU's model. */
const VERSION = 0x10;
/** DMAR table of QEMU's model: Host Address Width (aw-bits, 48 by default). */
const HOST_ADDRESS_WIDTH = 48;
/** ECAP fields of interrupt remapping, which viommu does not have: IR, EIM, MHMV. */
const INTERRUPT_REMAPPING = 0xf0_0018n;
const FRCD = 0x220;

class Memory implements PhysicalMemory {
  readonly words = new Map<number, readonly [lo: number, hi: number]>();

  load64(pa: number, out: Uint32Array): boolean {
    if (pa >= RAM_END) return false;
    const [lo, hi] = this.words.get(pa) ?? [0, 0];
    out[0] = lo;
    out[1] = hi;
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    if (pa >= RAM_END) return false;
    this.words.set(pa, [lo >>> 0, hi >>> 0]);
    return true;
  }

  read = (): boolean => false;
  write = (): boolean => false;

  /** Stores eight bytes given in hexadecimal, as memory holds them. */
  put(pa: number, hex: string): void {
    this.words.set(pa, [littleEndian(hex.slice(0, 8)), littleEndian(hex.slice(8, 16))]);
  }
}

function littleEndian(hex: string): number {
  return Number.parseInt(hex.match(/../g)!.toReversed().join(''), 16);
}

function toBytes(value: bigint): string {
  return value.toString(16).padStart(16, '0').match(/../g)!.toReversed().join('');
}

export const vtd: Vendor = {
  name: 'vtd',
  differences: 'docs/vtd-differences.md',
  accepts: (first) => typeof first['cap'] === 'string' && typeof first['ecap'] === 'string',

  open(first) {
    const header = first as unknown as Header;
    const config = intelConfigFromRegisters(
      { version: VERSION, cap: BigInt(header.cap), ecap: BigInt(header.ecap) & ~INTERRUPT_REMAPPING },
      {
        hostAddressWidth: HOST_ADDRESS_WIDTH,
        caches: { tlb: 64, contexts: 4, pasids: 4, tables: true },
      },
    );
    return (line) => run(line as unknown as Line, config);
  },
};

function run(line: Line, config: IntelConfig): Answer {
  const memory = new Memory();
  for (const [address, word] of line.mem) memory.put(Number.parseInt(address, 16), word);
  const iommu = new IntelIommu({ memory, config });
  const scalable = line.mode === 'scalable';
  iommu.writeRegister(OFFSET.RTADDR, 8, BigInt(line.root) | (scalable ? 0x400n : 0n));
  iommu.writeRegister(OFFSET.GCMD, 4, 1n << 30n);
  iommu.writeRegister(OFFSET.GCMD, 4, 1n << 31n);
  const iova = BigInt(line.iova);
  const outcome = iommu.translate({
    requesterId: line.rid,
    hi: Number(iova >> 32n),
    lo: Number(iova & 0xffff_ffffn),
    write: true,
    length: 4,
  });
  const pa = outcome.kind === 'translated' ? outcome.pa : null;
  const landed = pa !== null && pa < RAM_END && pa === Number.parseInt(line.pa, 16);
  const events: string[] = [];
  const high = iommu.readRegister(FRCD + 8, 8);
  if (high >> 63n === 1n) events.push(toBytes(iommu.readRegister(FRCD, 8)) + toBytes(high));
  const expected: Seen = { landed: line.qemu.landed, events: [...line.qemu.events] };
  const got: Seen = { landed, events };
  return { expected, got, classes: classify(expected, got) };
}

interface Seen {
  readonly landed: boolean;
  readonly events: readonly string[];
}

/** The fault reason of the one record, or null. */
function reasonOf({ events }: Seen): number | null {
  return events.length === 1 ? Number.parseInt(events[0]!.slice(24, 26), 16) : null;
}

/** A difference of the fault reason alone, as docs/vtd-differences.md names it. */
interface ReasonDifference {
  readonly name: string;
  readonly theirs: readonly number[];
  readonly ours: readonly number[];
}

const REASONS: readonly ReasonDifference[] = [
  {
    name: 'root-fault-of-the-wrong-mode',
    theirs: [FAULT.LRT_1.reason, FAULT.LRT_2.reason, FAULT.LRT_3.reason],
    ours: [FAULT.SRT_1.reason, FAULT.SRT_2.reason, FAULT.SRT_3.reason],
  },
  {
    name: 'context-fault-of-the-wrong-mode',
    theirs: [FAULT.LCT_1.reason, FAULT.LCT_2.reason, FAULT.LCT_3.reason],
    ours: [FAULT.SCT_1.reason, FAULT.SCT_2.reason, FAULT.SCT_3.reason],
  },
  {
    name: 'permissions-judged-at-each-level',
    theirs: [FAULT.LGN_2.reason, FAULT.SGN_2.reason, FAULT.SGN_6.reason],
    ours: [FAULT.LGN_4.reason, 0x07, 0x0c, FAULT.SFS_1.reason, FAULT.SFS_2.reason, FAULT.SFS_3.reason],
  },
];

/** Reasons that only viommu has, whatever QEMU goes on to find, or where it lands. */
const STRICTER: ReadonlyMap<number, string> = new Map([
  [FAULT.SCT_3.reason, 'context-entry-reserved-bits-are-ignored'],
  [FAULT.SPD_3.reason, 'pasid-entry-reserved-bits-are-ignored'],
  [FAULT.SPT_2.reason, 'pasid-entry-type-judged-first'],
  [FAULT.SPT_3.reason, 'pasid-entry-reserved-bits-are-ignored'],
  [FAULT.SFS_9.reason, 'accessed-flags-without-coherency'],
]);

/** The fault address without the bits above the guest address width (MGAW), which the register holds as zero. */
function withinWidth(event: string): string {
  const ADDRESS_DIGITS = HOST_ADDRESS_WIDTH / 4;
  return event.slice(0, ADDRESS_DIGITS).padEnd(16, '0') + event.slice(16);
}

/** Names a difference as docs/vtd-differences.md does; empty where it has no name there. */
function classify(expected: Seen, got: Seen): readonly string[] {
  const [theirs, ours] = [reasonOf(expected), reasonOf(got)];
  if (got.landed) return theirs === FAULT.LCT_3.reason ? ['pass-through-checks-the-table-pointer'] : [];
  if (ours === null) return [];
  const stricter = STRICTER.get(ours);
  if (theirs === null) return stricter === undefined ? [] : [stricter];
  const record = withinWidth(expected.events[0]!);
  const names = record === expected.events[0] ? [] : ['fault-address-above-the-width'];
  // Nothing but the reason differs.
  const rest = (event: string): string => event.slice(0, 24) + event.slice(26);
  if (rest(record) !== rest(got.events[0]!)) return [];
  if (theirs === ours) return names;
  const reasons = REASONS.find((each) => each.theirs.includes(theirs) && each.ours.includes(ours));
  const name = reasons?.name ?? stricter;
  return name === undefined ? [] : [...names, name];
}
