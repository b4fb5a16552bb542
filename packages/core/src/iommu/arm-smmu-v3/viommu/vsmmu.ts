import { KMALLOC_BYTES_MAX } from '../../../base/limits.ts';
import { fail, failed, type Result } from '../../../base/result.ts';
import { EIO, ENOMEM, EOPNOTSUPP } from '../../../abi/errno.ts';
import { IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 } from '../../../abi/iommufd.ts';
import { iommu_viommu_arm_smmuv3_invalidate } from '../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { IommuDomain, VdeviceCore, ViommuCore, ViommuDriver } from '../../driver.ts';
import { copyFullUserArray, type UserData, type UserDataArray } from '../../user-data.ts';
import { commandsFromBytes, type Command } from '../driver/commands.ts';
import type { ArmSmmuDomain } from '../driver/domain.ts';
import { CMDQ_BATCH_ENTRIES } from '../driver/limits.ts';
import type { ArmSmmuMaster } from '../driver/master.ts';
import type { ArmSmmu } from '../driver/smmu.ts';
import { convertGuestCommand } from './guest-command.ts';
import { allocNestedDomain } from './nested-domain.ts';

// drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-iommufd.c: the slice of an SMMU that a VM has. Its VMID is that of the
// nest parent; StreamIDs are the guest's, and found through the viommu's vDEVICEs.

/** A vDEVICE needs exactly one stream since this Linux; before, the first of several was meant. */
const ONE_STREAM_SINCE = 703;

/** struct arm_vsmmu. */
export class ArmVsmmu implements ViommuDriver {
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

  /**
   * arm_vsmmu_cache_invalidate(): commands of a guest, in its order, a batch at a time into the SMMU's own queue.
   * `entryNum` becomes how many were handled. Where a command is refused, that counts those that were accepted in front
   * of it, of which the last, not yet full batch never reaches the queue: as in Linux.
   */
  cacheInvalidate(memory: AddressSpace, array: UserDataArray): Result<void> {
    const total = array.entryNum;
    array.entryNum = 0;
    const { size } = iommu_viommu_arm_smmuv3_invalidate;
    if (total * size > KMALLOC_BYTES_MAX || this.smmu.kernel.failpoint())
      return fail(ENOMEM, 'no memory for the commands');
    const bytes = copyFullUserArray(
      memory,
      { ...array, entryNum: total },
      IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
      size,
    );
    if (failed(bytes)) return bytes;
    let batch: Command[] = [];
    for (const command of commandsFromBytes(bytes)) {
      const converted = convertGuestCommand(this, command);
      if (failed(converted)) {
        this.#noteDropped(batch.length);
        return converted;
      }
      batch.push(command);
      array.entryNum++;
      if (array.entryNum < total && batch.length < CMDQ_BATCH_ENTRIES - 1) continue;
      const issued = this.#issue(batch);
      if (failed(issued)) {
        array.entryNum--;
        return issued;
      }
      batch = [];
    }
  }

  // Without the repetition of arm_smmu_cmdq_issue_cmdlist(): hw_info tells the VMM to repeat by itself.
  #issue(commands: readonly Command[]): Result<void> {
    return this.smmu.exclusively(() => this.smmu.commandQueue.issue(commands, true));
  }

  #noteDropped(commands: number): void {
    const { trace } = this.smmu.kernel;
    if (commands > 0 && trace.active)
      trace.emit({ kind: 'invalidate-dropped', device: this.smmu.name, commands });
  }
}
