import type { Result } from '../base/result.ts';
import type { AnyStruct } from '../base/struct.ts';
import type { Command } from './command.ts';
import type { KernelVersion } from './profile.ts';
import type { TrialUapi } from './trial-uapi.ts';

// One row of the table of requests: drivers/iommu/iommufd/main.c struct iommufd_ioctl_op.

/** One request of iommufd. */
export interface IoctlOp {
  /** The header's name. */
  readonly name: string;
  readonly cmd: number;
  readonly layout: AnyStruct;
  /** The smallest size that is accepted: the struct as it was first published. */
  readonly minSize: number;
  /** The Linux it came with. */
  readonly since: KernelVersion;
  /** The trial uAPI that it belongs to; absent for Linux's own. */
  readonly uapi?: TrialUapi;
  /** What a reader of the support matrix should know. */
  readonly note?: string;
  readonly execute: (command: Command) => Result<number>;
}

/** A row of Linux's. */
export function op(
  name: string,
  cmd: number,
  layout: AnyStruct,
  lastField: string,
  since: KernelVersion,
  execute: IoctlOp['execute'],
  note?: string,
): IoctlOp {
  const minSize = layout.endOf(lastField);
  return { name, cmd, layout, minSize, since, execute, ...(note === undefined ? {} : { note }) };
}
