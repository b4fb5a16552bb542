import { describe, expect, test } from 'vitest';
import { EEXIST, EFAULT, EINVAL, ENODEV, ENOENT, ENOTTY, EOPNOTSUPP } from '../../abi/errno.ts';
import { IO, IOMMUFD_TYPE } from '../../abi/ioctl.ts';
import {
  IOMMU_OPTION,
  IOMMU_VFIO_IOAS,
  IOMMU_VFIO_IOAS_CLEAR,
  IOMMU_VFIO_IOAS_GET,
  IOMMU_VFIO_IOAS_SET,
  iommu_option,
  iommu_vfio_ioas,
} from '../../abi/iommufd.ts';
import { vfio_info_cap_header } from '../../abi/vfio.ts';
import * as type1 from '../../abi/vfio-type1.ts';
import { APERTURE, ARENA, BUFFER, PAGE, Program } from '../testing/program.ts';

const READ_WRITE = type1.VFIO_DMA_MAP_FLAG_READ | type1.VFIO_DMA_MAP_FLAG_WRITE;

function vfioIoas(program: Program, op: number, id = 0): { rc: number; id: number } {
  const { rc, out } = program.call(IOMMU_VFIO_IOAS, iommu_vfio_ioas, { op, ioas_id: id });
  return { rc, id: out.ioas_id };
}

/** A program whose iommufd serves VFIO's container from an IOAS. */
function setUp() {
  const program = new Program();
  const ioas = program.ioas();
  vfioIoas(program, IOMMU_VFIO_IOAS_SET, ioas);
  return { program, ioas };
}

function mapDma(
  program: Program,
  iova: bigint,
  size = PAGE,
  more: { vaddr?: bigint; flags?: number; argsz?: number } = {},
): number {
  return program.call(type1.VFIO_IOMMU_MAP_DMA, type1.vfio_iommu_type1_dma_map, {
    flags: READ_WRITE,
    vaddr: ARENA,
    iova,
    size,
    ...more,
  }).rc;
}

/** Answers the errno and how many bytes were unmapped. */
function unmapDma(
  program: Program,
  iova: bigint,
  size: bigint,
  more: { flags?: number; argsz?: number } = {},
): [number, bigint] {
  const { rc, out } = program.call(type1.VFIO_IOMMU_UNMAP_DMA, type1.vfio_iommu_type1_dma_unmap, {
    iova,
    size,
    ...more,
  });
  return [rc, out.size];
}

interface Info {
  readonly rc: number;
  readonly pageSizes: bigint;
  /** What the struct says of its length, and where the capabilities start. */
  readonly argsz: number;
  readonly capOffset: number;
  readonly capabilities: readonly { id: number; at: number }[];
  readonly iovas: readonly (readonly [bigint, bigint])[];
}

/** VFIO_IOMMU_GET_INFO with room for `argsz` bytes. */
function getInfo(program: Program, argsz = 4096): Info {
  const layout = type1.vfio_iommu_type1_info;
  const bytes = new Uint8Array(4096);
  layout.write(bytes, 0, { ...layout.create(), argsz });
  program.write(BUFFER, bytes);
  const rc = program.ioctl(type1.VFIO_IOMMU_GET_INFO, BUFFER);
  const after = program.read(BUFFER, 4096);
  const info = layout.read(after);
  const capabilities: { id: number; at: number }[] = [];
  const iovas: [bigint, bigint][] = [];
  for (let at = info.cap_offset; at !== 0;) {
    const { id, next } = vfio_info_cap_header.read(after, at);
    capabilities.push({ id, at });
    if (id === type1.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
      const { nr_iovas } = type1.vfio_iommu_type1_info_cap_iova_range.read(after, at);
      for (let i = 0; i < nr_iovas; i++) {
        const { start, end } = type1.vfio_iova_range.read(after, at + 16 + i * 16);
        iovas.push([start, end]);
      }
    }
    at = next;
  }
  const { iova_pgsizes: pageSizes, cap_offset: capOffset } = info;
  return { rc, pageSizes, argsz: info.argsz, capOffset, capabilities, iovas };
}

describe('the IOAS of the container', () => {
  test('is none until it is set, and after it was cleared', () => {
    const program = new Program();
    const ioas = program.ioas();
    expect(vfioIoas(program, IOMMU_VFIO_IOAS_GET).rc).toBe(-ENODEV);
    expect(mapDma(program, 0n)).toBe(-ENODEV);
    expect(vfioIoas(program, IOMMU_VFIO_IOAS_SET, ioas).rc).toBe(0);
    expect(vfioIoas(program, IOMMU_VFIO_IOAS_GET)).toEqual({ rc: 0, id: ioas });
    expect(vfioIoas(program, IOMMU_VFIO_IOAS_CLEAR).rc).toBe(0);
    expect(vfioIoas(program, IOMMU_VFIO_IOAS_GET).rc).toBe(-ENODEV);
  });

  test('can be destroyed, and is none then', () => {
    const { program, ioas } = setUp();
    expect(program.destroy(ioas)).toBe(0);
    expect(vfioIoas(program, IOMMU_VFIO_IOAS_GET).rc).toBe(-ENODEV);
  });

  test('is an IOAS, and the operation one of three', () => {
    const program = new Program();
    const ioas = program.ioas();
    const { idev } = program.mock(ioas);
    expect(vfioIoas(program, IOMMU_VFIO_IOAS_SET, idev).rc).toBe(-ENOENT);
    expect(vfioIoas(program, 3, ioas).rc).toBe(-EOPNOTSUPP);
    expect(program.call(IOMMU_VFIO_IOAS, iommu_vfio_ioas, { __reserved: 1 }).rc).toBe(-EOPNOTSUPP);
  });
});

describe('the container', () => {
  test('has version 0 of the API', () => {
    const program = new Program();
    expect(program.ioctl(type1.VFIO_GET_API_VERSION, 0n)).toBe(0);
  });

  test.each([
    ['TYPE1', type1.VFIO_TYPE1_IOMMU, 1],
    ['TYPE1v2', type1.VFIO_TYPE1v2_IOMMU, 1],
    ['UNMAP_ALL', type1.VFIO_UNMAP_ALL, 1],
    ['NOIOMMU', type1.VFIO_NOIOMMU_IOMMU, 0],
    ['UPDATE_VADDR', type1.VFIO_UPDATE_VADDR, 0],
    ['nesting', type1.__VFIO_RESERVED_TYPE1_NESTING_IOMMU, 0],
  ])('answers for the extension %s', (_name, extension, expected) => {
    const { program } = setUp();
    expect(program.ioctl(type1.VFIO_CHECK_EXTENSION, BigInt(extension))).toBe(expected);
    expect(program.ioctl(type1.VFIO_CHECK_EXTENSION, BigInt(extension) + 2n ** 32n)).toBe(0);
  });

  test('is coherent where every domain is', () => {
    const { program, ioas } = setUp();
    const coherent = (): number => program.ioctl(type1.VFIO_CHECK_EXTENSION, BigInt(type1.VFIO_DMA_CC_IOMMU));
    expect(coherent()).toBe(1);
    program.mock(ioas);
    expect(coherent()).toBe(0);
    expect(new Program().ioctl(type1.VFIO_CHECK_EXTENSION, BigInt(type1.VFIO_DMA_CC_IOMMU))).toBe(-ENODEV);
  });

  test('is of type 1 or 1v2', () => {
    const { program } = setUp();
    const set = (type: number): number => program.ioctl(type1.VFIO_SET_IOMMU, BigInt(type));
    expect(set(type1.VFIO_TYPE1v2_IOMMU)).toBe(0);
    expect(set(type1.VFIO_TYPE1_IOMMU)).toBe(0);
    expect(set(type1.VFIO_NOIOMMU_IOMMU)).toBe(-EINVAL);
    expect(new Program().ioctl(type1.VFIO_SET_IOMMU, BigInt(type1.VFIO_TYPE1_IOMMU))).toBe(-ENODEV);
  });

  test('knows no other requests', () => {
    const { program } = setUp();
    expect(program.ioctl(IO(IOMMUFD_TYPE, 0x67), BUFFER)).toBe(-ENOTTY);
    expect(program.ioctl(IO(IOMMUFD_TYPE, 0x75), BUFFER)).toBe(-ENOTTY);
    expect(program.ioctl(IO(0x40, 0x71), BUFFER)).toBe(-ENOTTY);
  });
});

describe('a mapping', () => {
  test('is one of the IOAS', () => {
    const { program, ioas } = setUp();
    const { hwpt } = program.mock(ioas);
    expect(mapDma(program, APERTURE, 2n * PAGE)).toBe(0);
    expect(program.checkMap(hwpt, APERTURE, ARENA, 2n * PAGE)).toBe(0);
    expect(mapDma(program, APERTURE + PAGE)).toBe(-EEXIST);
    expect(program.unmap(ioas, APERTURE, 2n * PAGE).rc).toBe(0);
  });

  test('may be asked with a longer struct, not with a shorter one', () => {
    const { program } = setUp();
    expect(mapDma(program, 0x1000n, PAGE, { argsz: 31 })).toBe(-EINVAL);
    expect(mapDma(program, 0x1000n, PAGE, { argsz: 1000 })).toBe(0);
  });

  test('may be neither readable nor writable, and has no other flags', () => {
    const { program } = setUp();
    expect(mapDma(program, 0x1000n, PAGE, { flags: 0 })).toBe(0);
    expect(mapDma(program, 0x2000n, PAGE, { flags: type1.VFIO_DMA_MAP_FLAG_VADDR | 3 })).toBe(-EINVAL);
  });

  test('that cannot be read is EFAULT', () => {
    const { program } = setUp();
    expect(program.ioctl(type1.VFIO_IOMMU_MAP_DMA, 0xdead_0000n)).toBe(-EFAULT);
    expect(program.ioctl(type1.VFIO_IOMMU_UNMAP_DMA, 0xdead_0000n)).toBe(-EFAULT);
    expect(program.ioctl(type1.VFIO_IOMMU_GET_INFO, 0xdead_0000n)).toBe(-EFAULT);
  });
});

describe('an unmap', () => {
  test('takes the mappings in its range, or all of them', () => {
    const { program } = setUp();
    for (const iova of [0x1000n, 0x2000n, 0x8000n]) mapDma(program, iova);
    expect(unmapDma(program, 0x1000n, 0x2000n)).toEqual([0, 0x2000n]);
    mapDma(program, 0x1000n);
    expect(unmapDma(program, 0n, 0n, { flags: type1.VFIO_DMA_UNMAP_FLAG_ALL })).toEqual([0, 0x2000n]);
  });

  test('of nothing is no error', () => {
    const { program } = setUp();
    expect(unmapDma(program, 0x1000n, PAGE)).toEqual([0, 0n]);
    expect(unmapDma(program, 0n, 0n, { flags: type1.VFIO_DMA_UNMAP_FLAG_ALL })).toEqual([0, 0n]);
  });

  test('of all has neither an IOVA nor a size', () => {
    const { program } = setUp();
    const flags = type1.VFIO_DMA_UNMAP_FLAG_ALL;
    expect(unmapDma(program, 0n, PAGE, { flags })[0]).toBe(-EINVAL);
    expect(unmapDma(program, PAGE, 0n, { flags })[0]).toBe(-EINVAL);
    expect(unmapDma(program, 0n, 0n, { flags: type1.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP })[0]).toBe(-EINVAL);
  });

  test('does not cut a mapping of type 1v2, and tells what it took before', () => {
    const { program } = setUp();
    mapDma(program, 0x1000n);
    mapDma(program, 0x2000n, 2n * PAGE);
    expect(unmapDma(program, 0x1000n, 0x2000n)).toEqual([-ENOENT, PAGE]);
  });

  test('cuts a mapping of type 1', () => {
    const { program, ioas } = setUp();
    expect(program.ioctl(type1.VFIO_SET_IOMMU, BigInt(type1.VFIO_TYPE1_IOMMU))).toBe(0);
    const { hwpt } = program.mock(ioas);
    mapDma(program, APERTURE, 8n * PAGE);
    expect(unmapDma(program, APERTURE + 2n * PAGE, 3n * PAGE)).toEqual([0, 3n * PAGE]);
    expect(program.checkMap(hwpt, APERTURE, ARENA, 2n * PAGE)).toBe(0);
    expect(program.checkMap(hwpt, APERTURE + 5n * PAGE, ARENA + 5n * PAGE, 3n * PAGE)).toBe(0);
    expect(program.checkMap(hwpt, APERTURE + 2n * PAGE, ARENA + 2n * PAGE)).toBe(-EINVAL);
    expect(program.kernel.physical.frames.pinned).toBe(5);
    expect(mapDma(program, APERTURE + 2n * PAGE, 3n * PAGE)).toBe(0);
    expect(unmapDma(program, APERTURE, 8n * PAGE)).toEqual([0, 8n * PAGE]);
    expect(program.kernel.physical.frames.pinned).toBe(0);
  });

  test('does not cut a mapping in the middle of a page, nor one that an access holds', () => {
    const { program, ioas } = setUp();
    program.ioctl(type1.VFIO_SET_IOMMU, BigInt(type1.VFIO_TYPE1_IOMMU));
    mapDma(program, 0x10000n, 8n * PAGE);
    expect(unmapDma(program, 0x10000n, 0x800n)[0]).toBe(-EINVAL);
    const access = program.access(ioas);
    program.pin(access, 0x10000n, PAGE);
    expect(unmapDma(program, 0x10000n, PAGE)[0]).toBe(-EINVAL);
    program.process.close(access);
    expect(unmapDma(program, 0x10000n, PAGE)).toEqual([0, PAGE]);
  });

  test('takes everything where type 1 has cut everything', () => {
    const { program, ioas } = setUp();
    program.ioctl(type1.VFIO_SET_IOMMU, BigInt(type1.VFIO_TYPE1_IOMMU));
    mapDma(program, 0x10000n, 4n * PAGE);
    for (let i = 3n; i >= 0n; i--) expect(unmapDma(program, 0x10000n + i * PAGE, PAGE)).toEqual([0, PAGE]);
    expect(program.destroy(ioas)).toBe(0);
  });
});

describe('the information', () => {
  test('tells page sizes, what is available and which IOVAs there are', () => {
    const { program, ioas } = setUp();
    program.mock(ioas);
    const { rc, capabilities, iovas, pageSizes } = getInfo(program);
    expect(rc).toBe(0);
    expect(capabilities).toEqual([
      { id: type1.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, at: 24 },
      { id: type1.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, at: 40 },
    ]);
    expect(iovas).toEqual([[APERTURE, 0x7fff_ffffn]]);
    expect(pageSizes & (PAGE * 2n - 1n)).toBe(PAGE);
  });

  test('tells how much room it needs where there is less, and keeps within it', () => {
    const { program } = setUp();
    const whole = getInfo(program);
    expect(whole.argsz).toBe(24 + 16 + 32);
    expect(getInfo(program, whole.argsz)).toEqual(whole);
    expect(getInfo(program, whole.argsz - 1).capOffset).toBe(0);
    expect(getInfo(program, 24)).toMatchObject({ rc: 0, argsz: whole.argsz, capOffset: 0 });
    expect(getInfo(program, 16)).toMatchObject({ rc: 0, argsz: whole.argsz });
    expect(getInfo(program, 15).rc).toBe(-EINVAL);
    getInfo(program, 24);
    expect(program.read(BUFFER + 24n, 100).every((byte) => byte === 0)).toBe(true);
  });

  test('has every page size where there is no domain', () => {
    const { program } = setUp();
    expect(getInfo(program).pageSizes).toBe(0xffff_ffff_ffff_f000n);
  });
});

describe('/dev/vfio/vfio', () => {
  test('is an iommufd that pays for pages by address space', () => {
    const program = new Program();
    const fd = program.openDevice('/dev/vfio/vfio');
    expect(program.ioctl(type1.VFIO_GET_API_VERSION, 0n, fd)).toBe(0);
    const mode = { option_id: 0, op: 1, val64: 0n };
    expect(program.call(IOMMU_OPTION, iommu_option, mode, fd).out.val64).toBe(1n);
    expect(program.call(IOMMU_OPTION, iommu_option, mode).out.val64).toBe(0n);
  });
});
