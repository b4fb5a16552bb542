// Root and context tables: §9.1 to §9.4 and the conditions of Table 30.

import { has, same, topic } from '../../../testing/rules.ts';
import { TT } from '../../spec/context.ts';
import { AT, DATA, DID, RID, Rig, VA, descriptor } from './rig.ts';

const legacy = (config = {}): Rig => new Rig({ mode: 'legacy', config });
const HAW40 = { hostAddressWidth: 40 };

export const CONTEXTS = topic('CTX', (rule) => {
  // --- legacy mode ---
  rule('§3.4.2', 'the bus number selects the root entry, device and function the context entry', () => {
    const rig = legacy();
    rig.second().map(VA, DATA);
    same(rig.pa(VA), AT.data);
    same(rig.code(VA, { requesterId: 0x120 }), 'LRT.2');
    same(rig.code(VA, { requesterId: RID + 1 }), 'LCT.2');
  });
  rule('§7.1.3 LRT.1', 'a root entry that cannot be read', () => {
    const rig = legacy();
    rig.memory.refuse(AT.root, 4096);
    has(rig.fault(VA), { FR: 0x08 });
  });
  rule('§7.1.3 LRT.2', 'a root entry that is not present', () => {
    const rig = legacy();
    rig.roots({ P: 0 });
    has(rig.fault(VA), { FR: 0x01 });
  });
  rule('§9.1', 'reserved bits of a present root entry, and of its pointer above HAW', () => {
    const rig = legacy(HAW40);
    rig.memory.put(AT.root, [AT.context | 1 | 2, 0, 0, 0]);
    has(rig.fault(VA), { FR: 0x0a });
    rig.memory.put(AT.root, [AT.context | 1, 0, 1, 0]);
    has(rig.fault(VA), { FR: 0x0a });
    rig.memory.put(AT.root, [AT.context | 1, 0x100, 0, 0]);
    has(rig.fault(VA), { FR: 0x0a });
  });
  rule('§9.1', 'all fields of a root entry that is not present are ignored', () => {
    const rig = legacy();
    rig.memory.put(AT.root, [0xffff_fffe, -1, -1, -1]);
    same(rig.code(VA), 'LRT.2');
  });
  rule('§7.1.3 LCT.1', 'a context entry that cannot be read', () => {
    const rig = legacy();
    rig.memory.refuse(AT.context, 4096);
    has(rig.fault(VA), { FR: 0x09 });
  });
  rule('§7.1.3 LCT.2', 'a context entry that is not present', () => {
    const rig = legacy();
    rig.context({ P: 0 });
    has(rig.fault(VA), { FR: 0x02 });
  });
  rule('§9.3', 'reserved bits of a context entry', () => {
    for (const [word, bits] of [
      [0, 1 << 4],
      [0, 1 << 11],
      [1, 0x100],
      [2, 1 << 7],
      [2, 1 << 24],
      [3, 1],
    ] as const) {
      const rig = legacy(HAW40);
      rig.second().map(VA, DATA);
      const at = AT.context + RID * 16;
      const words = rig.memory.words(at, 4);
      words[word]! |= bits;
      rig.memory.put(at, words);
      same([word, bits, rig.fault(VA)?.['FR']], [word, bits, 0x0b]);
    }
  });
  rule('§9.3', 'bits 70:67 of a context entry are ignored', () => {
    const rig = legacy();
    rig.second({ IGN: 15 }).map(VA, DATA);
    same(rig.pa(VA), AT.data);
  });
  rule('§9.3 DID', 'bits of the domain-id that are not implemented are reserved', () => {
    const rig = legacy({ CAP: { ND: 2 } });
    rig.second({ DID: 0x100 }).map(VA, DATA);
    same(rig.code(VA), 'LCT.3');
    rig.second({ DID: 0xff }).map(VA, DATA);
    same(rig.pa(VA), AT.data);
  });
  rule('§7.1.3 LCT.4.1', 'AW must be a width that SAGAW has', () => {
    for (const AW of [0, 3, 4, 7]) {
      const rig = legacy({ CAP: { SAGAW: 0b110 } });
      rig.second({ AW }).map(VA, DATA);
      has(rig.fault(VA), { FR: 0x03 });
    }
  });
  rule('§9.3 AW', 'the width selects 3, 4 or 5 levels', () => {
    for (const levels of [3, 4, 5] as const) {
      const rig = legacy();
      rig.second({}, { levels }).map(VA, DATA);
      same([levels, rig.pa(VA)], [levels, AT.data]);
    }
  });
  rule(
    '§7.1.3 LCT.4.2',
    'TT 11b, pass-through without PT and Device-TLBs without DT are not supported',
    () => {
      const noDt = { DT: 0, PRS: 0, SMS: 0, NWFS: 0, DIT: 0, PDS: 0, PTRS: 0 };
      for (const [tt, ECAP] of [
        [TT.RESERVED, {}],
        [TT.PASS_THROUGH, { PT: 0 }],
        [TT.DEVICE_TLB, noDt],
      ] as const) {
        const rig = legacy({ ECAP });
        rig.second({ TT: tt }).map(VA, DATA);
        same([tt, rig.code(VA)], [tt, 'LCT.4.2']);
      }
    },
  );
  rule('§7.1.3 LCT.4.3', 'a second-stage root that cannot be read is the context entry’s fault', () => {
    const rig = legacy();
    const tables = rig.second();
    rig.memory.refuse(tables.root, 4096);
    has(rig.fault(VA), { FR: 0x03 });
  });
  rule('§3.9', 'pass-through gives the address back; SSPTPTR is ignored', () => {
    const rig = legacy(HAW40);
    rig.passThrough({ SSPTPTR: 2 ** 45 });
    same(rig.pa(VA + 0x123n), Number(VA) + 0x123);
  });
  rule('§7.1.3 LGN.1.3', 'pass-through addresses lie below the host address width', () => {
    const rig = legacy(HAW40);
    rig.passThrough();
    same(rig.pa((1n << 40n) - 4n), 2 ** 40 - 4);
    has(rig.fault(1n << 40n), { FR: 0x04, FI: 0x1000_0000 });
  });
  rule(
    '§9.3 FPD',
    'FPD of a context entry keeps qualified faults from being recorded, present or not',
    () => {
      const rig = legacy();
      rig.second({ FPD: 1 });
      same([rig.code(VA), rig.faults()], ['LGN.3', []]);
      rig.context({ P: 0, FPD: 1 });
      rig.run(descriptor.cc());
      same([rig.code(VA), rig.faults()], ['LCT.2', []]);
    },
  );
  rule('§7.1.1', 'a fault that is not qualified is recorded whatever FPD says', () => {
    const rig = legacy();
    rig.context({ FPD: 1 });
    rig.roots({ P: 0 });
    same(rig.faults().length === 0 && rig.fault(VA)?.['FR'] === 0x01, true);
  });
  // --- scalable mode ---
  rule('§3.4.3', 'devices 16 to 31 have the upper half of the root entry and a table of their own', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.smContext({}, 0x80 + RID);
    same(rig.pa(VA, { requesterId: 0x80 + RID }), Number(VA));
    rig.roots({ UP: 0 });
    same(rig.code(VA, { requesterId: 0x80 + RID + 1 }), 'SRT.2');
    same(rig.code(VA, { requesterId: RID + 1 }), 'SCT.2');
  });
  rule('§7.1.3 SRT.1', 'a scalable-mode root entry that cannot be read', () => {
    const rig = new Rig();
    rig.memory.refuse(AT.root, 4096);
    has(rig.fault(VA), { FR: 0x38 });
  });
  rule('§7.1.3 SRT.2', 'a half of the root entry that is not present', () => {
    const rig = new Rig();
    rig.roots({ LP: 0 });
    has(rig.fault(VA), { FR: 0x39 });
  });
  rule('§7.1.3 SRT.3', 'reserved bits count in the half that the request uses', () => {
    const rig = new Rig({ config: HAW40 });
    rig.passThrough();
    rig.memory.put(AT.root, [AT.context | 1 | 2, 0, AT.upper | 1, 0]);
    has(rig.fault(VA), { FR: 0x3a });
    rig.memory.put(AT.root, [AT.context | 1, 0x100, AT.upper | 1, 0]);
    has(rig.fault(VA), { FR: 0x3a });
    rig.memory.put(AT.root, [AT.context | 1, 0, AT.upper | 1 | 4, 0x100]);
    same(rig.pa(VA), Number(VA));
  });
  rule('§7.1.3 SCT.1', 'a scalable-mode context entry that cannot be read', () => {
    const rig = new Rig();
    rig.memory.refuse(AT.context, 4096);
    has(rig.fault(VA), { FR: 0x40 });
  });
  rule('§7.1.3 SCT.2', 'a scalable-mode context entry that is not present', () => {
    const rig = new Rig();
    rig.smContext({ P: 0 });
    has(rig.fault(VA), { FR: 0x41 });
  });
  rule('§9.4', 'reserved bits of a scalable-mode context entry', () => {
    for (const [word, bits] of [
      [0, 1 << 7],
      [0, 1 << 8],
      [1, 0x100],
      [2, 1 << 21],
      [3, 1],
      [4, 1],
      [7, 0x8000_0000],
    ] as const) {
      const rig = new Rig({ config: HAW40 });
      rig.passThrough();
      const at = AT.context + RID * 32;
      const words = rig.memory.words(at, 8);
      words[word]! |= bits;
      rig.memory.put(at, words);
      same([word, bits, rig.fault(VA)?.['FR']], [word, bits, 0x42]);
    }
  });
  rule('§9.4', 'a field of a context entry is reserved without its feature', () => {
    const noDt = { DT: 0, PRS: 0, SMS: 0, NWFS: 0, DIT: 0, PDS: 0, PTRS: 0 };
    for (const [fields, ECAP] of [
      [{ DTE: 1, PRE: 0 }, noDt],
      [
        { DTE: 0, PRE: 0, PASIDE: 1 },
        { PASID: 0, PTRS: 0 },
      ],
      [{ PRE: 1 }, { PRS: 0, SMS: 0 }],
      [{ EPTR: 1 }, { PTRS: 0 }],
      [{ RID_PASID: 1 }, { RPS: 0 }],
      [{ RID_PRIV: 1 }, { RPRIVS: 0 }],
      [{ HPTE: 1 }, {}],
    ] as const) {
      const rig = new Rig({ config: { ECAP } });
      rig.passThrough();
      rig.smContext({ PRE: 0, ...fields });
      same([fields, rig.code(VA)], [fields, 'SCT.3']);
    }
  });
  rule('§7.1.3 SCT.4.1', 'page requests without a Device-TLB are an inconsistent entry', () => {
    const rig = new Rig();
    rig.smContext({ DTE: 0, PRE: 1 });
    has(rig.fault(VA), { FR: 0x43 });
  });
  rule('§7.1.3 SCT.4.2', 'RID_PASID must lie in the PASID directory', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.smContext({ PDTS: 0, RID_PASID: 0x2000 });
    has(rig.fault(VA), { FR: 0x43 });
  });
  rule('§7.1.3 SCT.4.3', 'EPTR without PASIDE concerns requests-without-PASID', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.smContext({ EPTR: 1, PASIDE: 0 });
    has(rig.fault(VA), { FR: 0x43 });
    same(rig.code(VA, { pasid: 1 }), 'SCT.6');
  });
  rule('§7.1.3 SCT.6', 'requests-with-PASID need PASIDE', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.smContext({ PASIDE: 0 });
    has(rig.fault(VA, { pasid: 1 }), { FR: 0x45, PP: 1, PV: 1 });
    same(rig.pa(VA), Number(VA));
  });
  rule('§7.1.3 SCT.7', 'the PASID must lie in the directory that PDTS tells the size of', () => {
    const rig = new Rig();
    rig.smContext({ PDTS: 0 });
    has(rig.fault(VA, { pasid: 0x2000 }), { FR: 0x46 });
    rig.smContext({ PDTS: 1 }, RID + 1);
    same(rig.code(VA, { pasid: 0x2000, requesterId: RID + 1 }), 'SPD.2');
  });
  rule('§7.1.3 SCT.9', 'the PASID of a request must not be RID_PASID', () => {
    const rig = new Rig();
    rig.smContext({ RID_PASID: 5 });
    has(rig.fault(VA, { pasid: 5 }), { FR: 0x48 });
  });
  rule('§7.1.3 SGN.10', 'the PASID must fit the size that PSS reports', () => {
    const rig = new Rig({ config: { ECAP: { PSS: 7 } } });
    rig.smContext({ PDTS: 7 });
    has(rig.fault(VA, { pasid: 0x100 }), { FR: 0x89, PV: 0x100 });
    same(rig.code(VA, { pasid: 0xff }), 'SPD.2');
  });
  rule('§9.4 RID_PASID', 'requests-without-PASID use the entry that RID_PASID names', () => {
    const rig = new Rig();
    const tables = rig.first({}, {}, 9);
    rig.smContext({ RID_PASID: 9 });
    tables.map(VA, DATA);
    same(rig.pa(VA), AT.data);
  });
  rule('§9.4 FPD', 'FPD of a scalable-mode context entry covers what lies below it', () => {
    const rig = new Rig();
    rig.first();
    rig.smContext({ FPD: 1 });
    same([rig.code(VA), rig.faults()], ['SFS.2', []]);
    rig.directory({ P: 0 });
    rig.smContext({ FPD: 1 }, RID + 1);
    same([rig.code(VA, { requesterId: RID + 1 }), rig.faults()], ['SPD.2', []]);
  });
  rule('§9.4 FPD', 'FPD counts in an entry that is not present', () => {
    const rig = new Rig();
    rig.smContext({ P: 0, FPD: 1 });
    same([rig.code(VA), rig.faults()], ['SCT.2', []]);
  });
  rule('§6.2.1', 'in legacy mode entries of one domain-id may serve several functions', () => {
    const rig = legacy();
    const tables = rig.second();
    rig.context({ SSPTPTR: tables.root, DID }, RID + 1);
    tables.map(VA, DATA);
    same([rig.pa(VA), rig.pa(VA, { requesterId: RID + 1 })], [AT.data, AT.data]);
  });
});
