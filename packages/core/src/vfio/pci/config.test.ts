import { describe, expect, test } from 'vitest';
import fc from 'fast-check';
import { EFAULT } from '../../abi/errno.ts';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
} from '../../abi/vfio.ts';
import {
  PCI_BASE_ADDRESS_0,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXT_CAP_ID_ACS,
  PCI_EXT_CAP_ID_ATS,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_PM_CTRL,
  PCI_ROM_ADDRESS,
} from '../../pci/spec.ts';
import { Rig } from '../testing/rig.ts';
import { MEMORY_BYTES } from '../testing/device.ts';

const CONFIG = VFIO_PCI_CONFIG_REGION_INDEX;
const EVENTFD = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;

describe('the header', () => {
  test('says who the function is, and takes no writes of that', () => {
    const rig = new Rig();
    expect(rig.config(0, 4)).toBe(0x5678_1234);
    expect(rig.setConfig(0, 4, 0xffff_ffff)).toBe(4);
    expect(rig.config(0, 4)).toBe(0x5678_1234);
    expect(rig.config(9, 2)).toBe(0);
    expect(rig.config(0x0a, 2)).toBe(0x0200);
  });

  test('starts with memory and ports decoded, and without bus mastering', () => {
    expect(new Rig().config(PCI_COMMAND, 2)).toBe(PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
  });

  test('hands bus mastering to the function', () => {
    const rig = new Rig();
    rig.setConfig(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    expect(rig.pci.readConfig(PCI_COMMAND, 2)).toBe(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    expect(rig.config(PCI_COMMAND, 2)).toBe(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  });

  test('keeps INTx Disable to itself: the function has the bit as interrupts need it', () => {
    const rig = new Rig();
    rig.setIrqs(EVENTFD, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, { fds: [rig.eventfd().fd] });
    rig.pci.setIntx(true);
    expect(rig.pci.readConfig(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE).not.toBe(0);
    expect(rig.config(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE).toBe(0);
  });

  test('answers the sizes of BARs without touching where they are', () => {
    const rig = new Rig();
    const before = Array.from({ length: 6 }, (_, bar) => rig.pci.readConfig(PCI_BASE_ADDRESS_0 + 4 * bar, 4));
    const sizes = Array.from({ length: 6 }, (_, bar) => {
      rig.setConfig(PCI_BASE_ADDRESS_0 + 4 * bar, 4, 0xffff_ffff);
      return rig.config(PCI_BASE_ADDRESS_0 + 4 * bar, 4);
    });
    const low = 2 ** 32 - MEMORY_BYTES + 0xc;
    expect(sizes).toEqual([0xffff_f000, 0, low, 0xffff_ffff, 0xffff_ffe1, 0]);
    expect(before).toEqual(
      Array.from({ length: 6 }, (_, bar) => rig.pci.readConfig(PCI_BASE_ADDRESS_0 + 4 * bar, 4)),
    );
    rig.setConfig(PCI_ROM_ADDRESS, 4, 0xffff_ffff);
    expect(rig.config(PCI_ROM_ADDRESS, 4)).toBe(0);
  });

  test('keeps the interrupt line for the program, and the pin as it is', () => {
    const rig = new Rig();
    rig.setConfig(PCI_INTERRUPT_LINE, 1, 0x5a);
    rig.setConfig(PCI_INTERRUPT_PIN, 1, 0x4);
    expect(rig.config(PCI_INTERRUPT_LINE, 2)).toBe(0x015a);
    expect(rig.pci.readConfig(PCI_INTERRUPT_LINE, 1)).toBe(0);
  });
});

describe('capabilities', () => {
  test('are those that programs may see: PASID is not', () => {
    const rig = new Rig();
    for (const id of [PCI_CAP_ID_PM, PCI_CAP_ID_MSI, PCI_CAP_ID_MSIX, PCI_CAP_ID_EXP])
      expect(rig.capability(id)).toBeGreaterThan(0);
    expect(rig.extendedCapabilities()).toEqual([PCI_EXT_CAP_ID_ATS, PCI_EXT_CAP_ID_ACS]);
  });

  test('MSI-X cannot be enabled by a write', () => {
    const rig = new Rig();
    const at = rig.capability(PCI_CAP_ID_MSIX) + PCI_MSIX_FLAGS;
    rig.setConfig(at, 2, 0xffff);
    expect(rig.config(at, 2) & PCI_MSIX_FLAGS_ENABLE).toBe(0);
  });

  test('MSI keeps what is written, and is enabled only where the program has interrupts by it', () => {
    const rig = new Rig();
    const at = rig.capability(PCI_CAP_ID_MSI);
    rig.setConfig(at + 4, 4, 0xfee0_1000);
    expect(rig.config(at + 4, 4)).toBe(0xfee0_1000);
    rig.setConfig(at + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE);
    expect(rig.pci.msi!.enabled).toBe(false);
    rig.setIrqs(EVENTFD, VFIO_PCI_MSI_IRQ_INDEX, 0, 2, { fds: [-1, -1] });
    rig.setConfig(at + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE | 0x70);
    expect(rig.pci.msi!.enabled).toBe(true);
    // Two vectors were asked for: no more are granted.
    expect(rig.pci.msi!.granted).toBe(2);
  });

  test('sets the size of read requests of the function, but not what there is not', () => {
    const rig = new Rig();
    const at = rig.capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL;
    const rest = rig.config(at, 2) & ~0x7000;
    const hardware = (): number => (rig.pci.readConfig(at, 2) & 0x7000) >> 12;
    for (const [asked, expected] of [
      [5, 5],
      [0, 0],
      [6, 0],
      [3, 3],
    ] as const) {
      rig.setConfig(at, 2, rest | (asked << 12));
      expect([(rig.config(at, 2) & 0x7000) >> 12, hardware()]).toEqual([asked, expected]);
    }
  });

  test('a Function Level Reset by PCI Express resets the function, and its bit reads as zero', () => {
    const rig = new Rig();
    const at = rig.capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL;
    const { resets } = rig.device;
    rig.setConfig(at, 2, rig.config(at, 2) | PCI_EXP_DEVCTL_BCR_FLR);
    expect(rig.device.resets).toBe(resets + 1);
    expect(rig.config(at, 2) & PCI_EXP_DEVCTL_BCR_FLR).toBe(0);
    expect(rig.config(PCI_COMMAND, 2)).toBe(PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
  });

  test('the power state is the function’s: in D3hot memory cannot be reached, after D0 it can', () => {
    const rig = new Rig();
    const at = rig.capability(PCI_CAP_ID_PM) + PCI_PM_CTRL;
    rig.setConfig(at, 2, 3);
    expect(rig.config(at, 1) & 3).toBe(3);
    expect(rig.read(0, 0, 4)).toBe(-5);
    rig.setConfig(at, 2, 0);
    expect(rig.read(0, 0, 4)).toEqual(new Uint8Array(4));
  });
});

describe('any access', () => {
  test('reads the same whole or in pieces', () => {
    const rig = new Rig();
    const whole = rig.read(CONFIG, 0, PCI_CFG_SPACE_EXP_BYTES) as Uint8Array;
    const pieces = Array.from({ length: PCI_CFG_SPACE_EXP_BYTES }, (_, at) => rig.config(at, 1));
    expect([...whole]).toEqual(pieces);
  });

  test('beyond the end is EFAULT, and nothing of it is done', () => {
    const rig = new Rig();
    expect(rig.read(CONFIG, PCI_CFG_SPACE_EXP_BYTES - 2, 4)).toBe(-EFAULT);
    expect(rig.read(CONFIG, 0, PCI_CFG_SPACE_EXP_BYTES + 1)).toBe(-EFAULT);
    expect(rig.write(CONFIG, PCI_CFG_SPACE_EXP_BYTES, [1])).toBe(-EFAULT);
    expect(rig.read(CONFIG, 0, 0)).toEqual(new Uint8Array());
  });

  test('of whatever bytes breaks nothing: BARs stay where they are, and MSI-X as VFIO has it', () => {
    const write = fc.record({
      at: fc.nat(PCI_CFG_SPACE_EXP_BYTES - 8),
      bytes: fc.array(fc.nat(255), { minLength: 1, maxLength: 8 }),
    });
    fc.assert(
      fc.property(fc.array(write, { maxLength: 40 }), (writes) => {
        const rig = new Rig();
        const bars = Array.from({ length: 6 }, (_, bar) =>
          rig.pci.readConfig(PCI_BASE_ADDRESS_0 + 4 * bar, 4),
        );
        for (const { at, bytes } of writes) expect(rig.write(CONFIG, at, bytes)).toBe(bytes.length);
        for (const [bar, value] of bars.entries())
          expect(rig.pci.readConfig(PCI_BASE_ADDRESS_0 + 4 * bar, 4)).toBe(value);
        expect(rig.pci.msix!.enabled).toBe(false);
        expect(rig.config(0, 4)).toBe(0x5678_1234);
      }),
      { numRuns: 200 },
    );
  });
});
