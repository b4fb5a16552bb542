import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HWPT_DATA_ARM_SMMUV3,
  IOMMU_HWPT_DATA_VTD_S1,
} from '../../abi/iommufd.ts';
import { IOMMU_VTD_S1_EAFE, IOMMU_VTD_S1_SRE, IOMMU_VTD_S1_WPE } from '../../abi/iommufd-data.ts';
import { Kernel } from '../../machine/kernel.ts';
import { IOMMU_READ } from '../driver.ts';
import type { IntelPagingDomain } from './driver/domains/paging-domain.ts';
import { PASID_ENTRY } from './spec/pasid.ts';
import { readField, readField64 } from '../../base/bit-fields.ts';
import { GuestTables } from './testing/guest-tables.ts';
import { PAGE, PROT, Rig, type RigFunction, type RigOptions } from './testing/rig.ts';
import { bytesOf } from '../../base/testing/ascii.ts';

const GVA = 0x12_3456_7000n;
/** Where the guest's memory is for the guest. */
const GPA = 0x10_0000n;
const ALL = { addr: 0n, npages: 0xffff_ffff_ffff_ffffn };

/** A VM: a nest parent with memory, the guest's tables in it with one page `old`, a device behind both. */
class Vm {
  readonly rig: Rig;
  readonly device: RigFunction;
  readonly parent: IntelPagingDomain;
  readonly tables: GuestTables;
  readonly pa: number;

  constructor(rig: Rig, device: RigFunction, more = 0) {
    this.rig = rig;
    this.device = device;
    this.parent = rig.parent(device, more);
    this.pa = rig.ram('', 256);
    expect(this.parent.map(GPA, this.pa, 0x10_0000n, PROT)).toBeUndefined();
    this.tables = new GuestTables(rig.kernel.physical, this.pa, GPA);
    this.tables.map(GVA, this.page('old'));
  }

  /** A page of the guest with a text; its address there. */
  page(text: string): bigint {
    const gpa = this.tables.page();
    this.rig.kernel.physical.write(this.tables.hostAddress(gpa), bytesOf(text));
    return gpa;
  }

  nested() {
    return this.rig.nested(this.device, this.parent, this.tables.root);
  }
}

function vmOf(options: RigOptions = {}, device: Parameters<Rig['device']>[1] = {}, more = 0): Vm {
  const rig = new Rig(new Kernel(), options);
  return new Vm(rig, rig.device(0x100, device), more);
}

describe('making a nested domain', () => {
  const refusal = (vm: Vm, values: object, flags = 0, parent = vm.parent): number => {
    const made = vm.rig.nestedResult(vm.device, parent, values, flags);
    return failed(made) ? made.errno : 0;
  };

  it('needs hardware that nests, and no flag but that of PASIDs', () => {
    expect(refusal(vmOf(), {})).toBe(0);
    expect(refusal(vmOf(), {}, IOMMU_HWPT_ALLOC_PASID)).toBe(0);
    expect(refusal(vmOf(), {}, IOMMU_HWPT_ALLOC_DIRTY_TRACKING)).toBe(EOPNOTSUPP);
    const vm = vmOf();
    const other = new Rig(new Kernel(), { ECAP: { NEST: 0 } });
    const without = other.driver.domainAllocNested(other.device(0x100).device, vm.parent, 0, vm.rig.memory, {
      type: IOMMU_HWPT_DATA_VTD_S1,
      uptr: 0x1000n,
      len: 24,
    });
    expect(failed(without) && without.errno).toBe(EOPNOTSUPP);
  });

  it('needs data of its type and size, and a parent that is one', () => {
    const vm = vmOf();
    const alloc = (type: number, len: number): number => {
      const data = { type, uptr: 0x1000n, len };
      const made = vm.rig.driver.domainAllocNested(vm.device.device, vm.parent, 0, vm.rig.memory, data);
      return failed(made) ? made.errno : 0;
    };
    expect(alloc(IOMMU_HWPT_DATA_ARM_SMMUV3, 24)).toBe(EOPNOTSUPP);
    expect([16, 32].map((len) => alloc(IOMMU_HWPT_DATA_VTD_S1, len))).toEqual([EINVAL, EINVAL]);
    expect(refusal(vm, {}, 0, vm.rig.domain(vm.device))).toBe(EINVAL);
    expect(refusal(vm, {}, 0, vm.rig.domain(vm.device, IOMMU_HWPT_ALLOC_DIRTY_TRACKING))).toBe(EINVAL);
  });

  it('takes what the guest says as it is; attaching looks at it', () => {
    const attach = (vm: Vm, values: object): number => {
      const made = vm.rig.nestedResult(vm.device, vm.parent, values);
      if (failed(made)) throw new Error(made.reason);
      return vm.rig.attach(vm.device, made);
    };
    expect(attach(vmOf(), { addr_width: 39 })).toBe(EINVAL);
    expect(attach(vmOf(), { addr_width: 57 })).toBe(0);
    expect(attach(vmOf({ CAP: { FS5LP: 0, SAGAW: 4, MGAW: 47 } }), { addr_width: 57 })).toBe(EINVAL);
    expect(attach(vmOf({ ECAP: { SRS: 0, RPRIVS: 0 } }), { flags: BigInt(IOMMU_VTD_S1_SRE) })).toBe(EINVAL);
    expect(attach(vmOf({ ECAP: { EAFS: 0 } }), { flags: BigInt(IOMMU_VTD_S1_EAFE) })).toBe(EINVAL);
    expect(attach(vmOf(), { flags: BigInt(IOMMU_VTD_S1_SRE | IOMMU_VTD_S1_EAFE) })).toBe(0);
  });

  it('leaves nothing behind where attaching fails', () => {
    const vm = vmOf({}, { withAts: true });
    const made = vm.rig.nestedResult(vm.device, vm.parent, { addr_width: 39 });
    if (failed(made)) throw new Error(made.reason);
    expect(vm.rig.attach(vm.device, made)).toBe(EINVAL);
    expect(vm.parent.tags.all).toEqual([]);
    expect(vm.rig.attach(vm.device, vm.nested())).toBe(0);
  });
});

describe('a nested domain', () => {
  it('translates by the guest, then by the parent', () => {
    const vm = vmOf();
    expect(vm.rig.attach(vm.device, vm.nested())).toBe(0);
    expect(vm.device.read(GVA)).toBe('old');
    expect(vm.device.read(GVA + PAGE)).toBe('fault');
  });

  it('has a PASID table entry with both tables and what the guest asked for', () => {
    const vm = vmOf({}, {}, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    vm.parent.enforceCacheCoherency();
    vm.parent.setDirtyTracking(true);
    const flags = BigInt(IOMMU_VTD_S1_SRE | IOMMU_VTD_S1_WPE | IOMMU_VTD_S1_EAFE);
    const made = vm.rig.nestedResult(vm.device, vm.parent, {
      flags,
      pgtbl_addr: 0x1234_5000n,
      addr_width: 57,
    });
    if (failed(made)) throw new Error(made.reason);
    vm.rig.attach(vm.device, made);
    const table = vm.device.device.table!;
    const entry = table.load(table.entryAddress(0)!);
    const fields = [
      'P',
      'PGTT',
      'AW',
      'DID',
      'PWSNP',
      'PGSNP',
      'SSADE',
      'FSPM',
      'SRE',
      'WPE',
      'EAFE',
      'FPD',
    ] as const;
    expect(Object.fromEntries(fields.map((name) => [name, readField(PASID_ENTRY[name], entry)]))).toEqual({
      ...{
        P: 1,
        PGTT: 3,
        AW: 3,
        DID: 2,
        PWSNP: 1,
        PGSNP: 1,
        SSADE: 1,
        FSPM: 1,
        SRE: 1,
        WPE: 1,
        EAFE: 1,
        FPD: 0,
      },
    });
    expect(readField64(PASID_ENTRY.FSPTPTR, entry)).toBe(0x1_2345n);
    expect(readField64(PASID_ENTRY.SSPTPTR, entry)).toBe(BigInt(vm.parent.table.root / 4096));
  });

  it('keeps a stale translation until the guest invalidates it', () => {
    const vm = vmOf();
    const nested = vm.nested();
    vm.rig.attach(vm.device, nested);
    expect(vm.device.read(GVA)).toBe('old');
    vm.tables.map(GVA, vm.page('new'));
    expect(vm.device.read(GVA)).toBe('old');
    vm.rig.take();
    expect(vm.rig.invalidate(nested, [{ addr: GVA, npages: 1n, flags: 1 }])).toEqual({
      errno: 0,
      handled: 1,
    });
    expect(vm.rig.take()).toEqual([`piotlb did=2 pasid=0 0x${GVA.toString(16)}+0 ih`]);
    expect(vm.device.read(GVA)).toBe('new');
  });

  it('has the kernel empty the translation caches of its devices', () => {
    const vm = vmOf({}, { withAts: true });
    const nested = vm.nested();
    vm.rig.attach(vm.device, nested);
    expect(vm.device.read(GVA)).toBe('old');
    vm.tables.map(GVA, vm.page('new'));
    vm.rig.take();
    vm.rig.invalidate(nested, [{ addr: GVA, npages: 1n }]);
    const address = `0x${GVA.toString(16)}`;
    expect(vm.rig.take()).toEqual([
      `piotlb did=2 pasid=0 ${address}+0`,
      `devtlb sid=0x100 pfsid=0x100 ${address}`,
    ]);
    expect(vm.device.read(GVA)).toBe('new');
  });

  it.each([
    { entry: { addr: 0x8000n, npages: 8n }, descriptor: '0x8000+3' },
    { entry: { addr: 0x9000n, npages: 2n }, descriptor: '0x8000+2' },
    { entry: ALL, descriptor: 'all' },
    // As the kernel's arithmetic has it.
    { entry: { addr: 0n, npages: 0n }, descriptor: 'all' },
    { entry: { addr: 0x1000n, npages: 0n }, descriptor: '0x0+1' },
  ])('takes ranges of any size: $entry', ({ entry, descriptor }) => {
    const vm = vmOf();
    const nested = vm.nested();
    vm.rig.attach(vm.device, nested);
    vm.rig.take();
    expect(vm.rig.invalidate(nested, [entry]).errno).toBe(0);
    expect(vm.rig.take()).toEqual([`piotlb did=2 pasid=0 ${descriptor}`]);
  });

  it.each([
    { entry: { flags: 2 }, errno: EOPNOTSUPP },
    { entry: { __reserved: 1 }, errno: EOPNOTSUPP },
    { entry: { addr: 0x1001n }, errno: EINVAL },
    { entry: { addr: 0x1000n, npages: 0xffff_ffff_ffff_ffffn }, errno: EINVAL },
  ])('stops at a wrong entry and says how many went before: $entry', ({ entry, errno }) => {
    const vm = vmOf();
    const nested = vm.nested();
    vm.rig.attach(vm.device, nested);
    vm.rig.take();
    expect(vm.rig.invalidate(nested, [{}, {}, entry, {}])).toEqual({ errno, handled: 2 });
    expect(vm.rig.take()).toHaveLength(2);
  });

  it('refuses data of another type', () => {
    const vm = vmOf();
    const array = { type: 7, uptr: 0x1000n, entryLen: 24, entryNum: 3 };
    const done = vm.nested().cacheInvalidateUser(vm.rig.memory, array);
    expect([failed(done) && done.errno, array.entryNum]).toEqual([EINVAL, 0]);
  });

  it('is found by a PASID of the guest, whose invalidations carry it', () => {
    const vm = vmOf({}, { withAts: true });
    const nested = vm.nested();
    expect(vm.rig.attach(vm.device, nested, 3)).toBe(0);
    expect(vm.device.read(GVA, 3)).toBe('old');
    expect(vm.device.read(GVA)).toBe('fault');
    vm.tables.map(GVA, vm.page('new'));
    vm.rig.take();
    vm.rig.invalidate(nested, [ALL]);
    expect(vm.rig.take()).toEqual([
      'piotlb did=2 pasid=3 all',
      'pdevtlb sid=0x100 pasid=3 0x7ffffffffffff000 s',
    ]);
    expect(vm.device.read(GVA, 3)).toBe('new');
    vm.rig.detach(vm.device, 3);
    expect(vm.device.read(GVA, 3)).toBe('fault');
    expect(vm.parent.tags.all).toEqual([]);
  });
});

describe('a nest parent', () => {
  it('has no read-only pages, for the erratum that hw_info tells of', () => {
    const vm = vmOf();
    const refused = vm.parent.map(0x8000_0000n, vm.rig.ram('abc'), PAGE, IOMMU_READ);
    expect(failed(refused) && refused.errno).toBe(EINVAL);
  });

  it('takes along what nested domains made of a page, in the IOTLB and in devices', () => {
    const vm = vmOf({}, { withAts: true });
    vm.rig.attach(vm.device, vm.nested());
    expect(vm.parent.tags.all.map((tag) => [tag.type, tag.did])).toEqual([
      ['nesting-iotlb', 2],
      ['nesting-devtlb', 2],
    ]);
    expect(vm.device.read(GVA)).toBe('old');
    vm.rig.take();
    vm.parent.unmap(GPA, 0x10_0000n);
    expect(vm.rig.take()).toEqual([
      'iotlb device/page did=2 0x100000+8 ih dr dw',
      // Nobody knows which of the device's translations go through the page.
      'devtlb sid=0x100 pfsid=0x100 0x7ffffffffffff000 s',
    ]);
    expect(vm.device.read(GVA)).toBe('fault');
  });

  it('keeps the entries of its own users and of nested ones apart by domain id', () => {
    const vm = vmOf();
    vm.rig.attach(vm.device, vm.nested());
    const plain = vm.rig.device(0x108);
    vm.rig.attach(plain, vm.parent);
    vm.rig.take();
    vm.parent.unmap(GPA, 0x10_0000n);
    expect(vm.rig.take()).toEqual([
      'iotlb device/page did=2 0x100000+8 ih dr dw',
      'iotlb device/page did=3 0x100000+8 ih dr dw',
    ]);
  });

  it('tracks what nested devices write', () => {
    const vm = vmOf({}, {}, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    const nested = vm.nested();
    vm.rig.attach(vm.device, nested);
    vm.rig.attach(vm.device, nested, 4);
    vm.rig.take();
    expect(vm.parent.setDirtyTracking(true)).toBeUndefined();
    expect(vm.rig.take()).toEqual([
      'pasid-cache pasid did=2 pasid=0',
      'iotlb domain did=2 dr dw',
      'pasid-cache pasid did=2 pasid=4',
      'iotlb domain did=2 dr dw',
    ]);
    const page = vm.page('aim');
    vm.tables.map(GVA + PAGE, page);
    expect(vm.device.write(GVA + PAGE, 'hit', 4)).toBe('done');
    const dirty: bigint[] = [];
    vm.parent.readAndClearDirty(GPA, 0x10_0000n, true, (iova) => void dirty.push(iova));
    expect(dirty).toContain(page);
  });
});
