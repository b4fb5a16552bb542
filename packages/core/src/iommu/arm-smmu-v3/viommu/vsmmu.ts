import { fail, failed, type Result } from '../../../base/result.ts';
import { EIO, EOPNOTSUPP } from '../../../abi/errno.ts';
import { IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 } from '../../../abi/iommufd.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { IommuDomain, VdeviceCore, ViommuCore, ViommuDriver } from '../../driver.ts';
import type { UserData, UserDataArray } from '../../user-data.ts';
import type { ArmSmmuDomain } from '../driver/domains/domain.ts';
import type { ArmSmmuMaster } from '../driver/master.ts';
import type { ArmSmmu } from '../driver/smmu.ts';
import { copyGuestCommands, sendGuestCommands } from './guest-batch.ts';
import type { GuestTarget } from './guest-command.ts';
import { allocNestedDomain } from './nested-domain.ts';

// drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-iommufd.c: the slice of an SMMU that a VM has. Its VMID is that of the
// nest parent; StreamIDs are the guest's, and found through the viommu's vDEVICEs.

/** A vDEVICE needs exactly one stream since this Linux; before, the first of several was meant. */
const ONE_STREAM_SINCE = 703;

/** struct arm_vsmmu. */
export class ArmVsmmu implements ViommuDriver, GuestTarget {
  readonly smmu: ArmSmmu;
  readonly core: ViommuCore;
  readonly s2Parent: ArmSmmuDomain;

  constructor(smmu: ArmSmmu, core: ViommuCore, s2Parent: ArmSmmuDomain) {
    this.smmu = smmu;
    this.core = core;
    this.s2Parent = s2Parent;
  }

  get vmid(): number {
    return this.s2Parent.vmid;
  }

  destroy(): void {}

  /** arm_vsmmu_alloc_domain_nested() */
  allocDomainNested(flags: number, memory: AddressSpace, data: UserData): Result<IommuDomain> {
    return allocNestedDomain(this, flags, memory, data);
  }

  /** arm_vsmmu_vdevice_init() */
  vdeviceInit(vdevice: VdeviceCore): Result<() => void> {
    const master = vdevice.device as ArmSmmuMaster;
    if (master.streamIds.length !== 1 && this.smmu.kernel.version >= ONE_STREAM_SINCE)
      return fail(EOPNOTSUPP, `${master.name} has ${master.streamIds.length} streams`);
    return () => {};
  }

  /** arm_vsmmu_vsid_to_sid(): EIO where no vDEVICE has the virtual StreamID. */
  sidOf(vsid: number): Result<number> {
    const device = this.core.findDevice(BigInt(vsid));
    if (device === null) return fail(EIO, `no vDEVICE has the virtual StreamID ${vsid}`);
    return (device as ArmSmmuMaster).streamIds[0]!;
  }

  /** arm_vsmmu_cache_invalidate() */
  cacheInvalidate(memory: AddressSpace, array: UserDataArray): Result<void> {
    const bytes = copyGuestCommands(this.smmu, memory, array, IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3);
    return failed(bytes) ? bytes : sendGuestCommands(this, bytes, array);
  }
}
