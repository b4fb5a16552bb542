import type { Range } from '../../base/range.ts';
import { RangeSet } from '../../base/range-set.ts';
import { failed } from '../../base/result.ts';
import { U64_MAX } from '../../base/u64.ts';
import type { Device } from '../../iommu/driver.ts';
import type { AddressSpace } from '../../memory/process.ts';
import type { Ioas } from '../ioas/ioas.ts';

// Which IOVAs a VFIO container offers: VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE.

/**
 * The ranges that may be mapped, ascending.
 *
 * DEVIATION: `waiting`, devices of the container's groups that no program has opened, count as if they were attached.
 * vfio_iommu_type1.c attaches a group by VFIO_SET_IOMMU, iommufd's container by VFIO_GROUP_GET_DEVICE_FD; in Linux's
 * iommufd_fill_cap_iova() there are no limits before. Programs that were written for the former ask between the two, and
 * stumble over a range that ends at 2^64 - 1 (QEMU's util/vfio-helpers.c; libvfn's src/iommu/vfio.c).
 */
export function containerRanges(
  ioas: Ioas,
  waiting: Iterable<Device>,
  memory: AddressSpace,
): Iterable<Range> {
  const reserved = new RangeSet<null>();
  for (const { start, last } of ioas.iopt.reserved) reserved.add(start, last, null);
  for (const device of waiting) {
    for (const { type, start, length } of device.driver.reservedRegions(device))
      if (type !== 'direct-relaxable') reserved.add(start, start + length - 1n, null);
    const { start, last } = apertureOf(device, memory);
    if (start !== 0n) reserved.add(0n, start - 1n, null);
    if (last !== U64_MAX) reserved.add(last + 1n, U64_MAX, null);
  }
  return reserved.holes(0n, U64_MAX);
}

/** What a domain of the device can map; everything where there is no memory for one. */
function apertureOf(device: Device, memory: AddressSpace): Range {
  const domain = device.driver.domainAllocPagingFlags(device, 0, memory, null);
  if (failed(domain)) return { start: 0n, last: U64_MAX };
  const { aperture } = domain;
  domain.free();
  return aperture;
}
