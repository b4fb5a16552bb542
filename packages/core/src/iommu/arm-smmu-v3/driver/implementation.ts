import type { Result } from '../../../base/result.ts';
import type { PagingDomain, ViommuCore, ViommuDriver } from '../../driver.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { UserData } from '../../user-data.ts';
import type { CommandQueue } from './queues/command-queue.ts';
import type { Command } from './queues/commands.ts';

/** What an implementation has beyond the architecture: struct arm_smmu_impl_ops. */
export interface SmmuImplementation {
  /** The queue that takes the command in place of the SMMU's own, or null. */
  secondaryQueue?(command: Command): CommandQueue | null;
  /** device_reset(): after the SMMU was enabled. */
  reset?(): Result<void>;
  /** device_disable() */
  disable?(): void;
  /** hw_info(): EOPNOTSUPP for a type that is not its own. */
  hwInfo?(type: number): Result<{ readonly type: number; readonly data: Uint8Array }>;
  /** get_viommu_size() */
  viommuSupported?(type: number): boolean;
  /** vsmmu_init() */
  viommuInit?(
    core: ViommuCore,
    parent: PagingDomain,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<ViommuDriver>;
}
