// Where the IOTLB alone may answer users' reads and writes: what the DTE and the registers come to, worked out once.

import type { CacheDomain, TranslationCache } from '../../../caches/cache.ts';
import { ACCESS, ALL_RIGHTS, USER_SHIFT } from '../translation/access.ts';
import { ADMIT, type Admission } from './admission.ts';
import type { AmdIommuFeatures } from '../registers/config.ts';
import type { CachedDevice, DeviceTable } from './device-table.ts';
import { FAST, FAST_AGE, type GuestSpace, HOST_TAG, type Iotlb, type Tag } from '../translation/iotlb.ts';

/** Of requests without a PASID. */
export const NO_PASID = -1;

/** How requests of a device with a PASID, or without any, find their IOTLB entries. All have one shape. */
export interface QuickRoute {
  readonly deviceId: number;
  readonly pasid: number;
  /** Admission.epoch when it was made. */
  readonly epoch: number;
  readonly cache: TranslationCache;
  readonly entries: CacheDomain;
  readonly tag: Tag;
  /** Bits of the upper word that addresses must not have. */
  readonly tooHi: number;
  /** Permissions that entries must have, or NEVER. */
  readonly read: number;
  readonly write: number;
  /** FAST: which bits count besides the permissions, how they must be now, and what is so in any case. */
  readonly mask: number;
  value: number;
  readonly always: number;
}

/** What no entry says. */
const NEVER = -1;

export class QuickRoutes {
  readonly #features: AmdIommuFeatures;
  readonly #table: DeviceTable;
  readonly #admission: Admission;
  readonly #iotlb: Iotlb;

  constructor(features: AmdIommuFeatures, table: DeviceTable, admission: Admission, iotlb: Iotlb) {
    this.#features = features;
    this.#table = table;
    this.#admission = admission;
    this.#iotlb = iotlb;
  }

  /** The route of a device and a PASID or NO_PASID, DeviceTable.lastRoute from now on; null where there is none. */
  find(deviceId: number, pasid: number): QuickRoute | null {
    const device = this.#table.known(deviceId);
    if (device === null) return null;
    const known = pasid === NO_PASID ? device.plainRoute : device.pasidRoute;
    const route = known !== null && this.#holds(known, device, pasid) ? known : this.#make(device, pasid);
    if (route === null) return null;
    if (pasid === NO_PASID) device.plainRoute = route;
    else device.pasidRoute = route;
    this.#table.lastRoute = route;
    return route;
  }

  /** Whether the route still holds; then its age is the domain's. */
  #holds(route: QuickRoute, device: CachedDevice, pasid: number): boolean {
    if (route.pasid !== pasid || route.epoch !== this.#admission.epoch) return false;
    if (route.tag !== HOST_TAG) route.value = (route.value & ~FAST_AGE) | device.domain!.age;
    return true;
  }

  #make(device: CachedDevice, pasid: number): QuickRoute | null {
    const admitted = this.#admission.admitted(device);
    if (pasid !== NO_PASID) return (admitted & ADMIT.PASID) === 0 ? null : this.#guest(device, pasid, pasid);
    if ((admitted & ADMIT.HOST) !== 0) return this.#host(device);
    return (admitted & ADMIT.GUEST) === 0 ? null : this.#guest(device, NO_PASID, 0);
  }

  #host(device: CachedDevice): QuickRoute | null {
    const { config, domain } = device;
    if (domain === null || config.host === null || config.host.tooLo !== 0) return null;
    return {
      deviceId: config.deviceId,
      pasid: NO_PASID,
      epoch: this.#admission.epoch,
      cache: this.#iotlb.host.cache,
      entries: domain.host,
      tag: HOST_TAG,
      tooHi: config.host.tooHi,
      read: (config.rights & ACCESS.READ) !== 0 ? ACCESS.READ : NEVER,
      write: (config.rights & ACCESS.WRITE) !== 0 ? ACCESS.WRITE : NEVER,
      mask: config.dirty ? FAST.CLEAN : 0,
      value: 0,
      always: 0,
    };
  }

  /** Requests without a PASID share the entries of PASID 0 (DTE.GIOV), but for the interrupt range. */
  #guest(device: CachedDevice, pasid: number, entriesOf: number): QuickRoute | null {
    const { config, domain } = device;
    const space: GuestSpace | undefined = domain?.spaces.get(entriesOf);
    if (domain === null || space === undefined || (ALL_RIGHTS & ~config.rights) !== 0) return null;
    const { host, dirty, mode0Coherent, guestLevels } = config;
    const plain = pasid === NO_PASID;
    const userShift = this.#features.us ? USER_SHIFT : 0;
    return {
      deviceId: config.deviceId,
      pasid,
      epoch: this.#admission.epoch,
      cache: this.#iotlb.guest.cache,
      entries: domain.guest,
      tag: space.leaves,
      // Half of the address space is enough: canonical and zero-extended addresses are alike there.
      tooHi: guestLevels === 4 ? 0xffff_8000 | 0 : 0xff00_0000 | 0,
      read: ACCESS.READ << userShift,
      write: ACCESS.WRITE << userShift,
      mask: FAST_AGE | FAST.NESTED | (dirty ? FAST.CLEAN : 0) | (plain ? FAST.INTERRUPT : 0),
      value: (host !== null ? FAST.NESTED : 0) | domain.age,
      always: host === null && mode0Coherent ? FAST.COHERENT : 0,
    };
  }
}
