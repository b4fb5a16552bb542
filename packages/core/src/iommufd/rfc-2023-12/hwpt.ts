import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, ENOENT, EOPNOTSUPP } from '../../abi/errno.ts';
import { IOMMU_HWPT_DATA_NONE, IOMMU_HWPT_FAULT_ID_VALID } from '../../abi/iommufd.ts';
import { iommu_rfc_hwpt_alloc } from '../../abi/rfc-2023-12.ts';
import type { UserData } from '../../iommu/user-data.ts';
import type { Command } from '../command.ts';
import type { IommufdDevice } from '../device/device.ts';
import {
  abortHwpt,
  allocHwptNested,
  allocHwptPaging,
  allocNestedOn,
  type Hwpt,
  type HwptPaging,
} from '../hwpt/hwpt.ts';
import type { Ioas } from '../ioas/ioas.ts';
import { getViommu } from '../viommu/viommu.ts';
import { ownViommu, RfcViommu } from './viommu.ts';

/** What a HWPT is asked for with. */
interface Request {
  readonly idev: IommufdDevice;
  readonly flags: number;
  readonly data: UserData;
}

// Message 3: "When a HWPT is allocated it would be connected to the viommu_id". pt_id still says what it stands on.
function allocOnViommu(command: Command, viommuId: number, ptId: number, request: Request): Result<Hwpt> {
  const viommu = getViommu(command.context, viommuId);
  if (failed(viommu)) return viommu;
  if (!(viommu instanceof RfcViommu))
    return fail(EINVAL, `viommu ${viommuId} is Linux's: it is a pt_id there`);
  const { device } = request.idev;
  if (viommu.iommu !== device.iommu)
    return fail(EINVAL, `${device.name} is behind ${device.iommu.name}, not ${viommu.iommu.name}`);
  if (viommu.hwpt.id !== ptId)
    return fail(EINVAL, `viommu ${viommuId} stands on HWPT ${viommu.hwpt.id}, not on object ${ptId}`);
  return allocNested(command, viommu, request);
}

// A driver makes nested domains for a viommu, or for a device and a parent.
function allocNested(command: Command, viommu: RfcViommu, { idev, flags, data }: Request): Result<Hwpt> {
  const { device } = idev;
  const { driver } = device;
  if (viommu.driver.allocDomainNested !== undefined || driver.domainAllocNested === undefined)
    return allocNestedOn(command, viommu, flags, data, viommu.driver.allocDomainNested?.bind(viommu.driver));
  return allocNestedOn(command, viommu, flags, data, (known, memory, bytes) =>
    driver.domainAllocNested!(device, viommu.stage2!.domain, known, memory, bytes),
  );
}

function allocOn(command: Command, ptId: number, request: Request): Result<Hwpt> {
  const { context } = command;
  const on = context.objects.get(ptId);
  if (failed(on)) return fail(EINVAL, `there is no object ${ptId}`);
  const { idev, flags, data } = request;
  const { driver } = idev.device;
  switch (on.type) {
    case 'IOAS':
      return allocHwptPaging(context, on as Ioas, idev, 0, flags, false, data.len > 0 ? data : null);
    case 'HWPT_PAGING': {
      const parent = on as HwptPaging;
      if (driver.domainAllocNested !== undefined && parent.ownViommu === null)
        return allocHwptNested(command, parent, idev, flags, data);
      const own = ownViommu(command, parent, idev.device);
      return failed(own) ? own : allocNested(command, own, request);
    }
    default:
      return fail(EINVAL, `a HWPT cannot be made on an object of type ${on.type}`);
  }
}

/**
 * IOMMU_RFC_HWPT_ALLOC. Errors as Linux's hw_pagetable.c iommufd_hwpt_alloc() has them; EINVAL also where the viommu
 * stands on another parent than pt_id.
 */
export function hwptAlloc(command: Command): Result<number> {
  const cmd = iommu_rfc_hwpt_alloc.read(command.bytes);
  const { context } = command;
  if (cmd.__reserved !== 0 || cmd.__reserved2 !== 0) return fail(EOPNOTSUPP, '__reserved must be 0');
  if ((cmd.flags & IOMMU_HWPT_FAULT_ID_VALID) !== 0) return fail(EOPNOTSUPP, 'there is no fault_id here');
  if ((cmd.data_type === IOMMU_HWPT_DATA_NONE) !== (cmd.data_len === 0))
    return fail(EINVAL, 'data_type and data_len do not go together');
  const idev = context.objects.get<IommufdDevice>(cmd.dev_id, 'DEVICE');
  if (failed(idev)) return fail(ENOENT, `there is no device ${cmd.dev_id}`);
  const data: UserData = { type: cmd.data_type, uptr: cmd.data_uptr, len: cmd.data_len };
  const request: Request = { idev, flags: cmd.flags, data };
  const hwpt =
    cmd.viommu_id === 0
      ? allocOn(command, cmd.pt_id, request)
      : allocOnViommu(command, cmd.viommu_id, cmd.pt_id, request);
  if (failed(hwpt)) return hwpt;
  cmd.out_hwpt_id = hwpt.id;
  const rc = command.respond(iommu_rfc_hwpt_alloc, cmd);
  if (failed(rc)) {
    abortHwpt(context, hwpt);
    return rc;
  }
  context.objects.publish(hwpt);
  return 0;
}
