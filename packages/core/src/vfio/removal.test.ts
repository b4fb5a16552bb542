import { describe, expect, test } from 'vitest';
import { ENODEV } from '../abi/errno.ts';
import {
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_REQ_IRQ_INDEX,
  vfio_irq_set,
} from '../abi/vfio.ts';
import { Kernel } from '../machine/kernel.ts';
import { SimulatedEventfd } from '../memory/simulated-process.ts';
import { PARTS, Program } from './testing/program.ts';

// A device that is taken out while a program has it.

function requestsTo(program: Program, device: number): SimulatedEventfd {
  const eventfd = new SimulatedEventfd();
  const fd = program.process.open(eventfd) as number;
  const data = new Uint8Array(4);
  new DataView(data.buffer).setInt32(0, fd, true);
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  const values = { flags, index: VFIO_PCI_REQ_IRQ_INDEX, start: 0, count: 1 };
  expect(program.call(device, VFIO_DEVICE_SET_IRQS, vfio_irq_set, values, data).rc).toBe(0);
  return eventfd;
}

describe('a device that is removed', () => {
  test('is gone at once where nobody has it', () => {
    const kernel = new Kernel({ parts: PARTS });
    const program = new Program(kernel);
    const waiting = program.open('/dev/vfio/devices/vfio0');
    kernel.functions()[0]!.remove();
    expect(program.tryOpen('/dev/vfio/devices/vfio0')).toBe(-ENODEV);
    expect(program.tryOpen('/dev/vfio/0')).toBe(-ENODEV);
    expect(program.bind(waiting, program.open('/dev/iommu'))).toBe(-ENODEV);
  });

  test('is asked for by an eventfd, each time, and works until it is given back', () => {
    const kernel = new Kernel({ parts: PARTS });
    const program = new Program(kernel);
    const iommufd = program.open('/dev/iommu');
    const device = program.open('/dev/vfio/devices/vfio0');
    expect(program.bind(device, iommufd)).toBe(0);
    expect(program.attach(device, program.ioas(iommufd))).toBe(0);
    const requests = requestsTo(program, device);
    const [view] = kernel.functions();
    view!.remove();
    view!.remove();
    expect(requests.count).toBe(2);
    expect(program.dma(device, { iova: 0n, length: 8n, data: 0x10_0000n })).toBe(0);
    program.process.close(device);
    expect(requests.holders).toBe(0);
    expect(program.tryOpen('/dev/vfio/devices/vfio0')).toBe(-ENODEV);
    view!.remove();
  });

  test('is not handed out by its group', () => {
    const kernel = new Kernel({ parts: PARTS });
    const program = new Program(kernel);
    const group = program.open('/dev/vfio/0');
    expect(program.setContainer(group, program.open('/dev/vfio/vfio'))).toBe(0);
    kernel.functions()[0]!.remove();
    expect(program.getDeviceFd(group, '0000:0a:00.0')).toBe(-ENODEV);
  });
});
