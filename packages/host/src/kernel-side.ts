import type { PciFunctionView } from '@viommu/core/machine/devices/view';
import type { Result } from '@viommu/core/base/result';
import type { Doorbells } from '@viommu/core/memory/doorbells';
import type { OpenFile } from '@viommu/core/memory/file';
import type { Task } from '@viommu/core/memory/process';

/** What answers for the files: `Kernel` of @viommu/core/machine/kernel, or a stand-in. */
export interface KernelSide {
  /** Device files that the machine has beside /dev/iommu. */
  readonly deviceFiles?: readonly string[];
  /** The functions that sysfs shows. */
  functions?(): readonly PciFunctionView[];
  /** Hardware that programs reach by stores into pages that they have mapped: Doorbells of core. */
  readonly doorbells?: Pick<Doorbells, 'watched' | 'look'>;
  /** open(2) of /dev/iommu, /dev/vfio/vfio or one of {@link deviceFiles}. `flags` are open(2)'s. Null: the path is not ours. */
  open(path: string, task: Task, flags: number): Result<OpenFile> | null;
}
