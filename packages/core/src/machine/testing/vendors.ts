import {
  IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3,
  IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID,
  IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
  IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3,
} from '../../abi/rfc-2023-12.ts';
import { IOMMU_HWPT_DATA_ARM_SMMUV3 } from '../../abi/iommufd.ts';
import { guestCommand, guestSte, GuestTables, writeGuestCd } from '../../iommu/arm-smmu-v3/test-program.ts';
import type { GuestMemory } from '../../iommu/arm-smmu-v3/test-program.ts';
import type { MachineParts } from '../build.ts';
import { Kernel } from '../kernel.ts';
import { armSmmuV3 } from '../arm-smmu-v3.ts';
import type { Vendor } from '../vendor.ts';
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
  /** The type of virtual id that names a device, and one that its devices do not have. */
  readonly idType: number;
  readonly foreignIdType: number;
  /** The largest virtual id, a mask of ones. */
  readonly idLast: bigint;
  /** Devices keep nested translations in their ATCs, which the guest invalidates itself. */
  stage1(memory: GuestMemory): GuestStage1;
  /** What takes a page out of the IOTLB. */
  iotlbCommand(iova: bigint): DriverData;
  /** What takes it out of the ATC of the device that the guest calls `id`; null where the driver sees to that. */
  atcCommand: ((id: bigint, iova: bigint) => DriverData) | null;
}

/** The commands of an SMMUv3 as one array. */
export function smmuCommands(type: number, ...commands: readonly (readonly [bigint, bigint])[]): DriverData {
  const bytes = new Uint8Array(commands.length * 16);
  const view = new DataView(bytes.buffer);
  for (const [index, [low, high]] of commands.entries()) {
    view.setBigUint64(index * 16, low, true);
    view.setBigUint64(index * 16 + 8, high, true);
  }
  return { type, bytes, entry: 16 };
}

const ASID = 5;

const arm: VendorCase = {
  name: 'arm-smmu-v3',
  vendor: armSmmuV3,
  idType: IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
  foreignIdType: IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID,
  idLast: 0xffff_ffffn,
  stage1(memory) {
    const tables = new GuestTables(memory);
    const cd = memory.page();
    writeGuestCd(memory, cd, tables, ASID);
    const bytes = new Uint8Array(16);
    const view = new DataView(bytes.buffer);
    for (const [index, word] of guestSte(cd, { ats: true }).entries())
      view.setBigUint64(index * 8, word, true);
    return {
      nested: { type: IOMMU_HWPT_DATA_ARM_SMMUV3, bytes },
      map: (iova, ipa) => tables.map(iova, ipa),
    };
  },
  iotlbCommand: (iova) =>
    smmuCommands(IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3, guestCommand.tlbiVa(ASID, iova)),
  atcCommand: (id, iova) =>
    smmuCommands(IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3, guestCommand.atcInv(Number(id), iova, 0n)),
};

export const VENDOR_CASES: readonly VendorCase[] = [arm];

/** So many IOMMUs of each vendor, named iommu0 on, each with two devices that have ATCs. */
export function partsOf(...vendors: readonly Vendor[]): MachineParts {
  const name = (index: number): string => `0000:${(index + 1).toString(16).padStart(2, '0')}:00.0`;
  return {
    iommus: vendors.map((vendor, index) => ({ name: `iommu${index}`, vendor, settings: {} })),
    devices: vendors.flatMap((_, iommu) =>
      [0, 1].map((each) => {
        const index = iommu * 2 + each;
        const requesterId = (index + 1) << 8;
        const model = 'dma-engine' as const;
        return { name: name(index), iommu: `iommu${iommu}`, requesterId, pasids: 16, ats: true, model };
      }),
    ),
  };
}

/** A machine with such IOMMUs that serves the trial uAPI. */
export function trialMachine(...vendors: readonly Vendor[]): Kernel {
  return new Kernel({ parts: partsOf(...vendors), uapis: ['rfc-2023-12'] });
}
