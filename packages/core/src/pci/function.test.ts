import { describe, expect, test } from 'vitest';
import { PRG_RESPONSE_CODE } from '../iommu/requests/dma-port.ts';
import { registers32 } from './bar.ts';
import { eventText } from '../trace/text.ts';
import { Trace } from '../trace/trace.ts';
import { BareDevice } from './bare-device.ts';
import { pciDisableAts, pciEnableAts, pciEnablePasid, pciResetFunction } from './bus-driver.ts';
import { DmaEngine } from './dma-engine/dma-engine.ts';
import { REGISTER } from './dma-engine/registers.ts';
import { PciFunction, type DeviceModel, type FunctionDescription } from './function.ts';
import {
  PCI_ATS_CTRL,
  PCI_BASE_ADDRESS_0,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXT_CAP_ID_ACS,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_PASID,
  PCI_EXT_CAP_ID_PRI,
  PCI_INTERRUPT_LINE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_MASK_64,
  PCI_MSI_PENDING_64,
  PCI_PASID_CTRL,
  PCI_PM_CTRL,
  PCI_PRI_ALLOC_REQ,
  PCI_PRI_CTRL,
  PCI_PRI_CTRL_ENABLE,
  PCI_PRI_STATUS,
  PCI_PRI_STATUS_RF,
  PCI_PRI_STATUS_UPRGI,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STATUS_INTERRUPT,
} from './spec.ts';
import { FlatPort } from './testing/flat-port.ts';
import { assignBars, findCapabilities, findExtendedCapability, TestSlot } from './testing/host-bus.ts';

/** A device with everything: three BARs, every kind of interrupt, one register that keeps what is stored. */
class Everything implements DeviceModel {
  stored = 0;
  resets = 0;
  readonly responses: number[] = [];
  readonly description: FunctionDescription = {
    identity: {
      vendor: 0x1234,
      device: 0x5678,
      revision: 3,
      classCode: 0x020000,
      subsystemVendor: 0x9abc,
      subsystem: 0xdef0,
    },
    bars: [
      { index: 0, size: 1 << 16, kind: 'memory64', prefetchable: true, handler: this.#handler() },
      { index: 2, size: 1 << 12, kind: 'memory32', handler: this.#handler() },
      { index: 3, size: 32, kind: 'io', handler: this.#handler() },
    ],
    msix: { vectors: 70, bar: 2, table: 0, pba: 0x800 },
    msi: 4,
    intx: true,
    ats: { queue: 4 },
    pri: 2,
    pasid: { width: 10, execute: true },
  };
  pci!: PciFunction;

  connect(pci: PciFunction): void {
    this.pci = pci;
  }

  reset(): void {
    this.stored = 0;
    this.resets++;
  }

  pageResponse({ prgIndex }: { prgIndex: number }): void {
    this.responses.push(prgIndex);
  }

  #handler(): FunctionDescription['bars'][0]['handler'] {
    return registers32({
      read32: () => this.stored,
      write32: (_offset, value) => (this.stored = value),
    });
  }
}

function rig(): { slot: TestSlot; pci: PciFunction; model: Everything } {
  const model = new Everything();
  const slot = new TestSlot(model);
  return { slot, pci: slot.pci, model };
}

describe('configuration space', () => {
  test('after reset says who the function is and what it has', () => {
    const pci = new PciFunction('0000:0a:00.0', new Everything());
    expect(pci.readConfig(0, 4)).toBe(0x5678_1234);
    expect(pci.readConfig(PCI_COMMAND, 2)).toBe(0);
    expect(pci.readConfig(PCI_STATUS, 2)).toBe(PCI_STATUS_CAP_LIST);
    expect(pci.readConfig(8, 4)).toBe(0x0200_0003);
    expect(pci.readConfig(0x0e, 1)).toBe(0);
    expect(pci.readConfig(0x2c, 4)).toBe(0xdef0_9abc);
    expect(pci.readConfig(0x3d, 1)).toBe(1);
  });

  test('BARs tell their sizes and kinds by the usual way to ask', () => {
    const pci = new PciFunction('0000:0a:00.0', new Everything());
    expect(assignBars(pci)).toEqual([
      { index: 0, size: 0x1_0000n, kind: 'memory64' },
      { index: 2, size: 0x1000n, kind: 'memory32' },
      { index: 3, size: 32n, kind: 'io' },
    ]);
    expect(pci.readConfig(PCI_BASE_ADDRESS_0, 4) & 0xf).toBe(0xc);
    expect(pci.readConfig(PCI_BASE_ADDRESS_0 + 4, 4)).toBe(1);
  });

  test('lists its capabilities, each once', () => {
    const { pci } = rig();
    for (const id of [PCI_CAP_ID_PM, PCI_CAP_ID_MSI, PCI_CAP_ID_MSIX, PCI_CAP_ID_EXP])
      expect(findCapabilities(pci, id)).toEqual([pci.config.capability(id)]);
    const ids = [PCI_EXT_CAP_ID_ATS, PCI_EXT_CAP_ID_PRI, PCI_EXT_CAP_ID_PASID, PCI_EXT_CAP_ID_ACS];
    for (const id of ids) expect(findExtendedCapability(pci, id)).toBe(pci.config.extendedCapability(id));
    expect(findExtendedCapability(pci, 0x10)).toBe(0);
    expect(findCapabilities(new TestSlot(new BareDevice()).pci, PCI_CAP_ID_MSIX)).toEqual([]);
  });

  test('keeps what is read-only when ones, and then zeros, are written everywhere', () => {
    const { pci } = rig();
    const before = new Map<number, number>();
    for (let at = 0; at < PCI_CFG_SPACE_EXP_BYTES; at += 4) before.set(at, pci.readConfig(at, 4));
    const skipped = new Set([pci.config.capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL]);
    for (const value of [0xffff_ffff, 0])
      for (const at of before.keys()) if (!skipped.has(at)) pci.writeConfig(at, 4, value);
    expect(pci.readConfig(0, 4)).toBe(0x5678_1234);
    expect(pci.readConfig(PCI_STATUS, 2)).toBe(PCI_STATUS_CAP_LIST);
    for (const id of [PCI_CAP_ID_PM, PCI_CAP_ID_MSI, PCI_CAP_ID_MSIX, PCI_CAP_ID_EXP]) {
      const at = pci.config.capability(id);
      expect(pci.readConfig(at, 2)).toBe(before.get(at)! & 0xffff);
    }
    expect(pci.readConfig(PCI_COMMAND, 2)).toBe(0);
  });

  test('takes accesses of one, two and four bytes, and reads as ones beyond its end', () => {
    const { pci } = rig();
    pci.writeConfig(PCI_INTERRUPT_LINE, 1, 0x55);
    expect(pci.readConfig(PCI_INTERRUPT_LINE, 2)).toBe(0x0155);
    pci.writeConfig(PCI_BASE_ADDRESS_0 + 2, 1, 0x12);
    pci.writeConfig(PCI_BASE_ADDRESS_0 + 3, 1, 0xab);
    expect(pci.readConfig(PCI_BASE_ADDRESS_0, 4)).toBe(0xab12_000c);
    expect(pci.readConfig(PCI_CFG_SPACE_EXP_BYTES, 4)).toBe(0xffff_ffff);
    pci.writeConfig(PCI_CFG_SPACE_EXP_BYTES, 4, 1);
  });

  test('a power state that is not there is not entered, and in D3 nobody answers', () => {
    const { pci, model } = rig();
    const at = pci.config.capability(PCI_CAP_ID_PM) + PCI_PM_CTRL;
    model.stored = 7;
    pci.writeConfig(at, 2, 1);
    expect(pci.readConfig(at, 2) & 3).toBe(0);
    pci.writeConfig(at, 2, 3);
    expect(pci.readBar(2, 0xc00, 4)).toBe(0xffff_ffffn);
    expect(pci.dma.read(0n, new Uint8Array(1))).toMatchObject({ reason: 'bus mastering is off' });
    pci.writeConfig(at, 2, 0);
    expect(pci.readBar(2, 0xc00, 4)).toBe(7n);
  });
});

describe('a Function Level Reset', () => {
  test('by configuration space puts everything back', () => {
    const { slot, pci, model } = rig();
    slot.enableMsix();
    model.stored = 9;
    pci.writeConfig(pci.config.capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
    expect(pci.resets).toBe(1);
    expect(pci.readConfig(PCI_COMMAND, 2)).toBe(0);
    expect(pci.msix!.enabled).toBe(false);
    expect(pci.msix!.masked(0)).toBe(true);
    expect([model.stored, model.resets]).toEqual([0, 2]);
  });

  test('by the kernel keeps the configuration and the table', () => {
    const { slot, pci, model } = rig();
    slot.enableMsix();
    pci.msix!.mask(5, true);
    pciEnableAts(pci, 12);
    pciEnablePasid(pci);
    const bar = pci.readConfig(PCI_BASE_ADDRESS_0 + 8, 4);
    pciResetFunction(pci);
    expect(pci.readConfig(PCI_COMMAND, 2) & PCI_COMMAND_MASTER).toBe(PCI_COMMAND_MASTER);
    expect(pci.readConfig(PCI_BASE_ADDRESS_0 + 8, 4)).toBe(bar);
    expect([pci.msix!.enabled, pci.msix!.masked(4), pci.msix!.masked(5)]).toEqual([true, false, true]);
    expect(pci.dma.atc.enabled).toBe(true);
    expect(model.resets).toBe(2);
  });
});

describe('MSI-X', () => {
  test('holds a masked message back, once, and sends it when it is unmasked', () => {
    const { slot, pci } = rig();
    slot.enableMsix();
    pci.signal(69);
    pci.msix!.mask(69, true);
    pci.signal(69);
    pci.signal(69);
    expect([slot.messages, slot.read(2, 0x808)]).toEqual([[69], 1 << 5]);
    pci.msix!.mask(69, false);
    expect([slot.messages, slot.read(2, 0x808)]).toEqual([[69, 69], 0]);
  });

  test('with all vectors masked waits for Function Mask', () => {
    const { slot, pci } = rig();
    slot.enableMsix();
    const at = pci.config.capability(PCI_CAP_ID_MSIX) + PCI_MSIX_FLAGS;
    pci.writeConfig(at, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    pci.signal(0);
    pci.signal(33);
    expect(slot.messages).toEqual([]);
    pci.writeConfig(at, 2, PCI_MSIX_FLAGS_ENABLE);
    expect(slot.messages).toEqual([0, 33]);
  });

  test('keeps entries as they are stored, but the low address bits and reserved bits', () => {
    const { slot } = rig();
    slot.write(2, 0x10, 0xffff_ffff);
    slot.write(2, 0x1c, 0xffff_ffff);
    expect([slot.read(2, 0x10), slot.read(2, 0x1c)]).toEqual([0xffff_fffc, 1]);
    slot.write(2, 0x800, 0xffff_ffff);
    expect(slot.read(2, 0x800)).toBe(0);
  });

  test('sends nothing without bus mastering, nothing of a vector that there is not, and nothing while off', () => {
    const { slot, pci } = rig();
    pci.signal(0);
    slot.enableMsix();
    pci.signal(70);
    pci.writeConfig(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci.signal(0);
    expect(slot.messages).toEqual([]);
  });
});

describe('MSI', () => {
  test('folds vectors into those that software granted, and holds masked ones back', () => {
    const { slot, pci } = rig();
    const at = pci.config.capability(PCI_CAP_ID_MSI);
    pci.writeConfig(at + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE | (1 << 4));
    pci.signal(3);
    pci.writeConfig(at + PCI_MSI_MASK_64, 4, 1);
    pci.signal(2);
    expect([slot.messages, pci.readConfig(at + PCI_MSI_PENDING_64, 4)]).toEqual([[1], 1]);
    pci.writeConfig(at + PCI_MSI_MASK_64, 4, 0);
    expect([slot.messages, pci.readConfig(at + PCI_MSI_PENDING_64, 4)]).toEqual([[1, 0], 0]);
  });
});

describe('the interrupt pin', () => {
  test('follows its level, and stays low while it is disabled or messages are in use', () => {
    const { slot, pci } = rig();
    pci.setIntx(true);
    expect(pci.readConfig(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT).toBe(PCI_STATUS_INTERRUPT);
    pci.writeConfig(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    pci.writeConfig(PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
    slot.enableMsix();
    expect(slot.intx).toEqual([true, false, true, false]);
    pci.setIntx(false);
    expect(pci.readConfig(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT).toBe(0);
  });
});

describe('address translation of a function', () => {
  test('is turned on as Linux does, and gone after it is turned off', () => {
    const { pci } = rig();
    expect(pciEnablePasid(pci)).toEqual({ pasidExec: true, pasidPriv: false });
    const pasid = pci.config.extendedCapability(PCI_EXT_CAP_ID_PASID);
    expect(pci.readConfig(pasid + PCI_PASID_CTRL, 2)).toBe(3);
    pciEnableAts(pci, 12);
    const ats = pci.config.extendedCapability(PCI_EXT_CAP_ID_ATS) + PCI_ATS_CTRL;
    // The smallest translation unit is locked while ATS is on.
    pci.writeConfig(ats, 2, 0x8004);
    expect([pci.dma.atc.enabled, pci.readConfig(ats, 2)]).toEqual([true, 0x8000]);
    pciDisableAts(pci);
    expect([pci.dma.atc.enabled, pci.readConfig(ats, 2)]).toEqual([false, 0]);
  });

  test('sends no PASID that is off, and asks for no translation without ATS', () => {
    const { pci } = rig();
    const port = new FlatPort(1 << 16);
    pci.dma.connect(port);
    const by = { pasid: 5 };
    expect(pci.dma.read(0n, new Uint8Array(4), by)).toMatchObject({ reason: 'PASIDs are off' });
    const request = { address: 0n, pasid: null, write: false };
    expect(pci.dma.requestTranslation(request)).toEqual({ status: 'UR', entries: [] });
    pciEnablePasid(pci);
    expect(pci.dma.read(0n, new Uint8Array(4), by)).toBe(null);
    expect(pci.dma.read(0n, new Uint8Array(4), { ...by, privileged: true })).toMatchObject({
      reason: 'privileged mode is off',
    });
    expect(port.requests).toHaveLength(1);
  });

  test('by ATS is kept until it is invalidated', () => {
    const { pci } = rig();
    const port = new FlatPort(1 << 16);
    pci.dma.connect(port);
    pciEnableAts(pci, 12);
    const data = new Uint8Array(0x1800);
    expect(pci.dma.write(0x800n, data)).toBe(null);
    expect(port.requests).toMatchObject([
      { translated: true, address: 0x800n },
      { translated: true, address: 0x1000n },
    ]);
    expect(pci.dma.atc.lookup(0, 0x1000, null, false)).not.toBe(null);
    port.endpoint!.invalidate({ hi: 0, lo: 0x1000, sizeBits: 12, pasid: null, global: false });
    expect(pci.dma.atc.lookup(0, 0x1000, null, false)).toBe(null);
    expect(pci.dma.write(0x1_0000n, data)).toMatchObject({ reason: 'no translation (success)' });
  });

  test('asks for as many pages as software allows, and hears of the answers', () => {
    const { pci, model } = rig();
    const port = new FlatPort(1 << 16);
    pci.dma.connect(port);
    const at = pci.config.extendedCapability(PCI_EXT_CAP_ID_PRI);
    const page = { address: 0x1000n, pasid: null, read: true, write: false, prgIndex: 3, last: true };
    expect(pci.dma.requestPage(page)).toBe(false);
    pci.writeConfig(at + PCI_PRI_ALLOC_REQ, 4, 8);
    pci.writeConfig(at + PCI_PRI_CTRL, 2, PCI_PRI_CTRL_ENABLE);
    const sent = [4, 5, 6].map((prgIndex) => pci.dma.requestPage({ ...page, prgIndex }));
    expect([sent, port.pageRequests.length]).toEqual([[true, true, false], 2]);
    port.endpoint!.pageResponse({ pasid: null, prgIndex: 9, code: PRG_RESPONSE_CODE.SUCCESS });
    expect(pci.readConfig(at + PCI_PRI_STATUS, 2) & PCI_PRI_STATUS_UPRGI).not.toBe(0);
    port.endpoint!.pageResponse({ pasid: null, prgIndex: 5, code: PRG_RESPONSE_CODE.RESPONSE_FAILURE });
    expect(pci.readConfig(at + PCI_PRI_STATUS, 2) & PCI_PRI_STATUS_RF).not.toBe(0);
    expect(model.responses).toEqual([5]);
    expect(pci.dma.requestPage(page)).toBe(true);
    pci.writeConfig(at + PCI_PRI_STATUS, 2, PCI_PRI_STATUS_RF | PCI_PRI_STATUS_UPRGI);
    expect(pci.readConfig(at + PCI_PRI_STATUS, 2) & 3).toBe(0);
  });
});

describe('the trace', () => {
  test('tells accesses, DMA, interrupts and what the device says of itself', () => {
    const trace = new Trace();
    const pci = new PciFunction('0000:0a:00.0', new DmaEngine(), trace);
    const lines: string[] = [];
    trace.subscribe((event) => lines.push(eventText(event)));
    pci.writeConfig(PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
    pci.dma.connect(new FlatPort(0x100));
    pci.msix!.program(0, { address: 0xfee0_0000n, data: 5 });
    pci.writeConfig(pci.config.capability(PCI_CAP_ID_MSIX) + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    pci.writeBar(0, REGISTER.LENGTH, 4, 4n);
    pci.writeBar(0, REGISTER.SIGNAL, 4, 0n);
    pci.writeBar(0, REGISTER.DESTINATION, 4, 0x100n);
    pci.writeBar(0, REGISTER.COMMAND, 4, 2n);
    const name = 'device=0000:0a:00.0';
    expect(lines[0]).toBe(`pci ${name} space=config write=true offset=4 size=2 value=6`);
    expect(lines).toContain(`interrupt ${name} vector=0 address=0xfee00000 data=5`);
    expect(lines).toContain(
      `dma ${name} write=true address=0x100 pasid=null length=4 done=0 reason=beyond the memory`,
    );
    expect(lines.at(-1)).toBe(`dma-engine ${name} command=FILL done=0 error=WRITE`);
  });
});

describe('a function that is pulled out', () => {
  test('answers with ones, and does nothing', () => {
    const slot = new TestSlot(new DmaEngine());
    const { pci } = slot;
    let asked = 0;
    pci.user = { removalRequested: () => asked++ };
    pci.requestRemoval();
    expect([asked, slot.read(0, REGISTER.ID)]).toEqual([1, 1]);
    pci.remove();
    expect([pci.readConfig(0, 4), slot.read(0, REGISTER.ID)]).toEqual([0xffff_ffff, 0xffff_ffff]);
    expect(pci.dma.write(0n, new Uint8Array(1))).toMatchObject({ reason: 'bus mastering is off' });
    expect(pci.poll()).toBe(false);
  });
});
