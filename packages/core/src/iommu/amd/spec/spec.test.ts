// Positions and values against a second source: drivers/iommu/amd/amd_iommu_types.h, written as that header has them.

import { describe, expect, it } from 'vitest';
import type { Field, FieldSpec, Layout } from '../../../base/bit-fields.ts';
import {
  CMD,
  CMD_COMPLETE_PPR,
  CMD_COMPLETION_WAIT,
  CMD_INVALIDATE_IOTLB,
  CMD_INVALIDATE_PAGES,
} from './commands.ts';
import { DTE, GCR3_ENTRY, IRTE, IRTE_GA } from './dte.ts';
import {
  EVENT,
  EVENT_COMMON,
  INVALID_PPR_RECORD,
  IO_PAGE_FAULT_RECORD,
  PAGE_SERVICE_REQUEST,
  PPR_RECORD,
} from './events.ts';
import { EFR, EFR2 } from './features.ts';
import { CONTROL, OFFSET, REGISTERS, RING_BASE, RING_POINTER, STATUS, XT_INTERRUPT } from './registers.ts';

/** Position as Linux writes it: the 64-bit word, then GENMASK_ULL(msb, lsb). */
const at = (field: Field): [number, number, number] => [field.lsb >>> 6, field.msb & 63, field.lsb & 63];
const positions = <F extends Record<string, FieldSpec>>(
  of: Layout<F>,
  names: readonly (keyof F & string)[],
): Record<string, [number, number, number]> => Object.fromEntries(names.map((name) => [name, at(of[name])]));
/** Lowest bits of all fields, by name. */
const lowest = (of: { readonly $: { readonly fields: readonly Field[] } }): Record<string, number> =>
  Object.fromEntries(of.$.fields.map((field) => [field.name, field.lsb]));

describe('registers', () => {
  it('lie where MMIO_* say', () => {
    expect(OFFSET).toMatchObject({
      DEV_TAB_BASE: 0x0000,
      CMD_BUF_BASE: 0x0008,
      EVT_LOG_BASE: 0x0010,
      CONTROL: 0x0018,
      EXCL_BASE: 0x0020,
      EXCL_LIMIT: 0x0028,
      EFR: 0x0030,
      PPR_LOG_BASE: 0x0038,
      MSI_ADDR_LOW: 0x015c,
      MSI_ADDR_HIGH: 0x0160,
      MSI_DATA: 0x0164,
      XT_GEN_INT: 0x0170,
      XT_PPR_INT: 0x0178,
      EFR2: 0x01a0,
      CMD_HEAD: 0x2000,
      CMD_TAIL: 0x2008,
      EVT_HEAD: 0x2010,
      EVT_TAIL: 0x2018,
      STATUS: 0x2020,
      PPR_HEAD: 0x2030,
      PPR_TAIL: 0x2038,
    });
  });

  it('are each at an offset of their own', () => {
    const words = REGISTERS.flatMap(({ offset, bytes }) => (bytes === 8 ? [offset, offset + 4] : [offset]));
    expect(new Set(words).size).toBe(words.length);
    for (const { offset, bytes } of REGISTERS) expect(offset % bytes).toBe(0);
  });

  it('CONTROL has bits where CONTROL_* say', () => {
    expect(lowest(CONTROL)).toMatchObject({
      IommuEn: 0,
      HtTunEn: 1,
      EventLogEn: 2,
      EventIntEn: 3,
      ComWaitIntEn: 4,
      InvTimeOut: 5,
      PassPW: 8,
      ResPassPW: 9,
      Coherent: 10,
      Isoc: 11,
      CmdBufEn: 12,
      PPRLogEn: 13,
      PprIntEn: 14,
      PPREn: 15,
      GTEn: 16,
      GAEn: 17,
      GAMEn: 25,
      GALogEn: 28,
      GAIntEn: 29,
      NumIntRemapMode: 43,
      EPHEn: 45,
      XTEn: 50,
      IntCapXTEn: 51,
      GCR3TRPMode: 58,
      IRTCacheDis: 59,
      SNPAVICEn: 61,
    });
  });

  it('STATUS has bits where MMIO_STATUS_* say', () => {
    expect(lowest(STATUS)).toMatchObject({
      EventOverflow: 0,
      EventLogInt: 1,
      ComWaitInt: 2,
      EventLogRun: 3,
      PprOverflow: 5,
      PprInt: 6,
      PprLogRun: 7,
    });
  });

  it('features are where FEATURE_* say', () => {
    expect(lowest(EFR)).toMatchObject({
      PreFSup: 0,
      PPRSup: 1,
      XTSup: 2,
      NXSup: 3,
      GTSup: 4,
      IASup: 6,
      GASup: 7,
      HESup: 8,
      PCSup: 9,
      GAMSup: 21,
      GIoSup: 48,
      HASup: 49,
      EPHSup: 50,
      HDSup: 52,
      SNPSup: 63,
    });
    expect(positions(EFR, ['HATS', 'GATS', 'GLXSup', 'PASMax'])).toEqual({
      HATS: [0, 11, 10],
      GATS: [0, 13, 12],
      GLXSup: [0, 15, 14],
      PASMax: [0, 36, 32],
    });
    expect(
      positions(EFR2, ['SNPIOSup', 'GCR3TRPMode', 'SNPAVICSup', 'NumIntRemapSup', 'HTRangeIgnore']),
    ).toEqual({
      SNPIOSup: [0, 1, 1],
      GCR3TRPMode: [0, 3, 3],
      SNPAVICSup: [0, 7, 5],
      NumIntRemapSup: [0, 9, 8],
      HTRangeIgnore: [0, 11, 11],
    });
  });

  it('rings are described as MMIO_CMD_SIZE_512 and MMIO_CMD_HEAD_MASK have it', () => {
    expect(RING_BASE.Len).toMatchObject({ lsb: 56, msb: 59 });
    expect(RING_POINTER.Ptr).toMatchObject({ lsb: 4, msb: 18 });
  });

  it('XT interrupts are those of init.c union intcapxt', () => {
    expect(lowest(XT_INTERRUPT)).toMatchObject({
      DestinationMode: 2,
      Destination23_0: 8,
      Vector: 32,
      Destination31_24: 56,
    });
  });
});

describe('entries', () => {
  it('of the device table are where DTE_* and DEV_ENTRY_* say', () => {
    expect(
      positions(DTE, [
        'V',
        'TV',
        'HAD',
        'Mode',
        'HostPTRoot',
        'PPR',
        'GIOV',
        'GV',
        'GLX',
        'GCR3_14_12',
        'IR',
        'IW',
        'DomainID',
        'GCR3_30_15',
        'I',
        'GCR3_51_31',
        'SysMgt',
        'GuestPagingMode',
        'IntTabRoot',
        'IntTabLen',
        'IntCtl',
        'IV',
      ]),
    ).toEqual({
      V: [0, 0, 0],
      TV: [0, 1, 1],
      HAD: [0, 8, 7],
      Mode: [0, 11, 9],
      HostPTRoot: [0, 51, 12],
      PPR: [0, 52, 52],
      GIOV: [0, 54, 54],
      GV: [0, 55, 55],
      GLX: [0, 57, 56],
      GCR3_14_12: [0, 60, 58],
      IR: [0, 61, 61],
      IW: [0, 62, 62],
      DomainID: [1, 15, 0],
      GCR3_30_15: [1, 31, 16],
      I: [1, 32, 32],
      GCR3_51_31: [1, 63, 43],
      SysMgt: [1, 41, 40],
      GuestPagingMode: [2, 55, 54],
      IntTabRoot: [2, 51, 6],
      IntTabLen: [2, 4, 1],
      IntCtl: [2, 61, 60],
      IV: [2, 0, 0],
    });
    expect(lowest(DTE)).toMatchObject({
      SA: 0x62,
      InitPass: 0xb8,
      EIntPass: 0xb9,
      NMIPass: 0xba,
      Lint0Pass: 0xbe,
      Lint1Pass: 0xbf,
    });
  });

  it('of GCR3 tables begin with GCR3_VALID', () => {
    expect(positions(GCR3_ENTRY, ['V', 'Address'])).toEqual({ V: [0, 0, 0], Address: [0, 51, 12] });
  });

  it('of interrupt remapping tables are union irte and struct irte_ga', () => {
    expect(lowest(IRTE)).toEqual({
      RemapEn: 0,
      SupIOPF: 1,
      IntType: 2,
      RqEoi: 5,
      DM: 6,
      GuestMode: 7,
      Destination: 8,
      Vector: 16,
    });
    expect(lowest(IRTE_GA)).toEqual({
      RemapEn: 0,
      SupIOPF: 1,
      IntType: 2,
      RqEoi: 5,
      DM: 6,
      GuestMode: 7,
      Destination23_0: 8,
      GATag: 32,
      Vector: 64,
      Destination31_24: 120,
    });
  });
});

describe('commands', () => {
  it('have the numbers of CMD_*', () => {
    expect(CMD).toMatchObject({
      COMPLETION_WAIT: 1,
      INVALIDATE_DEVTAB_ENTRY: 2,
      INVALIDATE_IOMMU_PAGES: 3,
      INVALIDATE_IOTLB_PAGES: 4,
      INVALIDATE_INTERRUPT_TABLE: 5,
      COMPLETE_PPR_REQUEST: 7,
      INVALIDATE_IOMMU_ALL: 8,
    });
  });

  it('are those that iommu.c builds', () => {
    expect(lowest(CMD_COMPLETION_WAIT)).toMatchObject({ s: 0, i: 1, StoreData: 64 });
    expect(lowest(CMD_INVALIDATE_PAGES)).toMatchObject({ PASID: 0, DomainID: 32, S: 64, PDE: 65, GN: 66 });
    expect(lowest(CMD_INVALIDATE_IOTLB)).toEqual({
      DeviceID: 0,
      PASID_15_8: 16,
      MaxPend: 24,
      QueueID: 32,
      PASID_7_0: 48,
      PASID_19_16: 56,
      Opcode: 60,
      S: 64,
      GN: 66,
      Address: 76,
    });
    expect(positions(CMD_COMPLETE_PPR, ['DeviceID', 'PASID', 'GN', 'PRGIndex', 'ResponseCode'])).toEqual({
      DeviceID: [0, 15, 0],
      PASID: [0, 51, 32],
      GN: [1, 2, 2],
      PRGIndex: [1, 40, 32],
      ResponseCode: [1, 47, 44],
    });
  });
});

describe('records', () => {
  it('have the numbers of EVENT_TYPE_*', () => {
    expect(EVENT).toMatchObject({
      ILLEGAL_DEV_TABLE_ENTRY: 1,
      IO_PAGE_FAULT: 2,
      DEV_TAB_HARDWARE_ERROR: 3,
      PAGE_TAB_HARDWARE_ERROR: 4,
      ILLEGAL_COMMAND_ERROR: 5,
      COMMAND_HARDWARE_ERROR: 6,
      IOTLB_INV_TIMEOUT: 7,
      INVALID_DEVICE_REQUEST: 8,
      INVALID_PPR_REQUEST: 9,
      RMP_PAGE_FAULT: 0xd,
      RMP_HARDWARE_ERROR: 0xe,
    });
    expect(positions(EVENT_COMMON, ['DeviceID', 'EventCode'])).toEqual({
      DeviceID: [0, 15, 0],
      EventCode: [0, 63, 60],
    });
  });

  it('have flags where EVENT_FLAG_* say, from bit 48 on', () => {
    const flag = (field: Field): number => 1 << (field.lsb - 48);
    expect(flag(IO_PAGE_FAULT_RECORD.RW)).toBe(0x020);
    expect(flag(IO_PAGE_FAULT_RECORD.I)).toBe(0x008);
    expect(flag(INVALID_PPR_RECORD.RX)).toBe(0x001);
    expect(flag(INVALID_PPR_RECORD.GN)).toBe(0x200);
    // EVENT_DOMID_MASK_LO and _HI: bits 15:0 of the second word, 19:16 of the first.
    expect(positions(IO_PAGE_FAULT_RECORD, ['DomainID', 'PASID_19_16'])).toEqual({
      DomainID: [0, 47, 32],
      PASID_19_16: [0, 19, 16],
    });
  });

  it('of page requests are those of PPR_*', () => {
    const flag = (field: Field): number => 1 << (field.lsb - 48);
    expect(['EXE', 'READ', 'WRITE', 'US', 'RZ', 'GN'].map((name) => flag(PPR_RECORD[name as 'EXE']))).toEqual(
      [0x002, 0x004, 0x020, 0x040, 0x080, 0x100],
    );
    expect(positions(PPR_RECORD, ['PASID_15_0', 'PRGIndex', 'Last', 'PASID_19_16', 'PPRCode'])).toEqual({
      PASID_15_0: [0, 31, 16],
      PRGIndex: [0, 40, 32],
      Last: [0, 41, 41],
      PASID_19_16: [0, 45, 42],
      PPRCode: [0, 63, 60],
    });
    expect(PAGE_SERVICE_REQUEST).toBe(1);
  });
});
