import { describe, expect, it } from 'vitest';
import {
  DEFAULT_INPUT,
  DEVICE,
  NORMAL_NC,
  NORMAL_WB,
  SH,
  applyStage1,
  applyStage2,
  applyStage2Fwb,
  attributes,
  attributesName,
  combine,
  decodeMair,
  decodeMemAttr,
  override,
  stage2IsDevice,
} from './armv8-attributes.ts';

const WT = 0xbb;
const wb = (sh: number) => attributes(NORMAL_WB, sh);

describe('memory attributes', () => {
  it('are Outer Shareable where they are Device or Non-cacheable', () => {
    expect(attributes(NORMAL_NC, SH.NON) >>> 8).toBe(SH.OUTER);
    expect(attributes(DEVICE.nGnRE, SH.INNER) >>> 8).toBe(SH.OUTER);
    expect(attributes(NORMAL_WB, 1) >>> 8).toBe(SH.NON);
  });

  it('give the reserved bytes of MAIR the meaning that the SMMU has for them', () => {
    expect(decodeMair(0x03)).toBe(DEVICE.nGnRnE);
    expect(decodeMair(0x07)).toBe(DEVICE.nGnRE);
    expect(decodeMair(0x0f)).toBe(DEVICE.GRE);
    expect(decodeMair(0xf0)).toBe(0xf3);
    expect(decodeMair(0xff)).toBe(NORMAL_WB);
  });

  it('decode the stage 2 MemAttr, reserved values as Device-nGnRnE', () => {
    expect(decodeMemAttr(0b1111)).toBe(NORMAL_WB);
    expect(decodeMemAttr(0b0101)).toBe(NORMAL_NC);
    expect(decodeMemAttr(0b1010)).toBe(WT);
    expect(decodeMemAttr(0b0111)).toBe(0x4f);
    for (const reserved of [0b0100, 0b1000, 0b1100]) expect(decodeMemAttr(reserved)).toBe(DEVICE.nGnRnE);
    expect([0, 1, 2, 3].map(decodeMemAttr)).toEqual([0, 4, 8, 12]);
  });

  it('combine to the stronger of both stages', () => {
    expect(combine(wb(SH.INNER), attributes(DEVICE.nGnRE, 0))).toBe(attributes(DEVICE.nGnRE, 0));
    expect(combine(attributes(DEVICE.nGnRE, 0), attributes(DEVICE.nGnRnE, 0))).toBe(attributes(0, 0));
    expect(combine(wb(SH.INNER), attributes(WT, SH.NON))).toBe(attributes(WT, SH.INNER));
    expect(combine(wb(SH.INNER), wb(SH.OUTER))).toBe(wb(SH.OUTER));
    expect(combine(wb(SH.INNER), attributes(NORMAL_NC, 0))).toBe(attributes(NORMAL_NC, 0));
    // The examples of IHI 0070G.b §13.1.5.1: iWB/RAWAnTR-oNC + iWT/RAWAnTR-oWT = iWT/RAWAnTR-oNC.
    expect(combine(attributes(0x4f, SH.INNER), attributes(WT, SH.OUTER))).toBe(attributes(0x4b, SH.OUTER));
  });

  it('pull allocation hints down, and transient wins', () => {
    const readOnly = attributes(0xee, SH.INNER);
    expect(combine(wb(SH.INNER), readOnly)).toBe(readOnly);
    expect(combine(attributes(0x77, SH.INNER), wb(SH.INNER)) & 0xff).toBe(0x77);
    // Transient without any allocation does not exist.
    expect(combine(attributes(0x55, 0), attributes(0xee, 0)) & 0xff).toBe(0xcc);
  });

  it('let stage 2 force Write-Back, pass stage 1 through or make it Non-cacheable with FWB', () => {
    const nc = attributes(NORMAL_NC, 0);
    const device = attributes(DEVICE.nGRE, 0);
    expect(applyStage2Fwb(nc, 0b0110, SH.INNER) & 0xff).toBe(NORMAL_WB);
    expect(applyStage2Fwb(device, 0b0110, SH.INNER) & 0xff).toBe(NORMAL_WB);
    expect(applyStage2Fwb(attributes(0xaa, 0), 0b0110, 0) & 0xff).toBe(0xee);
    expect(applyStage2Fwb(attributes(WT, SH.NON), 0b0111, SH.INNER)).toBe(attributes(WT, SH.INNER));
    expect(applyStage2Fwb(device, 0b0111, 0)).toBe(device);
    expect(applyStage2Fwb(wb(SH.INNER), 0b0101, 0)).toBe(nc);
    expect(applyStage2Fwb(device, 0b0101, 0)).toBe(device);
    expect(applyStage2Fwb(wb(SH.INNER), 0b0001, 0)).toBe(attributes(DEVICE.nGnRE, 0));
    expect(applyStage2Fwb(device, 0b0000, 0)).toBe(attributes(DEVICE.nGnRnE, 0));
  });

  it('without FWB combine with what the descriptor says', () => {
    expect(applyStage2(wb(SH.INNER), 0b1111, SH.INNER)).toBe(wb(SH.INNER));
    expect(applyStage2(wb(SH.INNER), 0b0001, SH.INNER)).toBe(attributes(DEVICE.nGnRE, 0));
    expect(stage2IsDevice(0b0001, false)).toBe(true);
    expect(stage2IsDevice(0b0100, true)).toBe(false);
    expect(stage2IsDevice(0b1011, true)).toBe(true);
  });

  it('are those of stage 1, but for the hints that came in with a cacheable transaction', () => {
    expect(applyStage1(DEFAULT_INPUT, wb(SH.INNER))).toBe(wb(SH.INNER));
    expect(applyStage1(attributes(0xee, SH.OUTER), wb(SH.INNER))).toBe(attributes(0xee, SH.INNER));
    expect(applyStage1(attributes(NORMAL_NC, 0), wb(SH.INNER))).toBe(wb(SH.INNER));
    expect(applyStage1(attributes(0xee, 0), attributes(DEVICE.nGnRE, 0))).toBe(attributes(DEVICE.nGnRE, 0));
  });

  it('can be overridden, and stay consistent', () => {
    const keep = { mtcfg: false, memAttr: 0, alloccfg: 0, shcfg: 1 };
    expect(override(DEFAULT_INPUT, keep)).toBe(DEFAULT_INPUT);
    expect(override(DEFAULT_INPUT, { ...keep, shcfg: 3 })).toBe(wb(SH.INNER));
    expect(override(DEFAULT_INPUT, { ...keep, mtcfg: true, memAttr: 1, shcfg: 3 })).toBe(
      attributes(DEVICE.nGnRE, 0),
    );
    // A cacheable type in place of Device allocates on read and write.
    expect(override(attributes(DEVICE.nGnRE, 0), { ...keep, mtcfg: true, memAttr: 15, shcfg: 0 })).toBe(
      wb(0),
    );
    expect(override(DEFAULT_INPUT, { ...keep, alloccfg: 0b1100 })).toBe(attributes(0xee, 0));
    expect(override(DEFAULT_INPUT, { ...keep, alloccfg: 0b1001 })).toBe(attributes(0xcc, 0));
    expect(override(attributes(NORMAL_NC, 0), { ...keep, alloccfg: 0b1000 })).toBe(attributes(NORMAL_NC, 0));
  });

  it('print', () => {
    expect(attributesName(wb(SH.INNER))).toBe('Normal-iWB-oWB-ISH');
    expect(attributesName(attributes(NORMAL_NC, 0))).toBe('Normal-iNC-oNC-OSH');
    expect(attributesName(attributes(DEVICE.nGRE, 0))).toBe('Device-nGRE');
    expect(attributesName(attributes(0x6e, 0))).toBe(
      'Normal-iWB/read-allocate-oWB/read-allocate/transient-NSH',
    );
  });
});
