import { fail, failed, type Result } from '../../base/result.ts';
import { EFAULT, EINVAL, ENOENT, EOPNOTSUPP } from '../../abi/errno.ts';
import { iommu_hwpt_invalidate } from '../../abi/iommufd.ts';
import type { UserDataArray } from '../../iommu/user-data.ts';
import type { AddressSpace } from '../../memory/process.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import { hasFix } from '../profile.ts';
import { HwptNested } from './hwpt.ts';
import type { Viommu } from '../viommu/viommu.ts';

// drivers/iommu/iommufd/hw_pagetable.c iommufd_hwpt_invalidate(), and requests of the same form.

/** A single call cannot keep the CPU longer (hw_pagetable.c IOMMU_HWPT_INVALIDATE_ENTRY_NUM_MAX). */
const INVALIDATE_ENTRIES_MAX = 1 << 19;
const INVALIDATE_ENTRY_BYTES_MAX = 4096;
/** The bounds came with this Linux, and with 6.12.96. */
const INVALIDATE_BOUNDS_SINCE = 702;
const INVALIDATE_BOUNDS_BACKPORTED = [612];
/** Before there were viommus only a nested HWPT was looked for: anything else is not there. */
const VIOMMU_SINCE = 613;

/** Handles the entries of an array in their order; `entryNum` becomes how many it handled. */
export type InvalidateHandler = (memory: AddressSpace, array: UserDataArray) => Result<void>;

/** What such requests have in common. */
interface InvalidateFields {
  readonly data_uptr: bigint;
  readonly data_type: number;
  readonly entry_len: number;
  entry_num: number;
  readonly __reserved: number;
}

/** Serves one: entry_num tells how many entries were handled, also where it fails. `find` says who handles them. */
export function serveInvalidation<V extends InvalidateFields>(
  command: Command,
  layout: { write(into: Uint8Array, at: number, value: V): void },
  cmd: V,
  find: (context: IommufdContext) => Result<InvalidateHandler>,
): Result<number> {
  const array: UserDataArray = {
    type: cmd.data_type,
    uptr: cmd.data_uptr,
    entryLen: cmd.entry_len,
    entryNum: cmd.entry_num,
  };
  const checked = checkFields(command.context, cmd);
  const handler = failed(checked) ? checked : find(command.context);
  const rc = failed(handler) ? handler : handler(command.memory, array);
  cmd.entry_num = failed(handler) ? 0 : array.entryNum;
  if (failed(command.respond(layout, cmd))) return fail(EFAULT, 'the struct cannot be written');
  return failed(rc) ? rc : 0;
}

function checkFields(context: IommufdContext, cmd: InvalidateFields): Result<void> {
  if (cmd.__reserved !== 0) return fail(EOPNOTSUPP, '__reserved must be 0');
  if (cmd.entry_num === 0) return;
  if (cmd.data_uptr === 0n || cmd.entry_len === 0)
    return fail(EINVAL, 'entries without data_uptr or entry_len');
  const { version } = context.shared.profile;
  const bounded = hasFix(version, INVALIDATE_BOUNDS_SINCE, INVALIDATE_BOUNDS_BACKPORTED);
  if (bounded && (cmd.entry_len > INVALIDATE_ENTRY_BYTES_MAX || cmd.entry_num > INVALIDATE_ENTRIES_MAX))
    return fail(EINVAL, `more than ${INVALIDATE_ENTRIES_MAX} entries, or one of more than a page`);
}

/** IOMMU_HWPT_INVALIDATE. */
export function hwptInvalidate(command: Command): Result<number> {
  const cmd = iommu_hwpt_invalidate.read(command.bytes);
  return serveInvalidation(command, iommu_hwpt_invalidate, cmd, (context) => handlerOf(context, cmd.hwpt_id));
}

// Who invalidates: the nested domain, or the viommu for all of its domains.
function handlerOf(context: IommufdContext, id: number): Result<InvalidateHandler> {
  const on = context.objects.get(id);
  if (failed(on)) return on;
  if (on instanceof HwptNested) {
    const domain = on.ready;
    if (domain.cacheInvalidateUser === undefined)
      return fail(EOPNOTSUPP, 'this HWPT has no caches to invalidate');
    return (memory, entries) => domain.cacheInvalidateUser!(memory, entries);
  }
  if (on.type === 'VIOMMU') {
    const { driver } = on as Viommu;
    if (driver.cacheInvalidate === undefined)
      return fail(EOPNOTSUPP, 'this viommu has no caches to invalidate');
    return (memory, entries) => driver.cacheInvalidate!(memory, entries);
  }
  if (context.shared.profile.version < VIOMMU_SINCE) return fail(ENOENT, `object ${id} is no nested HWPT`);
  return fail(EINVAL, `object ${id} is of type ${on.type}, neither a nested HWPT nor a viommu`);
}
