import { fail, failed, type Result } from '../../base/result.ts';
import { EBUSY, EFAULT, EINVAL, EOPNOTSUPP, EPERM } from '../../abi/errno.ts';
import {
  IOMMU_OPTION_HUGE_PAGES,
  IOMMU_OPTION_OP_GET,
  IOMMU_OPTION_OP_SET,
  IOMMU_OPTION_RLIMIT_MODE,
  iommu_ioas_change_process,
  iommu_option,
} from '../../abi/iommufd.ts';
import type { StructValue } from '../../base/struct.ts';
import { CAP_SYS_RESOURCE } from '../../memory/process.ts';
import { ACCOUNT_MM, ACCOUNT_NONE, ACCOUNT_USER, type AccountMode } from '../pages/accounting.ts';
import type { Command } from '../command.ts';
import { getIoas, type Ioas } from './ioas.ts';
import type { IoptPages } from '../pages/pages.ts';

// drivers/iommu/iommufd/ioas.c: IOMMU_OPTION and IOMMU_IOAS_CHANGE_PROCESS.

type Option = StructValue<typeof iommu_option>;

/** IOMMU_OPTION. */
export function option(command: Command): Result<number> {
  const cmd = iommu_option.read(command.bytes);
  if (cmd.__reserved !== 0) return fail(EOPNOTSUPP, '__reserved must be 0');
  const rc = setOrGet(command, cmd);
  if (failed(rc)) return rc;
  // Only the value is copied back, always all of it.
  const value = new Uint8Array(iommu_option.size);
  iommu_option.write(value, 0, cmd);
  const at = iommu_option.offset.val64;
  if (!command.memory.write(command.ubuffer + BigInt(at), value.subarray(at, at + 8)))
    return fail(EFAULT, 'val64 cannot be written');
  return 0;
}

function setOrGet(command: Command, cmd: Option): Result<void> {
  switch (cmd.option_id) {
    case IOMMU_OPTION_RLIMIT_MODE:
      return rlimitMode(command, cmd);
    case IOMMU_OPTION_HUGE_PAGES:
      return hugePages(command, cmd);
    default:
      return fail(EOPNOTSUPP, `there is no option ${cmd.option_id}`);
  }
}

// iommufd_option_rlimit_mode()
function rlimitMode({ context, task }: Command, cmd: Option): Result<void> {
  if (cmd.object_id !== 0) return fail(EOPNOTSUPP, 'the option is not an object’s');
  if (cmd.op === IOMMU_OPTION_OP_GET) {
    cmd.val64 = context.accountMode === ACCOUNT_MM ? 1n : 0n;
    return;
  }
  if (cmd.op !== IOMMU_OPTION_OP_SET) return fail(EOPNOTSUPP, `there is no operation ${cmd.op}`);
  if (!task.process.capable(CAP_SYS_RESOURCE)) return fail(EPERM, 'CAP_SYS_RESOURCE is needed');
  if (!context.objects.empty) return fail(EBUSY, 'there are objects already');
  if (cmd.val64 > 1n) return fail(EINVAL, 'the mode is 0 (by user) or 1 (by process)');
  context.accountMode = cmd.val64 === 0n ? ACCOUNT_USER : ACCOUNT_MM;
}

// iommufd_ioas_option()
function hugePages({ context }: Command, cmd: Option): Result<void> {
  const ioas = getIoas(context, cmd.object_id);
  if (failed(ioas)) return ioas;
  if (cmd.op === IOMMU_OPTION_OP_GET) {
    cmd.val64 = ioas.iopt.disableLargePages ? 0n : 1n;
    return;
  }
  if (cmd.op !== IOMMU_OPTION_OP_SET) return fail(EOPNOTSUPP, `there is no operation ${cmd.op}`);
  if (cmd.val64 > 1n) return fail(EINVAL, 'huge pages are off (0) or on (1)');
  return ioas.iopt.setLargePages(cmd.val64 === 1n);
}

/** IOMMU_IOAS_CHANGE_PROCESS: whoever calls pays for all pages from now on. Only file mappings survive a change. */
export function ioasChangeProcess(command: Command): Result<number> {
  const cmd = iommu_ioas_change_process.read(command.bytes);
  if (cmd.__reserved !== 0) return fail(EOPNOTSUPP, '__reserved must be 0');
  const { context, task } = command;
  const all = new Set<IoptPages>();
  for (const object of context.objects.ascending()) {
    if (object.type !== 'IOAS') continue;
    for (const area of (object as Ioas).iopt.areas) {
      if (area.pages!.origin.type !== 'file') return fail(EINVAL, 'memory is mapped by address, not by file');
      all.add(area.pages!);
    }
  }
  const moved = [...all].filter((pages) => needsChargeUpdate(pages, task.process));
  const charged = chargeCurrent(command, moved);
  if (failed(charged)) return charged;
  const uncharged = moved.map((pages) => pages.uncharge());
  for (const pages of all) pages.source = task.process;
  // Everything is the caller's now, even where the one before could not be given back its own.
  return uncharged.findLast(failed) ?? 0;
}

type Process = Command['task']['process'];

// need_charge_update()
function needsChargeUpdate(pages: IoptPages, process: Process): boolean {
  switch (pages.accountMode) {
    case ACCOUNT_NONE:
      return false;
    case ACCOUNT_MM:
      return pages.source.memory !== process.memory;
    default:
      return pages.source.uid !== process.uid || pages.source.memory !== process.memory;
  }
}

// charge_current(): all of it or nothing.
function chargeCurrent({ context, task }: Command, moved: readonly IoptPages[]): Result<void> {
  const { locked } = context.shared;
  const totals = new Map<AccountMode, number>();
  for (const { accountMode, npinned } of moved)
    totals.set(accountMode, (totals.get(accountMode) ?? 0) + npinned);
  const done: [AccountMode, number][] = [];
  for (const [mode, pages] of [...totals].toSorted(([a], [b]) => a - b)) {
    if (pages === 0) continue;
    const rc = locked.update(task.process, mode, pages);
    if (failed(rc)) {
      for (const [charged, count] of done) locked.update(task.process, charged, -count);
      return rc;
    }
    done.push([mode, pages]);
  }
}
