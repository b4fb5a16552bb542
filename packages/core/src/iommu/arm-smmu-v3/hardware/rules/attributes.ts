// §13: memory attributes, permissions as the STE overrides them. Attributes are numbers as pagetable/armv8-attributes.ts
// has them; attributesName() makes them readable.

import type { ConfigOverrides } from '../registers/config.ts';
import { attributesName } from '../../../../pagetable/armv8-attributes.ts';
import { STE_CONFIG } from '../../spec/ste.ts';
import { type CdFields, type SteFields, AT, Rig, SID, VA } from './rig.ts';
import type { Leaf } from './tables.ts';
import { same, topic } from '../../../testing/rules.ts';

const DATA = BigInt(AT.data);
/** Incoming attributes: Write-Back, Non-cacheable, Device-nGnRE, and Write-Back without allocation. */
const IN = { wb: 0x3ff, nc: 0x244, device: 0x204, quiet: 0x3cc } as const;

function out(rig: Rig, attributes?: number): string {
  const outcome = rig.dma(VA, attributes === undefined ? {} : { attributes });
  if (outcome.kind !== 'translated') throw new Error(outcome.kind);
  return attributesName(outcome.attributes);
}

/** Of a stream in bypass. */
function bypass(fields: SteFields, attributes?: number, config: ConfigOverrides = {}): string {
  const rig = new Rig({ config });
  rig.ste(SID, { Config: STE_CONFIG.BYPASS, SHCFG: 1, ...fields });
  return out(rig, attributes);
}

function stage1(leaf: Leaf, cd: CdFields = {}, attributes?: number): string {
  const rig = new Rig();
  rig.stage1({}, cd).map(VA, DATA, leaf);
  return out(rig, attributes);
}

function stage2(leaf: Leaf, ste: SteFields = {}, attributes?: number): string {
  const rig = new Rig();
  rig.stage2(ste).map(VA, DATA, leaf);
  return out(rig, attributes);
}

function nested(one: Leaf, two: Leaf, cd: CdFields = {}, ste: SteFields = {}): string {
  const rig = new Rig();
  const { first, second } = rig.nested(ste, cd);
  first.map(VA, VA, one);
  second.map(VA, DATA, two);
  return out(rig);
}

/** Whether a stage 1 leaf lets an access through, with the STE's overrides. */
function allowed(leaf: Leaf, ste: SteFields, access: object, config: ConfigOverrides = {}): boolean {
  const rig = new Rig({ config });
  rig.stage1(ste).map(VA, DATA, leaf);
  return rig.pa(VA, access) !== null;
}

export const ATTRIBUTES = topic('ATT', (rule) => {
  // --- bypass ---
  rule('§13.1.3', 'a transaction without attributes is Write-Back, Non-shareable', () => {
    same(bypass({}), 'Normal-iWB-oWB-NSH');
  });
  rule('§13.3', 'bypass with SHCFG == 0b01 and MTCFG == 0 keeps what came in', () => {
    same(
      [bypass({}, IN.device), bypass({}, IN.nc), bypass({}, IN.wb)],
      ['Device-nGnRE', 'Normal-iNC-oNC-OSH', 'Normal-iWB-oWB-ISH'],
    );
  });
  rule('§13.1.4', 'MTCFG == 1: MemAttr replaces the type', () => {
    same(
      [0, 1, 2, 3, 5, 15].map((MemAttr) => bypass({ MTCFG: 1, MemAttr, SHCFG: 3 }, IN.wb)),
      [
        'Device-nGnRnE',
        'Device-nGnRE',
        'Device-nGRE',
        'Device-GRE',
        'Normal-iNC-oNC-OSH',
        'Normal-iWB-oWB-ISH',
      ],
    );
  });
  rule('§13.1.4', 'SHCFG: 0b00 Non-shareable, 0b10 Outer, 0b11 Inner Shareable', () => {
    same(
      [0, 2, 3].map((SHCFG) => bypass({ SHCFG }, IN.wb)),
      ['Normal-iWB-oWB-NSH', 'Normal-iWB-oWB-OSH', 'Normal-iWB-oWB-ISH'],
    );
  });
  rule('§13.1.7', 'Device and Non-cacheable memory is Outer Shareable whatever SHCFG says', () => {
    same(
      [bypass({ SHCFG: 0 }, IN.device), bypass({ SHCFG: 3 }, IN.nc)],
      ['Device-nGnRE', 'Normal-iNC-oNC-OSH'],
    );
  });
  rule('§13.1.4', 'ALLOCCFG 0b1RWT replaces the allocation hints of cacheable memory', () => {
    same(
      [8, 0b1100, 0b1010].map((ALLOCCFG) => bypass({ ALLOCCFG }, IN.wb)),
      [
        'Normal-iWB/no-allocate-oWB/no-allocate-ISH',
        'Normal-iWB/read-allocate-oWB/read-allocate-ISH',
        'Normal-iWB/write-allocate-oWB/write-allocate-ISH',
      ],
    );
    same(bypass({ ALLOCCFG: 8 }, IN.nc), 'Normal-iNC-oNC-OSH');
  });
  rule('§6.3.2', 'IDR1.ATTR_TYPES_OVR == 0: MTCFG, MemAttr, ALLOCCFG and SHCFG do not count', () => {
    const config = { IDR1: { ATTR_TYPES_OVR: 0 } };
    same(bypass({ MTCFG: 1, MemAttr: 0, SHCFG: 0, ALLOCCFG: 8 }, IN.wb, config), 'Normal-iWB-oWB-ISH');
  });

  // --- stage 1 ---
  rule('§13.4.2', 'stage 1 replaces the incoming type by MAIR[AttrIndx]', () => {
    const cd = { MAIR0: 0x44_04_00_ff, MAIR1: 0xbb };
    same(
      [0, 1, 2, 3, 4].map((attrIndx) => stage1({ attrIndx }, cd)),
      ['Normal-iWB-oWB-ISH', 'Device-nGnRnE', 'Device-nGnRE', 'Normal-iNC-oNC-OSH', 'Normal-iWT-oWT-ISH'],
    );
  });
  rule('§13.4.2', "stage 1 replaces the incoming Shareability by the descriptor's", () => {
    same(
      [0, 2, 3].map((sh) => stage1({ sh })),
      ['Normal-iWB-oWB-NSH', 'Normal-iWB-oWB-OSH', 'Normal-iWB-oWB-ISH'],
    );
  });
  rule('§13.4.2', 'incoming Device does not make a Normal page Device', () => {
    same(stage1({}, {}, IN.device), 'Normal-iWB-oWB-ISH');
  });
  rule('§13.4.2', "incoming allocation hints combine with the page's", () => {
    same(stage1({}, {}, IN.quiet), 'Normal-iWB/no-allocate-oWB/no-allocate-ISH');
  });
  rule('§5.4', 'MAIR 0x00 to 0x0c are the Device types', () => {
    same(
      [0x00, 0x04, 0x08, 0x0c].map((MAIR0) => stage1({}, { MAIR0 })),
      ['Device-nGnRnE', 'Device-nGnRE', 'Device-nGRE', 'Device-GRE'],
    );
  });

  // --- stage 2 ---
  rule('§13.4.3', 'stage 2 combines with what came in: the stronger type wins', () => {
    same(
      [
        stage2({ memAttr: 15 }, {}, IN.nc),
        stage2({ memAttr: 5 }, {}, IN.wb),
        stage2({ memAttr: 1 }, {}, IN.wb),
      ],
      ['Normal-iNC-oNC-OSH', 'Normal-iNC-oNC-OSH', 'Device-nGnRE'],
    );
  });
  rule(
    '§13.1.5',
    'stage 2 combines with stage 1: Device before Non-cacheable before Write-Through before Write-Back',
    () => {
      const cd = { MAIR0: 0xff_bb_44_00 };
      const all = [0, 1, 2, 3].map((attrIndx) => nested({ attrIndx }, { memAttr: 15 }, cd));
      same(all, ['Device-nGnRnE', 'Normal-iNC-oNC-OSH', 'Normal-iWT-oWT-ISH', 'Normal-iWB-oWB-ISH']);
      same(nested({ attrIndx: 3 }, { memAttr: 10 }, cd), 'Normal-iWT-oWT-ISH');
    },
  );
  rule('§13.1.5', 'two Device types combine to the more restrictive one', () => {
    same(nested({}, { memAttr: 1 }, { MAIR0: 0x0c }), 'Device-nGnRE');
  });
  rule('§13.1.5', 'Shareability combines to the widest', () => {
    same(nested({ sh: 0 }, { sh: 3 }), 'Normal-iWB-oWB-ISH');
    same(nested({ sh: 2 }, { sh: 3 }), 'Normal-iWB-oWB-OSH');
  });
  rule('§13.1.6', 'S2FWB == 1: MemAttr 0b0110 makes Write-Back of all types', () => {
    // Stage 1 passes the effective Shareability on, Outer for these types, as DDI 0487 leaves to the implementation.
    const types = [0x44, 0x04, 0xbb].map((MAIR0) => nested({}, { memAttr: 6 }, { MAIR0 }, { S2FWB: 1 }));
    same(types, ['Normal-iWB-oWB-OSH', 'Normal-iWB-oWB-OSH', 'Normal-iWB-oWB-ISH']);
  });
  rule('§13.1.6', 'S2FWB == 1: MemAttr 0b0111 keeps what stage 1 says', () => {
    same(
      [0x44, 0x04, 0xff].map((MAIR0) => nested({}, { memAttr: 7 }, { MAIR0 }, { S2FWB: 1 })),
      ['Normal-iNC-oNC-OSH', 'Device-nGnRE', 'Normal-iWB-oWB-ISH'],
    );
  });
  rule('§13.1.6', 'S2FWB == 1: MemAttr 0b0101 makes Normal memory Non-cacheable', () => {
    same(nested({}, { memAttr: 5 }, {}, { S2FWB: 1 }), 'Normal-iNC-oNC-OSH');
  });
  rule('§6.3.4', 'IDR3.FWB == 0: S2FWB does not count', () => {
    const rig = new Rig({ config: { IDR3: { FWB: 0 } } });
    rig.stage2({ S2FWB: 1 }).map(VA, DATA, { memAttr: 5 });
    same(out(rig, IN.wb), 'Normal-iNC-oNC-OSH');
  });
  rule('§13.4', 'attributes are the same from the IOTLB as from a walk', () => {
    const rig = new Rig();
    const { first, second } = rig.nested({}, { MAIR0: 0xff });
    first.map(VA, VA, { sh: 2 });
    second.map(VA, DATA, { memAttr: 10 });
    same(
      [IN.wb, IN.quiet, IN.device].map((each) => out(rig, each)),
      [IN.wb, IN.quiet, IN.device].map((each) => {
        const fresh = new Rig();
        const both = fresh.nested({}, { MAIR0: 0xff });
        both.first.map(VA, VA, { sh: 2 });
        both.second.map(VA, DATA, { memAttr: 10 });
        return out(fresh, each);
      }),
    );
  });

  // --- permissions ---
  rule(
    '§13.1.4',
    'PRIVCFG: 0b10 makes all accesses unprivileged, 0b11 privileged, others keep what came in',
    () => {
      const run = (PRIVCFG: number, privileged: boolean): boolean =>
        allowed({ ap: 0 }, { PRIVCFG }, { privileged });
      same(
        [0, 1, 2, 3].map((each) => [run(each, false), run(each, true)]),
        [
          [false, true],
          [false, true],
          [false, false],
          [true, true],
        ],
      );
    },
  );
  rule(
    '§13.1.4',
    'INSTCFG: 0b10 makes all reads data, 0b11 instruction fetches, others keep what came in',
    () => {
      const run = (INSTCFG: number, instruction: boolean): boolean =>
        allowed({ ap: 3, uxn: 1 }, { INSTCFG }, { instruction });
      same(
        [0, 1, 2, 3].map((each) => [run(each, false), run(each, true)]),
        [
          [true, false],
          [true, false],
          [true, true],
          [false, false],
        ],
      );
    },
  );
  rule('§13.1.2', 'INSTCFG does not change writes: they are data', () => {
    same(allowed({ ap: 1, uxn: 1 }, { INSTCFG: 3 }, { write: true }), true);
  });
  rule('§6.3.2', 'IDR1.ATTR_PERMS_OVR == 0: PRIVCFG and INSTCFG do not count', () => {
    const config = { IDR1: { ATTR_PERMS_OVR: 0 } };
    same(allowed({ ap: 0 }, { PRIVCFG: 3 }, {}, config), false);
    same(allowed({ ap: 3, uxn: 1 }, { INSTCFG: 3 }, {}, config), true);
  });
});
