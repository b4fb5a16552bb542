import { EFAULT } from '@viommu/core/abi/errno';
import type { Trace } from '@viommu/core/trace/trace';
import type { FaultAttributes } from '../files/fault-attributes.ts';
import type { Files } from '../files/files.ts';
import type { KernelSide } from '../kernel-side.ts';
import type { Mailbox, Native } from '../native.ts';
import type { Processes } from '../processes/processes.ts';
import type { SysfsTree } from '../sysfs/tree.ts';
import type { NodeStat, VirtualNode } from '../files/virtual-nodes.ts';

/** The call goes on in the kernel as if it had not been stopped. */
export const PASS = 'pass';
/** The call was answered in the same step in which a descriptor was installed. */
export const ANSWERED = 'answered';

/** What a stopped call comes to: its result (a negative errno where it fails), or one of the above. */
export type Answer = number | typeof PASS | typeof ANSWERED;

/** What the answers to calls are made of. */
export interface Machine {
  readonly native: Native;
  readonly box: Mailbox;
  readonly kernel: KernelSide;
  readonly trace: Trace;
  readonly files: Files;
  readonly processes: Processes;
  readonly nodes: ReadonlyMap<string, VirtualNode>;
  readonly faults: FaultAttributes;
  readonly tree: SysfsTree;
}

/** Writes what stat(2) or statx(2) answers to the program: 0, or -EFAULT. */
export function putStat(
  machine: Machine,
  tid: number,
  va: bigint,
  stat: NodeStat,
  extended: boolean,
): number {
  const { native, box } = machine;
  box.wide[0] = va;
  // native/napi-memory.c enum stat_field.
  box.out.set([
    stat.mode,
    stat.inode,
    stat.links,
    stat.uid,
    stat.gid,
    stat.size,
    stat.deviceMajor,
    stat.deviceMinor,
    stat.major,
    stat.minor,
    stat.seconds,
  ]);
  const written = extended ? native.putStatx(tid) : native.putStat(tid);
  return written === 0 ? -EFAULT : 0;
}

const O_CLOEXEC = 0o2000000;

/** Gives the task a descriptor of ours as it is: the call's result. `flags`: open(2)'s. */
export function hand(machine: Machine, fd: number, flags: number): Answer {
  if (fd < 0) return fd;
  const number = machine.native.addFd(fd, -1, (flags & O_CLOEXEC) !== 0, true);
  machine.native.closeFd(fd);
  return number < 0 ? number : ANSWERED;
}
