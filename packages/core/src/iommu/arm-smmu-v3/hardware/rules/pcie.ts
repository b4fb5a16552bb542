// §3.9, §4.5, chapter 8: ATS, PRI and CMD_SYNC's part in them.

import type { ConfigOverrides } from '../registers/config.ts';
import type { AtsCompletion, AtsRequest } from '../translation/ats.ts';
import type { PageRequest, PageResponse } from '../queues/pri-queue.ts';
import { PRG_RESPONSE } from '../../spec/queues.ts';
import { EATS, STE_CONFIG } from '../../spec/ste.ts';
import type { Outcome } from '../transaction.ts';
import { type CdFields, type SteFields, AT, Rig, SID, VA, command } from './rig.ts';
import type { Leaf } from './tables.ts';
import { AtsFunction } from '../../../testing/ats-function.ts';
import { has, same, topic } from '../../../testing/rules.ts';

const DATA = BigInt(AT.data);
const TRANS = { EATS: EATS.TRANS };

function request(rig: Rig, address: bigint, fields: Partial<AtsRequest> = {}): AtsCompletion {
  const hi = Number(address >> 32n);
  const lo = Number(address & 0xffff_ffffn);
  return rig.smmu.requestTranslation({ streamId: SID, hi, lo, write: true, ...fields });
}

/** What a Translation Request for one stage 1 page is answered. */
function asked(
  leaf: Leaf,
  fields: Partial<AtsRequest> = {},
  ste: SteFields = {},
  cd: CdFields = {},
): AtsCompletion {
  const rig = new Rig();
  rig.stage1({ ...TRANS, ...ste }, cd).map(VA, DATA, leaf);
  return request(rig, VA, fields);
}
const rights = ({ entries }: AtsCompletion): string =>
  `${entries[0]!.read ? 'R' : '-'}${entries[0]!.write ? 'W' : '-'}${entries[0]!.execute ? 'X' : '-'}`;

/** A rig with CR0.ATSCHK. */
function checked(config: ConfigOverrides = {}): Rig {
  const rig = new Rig({ config });
  rig.cr0({ ATSCHK: 1 });
  return rig;
}
const translated = { translated: true, stallable: false };

/** A function that uses ATS. Its Translated transactions carry no SubstreamID. */
function atsFunction({ smmu }: Rig): AtsFunction<Outcome> {
  const pci = new AtsFunction<Outcome>({
    requestTranslation: ({ pasid, ...rest }) =>
      smmu.requestTranslation({ streamId: SID, substreamId: pasid, ...rest }),
    translate: ({ pasid, execute, ...rest }) =>
      smmu.translate({
        streamId: SID,
        substreamId: pasid,
        instruction: execute,
        stallable: false,
        ...rest,
      }),
  });
  smmu.attachEndpoint(SID, { invalidate: (request) => pci.invalidate(request), pageResponse: () => {} });
  return pci;
}

/** A function with VA in its ATC. */
function cached(pasid: number | null = null): { rig: Rig; pci: AtsFunction<Outcome>; has: () => boolean } {
  const rig = new Rig();
  rig.stage1({ ...TRANS, S1CDMax: pasid === null ? 0 : 4, S1DSS: 2 });
  if (pasid !== null) rig.memory.put(AT.cds + pasid * 64, rig.memory.words(AT.cds, 16));
  const tables = rig.tables();
  tables.map(VA, DATA);
  rig.cd(rig.cdFor(tables), pasid ?? 0);
  const pci = atsFunction(rig);
  pci.translate(VA, { pasid });
  return { rig, pci, has: () => pci.atc.lookup(0, Number(VA), pasid, false) !== null };
}

const page = (fields: Partial<PageRequest> = {}): PageRequest => ({
  streamId: SID,
  substreamId: null,
  hi: 1,
  lo: 0x2345_6789,
  prgIndex: 0x155,
  read: true,
  write: true,
  execute: false,
  privileged: false,
  last: true,
  ...fields,
});

/** A rig with an endpoint that keeps its responses. */
function paging(config: ConfigOverrides = {}): { rig: Rig; responses: PageResponse[] } {
  const rig = new Rig({ config });
  const responses: PageResponse[] = [];
  rig.smmu.attachEndpoint(SID, {
    invalidate: () => true,
    pageResponse: (response) => responses.push(response),
  });
  return { rig, responses };
}

function full(config: ConfigOverrides = {}): { rig: Rig; responses: PageResponse[] } {
  const rigged = paging(config);
  for (let i = 0; i < 32; i++) rigged.rig.smmu.requestPage(page({ prgIndex: i }));
  return rigged;
}

export const PCIE = topic('PCI', (rule) => {
  // --- Translation Requests ---
  rule('§3.9.1.2', 'a Translation Request is answered with the translation, its size and its rights', () => {
    const answer = asked({ level: 2 });
    has(answer, { status: 'success', event: null });
    has(answer.entries[0], { translated: AT.data, sizeBits: 21, read: true, write: true, execute: false });
  });
  rule('§3.9.1.2', 'IDR0.ATS == 0: Unsupported Request', () => {
    const rig = new Rig({ config: { IDR0: { ATS: 0, PRI: 0 } } });
    rig.stage1().map(VA, DATA);
    has(request(rig, VA), { status: 'UR' });
  });
  rule('§3.9.1.2', 'SMMUEN == 0: Unsupported Request and F_BAD_ATS_TREQ', () => {
    const rig = new Rig();
    rig.cr0({ SMMUEN: 0 });
    has(request(rig, VA), { status: 'UR' });
    same(
      rig.events().map((seen) => seen.type),
      ['F_BAD_ATS_TREQ'],
    );
  });
  rule('§3.9.1.2', 'STE.EATS == 0b00: Unsupported Request and F_BAD_ATS_TREQ', () => {
    const rig = new Rig();
    rig.stage1({ EATS: EATS.ABORT }).map(VA, DATA);
    has(request(rig, VA), { status: 'UR' });
    has(rig.events()[0], { type: 'F_BAD_ATS_TREQ', StreamID: SID, InputAddr: VA });
  });
  rule('§3.9.1.2', 'an STE that bypasses: Unsupported Request', () => {
    const rig = new Rig();
    rig.ste(SID, { Config: STE_CONFIG.BYPASS, EATS: EATS.TRANS });
    has(request(rig, VA), { status: 'UR' });
  });
  rule('§3.9.1.2', 'an STE that aborts: Unsupported Request without a record', () => {
    const rig = new Rig();
    rig.ste(SID, { Config: STE_CONFIG.ABORT, EATS: EATS.TRANS });
    has(request(rig, VA), { status: 'UR' });
    same(rig.events(), []);
  });
  rule('§3.9.1.2', 'C_BAD_STE, C_BAD_CD and the like: Completer Abort, recorded with REC_CFG_ATS', () => {
    const rig = new Rig();
    rig.stage1(TRANS, { V: 0 });
    has(request(rig, VA), { status: 'CA' });
    same(
      rig.events().map((seen) => seen.type),
      ['C_BAD_CD'],
    );
  });
  rule('§3.9.1.2', 'REC_CFG_ATS == 0: configuration errors of Translation Requests are not recorded', () => {
    const rig = new Rig();
    rig.cr0({ SMMUEN: 0 });
    rig.write('CR2', 0b10);
    rig.cr0({ SMMUEN: 1 });
    rig.ste(SID, { V: 0 });
    has(request(rig, VA), { status: 'CA' });
    same(rig.events(), []);
  });
  rule('§3.9.1.2', 'a page that does not translate: success with R == W == 0, and no record', () => {
    const rig = new Rig();
    rig.stage1(TRANS);
    has(request(rig, VA).entries[0], { read: false, write: false });
    same(rig.events(), []);
  });
  rule('§5.5', 'CD.S does not stall Translation Requests: R == W == 0', () => {
    const rig = new Rig();
    rig.stage1(TRANS, { S: 1 });
    has(request(rig, VA).entries[0], { read: false, write: false });
    same(rig.smmu.stalled, 0);
  });
  rule('§3.9.1.2', 'a walk that aborts: Completer Abort', () => {
    const rig = new Rig();
    const tables = rig.stage1(TRANS);
    rig.memory.refuse(tables.map(VA, DATA), 8);
    has(request(rig, VA), { status: 'CA' });
    same(
      rig.events().map((seen) => seen.type),
      ['F_WALK_EABT'],
    );
  });
  rule('§3.9.1', 'rights are those of the page: read-only is R without W', () =>
    same(rights(asked({ ap: 3 })), 'R--'),
  );
  rule('§3.9.1', 'NW == 1: write is not granted', () => same(rights(asked({}, { write: false })), 'R--'));
  rule('§3.9.1', 'a request without a PASID is unprivileged', () => {
    same(rights(asked({ ap: 0 }, { privileged: true })), '---');
  });
  rule('§3.9.1', 'with a PASID, Privileged Mode Requested counts', () => {
    const rig = new Rig();
    const tables = rig.stage1({ ...TRANS, S1CDMax: 4 });
    tables.map(VA, DATA, { ap: 0 });
    same(
      [false, true].map((privileged) => rights(request(rig, VA, { substreamId: 0, privileged }))),
      ['---', 'RW-'],
    );
  });
  rule('§13.7.1', 'Exe is granted to a request for it with a PASID, where the page is executable', () => {
    const run = (leaf: Leaf, substreamId: number | null): string => {
      const rig = new Rig();
      rig.stage1({ ...TRANS, S1CDMax: 4, S1DSS: 2 }).map(VA, DATA, leaf);
      if (substreamId !== null) rig.memory.put(AT.cds + 64, rig.memory.words(AT.cds, 16));
      return rights(request(rig, VA, { substreamId, execute: true }));
    };
    same([run({ ap: 3 }, 1), run({ ap: 3, uxn: 1 }, 1), run({ ap: 3 }, null)], ['R-X', 'R--', 'R--']);
  });
  rule('§3.13.7', 'a request for write access makes a clean page dirty before it grants it', () => {
    const rig = new Rig();
    const tables = rig.stage1(TRANS, { HA: 1, HD: 1 });
    const place = tables.map(VA, DATA, { ap: 3, dbm: 1 });
    same([rights(request(rig, VA, { write: false })), (tables.get(place) >> 7n) & 1n], ['R--', 1n]);
    same([rights(request(rig, VA)), (tables.get(place) >> 7n) & 1n], ['RW-', 0n]);
  });
  rule('§3.9.1', 'several translations may be asked for, and come in order of address', () => {
    const rig = new Rig();
    const tables = rig.stage1(TRANS);
    for (let i = 0n; i < 3n; i++) tables.map(VA + i * 4096n, DATA - i * 4096n);
    same(
      request(rig, VA, { count: 3 }).entries.map((each) => each.translated),
      [AT.data, AT.data - 4096, AT.data - 8192],
    );
  });
  rule('§3.9.1', 'nested: the translation is of both stages', () => {
    const rig = new Rig();
    const { first, second } = rig.nested(TRANS);
    first.map(VA, VA + 0x20_0000n, { level: 2 });
    second.map(VA + 0x20_0000n, DATA);
    has(request(rig, VA).entries[0], { translated: AT.data, sizeBits: 12 });
  });
  rule('§13.6.3', 'EATS == 0b10: the translation is of stage 1 alone, an IPA', () => {
    const rig = checked();
    const { first, second } = rig.nested({ EATS: EATS.SPLIT });
    first.map(VA, VA + 0x20_0000n);
    second.map(VA + 0x20_0000n, DATA);
    has(request(rig, VA).entries[0], { translated: Number(VA) + 0x20_0000 });
  });
  rule('§5.2', 'EATS == 0b10 where CR0.ATSCHK == 0 is as 0b00', () => {
    const rig = new Rig();
    const { first } = rig.nested({ EATS: EATS.SPLIT });
    first.map(VA, VA);
    has(request(rig, VA), { status: 'UR' });
    same(rig.events()[0]?.type, 'F_BAD_ATS_TREQ');
  });

  // --- Translated transactions ---
  rule('§6.3.9.2', 'ATSCHK == 0: Translated transactions pass without a Stream table lookup', () => {
    const rig = new Rig();
    same([rig.pa(DATA, translated), rig.memory.loads], [AT.data, 0]);
  });
  rule('§3.9.1.3', 'SMMUEN == 0: a Translated transaction is F_TRANSL_FORBIDDEN', () => {
    const rig = new Rig();
    rig.cr0({ SMMUEN: 0 });
    has(rig.fault(DATA, { ...translated, write: true }), {
      type: 'F_TRANSL_FORBIDDEN',
      RnW: 0,
      InputAddr: DATA,
    });
  });
  rule('§3.9.1.3', 'IDR0.ATS == 0: a Translated transaction is F_TRANSL_FORBIDDEN', () => {
    same(new Rig({ config: { IDR0: { ATS: 0, PRI: 0 } } }).type(DATA, translated), 'F_TRANSL_FORBIDDEN');
  });
  rule('§3.9.1.3', 'ATSCHK == 1 and EATS == 0b00: F_TRANSL_FORBIDDEN', () => {
    const rig = checked();
    rig.stage1({ EATS: EATS.ABORT });
    same(rig.type(DATA, translated), 'F_TRANSL_FORBIDDEN');
  });
  rule('§3.9.1.3', 'ATSCHK == 1 and EATS == 0b01: passes without translation', () => {
    const rig = checked();
    rig.stage1(TRANS);
    same(rig.pa(DATA, translated), AT.data);
  });
  rule('§13.6.3', 'ATSCHK == 1 and EATS == 0b10: stage 2 translates it', () => {
    const rig = checked();
    const { second } = rig.nested({ EATS: EATS.SPLIT });
    second.map(VA, DATA);
    same([rig.pa(VA, translated), rig.type(VA + 4096n, translated)], [AT.data, 'F_TRANSLATION']);
  });
  rule('§3.9.1.3', 'ATSCHK == 1 and an STE that aborts: aborted without a record', () => {
    const rig = checked();
    rig.ste(SID, { Config: STE_CONFIG.ABORT });
    has(rig.dma(DATA, translated), { kind: 'terminated', abort: true, event: null });
  });
  rule('§3.9.1.3', 'ATSCHK == 1 and a bad STE: aborted, and recorded with REC_CFG_ATS', () => {
    const rig = checked();
    rig.ste(SID, { V: 0 });
    same(rig.type(DATA, translated), 'C_BAD_STE');
  });
  rule('§3.9.1.1', 'a translated address beyond the OAS is aborted without a record', () => {
    const rig = new Rig({ config: { IDR5: { OAS: 1, DS: 0, VAX: 0 } } });
    has(rig.dma(1n << 36n, translated), { kind: 'terminated', abort: true, event: null });
  });

  // --- the ATC, and CMD_ATC_INV ---
  rule('§3.9.1', 'what the ATC holds is used until an Invalidate Request takes it', () => {
    const { rig, pci, has: inAtc } = cached();
    rig.run(command.tlbi('TLBI_NSNH_ALL'), command.cfgiAll());
    same(inAtc(), true);
    has(pci.translate(VA + 8n, { write: true }), { kind: 'translated', pa: AT.data + 8 });
  });
  rule('§4.5.1', 'CMD_ATC_INV takes the entries of the range', () => {
    const { rig, has: inAtc } = cached();
    rig.run(command.atcInv({ address: VA + 0x1000n }));
    same(inAtc(), true);
    rig.run(command.atcInv({ address: VA }));
    same(inAtc(), false);
  });
  rule('§4.5.1', 'Size: 4096 * 2^Size bytes, aligned', () => {
    const { rig, has: inAtc } = cached();
    rig.run(command.atcInv({ address: VA + 0x7000n, Size: 3 }));
    same(inAtc(), false);
  });
  rule('§4.5.1', 'Size == 52 takes everything', () => {
    const { rig, has: inAtc } = cached();
    rig.run(command.atcInv({ address: 1n << 60n, Size: 52 }));
    same(inAtc(), false);
  });
  rule('§4.5.1', 'Size above 52 is CERROR_ILL, as one permitted behaviour', () => {
    same(new Rig().try(command.atcInv({ Size: 53 })), 'ILL');
  });
  rule('§4.5.1', 'SSV == 1 takes the entries of its SubstreamID alone', () => {
    const { rig, has: inAtc } = cached(3);
    rig.run(command.atcInv({ address: VA, SSV: 1, SubstreamID: 2 }));
    same(inAtc(), true);
    rig.run(command.atcInv({ address: VA, SSV: 1, SubstreamID: 3 }));
    same(inAtc(), false);
  });
  rule('§4.5.1', 'SSV == 0 sends no PASID: the function gives up entries of every PASID', () => {
    const { rig, has: inAtc } = cached(3);
    rig.run(command.atcInv({ address: VA }));
    same(inAtc(), false);
  });
  rule('§4.5.1', 'CMD_ATC_INV where IDR0.ATS == 0 is CERROR_ILL', () => {
    same(new Rig({ config: { IDR0: { ATS: 0, PRI: 0 } } }).try(command.atcInv()), 'ILL');
  });
  rule('§4.5.1', 'CMD_ATC_INV while SMMUEN == 0 is consumed without effect', () => {
    const { rig, has: inAtc } = cached();
    rig.cr0({ SMMUEN: 0 });
    same([rig.try(command.atcInv({ address: VA, Size: 52 })), inAtc()], ['NONE', true]);
  });
  rule('§3.9.1', 'disabling ATS in the function empties its ATC', () => {
    const { pci, has: inAtc } = cached();
    pci.atc.enable(false);
    pci.atc.enable(true);
    same(inAtc(), false);
  });
  rule('§3.9.1.4', 'a CMD_ATC_INV that times out fails the next CMD_SYNC: CERROR_ATC_INV_SYNC', () => {
    const rig = new Rig();
    rig.smmu.attachEndpoint(SID, { invalidate: () => false, pageResponse: () => {} });
    same([rig.try(command.atcInv()), rig.try(command.sync())], ['NONE', 'ATC_INV_SYNC']);
  });
  rule('§3.9.1.4', 'CONS.RD stays at the CMD_SYNC; acknowledged, it completes', () => {
    const rig = new Rig();
    rig.smmu.attachEndpoint(SID, { invalidate: () => false, pageResponse: () => {} });
    rig.run(command.atcInv(), command.sync());
    same(rig.read('CMDQ_CONS') & 0xff, 1);
    rig.acknowledge();
    same([rig.read('CMDQ_CONS') & 0xff, rig.cerror], [2, 'NONE']);
  });

  // --- the PRI queue ---
  rule('§8', 'a Page Request becomes a 16-byte entry', () => {
    const { rig } = paging();
    same(rig.smmu.requestPage(page({ substreamId: 9, privileged: true, execute: true, last: false })), null);
    has(rig.pageRequests()[0], {
      StreamID: SID,
      SubstreamID: 9,
      SSV: 1,
      Priv: 1,
      X: 1,
      R: 1,
      W: 1,
      Last: 0,
      PRGIndex: 0x155,
      PageAddr: 0x12_3456,
    });
  });
  rule('§8', 'without a PASID, SSV, SubstreamID, Priv and X are 0', () => {
    const { rig } = paging();
    rig.smmu.requestPage(page({ privileged: true, execute: true }));
    has(rig.pageRequests()[0], { SSV: 0, SubstreamID: 0, Priv: 0, X: 0 });
  });
  rule('§3.18', 'the PRI queue interrupts when it goes from empty to non-empty', () => {
    const { rig } = paging();
    rig.smmu.requestPage(page());
    rig.smmu.requestPage(page());
    same(rig.interrupts, ['priq']);
  });
  rule('§6.3.36', 'PRIQ_IRQ_CFG2.LO == 1: it interrupts for requests with Last', () => {
    const { rig } = paging();
    rig.write('IRQ_CTRL', 0);
    rig.write('PRIQ_IRQ_CFG2', 0x8000_0000);
    rig.write('IRQ_CTRL', 0b111);
    rig.smmu.requestPage(page({ last: false }));
    same(rig.interrupts, []);
    rig.smmu.requestPage(page());
    same(rig.interrupts, ['priq']);
  });
  rule('§8.1', 'a full queue overflows: OVFLG, and success for requests with Last', () => {
    const { rig, responses } = full();
    rig.smmu.requestPage(page());
    same(rig.read('PRIQ_PROD'), 0x8000_0020);
    same(responses, [{ streamId: SID, substreamId: null, prgIndex: 0x155, code: PRG_RESPONSE.SUCCESS }]);
  });
  rule('§8.1', 'requests without Last are dropped by a full queue without an answer', () => {
    const { rig, responses } = full();
    rig.smmu.requestPage(page({ last: false }));
    same(responses, []);
  });
  rule('§8.1', 'while the overflow is unacknowledged nothing enters, though there is room', () => {
    const { rig, responses } = full();
    rig.smmu.requestPage(page());
    rig.write('PRIQ_CONS', 4);
    rig.smmu.requestPage(page());
    same([rig.read('PRIQ_PROD'), responses.length], [0x8000_0020, 2]);
    rig.write('PRIQ_CONS', 0x8000_0004);
    rig.smmu.requestPage(page());
    same(rig.read('PRIQ_PROD'), 0x8000_0021);
  });
  rule('§8.1', 'the automatic answer to a request with a PASID has it where STE.PPAR == 1', () => {
    for (const PPAR of [0, 1]) {
      const { rig, responses } = full();
      rig.stage1({ PPAR });
      rig.smmu.requestPage(page({ substreamId: 3 }));
      same([responses[0]!.substreamId, responses[0]!.code], [PPAR === 1 ? 3 : null, PRG_RESPONSE.SUCCESS]);
    }
  });
  rule('§8.1', 'IDR3.PPS == 1: the automatic answer always has the PASID, and no STE is read', () => {
    const { rig, responses } = full({ IDR3: { PPS: 1 } });
    rig.smmu.requestPage(page({ substreamId: 3 }));
    same([responses[0]!.substreamId, [...rig.smmu.cachedStreams()].length], [3, 0]);
  });
  rule('§8.1', 'a request with a PASID whose STE is bad is answered with failure', () => {
    const { rig, responses } = full();
    rig.smmu.requestPage(page({ substreamId: 3 }));
    same([responses[0]!.code, rig.events().map((seen) => seen.type)], [PRG_RESPONSE.FAILURE, ['C_BAD_STE']]);
  });
  rule('§8.2', 'PRIQEN == 0 or SMMUEN == 0: a request is answered with failure', () => {
    for (const bits of [{ PRIQEN: 0 }, { SMMUEN: 0 }]) {
      const { rig, responses } = paging();
      rig.cr0(bits);
      rig.smmu.requestPage(page());
      same(
        responses.map((each) => each.code),
        [PRG_RESPONSE.FAILURE],
      );
    }
  });
  rule(
    '§8.2',
    'an abort of the write activates PRIQ_ABT_ERR, and the request is answered with failure',
    () => {
      const { rig, responses } = paging();
      rig.memory.refuse(AT.priq, 16);
      rig.smmu.requestPage(page());
      same(
        [rig.gerrors(), rig.read('PRIQ_PROD'), responses[0]?.code],
        [['PRIQ_ABT_ERR'], 0, PRG_RESPONSE.FAILURE],
      );
    },
  );
  rule('§8.2', 'nothing enters the queue while PRIQ_ABT_ERR is active', () => {
    const { rig, responses } = paging();
    rig.memory.refuse(AT.priq, 16);
    rig.smmu.requestPage(page());
    rig.memory.mend();
    rig.smmu.requestPage(page());
    rig.acknowledge();
    rig.smmu.requestPage(page());
    same([rig.read('PRIQ_PROD'), responses.length], [1, 2]);
  });
  rule('§8.2', 'a PASID Stop Marker enters the queue as a request with Last and without R and W', () => {
    const { rig } = paging();
    rig.smmu.requestPage(page({ substreamId: 3, read: false, write: false }));
    has(rig.pageRequests()[0], { R: 0, W: 0, Last: 1, SSV: 1 });
  });
  rule('§8.1', 'a Stop Marker is never answered', () => {
    const { rig, responses } = full();
    rig.smmu.requestPage(page({ substreamId: 3, read: false, write: false }));
    rig.cr0({ PRIQEN: 0 });
    rig.smmu.requestPage(page({ substreamId: 3, read: false, write: false }));
    same(responses, []);
  });

  // --- CMD_PRI_RESP ---
  rule('§4.5.2', 'CMD_PRI_RESP sends a PRG Response: 0b00 failure, 0b01 invalid, 0b10 success', () => {
    const { rig, responses } = paging();
    for (const Resp of [0, 1, 2]) rig.run(command.priResp({ PRGIndex: 0x1aa, Resp }));
    same(
      responses.map((each) => each.code),
      [PRG_RESPONSE.FAILURE, PRG_RESPONSE.INVALID, PRG_RESPONSE.SUCCESS],
    );
    same([responses[0]!.prgIndex, responses[0]!.substreamId], [0x1aa, null]);
  });
  rule('§4.5.2', 'SSV == 1: the response has the PASID', () => {
    const { rig, responses } = paging();
    rig.run(command.priResp({ SSV: 1, SubstreamID: 7, Resp: 2 }));
    same(responses[0]!.substreamId, 7);
  });
  rule('§4.5.2', 'Resp == 0b11 is CERROR_ILL', () =>
    same(new Rig().try(command.priResp({ Resp: 3 })), 'ILL'),
  );
  rule('§4.5.2', 'CMD_PRI_RESP where IDR0.PRI == 0 is CERROR_ILL', () => {
    same(new Rig({ config: { IDR0: { PRI: 0 } } }).try(command.priResp()), 'ILL');
  });
  rule('§4.5.2', 'CMD_PRI_RESP while SMMUEN == 0 is consumed without effect', () => {
    const { rig, responses } = paging();
    rig.cr0({ SMMUEN: 0 });
    same([rig.try(command.priResp({ Resp: 2 })), responses], ['NONE', []]);
  });
});
