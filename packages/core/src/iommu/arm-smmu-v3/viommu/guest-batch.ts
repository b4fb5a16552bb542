import { KMALLOC_BYTES_MAX } from '../../../base/limits.ts';
import { fail, failed, type Result } from '../../../base/result.ts';
import { ENOMEM } from '../../../abi/errno.ts';
import { iommu_viommu_arm_smmuv3_invalidate } from '../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import { copyFullUserArray, type UserDataArray } from '../../user-data.ts';
import { commandsFromBytes, type Command } from '../driver/queues/commands.ts';
import { CMDQ_BATCH_ENTRIES } from '../driver/limits.ts';
import type { ArmSmmu } from '../driver/smmu.ts';
import { convertGuestCommand, type GuestTarget } from './guest-command.ts';

// Commands of a guest that a request has: arm-smmu-v3-iommufd.c arm_vsmmu_cache_invalidate().

/** The commands of the request, of data type `type`. `entryNum` becomes 0, unless there is no memory for them. */
export function copyGuestCommands(
  smmu: ArmSmmu,
  memory: AddressSpace,
  array: UserDataArray,
  type: number,
): Result<Uint8Array> {
  const { size } = iommu_viommu_arm_smmuv3_invalidate;
  if (array.entryNum * size > KMALLOC_BYTES_MAX || smmu.kernel.failpoint())
    return fail(ENOMEM, 'no memory for the commands');
  return copyFullUserArray(memory, array, type, size);
}

/**
 * Sends them in their order, a batch at a time, through the SMMU's own queue. `entryNum`, 0 before, becomes how many
 * were handled. Where a command is refused, that counts those that were accepted in front of it, of which the last, not
 * yet full batch never reaches the queue: as in Linux.
 */
export function sendGuestCommands(
  target: GuestTarget,
  bytes: Uint8Array,
  array: UserDataArray,
): Result<void> {
  const commands = commandsFromBytes(bytes);
  let batch: Command[] = [];
  for (const command of commands) {
    const converted = convertGuestCommand(target, command);
    if (failed(converted)) {
      noteDropped(target.smmu, batch.length);
      return converted;
    }
    batch.push(command);
    array.entryNum++;
    if (array.entryNum < commands.length && batch.length < CMDQ_BATCH_ENTRIES - 1) continue;
    const issued = issue(target.smmu, batch);
    if (failed(issued)) {
      array.entryNum--;
      return issued;
    }
    batch = [];
  }
}

// Without the repetition of arm_smmu_cmdq_issue_cmdlist(): hw_info tells the VMM to repeat by itself.
function issue(smmu: ArmSmmu, commands: readonly Command[]): Result<void> {
  return smmu.exclusively(() => smmu.commandQueue.issue(commands, true));
}

function noteDropped(smmu: ArmSmmu, commands: number): void {
  const { trace } = smmu.kernel;
  if (commands > 0 && trace.active) trace.emit({ kind: 'invalidate-dropped', device: smmu.name, commands });
}
