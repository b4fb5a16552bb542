import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  EADDRINUSE,
  EBUSY,
  EEXIST,
  EINVAL,
  EMSGSIZE,
  ENOENT,
  ENOSPC,
  EOVERFLOW,
  EPERM,
} from '../../abi/errno.ts';
import {
  IOMMU_IOAS_ALLOW_IOVAS,
  IOMMU_IOAS_COPY,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  iommu_ioas_allow_iovas,
  iommu_ioas_copy,
  iommu_ioas_iova_ranges,
  iommu_iova_range,
} from '../../abi/iommufd.ts';
import { U64_MAX } from '../../base/u64.ts';
import { APERTURE, ARENA, PAGE, Program } from '../testing/program.ts';

const LAST_PAGE = 2n ** 64n - PAGE;

interface Range {
  readonly start: bigint;
  readonly last: bigint;
}

function allow(program: Program, ioas: number, ranges: readonly Range[]): number {
  return program.call(IOMMU_IOAS_ALLOW_IOVAS, iommu_ioas_allow_iovas, {
    ioas_id: ioas,
    num_iovas: ranges.length,
    allowed_iovas: program.put(iommu_iova_range, ...ranges),
  }).rc;
}

/** Answers what can be mapped, and the alignment. */
function iovaRanges(
  program: Program,
  ioas: number,
  room = 100,
): { rc: number; ranges: Range[]; align: bigint } {
  const va = program.put(iommu_iova_range, ...Array.from({ length: room }, () => ({})));
  const { rc, out } = program.call(IOMMU_IOAS_IOVA_RANGES, iommu_ioas_iova_ranges, {
    ioas_id: ioas,
    num_iovas: room,
    allowed_iovas: va,
  });
  const count = Math.min(room, out.num_iovas);
  const bytes = program.read(va, count * iommu_iova_range.size);
  const ranges = Array.from({ length: count }, (_, i) =>
    iommu_iova_range.read(bytes, i * iommu_iova_range.size),
  );
  return { rc, ranges, align: out.out_iova_alignment };
}

function setUp(): { program: Program; ioas: number } {
  const program = new Program();
  return { program, ioas: program.ioas() };
}

describe('an automatic IOVA', () => {
  test('is the lowest one from one page on', () => {
    const { program, ioas } = setUp();
    expect(program.map(ioas, { va: ARENA + PAGE })).toBe(PAGE);
    expect(program.map(ioas, { va: ARENA + PAGE })).toBe(2n * PAGE);
    program.unmap(ioas, PAGE, PAGE);
    expect(program.map(ioas, { va: ARENA + PAGE })).toBe(PAGE);
    expect(program.map(ioas, { va: ARENA + PAGE })).toBe(3n * PAGE);
  });

  test('keeps the place in the page', () => {
    const { program, ioas } = setUp();
    expect(program.map(ioas, { va: ARENA + 0x123n, length: 0x10n })).toBe(0x1123n);
  });

  test('is aligned as memory and length allow, to a huge page at most', () => {
    const { program, ioas } = setUp();
    expect(program.map(ioas, { va: ARENA + 0x1_0000n, length: 0x3000n })).toBe(0x4000n);
    expect(program.map(ioas, { va: ARENA + 0x1_0000n, length: 0x1_0000n })).toBe(0x1_0000n);
    expect(program.map(ioas, { va: ARENA, length: 0x20_0000n })).toBe(0x20_0000n);
    expect(program.map(ioas, { va: ARENA + 0x2000n, length: 0x1_0000n })).toBe(0x2_0000n);
    expect(program.map(ioas, { va: 0x4000_0000n, length: 0x4000_0000n })).toBe(0x40_0000n);
  });

  test('of memory at address 0 is aligned to its length', () => {
    const { program, ioas } = setUp();
    expect(program.map(ioas, { va: 0n, length: 0x8000n })).toBe(0x8000n);
  });

  test('goes around reserved ranges and mappings', () => {
    const { program, ioas } = setUp();
    program.reserve(ioas, 0n, 0x3000n);
    program.map(ioas, { iova: 0x4000n });
    expect(program.map(ioas, { va: ARENA + PAGE, length: PAGE })).toBe(0x3000n);
    expect(program.map(ioas, { va: ARENA + PAGE, length: 2n * PAGE })).toBe(0x5000n);
  });

  test('lies in the allowed ranges, of which neighbours are one', () => {
    const { program, ioas } = setUp();
    expect(allow(program, ioas, [{ start: 0x8000n, last: 0x9fffn }])).toBe(0);
    expect(program.map(ioas, { va: ARENA + PAGE, length: 2n * PAGE })).toBe(0x8000n);
    expect(program.tryMap(ioas, { va: ARENA + PAGE }).rc).toBe(-ENOSPC);
    const neighbours = [
      { start: 0xa000n, last: 0xafffn },
      { start: 0xb000n, last: 0xbfffn },
    ];
    expect(allow(program, ioas, neighbours)).toBe(0);
    expect(program.map(ioas, { va: ARENA + PAGE, length: 2n * PAGE })).toBe(0xa000n);
  });

  test('is never 0, nor in the last page of all, even where they are allowed', () => {
    const { program, ioas } = setUp();
    allow(program, ioas, [
      { start: 0n, last: 0xfffn },
      { start: LAST_PAGE, last: U64_MAX },
    ]);
    expect(program.tryMap(ioas, { va: ARENA + PAGE }).rc).toBe(-ENOSPC);
  });

  test('is not the last byte of a hole', () => {
    const { program, ioas } = setUp();
    allow(program, ioas, [{ start: 0x8000n, last: 0x8002n }]);
    expect(program.tryMap(ioas, { va: ARENA + 2n, length: 1n }).rc).toBe(-ENOSPC);
    allow(program, ioas, [{ start: 0x8000n, last: 0x8003n }]);
    expect(program.map(ioas, { va: ARENA + 2n, length: 1n })).toBe(0x8002n);
  });

  test('does not exist for a length of half the address space', () => {
    const { program, ioas } = setUp();
    expect(program.tryMap(ioas, { va: 0n, length: 2n ** 63n }).rc).toBe(-EOVERFLOW);
    expect(program.tryMap(ioas, { va: 0n, length: 2n ** 62n }).rc).toBe(0);
  });

  test('lies in the aperture of the domain', () => {
    const { program, ioas } = setUp();
    program.mock(ioas);
    expect(program.map(ioas, { va: ARENA + PAGE })).toBe(APERTURE);
  });

  test('does not exist for memory that is not aligned as the domain wants', () => {
    const { program, ioas } = setUp();
    program.mock(ioas);
    expect(program.tryMap(ioas, { va: ARENA + 1024n, length: PAGE }).rc).toBe(-EINVAL);
    expect(program.map(ioas, { va: ARENA + 2048n, length: PAGE })).toBe(APERTURE + 2048n);
  });
});

describe('random automatic IOVAs', () => {
  const SPACE = 64;
  const range = fc
    .tuple(fc.nat({ max: SPACE - 2 }), fc.integer({ min: 1, max: 12 }))
    .map(([first, pages]) => ({ first, pages: Math.min(pages, SPACE - first) }));
  const step = fc.record({
    kind: fc.constantFrom('auto', 'auto', 'auto', 'fixed', 'reserve', 'allow', 'unmap'),
    range,
    page: fc.nat({ max: 31 }),
  });

  test('are the lowest aligned ones of which every page is free and allowed', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const { program, ioas } = setUp();
        const used = new Set<number>();
        const reserved = new Set<number>();
        let allowed = new Set(Array.from({ length: SPACE }, (_, i) => i + 1));
        const pagesOf = ({ first, pages }: { first: number; pages: number }): number[] =>
          Array.from({ length: pages }, (_, i) => first + i);
        program.reserve(ioas, BigInt(SPACE) * PAGE, U64_MAX - BigInt(SPACE) * PAGE);
        for (let i = 0; i < 2; i++) reserved.add(SPACE + i);
        for (const { kind, range: wanted, page } of steps) {
          const [iova, length] = [BigInt(wanted.first) * PAGE, BigInt(wanted.pages) * PAGE];
          const pages = pagesOf(wanted);
          if (kind === 'fixed') {
            const { rc } = program.tryMap(ioas, { iova, length });
            if (pages.some((each) => reserved.has(each))) expect(rc).toBe(-EINVAL);
            else if (pages.some((each) => used.has(each))) expect(rc).toBe(-EEXIST);
            else for (const each of pages) used.add(each);
          } else if (kind === 'reserve') {
            const rc = program.reserve(ioas, iova, length);
            const narrowed = allowed.size < SPACE && pages.some((each) => allowed.has(each));
            if (narrowed || pages.some((each) => used.has(each))) expect(rc).toBe(-EADDRINUSE);
            else for (const each of pages) reserved.add(each);
          } else if (kind === 'allow') {
            const rc = allow(program, ioas, [{ start: iova, last: iova + length - 1n }]);
            if (pages.some((each) => reserved.has(each))) expect(rc).toBe(-EADDRINUSE);
            else allowed = new Set(pages);
          } else if (kind === 'unmap') {
            const { rc } = program.unmap(ioas, 0n, U64_MAX);
            expect(rc).toBe(0);
            used.clear();
          } else {
            const va = ARENA + BigInt(page) * PAGE;
            let align = 1;
            while (align < wanted.pages) align *= 2;
            while (page % align !== 0) align /= 2;
            const free = (each: number): boolean =>
              each > 0 && !used.has(each) && !reserved.has(each) && allowed.has(each);
            let first = 0;
            while (first < SPACE && !pagesOf({ first, pages: wanted.pages }).every(free)) first += align;
            const { rc, out } = program.tryMap(ioas, { va, length });
            if (first >= SPACE) {
              expect(rc).toBe(-ENOSPC);
            } else {
              expect([rc, out.iova]).toEqual([0, BigInt(first) * PAGE]);
              for (const each of pagesOf({ first, pages: wanted.pages })) used.add(each);
            }
          }
        }
      }),
    );
  });
});

describe('a fixed IOVA', () => {
  test('may be anything that is free: 0, and the last page', () => {
    const { program, ioas } = setUp();
    expect(program.tryMap(ioas, { iova: 0n }).rc).toBe(0);
    expect(program.tryMap(ioas, { iova: LAST_PAGE, length: PAGE }).rc).toBe(0);
  });

  test('and its length must be aligned as the domain wants', () => {
    const { program, ioas } = setUp();
    expect(program.tryMap(ioas, { iova: 1n, va: ARENA + 7n, length: 3n }).rc).toBe(0);
    expect(program.unmap(ioas, 1n, 3n).rc).toBe(0);
    program.mock(ioas);
    expect(program.tryMap(ioas, { iova: APERTURE + 1n }).rc).toBe(-EINVAL);
    expect(program.tryMap(ioas, { iova: APERTURE, length: 3n }).rc).toBe(-EINVAL);
    expect(program.tryMap(ioas, { iova: APERTURE, va: ARENA + 1n }).rc).toBe(-EINVAL);
    expect(program.tryMap(ioas, { iova: APERTURE + 2048n, va: ARENA + 2048n, length: 2048n }).rc).toBe(0);
  });

  test('does not pass the end of the address space', () => {
    const { program, ioas } = setUp();
    expect(program.tryMap(ioas, { iova: LAST_PAGE, length: 2n * PAGE }).rc).toBe(-EOVERFLOW);
    expect(program.tryMap(ioas, { iova: U64_MAX, length: 1n }).rc).toBe(-EOVERFLOW);
  });

  test('is free only where nothing is mapped or reserved', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: 0x4000n, length: 2n * PAGE });
    program.reserve(ioas, 0x8000n, PAGE);
    expect(program.tryMap(ioas, { iova: 0x3000n, length: 2n * PAGE }).rc).toBe(-EEXIST);
    expect(program.tryMap(ioas, { iova: 0x5fffn, length: 1n }).rc).toBe(-EEXIST);
    expect(program.tryMap(ioas, { iova: 0x7000n, length: 2n * PAGE }).rc).toBe(-EINVAL);
    expect(program.tryMap(ioas, { iova: 0x6000n, length: 2n * PAGE }).rc).toBe(0);
  });
});

describe('an unmap', () => {
  test('takes whole mappings that lie in its range, and tells how much', () => {
    const { program, ioas } = setUp();
    for (const iova of [0x1000n, 0x3000n, 0x7000n]) program.map(ioas, { iova });
    const { rc, out } = program.unmap(ioas, 0x1000n, 0x4000n);
    expect([rc, out.length]).toEqual([0, 0x2000n]);
    expect(program.unmap(ioas, 0x7000n, PAGE).rc).toBe(0);
  });

  test('does not cut a mapping; what lies before it is gone', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: 0x1000n });
    program.map(ioas, { iova: 0x3000n, length: 2n * PAGE });
    expect(program.unmap(ioas, 0x1000n, 0x3000n).rc).toBe(-ENOENT);
    expect(program.tryMap(ioas, { iova: 0x1000n }).rc).toBe(0);
    expect(program.unmap(ioas, 0x4000n, PAGE).rc).toBe(-ENOENT);
    expect(program.unmap(ioas, 0x3000n, 2n * PAGE).rc).toBe(0);
  });

  test('of nothing is ENOENT, of everything is not', () => {
    const { program, ioas } = setUp();
    expect(program.unmap(ioas, 0x1000n, PAGE).rc).toBe(-ENOENT);
    const { rc, out } = program.unmap(ioas, 0n, U64_MAX);
    expect([rc, out.length]).toEqual([0, 0n]);
    expect(program.unmap(ioas, 0x1000n, 0n).rc).toBe(-EINVAL);
    expect(program.unmap(ioas, 0x1000n, U64_MAX).rc).toBe(-EOVERFLOW);
    expect(program.unmap(ioas, 0x2000n, U64_MAX - 1n).rc).toBe(-EOVERFLOW);
  });

  test('of everything takes the last byte of the address space too', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: 0n });
    program.map(ioas, { iova: LAST_PAGE });
    expect(program.unmap(ioas, 0n, U64_MAX).out.length).toBe(2n * PAGE);
  });
});

describe('a copy', () => {
  test('may take a part of several mappings that follow one another', () => {
    const { program, ioas } = setUp();
    const other = program.ioas();
    const { hwpt } = program.mock(other);
    program.map(ioas, { iova: 0x1000n, va: ARENA, length: 2n * PAGE });
    program.map(ioas, { iova: 0x3000n, va: ARENA + 0x8000n, length: 2n * PAGE });
    expect(program.copy(ioas, 0x2000n, other, APERTURE, 2n * PAGE)).toBe(0);
    expect(program.checkMap(hwpt, APERTURE, ARENA + PAGE)).toBe(0);
    expect(program.checkMap(hwpt, APERTURE + PAGE, ARENA + 0x8000n)).toBe(0);
    expect(program.copy(ioas, 0x4000n, other, APERTURE + 0x8000n, 2n * PAGE)).toBe(-ENOENT);
  });

  test('outlives the mapping that it was made of', () => {
    const { program, ioas } = setUp();
    const other = program.ioas();
    const { hwpt } = program.mock(other);
    program.map(ioas, { iova: 0x1000n });
    program.copy(ioas, 0x1000n, other, APERTURE);
    program.destroy(ioas);
    expect(program.checkMap(hwpt, APERTURE, ARENA)).toBe(0);
    expect(program.kernel.physical.frames.pinned).toBe(1);
  });

  test('of read-only memory cannot be written', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: 0x1000n, flags: IOMMU_IOAS_MAP_READABLE });
    expect(program.copy(ioas, 0x1000n, ioas, 0x8000n)).toBe(-EPERM);
  });

  test('finds its own place, aligned as the first mapping’s memory', () => {
    const { program, ioas } = setUp();
    const other = program.ioas();
    program.map(ioas, { iova: 0x7000n, va: ARENA + 0x4000n, length: 2n * PAGE });
    const { rc, out } = program.call(IOMMU_IOAS_COPY, iommu_ioas_copy, {
      flags: IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
      dst_ioas_id: other,
      src_ioas_id: ioas,
      length: 2n * PAGE,
      src_iova: 0x7000n,
    });
    expect([rc, out.dst_iova]).toEqual([0, 0x2000n]);
  });
});

describe('what can be mapped', () => {
  test('is everything but what is reserved', () => {
    const { program, ioas } = setUp();
    expect(iovaRanges(program, ioas)).toEqual({ rc: 0, ranges: [{ start: 0n, last: U64_MAX }], align: 1n });
    program.reserve(ioas, 0x1000n, PAGE);
    program.reserve(ioas, 0x1800n, PAGE);
    program.reserve(ioas, LAST_PAGE, PAGE);
    expect(iovaRanges(program, ioas).ranges).toEqual([
      { start: 0n, last: 0xfffn },
      { start: 0x2800n, last: LAST_PAGE - 1n },
    ]);
  });

  test('is the aperture of the domains while there are any', () => {
    const { program, ioas } = setUp();
    const { stdev } = program.mock(ioas);
    const { ranges, align } = iovaRanges(program, ioas);
    expect(ranges).toEqual([{ start: APERTURE, last: 0x7fff_ffffn }]);
    expect(align).toBe(2048n);
    program.destroy(stdev);
    expect(iovaRanges(program, ioas)).toEqual({ rc: 0, ranges: [{ start: 0n, last: U64_MAX }], align: 1n });
  });

  test('is EMSGSIZE where there is less room, with how much is needed', () => {
    const { program, ioas } = setUp();
    program.reserve(ioas, 0x1000n, PAGE);
    const { rc, ranges } = iovaRanges(program, ioas, 1);
    expect([rc, ranges]).toEqual([-EMSGSIZE, [{ start: 0n, last: 0xfffn }]]);
  });

  test('is EADDRINUSE to reserve where something is mapped or allowed', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: 0x4000n });
    allow(program, ioas, [{ start: 0x8000n, last: 0x8fffn }]);
    expect(program.reserve(ioas, 0x4fffn, 1n)).toBe(-EADDRINUSE);
    expect(program.reserve(ioas, 0x8fffn, 1n)).toBe(-EADDRINUSE);
    expect(program.reserve(ioas, 0x5000n, 0x3000n)).toBe(0);
  });

  test('cannot be allowed where it is reserved, and then nothing changes', () => {
    const { program, ioas } = setUp();
    program.reserve(ioas, 0x4000n, PAGE);
    expect(allow(program, ioas, [{ start: 0x8000n, last: 0x8fffn }])).toBe(0);
    const mixed = [
      { start: 0xc000n, last: 0xcfffn },
      { start: 0x4800n, last: 0x5fffn },
    ];
    expect(allow(program, ioas, mixed)).toBe(-EADDRINUSE);
    expect(program.map(ioas, { va: ARENA + PAGE })).toBe(0x8000n);
  });

  test('is allowed by ranges that do not meet and that end after they start', () => {
    const { program, ioas } = setUp();
    expect(allow(program, ioas, [{ start: 0x8000n, last: 0x8000n }])).toBe(-EINVAL);
    expect(allow(program, ioas, [{ start: 0x8000n, last: 0x7fffn }])).toBe(-EINVAL);
    const meeting = [
      { start: 0x8000n, last: 0x8fffn },
      { start: 0x8fffn, last: 0x9fffn },
    ];
    expect(allow(program, ioas, meeting)).toBe(-EINVAL);
    expect(allow(program, ioas, [])).toBe(0);
  });
});

describe('a domain', () => {
  test('cannot join where mappings lie outside its aperture', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: 0x1000n });
    expect(program.tryMock(ioas).rc).toBe(-EADDRINUSE);
    program.unmap(ioas, 0x1000n, PAGE);
    expect(program.tryMock(ioas).rc).toBe(0);
  });

  test('cannot join where mappings are not aligned as it wants', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: APERTURE + 1n, va: ARENA + 1n, length: 3n });
    expect(program.tryMock(ioas).rc).toBe(-EADDRINUSE);
  });

  test('that joins late has everything that is mapped, pinned once', () => {
    const { program, ioas } = setUp();
    const first = program.mock(ioas);
    program.map(ioas, { iova: APERTURE, length: 2n * PAGE });
    const second = program.hwpt(first.idev, ioas);
    expect(program.checkMap(second, APERTURE, ARENA, 2n * PAGE)).toBe(0);
    expect(program.kernel.physical.frames.pinned).toBe(2);
    program.destroy(first.stdev);
    expect(program.checkMap(second, APERTURE, ARENA, 2n * PAGE)).toBe(0);
    program.destroy(second);
    expect(program.kernel.physical.frames.pinned).toBe(0);
  });
});

describe('large pages', () => {
  const off = (program: Program, ioas: number, value = 0n): number =>
    program.option({ option_id: 1, op: 0, object_id: ioas, val64: value }).rc;

  test('can be turned off where nothing is mapped in a domain', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: APERTURE });
    expect(off(program, ioas)).toBe(0);
    program.mock(ioas);
    expect(off(program, ioas)).toBe(0);
    expect(off(program, ioas, 1n)).toBe(0);
    expect(off(program, ioas)).toBe(-EINVAL);
  });

  test('that are off make a page the smallest mapping', () => {
    const { program, ioas } = setUp();
    expect(off(program, ioas)).toBe(0);
    expect(program.tryMap(ioas, { iova: 0x1000n, length: 2048n }).rc).toBe(-EINVAL);
    expect(iovaRanges(program, ioas).align).toBe(PAGE);
    expect(off(program, ioas, 1n)).toBe(0);
    expect(iovaRanges(program, ioas).align).toBe(1n);
  });

  test('cannot be turned off where a mapping is smaller than a page', () => {
    const { program, ioas } = setUp();
    program.map(ioas, { iova: 0x1000n, length: 2048n });
    expect(off(program, ioas)).toBe(-EADDRINUSE);
    expect(iovaRanges(program, ioas).align).toBe(1n);
  });
});

describe('an IOAS', () => {
  test('is EBUSY to destroy while a HWPT or an access uses it', () => {
    const { program, ioas } = setUp();
    const { stdev } = program.mock(ioas);
    expect(program.destroy(ioas)).toBe(-EBUSY);
    program.destroy(stdev);
    const access = program.access(ioas);
    expect(program.destroy(ioas)).toBe(-EBUSY);
    program.process.close(access);
    expect(program.destroy(ioas)).toBe(0);
  });
});
