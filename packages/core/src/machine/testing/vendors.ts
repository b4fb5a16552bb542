import { BareDevice } from '../../pci/bare-device.ts';
import {
  IOMMU_DEV_INVALIDATE_DATA_AMD,
  IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3,
  IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID,
  IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
  IOMMU_HWPT_IOTLB_SYNC_DATA_AMD,
  IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3,
  IOMMU_HWPT_IOTLB_SYNC_DATA_VTD_S1,
} from '../../abi/rfc-2023-12.ts';
import {
  IOMMU_HWPT_DATA_AMD_GUEST,
  IOMMU_HWPT_DATA_ARM_SMMUV3,
  IOMMU_HWPT_DATA_VTD_S1,
  IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
} from '../../abi/iommufd.ts';
import { iommu_hwpt_vtd_s1, iommu_hwpt_vtd_s1_invalidate } from '../../abi/iommufd-data.ts';
import { guestCommand, guestSte, writeGuestCd } from '../../iommu/arm-smmu-v3/testing/guest.ts';
import { GuestTables, X86, type GuestMemory } from '../../iommu/testing/guest.ts';
import type { DevicePart, MachineParts } from '../build.ts';
import { Kernel } from '../kernel.ts';
import { amdIommu } from '../iommus/amd-iommu.ts';
import { armSmmuV3 } from '../iommus/arm-smmu-v3.ts';
import { intelIommu } from '../iommus/intel-iommu.ts';
import type { IommuSettings, Vendor } from '../iommus/vendor.ts';
import type { DriverData } from './vm.ts';

// For tests: what each vendor's guests write, so that one test runs on all of them.

/** A stage 1 of a guest: one set of tables. */
export interface GuestStage1 {
  /** What a nested HWPT is made with. */
  readonly nested: DriverData;
  map(iova: bigint, ipa: bigint): void;
}

/** One kind of IOMMU. */
export interface VendorCase {
  readonly name: string;
  readonly vendor: Vendor;
  /** The type of virtual id that names a device, null where it has none; and one that its devices do not have. */
  readonly idType: number | null;
  readonly foreignIdType: number;
  /** The largest virtual id, a mask of ones. */
  readonly idLast: bigint;
  /** The type of viommu that Linux has for it; null where it has none. */
  readonly viommuType: number | null;
  /** Devices keep nested translations in their ATCs, which the guest invalidates itself. */
  stage1(memory: GuestMemory): GuestStage1;
  /** What takes a page out of the IOTLB. */
  iotlbCommand(iova: bigint): DriverData;
  /** What of that the hardware is sent. */
  readonly iotlbCommands: readonly string[];
  /** What takes it out of the ATC of the device that the guest calls `id`; null where the driver sees to that. */
  atcCommand: ((id: bigint, iova: bigint) => DriverData) | null;
  /** Where the answers to a device's Translation Requests come from, and are kept beside the ATC. */
  readonly atcFilledFrom: 'iotlb' | 'memory';
}

/** 64-bit words as they lie in memory. */
export function words(...values: readonly bigint[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 8);
  const view = new DataView(bytes.buffer);
  for (const [index, value] of values.entries()) view.setBigUint64(index * 8, value, true);
  return bytes;
}

/** The commands of an SMMUv3 as one array. */
export function smmuCommands(type: number, ...commands: readonly (readonly [bigint, bigint])[]): DriverData {
  return { type, bytes: words(...commands.flat()), entry: 16 };
}

const ASID = 5;

const arm: VendorCase = {
  name: 'arm-smmu-v3',
  vendor: armSmmuV3,
  idType: IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
  foreignIdType: IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID,
  idLast: 0xffff_ffffn,
  viommuType: IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
  stage1(memory) {
    const tables = new GuestTables(memory);
    const cd = memory.page();
    writeGuestCd(memory, cd, tables, ASID);
    return {
      nested: { type: IOMMU_HWPT_DATA_ARM_SMMUV3, bytes: words(...guestSte(cd, { ats: true })) },
      map: (iova, ipa) => tables.map(iova, ipa),
    };
  },
  iotlbCommand: (iova) =>
    smmuCommands(IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3, guestCommand.tlbiVa(ASID, iova)),
  iotlbCommands: ['CMD_TLBI_NH_VA', 'CMD_SYNC'],
  atcFilledFrom: 'iotlb',
  atcCommand: (id, iova) =>
    smmuCommands(IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3, guestCommand.atcInv(Number(id), iova, 0n)),
};

const intel: VendorCase = {
  name: 'intel-iommu',
  vendor: intelIommu,
  idType: null,
  foreignIdType: IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
  idLast: 0xffffn,
  viommuType: null,
  stage1(memory) {
    const tables = new GuestTables(memory, X86);
    const bytes = new Uint8Array(iommu_hwpt_vtd_s1.size);
    iommu_hwpt_vtd_s1.write(bytes, 0, { flags: 0n, pgtbl_addr: tables.root, addr_width: 48, __reserved: 0 });
    return {
      nested: { type: IOMMU_HWPT_DATA_VTD_S1, bytes },
      map: (iova, ipa) => tables.map(iova, ipa),
    };
  },
  iotlbCommand(iova) {
    const bytes = new Uint8Array(iommu_hwpt_vtd_s1_invalidate.size);
    iommu_hwpt_vtd_s1_invalidate.write(bytes, 0, { addr: iova, npages: 1n, flags: 0, __reserved: 0 });
    return { type: IOMMU_HWPT_IOTLB_SYNC_DATA_VTD_S1, bytes };
  },
  // "vt-d will generate ATC invalidations under that function too" (message 7).
  iotlbCommands: ['P_IOTLB_INV', 'DEV_TLB_INV', 'INV_WAIT'],
  atcFilledFrom: 'iotlb',
  atcCommand: null,
};

/** The guest's domain id. */
const DOMAIN = 7n;

const amd: VendorCase = {
  name: 'amd-iommu',
  vendor: amdIommu,
  idType: IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID,
  foreignIdType: IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
  idLast: 0xffffn,
  viommuType: null,
  stage1(memory) {
    const tables = new GuestTables(memory, X86);
    // GCR3[0], which GIOV gives to requests without a PASID.
    const gcr3 = memory.page();
    memory.write64(gcr3, tables.root | 1n);
    const [V, GIOV, GV] = [1n, 1n << 54n, 1n << 55n];
    const dte = [
      V | GIOV | GV | (((gcr3 >> 12n) & 7n) << 58n),
      DOMAIN | (((gcr3 >> 15n) & 0xffffn) << 16n) | ((gcr3 >> 31n) << 43n),
      0n,
      0n,
    ];
    return {
      nested: { type: IOMMU_HWPT_DATA_AMD_GUEST, bytes: words(...dte) },
      map: (iova, ipa) => tables.map(iova, ipa),
    };
  },
  // INVALIDATE_IOMMU_PAGES of one page, with GN and PASID 0.
  iotlbCommand: (iova) => ({
    type: IOMMU_HWPT_IOTLB_SYNC_DATA_AMD,
    bytes: words((3n << 60n) | (DOMAIN << 32n), iova | (1n << 2n)),
    entry: 16,
  }),
  iotlbCommands: ['INVALIDATE_IOMMU_PAGES', 'COMPLETION_WAIT'],
  // DTE.Cache is 0: the IOMMU keeps nothing of what it tells an ATC.
  atcFilledFrom: 'memory',
  // INVALIDATE_IOTLB_PAGES of one page.
  atcCommand: (id, iova) => ({
    type: IOMMU_DEV_INVALIDATE_DATA_AMD,
    bytes: words((4n << 60n) | id, iova),
    entry: 16,
  }),
};

export const VENDOR_CASES: readonly VendorCase[] = [arm, intel, amd];

function hasIds(each: VendorCase): each is VendorCase & { readonly idType: number } {
  return each.idType !== null;
}

/** Those whose devices have virtual ids. */
export const NAMED_CASES = VENDOR_CASES.filter(hasIds);

/** An IOMMU: its kind, and what of its registers is not as usual. */
export type IommuSpec = Vendor | { readonly vendor: Vendor; readonly registers: IommuSettings['registers'] };

/** Such IOMMUs, named iommu0 on, each with two devices that have ATCs: those of iommu1 are vfio2 and vfio3. */
export function partsOf(...iommus: readonly IommuSpec[]): MachineParts {
  return {
    iommus: iommus.map((spec, index) => {
      const { vendor, ...settings } = 'vendor' in spec ? spec : { vendor: spec };
      return { name: `iommu${index}`, vendor, settings };
    }),
    devices: iommus.flatMap((_, iommu) => [2 * iommu, 2 * iommu + 1].map((index) => device(iommu, index))),
  };
}

function device(iommu: number, index: number): DevicePart {
  const bus = index + 1;
  return {
    name: `0000:${bus.toString(16).padStart(2, '0')}:00.0`,
    iommu: `iommu${iommu}`,
    requesterId: bus << 8,
    pasids: 16,
    ats: true,
    model: (features) => new BareDevice(features),
  };
}

/** A machine with such IOMMUs that serves the trial uAPI. */
export function trialMachine(...iommus: readonly IommuSpec[]): Kernel {
  return new Kernel({ parts: partsOf(...iommus), uapis: ['rfc-2023-12'] });
}
