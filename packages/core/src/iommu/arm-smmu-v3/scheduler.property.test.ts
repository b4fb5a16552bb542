import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { IOMMU_HWPT_ALLOC_NEST_PARENT } from '../../abi/iommufd.ts';
import { attachDevice, detachDevice, replaceDevice } from '../../iommufd/device/attach.ts';
import { bindDevice, unbindDevice } from '../../iommufd/device/device.ts';
import { Kernel } from '../../machine/kernel.ts';
import { StaleLeaves } from '../testing/stale-leaves.ts';
import type { SmmuFunction, SmmuUnit } from './platform.ts';
import { IPA, MIB, TestMachine, VA, type Bound } from './testing/machine.ts';
import { guestCommand, guestSte, STE_ABORT, STE_BYPASS, writeGuestCd } from './testing/guest.ts';
import type { TestProgram } from './testing/program.ts';
import { GuestMemory, GuestTables } from '../testing/guest.ts';
import { bytesOf, textOf } from '../../base/testing/ascii.ts';

// Two VMs, each with a device behind each of two SMMUs, do DMA, edit their tables, invalidate some of what they changed,
// and attach and detach, in any order. Whatever a device reaches must be allowed by the tables as they are, or as they
// were at some moment since the last invalidation that covers them.

const VMS = 2;
const SMMUS = 2;
const TABLES = 2;
const IOVAS = 3;
/** Pages of guest memory; the last lies in a part that the VMM maps and unmaps. */
const PAGES = 4;
const MOVING = PAGES - 1;
const MOVING_IPA = 0x2_0000_0000n;
const iovaOf = (index: number): bigint => 0x5000_0000_0000n + BigInt(index) * 0x1000n;
const FAULT = 'fault';

type State = 'detached' | 'abort' | 'bypass' | 'stage1';

/** What a page table entry leads to: a page of the guest, or nothing. */
type Leaf = number | null;

/** One device of a VM, and what its SMMU may have cached for it. */
class Port {
  readonly unit: SmmuUnit;
  readonly device: SmmuFunction;
  readonly bound: Bound;
  readonly viommu: number;
  state: State = 'detached';
  cd = 0;
  /** The viommu's VMID, read where hardware has it; an STE that aborts or bypasses names none. */
  vmid = -1;
  /** Tables that the CD named since it was last invalidated. */
  readonly tables = new Set<number>();
  /** By table and IOVA. */
  readonly leaves = new StaleLeaves<Leaf>(TABLES, IOVAS, null);

  constructor(unit: SmmuUnit, device: SmmuFunction, bound: Bound, viommu: number) {
    this.unit = unit;
    this.device = device;
    this.bound = bound;
    this.viommu = viommu;
  }
}

/** STE.S2VMID of a device's STE, as it stands in memory. */
function vmidOf(port: Port): number {
  const word = new Uint32Array(2);
  const { smmu } = port.unit;
  smmu.kernel.physical.load64(smmu.streamTable.steAddress(port.device.sid) + 16, word);
  return word[0]! & 0xffff;
}

class Vm {
  readonly machine: TestMachine;
  readonly program: TestProgram;
  readonly memory: GuestMemory;
  readonly ioas: number;
  readonly ports: Port[] = [];
  readonly tables: GuestTables[];
  /** ASID of table t is t + 1, in both VMs. */
  readonly entries: Leaf[][];
  readonly cdPage: bigint;
  readonly cds = [0, 1];
  readonly pages: bigint[];
  readonly #name: number;
  moved = false;

  constructor(machine: TestMachine, index: number) {
    this.machine = machine;
    this.#name = index;
    this.program = machine.program();
    this.ioas = this.program.ioas();
    this.memory = new GuestMemory(this.program, VA, IPA, MIB);
    this.program.process.memory.map(VA + 16n * MIB, 0x1000n);
    this.program.map(this.ioas, VA, IPA, MIB);
    this.tables = Array.from({ length: TABLES }, () => new GuestTables(this.memory));
    this.entries = Array.from({ length: TABLES }, () => Array.from({ length: IOVAS }, () => null));
    this.cdPage = this.memory.page();
    this.pages = Array.from({ length: PAGES }, (_, page) =>
      page === MOVING ? MOVING_IPA : this.memory.page(),
    );
    for (const [page, ipa] of this.pages.entries()) {
      if (page !== MOVING) this.memory.write(ipa, this.text(page));
    }
    this.program.write(VA + 16n * MIB, bytesOf(this.text(MOVING)));
    for (const cd of [0, 1]) this.#writeCd(cd);
    for (let smmu = 0; smmu < SMMUS; smmu++) this.#addPort(smmu, 0x20 + index);
  }

  #addPort(smmu: number, sid: number): void {
    const device = this.machine.device(sid, { smmu, name: `vm${this.#name}-${smmu}` });
    const bound = this.machine.bind(this.program, device);
    const parent = this.program.hwpt(bound.id, this.ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
    const viommu = this.program.viommu(bound.id, parent);
    this.program.vdevice(viommu, bound.id, 0x99n);
    expect(this.program.errno).toBe(0);
    this.ports.push(new Port(this.machine.units[smmu]!, device, bound, viommu));
  }

  /** What is written at the start of a page: four characters that say whose it is. */
  text(page: number): string {
    return `v${this.#name}p${page}`;
  }

  #writeCd(cd: number): void {
    const table = this.cds[cd]!;
    writeGuestCd(this.memory, this.cdPage + BigInt(cd) * 64n, this.tables[table]!, table + 1);
  }

  // ---- what happens ----

  edit(table: number, iova: number, page: Leaf): void {
    this.entries[table]![iova] = page;
    if (page === null) this.tables[table]!.unmap(iovaOf(iova));
    else this.tables[table]!.map(iovaOf(iova), this.pages[page]!);
    for (const port of this.ports) port.leaves.note(table, iova, page);
  }

  pointCd(cd: number, table: number): void {
    this.cds[cd] = table;
    this.#writeCd(cd);
    for (const port of this.ports) if (port.state === 'stage1' && port.cd === cd) port.tables.add(table);
  }

  attach(port: Port, state: Exclude<State, 'detached'>, cd: number): void {
    const ste =
      state === 'stage1'
        ? guestSte(this.cdPage + BigInt(cd) * 64n)
        : state === 'bypass'
          ? STE_BYPASS
          : STE_ABORT;
    const hwpt = this.program.nested(port.bound.id, port.viommu, ste);
    expect(this.program.errno).toBe(0);
    expect(this.machine.attach(this.program, port.bound, hwpt)).toBe(0);
    // An STE that says the same again is not written, and so nothing is forgotten.
    const same = port.state === 'stage1' && state === 'stage1' && port.cd === cd;
    if (!same) port.tables.clear();
    if (state === 'stage1') {
      port.tables.add(this.cds[cd]!);
      port.vmid = vmidOf(port);
    }
    port.state = state;
    port.cd = cd;
  }

  detach(port: Port): void {
    if (port.state === 'detached') return;
    this.machine.detach(this.program, port.bound);
    port.state = 'detached';
    port.tables.clear();
  }

  /** The VMM maps or unmaps the part that moves. */
  move(): void {
    if (this.moved) this.program.unmap(this.ioas, MOVING_IPA, 0x1000n);
    else this.program.map(this.ioas, VA + 16n * MIB, MOVING_IPA, 0x1000n);
    expect(this.program.errno).toBe(0);
    this.moved = !this.moved;
  }

  invalidate(port: Port, what: Invalidation): void {
    const forget = (table: number, iova: number): void =>
      port.leaves.forget(table, iova, this.entries[table]![iova]!);
    const each = (tables: readonly number[], iovas: readonly number[]): void => {
      for (const table of tables) for (const iova of iovas) forget(table, iova);
    };
    const allTables = [...this.tables.keys()];
    const allIovas = [...Array(IOVAS).keys()];
    const forgetCd = (): void => {
      port.tables.clear();
      if (port.state === 'stage1') port.tables.add(this.cds[port.cd]!);
    };
    const { kind, table, iova } = what;
    switch (kind) {
      case 'all':
        this.#send(port, guestCommand.tlbiAll());
        return each(allTables, allIovas);
      case 'asid':
        this.#send(port, guestCommand.tlbiAsid(table + 1));
        return each([table], allIovas);
      case 'va':
        this.#send(port, guestCommand.tlbiVa(table + 1, iovaOf(iova)));
        return each([table], [iova]);
      case 'vaa':
        this.#send(port, guestCommand.tlbiVaa(iovaOf(iova)));
        return each(allTables, [iova]);
      case 'cd':
        this.#send(port, guestCommand.cfgiCd(0x99));
        return forgetCd();
      case 'cds':
        this.#send(port, guestCommand.cfgiCdAll(0x99));
        return forgetCd();
    }
  }

  #send(port: Port, command: [bigint, bigint]): void {
    expect(this.program.invalidate(port.viommu, [command])).toBe(1);
    expect(this.program.errno).toBe(0);
  }

  // ---- what may be seen ----

  /** What four bytes read through `port` may be. */
  allowed(port: Port, iova: number): Set<string> {
    if (port.state !== 'stage1') return new Set([FAULT]);
    const seen = new Set<string>();
    for (const table of port.tables)
      for (const leaf of port.leaves.of(table, iova)) seen.add(this.#through(leaf));
    return seen;
  }

  #through(leaf: Leaf): string {
    return leaf === null || (leaf === MOVING && !this.moved) ? FAULT : this.text(leaf);
  }

  /** The same for a page of the guest's memory as an address. */
  allowedFlat(port: Port, page: number): string {
    return port.state === 'bypass' ? this.#through(page) : FAULT;
  }

  read(port: Port, address: bigint): string {
    const data = new Uint8Array(4);
    const rc = port.device.dma({ write: false, iova: address, pasid: null, data });
    // A translation that is left of memory that is gone ends on the bus, which is as bad as reaching it.
    if (failed(rc)) return rc.reason.includes('nothing answers') ? 'bus' : FAULT;
    return textOf(data);
  }
}

interface Invalidation {
  readonly kind: 'all' | 'asid' | 'va' | 'vaa' | 'cd' | 'cds';
  readonly table: number;
  readonly iova: number;
}

type Step =
  | { readonly do: 'read'; readonly iova: number }
  | { readonly do: 'readFlat'; readonly page: number }
  | { readonly do: 'edit'; readonly table: number; readonly iova: number; readonly page: Leaf }
  | { readonly do: 'pointCd'; readonly cd: number; readonly table: number }
  | { readonly do: 'attach'; readonly state: 'abort' | 'bypass' | 'stage1'; readonly cd: number }
  | { readonly do: 'detach' }
  | { readonly do: 'move' }
  | ({ readonly do: 'invalidate' } & Invalidation);

const nat = (below: number): fc.Arbitrary<number> => fc.integer({ min: 0, max: below - 1 });

const stepArbitrary: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant('read' as const), iova: nat(IOVAS) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('readFlat' as const), page: nat(PAGES) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('edit' as const),
      table: nat(TABLES),
      iova: nat(IOVAS),
      page: fc.option(nat(PAGES), { freq: 5 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('pointCd' as const), cd: nat(2), table: nat(TABLES) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('attach' as const),
      state: fc.constantFrom('abort' as const, 'bypass' as const, 'stage1' as const, 'stage1' as const),
      cd: nat(2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('detach' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('move' as const) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('invalidate' as const),
      kind: fc.constantFrom<Invalidation['kind'][]>('all', 'asid', 'va', 'vaa', 'cd', 'cds'),
      table: nat(TABLES),
      iova: nat(IOVAS),
    }),
  },
);

/** VA translations that an SMMU has cached, by VMID. */
function cachedByVmid(unit: SmmuUnit): Map<number, string[]> {
  const { iotlb } = unit.hardware;
  const { cache } = iotlb.leaves;
  const found = new Map<number, string[]>();
  for (const regime of iotlb.regimes()) {
    const entries: string[] = [];
    for (let slot = 0; slot < cache.capacity; slot++) {
      if (cache.domainOf(slot) === regime.va.id)
        entries.push(
          `${cache.spaceOf(slot)}:${cache.addressHi(slot)}:${cache.addressLo(slot)}:${cache.out(slot)}`,
        );
    }
    found.set(regime.vmid, entries);
  }
  return found;
}

function run(vm: Vm, port: Port, step: Step): void {
  switch (step.do) {
    case 'read':
      return expect([...vm.allowed(port, step.iova)]).toContain(vm.read(port, iovaOf(step.iova)));
    case 'readFlat':
      return expect(vm.read(port, vm.pages[step.page]!)).toBe(vm.allowedFlat(port, step.page));
    case 'edit':
      return vm.edit(step.table, step.iova, step.page);
    case 'pointCd':
      return vm.pointCd(step.cd, step.table);
    case 'attach':
      return vm.attach(port, step.state, step.cd);
    case 'detach':
      return vm.detach(port);
    case 'move':
      return vm.move();
    case 'invalidate': {
      const before = port.unit.smmu.driver.smmus.map((_, index) => cachedByVmid(vm.machine.units[index]!));
      vm.invalidate(port, step);
      for (const [index, unit] of vm.machine.units.entries()) {
        const after = cachedByVmid(unit);
        for (const [vmid, entries] of before[index]!) {
          if (unit === port.unit && vmid === port.vmid) continue;
          expect(after.get(vmid)).toEqual(entries);
        }
      }
    }
  }
}

const iommufd = { bindDevice, unbindDevice, attachDevice, replaceDevice, detachDevice };

const scheduled = fc.record({ vm: nat(VMS), smmu: nat(SMMUS), step: stepArbitrary });

describe('two VMs on two SMMUs, whatever they do and in whatever order', () => {
  it(
    'reach what their tables allow or allowed, and never what is the other one’s',
    { timeout: 120_000 },
    () => {
      fc.assert(
        fc.property(fc.array(scheduled, { minLength: 20, maxLength: 120 }), (schedule) => {
          const caches = { tlb: 64, streams: 16, contexts: 16 };
          const machine = new TestMachine(new Kernel(), iommufd, {
            smmus: SMMUS,
            caches,
            IDR1: { SIDSIZE: 8 },
          });
          const vms = Array.from({ length: VMS }, (_, index) => new Vm(machine, index));
          for (const vm of vms) for (const port of vm.ports) vm.attach(port, 'stage1', 0);
          for (const { vm, smmu, step } of schedule) run(vms[vm]!, vms[vm]!.ports[smmu]!, step);
        }),
        { numRuns: 60 },
      );
    },
  );
});
