// The invalidation queue: §6.5.2, §11.4.9, and register-based invalidation: §6.5.1, §11.4.6.

import { has, same, topic } from '../../../testing/rules.ts';
import type { AtcInvalidation } from '../../../caches/cache-atc.ts';
import { FSTS, IQEI, OFFSET } from '../../spec/registers.ts';
import { AT, DATA, DID, RID, Rig, VA, descriptor } from './rig.ts';

const { cc, pc, iotlb, pIotlb, devTlb, pDevTlb, wait, pageGroupResponse } = descriptor;
const status = (rig: Rig, at: number = AT.status): number => rig.memory.words(at, 2)[0]!;
const noDt = { DT: 0, PRS: 0, SMS: 0, NWFS: 0, DIT: 0, PDS: 0, PTRS: 0 };
const legacy = (config = {}): Rig => new Rig({ mode: 'legacy', config });

/** A legacy rig with the queue disabled, and a cached page that is gone from the tables. */
function registerBased(config = {}): Rig {
  const rig = legacy(config);
  rig.command(0x8000_0000);
  const place = rig.second().map(VA, DATA);
  rig.pa(VA);
  rig.memory.put64(place, 0n);
  return rig;
}
const CCMD = (rig: Rig, value: bigint): number => {
  rig.write('CCMD', value);
  return Number((rig.read64(OFFSET.CCMD) >> 59n) & 0x13n);
};
const IOTLB = (rig: Rig, value: bigint, iva = 0n): number => {
  rig.iommu.writeRegister(rig.iommu.features.iotlbOffset, 8, iva);
  rig.iommu.writeRegister(rig.iommu.features.iotlbOffset + 8, 8, value);
  return Number((rig.read64(rig.iommu.features.iotlbOffset + 8) >> 57n) & 0x43n);
};
const ICC = 1n << 63n;
const did = BigInt(DID);

export const QUEUE = topic('IQ', (rule) => {
  rule('§6.5.2', 'the head follows the tail as descriptors are taken', () => {
    const rig = new Rig();
    rig.run(iotlb(), pc(), wait());
    same([rig.read('IQH'), rig.iqei], [96, 'OK']);
  });
  rule('§6.5.2', 'nothing is fetched while the queue is disabled', () => {
    const rig = new Rig();
    rig.command(0x8000_0000);
    rig.run(wait({ SW: 1, STATUS_DATA: 5 }));
    same([rig.read('IQH'), status(rig)], [0, 0]);
    rig.command(0x8400_0000);
    same([rig.read('IQH'), status(rig)], [32, 5]);
  });
  rule('§6.5.2', 'descriptors are taken whether translation is enabled or not', () => {
    const rig = new Rig();
    rig.command(0x0400_0000);
    rig.run(wait({ SW: 1, STATUS_DATA: 7 }));
    same(status(rig), 7);
  });
  rule('§11.4.9.3 QS', 'the queue wraps at its size', () => {
    const rig = new Rig();
    for (let i = 0; i < 130; i++) rig.run(wait({ SW: 1, STATUS_DATA: i }));
    same([rig.read('IQH'), rig.read('IQT'), status(rig)], [2 * 32, 2 * 32, 129]);
  });
  rule('§11.4.9.3 DW', 'legacy mode has descriptors of 128 or 256 bits', () => {
    const rig = legacy();
    rig.run(cc(), iotlb(), wait({ SW: 1, STATUS_DATA: 1 }));
    same([rig.read('IQH'), status(rig)], [48, 1]);
    rig.command(0x8000_0000);
    rig.write('IQT', 0);
    rig.write('IQA', AT.iq + 0x800);
    rig.command(0x8400_0000);
    rig.run(cc(), wait({ SW: 1, STATUS_DATA: 2 }));
    same([rig.read('IQH'), status(rig)], [64, 2]);
  });
  rule('§6.5.2.9 SW', 'a wait descriptor writes its data to its address', () => {
    const rig = new Rig();
    rig.run(wait({ SW: 1, STATUS_DATA: 0xdead_beef, status: AT.status + 4 }));
    same([...rig.memory.words(AT.status, 2)], [0, 0xdead_beef]);
  });
  rule('§6.5.2.9', 'bits of the status address above HAW are ignored', () => {
    const rig = new Rig({ config: { hostAddressWidth: 40 } });
    rig.run(wait({ SW: 1, STATUS_DATA: 3, status: AT.status + 2 ** 45 }));
    same(status(rig), 3);
  });
  rule('§6.5.2.9 IF', 'a wait descriptor with IF sets IWC and interrupts once until it is cleared', () => {
    const rig = new Rig();
    rig.write('IEDATA', 0x31);
    rig.write('IEADDR', 0xfee0_1000);
    rig.write('IECTL', 0);
    rig.run(wait({ IF: 1 }), wait({ IF: 1 }));
    same(rig.interrupts, [{ event: 'invalidation', address: 0xfee0_1000n, data: 0x31 }]);
    same(rig.read('ICS'), 1);
    rig.write('ICS', 1);
    rig.run(wait({ IF: 1 }));
    same([rig.read('ICS'), rig.interrupts.length], [1, 2]);
  });
  rule('§6.5.2.10', 'a masked interrupt stays pending and comes when it is unmasked', () => {
    const rig = new Rig();
    rig.run(wait({ IF: 1 }));
    same([rig.read('IECTL') >>> 0, rig.interrupts.length], [0xc000_0000, 0]);
    rig.write('IECTL', 0);
    same([rig.read('IECTL'), rig.interrupts.length], [0, 1]);
  });
  rule('§6.5.2.10', 'a pending interrupt is dropped when IWC is cleared', () => {
    const rig = new Rig();
    rig.run(wait({ IF: 1 }));
    rig.write('ICS', 1);
    rig.write('IECTL', 0);
    same(rig.interrupts, []);
  });
  rule('§6.5.2.11', 'an error sets IQE; the head stays; nothing is fetched until it is cleared', () => {
    const rig = new Rig();
    rig.run(wait(), descriptor.type(0x3f), wait({ SW: 1, STATUS_DATA: 1 }));
    same([rig.read('IQH'), rig.iqei, status(rig)], [32, IQEI.TYPE, 0]);
    rig.memory.put(AT.iq + 32, new Uint32Array([5, 0, 0, 0, 0, 0, 0, 0]));
    rig.write('IQT', rig.read('IQT'));
    same(rig.read('IQH'), 32);
    rig.write('FSTS', FSTS.IQE.inPlace);
    same([rig.read('IQH'), rig.iqei, status(rig)], [96, 'OK', 1]);
  });
  rule('§6.5.2.11', 'an Invalidation Queue Error is a fault event', () => {
    const rig = new Rig();
    rig.write('FECTL', 0);
    rig.run(descriptor.type(0));
    same(
      rig.interrupts.map(({ event }) => event),
      ['fault'],
    );
  });
  rule('§11.4.9.9 IQEI 3', 'types that do not exist, and type 0', () => {
    for (const type of [0, 0xa, 0xb, 0xf, 0x10, 0x15, 0x7f]) {
      same([type, new Rig().try(descriptor.type(type))], [type, IQEI.TYPE]);
    }
  });
  rule('§6.5.2.11 Table 26', 'legacy mode has types 1 to 5', () => {
    for (const type of [pIotlb(), pc(), pDevTlb(), pageGroupResponse()]) {
      same(legacy().try(type), IQEI.TYPE);
    }
  });
  rule('§6.5.2.5', 'Device-TLB descriptors are invalid types without Device-TLBs', () => {
    const config = { ECAP: noDt };
    same([new Rig({ config }).try(devTlb()), new Rig({ config }).try(pDevTlb())], [IQEI.TYPE, IQEI.TYPE]);
  });
  rule('§7.6.1', 'page group responses are invalid without PRS', () => {
    same(new Rig({ config: { ECAP: { PRS: 0, SMS: 0 } } }).try(pageGroupResponse()), IQEI.TYPE);
  });
  rule('§11.4.9.9 IQEI 4', 'reserved bits of a descriptor, and of its padding', () => {
    const bad = (words: Uint32Array, word: number, bits: number): number | 'OK' => {
      const all = new Uint32Array(8);
      all.set(words);
      all[word]! |= bits;
      return new Rig().try(all);
    };
    const answers = [
      bad(cc(), 0, 1 << 6),
      bad(cc(), 1, 1 << 18),
      bad(cc(), 4, 1),
      bad(pc(), 2, 1),
      bad(iotlb(), 1, 1),
      bad(iotlb(), 2, 1 << 7),
      bad(pIotlb(), 4, 1),
      bad(devTlb(), 2, 2),
      bad(pDevTlb(), 2, 1 << 10),
      bad(wait(), 0, 1 << 8),
      bad(wait(), 2, 1),
      bad(wait(), 7, 0x8000_0000),
      bad(pageGroupResponse(), 3, 1),
    ];
    same(
      answers,
      answers.map(() => IQEI.RESERVED),
    );
  });
  rule('§6.5.2', 'reserved granularities are errors', () => {
    same(
      [cc({ G: 0 }), pc({ G: 2 }), iotlb({ G: 0 }), pIotlb({ G: 0 }), pIotlb({ G: 1 })].map((words) =>
        new Rig().try(words),
      ),
      Array.from({ length: 5 }, () => IQEI.RESERVED),
    );
  });
  rule('§6.5.2.3', 'page-selective IOTLB invalidation is an error without PSI, or with AM above MAMV', () => {
    same(new Rig({ config: { CAP: { PSI: 0 } } }).try(iotlb({ G: 3, DID })), IQEI.RESERVED);
    const config = { CAP: { MAMV: 9 } };
    same(new Rig({ config }).try(iotlb({ G: 3, DID, AM: 10 })), IQEI.RESERVED);
    same(new Rig({ config }).try(iotlb({ G: 3, DID, AM: 9 })), 'OK');
  });
  rule('§11.4.2 MAMV', 'P_IOTLB invalidation takes any address mask', () => {
    same(new Rig({ config: { CAP: { MAMV: 0, PSI: 0 } } }).try(pIotlb({ G: 3, AM: 52 })), 'OK');
  });
  rule('§6.5.2.9 PD', 'PD is reserved without PDS', () => {
    same(new Rig({ config: { ECAP: { PDS: 0 } } }).try(wait({ PD: 1 })), IQEI.RESERVED);
    same(new Rig().try(wait({ PD: 1 })), 'OK');
  });
  rule('§6.5.2.5 PFSID', 'PFSID is reserved without DIT', () => {
    const config = { ECAP: { DIT: 0 } };
    same(new Rig({ config }).try(devTlb({ PFSID_HI: 1 })), IQEI.RESERVED);
    same(new Rig({ config }).try(pDevTlb({ PFSID_LO: 1 })), IQEI.RESERVED);
  });
  rule('§11.4.9.9 IQEI 1', 'a tail beyond the queue', () => {
    const rig = new Rig();
    rig.write('IQT', 4096);
    same(rig.iqei, IQEI.TAIL);
  });
  rule('§11.4.9.9 IQEI 2', 'a descriptor that cannot be read', () => {
    const rig = new Rig();
    rig.memory.refuse(AT.iq, 4096);
    rig.write('IQT', 32);
    same([rig.iqei, rig.read('IQH')], [IQEI.FETCH, 0]);
  });
  rule('§11.4.9.9 IQEI 5', '128-bit descriptors in scalable mode, 256-bit ones without it', () => {
    const rig = new Rig();
    rig.command(0x8000_0000);
    rig.write('IQA', AT.iq);
    rig.command(0x8400_0000);
    same(rig.try(wait()), IQEI.WIDTH);
    const none = { SMTS: 0, FSTS: 0, NEST: 0, PASID: 0, PTRS: 0, PRS: 0, SMS: 0, SRS: 0, RPRIVS: 0, ADMS: 0 };
    const older = legacy({ ECAP: { ...none, EAFS: 0, SMPWCS: 0, SSADS: 0, RPS: 0 } });
    older.command(0x8000_0000);
    older.write('IQA', AT.iq + 0x800);
    older.command(0x8400_0000);
    same(older.try(wait()), IQEI.WIDTH);
  });
  rule('§11.4.9.9 IQEI 6', 'a tail that is not aligned to 256-bit descriptors', () => {
    const rig = new Rig();
    rig.write('IQT', 16);
    same(rig.iqei, IQEI.TAIL_ALIGNMENT);
  });
  rule('§11.4.9.9 IQEI 7', 'a translation table mode that does not exist', () => {
    const rig = new Rig();
    rig.write('RTADDR', AT.root + 0x800);
    rig.command(0xc400_0000);
    same(rig.try(wait()), IQEI.TTM);
  });
  rule('§6.5.2.11 Table 26', 'abort-dma mode takes every 256-bit descriptor', () => {
    const rig = new Rig();
    rig.write('RTADDR', 0xc00);
    rig.command(0xc400_0000);
    same(rig.try(pIotlb()), 'OK');
  });
  rule('§6.5.2.8', 'without interrupt remapping an IEC invalidation has nothing to do', () => {
    same(new Rig().try(descriptor.type(4)), 'OK');
  });
  rule('§6.5.2', 'a write takes as many descriptors as the budget says; stepping goes on', () => {
    const rig = new Rig({ config: { descriptorsPerStep: 2 } });
    rig.run(wait(), wait(), wait(), wait(), wait());
    same(rig.iommu.step(), true);
    same(rig.iommu.step(), false);
    same(rig.read('IQH'), 160);
  });
  // --- Device-TLB time-outs ---
  rule('§4.3', 'a Device-TLB invalidation that is not completed in time sets ITE and stops the queue', () => {
    const rig = new Rig();
    rig.run(devTlb(), wait({ SW: 1, STATUS_DATA: 1 }));
    same([(rig.read('FSTS') & FSTS.ITE.inPlace) !== 0, rig.read('IQH'), status(rig)], [true, 32, 0]);
    same(Number(rig.read64(OFFSET.IQERCD) >> 32n) & 0xffff, RID);
    rig.write('FSTS', FSTS.ITE.inPlace);
    same([rig.read('IQH'), status(rig)], [64, 1]);
  });
  rule('§6.5.2.12', 'a wait descriptor completes after the Device-TLB invalidations ahead of it', () => {
    const rig = new Rig();
    const sent: { request: AtcInvalidation; itag: number }[] = [];
    rig.iommu.attachEndpoint(RID, {
      invalidate: (request, itag) => {
        sent.push({ request, itag });
        return 'pending';
      },
      pageResponse: () => {},
    });
    rig.run(devTlb(), devTlb({ address: VA }), wait({ SW: 1, STATUS_DATA: 9 }));
    same([rig.read('IQH'), status(rig), sent.map(({ itag }) => itag)], [64, 0, [0, 1]]);
    same(rig.iommu.step(), false);
    rig.iommu.completeInvalidation(RID, [0]);
    same(status(rig), 0);
    rig.iommu.completeInvalidation(RID, [1]);
    same([rig.read('IQH'), status(rig)], [96, 9]);
  });
  rule('§6.5.2.11', 'a time-out aborts the wait descriptor that was pending', () => {
    const rig = new Rig();
    rig.iommu.attachEndpoint(RID, { invalidate: () => 'pending', pageResponse: () => {} });
    rig.run(devTlb(), wait({ SW: 1, STATUS_DATA: 9 }));
    same([rig.iommu.timeOutInvalidations(), rig.iommu.timeOutInvalidations()], [true, false]);
    same([rig.read('FSTS') & FSTS.ITE.inPlace, status(rig)], [FSTS.ITE.inPlace, 0]);
  });
  rule('§4.3', 'a completion with an ITag that is not pending sets ICE; the queue goes on', () => {
    const rig = new Rig();
    rig.iommu.completeInvalidation(RID, [3]);
    same(rig.read('FSTS') & FSTS.ICE.inPlace, FSTS.ICE.inPlace);
    same(Number(rig.read64(OFFSET.IQERCD) >> 48n), RID);
    rig.run(wait({ SW: 1, STATUS_DATA: 4 }));
    same(status(rig), 4);
  });
  rule('§4.3', 'a completion from another function is invalid too', () => {
    const rig = new Rig();
    rig.iommu.attachEndpoint(RID, { invalidate: () => 'pending', pageResponse: () => {} });
    rig.run(devTlb());
    rig.iommu.completeInvalidation(RID + 1, [0]);
    same(rig.read('FSTS') & FSTS.ICE.inPlace, FSTS.ICE.inPlace);
    same(rig.iommu.timeOutInvalidations(), true);
  });
  rule('§11.4.7.1', 'ICE and ITE are reserved without Device-TLBs', () => {
    const rig = new Rig({ config: { ECAP: noDt } });
    rig.write('FSTS', 0xff);
    same(rig.read('FSTS'), 0);
  });
  // --- register-based ---
  rule('§6.5.1.1', 'CCMD_REG invalidates the context-cache and reports the granularity', () => {
    for (const [value, caig] of [
      [1n, 1],
      [2n, 2],
      [3n, 3],
    ] as const) {
      const rig = registerBased();
      rig.context({ P: 0 });
      same(CCMD(rig, ICC | (value << 61n) | (BigInt(RID) << 16n) | did), caig);
      same(rig.code(VA), 'LCT.2');
    }
  });
  rule('§11.4.6.1', 'a reserved granularity is an error: CAIG is 0, nothing is invalidated', () => {
    const rig = registerBased();
    rig.context({ P: 0 });
    same(CCMD(rig, ICC), 0);
    same(rig.pa(VA), AT.data);
  });
  rule('§6.5.1.2', 'IOTLB_REG invalidates globally, by domain-id and by page', () => {
    for (const [value, iva, iaig] of [
      [1n << 60n, 0n, 1],
      [(2n << 60n) | (did << 32n), 0n, 2],
      [(3n << 60n) | (did << 32n), VA, 3],
      [(3n << 60n) | (did << 32n), VA + 0x40n, 3],
    ] as const) {
      const rig = registerBased();
      same(IOTLB(rig, ICC | value, iva), iaig);
      same(rig.code(VA), 'LGN.3');
    }
  });
  rule('§11.4.6.3', 'another domain-id or page leaves the entry', () => {
    const rig = registerBased();
    IOTLB(rig, ICC | (2n << 60n) | ((did + 1n) << 32n));
    IOTLB(rig, ICC | (3n << 60n) | (did << 32n), VA + 0x1000n);
    same(rig.pa(VA), AT.data);
  });
  rule('§11.4.6.3', 'an address mask above MAMV is an error; without PSI the domain is invalidated', () => {
    const rig = registerBased({ CAP: { MAMV: 9 } });
    same(IOTLB(rig, ICC | (3n << 60n) | (did << 32n), VA | 10n), 0);
    same(rig.pa(VA), AT.data);
    const coarse = registerBased({ CAP: { PSI: 0 } });
    same(IOTLB(coarse, ICC | (3n << 60n) | (did << 32n), 0n), 2);
    same(coarse.code(VA), 'LGN.3');
  });
  rule('§6.5.1', 'register-based invalidation does nothing outside of legacy mode', () => {
    const rig = new Rig();
    rig.command(0x8000_0000);
    rig.passThrough();
    rig.pa(VA);
    same([CCMD(rig, ICC | (1n << 61n)), IOTLB(rig, ICC | (1n << 60n))], [0, 0]);
    same(rig.iommu.cachedEntries.contexts, 1);
  });
  rule('§6.5', 'register-based invalidation is gone from major version 6 on', () => {
    const rig = registerBased({ VER: { MAX: 6 } });
    same([CCMD(rig, ICC | (1n << 61n)), IOTLB(rig, ICC | (1n << 60n))], [0, 0]);
    same(rig.pa(VA), AT.data);
  });
  rule('§6.5.2', 'while the queue is enabled the registers are incorrect requests', () => {
    const rig = legacy();
    rig.passThrough();
    rig.pa(VA);
    same(CCMD(rig, ICC | (1n << 61n)), 0);
    has(rig.iommu.cachedEntries, { contexts: 1 });
  });
});
