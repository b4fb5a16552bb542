import { describe, expect, it } from 'vitest';
import type { Field, FieldSpec, Layout } from '../../../base/bit-fields.ts';
import { CONTEXT_ENTRY, SM_CONTEXT_ENTRY } from './context.ts';
import { FAULT, FRCD, PAGE_REQ_DSC } from './faults.ts';
import {
  CC_INV_DSC,
  DEV_TLB_INV_DSC,
  INV_WAIT_DSC,
  IOTLB_INV_DSC,
  PAGE_GRP_RESP_DSC,
  PC_INV_DSC,
  P_DEV_TLB_INV_DSC,
  P_IOTLB_INV_DSC,
} from './invalidation.ts';
import { PASID_ENTRY } from './pasid.ts';
import { CAP, ECAP } from './registers.ts';

/** Position as Linux writes it: the 64-bit word, then GENMASK_ULL(msb, lsb). */
const at = (field: Field): [number, number, number] => [field.lsb >>> 6, field.msb & 63, field.lsb & 63];
const positions = <F extends Record<string, FieldSpec>>(
  of: Layout<F>,
  names: readonly (keyof F & string)[],
): Record<string, [number, number, number]> => Object.fromEntries(names.map((name) => [name, at(of[name])]));

describe('the structures of the specification', () => {
  it('place capabilities where drivers/iommu/intel/iommu.h has them', () => {
    expect(
      positions(CAP, [
        'ND',
        'CM',
        'SAGAW',
        'MGAW',
        'ZLR',
        'FRO',
        'SSLPS',
        'PSI',
        'NFR',
        'MAMV',
        'FS1GP',
        'FS5LP',
      ]),
    ).toEqual({
      ND: [0, 2, 0],
      CM: [0, 7, 7],
      SAGAW: [0, 12, 8],
      MGAW: [0, 21, 16],
      ZLR: [0, 22, 22],
      FRO: [0, 33, 24],
      SSLPS: [0, 37, 34],
      PSI: [0, 39, 39],
      NFR: [0, 47, 40],
      MAMV: [0, 53, 48],
      FS1GP: [0, 56, 56],
      FS5LP: [0, 60, 60],
    });
    expect(positions(CAP, ['ESRTPS', 'ESIRTPS', 'ECMDS'])).toEqual({
      ESRTPS: [0, 63, 63],
      ESIRTPS: [0, 62, 62],
      ECMDS: [0, 61, 61],
    });
  });

  it('place extended capabilities where that header has them', () => {
    const bits = Object.entries(ECAP)
      .filter(([name]) => name !== '$')
      .map(([name, field]) => [name, (field as Field).lsb]);
    expect(Object.fromEntries(bits)).toMatchObject({
      C: 0,
      QI: 1,
      DT: 2,
      IR: 3,
      EIM: 4,
      PT: 6,
      SC: 7,
      IRO: 8,
      MHMV: 20,
      MTS: 25,
      NEST: 26,
      PRS: 29,
      SRS: 31,
      NWFS: 33,
      EAFS: 34,
      PSS: 35,
      PASID: 40,
      DIT: 41,
      PDS: 42,
      SMTS: 43,
      SSADS: 45,
      SSTS: 46,
      FSTS: 47,
      SMPWCS: 48,
      RPS: 49,
      PMS: 51,
    });
  });

  it('place the fields of entries where iommu.h and pasid.h have them', () => {
    expect(positions(CONTEXT_ENTRY, ['P', 'FPD', 'TT', 'SSPTPTR', 'AW', 'DID'])).toEqual({
      P: [0, 0, 0],
      FPD: [0, 1, 1],
      TT: [0, 3, 2],
      SSPTPTR: [0, 63, 12],
      AW: [1, 2, 0],
      DID: [1, 23, 8],
    });
    expect(positions(SM_CONTEXT_ENTRY, ['DTE', 'PASIDE', 'PRE', 'PDTS', 'RID_PASID'])).toEqual({
      DTE: [0, 2, 2],
      PASIDE: [0, 3, 3],
      PRE: [0, 4, 4],
      PDTS: [0, 11, 9],
      RID_PASID: [1, 19, 0],
    });
    const names = ['AW', 'PGTT', 'SSADE', 'SSPTPTR', 'DID', 'PWSNP', 'PGSNP', 'SRE', 'FSPM', 'WPE'] as const;
    expect(positions(PASID_ENTRY, [...names, 'EAFE', 'FSPTPTR'])).toEqual({
      AW: [0, 4, 2],
      PGTT: [0, 8, 6],
      SSADE: [0, 9, 9],
      SSPTPTR: [0, 63, 12],
      DID: [1, 15, 0],
      PWSNP: [1, 23, 23],
      PGSNP: [1, 24, 24],
      SRE: [2, 0, 0],
      FSPM: [2, 3, 2],
      WPE: [2, 4, 4],
      EAFE: [2, 7, 7],
      FSPTPTR: [2, 63, 12],
    });
  });

  it('place the fields of descriptors where iommu.h has them', () => {
    expect(positions(CC_INV_DSC, ['G', 'DID', 'SID', 'FM'])).toEqual({
      G: [0, 5, 4],
      DID: [0, 31, 16],
      SID: [0, 47, 32],
      FM: [0, 49, 48],
    });
    expect(positions(PC_INV_DSC, ['G', 'DID', 'PASID'])).toEqual({
      G: [0, 5, 4],
      DID: [0, 31, 16],
      PASID: [0, 51, 32],
    });
    for (const of of [IOTLB_INV_DSC, P_IOTLB_INV_DSC] as const) {
      expect([of.G, of.DID, of.AM, of.IH, of.ADDR].map(at)).toEqual([
        [0, 5, 4],
        [0, 31, 16],
        [1, 5, 0],
        [1, 6, 6],
        [1, 63, 12],
      ]);
    }
    expect(positions(DEV_TLB_INV_DSC, ['PFSID_LO', 'MIP', 'SID', 'PFSID_HI', 'S', 'ADDR'])).toEqual({
      PFSID_LO: [0, 15, 12],
      MIP: [0, 20, 16],
      SID: [0, 47, 32],
      PFSID_HI: [0, 63, 52],
      S: [1, 0, 0],
      ADDR: [1, 63, 12],
    });
    expect(positions(P_DEV_TLB_INV_DSC, ['MIP', 'SID', 'PASID', 'GI', 'S'])).toEqual({
      MIP: [0, 8, 4],
      SID: [0, 31, 16],
      PASID: [0, 51, 32],
      GI: [1, 0, 0],
      S: [1, 11, 11],
    });
    expect(positions(INV_WAIT_DSC, ['IF', 'SW', 'FN', 'PD', 'STATUS_DATA'])).toEqual({
      IF: [0, 4, 4],
      SW: [0, 5, 5],
      FN: [0, 6, 6],
      PD: [0, 7, 7],
      STATUS_DATA: [0, 63, 32],
    });
    expect(positions(PAGE_GRP_RESP_DSC, ['PP', 'RC', 'RID', 'PASID', 'PRGI'])).toEqual({
      PP: [0, 4, 4],
      RC: [0, 15, 12],
      RID: [0, 31, 16],
      PASID: [0, 51, 32],
      PRGI: [1, 11, 3],
    });
  });

  it('place the fields of records where iommu.h and prq.c have them', () => {
    expect(positions(FRCD, ['FI', 'SID', 'PP', 'FR', 'PV', 'T1', 'F'])).toEqual({
      FI: [0, 63, 12],
      SID: [1, 15, 0],
      PP: [1, 31, 31],
      FR: [1, 39, 32],
      PV: [1, 59, 40],
      T1: [1, 62, 62],
      F: [1, 63, 63],
    });
    const names = ['PP', 'RID', 'PASID', 'EXR', 'PMR', 'RDR', 'WRR', 'LPIG', 'PRGI'] as const;
    expect(positions(PAGE_REQ_DSC, names)).toEqual({
      PP: [0, 8, 8],
      RID: [0, 31, 16],
      PASID: [0, 51, 32],
      EXR: [0, 52, 52],
      PMR: [0, 53, 53],
      RDR: [1, 0, 0],
      WRR: [1, 1, 1],
      LPIG: [1, 2, 2],
      PRGI: [1, 11, 3],
    });
  });
});

describe('the table of fault conditions', () => {
  it('has each condition code once, and a name that follows from it', () => {
    const codes = Object.values(FAULT).map(({ code }) => code);
    expect(new Set(codes).size).toBe(codes.length);
    for (const [name, { code }] of Object.entries(FAULT)) {
      if (name !== 'IR_29') expect(name).toBe(code.replaceAll('.', '_'));
    }
  });

  it('has an answer for some kind of request in every row, and none that does not fit its column', () => {
    for (const { code, untranslated, translation, translated, pageRequest } of Object.values(FAULT)) {
      const all = [...untranslated, ...translation, ...translated, ...pageRequest];
      expect([code, all.some((answer) => answer !== null)]).toEqual([code, true]);
      for (const answer of untranslated) expect([null, 'UR']).toContain(answer);
      for (const answer of translation) expect([null, 'UR', 'CA', 'none', 'effective']).toContain(answer);
      for (const answer of translated) expect([null, 'UR', 'CA']).toContain(answer);
      expect([
        [null, null],
        ['IR', 'drop'],
      ]).toContainEqual(pageRequest);
    }
  });
});
