import { describe, expect, test } from 'vitest';
import { EBADF, EBUSY, EINVAL, ENOTTY, ERANGE } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
  vfio_irq_info,
  vfio_irq_set,
} from '../../abi/vfio.ts';
import {
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
} from '../../pci/spec.ts';
import { Rig } from '../testing/rig.ts';
import { MSI_VECTORS, MSIX_VECTORS } from '../testing/device.ts';

const NONE = VFIO_IRQ_SET_DATA_NONE;
const BOOL = VFIO_IRQ_SET_DATA_BOOL;
const EVENTFD = VFIO_IRQ_SET_DATA_EVENTFD;
const TRIGGER = VFIO_IRQ_SET_ACTION_TRIGGER;
const MASK = VFIO_IRQ_SET_ACTION_MASK;
const UNMASK = VFIO_IRQ_SET_ACTION_UNMASK;
const INTX = VFIO_PCI_INTX_IRQ_INDEX;
const MSI = VFIO_PCI_MSI_IRQ_INDEX;
const MSIX = VFIO_PCI_MSIX_IRQ_INDEX;

function master(rig: Rig): void {
  rig.setConfig(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

describe('messages', () => {
  test('cannot be had without a vector', () => {
    const rig = new Rig();
    for (const index of [MSI, MSIX]) {
      expect(rig.setIrqs(EVENTFD | TRIGGER, index, 0, 0)).toBe(-ERANGE);
      expect(rig.setIrqs(EVENTFD | TRIGGER, index, 2, 0)).toBe(0);
      expect(rig.setIrqs(EVENTFD | TRIGGER, index, 0, 0)).toBe(0);
      expect(rig.setIrqs(NONE | TRIGGER, index, 0, 0)).toBe(0);
    }
  });

  test('come by as many vectors of MSI as were asked for first, and by any of MSI-X', () => {
    for (const [index, beyond] of [
      [MSI, -EINVAL],
      [MSIX, 0],
    ] as const) {
      const rig = new Rig();
      const { fd, eventfd } = rig.eventfd();
      expect(rig.setIrqs(EVENTFD | TRIGGER, index, 0, 2, { fds: [fd, -1] })).toBe(0);
      expect(rig.setIrqs(EVENTFD | TRIGGER, index, 2, 1, { fds: [-1] })).toBe(0);
      expect(rig.setIrqs(EVENTFD | TRIGGER, index, 2, 1, { fds: [fd] })).toBe(beyond);
      // The vectors that were named before the wrong one are lost too.
      expect(rig.setIrqs(EVENTFD | TRIGGER, index, 1, 2, { fds: [fd, fd] })).toBe(beyond);
      expect(eventfd.holders).toBe(beyond === 0 ? 3 : 1);
    }
  });
});

describe('VFIO_DEVICE_GET_IRQ_INFO', () => {
  test('tells how many interrupts there are, and what may be done with them', () => {
    const rig = new Rig();
    const info = (index: number): [number, number] => {
      const { rc, out } = rig.call(VFIO_DEVICE_GET_IRQ_INFO, vfio_irq_info, { index });
      expect(rc).toBe(0);
      return [out.count, out.flags];
    };
    const fixed = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE;
    expect(info(INTX)).toEqual([
      1,
      VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED,
    ]);
    expect(info(MSI)).toEqual([MSI_VECTORS, fixed]);
    expect(info(MSIX)).toEqual([MSIX_VECTORS, VFIO_IRQ_INFO_EVENTFD]);
    expect(info(VFIO_PCI_ERR_IRQ_INDEX)).toEqual([1, fixed]);
    expect(info(VFIO_PCI_REQ_IRQ_INDEX)).toEqual([1, fixed]);
    expect(rig.call(VFIO_DEVICE_GET_IRQ_INFO, vfio_irq_info, { index: 5 }).rc).toBe(-EINVAL);
    expect(rig.call(VFIO_DEVICE_GET_IRQ_INFO, vfio_irq_info, { index: 0, argsz: 12 }).rc).toBe(-EINVAL);
  });
});

describe('VFIO_DEVICE_SET_IRQS refuses', () => {
  test.each([
    ['an index that is not there', NONE | TRIGGER, 5, 0, 0],
    ['a start beyond the last', NONE | TRIGGER, MSIX, MSIX_VECTORS, 0],
    ['a count beyond the last', NONE | TRIGGER, MSIX, 1, MSIX_VECTORS],
    ['sums that do not fit in 32 bits', NONE | TRIGGER, MSIX, 2, 0xffff_fffe],
    ['unknown flags', NONE | TRIGGER | 64, INTX, 0, 1],
    ['two kinds of data', NONE | BOOL | TRIGGER, INTX, 0, 1],
    ['no kind of data', TRIGGER, INTX, 0, 1],
    ['data that is not there', BOOL | TRIGGER, INTX, 0, 1],
    ['what is not in use', NONE | UNMASK, INTX, 0, 1],
    ['a signal of a vector that is not in use', NONE | TRIGGER, MSIX, 0, 1],
  ])('%s', (_what, flags, index, start, count) => {
    expect(new Rig().setIrqs(flags, index, start, count)).toBe(-EINVAL);
  });

  test('actions that an index does not have', () => {
    const rig = new Rig();
    for (const action of [MASK, UNMASK]) {
      expect(rig.setIrqs(NONE | action, MSIX, 0, 1)).toBe(-ENOTTY);
      expect(rig.setIrqs(NONE | action, VFIO_PCI_ERR_IRQ_INDEX, 0, 1)).toBe(-ENOTTY);
    }
    expect(rig.setIrqs(NONE, INTX, 0, 1)).toBe(-ENOTTY);
  });

  test('a struct that is too small, or cannot be read', () => {
    const rig = new Rig();
    const short = { argsz: vfio_irq_set.size - 1, flags: NONE | TRIGGER };
    expect(rig.call(VFIO_DEVICE_SET_IRQS, vfio_irq_set, short).rc).toBe(-EINVAL);
  });

  test('descriptors that are closed, or of something else, and what was set before them is undone', () => {
    const rig = new Rig();
    const { fd, eventfd } = rig.eventfd();
    const other = rig.process.open() as number;
    expect(rig.setIrqs(EVENTFD | TRIGGER, MSIX, 0, 2, { fds: [fd, 99] })).toBe(-EBADF);
    expect(rig.setIrqs(EVENTFD | TRIGGER, MSIX, 0, 2, { fds: [fd, other] })).toBe(-EINVAL);
    expect(rig.setIrqs(EVENTFD | TRIGGER, INTX, 0, 1, { fds: [other] })).toBe(-EINVAL);
    expect(eventfd.holders).toBe(0);
    expect(rig.pci.msix!.enabled).toBe(false);
    expect(rig.setIrqs(EVENTFD | TRIGGER, INTX, 0, 1, { fds: [fd] })).toBe(0);
  });
});

describe.each([
  ['MSI-X', MSIX],
  ['MSI', MSI],
])('%s', (_name, index) => {
  test('signals the eventfd of the vector, once the function is a bus master', () => {
    const rig = new Rig();
    const eventfds = [rig.eventfd(), rig.eventfd()];
    expect(rig.setIrqs(EVENTFD | TRIGGER, index, 0, 2, { fds: eventfds.map(({ fd }) => fd) })).toBe(0);
    rig.pci.signal(1);
    expect(eventfds.map(({ eventfd }) => eventfd.count)).toEqual([0, 0]);
    master(rig);
    rig.pci.signal(1);
    rig.pci.signal(0);
    rig.pci.signal(1);
    expect(eventfds.map(({ eventfd }) => eventfd.count)).toEqual([1, 2]);
  });

  test('is signalled by the program too', () => {
    const rig = new Rig();
    const eventfds = [rig.eventfd(), rig.eventfd()];
    rig.setIrqs(EVENTFD | TRIGGER, index, 0, 2, { fds: eventfds.map(({ fd }) => fd) });
    expect(rig.setIrqs(NONE | TRIGGER, index, 0, 2)).toBe(0);
    expect(rig.setIrqs(BOOL | TRIGGER, index, 0, 2, { bools: [0, 1] })).toBe(0);
    expect(eventfds.map(({ eventfd }) => eventfd.count)).toEqual([1, 2]);
  });

  test('excludes other kinds until it is turned off, and then holds nothing', () => {
    const rig = new Rig();
    const { fd, eventfd } = rig.eventfd();
    rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [fd] });
    expect(eventfd.holders).toBe(1);
    const other = index === MSI ? MSIX : MSI;
    expect(rig.setIrqs(EVENTFD | TRIGGER, other, 0, 1, { fds: [fd] })).toBe(-EINVAL);
    expect(rig.setIrqs(EVENTFD | TRIGGER, INTX, 0, 1, { fds: [fd] })).toBe(-EINVAL);
    expect(rig.setIrqs(NONE | TRIGGER, index, 0, 0)).toBe(0);
    expect(eventfd.holders).toBe(0);
    expect(rig.setIrqs(EVENTFD | TRIGGER, other, 0, 1, { fds: [fd] })).toBe(0);
  });

  test('takes an eventfd away by -1, and another in its place', () => {
    const rig = new Rig();
    const [first, second] = [rig.eventfd(), rig.eventfd()];
    rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [first.fd] });
    rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [second.fd] });
    expect([first.eventfd.holders, second.eventfd.holders]).toEqual([0, 1]);
    rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [-1] });
    master(rig);
    rig.pci.signal(0);
    expect([first.eventfd.count, second.eventfd.count, second.eventfd.holders]).toEqual([0, 0, 0]);
  });

  test('outlives a reset, and an eventfd that the program has closed', () => {
    const rig = new Rig();
    const { fd, eventfd } = rig.eventfd();
    rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [fd] });
    rig.process.close(fd);
    expect(rig.raw(VFIO_DEVICE_RESET, new Uint8Array(4)).rc).toBe(0);
    master(rig);
    rig.pci.signal(0);
    expect(eventfd.count).toBe(1);
  });

  test('a vector without an eventfd is signalled to nobody', () => {
    const rig = new Rig();
    rig.setIrqs(EVENTFD | TRIGGER, index, 0, 2, { fds: [-1, -1] });
    master(rig);
    rig.pci.signal(0);
    expect(rig.setIrqs(NONE | TRIGGER, index, 0, 2)).toBe(0);
  });
});

describe('INTx', () => {
  function withIntx(): { rig: Rig; count: () => number } {
    const rig = new Rig();
    const { fd, eventfd } = rig.eventfd();
    expect(rig.setIrqs(EVENTFD | TRIGGER, INTX, 0, 1, { fds: [fd] })).toBe(0);
    return { rig, count: () => eventfd.count };
  }

  test('is masked by each signal until the program unmasks it', () => {
    const { rig, count } = withIntx();
    rig.pci.setIntx(true);
    expect(count()).toBe(1);
    rig.pci.setIntx(false);
    rig.pci.setIntx(true);
    expect(count()).toBe(1);
    rig.pci.setIntx(false);
    expect(rig.setIrqs(NONE | UNMASK, INTX, 0, 1)).toBe(0);
    rig.pci.setIntx(true);
    expect(count()).toBe(2);
  });

  test('is signalled again when it is unmasked while the pin is asserted', () => {
    const { rig, count } = withIntx();
    rig.pci.setIntx(true);
    expect(rig.setIrqs(BOOL | UNMASK, INTX, 0, 1, { bools: [0] })).toBe(0);
    expect(count()).toBe(1);
    expect(rig.setIrqs(BOOL | UNMASK, INTX, 0, 1, { bools: [1] })).toBe(0);
    expect(count()).toBe(2);
  });

  test('is unmasked by another eventfd once the program has closed the first', () => {
    const { rig } = withIntx();
    const [first, second] = [rig.eventfd(), rig.eventfd()];
    expect(rig.setIrqs(EVENTFD | UNMASK, INTX, 0, 1, { fds: [first.fd] })).toBe(0);
    const copy = rig.process.dup(first.fd) as number;
    rig.process.close(first.fd);
    expect(rig.setIrqs(EVENTFD | UNMASK, INTX, 0, 1, { fds: [second.fd] })).toBe(-EBUSY);
    rig.process.close(copy);
    expect(rig.setIrqs(EVENTFD | UNMASK, INTX, 0, 1, { fds: [second.fd] })).toBe(0);
    expect([first.eventfd.holders, second.eventfd.holders]).toEqual([0, 1]);
  });

  test('is unmasked by an eventfd', () => {
    const { rig, count } = withIntx();
    const unmask = rig.eventfd();
    expect(rig.setIrqs(EVENTFD | UNMASK, INTX, 0, 1, { fds: [unmask.fd] })).toBe(0);
    expect(rig.setIrqs(EVENTFD | UNMASK, INTX, 0, 1, { fds: [unmask.fd] })).toBe(-EBUSY);
    rig.pci.setIntx(true);
    unmask.eventfd.add(1);
    expect(count()).toBe(2);
    expect(unmask.eventfd.count).toBe(0);
    expect(rig.setIrqs(EVENTFD | UNMASK, INTX, 0, 1, { fds: [-1] })).toBe(0);
    unmask.eventfd.add(1);
    expect(count()).toBe(2);
    expect(unmask.eventfd.holders).toBe(0);
  });

  test('is masked by the program, and by INTx Disable in configuration space', () => {
    const { rig, count } = withIntx();
    expect(rig.setIrqs(NONE | MASK, INTX, 0, 1)).toBe(0);
    expect(rig.setIrqs(EVENTFD | MASK, INTX, 0, 1, { fds: [0] })).toBe(-ENOTTY);
    rig.pci.setIntx(true);
    expect(count()).toBe(0);
    expect(rig.setIrqs(NONE | UNMASK, INTX, 0, 1)).toBe(0);
    expect(count()).toBe(1);
    rig.pci.setIntx(false);
    rig.setConfig(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    rig.setIrqs(NONE | UNMASK, INTX, 0, 1);
    rig.pci.setIntx(true);
    rig.setIrqs(NONE | TRIGGER, INTX, 0, 1);
    expect(count()).toBe(1);
    rig.setConfig(PCI_COMMAND, 2, 0);
    expect(count()).toBe(2);
  });

  test('gets another eventfd, is signalled by the program, and is turned off', () => {
    const { rig, count } = withIntx();
    const other = rig.eventfd();
    expect(rig.setIrqs(NONE | TRIGGER, INTX, 0, 1)).toBe(0);
    expect(rig.setIrqs(EVENTFD | TRIGGER, INTX, 0, 1, { fds: [other.fd] })).toBe(0);
    expect(rig.setIrqs(BOOL | TRIGGER, INTX, 0, 1, { bools: [1] })).toBe(0);
    expect([count(), other.eventfd.count]).toEqual([1, 1]);
    expect(rig.setIrqs(NONE | TRIGGER, INTX, 0, 0)).toBe(0);
    expect(other.eventfd.holders).toBe(0);
    expect(rig.setIrqs(BOOL | TRIGGER, INTX, 0, 1, { bools: [1] })).toBe(-EINVAL);
  });
});

describe.each([
  ['the error', VFIO_PCI_ERR_IRQ_INDEX, (rig: Rig) => rig.pci.reportError()],
  ['the request', VFIO_PCI_REQ_IRQ_INDEX, (rig: Rig) => rig.pci.requestRemoval()],
] as const)('%s', (_name, index, happen) => {
  test('is signalled where the program asked for it', () => {
    const rig = new Rig();
    happen(rig);
    const { fd, eventfd } = rig.eventfd();
    expect(rig.setIrqs(NONE | TRIGGER, index, 0, 1)).toBe(-EINVAL);
    expect(rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [fd] })).toBe(0);
    happen(rig);
    rig.setIrqs(NONE | TRIGGER, index, 0, 1);
    rig.setIrqs(BOOL | TRIGGER, index, 0, 1, { bools: [1] });
    expect(eventfd.count).toBe(3);
    expect(rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [-2] })).toBe(-EINVAL);
    expect(rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [-1] })).toBe(0);
    expect(eventfd.holders).toBe(0);
  });
});

test('the end of the session releases every eventfd, whatever they were for', () => {
  for (const index of [INTX, MSI, MSIX]) {
    const rig = new Rig();
    const eventfds = [rig.eventfd(), rig.eventfd(), rig.eventfd()];
    const fds = eventfds.map(({ fd }) => fd);
    rig.setIrqs(EVENTFD | TRIGGER, index, 0, 1, { fds: [fds[0]!] });
    if (index === INTX) rig.setIrqs(EVENTFD | UNMASK, INTX, 0, 1, { fds: [fds[0]!] });
    rig.setIrqs(EVENTFD | TRIGGER, VFIO_PCI_ERR_IRQ_INDEX, 0, 1, { fds: [fds[1]!] });
    rig.setIrqs(EVENTFD | TRIGGER, VFIO_PCI_REQ_IRQ_INDEX, 0, 1, { fds: [fds[2]!] });
    rig.core.disable();
    expect(eventfds.map(({ eventfd }) => eventfd.holders)).toEqual([0, 0, 0]);
    rig.pci.setIntx(true);
    rig.pci.signal(0);
    expect(eventfds.map(({ eventfd }) => eventfd.count)).toEqual([0, 0, 0]);
  }
});
