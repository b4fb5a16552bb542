import { fail, failed, type Result } from '../base/result.ts';
import { IOC_NR } from '../abi/ioctl.ts';
import { EFAULT, EINVAL, ENOTTY } from '../abi/errno.ts';
import * as abi from '../abi/iommufd.ts';
import { IOMMU_TEST_CMD, iommu_test_cmd } from '../abi/iommufd-test.ts';
import { copyStructFromUser } from '../iommu/user-data.ts';
import type { Task } from '../memory/process.ts';
import { Command } from './command.ts';
import type { IommufdContext } from './context.ts';
import { getHwInfo } from './device/device.ts';
import { traceForeignIoctl, traceIoctl } from './describe.ts';
import { hwptGetDirtyBitmap, hwptSetDirtyTracking } from './hwpt/dirty.ts';
import { faultAlloc } from './eventq/fault-queue.ts';
import { hwptAlloc } from './hwpt/hwpt.ts';
import { hwQueueAlloc } from './viommu/hw-queue.ts';
import { hwptInvalidate } from './hwpt/invalidate.ts';
import {
  ioasAlloc,
  ioasAllowIovas,
  ioasCopy,
  ioasIovaRanges,
  ioasMap,
  ioasMapFile,
  ioasNoiommuGetPa,
  ioasUnmap,
} from './ioas/ioas.ts';
import { op, type IoctlOp } from './ioctl-op.ts';
import { ioasChangeProcess, option } from './ioas/options.ts';
import type { KernelVersion } from './profile.ts';
import { RFC_2023_12_OPS } from './rfc-2023-12/ops.ts';
import { veventqAlloc } from './eventq/veventq.ts';
import { vfioIoas, vfioIoctl } from './vfio-compat/vfio-container.ts';
import { vdeviceAlloc, viommuAlloc } from './viommu/viommu.ts';

// drivers/iommu/iommufd/main.c iommufd_ioctl_ops[]: one table for all requests. It decides what is served, and the
// command line and the documentation are made from it.

const TEST_NOTE = "the mock IOMMU's, with CONFIG_IOMMUFD_TEST";

/** Every request of Linux's, by ascending number. */
export const IOCTL_OPS: readonly IoctlOp[] = [
  op('IOMMU_DESTROY', abi.IOMMU_DESTROY, abi.iommu_destroy, 'id', 602, destroy),
  op('IOMMU_IOAS_ALLOC', abi.IOMMU_IOAS_ALLOC, abi.iommu_ioas_alloc, 'out_ioas_id', 602, ioasAlloc),
  op(
    'IOMMU_IOAS_ALLOW_IOVAS',
    abi.IOMMU_IOAS_ALLOW_IOVAS,
    abi.iommu_ioas_allow_iovas,
    'allowed_iovas',
    602,
    ioasAllowIovas,
  ),
  op('IOMMU_IOAS_COPY', abi.IOMMU_IOAS_COPY, abi.iommu_ioas_copy, 'src_iova', 602, ioasCopy),
  op(
    'IOMMU_IOAS_IOVA_RANGES',
    abi.IOMMU_IOAS_IOVA_RANGES,
    abi.iommu_ioas_iova_ranges,
    'out_iova_alignment',
    602,
    ioasIovaRanges,
  ),
  op('IOMMU_IOAS_MAP', abi.IOMMU_IOAS_MAP, abi.iommu_ioas_map, 'iova', 602, ioasMap),
  op('IOMMU_IOAS_UNMAP', abi.IOMMU_IOAS_UNMAP, abi.iommu_ioas_unmap, 'length', 602, ioasUnmap),
  op('IOMMU_OPTION', abi.IOMMU_OPTION, abi.iommu_option, 'val64', 602, option),
  op('IOMMU_VFIO_IOAS', abi.IOMMU_VFIO_IOAS, abi.iommu_vfio_ioas, '__reserved', 602, vfioIoas),
  op('IOMMU_HWPT_ALLOC', abi.IOMMU_HWPT_ALLOC, abi.iommu_hwpt_alloc, '__reserved', 606, hwptAlloc),
  op('IOMMU_GET_HW_INFO', abi.IOMMU_GET_HW_INFO, abi.iommu_hw_info, '__reserved', 606, getHwInfo),
  op(
    'IOMMU_HWPT_SET_DIRTY_TRACKING',
    abi.IOMMU_HWPT_SET_DIRTY_TRACKING,
    abi.iommu_hwpt_set_dirty_tracking,
    '__reserved',
    607,
    hwptSetDirtyTracking,
  ),
  op(
    'IOMMU_HWPT_GET_DIRTY_BITMAP',
    abi.IOMMU_HWPT_GET_DIRTY_BITMAP,
    abi.iommu_hwpt_get_dirty_bitmap,
    'data',
    607,
    hwptGetDirtyBitmap,
  ),
  op(
    'IOMMU_HWPT_INVALIDATE',
    abi.IOMMU_HWPT_INVALIDATE,
    abi.iommu_hwpt_invalidate,
    '__reserved',
    608,
    hwptInvalidate,
    'entry_num and entry_len are bounded since 7.2, and in 6.12',
  ),
  op(
    'IOMMU_FAULT_QUEUE_ALLOC',
    abi.IOMMU_FAULT_QUEUE_ALLOC,
    abi.iommu_fault_alloc,
    'out_fault_fd',
    611,
    faultAlloc,
  ),
  op('IOMMU_IOAS_MAP_FILE', abi.IOMMU_IOAS_MAP_FILE, abi.iommu_ioas_map_file, 'iova', 613, ioasMapFile),
  op('IOMMU_VIOMMU_ALLOC', abi.IOMMU_VIOMMU_ALLOC, abi.iommu_viommu_alloc, 'out_viommu_id', 613, viommuAlloc),
  op('IOMMU_VDEVICE_ALLOC', abi.IOMMU_VDEVICE_ALLOC, abi.iommu_vdevice_alloc, 'virt_id', 613, vdeviceAlloc),
  op(
    'IOMMU_IOAS_CHANGE_PROCESS',
    abi.IOMMU_IOAS_CHANGE_PROCESS,
    abi.iommu_ioas_change_process,
    '__reserved',
    614,
    ioasChangeProcess,
  ),
  op(
    'IOMMU_VEVENTQ_ALLOC',
    abi.IOMMU_VEVENTQ_ALLOC,
    abi.iommu_veventq_alloc,
    'out_veventq_fd',
    615,
    veventqAlloc,
    'veventq_depth is bounded since 7.2',
  ),
  op('IOMMU_HW_QUEUE_ALLOC', abi.IOMMU_HW_QUEUE_ALLOC, abi.iommu_hw_queue_alloc, 'length', 617, hwQueueAlloc),
  op(
    'IOMMU_IOAS_NOIOMMU_GET_PA',
    abi.IOMMU_IOAS_NOIOMMU_GET_PA,
    abi.iommu_ioas_noiommu_get_pa,
    'out_phys',
    703,
    ioasNoiommuGetPa,
    'a machine has no device without an IOMMU yet: EOPNOTSUPP',
  ),
  op('IOMMU_TEST_CMD', IOMMU_TEST_CMD, iommu_test_cmd, 'last', 602, testCommand, TEST_NOTE),
];

/** Requests of trial uAPIs, which a machine has where it asks for them. Their numbers are none of Linux's. */
export const TRIAL_OPS: readonly IoctlOp[] = RFC_2023_12_OPS;

/** The size of a struct before it grew, and the smallest that was accepted where that was another too. */
interface OldSize {
  readonly before: KernelVersion;
  readonly size: number;
  readonly minSize?: number;
}

// What older kernels know of structs that grew since; more than that must be zero for them (E2BIG).
const OLD_SIZES: Readonly<Record<string, readonly OldSize[]>> = {
  IOMMU_HWPT_ALLOC: [
    { before: 607, size: abi.iommu_hwpt_alloc.endOf('__reserved') },
    { before: 611, size: abi.iommu_hwpt_alloc.endOf('data_uptr') },
  ],
  IOMMU_GET_HW_INFO: [{ before: 607, size: abi.iommu_hw_info.endOf('__reserved') }],
  IOMMU_VIOMMU_ALLOC: [{ before: 617, size: abi.iommu_viommu_alloc.endOf('out_viommu_id') }],
  // Before IOMMU_TEST_OP_DIRTY the union took 32 bytes, and `last` lay behind them.
  IOMMU_TEST_CMD: [{ before: 607, size: 56, minSize: 52 }],
};

function oldSize(op: IoctlOp, version: KernelVersion): OldSize | undefined {
  return OLD_SIZES[op.name]?.find(({ before }) => version < before);
}

/** Bytes of the request's struct that Linux `version` knows. */
export function knownSize(op: IoctlOp, version: KernelVersion): number {
  return oldSize(op, version)?.size ?? op.layout.size;
}

/** Bytes of the request's struct that Linux `version` wants at least. */
export function smallestSize(op: IoctlOp, version: KernelVersion): number {
  return oldSize(op, version)?.minSize ?? op.minSize;
}

/** How far the table reaches; beyond it the VFIO container answers. */
const NR_FIRST = abi.IOMMUFD_CMD_BASE;
const NR_LAST = IOC_NR(IOMMU_TEST_CMD);

const byNumber: (IoctlOp | null)[] = Array.from({ length: NR_LAST - NR_FIRST + 1 }, () => null);
for (const each of IOCTL_OPS) byNumber[IOC_NR(each.cmd) - NR_FIRST] = each;
const trialByNumber = new Map(TRIAL_OPS.map((each) => [IOC_NR(each.cmd), each]));

function destroy({ context, bytes }: Command): Result<number> {
  const { id } = abi.iommu_destroy.read(bytes);
  const rc = context.objects.remove(id, (object) => context.mapped(object));
  return failed(rc) ? rc : 0;
}

function testCommand(command: Command): Result<number> {
  const { selftest } = command.context.shared;
  return selftest === null ? fail(ENOTTY, 'the machine has no mock IOMMU') : selftest.execute(command);
}

const sizeBytes = new Uint8Array(4);
const sizeView = new DataView(sizeBytes.buffer);

/** iommufd_fops_ioctl(). Answers zero or more, or why not. */
export function dispatch(context: IommufdContext, task: Task, cmd: number, arg: bigint): Result<number> {
  const command = prepare(context, task, cmd, arg);
  const { trace } = context.kernel;
  if (!(command instanceof PreparedCommand)) {
    if (trace.active) traceForeignIoctl(trace, task, cmd, arg, command);
    return command;
  }
  const before = trace.active ? command.bytes.slice() : null;
  const answer = execute(context, command);
  if (before !== null) traceIoctl(trace, task, command.op, before, command.bytes, answer);
  return answer;
}

class PreparedCommand extends Command {
  readonly op: IoctlOp;

  constructor(
    op: IoctlOp,
    context: IommufdContext,
    task: Task,
    arg: bigint,
    userSize: number,
    bytes: Uint8Array,
  ) {
    super(context, task, arg, userSize, bytes);
    this.op = op;
  }
}

// Everything before the handler: the request's number, its size and its bytes. The VFIO container answers what the
// table does not reach.
function prepare(
  context: IommufdContext,
  task: Task,
  cmd: number,
  arg: bigint,
): PreparedCommand | Result<number> {
  const nr = IOC_NR(cmd);
  const trial = context.shared.uapis.size === 0 ? undefined : trialByNumber.get(nr);
  const trialOp = trial !== undefined && context.shared.uapis.has(trial.uapi!) ? trial : null;
  if (trialOp === null && (nr < NR_FIRST || nr > NR_LAST)) return vfioIoctl(context, task, cmd, arg);
  const { memory } = task.process;
  if (!memory.read(arg, sizeBytes)) return fail(EFAULT, 'the argument cannot be read');
  const userSize = sizeView.getUint32(0, true);
  const found = trialOp ?? byNumber[nr - NR_FIRST] ?? null;
  if (found === null || found.cmd !== cmd) return fail(ENOTTY, `there is no request 0x${cmd.toString(16)}`);
  const { version, name } = context.shared.profile;
  if (found.since > version) return fail(ENOTTY, `${name} has no ${found.name}`);
  const smallest = smallestSize(found, version);
  if (userSize < smallest)
    return fail(
      EINVAL,
      `a struct ${found.layout.name} of ${userSize} bytes; at least ${smallest} are needed`,
    );
  const bytes = scratchOf(found.layout.size);
  const known = knownSize(found, version);
  if (userSize === bytes.length && known === userSize) {
    if (!memory.read(arg, bytes)) return fail(EFAULT, 'the struct cannot be read');
    return new PreparedCommand(found, context, task, arg, userSize, bytes);
  }
  const copied = copyStructFromUser(memory, arg, userSize, known);
  if (failed(copied)) return copied;
  bytes.fill(0);
  bytes.set(copied);
  return new PreparedCommand(found, context, task, arg, Math.min(userSize, known), bytes);
}

// Where the struct of the request lies while it is served. Requests are served one after another, and nothing keeps the
// bytes beyond its own.
const scratch = new ArrayBuffer(128);
const scratches: Uint8Array[] = [];

function scratchOf(size: number): Uint8Array {
  return (scratches[size] ??= new Uint8Array(scratch, 0, size));
}

function execute(context: IommufdContext, command: PreparedCommand): Result<number> {
  const answer = command.op.execute(command);
  const fresh = command.newObject;
  if (fresh === null) return answer;
  if (failed(answer)) {
    fresh.destroy();
    context.objects.abort(fresh);
  } else {
    context.objects.publish(fresh);
  }
  return answer;
}
