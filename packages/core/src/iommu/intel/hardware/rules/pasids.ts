// PASID directory and table: §9.5, §9.6 and the conditions of Table 30.

import { has, same, topic } from '../../../testing/rules.ts';
import { PGTT } from '../../spec/pasid.ts';
import { AT, DATA, RID, Rig, VA } from './rig.ts';

const HAW40 = { hostAddressWidth: 40 };
/** No second stage, and what depends on it. */
const NO_SECOND = { SSTS: 0, NEST: 0, SSADS: 0, SSIRWS: 0 };

export const PASIDS = topic('PASID', (rule) => {
  rule('§3.4.3', 'PASID[19:6] selects the directory entry, PASID[5:0] the table entry', () => {
    const rig = new Rig();
    const tables = rig.first({}, {}, 5);
    tables.map(VA, DATA);
    rig.directory({ SMPTBLPTR: AT.pasids }, 3);
    same(rig.pa(VA, { pasid: 3 * 64 + 5 }), AT.data);
    same(rig.code(VA, { pasid: 3 * 64 + 6 }), 'SPT.2');
    same(rig.code(VA, { pasid: 4 * 64 + 5 }), 'SPD.2');
  });
  rule('§7.1.3 SPD.1', 'a directory entry that cannot be read', () => {
    const rig = new Rig();
    rig.smContext();
    rig.memory.refuse(AT.directory, 4096);
    has(rig.fault(VA), { FR: 0x50 });
  });
  rule('§7.1.3 SPD.2', 'a directory entry that is not present', () => {
    const rig = new Rig();
    rig.smContext();
    has(rig.fault(VA), { FR: 0x51 });
  });
  rule('§7.1.3 SPD.3', 'reserved bits of a directory entry', () => {
    for (const [word, bits] of [
      [0, 1 << 2],
      [0, 1 << 11],
      [1, 0x100],
    ] as const) {
      const rig = new Rig({ config: HAW40 });
      rig.smContext();
      rig.directory();
      const words = rig.memory.words(AT.directory, 2);
      words[word]! |= bits;
      rig.memory.put(AT.directory, words);
      has(rig.fault(VA), { FR: 0x52 });
    }
  });
  rule('§9.5 FPD', 'FPD of a directory entry counts, present or not', () => {
    const rig = new Rig();
    rig.smContext();
    rig.directory({ P: 0, FPD: 1 });
    same([rig.code(VA), rig.faults()], ['SPD.2', []]);
    rig.directory({ FPD: 1 });
    same([rig.code(VA), rig.faults()], ['SPT.2', []]);
  });
  rule('§7.1.3 SPT.1', 'a table entry that cannot be read', () => {
    const rig = new Rig();
    rig.smContext();
    rig.directory();
    rig.memory.refuse(AT.pasids, 4096);
    has(rig.fault(VA), { FR: 0x58 });
  });
  rule('§7.1.3 SPT.2', 'a table entry that is not present', () => {
    const rig = new Rig();
    rig.smContext();
    rig.directory();
    has(rig.fault(VA), { FR: 0x59 });
  });
  rule('§9.6 FPD', 'FPD of a table entry counts, present or not', () => {
    const rig = new Rig();
    rig.first({ P: 0, FPD: 1 });
    same([rig.code(VA), rig.faults()], ['SPT.2', []]);
    rig.repasid({ P: 1 });
    same([rig.code(VA), rig.faults()], ['SFS.2', []]);
  });
  rule('§9.6', 'reserved bits of a table entry', () => {
    for (const [word, bits] of [
      [0, 1 << 5],
      [0, 1 << 10],
      [1, 0x100],
      [2, 1 << 16],
      [2, 1 << 27],
      [4, 1 << 1],
      [4, 1 << 8],
      [5, 0x100],
      [6, 1],
      [8, 8],
      [15, 1],
    ] as const) {
      const rig = new Rig({ config: HAW40 });
      rig.first().map(VA, DATA);
      const words = rig.memory.words(AT.pasids, 16);
      words[word]! |= bits;
      rig.memory.put(AT.pasids, words);
      same([word, bits, rig.fault(VA)?.['FR']], [word, bits, 0x5a]);
    }
  });
  rule('§9.6', 'bits 134:133, which were NXE and SMEP, are ignored', () => {
    const rig = new Rig();
    rig.first({ IGN: 3 }).map(VA, DATA, { bits: 1n << 63n });
    same(rig.pa(VA, { write: true }), AT.data);
  });
  rule('§9.6', 'memory types are reserved without MTS, host permission tables without HPTS', () => {
    for (const fields of [
      { PAT: 6 },
      { EMTE: 1 },
      { CD: 1 },
      { HPTSZ: 1 },
      { HPTPFD: 1 },
      { HPTDID: 1 },
      { HPTPTR: 0x1000 },
    ]) {
      const rig = new Rig();
      rig.first(fields);
      same([fields, rig.code(VA)], [fields, 'SPT.3']);
    }
  });
  rule('§9.6', 'a field of a PASID table entry is reserved without its feature', () => {
    for (const [fields, ECAP] of [
      [{ EAFE: 1 }, { EAFS: 0 }],
      [{ SRE: 1 }, { SRS: 0, RPRIVS: 0 }],
      [{ PGSNP: 1 }, { SC: 0 }],
      [{ PWSNP: 1 }, { SMPWCS: 0, EAFS: 0, SSADS: 0 }],
      [{ SSADE: 1 }, { SSADS: 0 }],
      [{ SSADE: 1 }, NO_SECOND],
      [{ SSPTPTR: 0x1000 }, NO_SECOND],
    ] as const) {
      const rig = new Rig({ config: { ECAP } });
      rig.first({ PWSNP: 0, ...fields });
      same([fields, rig.code(VA)], [fields, 'SPT.3']);
    }
  });
  rule('§9.6', 'without a first stage its fields are reserved', () => {
    const ECAP = { FSTS: 0, NEST: 0, EAFS: 0 };
    for (const fields of [{ FSPTPTR: 0x1000 }, { FSPM: 1 }, { WPE: 1 }]) {
      const rig = new Rig({ config: { ECAP } });
      rig.second(fields as unknown as Record<string, number>);
      same([fields, rig.code(VA)], [fields, 'SPT.3']);
    }
  });
  rule('§9.6 AW', 'AW is reserved where there is no second stage, from major version 6 on', () => {
    const CAP = { SAGAW: 0 };
    const rig = new Rig({ config: { VER: { MAX: 6 }, CAP, ECAP: NO_SECOND } });
    rig.first({ AW: 2 }).map(VA, DATA);
    same(rig.code(VA), 'SPT.3');
    const older = new Rig({ config: { ECAP: NO_SECOND } });
    older.first({ AW: 2 }).map(VA, DATA);
    same(older.pa(VA), AT.data);
  });
  rule('§9.6 DID', 'bits of the domain-id that are not implemented are reserved here too', () => {
    const rig = new Rig({ config: { CAP: { ND: 1 } } });
    rig.first({ DID: 0x40 });
    same(rig.code(VA), 'SPT.3');
  });
  rule('§7.1.3 SPT.4.2', 'PGTT 0, 5, 6 and 7 are reserved', () => {
    for (const pgtt of [0, 5, 6, 7]) {
      const rig = new Rig();
      rig.first({ PGTT: pgtt });
      has(rig.fault(VA), { FR: 0x5b });
    }
  });
  rule('§7.1.3 SPT.4.2', 'a translation type that is not advertised', () => {
    for (const [pgtt, ECAP] of [
      [PGTT.FIRST_STAGE, { FSTS: 0, NEST: 0, EAFS: 0 }],
      [PGTT.SECOND_STAGE, NO_SECOND],
      [PGTT.NESTED, { NEST: 0 }],
      [PGTT.PASS_THROUGH, { PT: 0 }],
    ] as const) {
      const rig = new Rig({ config: { ECAP } });
      rig.smContext();
      rig.directory();
      rig.pasid({ PGTT: pgtt, AW: 2 });
      same([pgtt, rig.code(VA)], [pgtt, 'SPT.4.2']);
    }
  });
  rule('§7.1.3 SPT.4.1', 'AW of a second-stage entry must be a width that SAGAW has', () => {
    for (const aw of [0, 3, 5]) {
      const rig = new Rig({ config: { CAP: { SAGAW: 0b110 } } });
      rig.second({ AW: aw });
      has(rig.fault(VA), { FR: 0x5b });
    }
  });
  rule('§9.6 AW', 'AW is ignored for first-stage and pass-through entries', () => {
    const rig = new Rig();
    rig.first({ AW: 7 }).map(VA, DATA);
    same(rig.pa(VA), AT.data);
    const passing = new Rig();
    passing.passThrough({ AW: 5 });
    same(passing.pa(VA), Number(VA));
  });
  rule('§7.1.3 SPT.4.3', 'FSPM names 4 or 5 levels; 5 need FS5LP', () => {
    for (const [fspm, FS5LP] of [
      [2, 1],
      [3, 1],
      [1, 0],
    ] as const) {
      const rig = new Rig({ config: { CAP: { FS5LP } } });
      rig.first({ FSPM: fspm });
      has(rig.fault(VA), { FR: 0x5b });
    }
  });
  rule('§7.1.3 SPT.4.4', 'nested, the first-stage root must lie in the guest address width', () => {
    const rig = new Rig();
    rig.nested({ AW: 1, FSPTPTR: 2 ** 39 });
    has(rig.fault(VA), { FR: 0x5b });
    const wide = new Rig({ config: { CAP: { MGAW: 45 } } });
    wide.nested({ FSPTPTR: 2 ** 45 });
    same(wide.code(VA) === 'SPT.4.4', false);
  });
  rule('§9.6', 'pass-through ignores both stages', () => {
    const rig = new Rig();
    rig.passThrough({ FSPTPTR: 0x5000, SSPTPTR: 0x6000, AW: 7, FSPM: 3, SSADE: 1 });
    same(rig.pa(VA + 8n, { pasid: null, write: true }), Number(VA) + 8);
  });
  rule('§7.1.3 SGN.4.2', 'scalable-mode pass-through addresses lie below the host address width', () => {
    const rig = new Rig({ config: HAW40 });
    rig.passThrough();
    has(rig.fault(1n << 40n), { FR: 0x83 });
    same(rig.pa((1n << 40n) - 4n), 2 ** 40 - 4);
  });
  rule('§7.1.3 SPT.6', 'supervisor requests need SRE', () => {
    const rig = new Rig();
    rig.first({}, {}, 1).map(VA, DATA);
    has(rig.fault(VA, { pasid: 1, privileged: true }), { FR: 0x5d, PRIV: 1 });
    same(rig.pa(VA, { pasid: 1 }), AT.data);
  });
  rule('§9.4 RID_PRIV', 'RID_PRIV makes requests-without-PASID supervisor requests', () => {
    const rig = new Rig();
    rig.first().map(VA, DATA, { user: false });
    same(rig.code(VA), 'SGN.2');
    rig.smContext({ RID_PRIV: 1 }, RID + 1);
    same(rig.code(VA, { requesterId: RID + 1 }), 'SPT.6');
    rig.repasid({ SRE: 1 });
    rig.smContext({ RID_PRIV: 1 }, RID + 2);
    same(rig.pa(VA, { requesterId: RID + 2 }), AT.data);
  });
  rule('§3.10', 'PGSNP, or SNP of a second-stage leaf, makes the access snoop', () => {
    const rig = new Rig();
    const tables = rig.second();
    tables.map(VA, DATA);
    tables.map(VA + 0x1000n, DATA, { bits: 0x800n });
    same(
      [rig.dma(VA), rig.dma(VA + 0x1000n)].map((outcome) => 'snoop' in outcome && outcome.snoop),
      [false, true],
    );
    const always = new Rig();
    always.first({ PGSNP: 1 }).map(VA, DATA);
    has(always.dma(VA), { snoop: true });
  });
  rule('§3.15', 'a request-without-PASID of a DWORD to FEEx_xxxxh is an interrupt and not remapped', () => {
    const rig = new Rig();
    same(rig.dma(0xfee0_0000n, { write: true, length: 4 }), { kind: 'interrupt', address: 0xfee0_0000 });
    same(rig.dma(0xfeef_fffcn, { write: true, length: 4 }), { kind: 'interrupt', address: 0xfeef_fffc });
    same(rig.faults(), []);
  });
  rule('§3.15', 'so too within a large page that is in the IOTLB, but for requests-with-PASID', () => {
    for (const [level, start, outside] of [
      [2, 0xfee0_0000n, 0xfef0_0000n],
      [3, 0xc000_0000n, 0xc000_0000n],
    ] as const) {
      const offset = Number(0xfee0_0000n - start);
      const interrupt = { kind: 'interrupt', address: 0xfee0_0000 };
      for (const [rig, pasid, seen] of [
        [new Rig(), null, interrupt],
        [new Rig(), 1, { kind: 'translated', pa: AT.data + offset }],
      ] as const) {
        rig.first({}, {}, pasid ?? 0).map(start, DATA, { level });
        const W = { pasid, write: true, length: 4 };
        for (let i = 0; i < 2; i++) has(rig.dma(outside, W), { kind: 'translated' });
        for (let i = 0; i < 2; i++) has(rig.dma(0xfee0_0000n, W), seen);
      }
    }
  });
  rule('§3.15', 'a zero-length read of the interrupt range bypasses remapping', () => {
    has(new Rig().dma(0xfee0_1000n, { length: 0 }), { kind: 'interrupt' });
  });
  rule('§5.1.4.1', 'other requests-without-PASID to the interrupt range have fault reason 29h', () => {
    for (const transaction of [{ length: 4 }, { write: true, length: 8 }, { atomic: true }]) {
      has(new Rig().fault(0xfee0_0000n, transaction), { FR: 0x29, SID: RID });
    }
  });
  rule('§3.15', 'a request-with-PASID to the interrupt range is translated as any other', () => {
    const rig = new Rig();
    rig.first({}, {}, 1).map(0xfee0_0000n, DATA);
    same(rig.pa(0xfee0_0000n, { pasid: 1, write: true }), AT.data);
  });
  rule('§7.1.3 SGN.8', 'a translation that leads into the interrupt range is blocked', () => {
    const rig = new Rig();
    rig.first().map(VA, 0xfee0_0000n);
    has(rig.fault(VA, { write: true }), { FR: 0x87 });
    const passing = new Rig();
    passing.passThrough();
    passing.pasid({ PGTT: PGTT.PASS_THROUGH }, 1);
    same(passing.code(0xfee0_0000n, { pasid: 1, write: true }), 'SGN.8.1');
  });
  rule('§7.1.3 LGN.4', 'in legacy mode too', () => {
    const rig = new Rig({ mode: 'legacy' });
    rig.second().map(VA, 0xfee0_0000n);
    has(rig.fault(VA, { write: true }), { FR: 0x0e });
  });
});
