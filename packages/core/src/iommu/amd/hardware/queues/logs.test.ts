import { describe, expect, it } from 'vitest';
import { hi32, lo32, u64 } from '../../../../base/u64.ts';
import { CONTROL, OFFSET, PPR_AUTO_RESPONSE, PPR_OVERFLOW_EARLY, STATUS } from '../../spec/registers.ts';
import type { ConfigOverrides } from '../registers/config.ts';
import type { PageRequest, PageResponse } from './ppr-log.ts';
import { BASIC, type Fields, Rig, completionWait } from '../testing/rig.ts';

const DEVICE = 0x20;

/** A device all of whose accesses are page faults. */
function faulty(overrides: ConfigOverrides = {}): Rig {
  const rig = new Rig(overrides);
  rig.hostDte(DEVICE, rig.page(), 3);
  return rig;
}
const fault = (rig: Rig, times = 1): void => {
  for (let i = 0; i < times; i++) rig.where(DEVICE, BigInt(i) << 12n);
};

describe('the event log', () => {
  it('§2.5: records go in at the tail', () => {
    const rig = faulty();
    fault(rig, 2);
    expect(rig.get(OFFSET.EVT_TAIL)).toBe(32n);
    expect(rig.get(OFFSET.EVT_HEAD)).toBe(0n);
    expect(rig.at(rig.eventLog + 24)).toBe(0x1000n);
    expect(rig.events().map((event) => event.fields['Address'])).toEqual([0n, 0x1000n]);
  });

  it('§2.5: starts over at its end', () => {
    const rig = faulty();
    for (let round = 0; round < 300; round++) {
      fault(rig);
      expect(rig.events()).toHaveLength(1);
    }
    expect(rig.get(OFFSET.EVT_TAIL)).toBe((300n * 16n) % 4096n);
  });

  it.each([
    ['EventLogEn', 8n, BASIC & ~CONTROL.EventLogEn.inPlace],
    ['a Len of 8 or more', 7n, BASIC],
  ])('§3.4, 2020h: without %s EventLogRun is 0 and events are lost', (_name, length, control) => {
    const rig = faulty();
    rig.control(0);
    rig.set(OFFSET.EVT_LOG_BASE, BigInt(rig.eventLog) | (length << 56n));
    rig.control(control);
    expect(rig.status & STATUS.EventLogRun.inPlace).toBe(0);
    expect(rig.dma(DEVICE, 0n)).toMatchObject({ kind: 'aborted', recorded: false });
    expect(rig.status & (STATUS.EventLogInt.inPlace | STATUS.EventOverflow.inPlace)).toBe(0);
    expect(rig.get(OFFSET.EVT_TAIL)).toBe(0n);
  });

  it('§3.4, 0010h: writing the base sets both pointers to 0', () => {
    const rig = faulty();
    fault(rig);
    rig.control(0);
    rig.set(OFFSET.EVT_LOG_BASE, BigInt(rig.eventLog) | (8n << 56n));
    expect([rig.get(OFFSET.EVT_HEAD), rig.get(OFFSET.EVT_TAIL)]).toEqual([0n, 0n]);
  });

  it('§2.5: is full with one entry free; the next event sets EventOverflow and stops it', () => {
    const rig = faulty();
    fault(rig, 255);
    expect(rig.status & STATUS.EventOverflow.inPlace).toBe(0);
    expect(rig.get(OFFSET.EVT_TAIL)).toBe(4080n);
    expect(rig.dma(DEVICE, 0n)).toMatchObject({ recorded: false });
    expect(rig.status & (STATUS.EventOverflow.inPlace | STATUS.EventLogRun.inPlace)).toBe(
      STATUS.EventOverflow.inPlace,
    );
    expect(rig.get(OFFSET.EVT_TAIL)).toBe(4080n);
  });

  it('§2.5: after an overflow nothing is logged, though there be room, until it is enabled anew', () => {
    const rig = faulty();
    fault(rig, 256);
    expect(rig.events()).toHaveLength(255);
    fault(rig);
    rig.set(OFFSET.STATUS, STATUS.EventOverflow.inPlace);
    fault(rig);
    expect(rig.events()).toEqual([]);
    // drivers/iommu/amd/init.c amd_iommu_restart_log()
    rig.control(BASIC & ~(CONTROL.EventLogEn.inPlace | CONTROL.EventIntEn.inPlace));
    rig.set(OFFSET.STATUS, STATUS.EventOverflow.inPlace);
    rig.control(BASIC);
    expect(rig.status & STATUS.EventLogRun.inPlace).toBe(STATUS.EventLogRun.inPlace);
    fault(rig);
    expect(rig.events()).toHaveLength(1);
  });

  it('§2.5: a log that memory refuses keeps no record', () => {
    const rig = faulty();
    rig.control(0);
    rig.set(OFFSET.EVT_LOG_BASE, (0x7fn << 32n) | (8n << 56n));
    rig.control(BASIC);
    expect(rig.dma(DEVICE, 0n)).toMatchObject({ kind: 'aborted', recorded: false });
    expect(rig.get(OFFSET.EVT_TAIL)).toBe(0n);
  });

  it('§3.4, 2018h: the tail is not to be written while it runs, the head is', () => {
    const rig = faulty();
    fault(rig, 2);
    rig.set(OFFSET.EVT_TAIL, 0);
    rig.set(OFFSET.EVT_HEAD, 16);
    expect([rig.get(OFFSET.EVT_TAIL), rig.get(OFFSET.EVT_HEAD)]).toEqual([32n, 16n]);
  });
});

describe("interrupts of the IOMMU's own", () => {
  it('§2.8: EventLogInt is set by a record, and interrupts with EventIntEn', () => {
    const rig = faulty();
    fault(rig);
    expect(rig.status & STATUS.EventLogInt.inPlace).toBe(STATUS.EventLogInt.inPlace);
    expect(rig.interrupts).toEqual([]);
    rig.control(BASIC | CONTROL.EventIntEn.inPlace);
    expect(rig.interrupts).toEqual(['event-log']);
  });

  it('§2.8: one that has not been cleared does not interrupt again', () => {
    const rig = faulty();
    rig.control(BASIC | CONTROL.EventIntEn.inPlace);
    fault(rig, 3);
    expect(rig.interrupts).toEqual(['event-log']);
    rig.set(OFFSET.STATUS, STATUS.EventLogInt.inPlace);
    expect(rig.status & STATUS.EventLogInt.inPlace).toBe(0);
    fault(rig);
    expect(rig.interrupts).toEqual(['event-log', 'event-log']);
  });

  it('§2.8: EventOverflow interrupts as well', () => {
    const rig = faulty();
    rig.control(BASIC | CONTROL.EventIntEn.inPlace);
    fault(rig, 255);
    rig.interrupts.length = 0;
    fault(rig);
    expect(rig.interrupts).toEqual(['event-log']);
  });

  it('§2.8: MSI is the message, where it is enabled', () => {
    const rig = faulty();
    rig.control(BASIC | CONTROL.EventIntEn.inPlace);
    fault(rig);
    expect(rig.msis).toEqual([]);
    rig.iommu.writeCapability(0x28, 0xfee0_1000);
    rig.iommu.writeCapability(0x30, 0x41);
    rig.iommu.writeCapability(0x24, 1 << 16);
    rig.set(OFFSET.STATUS, STATUS.EventLogInt.inPlace);
    fault(rig);
    expect(rig.msis).toEqual([{ hi: 0, lo: 0xfee0_1000, data: 0x41 }]);
  });

  it('§3.2.5: with several messages MsiNum and MsiNumPPR say which', () => {
    const rig = faulty({ miscInfo0: { MsiNum: 0, MsiNumPPR: 1 } });
    rig.control(BASIC | CONTROL.EventIntEn.inPlace | PPR | CONTROL.PprIntEn.inPlace);
    rig.iommu.writeCapability(0x28, 0xfee0_0000);
    rig.iommu.writeCapability(0x30, 0x40);
    rig.iommu.writeCapability(0x24, (1 << 16) | (1 << 20));
    fault(rig);
    rig.hostDte(DEVICE + 1, rig.page(), 3, { I: 1, PPR: 1 });
    rig.iommu.requestPage({ ...page, deviceId: DEVICE + 1 });
    expect(rig.msis.map((msi) => msi.data)).toEqual([0x40, 0x41]);
  });

  it('§3.4, 0170h: with IntCapXTEn the XT registers are, with 32 bits of destination', () => {
    const rig = faulty();
    rig.control(
      BASIC | CONTROL.EventIntEn.inPlace | PPR | CONTROL.PprIntEn.inPlace,
      CONTROL.IntCapXTEn.inPlace,
    );
    rig.set(OFFSET.XT_GEN_INT, (0x12n << 56n) | (0x51n << 32n) | (0x34_5678n << 8n) | 4n);
    rig.set(OFFSET.XT_PPR_INT, (1n << 40n) | (0x52n << 32n) | (0x07n << 8n));
    fault(rig);
    rig.hostDte(DEVICE + 1, rig.page(), 3, { I: 1, PPR: 1 });
    rig.iommu.requestPage({ ...page, deviceId: DEVICE + 1 });
    expect(rig.msis).toEqual([
      { hi: 0x1234_5600, lo: 0xfee7_8004, data: 0x51 },
      { hi: 0, lo: 0xfee0_7000, data: 0x152 },
    ]);
  });

  it('§2.8: a handler may write registers', () => {
    const rig = faulty();
    rig.interrupts.push = () => {
      rig.set(OFFSET.STATUS, STATUS.ComWaitInt.inPlace);
      return 0;
    };
    rig.control(BASIC | CONTROL.ComWaitIntEn.inPlace);
    rig.submit(completionWait({ i: 1 }), completionWait({ i: 1 }));
    expect(rig.status & STATUS.ComWaitInt.inPlace).toBe(0);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(32n);
  });
});

// --- the PPR log ---

const PPR = CONTROL.PPREn.inPlace | CONTROL.PPRLogEn.inPlace;
const page: PageRequest = {
  deviceId: DEVICE,
  pasid: null,
  hi: 0x12,
  lo: 0x3456_7000,
  prgIndex: 3,
  read: true,
  write: false,
  execute: false,
  privileged: false,
  last: true,
};

interface Pri {
  readonly rig: Rig;
  readonly responses: PageResponse[];
}

function pri(fields: Fields = {}, hi = 0, overrides: ConfigOverrides = {}): Pri {
  const rig = new Rig(overrides);
  rig.hostDte(DEVICE, rig.page(), 3, { I: 1, GV: 1, PPR: overrides.EFR?.PPRSup ?? 1, ...fields });
  rig.control(BASIC | PPR | CONTROL.GTEn.inPlace, hi);
  const responses: PageResponse[] = [];
  rig.iommu.attachEndpoint(DEVICE, {
    invalidate: () => true,
    pageResponse: (response) => void responses.push(response),
  });
  return { rig, responses };
}

describe('the PPR log', () => {
  it('§2.6: has the request', () => {
    const { rig, responses } = pri();
    expect(rig.iommu.requestPage({ ...page, lo: 0x3456_7fff })).toBeNull();
    expect(rig.pprs()).toMatchObject([
      {
        DeviceID: DEVICE,
        PRGIndex: 3,
        Last: 1,
        READ: 1,
        WRITE: 0,
        EXE: 0,
        US: 1,
        GN: 0,
        RZ: 0,
        PPRCode: 1,
        Address: 0x123_4567,
      },
    ]);
    expect(responses).toEqual([]);
  });

  it('§2.6: has a PASID in two pieces, and what only requests with one tell', () => {
    const { rig } = pri();
    const rest = { pasid: 0xa_bcde, prgIndex: 0x1ff, write: true, execute: true, privileged: true };
    rig.iommu.requestPage({ ...page, ...rest, last: false });
    expect(rig.pprs()).toMatchObject([
      {
        PASID_15_0: 0xbcde,
        PASID_19_16: 0xa,
        GN: 1,
        PRGIndex: 0x1ff,
        Last: 0,
        WRITE: 1,
        EXE: 1,
        US: 0,
      },
    ]);
  });

  it('§2.6: is where software expects it, and the tail moves', () => {
    const { rig } = pri();
    rig.iommu.requestPage(page);
    expect(rig.get(OFFSET.PPR_TAIL)).toBe(16n);
    const word = rig.at(rig.pprLog);
    expect([lo32(word), hi32(word) >>> 28]).toEqual([DEVICE, 1]);
    expect(rig.at(rig.pprLog + 8)).toBe(u64(page.hi, page.lo));
  });

  it.each([
    ['PPREn', BASIC | CONTROL.PPRLogEn.inPlace],
    ['IommuEn', PPR],
  ])('§3.4, 0018h: without %s nothing is taken', (_name, control) => {
    const { rig } = pri();
    rig.control(control);
    rig.iommu.requestPage(page);
    expect([rig.get(OFFSET.PPR_TAIL), rig.events()]).toEqual([0n, []]);
  });

  it('§3.4, 0018h: without PPRLogEn it is lost', () => {
    const { rig } = pri();
    rig.control(BASIC | CONTROL.PPREn.inPlace);
    expect(rig.status & STATUS.PprLogRun.inPlace).toBe(0);
    rig.iommu.requestPage(page);
    expect([rig.get(OFFSET.PPR_TAIL), rig.events()]).toEqual([0n, []]);
  });

  it('§3.4, 0030h: without PPRSup there is none', () => {
    const { rig } = pri({}, 0, { EFR: { PPRSup: 0, EPHSup: 0, PPRAutoRspSup: 0, PprOvrflwEarlySup: 0 } });
    expect(rig.get(OFFSET.CONTROL) & BigInt(PPR)).toBe(0n);
    expect(rig.get(OFFSET.PPR_LOG_BASE)).toBe(0n);
    expect(rig.iommu.requestPage(page)).toBeNull();
  });

  it('§2.8: PprInt interrupts with PprIntEn', () => {
    const { rig } = pri();
    rig.control(BASIC | PPR | CONTROL.PprIntEn.inPlace);
    rig.iommu.requestPage(page);
    rig.iommu.requestPage(page);
    expect(rig.interrupts).toEqual(['ppr-log']);
    expect(rig.status & STATUS.PprInt.inPlace).toBe(STATUS.PprInt.inPlace);
    rig.set(OFFSET.STATUS, STATUS.PprInt.inPlace);
    rig.iommu.requestPage(page);
    expect(rig.interrupts).toEqual(['ppr-log', 'ppr-log']);
  });

  it('§2.6: overflows like the event log, and starts anew by PPRLogEn', () => {
    const { rig } = pri();
    rig.control(BASIC | PPR | CONTROL.PprIntEn.inPlace);
    for (let i = 0; i < 255; i++) rig.iommu.requestPage(page);
    rig.interrupts.length = 0;
    rig.iommu.requestPage(page);
    expect(rig.interrupts).toEqual(['ppr-log']);
    expect(rig.status & (STATUS.PprOverflow.inPlace | STATUS.PprLogRun.inPlace)).toBe(
      STATUS.PprOverflow.inPlace,
    );
    expect(rig.pprs()).toHaveLength(255);
    rig.iommu.requestPage(page);
    expect(rig.pprs()).toEqual([]);
    rig.control(BASIC | CONTROL.PPREn.inPlace);
    rig.set(OFFSET.STATUS, STATUS.PprOverflow.inPlace);
    rig.control(BASIC | PPR);
    rig.iommu.requestPage(page);
    expect(rig.pprs()).toHaveLength(1);
  });

  it('§3.4, 2088h: PprOverflowEarly is set when the threshold is reached', () => {
    const { rig } = pri();
    const enables =
      PPR_OVERFLOW_EARLY.PprOvrflwEarlyEn.inPlace | PPR_OVERFLOW_EARLY.PprOvrflwEarlyIntEn.inPlace;
    rig.set(OFFSET.PPR_OVERFLOW_EARLY, u64(0, enables | 3));
    for (let i = 0; i < 2; i++) rig.iommu.requestPage(page);
    expect(rig.status & STATUS.PprOverflowEarly.inPlace).toBe(0);
    rig.iommu.requestPage(page);
    expect(rig.status & STATUS.PprOverflowEarly.inPlace).toBe(STATUS.PprOverflowEarly.inPlace);
    expect(rig.interrupts).toEqual(['ppr-log']);
  });

  it('§3.4, 2088h: nothing without PprOvrflwEarlyEn', () => {
    const { rig } = pri();
    rig.set(OFFSET.PPR_OVERFLOW_EARLY, PPR_OVERFLOW_EARLY.PprOvrflwEarlyIntEn.inPlace);
    rig.iommu.requestPage(page);
    expect(rig.status & STATUS.PprOverflowEarly.inPlace).toBe(0);
    expect(rig.interrupts).toEqual([]);
  });
});

describe('automatic responses', () => {
  const AUTO = CONTROL.PprAutoRspEn.inPlace;

  it('§3.4, 0018h: with PprAutoRspEn what the log cannot take is answered', () => {
    const { rig, responses } = pri({}, AUTO);
    rig.set(OFFSET.PPR_AUTO_RESPONSE, 1);
    for (let i = 0; i < 255; i++) expect(rig.iommu.requestPage(page)).toBeNull();
    const response = { deviceId: DEVICE, pasid: null, prgIndex: 3, code: 1 };
    expect(rig.iommu.requestPage(page)).toEqual(response);
    expect(rig.iommu.requestPage(page)).toEqual(response);
    expect(responses).toEqual([response, response]);
  });

  it('§2.6: only the last request of a group is answered', () => {
    const { rig, responses } = pri({}, AUTO);
    rig.control(BASIC | CONTROL.PPREn.inPlace | CONTROL.GTEn.inPlace, AUTO);
    expect(rig.iommu.requestPage({ ...page, last: false })).toBeNull();
    expect(responses).toEqual([]);
  });

  it('§3.4, 0018h: with PprAutoRspAon everything is', () => {
    const { rig, responses } = pri({}, AUTO | CONTROL.PprAutoRspAon.inPlace);
    rig.iommu.requestPage(page);
    expect([rig.pprs().length, responses.length]).toEqual([1, 1]);
  });

  it.each([
    [0, 0x5],
    [PPR_AUTO_RESPONSE.PprAutoRespMaskGn.inPlace, null],
  ])('§3.4, 2080h: MaskGn %i keeps the PASID out', (mask, pasid) => {
    const { rig, responses } = pri({}, AUTO | CONTROL.PprAutoRspAon.inPlace);
    rig.set(OFFSET.PPR_AUTO_RESPONSE, mask | 0xf);
    rig.iommu.requestPage({ ...page, pasid: 5 });
    expect(responses).toEqual([{ deviceId: DEVICE, pasid, prgIndex: 3, code: 0xf }]);
  });

  it('§3.4, 0018h: without PprAutoRspEn nothing is answered', () => {
    const { rig, responses } = pri({}, CONTROL.PprAutoRspAon.inPlace);
    rig.iommu.requestPage(page);
    expect(responses).toEqual([]);
  });
});

describe('INVALID_PPR_REQUEST', () => {
  it.each<[string, Fields, number, number | null]>([
    ['DTE.V is 0', { V: 0 }, 0, null],
    ['DTE.I is 0', { I: 0 }, 0, null],
    ['DTE.PPR is 0 with EPHEn', { PPR: 0 }, CONTROL.EPHEn.inPlace, null],
    ['DTE.GV is 0 and it has a PASID', { GV: 0 }, 0, 0x1_2345],
  ])('§2.5.10: where %s', (_name, fields, hi, pasid) => {
    const { rig, responses } = pri(fields, hi);
    rig.iommu.requestPage({ ...page, pasid });
    expect(rig.events()).toMatchObject([
      {
        name: 'INVALID_PPR_REQUEST',
        fields: {
          DeviceID: DEVICE,
          PASID_15_0: (pasid ?? 0) & 0xffff,
          PASID_19_16: (pasid ?? 0) >>> 16,
          GN: pasid === null ? 0 : 1,
          RX: 0,
          PPRTag: 0x203,
          Address: 0x123_4567,
        },
      },
    ]);
    expect([rig.pprs(), responses]).toEqual([[], []]);
  });

  it('§3.4, 0018h: DTE.PPR counts with EPHEn alone', () => {
    const { rig } = pri({ PPR: 0 });
    rig.iommu.requestPage(page);
    expect([rig.pprs().length, rig.events().length]).toEqual([1, 0]);
  });

  it('§2.5.3: a DeviceID outside of the table is IO_PAGE_FAULT', () => {
    const { rig } = pri();
    rig.iommu.requestPage({ ...page, deviceId: 0x1000 });
    expect(rig.events().map((event) => event.name)).toEqual(['IO_PAGE_FAULT']);
  });
});
