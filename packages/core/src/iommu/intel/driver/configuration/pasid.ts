import { encode, readField, writeField } from '../../../../base/bit-fields.ts';
import { fail, type Result } from '../../../../base/result.ts';
import { EBUSY, ENODEV, EOPNOTSUPP } from '../../../../abi/errno.ts';
import { IOMMU_NO_PASID } from '../../../driver.ts';
import { PASID_ENTRY, PGTT } from '../../spec/pasid.ts';
import {
  deviceTlb,
  iotlbDomain,
  ORDER_ALL,
  pasidCacheOf,
  pasidDeviceTlb,
  pasidIotlbAll,
  wait,
  WAIT,
} from '../queues/descriptors.ts';
import type { IntelDevice } from '../device.ts';
import { PASS_THROUGH_DID } from '../dmar-unit.ts';
import { isPresent, type PasidEntry, type PasidTable } from './pasid-table.ts';

// Entries of a function's PASID table, from set up to torn down, each with what has to be invalidated, in order:
// drivers/iommu/intel/pasid.c.

interface Slot {
  readonly table: PasidTable;
  readonly address: number;
  readonly entry: PasidEntry;
}

// intel_pasid_get_entry()
function slotOf(device: IntelDevice, pasid: number): Slot | null {
  const { table } = device;
  const address = table?.entryAddress(pasid) ?? null;
  return table === null || address === null ? null : { table, address, entry: table.load(address) };
}

function didOf(entry: PasidEntry): number {
  return readField(PASID_ENTRY.DID, entry);
}

/** Puts an entry where there is none: ENODEV where it has no place, EBUSY where one is present. */
export function setUpEntry(device: IntelDevice, pasid: number, entry: PasidEntry): Result<void> {
  const slot = slotOf(device, pasid);
  if (slot === null) return fail(ENODEV, `${device.name} has no place for PASID ${pasid}`);
  if (isPresent(slot.entry)) return fail(EBUSY, `PASID ${pasid} of ${device.name} is in use`);
  slot.table.store(slot.address, entry);
  // pasid_flush_caches()
  const { unit } = device;
  if (!unit.features.cachingMode) return;
  const did = didOf(entry);
  unit.invalidate([pasidCacheOf(did, pasid)]);
  unit.invalidate([pasidIotlbAll(did, pasid)]);
  // DEVIATION: what is not present is cached under domain id 0 (§6.2.3), which Linux 7.3 does not name here: a device that
  // has met the absent entry stays blocked. With `linuxPasidFlush` of the driver that is what happens here too.
  if (unit.driver.options.linuxPasidFlush !== true) unit.invalidate([pasidCacheOf(0, pasid)]);
}

/** devtlb_invalidation_with_pasid() */
function invalidateDeviceTlb(device: IntelDevice, pasid: number): void {
  if (!device.atsEnabled) return;
  const descriptor =
    pasid === IOMMU_NO_PASID ? deviceTlb(device, 0, ORDER_ALL) : pasidDeviceTlb(device, pasid, 0, ORDER_ALL);
  device.unit.invalidate([descriptor]);
}

/**
 * intel_pasid_tear_down_entry(): first P goes, then what hardware has cached of the entry and by it, then the rest of the
 * entry, and then page requests on their way are waited for.
 */
export function tearDownEntry(device: IntelDevice, pasid: number): void {
  const slot = slotOf(device, pasid);
  if (slot === null || !isPresent(slot.entry)) return;
  const { unit } = device;
  const { entry, table, address } = slot;
  const did = didOf(entry);
  const pgtt = readField(PASID_ENTRY.PGTT, entry);
  writeField(PASID_ENTRY.P, entry, 0);
  table.storeFirst(address, entry);
  unit.invalidate([pasidCacheOf(did, pasid)]);
  const byPasid = pgtt === PGTT.PASS_THROUGH || pgtt === PGTT.FIRST_STAGE;
  unit.invalidate([byPasid ? pasidIotlbAll(did, pasid) : iotlbDomain(unit.features, did)]);
  invalidateDeviceTlb(device, pasid);
  table.store(address, new Uint32Array(entry.length));
  drainPageRequests(device, pasid);
}

/** intel_iommu_drain_pasid_prq() */
function drainPageRequests(device: IntelDevice, pasid: number): void {
  const { unit } = device;
  const { pageRequests } = unit;
  if (!device.servesFaults || pageRequests === null) return;
  const did = device.domain?.didOn(unit) ?? PASS_THROUGH_DID;
  if (pageRequests.holds(device.requesterId, pasid)) pageRequests.serve();
  const inOrder = wait(WAIT.FENCE, DONE, 0);
  const descriptors =
    pasid === IOMMU_NO_PASID
      ? [inOrder, iotlbDomain(unit.features, did), deviceTlb(device, 0, ORDER_ALL)]
      : [inOrder, pasidIotlbAll(did, pasid), pasidDeviceTlb(device, pasid, 0, ORDER_ALL)];
  for (let tries = 0; tries < 2; tries++) {
    unit.invalidate(descriptors, true);
    if (!pageRequests.overflowed) return;
    pageRequests.serve();
  }
}

/** QI_DONE, which a wait descriptor that writes no status carries all the same. */
const DONE = 2;

/** intel_pasid_setup_dirty_tracking(): hardware keeps dirty bits in the second-stage tables from now on, or no more. */
export function setDirtyTracking(device: IntelDevice, pasid: number, enabled: boolean): Result<void> {
  const slot = slotOf(device, pasid);
  if (slot === null) return fail(ENODEV, `${device.name} has no place for PASID ${pasid}`);
  const { unit } = device;
  const { entry, table, address } = slot;
  const did = didOf(entry);
  const pgtt = readField(PASID_ENTRY.PGTT, entry);
  if (pgtt !== PGTT.SECOND_STAGE && pgtt !== PGTT.NESTED)
    return fail(EOPNOTSUPP, `translation type ${pgtt} has no dirty tracking`);
  if ((readField(PASID_ENTRY.SSADE, entry) !== 0) === enabled) return;
  writeField(PASID_ENTRY.SSADE, entry, enabled ? 1 : 0);
  table.storeFirst(address, entry);
  unit.invalidate([pasidCacheOf(did, pasid)]);
  unit.invalidate([iotlbDomain(unit.features, did)]);
  invalidateDeviceTlb(device, pasid);
}

/** intel_pasid_setup_page_snoop_control(): every access by the entry snoops from now on. */
export function setPageSnoop(device: IntelDevice, pasid: number): void {
  const slot = slotOf(device, pasid);
  if (slot === null || !isPresent(slot.entry)) return;
  const { unit } = device;
  const { entry, table, address } = slot;
  writeField(PASID_ENTRY.PGSNP, entry, 1);
  table.store(address, entry);
  const did = didOf(entry);
  // intel_pasid_flush_present()
  unit.invalidate([pasidCacheOf(did, pasid)]);
  unit.invalidate([pasidIotlbAll(did, pasid)]);
  invalidateDeviceTlb(device, pasid);
}

/** intel_pasid_setup_pass_through() */
export function setUpPassThrough(device: IntelDevice, pasid: number): Result<void> {
  const { agaw, coherentWalk } = device.unit.features;
  const entry = encode(PASID_ENTRY, {
    P: 1,
    PGTT: PGTT.PASS_THROUGH,
    AW: agaw,
    DID: PASS_THROUGH_DID,
    PWSNP: coherentWalk,
  });
  return setUpEntry(device, pasid, entry);
}

/** domain_setup_*(): an entry in the place of another one, which goes first; `replaces` where there was a domain. */
export function replaceEntry(
  device: IntelDevice,
  pasid: number,
  replaces: boolean,
  setUp: () => Result<void>,
): Result<void> {
  if (replaces) tearDownEntry(device, pasid);
  return setUp();
}
