// Device-TLBs and page requests: chapters 4 and 7.

import { has, same, topic } from '../../../testing/rules.ts';
import type { AtcInvalidation } from '../../../caches/cache-atc.ts';
import { RESPONSE_CODE } from '../../spec/invalidation.ts';
import { PGTT } from '../../spec/pasid.ts';
import { PRS } from '../../spec/registers.ts';
import type { AtsCompletion, AtsRequest } from '../translation/ats.ts';
import type { PageResponse } from '../endpoint.ts';
import type { PageRequest } from '../queues/page-request-queue.ts';
import { AT, DATA, DID, RID, Rig, VA, descriptor } from './rig.ts';

const G1 = 1n << 30n;
const { iotlb, pIotlb, devTlb, pDevTlb, pageGroupResponse } = descriptor;

const at = (address: bigint): { hi: number; lo: number } => ({
  hi: Number(address >> 32n),
  lo: Number(address & 0xffff_ffffn),
});
const ask = (rig: Rig, address: bigint, rest: Partial<AtsRequest> = {}): AtsCompletion =>
  rig.iommu.requestTranslation({ requesterId: RID, write: true, ...at(address), ...rest });
/** What a completion grants: letters, or how it was refused. */
const grants = (completion: AtsCompletion): string => {
  const [entry] = completion.entries;
  if (entry === undefined) return completion.status;
  return `${entry.read ? 'R' : ''}${entry.write ? 'W' : ''}${entry.untranslatedOnly ? 'U' : ''}`;
};
const page = (rest: Partial<PageRequest> = {}): PageRequest => ({
  requesterId: RID,
  pasid: null,
  ...at(VA),
  prgIndex: 5,
  read: true,
  write: false,
  execute: false,
  privileged: false,
  last: true,
  ...rest,
});
/** Endpoints that note what reaches them. */
function listen(rig: Rig): { invalidations: AtcInvalidation[]; responses: PageResponse[] } {
  const seen = { invalidations: [] as AtcInvalidation[], responses: [] as PageResponse[] };
  rig.iommu.attachEndpoint(RID, {
    invalidate: (request) => {
      seen.invalidations.push(request);
      return true;
    },
    pageResponse: (response) => void seen.responses.push(response),
  });
  return seen;
}

export const PCIE = topic('PCIE', (rule) => {
  // --- translation requests ---
  rule('§4.2.3', 'a completion has the page, its size and what both kinds of access may do', () => {
    const rig = new Rig();
    rig.first().map(VA, DATA, { level: 2, write: false });
    has(ask(rig, VA + 0x5000n).entries[0], {
      translated: AT.data,
      sizeBits: 21,
      read: true,
      write: false,
      execute: false,
      nonSnooped: false,
    });
  });
  rule('§4.2.3 NW', 'with NW the completion grants no write and makes nothing dirty', () => {
    const rig = new Rig();
    const tables = rig.first();
    tables.map(VA, DATA);
    same(grants(ask(rig, VA, { write: false })), 'R');
    same(tables.get(tables.entry(VA, 1)) & 0x60n, 0x20n);
    same(grants(ask(rig, VA)), 'RW');
    same(tables.get(tables.entry(VA, 1)) & 0x60n, 0x60n);
  });
  rule('§4.2.3.1 NWFS', 'without NWFS the flag is ignored', () => {
    const rig = new Rig({ config: { ECAP: { NWFS: 0 } } });
    rig.first().map(VA, DATA);
    same(grants(ask(rig, VA, { write: false })), 'RW');
  });
  rule('§7.1.2', 'a recoverable fault is a success without permissions, and is not recorded', () => {
    const rig = new Rig();
    rig.first();
    const completion = ask(rig, VA);
    has(completion, { status: 'success', recorded: false });
    same(completion.fault?.code, 'SFS.2');
    same(grants(ask(rig, VA)), '');
    same(rig.faults(), []);
  });
  rule('§7.1.3', 'an error of the second stage is a Completer Abort and is recorded', () => {
    const rig = new Rig();
    const tables = rig.second();
    tables.map(VA, DATA, { bits: 1n << 62n });
    has(ask(rig, VA), { status: 'CA', recorded: true });
    has(rig.faults()[0], { FR: 0x7a, AT: 1, T1: 1 });
  });
  rule('§7.1.3', 'absent and broken contexts: Unsupported Request and Completer Abort', () => {
    const rig = new Rig();
    same(grants(ask(rig, VA)), 'UR');
    rig.smContext({ DTE: 0, PRE: 1 });
    same(grants(ask(rig, VA)), 'CA');
    same(
      rig.faults().map((record) => record['FR']),
      [0x41, 0x43],
    );
  });
  rule('§7.1.3 SPD.2, SPT.2', 'absent PASID entries grant nothing, which is recoverable', () => {
    const rig = new Rig();
    rig.smContext();
    same(grants(ask(rig, VA)), '');
    rig.directory();
    same([grants(ask(rig, VA)), rig.faults()], ['', []]);
  });
  rule('§7.1.3 SCT.5', 'without DTE translation and translated requests are unsupported', () => {
    const rig = new Rig();
    rig.first().map(VA, DATA);
    rig.smContext({ DTE: 0, PRE: 0 });
    same(grants(ask(rig, VA)), 'UR');
    same(rig.code(VA, { translated: true }), 'SCT.5');
    same(
      rig.faults().map((record) => record['FR']),
      [0x44, 0x44],
    );
    same(rig.pa(VA), AT.data);
  });
  rule('§7.1.3 LCT.5', 'in legacy mode TT 01b allows them', () => {
    const rig = new Rig({ mode: 'legacy' });
    const tables = rig.second();
    tables.map(VA, DATA);
    same([grants(ask(rig, VA)), rig.code(VA, { translated: true })], ['UR', 'LCT.5']);
    rig.context({ SSPTPTR: tables.root, TT: 1 }, RID + 1);
    const other = { requesterId: RID + 1 };
    same([grants(ask(rig, VA, other)), rig.pa(VA, { ...other, translated: true })], ['RW', Number(VA)]);
  });
  rule('§4.2.3', 'legacy mode: an absent page grants nothing, a broken one is a Completer Abort', () => {
    const rig = new Rig({ mode: 'legacy' });
    const tables = rig.second({ TT: 1 });
    same([grants(ask(rig, VA)), rig.faults()], ['', []]);
    tables.map(VA, DATA, { bits: 1n << 62n });
    same(grants(ask(rig, VA)), 'CA');
    same(grants(ask(rig, 1n << 48n)), '');
  });
  rule('§4.2.3 SPT.6', 'a supervisor request without SRE grants nothing; PRIV is set', () => {
    const rig = new Rig();
    rig.first({}, {}, 1).map(VA, DATA);
    const completion = ask(rig, VA, { pasid: 1, privileged: true });
    same(grants(completion), '');
    has(completion.entries[0], { privileged: true });
    same(rig.faults(), []);
  });
  rule('§4.2.3', 'a supervisor request grants what supervisors may', () => {
    const rig = new Rig();
    rig.first({ SRE: 1 }, {}, 1).map(VA, DATA, { user: false, write: false });
    same(grants(ask(rig, VA, { pasid: 1, privileged: true })), 'RW');
    same(grants(ask(rig, VA, { pasid: 1 })), '');
  });
  rule('§4.2.3', 'nested: the output of both stages with the permissions of both', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    first.map(VA, G1);
    second.map(G1, DATA, { write: false });
    has(ask(rig, VA).entries[0], { translated: AT.data, read: true, write: false, sizeBits: 12 });
  });
  rule('§4.2.3 N', 'N is PGSNP or the SNP of the second-stage page', () => {
    const rig = new Rig();
    rig.second().map(VA, DATA, { bits: 0x800n });
    has(ask(rig, VA).entries[0], { nonSnooped: true });
  });
  rule('§4.2.3 S.1', 'an endpoint may ask for the interrupt range: write, untranslated only', () => {
    const rig = new Rig();
    rig.first();
    same(grants(ask(rig, 0xfee0_0000n)), 'WU');
    same(grants(ask(rig, 0xfee0_0000n, { write: false })), '');
  });
  rule('§4.2.3', 'with a PASID the interrupt range is translated; pass-through grants nothing', () => {
    const rig = new Rig();
    rig.first({}, {}, 1).map(0xfee0_0000n, DATA);
    same(grants(ask(rig, 0xfee0_0000n, { pasid: 1 })), 'RW');
    rig.pasid({ PGTT: PGTT.PASS_THROUGH }, 2);
    same(grants(ask(rig, 0xfee0_0000n, { pasid: 2 })), '');
  });
  rule('§7.1.3 SGN.8.2', 'a translation that leads into the interrupt range is a Completer Abort', () => {
    const rig = new Rig();
    rig.first().map(VA, 0xfee0_0000n, { level: 2 });
    same(grants(ask(rig, VA + 0x10_0000n)), 'CA');
    has(rig.faults()[0], { FR: 0x87 });
  });
  rule('§4.2.3', 'pass-through gives as large a region as there are pages for', () => {
    const rig = new Rig();
    rig.passThrough();
    has(ask(rig, VA + 0x1234_5678n).entries[0], { translated: Number(VA), sizeBits: 30, write: true });
    has(ask(rig, 0xfe00_0000n).entries[0], { translated: 0xfe00_0000, sizeBits: 21 });
  });
  rule('§7.1.3 SGN.4.2', 'pass-through above the host address width grants nothing', () => {
    const rig = new Rig({ config: { hostAddressWidth: 40 } });
    rig.passThrough();
    same([grants(ask(rig, 1n << 40n)), rig.faults()], ['', []]);
  });
  rule('§7.1.3 SFS.10', 'an update that memory refuses grants nothing, and is reported all the same', () => {
    const rig = new Rig();
    const tables = rig.first();
    tables.map(VA, DATA);
    rig.memory.refuse(tables.root, 4096, 'store');
    has(ask(rig, VA), { status: 'success', recorded: true });
    has(rig.faults()[0], { FR: 0x91 });
  });
  // --- translated requests ---
  rule('§4.2.5', 'a translated request goes to its address', () => {
    const rig = new Rig();
    rig.first();
    same(rig.pa(DATA + 0x10n, { translated: true, write: true }), AT.data + 0x10);
  });
  rule('§7.1.3 SGN.4.1, SGN.8.3', 'not above the host address width, nor to the interrupt range', () => {
    const rig = new Rig({ config: { hostAddressWidth: 40 } });
    rig.first();
    same(rig.code(1n << 40n, { translated: true }), 'SGN.4.1');
    same(rig.code(0xfee0_0000n, { translated: true, write: true }), 'SGN.8.3');
    const legacy = new Rig({ mode: 'legacy', config: { hostAddressWidth: 40 } });
    legacy.second({ TT: 1 });
    same(
      [1n << 40n, 0xfee0_0000n].map((address) => legacy.code(address, { translated: true })),
      ['LGN.1.2', 'LGN.4'],
    );
  });
  rule('§7.1.3 SCT.10', 'translated requests with a PASID need EPTR, and PTRS', () => {
    const rig = new Rig();
    rig.first();
    has(rig.fault(DATA, { translated: true, pasid: 3 }), { FR: 0x49, PV: 3, AT: 2 });
    rig.smContext({ EPTR: 1 }, RID + 1);
    same(rig.pa(DATA, { translated: true, pasid: 3, requesterId: RID + 1 }), AT.data);
    const older = new Rig({ config: { ECAP: { PTRS: 0 } } });
    older.first();
    same([older.code(DATA, { translated: true, pasid: 3 }), older.faults()], ['UR', []]);
  });
  // --- Device-TLB ---
  rule('§4.1.3', 'a Device-TLB answers until it is invalidated, whatever the tables say', () => {
    const rig = new Rig();
    const place = rig.first().map(VA, DATA);
    const device = rig.atsFunction();
    const lands = (): unknown => {
      const outcome = device.translate(VA, { write: true });
      return outcome.kind === 'translated' ? outcome.pa : outcome.kind;
    };
    same(lands(), AT.data);
    rig.memory.put64(place, 0n);
    rig.run(pIotlb({ PASID: 0 }));
    same(lands(), AT.data);
    rig.run(devTlb({ address: VA }));
    same(lands(), 'denied');
  });
  rule('§6.5.2.5', 'the size of a Device-TLB invalidation is in the low bits of its address', () => {
    const rig = new Rig();
    const { invalidations } = listen(rig);
    rig.run(devTlb({ address: VA }), devTlb({ address: VA, S: 1 }), devTlb({ address: VA + 0x7000n, S: 1 }));
    rig.run(devTlb({ address: 0x7fff_ffff_ffff_f000n, S: 1 }));
    same(
      invalidations.map(({ sizeBits, pasid }) => [sizeBits, pasid]),
      [
        [12, null],
        [13, null],
        [16, null],
        [64, null],
      ],
    );
  });
  rule('§6.5.2.6', 'a PASID-based Device-TLB invalidation carries the PASID and Global Invalidate', () => {
    const rig = new Rig();
    const { invalidations } = listen(rig);
    rig.run(pDevTlb({ PASID: 7, address: VA }), pDevTlb({ PASID: 7, GI: 1, address: VA + 0x1000n, S: 1 }));
    same(
      invalidations.map(({ pasid, global, sizeBits }) => [pasid, global, sizeBits]),
      [
        [7, false, 12],
        [7, true, 14],
      ],
    );
  });
  rule('§6.5.2.6', 'it leaves translations of other PASIDs', () => {
    const rig = new Rig();
    rig.first({}, {}, 1).map(VA, DATA);
    rig.memory.put(AT.pasids + 128, rig.memory.words(AT.pasids + 64, 16));
    const device = rig.atsFunction();
    for (const pasid of [1, 2]) device.translate(VA, { pasid });
    rig.run(pDevTlb({ PASID: 1, address: VA }));
    same(
      [1, 2].map((pasid) => device.atc.lookup(0, Number(VA), pasid, false) !== null),
      [false, true],
    );
  });
  rule('§6.5.2.5', 'an IOTLB invalidation reaches no Device-TLB', () => {
    const rig = new Rig();
    const { invalidations } = listen(rig);
    rig.run(iotlb(), iotlb({ G: 2, DID }), pIotlb({ PASID: 0 }));
    same(invalidations, []);
  });
  // --- page requests ---
  rule('§7.4.1.1', 'a page request becomes a descriptor', () => {
    const rig = new Rig();
    rig.first({}, {}, 9);
    const request = page({ pasid: 9, write: true, privileged: true, prgIndex: 0x1aa });
    same(rig.iommu.requestPage(request), null);
    has(rig.pageRequests()[0], {
      Type: 1,
      PP: 1,
      RID,
      PASID: 9,
      PMR: 1,
      RDR: 1,
      WRR: 1,
      LPIG: 1,
      PRGI: 0x1aa,
      ADDR: Number(VA >> 12n),
    });
  });
  rule('§7.5', 'the first pending page request interrupts, later ones do not', () => {
    const rig = new Rig();
    rig.first();
    rig.write('PECTL', 0);
    rig.iommu.requestPage(page());
    rig.iommu.requestPage(page());
    same([rig.read('PRS'), rig.interrupts.length], [PRS.PPR.inPlace, 1]);
    rig.write('PRS', PRS.PPR.inPlace);
    rig.iommu.requestPage(page());
    same(rig.interrupts.length, 2);
  });
  rule('§7.5', 'a masked page request event is pending until it is unmasked or serviced', () => {
    const rig = new Rig();
    rig.first();
    rig.iommu.requestPage(page());
    same(rig.read('PECTL') >>> 0, 0xc000_0000);
    rig.write('PRS', PRS.PPR.inPlace);
    same(rig.read('PECTL') >>> 0, 0x8000_0000);
  });
  rule('§7.4.1', 'one entry stays empty: a full queue overflows and answers success', () => {
    const rig = new Rig();
    rig.first();
    const { responses } = listen(rig);
    for (let i = 0; i < 127; i++) same(rig.iommu.requestPage(page({ last: false })), null);
    same(rig.read('PRS') & PRS.PRO.inPlace, 0);
    same(rig.iommu.requestPage(page({ last: false })), null);
    same(rig.read('PRS') & PRS.PRO.inPlace, PRS.PRO.inPlace);
    has(rig.iommu.requestPage(page()), { code: RESPONSE_CODE.SUCCESS, prgIndex: 5 });
    same(responses.length, 1);
    same(rig.pageRequests().length, 127);
  });
  rule('§7.4.1 Table 31', 'while PRO is set requests are dropped, even where there is room', () => {
    const rig = new Rig();
    rig.first();
    for (let i = 0; i < 128; i++) rig.iommu.requestPage(page({ last: false }));
    rig.pageRequests();
    has(rig.iommu.requestPage(page()), { code: RESPONSE_CODE.SUCCESS });
    rig.write('PRS', PRS.PRO.inPlace);
    same([rig.iommu.requestPage(page()), rig.pageRequests().length], [null, 1]);
  });
  rule('§7.1.3 SCT.8', 'without PRE a page request is an invalid request, and recorded', () => {
    const rig = new Rig();
    rig.first();
    rig.smContext({ PRE: 0 });
    has(rig.iommu.requestPage(page()), { code: RESPONSE_CODE.INVALID_REQUEST });
    has(rig.faults()[0], { FR: 0x47, T1: 0, T2: 1 });
    same(rig.iommu.requestPage(page({ last: false })), null);
    same(rig.faults().length, 1);
  });
  rule('§7.1.3 RTA.3', 'legacy mode takes no page requests', () => {
    const rig = new Rig({ mode: 'legacy' });
    rig.second({ TT: 1 });
    has(rig.iommu.requestPage(page()), { code: RESPONSE_CODE.INVALID_REQUEST });
    has(rig.faults()[0], { FR: 0x32 });
  });
  rule('§7.1.3', 'a page request passes the PASID checks of other requests', () => {
    const rig = new Rig();
    rig.smContext({ RID_PASID: 4 });
    rig.iommu.requestPage(page({ pasid: 4 }));
    rig.iommu.requestPage(page({ pasid: 5 }));
    same(
      rig.faults().map((record) => record['FR']),
      [0x48, 0x51],
    );
  });
  rule('§6.5.3.1 Table 27', 'a page request invalidates what is cached of its address', () => {
    const rig = new Rig();
    const tables = rig.first();
    tables.map(VA, DATA, { write: false });
    rig.pa(VA);
    tables.set(VA, 1, 2n);
    same(rig.code(VA, { write: true }), 'SGN.6');
    rig.iommu.requestPage(page({ write: true }));
    same(rig.pa(VA, { write: true }), AT.data);
  });
  rule('§6.5.3.1', 'second-stage entries by page, nested ones by domain', () => {
    const rig = new Rig();
    const place = rig.second().map(VA, DATA);
    rig.pa(VA);
    rig.memory.put64(place, 0n);
    rig.iommu.requestPage(page(at(VA + 0x1000n)));
    same(rig.pa(VA), AT.data);
    rig.iommu.requestPage(page());
    same(rig.code(VA), 'SSS.2');
    const nested = new Rig();
    const { first, second } = nested.nested();
    first.map(VA, G1);
    nested.memory.put64(second.map(G1, DATA), DATA | 3n);
    nested.pa(VA);
    second.put(second.entry(G1, 1), 0n);
    nested.iommu.requestPage(page(at(VA + 0x1000n)));
    same(nested.code(VA), 'SSS.2');
  });
  rule('§7.6.1', 'a page group response reaches its function', () => {
    const rig = new Rig();
    const { responses } = listen(rig);
    rig.run(
      pageGroupResponse({ PRGI: 0x155, RC: 1, PP: 1, PASID: 0x777 }),
      pageGroupResponse({ PRGI: 2, IGN: 7 }),
    );
    same(responses, [
      { requesterId: RID, pasid: 0x777, prgIndex: 0x155, code: RESPONSE_CODE.INVALID_REQUEST },
      { requesterId: RID, pasid: null, prgIndex: 2, code: RESPONSE_CODE.SUCCESS },
    ]);
  });
  rule('§11.4.3 SMS', 'a stop marker that does not fit is dropped without an answer', () => {
    const rig = new Rig();
    rig.smContext({ PRE: 0 });
    same(rig.iommu.requestPage(page({ pasid: 3, read: false, write: false })), null);
  });
  rule('§11.4.11.3 PQS', 'the page request queue wraps at its size', () => {
    const rig = new Rig();
    rig.first();
    for (let i = 0; i < 200; i++) {
      rig.iommu.requestPage(page({ prgIndex: i }));
      has(rig.pageRequests()[0], { PRGI: i });
    }
    same([rig.read('PQT'), rig.read('PQH')], [72 * 32, 72 * 32]);
  });
});
