import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { E2BIG, EFAULT, EINVAL, ENOTTY, EOVERFLOW } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT as REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START as START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP as STOP,
  VFIO_DEVICE_FEATURE_GET as GET,
  VFIO_DEVICE_FEATURE_PROBE as PROBE,
  VFIO_DEVICE_FEATURE_SET as SET,
  vfio_device_feature_dma_logging_control as control,
  vfio_device_feature_dma_logging_range as range,
  vfio_device_feature_dma_logging_report as report,
} from '../../abi/vfio.ts';
import { VIOMMU_DEVICE_DMA_PASID, VIOMMU_DEVICE_DMA_WRITE } from '../../abi/viommu.ts';
import { Kernel } from '../../machine/kernel.ts';
import { loadParts } from '../../machine/machine-file/parts.ts';
import { BUFFER, Program } from '../testing/program.ts';

const PAGE = 0x1000n;
const RANGES = BUFFER + 0x2000n;
const BITMAP = BUFFER + 0x1000n;

const PARTS = await Promise.all(
  [true, false].map((dmaLogging) =>
    loadParts({
      iommus: [{ name: 'smmu0', type: 'arm-smmu-v3' }],
      devices: [
        {
          name: '0000:0a:00.0',
          iommu: 'smmu0',
          pasids: 16,
          ats: false,
          model: 'dma-engine',
          migration: { p2p: true, preCopy: true, dmaLogging },
        },
      ],
    } as Parameters<typeof loadParts>[0]),
  ),
);

class Rig {
  readonly program: Program;
  readonly device: number;

  constructor(parts = PARTS[0]!) {
    this.program = new Program(new Kernel({ parts }));
    const iommufd = this.program.open('/dev/iommu');
    this.device = this.program.open('/dev/vfio/devices/vfio0');
    expect(this.program.bind(this.device, iommufd)).toBe(0);
    expect(this.program.attach(this.device, this.program.ioas(iommufd))).toBe(0);
  }

  start(ranges: readonly (readonly [bigint, bigint])[], page_size = PAGE, num_ranges = ranges.length) {
    const bytes = new Uint8Array(range.size * ranges.length);
    for (const [n, [iova, length]] of ranges.entries()) range.write(bytes, n * range.size, { iova, length });
    this.program.process.memory.write(RANGES, bytes);
    const own = new Uint8Array(control.size);
    control.write(own, 0, { page_size, num_ranges, __reserved: 0, ranges: RANGES });
    const { rc, more } = this.program.feature(this.device, START | SET, own);
    return { rc, page_size: control.read(more).page_size };
  }

  stop(): number {
    return this.program.feature(this.device, STOP | SET).rc;
  }

  /** The bits of the first bytes, as they are added to `before`. */
  report(iova: bigint, length: bigint, page_size = PAGE, before = 0): { rc: number; bits: number } {
    this.program.process.memory.write(BITMAP, Uint8Array.of(before, 0, 0, 0, 0, 0, 0, 0));
    const own = new Uint8Array(report.size);
    report.write(own, 0, { iova, length, page_size, bitmap: BITMAP });
    const { rc } = this.program.feature(this.device, REPORT | GET, own);
    const bits = new Uint8Array(4);
    this.program.process.memory.read(BITMAP, bits);
    return { rc, bits: new DataView(bits.buffer).getUint32(0, true) };
  }

  write(iova: bigint, length: bigint, flags = 0): number {
    const values = { flags: VIOMMU_DEVICE_DMA_WRITE | flags, iova, length, data: BUFFER };
    return this.program.dma(this.device, values);
  }
}

let rig: Rig;
beforeEach(() => {
  rig = new Rig();
});

describe('a log of DMA', () => {
  test('tells the pages that were written, once', () => {
    expect(rig.start([[0n, 0x4000n]])).toEqual({ rc: 0, page_size: PAGE });
    expect(rig.report(0n, 0x4000n)).toEqual({ rc: 0, bits: 0 });
    expect(rig.write(0x1ff0n, 0x20n)).toBe(0);
    expect(rig.report(0n, 0x4000n, PAGE, 1)).toEqual({ rc: 0, bits: 0b0111 });
    expect(rig.report(0n, 0x4000n)).toEqual({ rc: 0, bits: 0 });
    expect(rig.write(0x3000n, 1n)).toBe(0);
    expect(rig.report(0n, 0x2000n)).toEqual({ rc: 0, bits: 0 });
    expect(rig.report(0x3000n, PAGE)).toEqual({ rc: 0, bits: 1 });
  });

  test('counts writes without a PASID alone, as far as they came, within its ranges', () => {
    expect(
      rig.start([
        [0x1000n, PAGE],
        [0x3000n, 0x2000n],
      ]).rc,
    ).toBe(0);
    expect(rig.write(0n, 1n)).toBe(0);
    expect(rig.write(0x2000n, 1n)).toBe(0);
    rig.write(0x1000n, 1n, VIOMMU_DEVICE_DMA_PASID);
    expect(rig.program.dma(rig.device, { iova: 0x1000n, length: 8n, data: BUFFER })).toBe(0);
    expect(rig.report(0n, 0x8000n).bits).toBe(0);
    // The last page is not mapped.
    expect(rig.write(0x3800n, 0x1000n)).toBeLessThan(0);
    expect(rig.report(0n, 0x8000n).bits).toBe(0b1000);
  });

  test('ends with STOP, and is not kept twice', () => {
    expect(rig.stop()).toBe(0);
    expect(rig.report(0n, PAGE).rc).toBe(-EINVAL);
    expect(rig.start([[0n, PAGE]]).rc).toBe(0);
    expect(rig.start([[0n, PAGE]]).rc).toBe(-EINVAL);
    expect(rig.write(0n, 1n)).toBe(0);
    expect(rig.stop()).toBe(0);
    expect(rig.start([[0n, PAGE]]).rc).toBe(0);
    expect(rig.report(0n, PAGE).bits).toBe(0);
  });

  test('is told by larger pages, and kept by larger ones', () => {
    expect(rig.start([[0n, 0x4000n]], 0x2000n).page_size).toBe(0x2000n);
    expect(rig.write(0n, 1n)).toBe(0);
    expect(rig.report(0n, 0x4000n).bits).toBe(0b11);
    expect(rig.write(0x3000n, 1n)).toBe(0);
    expect(rig.report(0n, 0x4000n, 0x4000n).bits).toBe(1);
    expect(rig.stop()).toBe(0);
    for (const [hint, chosen] of [
      [1n, PAGE],
      [0x1000n, PAGE],
      [1n << 30n, 1n << 21n],
    ] as const) {
      expect(rig.start([[0n, 1n << 30n]], hint).page_size).toBe(chosen);
      expect(rig.stop()).toBe(0);
    }
  });

  test('swallows a bitmap that is not there, as Linux does', () => {
    expect(rig.start([[0n, PAGE]]).rc).toBe(0);
    const own = new Uint8Array(report.size);
    report.write(own, 0, { iova: 0n, length: PAGE, page_size: PAGE, bitmap: 8n });
    expect(rig.write(0n, 1n)).toBe(0);
    expect(rig.program.feature(rig.device, REPORT | GET, own).rc).toBe(0);
  });

  test('refuses what Linux refuses', () => {
    expect(rig.start([]).rc).toBe(-EINVAL);
    expect(rig.start([], PAGE, 257).rc).toBe(-E2BIG);
    expect(rig.start([[0n, PAGE]], PAGE, 256).rc).toBe(-EINVAL);
    expect(rig.start([[1n, PAGE]]).rc).toBe(-EINVAL);
    expect(rig.start([[0n, 1n]]).rc).toBe(-EINVAL);
    expect(rig.start([[PAGE, PAGE]], 0n).rc).toBe(-EINVAL);
    expect(rig.start([[0xffff_ffff_ffff_f000n, PAGE]]).rc).toBe(-EOVERFLOW);
    expect(
      rig.start([
        [0n, 2n * PAGE],
        [PAGE, PAGE],
      ]).rc,
    ).toBe(-EINVAL);
    for (const page_size of [0n, 2048n, 0x3000n]) expect(rig.report(0n, PAGE, page_size).rc).toBe(-EINVAL);
    expect(rig.report(0xffff_ffff_ffff_f000n, PAGE).rc).toBe(-EOVERFLOW);
    const own = new Uint8Array(control.size);
    control.write(own, 0, { page_size: PAGE, num_ranges: 1, __reserved: 0, ranges: 8n });
    expect(rig.program.feature(rig.device, START | SET, own).rc).toBe(-EFAULT);
  });

  test('has its ways, and is ENOTTY where the device keeps none', () => {
    const without = new Rig(PARTS[1]);
    for (const [feature, way, wrong] of [
      [START, SET, GET],
      [STOP, SET, GET],
      [REPORT, GET, SET],
    ] as const) {
      expect(without.program.feature(without.device, feature | PROBE | way).rc).toBe(-ENOTTY);
      expect(rig.program.feature(rig.device, feature | PROBE | way).rc).toBe(0);
      expect(rig.program.feature(rig.device, feature | wrong, new Uint8Array(32)).rc).toBe(-EINVAL);
    }
  });

  test('has every page that was written, whatever was written', () => {
    const write = fc.tuple(fc.nat(0x3fff), fc.integer({ min: 1, max: 0x2000 }));
    fc.assert(
      fc.property(fc.array(write, { maxLength: 12 }), (writes) => {
        const fresh = new Rig();
        expect(fresh.start([[0n, 0x4000n]]).rc).toBe(0);
        let expected = 0;
        for (const [iova, length] of writes) {
          fresh.write(BigInt(iova), BigInt(length));
          const last = Math.min(iova + length, 0x4000) - 1;
          for (let page = iova >> 12; page <= last >> 12; page++) expected |= 1 << page;
        }
        expect(fresh.report(0n, 0x4000n)).toEqual({ rc: 0, bits: expected });
      }),
      { numRuns: 50 },
    );
  });
});
