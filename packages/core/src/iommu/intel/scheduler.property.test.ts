import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readField } from '../../base/bit-fields.ts';
import { IOMMU_HWPT_ALLOC_DIRTY_TRACKING } from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import { StaleLeaves } from '../testing/stale-leaves.ts';
import type { DmarDomain } from './driver/domains/domain-base.ts';
import type { IntelNestedDomain } from './driver/domains/nested-domain.ts';
import type { IntelPagingDomain } from './driver/domains/paging-domain.ts';
import { GuestTables } from './testing/guest-tables.ts';
import { DESC, DEV_TLB_INV_DSC, IOTLB_INV_DSC, P_DEV_TLB_INV_DSC } from './spec/invalidation.ts';
import { PAGE, PROT, Rig, type RigFunction } from './testing/rig.ts';
import { bytesOf } from '../../base/testing/ascii.ts';

// Two VMs, each with a device behind each of two units, do DMA without and with a PASID, edit their tables, invalidate
// some of what they changed, attach and detach, and lose and get memory, in any order. Whatever a device reaches must be
// allowed by the tables as they are, or as they were at some moment since the last invalidation that covers them; and
// nothing that happens to one VM invalidates what is the other's.

const VMS = 2;
const UNITS = 2;
const TABLES = 2;
const IOVAS = 3;
/** Pages of guest memory; the last lies in a part that the VMM maps and unmaps. */
const PAGES = 4;
const MOVING = PAGES - 1;
const MOVING_GPA = 0x2_0000_0000n;
const GPA = 0x10_0000n;
const MIB = 0x10_0000n;
const PASID = 3;
const FAULT = 'fault';
/** Neighbours, two of them in one table and one in another. */
const IOVA = [0x5000_001f_e000n, 0x5000_001f_f000n, 0x5000_0020_0000n] as const;

/** What a page table entry leads to: a page of the guest, or nothing. */
type Leaf = number | null;
/** What requests with one PASID, or without, meet: a guest's table, the guest's memory, nothing. */
type State = number | 'flat' | 'detached';

/** Requests of a device that meet one domain. */
class Slot {
  readonly device: RigFunction;
  readonly unit: number;
  readonly pasid: number | null;
  readonly stale = new StaleLeaves<Leaf>(TABLES, IOVAS, null);
  state: State = 'detached';

  constructor(device: RigFunction, unit: number, pasid: number | null) {
    this.device = device;
    this.unit = unit;
    this.pasid = pasid;
  }
}

class Vm {
  readonly rig: Rig;
  readonly slots: Slot[] = [];
  readonly parent: IntelPagingDomain;
  readonly tables: GuestTables[];
  readonly nested: IntelNestedDomain[];
  readonly entries: Leaf[][];
  readonly pages: bigint[];
  readonly #name: number;
  readonly #moving: number;
  moved = false;
  tracked = false;

  constructor(rig: Rig, index: number) {
    this.rig = rig;
    this.#name = index;
    for (let unit = 0; unit < UNITS; unit++) {
      // One of the devices has a translation cache of its own.
      const device = rig.device(0x100 + index * 8, { unit, withAts: unit === 0 });
      this.slots.push(new Slot(device, unit, null), new Slot(device, unit, PASID));
    }
    const { device } = this.slots[0]!;
    this.parent = rig.parent(device, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    const pa = rig.ram('', 256);
    expect(this.parent.map(GPA, pa, MIB, PROT)).toBeUndefined();
    // Each table takes its pages from a quarter of the memory.
    const quarter = (MIB / 4n) as bigint;
    const at = (part: bigint): GuestTables =>
      new GuestTables(
        rig.kernel.physical,
        pa + 0x4_0000 * Number.parseInt(part.toString(), 10),
        GPA + part * quarter,
      );
    this.tables = [at(0n), at(1n)];
    for (const table of this.tables) for (const iova of IOVA) table.leaf(iova);
    this.nested = this.tables.map((table) => rig.nested(device, this.parent, table.root));
    this.entries = this.tables.map(() => IOVA.map(() => null));
    const data = at(2n);
    this.pages = Array.from({ length: PAGES }, (_, page) => (page === MOVING ? MOVING_GPA : data.page()));
    for (const [page, gpa] of this.pages.entries())
      if (page !== MOVING) rig.kernel.physical.write(data.hostAddress(gpa), bytesOf(this.text(page)));
    this.#moving = rig.ram(this.text(MOVING));
  }

  /** What is at the start of a page: three characters that say whose it is. */
  text(page: number): string {
    return `${this.#name}p${page}`;
  }

  /** Domain ids that are the VM's on a unit. */
  dids(unit: number): number[] {
    const { dmar } = this.rig.units[unit]!;
    const domains: DmarDomain[] = [this.parent, ...this.nested];
    return domains.flatMap((domain) =>
      domain.tags.all.filter((tag) => tag.unit === dmar).map((tag) => tag.did),
    );
  }

  // ---- what happens ----

  edit(table: number, iova: number, page: Leaf): void {
    this.entries[table]![iova] = page;
    if (page === null) this.tables[table]!.unmap(IOVA[iova]!);
    else this.tables[table]!.map(IOVA[iova]!, this.pages[page]!);
    for (const slot of this.slots) slot.stale.note(table, iova, page);
  }

  attach(slot: Slot, to: Exclude<State, 'detached'>): void {
    const domain = to === 'flat' ? this.parent : this.nested[to]!;
    // PASIDs of a group keep their domain while it is the same: nothing is forgotten.
    const same = slot.state === to;
    expect(this.rig.attach(slot.device, domain, slot.pasid ?? 0)).toBe(0);
    slot.state = to;
    if (to !== 'flat' && !same) this.#forget(slot, to, [0, 1, 2]);
  }

  #forget(slot: Slot, table: number, iovas: readonly number[]): void {
    for (const iova of iovas) slot.stale.forget(table, iova, this.entries[table]![iova]!);
  }

  detach(slot: Slot): void {
    if (slot.state === 'detached') return;
    this.rig.detach(slot.device, slot.pasid ?? 0);
    slot.state = 'detached';
  }

  /** The VMM maps or unmaps the part that moves. */
  move(): void {
    if (this.moved) expect(this.parent.unmap(MOVING_GPA, PAGE)).toBe(PAGE);
    else expect(this.parent.map(MOVING_GPA, this.#moving, PAGE, PROT)).toBeUndefined();
    this.moved = !this.moved;
  }

  track(): void {
    this.tracked = !this.tracked;
    expect(this.parent.setDirtyTracking(this.tracked)).toBeUndefined();
    expect(this.parent.readAndClearDirty(GPA, MIB, true, null)).toBeUndefined();
    this.parent.iotlbSync();
  }

  invalidate(table: number, first: number, count: number): void {
    const everything = count === 0;
    const entry = everything
      ? { addr: 0n, npages: 0xffff_ffff_ffff_ffffn }
      : { addr: IOVA[first]!, npages: BigInt(count), flags: 1 };
    expect(this.rig.invalidate(this.nested[table]!, [entry])).toEqual({ errno: 0, handled: 1 });
    const named = [0, 1, 2].filter((iova) => everything || (iova >= first && iova < first + count));
    for (const slot of this.slots) if (slot.state === table) this.#forget(slot, table, named);
  }

  // ---- what may be seen ----

  /** What three bytes read through a slot may be. */
  allowed(slot: Slot, iova: number): string[] {
    if (typeof slot.state !== 'number') return [FAULT];
    return [...slot.stale.of(slot.state, iova)].map((leaf) => this.#through(leaf));
  }

  #through(leaf: Leaf): string {
    return leaf === null || (leaf === MOVING && !this.moved) ? FAULT : this.text(leaf);
  }

  /** The same for a page of the guest's memory as an address. */
  allowedFlat(slot: Slot, page: number): string {
    return slot.state === 'flat' ? this.#through(page) : FAULT;
  }
}

type Step =
  | { readonly do: 'read'; readonly iova: number }
  | { readonly do: 'readFlat'; readonly page: number }
  | { readonly do: 'edit'; readonly table: number; readonly iova: number; readonly page: Leaf }
  | { readonly do: 'attach'; readonly to: number | 'flat' }
  | { readonly do: 'detach' }
  | { readonly do: 'move' }
  | { readonly do: 'track' }
  | { readonly do: 'invalidate'; readonly table: number; readonly first: number; readonly count: number };

const nat = (below: number): fc.Arbitrary<number> => fc.integer({ min: 0, max: below - 1 });
const doing = <Name extends Step['do']>(name: Name) => fc.constant(name);

const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 9, arbitrary: fc.record({ do: doing('read'), iova: nat(IOVAS) }) },
  { weight: 1, arbitrary: fc.record({ do: doing('readFlat'), page: nat(PAGES) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: doing('edit'),
      table: nat(TABLES),
      iova: nat(IOVAS),
      page: fc.constantFrom<Leaf[]>(0, 1, 2, MOVING, MOVING, null),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: doing('attach'), to: fc.constantFrom<(number | 'flat')[]>(0, 1, 1, 'flat') }),
  },
  { weight: 1, arbitrary: fc.record({ do: doing('detach') }) },
  { weight: 2, arbitrary: fc.record({ do: doing('move') }) },
  { weight: 1, arbitrary: fc.record({ do: doing('track') }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: doing('invalidate'), table: nat(TABLES), first: nat(IOVAS), count: nat(3) }),
  },
);

function run(vm: Vm, slot: Slot, step: Step): void {
  switch (step.do) {
    case 'read':
      for (const each of vm.slots)
        expect(vm.allowed(each, step.iova)).toContain(each.device.read(IOVA[step.iova]!, each.pasid));
      return;
    case 'readFlat':
      return expect(slot.device.read(vm.pages[step.page]!, slot.pasid)).toBe(vm.allowedFlat(slot, step.page));
    case 'edit':
      return vm.edit(step.table, step.iova, step.page);
    case 'attach':
      return vm.attach(slot, step.to);
    case 'detach':
      return vm.detach(slot);
    case 'move':
      return vm.move();
    case 'track':
      return vm.track();
    case 'invalidate':
      return vm.invalidate(step.table, step.first, step.count);
  }
}

/** Whom a descriptor names: a domain id or a device of the unit. */
interface Named {
  readonly unit: number;
  readonly did?: number;
  readonly sid?: number;
}

function namedBy(unit: number, words: readonly number[]): Named | null {
  switch (words[0]! & 0xf) {
    case DESC.DEV_TLB_INV:
      return { unit, sid: readField(DEV_TLB_INV_DSC.SID, words) };
    case DESC.P_DEV_TLB_INV:
      return { unit, sid: readField(P_DEV_TLB_INV_DSC.SID, words) };
    case DESC.INV_WAIT:
      return null;
    default:
      // The domain id lies at the same place in all others.
      return { unit, did: readField(IOTLB_INV_DSC.DID, words) };
  }
}

/** Watches what is sent to each unit. */
function watch(rig: Rig): Named[] {
  const seen: Named[] = [];
  for (const [unit, { dmar }] of rig.units.entries()) {
    const send = dmar.invalidate.bind(dmar);
    dmar.invalidate = (descriptors, drain) => {
      for (const descriptor of descriptors) {
        const named = namedBy(unit, descriptor);
        // What is nobody's is cached under domain id 0.
        if (named !== null && named.did !== 0) seen.push(named);
      }
      return send(descriptors, drain);
    };
  }
  return seen;
}

const scheduled = fc.record({ vm: nat(VMS), slot: nat(2 * UNITS), step: steps });

describe('two VMs on two units, whatever they do and in whatever order', () => {
  it(
    'reach what their tables allow or allowed, and never touch what is the other one’s',
    { timeout: 120_000 },
    () => {
      fc.assert(
        fc.property(
          fc.array(scheduled, { minLength: 20, maxLength: 120 }),
          fc.boolean(),
          (schedule, cachingMode) => {
            const caches = { tlb: 64, contexts: 16, pasids: 16 };
            const rig = new Rig(new Kernel(), { units: UNITS, caches, CAP: { CM: cachingMode ? 1 : 0 } });
            const vms = Array.from({ length: VMS }, (_, index) => new Vm(rig, index));
            for (const vm of vms) for (const slot of vm.slots) vm.attach(slot, 0);
            const seen = watch(rig);
            for (const { vm: index, slot, step } of schedule) {
              const vm = vms[index]!;
              const mine = [0, 1].map((unit) => new Set(vm.dids(unit)));
              seen.length = 0;
              run(vm, vm.slots[slot]!, step);
              for (const [unit, dids] of mine.entries()) for (const did of vm.dids(unit)) dids.add(did);
              for (const { unit, did, sid } of seen) {
                if (did !== undefined) expect([...mine[unit]!]).toContain(did);
                if (sid !== undefined) expect(sid).toBe(0x100 + index * 8);
              }
            }
          },
        ),
        { numRuns: 60 },
      );
    },
  );
});
