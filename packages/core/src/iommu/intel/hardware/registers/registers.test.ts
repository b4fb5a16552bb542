import { describe, expect, test } from 'vitest';
import { TestMemory } from '../../../testing/memory.ts';
import { FRCD } from '../../spec/faults.ts';
import { IOTLB, IVA, OFFSET, REGISTERS, type RegisterSpec } from '../../spec/registers.ts';
import { intelConfig } from './config.ts';
import { IntelIommu } from '../intel-iommu.ts';

const ONES = 0xffff_ffff_ffff_ffffn;
const config = intelConfig();
const make = (): IntelIommu => new IntelIommu({ memory: new TestMemory(), config });
const { iotlbOffset, frcdOffset, frcdCount, registerBytes } = make().features;

/** A fault recording register is two of 64 bits. */
const half = (index: number, upper: boolean): RegisterSpec => ({
  name: `FRCD_REG[${index}] ${upper ? 'upper' : 'lower'} half`,
  offset: frcdOffset + index * 16 + (upper ? 8 : 0),
  bytes: 8,
  section: '§11.4.7.6',
  layout: {
    ...FRCD.$,
    writable: FRCD.$.writable.subarray(upper ? 2 : 0),
    readable: FRCD.$.readable.subarray(upper ? 2 : 0),
    reset: FRCD.$.reset.subarray(upper ? 2 : 0),
    fields: FRCD.$.fields.filter(({ lsb }) => lsb >= 64 === upper),
  },
});
const ALL: readonly RegisterSpec[] = [
  ...REGISTERS,
  { name: 'IVA_REG', offset: iotlbOffset, bytes: 8, layout: IVA.$, section: '§11.4.6.4' },
  { name: 'IOTLB_REG', offset: iotlbOffset + 8, bytes: 8, layout: IOTLB.$, section: '§11.4.6.3' },
  ...Array.from({ length: frcdCount }, (_, i) => [half(i, false), half(i, true)]).flat(),
];

const read = (iommu: IntelIommu, { offset, bytes }: RegisterSpec): bigint =>
  iommu.readRegister(offset, bytes);
const write = (iommu: IntelIommu, { offset, bytes }: RegisterSpec, value: bigint): void =>
  iommu.writeRegister(offset, bytes, value & ((1n << BigInt(bytes * 8)) - 1n));
const value = (words: ArrayLike<number>, { bytes }: RegisterSpec): bigint =>
  BigInt(words[0]!) | (bytes === 8 ? BigInt(words[1]!) << 32n : 0n);

/** Registers that interrupt remapping and protected memory would need; EIM takes the upper addresses. */
const absent = ({ needs = [] }: RegisterSpec): boolean =>
  needs.some((need) => ['IR', 'EIM', 'PLMR', 'PHMR'].includes(need));

const CONFIGURED: Readonly<Record<string, bigint>> = {
  VER_REG: BigInt(config.version),
  CAP_REG: config.cap,
  ECAP_REG: config.ecap,
};
const resetValue = (spec: RegisterSpec): bigint => {
  if (absent(spec)) return 0n;
  return CONFIGURED[spec.name] ?? value(spec.layout.reset, spec);
};

/** Bits that read back as written. */
function kept(spec: RegisterSpec): bigint {
  if (absent(spec)) return 0n;
  let bits = value(spec.layout.writable, spec) & value(spec.layout.readable, spec);
  for (const { access, msb, lsb } of spec.layout.fields) {
    const at = BigInt(lsb % 64);
    if (access === 'W1C') bits &= ~(((1n << BigInt(msb - lsb + 1)) - 1n) << at);
  }
  return bits & ~(LOST[spec.name] ?? 0n);
}

/** Writable bits that do not stay: commands that are done at once, address bits above HAW (46). */
const ABOVE_HAW = ONES & ~((1n << 46n) - 1n);
const LOST: Readonly<Record<string, bigint>> = {
  RTADDR_REG: ABOVE_HAW,
  IQA_REG: ABOVE_HAW,
  PQA_REG: ABOVE_HAW,
  CCMD_REG: 1n << 63n,
  IOTLB_REG: 1n << 63n,
};

describe.each(ALL.map((spec) => [spec.name, spec.section, spec] as const))(
  '%s (%s)',
  (_name, _section, spec) => {
    test('has its reset value', () => {
      const iommu = make();
      expect(read(iommu, spec)).toBe(resetValue(spec));
      write(iommu, spec, ONES);
      iommu.reset();
      expect(read(iommu, spec)).toBe(resetValue(spec));
    });

    test('keeps its writable bits of all ones, and no others', () => {
      const iommu = make();
      write(iommu, spec, ONES);
      // CAIG and IAIG tell how an invalidation went: globally, domain-, device- or page-selectively.
      const told = spec.name === 'CCMD_REG' ? 3n << 59n : spec.name === 'IOTLB_REG' ? 3n << 57n : 0n;
      expect(read(iommu, spec) & ~told).toBe(
        kept(spec) | (resetValue(spec) & ~value(spec.layout.writable, spec)),
      );
    });

    test('ignores writes of its read-only bits', () => {
      const readOnly = ONES & ~value(spec.layout.writable, spec);
      for (const pattern of [0n, ONES, 0x5555_5555_5555_5555n, 0xaaaa_aaaa_aaaa_aaaan]) {
        const iommu = make();
        const before = read(iommu, spec) & readOnly;
        write(iommu, spec, pattern);
        const told = spec.name === 'CCMD_REG' ? 3n << 59n : spec.name === 'IOTLB_REG' ? 3n << 57n : 0n;
        expect(read(iommu, spec) & readOnly & ~told).toBe(before);
      }
    });

    test('takes the same value in two halves as in one write', () => {
      const [whole, halves] = [make(), make()];
      const pattern = 0x1234_5678_9abc_def0n & ~0x8000_0000_8000_0000n;
      write(whole, spec, pattern);
      halves.writeRegister(spec.offset, 4, pattern & 0xffff_ffffn);
      if (spec.bytes === 8) halves.writeRegister(spec.offset + 4, 4, pattern >> 32n);
      expect(read(halves, spec)).toBe(read(whole, spec));
    });
  },
);

test('registers do not overlap, and offsets by name are those of the registers', () => {
  const taken = new Set<number>();
  for (const { offset, bytes } of ALL) {
    for (let at = offset; at < offset + bytes; at += 4) {
      expect(taken.has(at)).toBe(false);
      taken.add(at);
    }
  }
  for (const [name, offset] of Object.entries(OFFSET)) {
    expect(REGISTERS.find((spec) => spec.name === `${name}_REG`)?.offset).toBe(offset);
  }
});

test('nothing lies between the registers', () => {
  const iommu = make();
  const known = new Set(ALL.flatMap(({ offset, bytes }) => (bytes === 8 ? [offset, offset + 4] : [offset])));
  for (let offset = 0; offset < registerBytes; offset += 4) {
    if (known.has(offset)) continue;
    iommu.writeRegister(offset, 4, 0xffff_ffffn);
    expect(iommu.readRegister(offset, 4)).toBe(0n);
  }
});
