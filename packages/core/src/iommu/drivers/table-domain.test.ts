import { describe, expect, it } from 'vitest';
import { failed, type Result } from '../../base/result.ts';
import { EADDRINUSE, EINVAL, ENXIO, EOVERFLOW, ERANGE } from '../../abi/errno.ts';
import { Kernel } from '../../machine/kernel.ts';
import { GenericTable } from '../../pagetable/generic/table.ts';
import { SecondStageFormat } from '../../pagetable/generic/vtd-second-stage.ts';
import { IOMMU_READ, IOMMU_WRITE } from '../driver.ts';
import { iovaToPhys, mapRange, readAndClearDirty, unmapRange } from './table-domain.ts';
import { kernelTableMemory } from './table-memory.ts';

const PROT = IOMMU_READ | IOMMU_WRITE;
const PAGE = 0x1000n;
/** A second-stage entry that hardware has marked as written to. */
const DIRTY = 1 << 9;

function setUp() {
  const kernel = new Kernel();
  const table = GenericTable.make({
    format: new SecondStageFormat({ pages2M: true, pages1G: true }),
    memory: kernelTableMemory(kernel),
    topLevel: 3,
    vaBits: 48,
    outBits: 52,
    sync: () => {},
  })!;
  return { kernel, table };
}

const errnoOf = (result: Result<unknown>): number => (failed(result) ? result.errno : 0);

describe('mapRange', () => {
  it.each([
    { what: 'no bytes', iova: 0n, pa: 0, length: 0n, errno: EINVAL },
    { what: 'an IOVA within a page', iova: 0x800n, pa: 0, length: PAGE, errno: ENXIO },
    { what: 'a length that is no whole page', iova: 0n, pa: 0, length: 0x1800n, errno: ENXIO },
    { what: 'a physical address within a page', iova: 0n, pa: 0x800, length: PAGE, errno: ENXIO },
    {
      what: 'a range that passes 2^64',
      iova: 0xffff_ffff_ffff_f000n,
      pa: 0,
      length: 2n * PAGE,
      errno: EOVERFLOW,
    },
    { what: 'an IOVA beyond the table', iova: 1n << 48n, pa: 0, length: PAGE, errno: ERANGE },
    {
      what: 'a range that leaves the table',
      iova: (1n << 48n) - PAGE,
      pa: 0,
      length: 2n * PAGE,
      errno: ERANGE,
    },
  ])('refuses $what', ({ iova, pa, length, errno }) => {
    const { table } = setUp();
    expect(errnoOf(mapRange(table, iova, pa, length, PROT))).toBe(errno);
  });

  it('refuses what is mapped already, and leaves that as it is', () => {
    const { table } = setUp();
    expect(mapRange(table, PAGE, 0x5000, PAGE, PROT)).toBeUndefined();
    expect(errnoOf(mapRange(table, 0n, 0x8000, 2n * PAGE, PROT))).toBe(EADDRINUSE);
    expect([0n, PAGE].map((iova) => iovaToPhys(table, iova))).toEqual([0, 0x5000]);
  });
});

describe('unmapRange', () => {
  it('answers the bytes up to a hole, and more where a large page goes whole', () => {
    const { table } = setUp();
    mapRange(table, 0n, 0x5000, 2n * PAGE, PROT);
    mapRange(table, 3n * PAGE, 0x9000, PAGE, PROT);
    expect(unmapRange(table, 0n, 4n * PAGE)).toBe(2n * PAGE);
    expect(iovaToPhys(table, 3n * PAGE + 0x123n)).toBe(0x9123);
    mapRange(table, 0x20_0000n, 0x20_0000, 0x20_0000n, PROT);
    expect(unmapRange(table, 0x20_1000n, PAGE)).toBe(0n);
    expect(unmapRange(table, 0x20_0000n, PAGE)).toBe(0x20_0000n);
  });

  it('answers nothing for what is no range of pages', () => {
    const { table } = setUp();
    mapRange(table, 0n, 0x5000, PAGE, PROT);
    expect([
      unmapRange(table, 0n, 0n),
      unmapRange(table, 0x800n, PAGE),
      unmapRange(table, 1n << 50n, PAGE),
    ]).toEqual([0n, 0n, 0n]);
  });
});

describe('readAndClearDirty', () => {
  it('records pages that were written to, and clears them where it is to', () => {
    const { kernel, table } = setUp();
    mapRange(table, 0n, 0x5000, PAGE, PROT);
    mapRange(table, PAGE, 0x7000, PAGE, PROT);
    // The entry of the second page, below three tables with one entry each.
    const word = new Uint32Array(2);
    let at = table.root;
    for (let level = 3; level > 0; level--) {
      kernel.physical.load64(at, word);
      at = (word[0]! & 0xffff_f000) >>> 0;
    }
    kernel.physical.load64(at + 8, word);
    kernel.physical.store64(at + 8, (word[0]! | DIRTY) >>> 0, word[1]!);
    const cleared: number[] = [];
    const read = (clear: boolean): bigint[] => {
      const seen: bigint[] = [];
      const note = (page: number): void => void cleared.push(page);
      const record = (iova: bigint, length: bigint): void => void seen.push(iova, length);
      expect(readAndClearDirty(table, 0n, 2n * PAGE, record, clear ? note : null)).toBeUndefined();
      return seen;
    };
    expect([read(false), read(true), read(true)]).toEqual([[PAGE, PAGE], [PAGE, PAGE], []]);
    expect(cleared).toEqual([1]);
  });

  it('refuses no bytes, and what lies beyond the table', () => {
    const { table } = setUp();
    expect(errnoOf(readAndClearDirty(table, 0n, 0n, null, null))).toBe(EINVAL);
    expect(errnoOf(readAndClearDirty(table, 1n << 48n, PAGE, null, null))).toBe(ERANGE);
  });
});
