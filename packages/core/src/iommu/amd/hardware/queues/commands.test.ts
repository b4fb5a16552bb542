import { describe, expect, it } from 'vitest';
import type { AtcInvalidation } from '../../../caches/cache-atc.ts';
import { CMD, CMD_PREFETCH } from '../../spec/commands.ts';
import { CONTROL, HW_EVENT_STATUS, OFFSET, STATUS } from '../../spec/registers.ts';
import type { ConfigOverrides } from '../registers/config.ts';
import type { PageResponse } from './ppr-log.ts';
import {
  BASIC,
  Rig,
  completePpr,
  completionWait,
  gcr3Fields,
  invalidateAll,
  invalidateDevice,
  invalidateInterrupts,
  invalidateIotlb,
  invalidatePages,
  prefetch,
  pte,
} from '../testing/rig.ts';

const DEVICE = 0x20;
const RUN = STATUS.CmdBufRun.inPlace;
const nowhere = 0x7f_0000_0000;

/** An endpoint that keeps what it is told. */
function endpoint(rig: Rig, answers = true): { invalidations: AtcInvalidation[]; responses: PageResponse[] } {
  const invalidations: AtcInvalidation[] = [];
  const responses: PageResponse[] = [];
  rig.iommu.attachEndpoint(DEVICE, {
    invalidate: (request) => {
      invalidations.push(request);
      return answers;
    },
    pageResponse: (response) => void responses.push(response),
  });
  return { invalidations, responses };
}

describe('the command buffer', () => {
  it('§2.4: the head follows the tail as commands are done', () => {
    const rig = new Rig();
    rig.submit(invalidateAll(), invalidateAll());
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(32n);
    expect(rig.get(OFFSET.CMD_TAIL)).toBe(32n);
  });

  it('§2.4: starts over at its end', () => {
    const rig = new Rig();
    for (let i = 0; i < 255; i++) rig.submit(invalidateAll());
    const flag = rig.page();
    rig.submit(completionWait({ s: 1, address: flag, data: 1n }));
    rig.submit(completionWait({ s: 1, address: flag + 8, data: 2n }));
    expect([rig.at(flag), rig.at(flag + 8)]).toEqual([1n, 2n]);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(16n);
  });

  it.each([
    ['CmdBufEn', BASIC & ~CONTROL.CmdBufEn.inPlace],
    ['IommuEn', BASIC & ~CONTROL.IommuEn.inPlace],
  ])('§3.4, 2020h: CmdBufRun is 0 without %s, and commands wait', (_name, control) => {
    const rig = new Rig();
    rig.control(control);
    expect(rig.status & RUN).toBe(0);
    rig.submit(invalidateAll());
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(0n);
    rig.control(BASIC);
    expect(rig.status & RUN).toBe(RUN);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(16n);
  });

  it('§3.4, 0008h: writing the base sets both pointers to 0', () => {
    const rig = new Rig();
    rig.submit(invalidateAll());
    rig.control(BASIC & ~CONTROL.CmdBufEn.inPlace);
    rig.set(OFFSET.CMD_BUF_BASE, BigInt(rig.commandBuffer) | (8n << 56n));
    expect([rig.get(OFFSET.CMD_HEAD), rig.get(OFFSET.CMD_TAIL)]).toEqual([0n, 0n]);
  });

  it('§3.4, 0008h: with a Len below 8 it does not run', () => {
    const rig = new Rig();
    rig.control(0);
    rig.set(OFFSET.CMD_BUF_BASE, BigInt(rig.commandBuffer) | (7n << 56n));
    rig.control(BASIC);
    expect(rig.status & RUN).toBe(0);
  });

  it('§3.4, 0008h: Len 15 is 32768 commands', () => {
    const rig = new Rig();
    const ring = rig.pages(128);
    rig.control(0);
    rig.set(OFFSET.CMD_BUF_BASE, BigInt(ring) | (15n << 56n));
    const last = ring + 32767 * 16;
    rig.put(last, BigInt(CMD.INVALIDATE_IOMMU_ALL) << 60n);
    rig.set(OFFSET.CMD_HEAD, 32767 * 16);
    rig.control(BASIC);
    rig.set(OFFSET.CMD_TAIL, 0);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(0n);
  });

  it('§3.4, 2000h: CMD_HEAD and the base are not to be written while it runs', () => {
    const rig = new Rig();
    rig.submit(invalidateAll(), invalidateAll());
    rig.set(OFFSET.CMD_HEAD, 0);
    rig.set(OFFSET.CMD_BUF_BASE, 0);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(32n);
    expect(rig.get(OFFSET.CMD_BUF_BASE)).toBe(BigInt(rig.commandBuffer) | (8n << 56n));
  });

  it('does no more per step than commandsPerStep, and reading the head is a step', () => {
    const rig = new Rig({ commandsPerStep: 2 });
    rig.submit(...Array.from({ length: 7 }, invalidateAll));
    expect(rig.iommu.step()).toBe(true);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(96n);
    expect(rig.iommu.step()).toBe(false);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(112n);
  });
});

describe('an illegal command', () => {
  it.each([0x0, 0x9, 0xa, 0xb, 0xf])('§2.5.6: opcode %i is ILLEGAL_COMMAND_ERROR', (opcode) => {
    const rig = new Rig();
    rig.submit(Uint32Array.of(0, (opcode << 28) >>> 0, 0, 0));
    expect(rig.events()).toMatchObject([
      { name: 'ILLEGAL_COMMAND_ERROR', fields: { DeviceID: 0, Address: BigInt(rig.commandBuffer) / 16n } },
    ]);
  });

  it('§2.5.6: stops the buffer with the head at it, until it is enabled anew', () => {
    const rig = new Rig();
    const flag = rig.page();
    rig.submit(
      invalidateAll(),
      Uint32Array.of(0, 0, 0, 0),
      completionWait({ s: 1, address: flag, data: 1n }),
    );
    expect(rig.status & RUN).toBe(0);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(16n);
    rig.set(OFFSET.CMD_TAIL, 48);
    rig.control(BASIC);
    expect(rig.at(flag)).toBe(0n);
    rig.put(rig.commandBuffer + 16, BigInt(CMD.INVALIDATE_IOMMU_ALL) << 60n);
    rig.control(BASIC & ~CONTROL.CmdBufEn.inPlace);
    rig.control(BASIC);
    expect(rig.at(flag)).toBe(1n);
    expect(rig.events()).toHaveLength(1);
  });

  it('§2.5.6: software may also set the head behind it, which the stopped buffer allows', () => {
    const rig = new Rig();
    const flag = rig.page();
    rig.submit(Uint32Array.of(0, 0, 0, 0), completionWait({ s: 1, address: flag, data: 1n }));
    rig.set(OFFSET.CMD_HEAD, 16);
    rig.control(BASIC & ~CONTROL.CmdBufEn.inPlace);
    rig.control(BASIC);
    expect(rig.at(flag)).toBe(1n);
  });

  it.each<[string, Uint32Array, number]>([
    ['COMPLETION_WAIT', completionWait({}), 52],
    ['COMPLETION_WAIT', completionWait({}), 59],
    ['INVALIDATE_DEVTAB_ENTRY', invalidateDevice(DEVICE), 16],
    ['INVALIDATE_DEVTAB_ENTRY', invalidateDevice(DEVICE), 64],
    ['INVALIDATE_IOMMU_PAGES', invalidatePages(7, 0n), 20],
    ['INVALIDATE_IOMMU_PAGES', invalidatePages(7, 0n), 48],
    ['INVALIDATE_IOMMU_PAGES', invalidatePages(7, 0n), 67],
    ['INVALIDATE_IOMMU_PAGES', invalidatePages(7, 0n), 75],
    ['INVALIDATE_IOTLB_PAGES', invalidateIotlb(DEVICE, 0n), 65],
    ['INVALIDATE_IOTLB_PAGES', invalidateIotlb(DEVICE, 0n), 70],
    ['INVALIDATE_INTERRUPT_TABLE', invalidateInterrupts(DEVICE), 32],
    ['PREFETCH_IOMMU_PAGES', prefetch(DEVICE, 0n), 16],
    ['PREFETCH_IOMMU_PAGES', prefetch(DEVICE, 0n), 65],
    ['COMPLETE_PPR_REQUEST', completePpr({ DeviceID: DEVICE }), 64],
    ['COMPLETE_PPR_REQUEST', completePpr({ DeviceID: DEVICE }), 112],
    ['INVALIDATE_IOMMU_ALL', invalidateAll(), 0],
  ])('§2.4: %s has a reserved bit %#: %i', (_name, words, bit) => {
    const rig = new Rig();
    endpoint(rig);
    const broken = words.slice();
    broken[bit >> 5]! |= 1 << (bit & 31);
    rig.submit(words);
    expect(rig.events()).toEqual([]);
    rig.submit(broken);
    expect(rig.events().map((event) => event.name)).toEqual(['ILLEGAL_COMMAND_ERROR']);
  });

  it.each<[string, Uint32Array, ConfigOverrides]>([
    ['INVALIDATE_IOMMU_ALL without IASup', invalidateAll(), { EFR: { IASup: 0 } }],
    ['PREFETCH_IOMMU_PAGES without PreFSup', prefetch(DEVICE, 0n), { EFR: { PreFSup: 0 } }],
    [
      'COMPLETE_PPR_REQUEST without PPRSup',
      completePpr({}),
      { EFR: { PPRSup: 0, EPHSup: 0, PPRAutoRspSup: 0, PprOvrflwEarlySup: 0 } },
    ],
    ['INVALIDATE_IOTLB_PAGES without IotlbSup', invalidateIotlb(DEVICE, 0n), { capHeader: { IotlbSup: 0 } }],
  ])('§3.4, 0030h: %s is illegal', (_name, words, overrides) => {
    const rig = new Rig(overrides);
    rig.submit(words);
    expect(rig.events().map((event) => event.name)).toEqual(['ILLEGAL_COMMAND_ERROR']);
  });
});

describe('COMMAND_HARDWARE_ERROR', () => {
  it('§2.5.7: a command that memory refuses stops the buffer', () => {
    const rig = new Rig();
    rig.control(0);
    rig.set(OFFSET.CMD_BUF_BASE, BigInt(nowhere) | (8n << 56n));
    rig.control(BASIC);
    rig.set(OFFSET.CMD_TAIL, 16);
    expect(rig.events()).toMatchObject([
      { name: 'COMMAND_HARDWARE_ERROR', fields: { Type: 1, Address: BigInt(nowhere) } },
    ]);
    expect(rig.status & RUN).toBe(0);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(0n);
  });

  it('§2.5.7: so does a store of COMPLETION_WAIT', () => {
    const rig = new Rig();
    rig.submit(completionWait({ s: 1, i: 1, address: nowhere + 8, data: 1n }));
    expect(rig.events()).toMatchObject([
      { name: 'COMMAND_HARDWARE_ERROR', fields: { Address: BigInt(nowhere) + 8n } },
    ]);
    expect(rig.status & (RUN | STATUS.ComWaitInt.inPlace)).toBe(0);
  });

  it('§3.4, 0040h: the hardware event registers have the record, and HEO tells of a second one', () => {
    const rig = new Rig();
    rig.submit(completionWait({ s: 1, address: nowhere, data: 1n }));
    const [event] = rig.events();
    const word = (n: number): bigint =>
      (BigInt(event!.words[2 * n + 1]!) << 32n) | BigInt(event!.words[2 * n]!);
    expect([rig.get(OFFSET.HW_EVENT_UPPER), rig.get(OFFSET.HW_EVENT_LOWER)]).toEqual([word(0), word(1)]);
    const [valid, overflow] = [HW_EVENT_STATUS.HEV.inPlace, HW_EVENT_STATUS.HEO.inPlace];
    expect(rig.get(OFFSET.HW_EVENT_STATUS)).toBe(BigInt(valid));
    rig.hostDte(DEVICE, nowhere, 3);
    rig.where(DEVICE, 0n);
    expect(rig.get(OFFSET.HW_EVENT_STATUS)).toBe(BigInt(valid | overflow));
    rig.set(OFFSET.HW_EVENT_STATUS, overflow | valid);
    expect(rig.get(OFFSET.HW_EVENT_STATUS)).toBe(0n);
  });

  it('§3.4, 0030h: without HESup they read as zero', () => {
    const rig = new Rig({ EFR: { HESup: 0 } });
    rig.submit(completionWait({ s: 1, address: nowhere, data: 1n }));
    expect(rig.events()).toHaveLength(1);
    expect([rig.get(OFFSET.HW_EVENT_UPPER), rig.get(OFFSET.HW_EVENT_STATUS)]).toEqual([0n, 0n]);
  });
});

describe('COMPLETION_WAIT', () => {
  it('§2.4.1: s stores 64 bits at the address', () => {
    const rig = new Rig();
    const flag = rig.page();
    rig.submit(completionWait({ s: 1, address: flag + 0x18, data: 0x1234_5678_9abc_def0n }));
    expect(rig.at(flag + 0x18)).toBe(0x1234_5678_9abc_def0n);
    expect(rig.status & STATUS.ComWaitInt.inPlace).toBe(0);
    expect(rig.interrupts).toEqual([]);
  });

  it('§2.4.1: without s nothing is stored', () => {
    const rig = new Rig();
    const flag = rig.page();
    rig.put(flag, 9n);
    rig.submit(
      completionWait({ address: flag, data: 1n }),
      completionWait({ f: 1, address: flag, data: 1n }),
    );
    expect(rig.at(flag)).toBe(9n);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(32n);
  });

  it('§2.4.1: i sets ComWaitInt, and interrupts with ComWaitIntEn', () => {
    const rig = new Rig();
    rig.control(BASIC | CONTROL.ComWaitIntEn.inPlace);
    rig.submit(completionWait({ i: 1 }));
    expect(rig.status & STATUS.ComWaitInt.inPlace).toBe(STATUS.ComWaitInt.inPlace);
    expect(rig.interrupts).toEqual(['completion-wait']);
  });

  it('§2.4.1: interrupts after the store', () => {
    const rig = new Rig();
    const flag = rig.page();
    const seen: bigint[] = [];
    rig.interrupts.push = () => seen.push(rig.at(flag));
    rig.control(BASIC | CONTROL.ComWaitIntEn.inPlace);
    rig.submit(completionWait({ s: 1, i: 1, address: flag, data: 5n }));
    expect(seen).toEqual([5n]);
  });

  it('§2.4.1: comes after what the commands before it did', () => {
    const rig = new Rig();
    const flag = rig.page();
    const seen: bigint[] = [];
    rig.iommu.attachEndpoint(DEVICE, {
      invalidate: () => {
        seen.push(rig.at(flag));
        return true;
      },
      pageResponse: () => undefined,
    });
    rig.submit(invalidateIotlb(DEVICE, 0n), completionWait({ s: 1, address: flag, data: 1n }));
    expect([seen, rig.at(flag)]).toEqual([[0n], 1n]);
  });
});

describe('INVALIDATE_IOTLB_PAGES', () => {
  it('§2.4.4: goes to the device with its address, size and no PASID', () => {
    const rig = new Rig();
    const { invalidations } = endpoint(rig);
    rig.submit(invalidateIotlb(DEVICE, 0x12_3456_7000n), invalidateIotlb(DEVICE, 0x8000n, { size: 14 }));
    expect(invalidations).toMatchObject([
      { hi: 0x12, lo: 0x3456_7000, sizeBits: 12, pasid: null, global: false },
      { sizeBits: 14, pasid: null },
    ]);
  });

  it('§2.4.4: GN has a PASID in three pieces', () => {
    const rig = new Rig();
    const { invalidations } = endpoint(rig);
    rig.submit(invalidateIotlb(DEVICE, 0n, { size: 64, pasid: 0xa_bcde }));
    expect(invalidations).toMatchObject([{ sizeBits: 64, pasid: 0xa_bcde }]);
  });

  it('§2.4.4: MaxPend and QueueID change nothing', () => {
    const rig = new Rig();
    const { invalidations } = endpoint(rig);
    const words = invalidateIotlb(DEVICE, 0x1000n);
    words[0]! |= 0xff00_0000;
    words[1]! |= 0xffff;
    rig.submit(words);
    expect(invalidations).toHaveLength(1);
  });

  it.each([true, false])(
    '§2.5.8: without an answer it is IOTLB_INV_TIMEOUT (endpoint there: %s)',
    (there) => {
      const rig = new Rig();
      rig.control(BASIC | (3 << CONTROL.InvTimeOut.shift));
      if (there) endpoint(rig, false);
      rig.submit(invalidateAll(), invalidateIotlb(DEVICE, 0n), invalidateAll());
      expect(rig.events()).toMatchObject([
        {
          name: 'IOTLB_INV_TIMEOUT',
          fields: { DeviceID: DEVICE, Address: BigInt(rig.commandBuffer + 16) / 16n },
        },
      ]);
      expect(rig.get(OFFSET.CMD_HEAD)).toBe(48n);
    },
  );

  it('§3.4, 0018h: with InvTimeOut 0 nobody waits', () => {
    const rig = new Rig();
    rig.submit(invalidateIotlb(DEVICE, 0n));
    expect(rig.events()).toEqual([]);
  });

  it('goes nowhere once the endpoint is detached', () => {
    const rig = new Rig();
    const { invalidations } = endpoint(rig);
    rig.iommu.detachEndpoint(DEVICE);
    rig.submit(invalidateIotlb(DEVICE, 0n));
    expect(invalidations).toEqual([]);
  });
});

describe('PREFETCH_IOMMU_PAGES', () => {
  function mapped(): { rig: Rig; root: number; moved: () => bigint[] } {
    const rig = new Rig();
    const root = rig.page();
    rig.hostDte(DEVICE, root, 3);
    const leaves = [0, 1, 2, 3].map((n) => rig.map(root, 3, BigInt(n) << 12n, pte(0x10_0000n)));
    const moved = (): bigint[] => {
      for (const leaf of leaves) rig.put(leaf, pte(0x20_0000n));
      return [0n, 1n, 2n, 3n].map((n) => BigInt(rig.where(DEVICE, n << 12n)));
    };
    return { rig, root, moved };
  }

  it('§2.4.6: PFCount pages from the address on are in the IOTLB then', () => {
    const { rig, moved } = mapped();
    rig.submit(prefetch(DEVICE, 0x1000n, { PFCount: 2 }));
    expect(moved()).toEqual([0x20_0000n, 0x10_0000n, 0x10_0000n, 0x20_0000n]);
  });

  it('§2.4.6: Inval takes what is cached of them first', () => {
    const { rig, root, moved } = mapped();
    rig.where(DEVICE, 0x1000n);
    rig.map(root, 3, 0x1000n, pte(0x30_0000n));
    rig.submit(prefetch(DEVICE, 0x1000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x10_0000n);
    rig.submit(prefetch(DEVICE, 0x1000n, { Inval: 1 }));
    expect(moved()[1]).toBe(0x30_0000n);
  });

  it('§2.4.6: a page fault is logged, permissions deny nothing', () => {
    const { rig, root } = mapped();
    rig.map(root, 3, 0x2000n, pte(0x10_0000n, { ir: 0, iw: 0 }));
    rig.submit(prefetch(DEVICE, 0x2000n), prefetch(DEVICE, 0x9000n));
    expect(rig.events()).toMatchObject([{ name: 'IO_PAGE_FAULT', fields: { Address: 0x9000n, PR: 0 } }]);
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(32n);
  });

  it('§2.4.6: S says the size of what one count is', () => {
    const { rig, root } = mapped();
    rig.map(root, 3, 0x20_0000n, pte(0x40_0000n), 2);
    const words = prefetch(DEVICE, 0x0f_f000n, { S: 1, PFCount: 2 });
    rig.submit(words);
    rig.map(root, 3, 0x20_0000n, pte(0x60_0000n), 2);
    expect(rig.where(DEVICE, 0x20_0000n)).toBe(0x40_0000n);
  });

  it('§2.4.6: GN prefetches for a PASID', () => {
    const rig = new Rig();
    const [gcr3, cr3] = [rig.page(), rig.page()];
    rig.put(gcr3 + 5 * 8, BigInt(cr3) | 1n);
    rig.guestDte(DEVICE, gcr3);
    rig.control(BASIC | CONTROL.GTEn.inPlace);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5001n);
    rig.submit(prefetch(DEVICE, 0x1000n, { GN: 1, PASID: 5 }));
    rig.mapGuest(cr3, 4, 0x1000n, 0x6001n);
    expect(rig.where(DEVICE, 0x1000n, { pasid: 5, privileged: true })).toBe(0x5000n);
    rig.submit(prefetch(DEVICE, 0x1000n, { GN: 1, PASID: 5, Inval: 1 }));
    expect(rig.where(DEVICE, 0x1000n, { pasid: 5, privileged: true })).toBe(0x6000n);
  });

  it('§2.4.6: does nothing where nothing is translated', () => {
    const rig = new Rig();
    rig.dte(DEVICE, { V: 0 });
    rig.dte(DEVICE + 1, { ...gcr3Fields(0) });
    rig.submit(prefetch(DEVICE, 0x1000n), prefetch(DEVICE + 1, 0x1000n));
    expect(rig.events()).toEqual([]);
    expect([...rig.iommu.iotlb.domains()]).toEqual([]);
  });

  it('§2.4.6: stops at the end of the address space', () => {
    const { rig } = mapped();
    rig.hostDte(DEVICE, rig.page(), 6);
    rig.submit(prefetch(DEVICE, 0xffff_ffff_ffff_e000n, { PFCount: 255 }));
    expect(rig.events().map(({ fields }) => fields['Address'])).toEqual([
      0xffff_ffff_ffff_e000n,
      0xffff_ffff_ffff_f000n,
    ]);
  });

  it('§2.4.6: Address is 52 bits of the page number', () => {
    expect(CMD_PREFETCH.Address).toMatchObject({ lsb: 76, msb: 127 });
  });
});

describe('COMPLETE_PPR_REQUEST', () => {
  it('§2.4.7: answers the device, with a PASID where GN says so', () => {
    const rig = new Rig();
    const { responses } = endpoint(rig);
    rig.submit(
      completePpr({ DeviceID: DEVICE, PASID: 0x1_2345, GN: 1, PRGIndex: 0x1ff, ResponseCode: 1 }),
      completePpr({ DeviceID: DEVICE, PASID: 0x1_2345, PRGIndex: 3, ResponseCode: 0xf }),
    );
    expect(responses).toEqual([
      { deviceId: DEVICE, pasid: 0x1_2345, prgIndex: 0x1ff, code: 1 },
      { deviceId: DEVICE, pasid: null, prgIndex: 3, code: 0xf },
    ]);
  });

  it('§2.4.7: to a device that is not there it is lost', () => {
    const rig = new Rig();
    rig.submit(completePpr({ DeviceID: DEVICE }), invalidateAll());
    expect(rig.get(OFFSET.CMD_HEAD)).toBe(32n);
    expect(rig.events()).toEqual([]);
  });
});
