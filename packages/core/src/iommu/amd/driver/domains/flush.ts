import { POW2 } from '../../../../pagetable/page-sizes.ts';
import { IOMMU_NO_PASID } from '../../../driver.ts';
import { ALL, invalidatePages, type InvalidateFlags, type PageRange } from '../queues/commands.ts';
import type { AmdIommuDevice } from '../device.ts';
import type { ProtectionDomain } from './domain-base.ts';

// What leaves caches when tables change: drivers/iommu/amd/iommu.c amd_iommu_domain_flush_pages().

/** amd_iommu_domain_flush_pages(): in every IOMMU and every device that has the domain; waits for all of them. */
export function flushDomainPages(domain: ProtectionDomain, range: PageRange, flags: InvalidateFlags): void {
  const everything = range.first === ALL.first && range.last === ALL.last;
  if (!domain.driver.npCache || everything) flushOnce(domain, range, flags);
  else for (const piece of alignedPieces(range)) flushOnce(domain, piece, flags);
  domain.flushComplete();
}

/** With NpCache a hypervisor follows every flush: none covers more than was asked. */
function* alignedPieces({ first, last }: PageRange): Generator<PageRange> {
  for (let at = first; at <= last;) {
    let bits = Math.floor(Math.log2(last - at + 1));
    while (at % POW2[bits]! !== 0 || at + POW2[bits]! - 1 > last) bits--;
    yield { first: at, last: at + POW2[bits]! - 1 };
    at += POW2[bits]!;
  }
}

// __domain_flush_pages()
function flushOnce(domain: ProtectionDomain, range: PageRange, flags: InvalidateFlags): void {
  const gn = domain.mode === 'v2';
  if (gn) flushV2(domain, range, flags);
  else flushV1(domain, range, flags);
  // DEVIATION: Linux sends this one with GN and PASID 0 for guest tables, and an Invalidate Request with a PASID leaves
  // what a device was given without one (PCI Express Base §10.3.8). `linuxIotlbFlush` of the driver does as Linux does.
  const withPasid = gn && domain.driver.options.linuxIotlbFlush === true;
  for (const device of domain.devices)
    if (device.atsEnabled) device.flushIotlb(atcRange(device, range), IOMMU_NO_PASID, withPasid);
}

/**
 * DEVIATION: Linux sends the range. A device of a guest with tables of its own has addresses of the guest in its cache, of
 * which nobody knows which lead to the range: all of it goes, as the SMMUv3's driver does (arm-smmu-v3.c
 * arm_smmu_master_build_inv(), INV_TYPE_ATS_FULL).
 */
function atcRange(device: AmdIommuDevice, range: PageRange): PageRange {
  return device.nested === null ? range : ALL;
}

/** domain_flush_pages_v1(), with the domain ids under which guests have the tables (iommu_flush_pages_v1_hdom_ids()). */
function flushV1(domain: ProtectionDomain, range: PageRange, flags: InvalidateFlags): void {
  const command = invalidatePages(range, domain.id, IOMMU_NO_PASID, flags);
  for (const ivhd of domain.ivhds.keys()) ivhd.queue(command);
  for (const viommu of domain.viommus) {
    for (const id of viommu.hostDomainIds())
      viommu.ivhd.queue(invalidatePages(range, id, IOMMU_NO_PASID, flags));
  }
}

/** domain_flush_pages_v2(): guest tables are cached by the domain id of each device's GCR3 table. */
function flushV2(domain: ProtectionDomain, range: PageRange, flags: InvalidateFlags): void {
  for (const device of domain.devices)
    device.ivhd.queue(invalidatePages(range, device.gcr3!.domainId, 0, { ...flags, gn: true }));
  for (const { device, pasid } of domain.pasidUsers) {
    if (device.gcr3 === null) continue;
    device.ivhd.queue(invalidatePages(range, device.gcr3.domainId, pasid, { ...flags, gn: true }));
    if (device.atsEnabled) device.flushIotlb(range, pasid, true);
  }
}
