import { readField, writeField, type Field } from '../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../base/result.ts';
import { hi32, lo32 } from '../../../base/u64.ts';
import { EINVAL, ENOMEM, ENOSPC, EOPNOTSUPP } from '../../../abi/errno.ts';
import { IOMMU_HWPT_DATA_AMD_GUEST } from '../../../abi/iommufd.ts';
import { iommu_hwpt_amd_guest } from '../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { Device, IommuDomain, IommuDriver, ViommuCore } from '../../driver.ts';
import type { IopfGroup } from '../../iopf.ts';
import { copyUserData, type UserData } from '../../user-data.ts';
import { attachNested } from '../driver/domains/attach.ts';
import type { AmdIommuDevice, GuestDte } from '../driver/device.ts';
import { emptyDte, type Dte } from '../driver/configuration/dte.ts';
import { DTE, GLX_RESERVED, GUEST_PAGING } from '../spec/dte.ts';
import type { AmdPagingDomain } from '../driver/domains/domain.ts';
import type { Ivhd } from '../driver/ivhd.ts';
import type { GuestDomain } from './hw-viommu.ts';

// A guest's DTE over a nest parent: drivers/iommu/amd/nested.c. In Linux 7.3 nothing leads there: its amd_viommu_ops has
// no alloc_domain_nested().

/** What a guest decides in a DTE. */
const GUEST_FIELDS: readonly Field[] = [
  DTE.PPR,
  DTE.GLX,
  DTE.GIOV,
  DTE.GCR3_14_12,
  DTE.GCR3_30_15,
  DTE.GCR3_51_31,
  DTE.GuestPagingMode,
];

/** validate_gdte_nested() */
function validate(dte: Dte, guestLevels: number): Result<void> {
  const get = (field: Field): number => readField(field, dte);
  if (get(DTE.Mode) !== 0 || get(DTE.HostPTRoot) !== 0)
    return fail(EINVAL, 'the DTE has host tables, which a guest does not have');
  const root = get(DTE.GCR3_14_12) + get(DTE.GCR3_30_15) + get(DTE.GCR3_51_31);
  if (get(DTE.V) !== 0 && get(DTE.GV) !== 0 && root === 0) return fail(EINVAL, 'the GCR3 table is at 0');
  const paging = get(DTE.GuestPagingMode);
  if (paging > GUEST_PAGING.FIVE_LEVELS) return fail(EINVAL, `GuestPagingMode ${paging} is reserved`);
  if (get(DTE.GLX) === GLX_RESERVED) return fail(EINVAL, 'GLX is reserved at 3');
  if (paging === GUEST_PAGING.FIVE_LEVELS && guestLevels < 5)
    return fail(EOPNOTSUPP, 'the host has guest tables of four levels');
}

/** A viommu that has domain ids of its guest. */
export interface GuestViommu {
  readonly core: ViommuCore;
  readonly ivhd: Ivhd;
  readonly parent: AmdPagingDomain;
  readonly guestDomains: Map<number, GuestDomain>;
  /** Names by which the hardware tells the guest of a device; null where it does not. */
  namesOf(device: AmdIommuDevice): { readonly guestId: number; readonly deviceId: number } | null;
  /** A domain id of the guest stands for one of the host from now on. */
  mapDomain(guestId: number, hostId: number): void;
}

/** amd_iommu_alloc_domain_nested() */
export function allocNestedDomain(
  viommu: GuestViommu,
  memory: AddressSpace,
  data: UserData,
): Result<IommuDomain> {
  const { driver } = viommu.ivhd;
  if (data.type !== IOMMU_HWPT_DATA_AMD_GUEST) return fail(EOPNOTSUPP, `data of type ${data.type}`);
  if (driver.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
  const { size } = iommu_hwpt_amd_guest;
  const bytes = copyUserData(memory, data, IOMMU_HWPT_DATA_AMD_GUEST, size, size);
  if (failed(bytes)) return bytes;
  const dte = emptyDte();
  for (const [i, word] of iommu_hwpt_amd_guest.read(bytes).dte.entries())
    dte.set([lo32(word), hi32(word)], i * 2);
  const valid = validate(dte, driver.features.guestLevels);
  if (failed(valid)) return valid;
  const guest = takeGuestDomain(viommu, readField(DTE.DomainID, dte));
  return failed(guest) ? guest : new AmdNestedDomain(viommu, dte, guest);
}

/** One id of the host's for each of the guest's, as long as it is used: gdom_info_load_or_alloc_locked(). */
function takeGuestDomain(viommu: GuestViommu, guestId: number): Result<GuestDomain> {
  const { driver } = viommu.ivhd;
  const known = viommu.guestDomains.get(guestId);
  if (known !== undefined) {
    known.users++;
    return known;
  }
  if (driver.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain id');
  const hostId = driver.domainIds.take();
  if (hostId === null) return fail(ENOSPC, 'all domain ids are in use');
  const made = { guestId, hostId, users: 1 };
  viommu.guestDomains.set(guestId, made);
  return made;
}

/** struct nested_domain */
export class AmdNestedDomain implements IommuDomain {
  readonly type = 'nested';
  readonly owner: IommuDriver;
  readonly viommu: GuestViommu;
  readonly guest: GuestDomain;
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;
  readonly #dte: Dte;

  constructor(viommu: GuestViommu, dte: Dte, guest: GuestDomain) {
    this.owner = viommu.ivhd.driver;
    this.viommu = viommu;
    this.guest = guest;
    this.#dte = dte;
  }

  /**
   * nested_attach_device(). DEVIATION: Linux 7.3 leaves dev_data->domain as it was, so that the device is in no list of
   * the parent where it comes from the blocking domain, keeps its ATS off then, and going back to the parent changes
   * nothing. Here the device has the parent, and the guest's part before it.
   */
  attachDevice(device: Device, _old: IommuDomain | null): Result<void> {
    const amd = device as AmdIommuDevice;
    if (amd.ivhd !== this.viommu.ivhd) return fail(EINVAL, `${amd.name} is behind another IOMMU`);
    if (amd.pasidEnabled) return fail(EINVAL, `${amd.name} has PASIDs of the host`);
    return amd.ivhd.exclusively(() => {
      const attached = attachNested(amd, this.viommu.parent, this.#guestDte(amd));
      if (failed(attached)) return attached;
      this.viommu.mapDomain(this.guest.guestId, this.guest.hostId);
    });
  }

  #guestDte(device: AmdIommuDevice): GuestDte {
    const pageRequests = readField(DTE.PPR, this.#dte) !== 0;
    return { pageRequests, fillDte: (dte, ats) => this.#fill(device, dte, ats) };
  }

  // set_dte_nested()
  #fill(device: AmdIommuDevice, dte: Dte, ats: boolean): void {
    this.viommu.parent.setHostTables(dte, this.guest.hostId, ats);
    writeField(DTE.GV, dte, 1);
    for (const field of GUEST_FIELDS) writeField(field, dte, readField(field, this.#dte));
    const names = this.viommu.namesOf(device);
    if (names === null) return;
    // Events and page requests of the device go to the guest, under the name that it knows.
    writeField(DTE.vImuEn, dte, 1);
    writeField(DTE.GDeviceID, dte, names.deviceId);
    writeField(DTE.GuestID, dte, names.guestId);
  }

  /**
   * nested_domain_free(): the last of a guest's domain id gives the host's back. DEVIATION: Linux leaves what is cached
   * under that id, which a later guest then meets; no command takes all PASIDs of a domain id, so all goes.
   */
  free(): void {
    if (--this.guest.users > 0) return;
    const { viommu } = this;
    viommu.guestDomains.delete(this.guest.guestId);
    viommu.mapDomain(this.guest.guestId, viommu.parent.id);
    viommu.ivhd.flushAllCaches();
    viommu.ivhd.driver.domainIds.free(this.guest.hostId);
  }
}
