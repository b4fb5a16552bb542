import { fail, failed, type Result } from '../../../base/result.ts';
import { EINVAL, EIO, ENOMEM, EOPNOTSUPP } from '../../../abi/errno.ts';
import {
  IOMMU_DEV_INVALIDATE_DATA_AMD,
  IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID,
  IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID,
  IOMMU_HWPT_IOTLB_SYNC_DATA_AMD,
} from '../../../abi/rfc-2023-12.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { Device, IommuDomain, PagingDomain, Rfc202312Ops, ViommuCore } from '../../driver.ts';
import { copyFullUserArray, type UserData, type UserDataArray } from '../../user-data.ts';
import type { AmdIommuDevice } from '../driver/device.ts';
import { AmdPagingDomain } from '../driver/domains/domain.ts';
import type { Ivhd } from '../driver/ivhd.ts';
import { CMD_BYTES } from '../spec/commands.ts';
import { sendGuestCommands } from './guest-command.ts';
import type { GuestDomain } from './hw-viommu.ts';
import { allocNestedDomain, AmdNestedDomain, type GuestViommu } from './nested-domain.ts';
import { AmdViommu } from './viommu.ts';

// The trial uAPI rfc-2023-12 on AMD IOMMUs: what message 1 calls the software path. The hardware knows nothing of the
// guest; its ids are put in the place of the guest's here.

/** Device ids and domain ids have 16 bits. */
const ID_LAST = 0xffffn;

/** The "virtual function" of message 1, in software: a guest's domain ids, and tables of a guest over the host's. */
class SoftViommu extends AmdViommu implements GuestViommu {
  readonly guestDomains = new Map<number, GuestDomain>();

  override hostDomainIds(): readonly number[] {
    return [...this.guestDomains.values()].map(({ hostId }) => hostId);
  }

  mapDomain(): void {}

  namesOf(): null {
    return null;
  }

  allocDomainNested(_flags: number, memory: AddressSpace, data: UserData): Result<IommuDomain> {
    return allocNestedDomain(this, memory, data);
  }

  /** Message 10 for AMD: all commands of a guest in their order, with ids of the viommu's tables. */
  cacheInvalidate(memory: AddressSpace, array: UserDataArray): Result<void> {
    const bytes = copyCommands(this.ivhd, memory, array, IOMMU_HWPT_IOTLB_SYNC_DATA_AMD);
    if (failed(bytes)) return bytes;
    return sendGuestCommands(this.ivhd, bytes, array, {
      deviceOf: (id) => {
        const device = this.core.findDevice(BigInt(id));
        return device === null ? fail(EIO, `no device has the virtual id ${id}`) : (device as AmdIommuDevice);
      },
      domainOf: (id) =>
        this.guestDomains.get(id)?.hostId ?? fail(EIO, `no nested HWPT has the guest's domain id ${id}`),
    });
  }
}

function copyCommands(
  { kernel }: Ivhd,
  memory: AddressSpace,
  array: UserDataArray,
  type: number,
): Result<Uint8Array> {
  if (kernel.failpoint()) return fail(ENOMEM, 'no memory for the commands');
  return copyFullUserArray(memory, array, type, CMD_BYTES);
}

/** Message 1: "This would be used for AMD/ARM's ATC invalidation (and just force the stream ID ...)". */
function deviceInvalidate(device: Device, memory: AddressSpace, array: UserDataArray): Result<void> {
  const amd = device as AmdIommuDevice;
  const bytes = copyCommands(amd.ivhd, memory, array, IOMMU_DEV_INVALIDATE_DATA_AMD);
  if (failed(bytes)) return bytes;
  return sendGuestCommands(amd.ivhd, bytes, array, {
    deviceOf: () => amd,
    domainOf: () => fail(EIO, 'the command is for an IOTLB: it goes to a HWPT'),
  });
}

/** Message 1: "Kernel replaces vDomain-ID with pDomain-ID from the nesting domain and executes the invalidation." */
function iotlbSync(domain: IommuDomain, memory: AddressSpace, array: UserDataArray): Result<void> {
  if (!(domain instanceof AmdNestedDomain)) {
    array.entryNum = 0;
    return fail(EOPNOTSUPP, 'the HWPT is not nested');
  }
  const { viommu, guest } = domain;
  const bytes = copyCommands(viommu.ivhd, memory, array, IOMMU_HWPT_IOTLB_SYNC_DATA_AMD);
  if (failed(bytes)) return bytes;
  return sendGuestCommands(viommu.ivhd, bytes, array, {
    deviceOf: () => fail(EIO, 'the command is for a device: it goes to IOMMU_DEV_INVALIDATE'),
    domainOf: () => guest.hostId,
  });
}

function viommuInit(core: ViommuCore, parent: PagingDomain): Result<SoftViommu> {
  if (!(parent instanceof AmdPagingDomain) || parent.mode !== 'v1')
    return fail(EINVAL, 'the nest parent has no host tables');
  return new SoftViommu(core, parent);
}

export const amdRfc202312: Rfc202312Ops = {
  virtualIds: new Map([
    [IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID, ID_LAST],
    [IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID, ID_LAST],
  ]),
  viommuInit,
  deviceInvalidate,
  iotlbSync,
};
