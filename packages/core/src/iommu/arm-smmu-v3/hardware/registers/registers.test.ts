import { describe, expect, test } from 'vitest';
import {
  CR0,
  IRQ_CTRL,
  OFFSET,
  PAGE1,
  REGISTERS,
  type Guard,
  type RegisterSpec,
} from '../../spec/registers.ts';
import { smmuV3Config } from './config.ts';
import { SmmuV3 } from '../smmu.ts';
import { TestMemory } from '../../../testing/memory.ts';

const ONES = 0xffff_ffff_ffff_ffffn;
const config = smmuV3Config();

const make = (): SmmuV3 => new SmmuV3({ memory: new TestMemory(), config });
const read = (smmu: SmmuV3, { offset, bytes }: RegisterSpec): bigint => smmu.readRegister(offset, bytes);
const write = (smmu: SmmuV3, { offset, bytes }: RegisterSpec, value: bigint): void =>
  smmu.writeRegister(offset, bytes, value & ((1n << BigInt(bytes * 8)) - 1n));
const value = (words: ArrayLike<number>, { bytes }: RegisterSpec): bigint =>
  BigInt(words[0]!) | (bytes === 8 ? BigInt(words[1]!) << 32n : 0n);

/** What comes from the configuration: the IMPLEMENTATION DEFINED registers. */
const CONFIGURED: Readonly<Record<string, number>> = {
  SMMU_IDR0: config.idr[0],
  SMMU_IDR1: config.idr[1],
  SMMU_IDR2: config.idr[2],
  SMMU_IDR3: config.idr[3],
  SMMU_IDR4: config.idr[4],
  SMMU_IDR5: config.idr[5],
  SMMU_IIDR: config.iidr,
  SMMU_AIDR: config.aidr,
  SMMU_GBPA: config.gbpa,
};

const resetValue = (spec: RegisterSpec): bigint => {
  const configured = CONFIGURED[spec.name];
  return configured === undefined ? value(spec.layout.reset, spec) : BigInt(configured);
};

/** Bits of what software may write that do not read back, though the layout says RW. */
const LOST: Readonly<Record<string, bigint>> = {
  // IDR0.BTM is 0: PTM is RES0.
  SMMU_CR2: 0b100n,
  // The update has completed.
  SMMU_GBPA: 0x8000_0000n,
  // IDR5.OAS is 52 bits.
  SMMU_STRTAB_BASE: 0x00f0_0000_0000_0000n,
  SMMU_CMDQ_BASE: 0x00f0_0000_0000_0000n,
  SMMU_EVENTQ_BASE: 0x00f0_0000_0000_0000n,
  SMMU_PRIQ_BASE: 0x00f0_0000_0000_0000n,
  SMMU_GERROR_IRQ_CFG0: 0x00f0_0000_0000_0000n,
  SMMU_EVENTQ_IRQ_CFG0: 0x00f0_0000_0000_0000n,
  SMMU_PRIQ_IRQ_CFG0: 0x00f0_0000_0000_0000n,
  // LOG2SIZE is 0: one entry, bit 0 is the wrap flag, and the bits above are RAZ.
  SMMU_CMDQ_CONS: 0xf_fffen,
  SMMU_EVENTQ_PROD: 0xf_fffen,
  SMMU_PRIQ_PROD: 0xf_fffen,
};

const ENABLE: Readonly<Record<Guard, readonly [offset: number, bit: number]>> = {
  SMMUEN: [OFFSET.CR0, CR0.SMMUEN.inPlace],
  CMDQEN: [OFFSET.CR0, CR0.CMDQEN.inPlace],
  EVENTQEN: [OFFSET.CR0, CR0.EVENTQEN.inPlace],
  PRIQEN: [OFFSET.CR0, CR0.PRIQEN.inPlace],
  GERROR_IRQEN: [OFFSET.IRQ_CTRL, IRQ_CTRL.GERROR_IRQEN.inPlace],
  EVENTQ_IRQEN: [OFFSET.IRQ_CTRL, IRQ_CTRL.EVENTQ_IRQEN.inPlace],
  PRIQ_IRQEN: [OFFSET.IRQ_CTRL, IRQ_CTRL.PRIQ_IRQEN.inPlace],
};

describe.each(REGISTERS.map((spec) => [spec.name, spec.section, spec] as const))(
  '%s (%s)',
  (_name, _section, spec) => {
    test('has its reset value', () => {
      const smmu = make();
      expect(read(smmu, spec)).toBe(resetValue(spec));
      write(smmu, spec, ONES);
      smmu.reset();
      expect(read(smmu, spec)).toBe(resetValue(spec));
    });

    test('keeps its writable bits of all ones, and no others', () => {
      const smmu = make();
      const writable = value(spec.layout.writable, spec) & ~(LOST[spec.name] ?? 0n);
      write(smmu, spec, ONES);
      expect(read(smmu, spec)).toBe(writable | (resetValue(spec) & ~value(spec.layout.writable, spec)));
    });

    test('ignores writes of its read-only bits', () => {
      const smmu = make();
      const readOnly = ~value(spec.layout.writable, spec) & ONES;
      const before = read(smmu, spec) & readOnly;
      for (const pattern of [0n, ONES, 0x5555_5555_5555_5555n, 0xaaaa_aaaa_aaaa_aaaan]) {
        write(smmu, spec, pattern);
        expect(read(smmu, spec) & readOnly).toBe(before);
      }
    });

    test('ignores writes while what it is guarded by is on', () => {
      if (spec.guard === undefined) return;
      const smmu = make();
      const [offset, bit] = ENABLE[spec.guard];
      smmu.writeRegister(offset, 4, BigInt(bit));
      write(smmu, spec, ONES);
      expect(read(smmu, spec)).toBe(resetValue(spec));
      smmu.writeRegister(offset, 4, 0n);
      write(smmu, spec, ONES);
      expect(read(smmu, spec)).not.toBe(resetValue(spec));
    });
  },
);

test('offsets by name are those of the registers', () => {
  const names = new Map(REGISTERS.map((spec) => [spec.name.slice('SMMU_'.length), spec.offset]));
  for (const [name, offset] of Object.entries(OFFSET)) {
    // AGBPA is IMPLEMENTATION DEFINED, and RES0 here.
    if (name !== 'AGBPA') expect(names.get(name)).toBe(offset);
  }
  expect(names.size).toBe(Object.keys(OFFSET).length - 1);
});

test('nothing lies between the registers', () => {
  const smmu = make();
  const known = new Set(
    REGISTERS.flatMap(({ offset, bytes }) => (bytes === 8 ? [offset, offset + 4] : [offset])),
  );
  for (let offset = 0; offset < 2 * PAGE1; offset += 4) {
    if (known.has(offset)) continue;
    smmu.writeRegister(offset, 4, 0xffff_ffffn);
    expect(smmu.readRegister(offset, 4)).toBe(0n);
  }
});
