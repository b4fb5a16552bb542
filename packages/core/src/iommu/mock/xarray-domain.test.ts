import { describe, expect, it } from 'vitest';
import { EINVAL } from '../../abi/errno.ts';
import { failed } from '../../base/result.ts';
import { IOMMU_READ, type DirtyRecorder } from '../driver.ts';
import { fakeKernel } from '../testing/fake-devices.ts';
import { MockIommu } from './driver.ts';
import { XarrayPagingDomain } from './xarray-domain.ts';

const KIB = 1024n;
const MIB = 1n << 20n;
const BASE = 64n * MIB;
/** Physical, on a boundary of a huge page. */
const PA = 2 ** 30;

function domain(huge = false): XarrayPagingDomain {
  const made = new XarrayPagingDomain(new MockIommu(fakeKernel().kernel), huge, true);
  made.setDirtyTracking(true);
  return made;
}

/** What a pass over dirty pages records, as [offset from BASE, length]. */
function collect(from: XarrayPagingDomain, iova: bigint, length: bigint, clear = false): [bigint, bigint][] {
  const found: [bigint, bigint][] = [];
  const record: DirtyRecorder = (at, bytes) => found.push([at - BASE, bytes]);
  expect(failed(from.readAndClearDirty(iova, length, clear, record))).toBe(false);
  return found;
}

describe("the mock's domain until Linux 6.18", () => {
  it('has pages of 2 KiB, and of 1 MiB for devices with the flag', () => {
    expect(domain().pgsizeBitmap).toBe(2n * KIB);
    expect(domain(true).pgsizeBitmap).toBe(MIB | (2n * KIB));
    expect(domain(true).aperture).toEqual(domain().aperture);
  });

  it('maps what may be neither read nor written', () => {
    const made = domain();
    expect(failed(made.map(BASE, PA, 4n * KIB, 0))).toBe(false);
    expect(made.iovaToPhys(BASE + 2n * KIB)).toBe(PA + 2048);
  });

  it('records each 2 KiB by itself', () => {
    const made = domain();
    made.map(BASE, PA, 2n * MIB, IOMMU_READ);
    made.markDirty(BASE + 4n * KIB, 2n * KIB);
    made.markDirty(BASE + 6n * KIB, 2n * KIB);
    expect(collect(made, BASE, 2n * MIB, true)).toEqual([
      [4n * KIB, 2n * KIB],
      [6n * KIB, 2n * KIB],
    ]);
    expect(collect(made, BASE, 2n * MIB)).toEqual([]);
  });

  it('takes the number of a page that a device wrote for one of 2 KiB, and counts those that are mapped', () => {
    const made = domain();
    made.map(BASE, PA, 8n * KIB, IOMMU_READ);
    expect(made.markDirty(BASE + 8n * KIB, 2n * KIB)).toBe(false);
    expect(made.markDirty(BASE, 4n * KIB)).toBe(false);
    expect(made.markDirty(2n * BASE + 4n * KIB, 4n * KIB)).toBe(true);
    expect(made.markDirty(BASE + 1n, 1n)).toBe(false);
    expect(collect(made, BASE, 8n * KIB)).toEqual([[2n * KIB, 2n * KIB]]);
  });

  it('records nothing while tracking is off, but cleans', () => {
    const made = domain();
    made.map(BASE, PA, 4n * KIB, IOMMU_READ);
    made.markDirty(BASE, 2n * KIB);
    made.setDirtyTracking(false);
    expect(made.readAndClearDirty(BASE, 4n * KIB, true, () => {})).toMatchObject({ errno: EINVAL });
    expect(failed(made.readAndClearDirty(BASE, 4n * KIB, true, null))).toBe(false);
    made.setDirtyTracking(true);
    expect(collect(made, BASE, 4n * KIB)).toEqual([]);
  });

  it('records huge pages from the place on where the range begins in the first', () => {
    const made = domain(true);
    made.map(BASE, PA, 3n * MIB, IOMMU_READ);
    made.map(BASE + 3n * MIB, PA + 2048, 8n * KIB, IOMMU_READ);
    for (const at of [MIB, 2n * MIB + 4n * KIB, 3n * MIB, 3n * MIB + 4n * KIB])
      expect(made.markDirty(BASE + at, 2n * KIB)).toBe(true);
    expect(collect(made, BASE, 4n * MIB)).toEqual([
      [MIB, MIB],
      [2n * MIB, MIB],
      [3n * MIB, 2n * KIB],
      [3n * MIB + 4n * KIB, 2n * KIB],
    ]);
    // What lies before that place behind the last huge page is passed over.
    expect(collect(made, BASE + 4n * KIB, 4n * MIB - 4n * KIB, true)).toEqual([
      [MIB + 4n * KIB, MIB],
      [2n * MIB + 4n * KIB, MIB],
      [3n * MIB + 4n * KIB, 2n * KIB],
    ]);
    expect(collect(made, BASE, 4n * MIB)).toEqual([[3n * MIB, 2n * KIB]]);
  });
});
