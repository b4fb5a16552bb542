import { encode } from '../../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../../base/result.ts';
import { hex, hi32, lo32, pageNumber, pageOffset, U64_MAX, wrap64 } from '../../../../base/u64.ts';
import { EINVAL, ENOMEM, EOPNOTSUPP } from '../../../../abi/errno.ts';
import { IOMMU_HWPT_DATA_VTD_S1, IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 } from '../../../../abi/iommufd.ts';
import {
  iommu_hwpt_vtd_s1,
  iommu_hwpt_vtd_s1_invalidate,
  IOMMU_VTD_INV_FLAGS_LEAF,
  IOMMU_VTD_S1_EAFE,
  IOMMU_VTD_S1_SRE,
  IOMMU_VTD_S1_WPE,
} from '../../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../../memory/process.ts';
import { IOMMU_NO_PASID, type Device, type IommuDomain } from '../../../driver.ts';
import { copyUserData, UserArrayReader, type UserData, type UserDataArray } from '../../../user-data.ts';
import { FSPM, PASID_ENTRY, PGTT } from '../../spec/pasid.ts';
import { blockTranslation, iopfRemove, iopfSet, noteAttached } from './attach.ts';
import type { IntelDevice } from '../device.ts';
import type { DmarUnit } from '../dmar-unit.ts';
import { DmarDomain } from './domain-base.ts';
import type { IntelPagingDomain } from './paging-domain.ts';
import { setUpEntry } from '../configuration/pasid.ts';

// A guest's first-stage table over a nest parent: drivers/iommu/intel/nested.c.

/** ADDR_WIDTH_4LEVEL, ADDR_WIDTH_5LEVEL */
const WIDTH = { LEVELS_4: 48, LEVELS_5: 57 } as const;

/** What the guest says of its table. */
interface GuestTable {
  readonly flags: bigint;
  readonly pgtbl_addr: bigint;
  readonly addr_width: number;
}

/** intel_iommu_domain_alloc_nested(), behind what it asks of the device and the flags. */
export function allocNestedDomain(
  unit: DmarUnit,
  parent: IntelPagingDomain,
  memory: AddressSpace,
  data: UserData,
): Result<IommuDomain> {
  if (data.type !== IOMMU_HWPT_DATA_VTD_S1)
    return fail(EOPNOTSUPP, `no nested domain has data of type ${data.type}`);
  if (parent.stage !== 2 || !parent.nestParent) return fail(EINVAL, 'the parent is no nest parent');
  const { size } = iommu_hwpt_vtd_s1;
  const bytes = copyUserData(memory, data, IOMMU_HWPT_DATA_VTD_S1, size, size);
  if (failed(bytes)) return bytes;
  if (unit.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
  return new IntelNestedDomain(parent, iommu_hwpt_vtd_s1.read(bytes));
}

export class IntelNestedDomain extends DmarDomain {
  readonly type = 'nested';
  override readonly parent: IntelPagingDomain;
  readonly #guest: GuestTable;

  constructor(parent: IntelPagingDomain, guest: GuestTable) {
    super(parent.owner, true);
    this.parent = parent;
    this.#guest = guest;
    parent.nested.add(this);
  }

  /** intel_nested_domain_free() */
  free(): void {
    this.parent.nested.delete(this);
  }

  compatibleWith(unit: DmarUnit): Result<void> {
    return this.parent.compatibleWith(unit);
  }

  /**
   * intel_nested_attach_dev(): where it fails, the device is left without a domain. As in Linux the fault queue of the
   * domain before, where it had one, is not told.
   */
  attachDevice(target: Device, _old: IommuDomain | null): Result<void> {
    const device = target as IntelDevice;
    return device.unit.interrupts.exclusively(() => {
      blockTranslation(device);
      const compatible = this.compatibleWith(device.unit);
      if (failed(compatible)) return compatible;
      const attached = this.attachUnit(device.unit);
      if (failed(attached)) return attached;
      const done = this.#enter(device);
      if (failed(done)) this.detachUnit(device.unit);
      return done;
    });
  }

  #enter(device: IntelDevice): Result<void> {
    const tagged = this.assignTags(device, IOMMU_NO_PASID);
    if (failed(tagged)) return tagged;
    const faults = iopfSet(this, device);
    const set = failed(faults) ? faults : this.setUpEntry(device, IOMMU_NO_PASID);
    if (failed(set)) {
      if (!failed(faults)) iopfRemove(this, device);
      this.unassignTags(device, IOMMU_NO_PASID);
      return set;
    }
    noteAttached(device, this);
  }

  /** intel_pasid_setup_nested(): EINVAL where the unit has not what the guest asks for. */
  setUpEntry(device: IntelDevice, pasid: number): Result<void> {
    const { features } = device.unit;
    const { flags, addr_width: width } = this.#guest;
    if (width !== WIDTH.LEVELS_4 && width !== WIDTH.LEVELS_5)
      return fail(EINVAL, `addr_width is ${width}, not ${WIDTH.LEVELS_4} or ${WIDTH.LEVELS_5}`);
    if (width === WIDTH.LEVELS_5 && !features.firstStage5Level)
      return fail(EINVAL, '5-level paging not supported');
    if (has(flags, IOMMU_VTD_S1_SRE) && !features.supervisor)
      return fail(EINVAL, 'no supervisor requests: IOMMU_VTD_S1_SRE');
    if (has(flags, IOMMU_VTD_S1_EAFE) && !features.extendedAccessed)
      return fail(EINVAL, 'no extended accessed flag: IOMMU_VTD_S1_EAFE');
    return setUpEntry(device, pasid, this.#entry(this.didOn(device.unit)));
  }

  // pasid_pte_config_nested()
  #entry(did: number): Uint32Array {
    const { parent } = this;
    const { flags, pgtbl_addr: table, addr_width: width } = this.#guest;
    const supervisor = has(flags, IOMMU_VTD_S1_SRE);
    const entry = encode(PASID_ENTRY, {
      P: 1,
      PGTT: PGTT.NESTED,
      AW: parent.addressWidth,
      DID: did,
      PWSNP: parent.coherent,
      PGSNP: parent.forceSnooping,
      SSADE: parent.dirtyTracking,
      SSPTPTR: parent.table.root / 4096,
      FSPM: width === WIDTH.LEVELS_5 ? FSPM.LEVELS_5 : FSPM.LEVELS_4,
      SRE: supervisor,
      WPE: supervisor && has(flags, IOMMU_VTD_S1_WPE),
      EAFE: has(flags, IOMMU_VTD_S1_EAFE),
    });
    // pasid_set_flptr() takes the address as it comes, with whatever is in its lower bits.
    const at = PASID_ENTRY.FSPTPTR.word;
    entry[at]! |= lo32(table);
    entry[at + 1]! |= hi32(table);
    return entry;
  }

  /**
   * intel_nested_cache_invalidate_user(): `entryNum` becomes how many were handled. The kernel takes the translation
   * caches of the devices along.
   */
  cacheInvalidateUser(memory: AddressSpace, array: UserDataArray): Result<void> {
    const total = array.entryNum;
    array.entryNum = 0;
    if (array.type !== IOMMU_HWPT_INVALIDATE_DATA_VTD_S1)
      return fail(EINVAL, `no invalidation has data of type ${array.type}`);
    const { size } = iommu_hwpt_vtd_s1_invalidate;
    const reader = new UserArrayReader(memory, { ...array, entryNum: total }, array.type, size, size);
    for (let index = 0; index < total; index++) {
      const bytes = reader.entry(index);
      if (failed(bytes)) return bytes;
      const done = this.#invalidate(iommu_hwpt_vtd_s1_invalidate.read(bytes));
      if (failed(done)) return done;
      array.entryNum++;
    }
  }

  #invalidate(entry: {
    readonly addr: bigint;
    readonly npages: bigint;
    readonly flags: number;
    readonly __reserved: number;
  }): Result<void> {
    const { addr, npages, flags } = entry;
    if ((flags & ~IOMMU_VTD_INV_FLAGS_LEAF) !== 0 || entry.__reserved !== 0)
      return fail(EOPNOTSUPP, `flags ${hex(flags)} or what is reserved in an entry`);
    if (pageOffset(addr) !== 0) return fail(EINVAL, `addr ${hex(addr)} is no whole page`);
    if (npages === U64_MAX && addr !== 0n) return fail(EINVAL, 'everything starts at addr 0');
    // As the kernel's arithmetic wraps: no pages at address 0 are all of them.
    const last = wrap64(addr + wrap64(npages << 12n) - 1n);
    this.tags.flushRange(pageNumber(addr), pageNumber(last), (flags & IOMMU_VTD_INV_FLAGS_LEAF) !== 0);
  }
}

function has(flags: bigint, flag: number): boolean {
  return (flags & BigInt(flag)) !== 0n;
}
