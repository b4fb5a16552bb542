import { fail, failed, type Result } from '../../base/result.ts';
import { big, PAGE_MASK_N, PAGE_SIZE, PAGE_SIZE_N } from '../../base/u64.ts';
import { EOPNOTSUPP, EOVERFLOW } from '../../abi/errno.ts';
import { IOMMU_MMIO, IOMMU_NO_PASID, IOMMU_READ, IOMMU_WRITE } from '../../iommu/driver.ts';
import type { IommufdContext } from '../context.ts';
import type { IommufdDevice } from './device.ts';
import type { IommufdGroup } from './group.ts';
import type { HwptPaging } from '../hwpt/hwpt.ts';

// drivers/iommu/iommufd/driver.c iommufd_sw_msi() and device.c iommufd_group_setup_msi(): where an IOMMU translates the
// messages of devices too, the page of the interrupt controller is mapped into the device's page table, at an IOVA that the
// driver names (IOMMU_RESV_SW_MSI).

/** Pages that a context can have: struct iommufd_sw_msi_maps has 64 bits. */
const PAGES_MAX = 64;

/** A page of an interrupt controller: struct iommufd_sw_msi_map. */
export interface SwMsiMap {
  readonly start: bigint;
  readonly pa: number;
  /** Pages from the start on. */
  readonly page: number;
}

/** iommu_dma_prepare_msi() is EOPNOTSUPP from this Linux on where nothing is attached; before, it changed nothing. */
const STRICT_SINCE = 615;

// iommufd_sw_msi_get_map()
function mapOf(context: IommufdContext, pa: number, start: bigint): Result<SwMsiMap> {
  const same = context.swMsi.filter((each) => each.start === start);
  const known = same.find((each) => each.pa === pa);
  if (known !== undefined) return known;
  if (context.swMsi.length >= PAGES_MAX) return fail(EOVERFLOW, `${PAGES_MAX} pages of MSIs are mapped`);
  const map = { start, pa, page: same.reduce((most, each) => Math.max(most, each.page + 1), 0) };
  context.swMsi.push(map);
  return map;
}

function iovaOf({ start, page }: SwMsiMap): bigint {
  return start + big(page * PAGE_SIZE);
}

// iommufd_sw_msi_install()
function install(paging: HwptPaging, map: SwMsiMap): Result<void> {
  if (paging.swMsi.has(map)) return;
  const prot = IOMMU_WRITE | IOMMU_READ | IOMMU_MMIO;
  const mapped = paging.domain!.map(iovaOf(map), map.pa, PAGE_SIZE_N, prot);
  if (failed(mapped)) return mapped;
  paging.swMsi.add(map);
}

/** iommufd_group_setup_msi(): the pages that the group's devices use already, into another page table. */
export function setupGroupMsi(group: IommufdGroup, paging: HwptPaging): Result<void> {
  for (const map of group.swMsi) {
    const installed = install(paging, map);
    if (failed(installed)) return installed;
  }
}

/**
 * iommu_dma_prepare_msi(): the address that the device is to write its messages to, so that they come to `doorbell`, a
 * physical address. EOPNOTSUPP where the device has no page table.
 */
export function prepareMsi(context: IommufdContext, idev: IommufdDevice, doorbell: number): Result<bigint> {
  const { group } = idev;
  const untranslated = big(doorbell);
  if (group.group.domain?.type === 'identity') return untranslated;
  const attach = group.attached.get(IOMMU_NO_PASID);
  if (attach === undefined)
    return context.kernel.version < STRICT_SINCE
      ? untranslated
      : fail(EOPNOTSUPP, `${idev.device.name} is attached to nothing that its MSIs could pass`);
  if (group.swMsiStart === null) return untranslated;
  const inPage = untranslated & PAGE_MASK_N;
  const map = mapOf(context, doorbell - (doorbell % PAGE_SIZE), group.swMsiStart);
  if (failed(map)) return map;
  const installed = install(attach.hwpt.paging, map);
  if (failed(installed)) return installed;
  group.swMsi.add(map);
  return iovaOf(map) + inPage;
}
