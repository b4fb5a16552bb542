import { describe, expect, it } from 'vitest';
import { type Field, type FieldSpec, type Layout, encode, readAddress } from '../../../base/bit-fields.ts';
import { CD } from './cd.ts';
import { CMD_ATC_INV, CMD_CFGI, CMD_PRI_RESP, CMD_RESUME, CMD_SYNC, CMD_TLBI } from './commands.ts';
import { EVENT_RECORD, FETCH_RECORD } from './events.ts';
import { PRIQ_RECORD, queueCount, queueEmpty, queueFull, queueMask, queueNext, queueSlot } from './queues.ts';
import { OFFSET, REGISTERS } from './registers.ts';
import { STE } from './ste.ts';

/** Position as Linux writes it: the 64-bit word, then GENMASK_ULL(msb, lsb). */
const at = (field: Field) => [field.lsb >>> 6, field.msb & 63, field.lsb & 63];
const positions = <F extends Record<string, FieldSpec>>(
  of: Layout<F>,
  names: readonly (keyof F & string)[],
) => Object.fromEntries(names.map((name) => [name, at(of[name])]));

describe('the structures of the specification', () => {
  it('place the fields of an STE where drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h has them', () => {
    const names: Exclude<keyof typeof STE, '$'>[] = [
      'V',
      'Config',
      'S1Fmt',
      'S1ContextPtr',
      'S1CDMax',
      'S1DSS',
    ];
    names.push('S1CIR', 'S1COR', 'S1CSH', 'MEV', 'S2FWB', 'S1STALLD', 'EATS', 'STRW', 'SHCFG');
    names.push('S2VMID', 'S2AA64', 'S2ENDI', 'S2PTW', 'S2S', 'S2R', 'S2TTB');
    expect(positions(STE, names)).toEqual({
      V: [0, 0, 0],
      Config: [0, 3, 1],
      S1Fmt: [0, 5, 4],
      S1ContextPtr: [0, 55, 6],
      S1CDMax: [0, 63, 59],
      S1DSS: [1, 1, 0],
      S1CIR: [1, 3, 2],
      S1COR: [1, 5, 4],
      S1CSH: [1, 7, 6],
      MEV: [1, 19, 19],
      S2FWB: [1, 25, 25],
      S1STALLD: [1, 27, 27],
      EATS: [1, 29, 28],
      STRW: [1, 31, 30],
      SHCFG: [1, 45, 44],
      S2VMID: [2, 15, 0],
      S2AA64: [2, 51, 51],
      S2ENDI: [2, 52, 52],
      S2PTW: [2, 54, 54],
      S2S: [2, 57, 57],
      S2R: [2, 58, 58],
      S2TTB: [3, 55, 4],
    });
  });

  it('place the fields of a CD where that header has them', () => {
    const names = [
      'EPD0',
      'ENDI',
      'EPD1',
      'V',
      'IPS',
      'AA64',
      'HD',
      'HA',
      'S',
      'R',
      'A',
      'ASET',
      'ASID',
    ] as const;
    expect(positions(CD, [...names, 'TTB0', 'TTB1', 'TBI0', 'MAIR0'])).toEqual({
      EPD0: [0, 14, 14],
      ENDI: [0, 15, 15],
      EPD1: [0, 30, 30],
      V: [0, 31, 31],
      IPS: [0, 34, 32],
      AA64: [0, 41, 41],
      HD: [0, 42, 42],
      HA: [0, 43, 43],
      S: [0, 44, 44],
      R: [0, 45, 45],
      A: [0, 46, 46],
      ASET: [0, 47, 47],
      ASID: [0, 63, 48],
      TTB0: [1, 55, 4],
      TTB1: [2, 55, 4],
      TBI0: [0, 38, 38],
      MAIR0: [3, 31, 0],
    });
  });

  it('place the fields of commands where that header has them', () => {
    expect(positions(CMD_CFGI, ['SubstreamID', 'StreamID', 'Range'])).toEqual({
      SubstreamID: [0, 31, 12],
      StreamID: [0, 63, 32],
      Range: [1, 4, 0],
    });
    expect(positions(CMD_TLBI, ['NUM', 'SCALE', 'VMID', 'ASID', 'Leaf', 'TTL', 'TG', 'Address'])).toEqual({
      NUM: [0, 16, 12],
      SCALE: [0, 25, 20],
      VMID: [0, 47, 32],
      ASID: [0, 63, 48],
      Leaf: [1, 0, 0],
      TTL: [1, 9, 8],
      TG: [1, 11, 10],
      Address: [1, 63, 12],
    });
    expect(positions(CMD_ATC_INV, ['Global', 'SSV', 'Size'])).toEqual({
      Global: [0, 9, 9],
      SSV: [0, 11, 11],
      Size: [1, 5, 0],
    });
    expect(positions(CMD_PRI_RESP, ['PRGIndex', 'Resp'])).toEqual({ PRGIndex: [1, 8, 0], Resp: [1, 13, 12] });
    expect(positions(CMD_RESUME, ['Ac', 'Ab', 'STAG'])).toEqual({
      Ac: [0, 12, 12],
      Ab: [0, 13, 13],
      STAG: [1, 15, 0],
    });
    expect(positions(CMD_SYNC, ['CS', 'MSH', 'MSIAttr', 'MSIData', 'MSIAddress'])).toEqual({
      CS: [0, 13, 12],
      MSH: [0, 23, 22],
      MSIAttr: [0, 27, 24],
      MSIData: [0, 63, 32],
      MSIAddress: [1, 55, 2],
    });
  });

  it('place the fields of event and page request records where that header has them', () => {
    const names = [
      'SSV',
      'SubstreamID',
      'StreamID',
      'STAG',
      'Stall',
      'PnU',
      'InD',
      'RnW',
      'S2',
      'CLASS',
    ] as const;
    expect(positions(EVENT_RECORD, [...names, 'TTRnW'])).toEqual({
      SSV: [0, 11, 11],
      SubstreamID: [0, 31, 12],
      StreamID: [0, 63, 32],
      STAG: [1, 15, 0],
      Stall: [1, 31, 31],
      PnU: [1, 33, 33],
      InD: [1, 34, 34],
      RnW: [1, 35, 35],
      S2: [1, 39, 39],
      CLASS: [1, 41, 40],
      TTRnW: [1, 44, 44],
    });
    expect(positions(PRIQ_RECORD, ['Priv', 'X', 'R', 'W', 'Last', 'SSV', 'PRGIndex', 'PageAddr'])).toEqual({
      Priv: [0, 58, 58],
      X: [0, 59, 59],
      R: [0, 60, 60],
      W: [0, 61, 61],
      Last: [0, 62, 62],
      SSV: [0, 63, 63],
      PRGIndex: [1, 8, 0],
      PageAddr: [1, 63, 12],
    });
    const words = encode(FETCH_RECORD, { FetchAddr: 0x8000_0000 / 8 });
    expect(readAddress(FETCH_RECORD.FetchAddr, words)).toBe(0x8000_0000);
  });
});

describe('the register map', () => {
  it('has each register once, and the offsets that its users name', () => {
    const taken = new Set<number>();
    for (const { offset, bytes } of REGISTERS) {
      for (let at = offset; at < offset + bytes; at += 4) {
        expect(taken.has(at)).toBe(false);
        taken.add(at);
      }
    }
    for (const [name, offset] of Object.entries(OFFSET)) {
      if (name === 'AGBPA') continue;
      expect(REGISTERS.find((r) => r.name === `SMMU_${name}`)?.offset).toBe(offset);
    }
  });
});

describe('circular queues', () => {
  it('tell empty from full by the wrap bit', () => {
    expect(queueEmpty(5, 5, 3)).toBe(true);
    expect(queueFull(5 | 8, 5, 3)).toBe(true);
    expect(queueFull(5, 5, 3)).toBe(false);
    expect(queueFull(1, 0, 0)).toBe(true);
    expect(queueEmpty(0x10 | 5, 5, 3)).toBe(true);
  });

  it('wrap, and toggle the wrap bit as they do', () => {
    expect(queueNext(7, 3)).toBe(8);
    expect(queueNext(15, 3)).toBe(0);
    expect(queueSlot(13, 3)).toBe(5);
    expect(queueCount(9, 6, 3)).toBe(3);
    expect(queueMask(19)).toBe(0xf_ffff);
  });
});
