import { describe, expect, it } from 'vitest';
import { OFFSET, REGISTERS } from '../../spec/registers.ts';
import { AmdIommu } from '../amd-iommu.ts';
import { type ConfigOverrides, amdIommuConfig } from './config.ts';
import { Ram } from '../../../../memory/physical.ts';

const ONES = 0xffff_ffff_ffff_ffffn;

/** Offset, value after reset, bits that software can write; §3.4, written out here from the specification. */
const EXPECTED: Readonly<Record<string, readonly [offset: number, reset: bigint, writable: bigint]>> = {
  DevTabBase: [0x0000, 0n, 0x000f_ffff_ffff_f1ffn],
  ComBase: [0x0008, 8n << 56n, 0x0f0f_ffff_ffff_f000n],
  EventBase: [0x0010, 8n << 56n, 0x0f0f_ffff_ffff_f000n],
  Control: [0x0018, 0x400n, 0x0c4d_fc8c_0003_ffffn],
  ExclusionBase: [0x0020, 0n, 0x000f_ffff_ffff_f003n],
  ExclusionLimit: [0x0028, 0n, 0x000f_ffff_ffff_f000n],
  EFR: [0x0030, 0x2037_43ef_0000_99dfn, 0n],
  PPRLogBase: [0x0038, 8n << 56n, 0x0f0f_ffff_ffff_f000n],
  HwEventUpper: [0x0040, 0n, ONES],
  HwEventLower: [0x0048, 0n, ONES],
  HwEventStatus: [0x0050, 0n, 0n],
  DevTabSegBase1: [0x0100, 0n, 0x000f_ffff_ffff_f0ffn],
  DevTabSegBase2: [0x0108, 0n, 0x000f_ffff_ffff_f0ffn],
  DevTabSegBase3: [0x0110, 0n, 0x000f_ffff_ffff_f0ffn],
  DevTabSegBase4: [0x0118, 0n, 0x000f_ffff_ffff_f0ffn],
  DevTabSegBase5: [0x0120, 0n, 0x000f_ffff_ffff_f0ffn],
  DevTabSegBase6: [0x0128, 0n, 0x000f_ffff_ffff_f0ffn],
  DevTabSegBase7: [0x0130, 0n, 0x000f_ffff_ffff_f0ffn],
  MsiVector0: [0x0150, 0x0820_3480n, 0n],
  MsiVector1: [0x0154, 0n, 0n],
  MsiCapHeader: [0x0158, 0x0080_0005n, 0x0071_0000n],
  MsiAddressLow: [0x015c, 0n, 0xffff_fffcn],
  MsiAddressHigh: [0x0160, 0n, 0xffff_ffffn],
  MsiData: [0x0164, 0n, 0xffffn],
  MsiMappingCapHeader: [0x0168, 0xa803_0008n, 0n],
  XTGeneralInterrupt: [0x0170, 0n, 0xff00_01ff_ffff_ff04n],
  XTPprInterrupt: [0x0178, 0n, 0xff00_01ff_ffff_ff04n],
  EFR2: [0x01a0, 0x908n, 0n],
  CmdHeadPtr: [0x2000, 0n, 0xff0n],
  CmdTailPtr: [0x2008, 0n, 0xff0n],
  EventHeadPtr: [0x2010, 0n, 0xff0n],
  EventTailPtr: [0x2018, 0n, 0xff0n],
  Status: [0x2020, 0n, 0n],
  PPRHeadPtr: [0x2030, 0n, 0xff0n],
  PPRTailPtr: [0x2038, 0n, 0xff0n],
  PPRAutoResponse: [0x2080, 0n, 0x1fn],
  PPROverflowEarly: [0x2088, 0n, 0xc000_7fffn],
};

const NEEDS: Readonly<Record<string, ConfigOverrides>> = {
  PPRSup: { EFR: { PPRSup: 0, EPHSup: 0, PPRAutoRspSup: 0, PprOvrflwEarlySup: 0 } },
  HESup: { EFR: { HESup: 0 } },
  XTSup: { EFR: { XTSup: 0 } },
  MsiCapMmioSup: { EFR: { MsiCapMmioSup: 0 } },
  PPRAutoRspSup: { EFR: { PPRAutoRspSup: 0 } },
  PprOvrflwEarlySup: { EFR: { PprOvrflwEarlySup: 0 } },
  exclusion: { exclusionRange: false },
  segments2: { EFR: { DevTblSegSup: 0 } },
  segments4: { EFR: { DevTblSegSup: 1 } },
  segments8: { EFR: { DevTblSegSup: 2 } },
};

const make = (overrides: ConfigOverrides = {}): AmdIommu =>
  new AmdIommu({ memory: new Ram(), config: amdIommuConfig(overrides) });

describe.each(REGISTERS.map((spec) => [spec.name, spec] as const))('%s', (name, spec) => {
  const [offset, reset, writable] = EXPECTED[name]!;
  const mask = spec.bytes === 8 ? ONES : 0xffff_ffffn;
  const read = (iommu: AmdIommu): bigint => iommu.readRegister(offset, spec.bytes);

  it('is where the specification has it, and has its value after reset', () => {
    expect(spec.offset).toBe(offset);
    const iommu = make();
    expect(read(iommu)).toBe(reset);
    iommu.writeRegister(offset, spec.bytes, ONES & mask);
    iommu.reset();
    expect(read(iommu)).toBe(reset);
  });

  it('keeps of all ones the bits that software can write', () => {
    const iommu = make();
    // Offsets in a ring are below its size, 256 entries of 16 bytes; there are no more than 8 segments (3).
    const ones = spec.ring !== undefined ? 0xfffn : name === 'Control' ? ONES & ~(1n << 36n) : ONES & mask;
    iommu.writeRegister(offset, spec.bytes, ones);
    const written = iommu.readRegister(offset, spec.bytes);
    expect(written & writable).toBe(writable);
    expect(written & ~writable).toBe(reset & ~writable);
  });

  it('ignores writes to its other bits', () => {
    const iommu = make();
    iommu.writeRegister(offset, spec.bytes, 0n);
    expect(read(iommu)).toBe(reset & ~writable);
    if (spec.ring !== undefined) return;
    iommu.writeRegister(offset, spec.bytes, ~writable & mask);
    expect(read(iommu)).toBe(reset & ~writable);
  });

  it('is read and written in words as it is in one piece, and is not there without its feature', () => {
    const iommu = make();
    const value = (spec.ring === undefined ? 0x1234_5678_9abc_def5n : 0x120n) & mask;
    iommu.writeRegister(offset, 4, value & 0xffff_ffffn);
    if (spec.bytes === 8) iommu.writeRegister(offset + 4, 4, value >> 32n);
    const whole = make();
    whole.writeRegister(offset, spec.bytes, value);
    expect(read(iommu)).toBe(read(whole));
    const low = iommu.readRegister(offset, 4);
    const high = spec.bytes === 8 ? iommu.readRegister(offset + 4, 4) : 0n;
    expect(low | (high << 32n)).toBe(read(iommu));
    if (spec.needs === undefined) return;
    const without = make(NEEDS[spec.needs]);
    without.writeRegister(offset, spec.bytes, ONES & mask);
    expect(read(without)).toBe(0n);
  });
});

describe('the register file', () => {
  it('has every register of the table above', () => {
    expect(REGISTERS.map((spec) => spec.name).sort()).toEqual(Object.keys(EXPECTED).sort());
  });

  it('§3.4: reads as zero between its registers, for odd sizes and where an access is not aligned', () => {
    const iommu = make();
    for (const [offset, size] of [
      [0x0058, 8],
      [0x00e0, 8],
      [0x0200, 8],
      [0x2040, 8],
      [0x3ff8, 8],
      [0x4000, 8],
      [-8, 8],
      [0x0018, 2],
      [0x001a, 4],
      [0x001c, 8],
    ] as const) {
      iommu.writeRegister(offset, size, ONES);
      expect(iommu.readRegister(offset, size)).toBe(0n);
    }
    expect(iommu.readRegister(OFFSET.CONTROL, 8)).toBe(0x400n);
  });

  it('§3.4, 0018h: CONTROL has no bit of a feature that is not advertised', () => {
    const bit = (overrides: ConfigOverrides, n: number): bigint => {
      const iommu = make(overrides);
      iommu.writeRegister(OFFSET.CONTROL, 8, 1n << BigInt(n));
      return (iommu.readRegister(OFFSET.CONTROL, 8) >> BigInt(n)) & 1n;
    };
    const noPpr = { EFR: { PPRSup: 0, EPHSup: 0, PPRAutoRspSup: 0, PprOvrflwEarlySup: 0 } };
    const table: readonly (readonly [ConfigOverrides, readonly number[]])[] = [
      [noPpr, [13, 14, 15]],
      [{ EFR: { GTSup: 0, GIoSup: 0 } }, [16]],
      [{ EFR: { GASup: 0 } }, [17]],
      [{ EFR: { DevTblSegSup: 0 } }, [34, 35]],
      [{ EFR: { PPRAutoRspSup: 0 } }, [39, 42]],
      [{ EFR2: { NumIntRemapSup: 0 } }, [43]],
      [{ EFR: { EPHSup: 0 } }, [45]],
      [{ EFR: { HASup: 0, HDSup: 0 } }, [46, 47]],
      [{ EFR: { V2_HDDisSup: 0 } }, [48]],
      [{ EFR: { XTSup: 0 } }, [50, 51]],
      [{ EFR: { V2_HADDisSup: 0 } }, [54]],
      [{ EFR2: { GCR3TRPMode: 0 } }, [58]],
      [{ irtCacheDis: false }, [59]],
    ];
    for (const [overrides, bits] of table) {
      for (const n of bits) {
        expect([n, bit(overrides, n)]).toEqual([n, 0n]);
        expect([n, bit({}, n)]).toEqual([n, 1n]);
      }
    }
  });

  it('§3.4, 0018h: DevTblSegEn takes no more segments than DevTblSegSup has', () => {
    const iommu = make({ EFR: { DevTblSegSup: 2 } });
    const segments = (): bigint => (iommu.readRegister(OFFSET.CONTROL, 8) >> 34n) & 7n;
    iommu.writeRegister(OFFSET.CONTROL, 8, 2n << 34n);
    expect(segments()).toBe(2n);
    iommu.writeRegister(OFFSET.CONTROL, 8, 3n << 34n);
    expect(segments()).toBe(2n);
    iommu.writeRegister(OFFSET.CONTROL, 8, 7n << 34n);
    expect(segments()).toBe(2n);
  });

  it('§3.4, 2000h: offsets outside of the ring are not taken', () => {
    const iommu = make();
    iommu.writeRegister(OFFSET.CMD_BUF_BASE, 8, 9n << 56n);
    iommu.writeRegister(OFFSET.CMD_TAIL, 8, 0x1ff0n);
    expect(iommu.readRegister(OFFSET.CMD_TAIL, 8)).toBe(0x1ff0n);
    iommu.writeRegister(OFFSET.CMD_TAIL, 8, 0x2000n);
    expect(iommu.readRegister(OFFSET.CMD_TAIL, 8)).toBe(0x1ff0n);
  });
});

describe('the capability block', () => {
  it('§3.2.1: is the capability 0Fh of type 3', () => {
    const header = make().readCapability(0x00);
    expect(header & 0xff).toBe(0x0f);
    expect((header >>> 16) & 7).toBe(3);
    expect((header >>> 24) & 1).toBe(1);
    expect((header >>> 27) & 1).toBe(1);
  });

  it('§3.2.2: Enable locks the base address', () => {
    const iommu = make();
    iommu.writeCapability(0x08, 1);
    iommu.writeCapability(0x04, 0xfd20_3fff);
    expect(iommu.readCapability(0x04)).toBe(0xfd20_0001);
    expect(iommu.readCapability(0x08)).toBe(1);
    iommu.writeCapability(0x04, 0);
    iommu.writeCapability(0x08, 0);
    expect(iommu.readCapability(0x04)).toBe(0xfd20_0001);
    expect(iommu.readCapability(0x08)).toBe(1);
  });

  it('§3.2.5: tells the address sizes', () => {
    const misc = make().readCapability(0x10);
    expect((misc >>> 8) & 0x7f).toBe(52);
    expect((misc >>> 15) & 0x7f).toBe(64);
    expect((misc >>> 27) & 0x1f).toBe(1);
    expect(make().readCapability(0x18)).toBe(0);
  });

  it('§3.4, 0158h: is followed by that of MSI, which MMIO shows with MsiCapMmioSup', () => {
    const iommu = make();
    iommu.writeCapability(0x24, 0xffff_ffff);
    iommu.writeCapability(0x28, 0xfee0_0003);
    iommu.writeCapability(0x30, 0x41);
    expect(iommu.readRegister(OFFSET.MSI_CAP, 4)).toBe(0x00f1_0005n);
    expect(iommu.readRegister(OFFSET.MSI_ADDR_LOW, 4)).toBe(0xfee0_0000n);
    expect(iommu.readRegister(OFFSET.MSI_DATA, 4)).toBe(0x41n);
    const hidden = make({ EFR: { MsiCapMmioSup: 0 } });
    hidden.writeCapability(0x30, 0x41);
    expect(hidden.readCapability(0x30)).toBe(0x41);
    expect(hidden.readRegister(OFFSET.MSI_DATA, 4)).toBe(0n);
  });
});
