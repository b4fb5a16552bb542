import { fail, failed, type Result } from '../../../base/result.ts';
import { EIO, EOPNOTSUPP } from '../../../abi/errno.ts';
import { IOMMU_VIOMMU_TYPE_ARM_SMMUV3 } from '../../../abi/iommufd.ts';
import {
  IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3,
  IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
  IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3,
} from '../../../abi/rfc-2023-12.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { Device, IommuDomain, Rfc202312Ops } from '../../driver.ts';
import type { UserDataArray } from '../../user-data.ts';
import { CMD } from '../spec/commands.ts';
import { commandsFromBytes, opcodeOf } from '../driver/queues/commands.ts';
import { ArmSmmuDomain } from '../driver/domains/domain.ts';
import type { ArmSmmuMaster } from '../driver/master.ts';
import { copyGuestCommands, sendGuestCommands } from './guest-batch.ts';
import { ArmSmmuNestedDomain } from './nested-domain.ts';
import { shareStage2 } from './share-stage2.ts';

// The trial uAPI rfc-2023-12 on SMMUs: what Linux takes as one list of commands comes in two here.

const SID_LAST = 0xffff_ffffn;

/** Messages 1 and 2: ATC invalidations, and "SMMU's CD invalidations could fall into this category too". */
const DEVICE_COMMANDS: ReadonlySet<number> = new Set([CMD.ATC_INV, CMD.CFGI_CD, CMD.CFGI_CD_ALL]);

/** How many commands from the first on are a device's. */
function deviceCommands(bytes: Uint8Array): number {
  const opcodes = commandsFromBytes(bytes).map(opcodeOf);
  const other = opcodes.findIndex((opcode) => !DEVICE_COMMANDS.has(opcode));
  return other < 0 ? opcodes.length : other;
}

/**
 * Message 7: "The invalidate commands are stripped of the SID and executed on the given dev_id period." Commands that no
 * device has are refused with EIO, those in front of them having been sent.
 */
function deviceInvalidate(device: Device, memory: AddressSpace, array: UserDataArray): Result<void> {
  const { smmu, streamIds, name } = device as ArmSmmuMaster;
  if (streamIds.length !== 1) {
    array.entryNum = 0;
    return fail(EOPNOTSUPP, `${name} has ${streamIds.length} streams`);
  }
  const bytes = copyGuestCommands(smmu, memory, array, IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3);
  if (failed(bytes)) return bytes;
  const target = { smmu, vmid: 0, sidOf: (): Result<number> => streamIds[0]! };
  const known = deviceCommands(bytes);
  const sent = sendGuestCommands(target, bytes.subarray(0, known * 16), array);
  if (failed(sent) || known * 16 === bytes.length) return sent;
  return fail(EIO, `command ${known} is not one for a device: it goes to a HWPT`);
}

/** The stage 2 of a nested domain; of a nest parent itself, behind all SMMUs that share it. */
function stage2sOf(domain: IommuDomain): readonly ArmSmmuDomain[] | null {
  if (domain instanceof ArmSmmuNestedDomain) return [domain.vsmmu.s2Parent];
  if (!(domain instanceof ArmSmmuDomain) || !domain.nestParent) return null;
  return [domain, ...domain.sharers];
}

/** Message 1: "ARM: The Nesting Parent domain. Kernel forces the VMID from the Nesting Parent". TLBI commands only. */
function iotlbSync(domain: IommuDomain, memory: AddressSpace, array: UserDataArray): Result<void> {
  const stage2s = stage2sOf(domain);
  if (stage2s === null) {
    array.entryNum = 0;
    return fail(EOPNOTSUPP, 'the HWPT is neither nested nor a nest parent');
  }
  const { smmu } = stage2s[0]!;
  const bytes = copyGuestCommands(smmu, memory, array, IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3);
  if (failed(bytes)) return bytes;
  const sidOf = (): Result<number> =>
    fail(EIO, 'the command is for a device: it goes to IOMMU_DEV_INVALIDATE');
  for (const stage2 of stage2s) {
    array.entryNum = 0;
    const sent = sendGuestCommands({ smmu: stage2.smmu, vmid: stage2.vmid, sidOf }, bytes, array);
    if (failed(sent)) return sent;
  }
}

export const armSmmuRfc202312: Rfc202312Ops = {
  virtualIds: new Map([[IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID, SID_LAST]]),
  viommuType: IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
  stage2For: shareStage2,
  deviceInvalidate,
  iotlbSync,
};
