// Chapter 6: what caches keep, and what empties them. A structure in memory is changed behind the hardware's back; whether
// it still answers as before tells what its caches hold.

import { has, same, topic } from '../../../testing/rules.ts';
import type { ConfigOverrides } from '../registers/config.ts';
import { AT, DATA, DID, RID, Rig, VA, descriptor } from './rig.ts';

const { cc, pc, iotlb, pIotlb } = descriptor;
const G1 = 1n << 30n;
const PAGE = 0x1000n;
const W = { write: true };
const CM = { config: { CAP: { CM: 1 } } };

/** A second-stage page that is cached, and gone from the tables. */
function second(config: ConfigOverrides = {}, mode: 'legacy' | 'scalable' = 'scalable'): Rig {
  const rig = new Rig({ config, mode });
  const place = rig.second().map(VA, DATA);
  rig.pa(VA);
  rig.memory.put64(place, 0n);
  return rig;
}

/** A first-stage page of PASID 1 that is cached, and gone from the tables. */
function first(): Rig {
  const rig = new Rig();
  const place = rig.first({}, {}, 1).map(VA, DATA);
  rig.pa(VA, P1);
  rig.memory.put64(place, 0n);
  return rig;
}
const P1 = { pasid: 1 };

/** A nested page that is cached; `one` and `two` are its last entries. */
function nested(): { rig: Rig; one: number; two: number } {
  const rig = new Rig();
  const tables = rig.nested();
  const one = tables.first.map(VA, G1);
  const two = tables.second.map(G1, DATA);
  rig.pa(VA);
  return { rig, one, two };
}

const kept = (rig: Rig, transaction = {}): boolean => rig.pa(VA, transaction) === AT.data;

export const CACHES = topic('CACHE', (rule) => {
  // --- context-cache ---
  rule('§6.2.2', 'a context entry that was used stays until its cache is invalidated', () => {
    const rig = new Rig({ mode: 'legacy' });
    rig.passThrough();
    rig.pa(VA);
    rig.context({ P: 0 });
    same(rig.pa(VA), Number(VA));
    rig.run(cc());
    same(rig.code(VA), 'LCT.2');
  });
  rule('§6.5.2.1', 'domain-selective context invalidation takes entries of the domain-id', () => {
    const rig = new Rig({ mode: 'legacy' });
    rig.passThrough();
    rig.pa(VA);
    rig.context({ P: 0 });
    rig.run(cc({ G: 2, DID: DID + 1 }));
    same(rig.pa(VA), Number(VA));
    rig.run(cc({ G: 2, DID }));
    same(rig.code(VA), 'LCT.2');
  });
  rule('§6.5.2.1', 'device-selective context invalidation takes entries of source-id and domain-id', () => {
    const rig = new Rig({ mode: 'legacy' });
    rig.passThrough();
    rig.pa(VA);
    rig.context({ P: 0 });
    rig.run(cc({ G: 3, DID, SID: RID + 8 }), cc({ G: 3, DID: DID + 1, SID: RID }));
    same(rig.pa(VA), Number(VA));
    rig.run(cc({ G: 3, DID, SID: RID }));
    same(rig.code(VA), 'LCT.2');
  });
  rule('§6.5.2.1 Table 21', 'the function mask widens a device-selective invalidation', () => {
    for (const [mask, gone] of [
      [0, [0]],
      [1, [0, 4]],
      [2, [0, 2, 4, 6]],
      [3, [0, 1, 2, 3, 4, 5, 6, 7]],
    ] as const) {
      const rig = new Rig();
      rig.passThrough();
      for (let function_ = 0; function_ < 8; function_++) {
        rig.smContext({}, RID + function_);
        rig.pa(VA, { requesterId: RID + function_ });
        rig.smContext({ P: 0 }, RID + function_);
      }
      rig.run(cc({ G: 3, SID: RID, FM: mask }));
      const answers = Array.from({ length: 8 }, (_, i) => i).filter(
        (i) => rig.pa(VA, { requesterId: RID + i }) === null,
      );
      same([mask, answers], [mask, gone]);
    }
  });
  rule('§6.2.1', 'scalable-mode context entries have no domain-id: domain-selective takes all', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.pa(VA);
    rig.smContext({ P: 0 });
    rig.run(cc({ G: 2, DID: 0x1234 }));
    same(rig.code(VA), 'SCT.2');
  });
  rule('§6.5.2.1', 'in scalable mode device-selective invalidation ignores the domain-id', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.pa(VA);
    rig.smContext({ P: 0 });
    rig.run(cc({ G: 3, DID: 0x1234, SID: RID }));
    same(rig.code(VA), 'SCT.2');
  });
  rule('§6.2.2', 'entries that fault are not cached without Caching Mode', () => {
    const rig = new Rig();
    same([rig.code(VA), rig.iommu.cachedEntries.contexts], ['SCT.2', 0]);
    rig.passThrough();
    same(rig.pa(VA), Number(VA));
  });
  rule('§6.2.2 CM', 'with Caching Mode absent context entries are cached under domain-id 0', () => {
    const rig = new Rig({ mode: 'legacy', ...CM });
    same(rig.code(VA), 'LCT.2');
    rig.passThrough();
    same(rig.code(VA), 'LCT.2');
    rig.run(cc({ G: 3, DID, SID: RID }));
    same(rig.code(VA), 'LCT.2');
    rig.run(cc({ G: 3, DID: 0, SID: RID }));
    same(rig.pa(VA), Number(VA));
  });
  // --- PASID-cache ---
  rule('§6.2.3', 'a PASID table entry stays until its cache is invalidated', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.pa(VA);
    rig.pasid({ P: 0 });
    rig.run(cc());
    same(rig.pa(VA), Number(VA));
    rig.run(pc());
    same(rig.code(VA), 'SPT.2');
  });
  rule('§6.5.2.2', 'domain-selective PASID-cache invalidation takes entries of the domain-id', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.pa(VA);
    rig.pasid({ P: 0 });
    rig.run(pc({ G: 0, DID: DID + 1 }));
    same(rig.pa(VA), Number(VA));
    rig.run(pc({ G: 0, DID }));
    same(rig.code(VA), 'SPT.2');
  });
  rule('§6.5.2.2', 'PASID-selective PASID-cache invalidation takes entries of PASID and domain-id', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.pasid({ PGTT: 4 }, 3);
    rig.pa(VA, { pasid: 3 });
    rig.pasid({ P: 0 }, 3);
    rig.run(pc({ G: 1, DID, PASID: 4 }), pc({ G: 1, DID: DID + 1, PASID: 3 }));
    same(rig.pa(VA, { pasid: 3 }), Number(VA));
    rig.run(pc({ G: 1, DID, PASID: 3 }));
    same(rig.code(VA, { pasid: 3 }), 'SPT.2');
  });
  rule('§6.2.3', 'the PASID-cache keeps one PASID of two functions apart', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.pa(VA);
    rig.smContext({}, RID + 1);
    rig.pasid({ P: 0 });
    same([rig.pa(VA), rig.code(VA, { requesterId: RID + 1 })], [Number(VA), 'SPT.2']);
  });
  rule('§6.2.1', 'requests-without-PASID use the PASID-cache entry of RID_PASID', () => {
    const rig = new Rig();
    rig.passThrough();
    rig.smContext({ RID_PASID: 2 });
    rig.pasid({ PGTT: 4 }, 2);
    rig.pa(VA);
    rig.pasid({ P: 0 }, 2);
    rig.run(pc({ G: 1, DID, PASID: 0 }));
    same(rig.pa(VA), Number(VA));
    rig.run(pc({ G: 1, DID, PASID: 2 }));
    same(rig.code(VA), 'SPT.2');
  });
  rule('§6.2.3 CM', 'with Caching Mode absent PASID table entries are cached under domain-id 0', () => {
    const rig = new Rig(CM);
    rig.smContext();
    rig.directory();
    same(rig.code(VA), 'SPT.2');
    rig.passThrough();
    rig.run(pc({ G: 1, DID, PASID: 0 }));
    same(rig.code(VA), 'SPT.2');
    rig.run(pc({ G: 1, DID: 0, PASID: 0 }));
    same(rig.pa(VA), Number(VA));
  });
  // --- IOTLB: second stage ---
  rule('§6.2.4', 'a translation stays until it is invalidated, in both modes', () => {
    for (const mode of ['legacy', 'scalable'] as const) {
      const rig = second({}, mode);
      same([mode, kept(rig)], [mode, true]);
      rig.run(cc(), iotlb());
      same([mode, kept(rig)], [mode, false]);
    }
  });
  rule('§6.5.2.3', 'domain-selective IOTLB invalidation takes the domain-id that it names', () => {
    const rig = second();
    rig.run(iotlb({ G: 2, DID: DID + 1 }));
    same(kept(rig), true);
    rig.run(iotlb({ G: 2, DID }));
    same(kept(rig), false);
  });
  rule('§6.5.2.3', 'page-selective IOTLB invalidation takes the page and the domain-id that it names', () => {
    const rig = second();
    rig.run(iotlb({ G: 3, DID, address: VA + PAGE }), iotlb({ G: 3, DID: DID + 1, address: VA }));
    same(kept(rig), true);
    rig.run(iotlb({ G: 3, DID, address: VA }));
    same(kept(rig), false);
  });
  rule('§6.5.2.3 Table 22', 'the address mask names an aligned region', () => {
    const rig = second();
    rig.run(iotlb({ G: 3, DID, address: VA + 0x8000n, AM: 3 }));
    same(kept(rig), true);
    rig.run(iotlb({ G: 3, DID, address: VA + 0x8000n, AM: 4 }));
    same(kept(rig), false);
  });
  rule('§6.5.2.3', 'address bits above MGAW are ignored', () => {
    const rig = second({ CAP: { MGAW: 47 } });
    rig.run(iotlb({ G: 3, DID, address: VA | (1n << 48n) }));
    same(kept(rig), false);
  });
  rule('§6.5.2.3', 'domain-id bits that are not implemented are ignored', () => {
    const rig = second({ CAP: { ND: 2 } });
    rig.run(iotlb({ G: 2, DID: 0x100 | DID }));
    same(kept(rig), false);
  });
  rule('§6.5.2.3 IH', 'the hint keeps second-stage tables; without it they go', () => {
    for (const [ih, expected] of [
      [1, true],
      [0, false],
    ] as const) {
      const rig = new Rig();
      const tables = rig.second();
      tables.map(VA, DATA);
      rig.pa(VA);
      rig.memory.put64(tables.entry(VA, 2), 0n);
      rig.run(iotlb({ G: 3, DID, address: VA, IH: ih }));
      same([ih, kept(rig)], [ih, expected]);
    }
  });
  rule('§6.2.5', 'tables on the way are shared by the functions of a domain', () => {
    const rig = new Rig({ mode: 'legacy' });
    const tables = rig.second();
    tables.map(VA, DATA);
    rig.context({ SSPTPTR: tables.root }, RID + 1);
    rig.pa(VA);
    rig.memory.put64(tables.entry(VA, 4), 0n);
    same(kept(rig, { requesterId: RID + 1 }), true);
  });
  rule('§6.2.1', 'the IOTLB keeps two functions of a domain apart', () => {
    const rig = second({}, 'legacy');
    rig.memory.put(AT.context + (RID + 1) * 16, rig.memory.words(AT.context + RID * 16, 4));
    same([kept(rig), kept(rig, { requesterId: RID + 1 })], [true, false]);
  });
  rule('§6.2.1', 'an entry is removed by the domain-id that it was made under', () => {
    const rig = second();
    rig.repasid({ DID: DID + 1 });
    rig.run(pc(), iotlb({ G: 2, DID: DID + 1 }));
    same(kept(rig), true);
    rig.run(iotlb({ G: 2, DID }));
    same(kept(rig), false);
  });
  rule('§6.2.4.1', 'a permission that was added is not seen before the entry is invalidated', () => {
    const rig = new Rig();
    const tables = rig.second();
    tables.map(VA, DATA, { write: false });
    rig.pa(VA);
    tables.set(VA, 1, 2n);
    same(rig.code(VA, W), 'SGN.6');
    rig.run(iotlb({ G: 3, DID, address: VA, IH: 1 }));
    same(rig.pa(VA, W), AT.data);
  });
  rule('§6.2.4.1', 'what faulted is not cached without Caching Mode', () => {
    const rig = new Rig();
    const tables = rig.second();
    same(rig.code(VA), 'SSS.2');
    tables.map(VA, DATA);
    same(kept(rig), true);
  });
  rule('§6.2.4.1 CM', 'with Caching Mode an absent page stays absent until it is invalidated', () => {
    for (const [mode, code] of [
      ['legacy', 'LGN.3'],
      ['scalable', 'SSS.2'],
    ] as const) {
      const rig = new Rig({ mode, ...CM });
      const tables = rig.second();
      same(rig.code(VA), code);
      tables.map(VA, DATA);
      same([rig.code(VA), rig.code(VA, W)], [code, mode === 'legacy' ? 'LGN.2' : code]);
      rig.run(iotlb({ G: 3, DID, address: VA }));
      same(kept(rig), true);
    }
  });
  rule('§6.2.4.1 CM', 'with Caching Mode a nested page absent from the second stage stays absent', () => {
    const rig = new Rig(CM);
    const { first, second } = rig.nested({}, 1);
    first.map(VA, G1);
    same(rig.code(VA, P1), 'SSS.2');
    second.map(G1, DATA);
    same(rig.code(VA, P1), 'SSS.2');
    rig.run(iotlb({ G: 3, DID, address: G1 }));
    same(kept(rig, P1), true);
  });
  rule('§6.2.4.1 CM', 'Caching Mode does not concern the first stage', () => {
    const rig = new Rig(CM);
    const tables = rig.first();
    same(rig.code(VA), 'SFS.2');
    tables.map(VA, DATA);
    same(kept(rig), true);
  });
  // --- IOTLB: first stage ---
  rule('§6.5.2.4', 'PASID-selective P_IOTLB invalidation takes PASID and domain-id', () => {
    const rig = first();
    rig.run(pIotlb({ PASID: 2 }), pIotlb({ PASID: 1, DID: DID + 1 }));
    same(kept(rig, P1), true);
    rig.run(pIotlb({ PASID: 1 }));
    same(kept(rig, P1), false);
  });
  rule('§6.5.2.4', 'page-selective P_IOTLB invalidation takes the page that it names', () => {
    const rig = first();
    rig.run(pIotlb({ G: 3, PASID: 1, address: VA + PAGE }), pIotlb({ G: 3, PASID: 2, address: VA }));
    same(kept(rig, P1), true);
    rig.run(pIotlb({ G: 3, PASID: 1, address: VA }));
    same(kept(rig, P1), false);
  });
  rule('§6.2.1 Table 18', 'first-stage entries are tagged with the bits that tables translate', () => {
    const address = 0xffff_8000_0000_0000n;
    const rig = new Rig();
    const place = rig.first({}, {}, 1).map(address & 0xffff_ffff_ffffn, DATA);
    rig.pa(address, P1);
    rig.memory.put64(place, 0n);
    rig.run(pIotlb({ G: 3, PASID: 1, address: address & 0xffff_ffff_ffffn }));
    same(rig.code(address, P1), 'SFS.2');
  });
  rule('§6.5.2.4 IH', 'the hint keeps first-stage tables; without it they go', () => {
    for (const [ih, expected] of [
      [1, true],
      [0, false],
    ] as const) {
      const rig = new Rig();
      const tables = rig.first({}, {}, 1);
      tables.map(VA, DATA);
      rig.pa(VA, P1);
      rig.memory.put64(tables.entry(VA, 3), 0n);
      rig.run(pIotlb({ G: 3, PASID: 1, address: VA, IH: ih }));
      same([ih, kept(rig, P1)], [ih, expected]);
    }
  });
  rule('§6.5.2.4 Table 24', 'PASID-selective P_IOTLB invalidation takes first-stage tables too', () => {
    for (const [pasid, expected] of [
      [2, true],
      [1, false],
    ] as const) {
      const rig = new Rig();
      const tables = rig.first({}, {}, 1);
      tables.map(VA, DATA);
      tables.map(VA + PAGE, DATA);
      rig.pa(VA, P1);
      rig.memory.put64(tables.entry(VA, 3), 0n);
      rig.run(pIotlb({ PASID: pasid }));
      same([pasid, rig.pa(VA + PAGE, P1) !== null], [pasid, expected]);
    }
  });
  rule('§6.2.5', 'first-stage tables are shared by the functions of a domain-id and PASID', () => {
    const rig = new Rig();
    const tables = rig.first({}, {}, 1);
    tables.map(VA, DATA);
    rig.smContext({}, RID + 1);
    rig.pa(VA, P1);
    rig.memory.put64(tables.entry(VA, 4), 0n);
    same(kept(rig, { ...P1, requesterId: RID + 1 }), true);
    same(rig.code(VA + 0x20_0000n, { ...P1, requesterId: RID + 1 }), 'SFS.2');
  });
  rule('§6.2.1', 'entries of requests-without-PASID are removed by RID_PASID', () => {
    const rig = new Rig();
    const place = rig.first().map(VA, DATA);
    rig.pa(VA);
    rig.memory.put64(place, 0n);
    rig.run(pIotlb({ PASID: 1 }));
    same(kept(rig), true);
    rig.run(pIotlb({ PASID: 0 }));
    same(kept(rig), false);
  });
  rule('§6.5.2.4 Table 24', 'page-selective P_IOTLB invalidation leaves second-stage entries alone', () => {
    const rig = second();
    rig.run(pIotlb({ G: 3, PASID: 0, address: VA }));
    same(kept(rig), true);
    rig.run(pIotlb({ PASID: 0 }));
    same(kept(rig), false);
  });
  rule(
    '§6.5.2.3 Table 23',
    'page-selective IOTLB invalidation takes every first-stage entry of the domain',
    () => {
      const rig = first();
      rig.run(iotlb({ G: 3, DID: DID + 1, address: 0n }));
      same(kept(rig, P1), true);
      rig.run(iotlb({ G: 3, DID, address: 0n }));
      same(kept(rig, P1), false);
    },
  );
  rule('§6.2.4', 'dirty and permissions of the first stage are cached', () => {
    const rig = new Rig();
    const tables = rig.first();
    tables.map(VA, DATA, { write: false });
    rig.pa(VA);
    tables.set(VA, 1, 2n);
    same(rig.code(VA, W), 'SGN.6');
    rig.run(pIotlb({ G: 3, PASID: 0, address: VA, IH: 1 }));
    same(rig.pa(VA, W), AT.data);
  });
  // --- nested ---
  rule('§6.2.4', 'a nested translation outlives its entries in either stage', () => {
    const { rig, one, two } = nested();
    rig.memory.put64(one, 0n);
    rig.memory.put64(two, 0n);
    same(kept(rig), true);
  });
  rule('§6.5.2.4', 'nested: a first-stage change needs a P_IOTLB invalidation', () => {
    const { rig, one } = nested();
    rig.memory.put64(one, 0n);
    rig.run(pIotlb({ G: 3, PASID: 0, address: VA }));
    same(rig.code(VA), 'SFS.2');
  });
  rule('§6.5.2.3', 'nested: a second-stage change needs an IOTLB invalidation of the domain-id', () => {
    const { rig, two } = nested();
    rig.memory.put64(two, 0n);
    rig.run(iotlb({ G: 3, DID: DID + 1, address: G1 }));
    same(kept(rig), true);
    rig.run(iotlb({ G: 3, DID, address: G1 }));
    same(rig.code(VA), 'SSS.2');
  });
  rule(
    '§6.5.2.3',
    'nested: page-selective invalidation by guest address takes entries of other addresses too',
    () => {
      const { rig, two } = nested();
      rig.memory.put64(two, 0n);
      rig.run(iotlb({ G: 3, DID, address: 0n }));
      same(kept(rig), false);
    },
  );
  rule(
    '§6.2.5',
    'nested tables keep where the second stage put them, until the domain is invalidated',
    () => {
      const rig = new Rig();
      const { first: guest, second: host } = rig.nested();
      const entry = guest.map(VA, G1);
      guest.map(VA + PAGE, G1);
      host.map(G1, DATA);
      rig.pa(VA);
      host.put(host.entry(BigInt(entry), 1), 0n);
      same(rig.pa(VA + PAGE), AT.data);
      rig.run(iotlb({ G: 2, DID }));
      same(rig.code(VA), 'SSS.2');
    },
  );
  rule('§6.2.5.1', 'nested, a table without read permission is not cached', () => {
    const rig = new Rig();
    const { first: guest, second: host } = rig.nested();
    const entry = BigInt(guest.map(VA, G1)) & ~0xfffn;
    host.map(G1, DATA);
    host.map(entry, entry, { read: false });
    same(rig.code(VA), 'SFS.7');
    host.map(entry, entry);
    rig.run(iotlb({ G: 3, DID, address: entry, IH: 1 }));
    same(rig.pa(VA), AT.data);
  });
  rule('§6.2.4', 'a change of the translation type is not seen before the IOTLB is invalidated', () => {
    const rig = second();
    const tables = rig.tables({ stage: 1 });
    tables.map(VA, DATA + PAGE);
    rig.pasid({ PGTT: 1, FSPTPTR: tables.root });
    rig.run(pc());
    same(rig.pa(VA), AT.data);
    rig.run(iotlb({ G: 2, DID }));
    same(rig.pa(VA), AT.data + 0x1000);
  });
  rule('§6.2.4', 'no more entries are kept than there is room for', () => {
    const rig = new Rig({ config: { caches: { tlb: 16, contexts: 4, pasids: 4 } } });
    const tables = rig.second();
    for (let i = 0n; i < 64n; i++) tables.map(VA + i * PAGE, DATA + i * PAGE);
    for (let i = 0n; i < 64n; i++) same(rig.pa(VA + i * PAGE), AT.data + Number(i) * 4096);
    for (let i = 0; i < 8; i++) {
      rig.smContext({}, RID + i);
      rig.pa(VA, { requesterId: RID + i });
    }
    same(rig.iommu.iotlb.size <= 16, true);
    has(rig.iommu.cachedEntries, { contexts: 4, pasids: 4 });
  });
});
