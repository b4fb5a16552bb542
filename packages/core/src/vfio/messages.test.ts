import { describe, expect, test } from 'vitest';
import { ENOSPC } from '../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_DATA_ARM_SMMUV3,
  IOMMU_IOAS_ALLOC,
  IOMMU_VDEVICE_ALLOC,
  IOMMU_VIOMMU_ALLOC,
  IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
  iommu_hwpt_alloc,
  iommu_ioas_alloc,
  iommu_vdevice_alloc,
  iommu_viommu_alloc,
} from '../abi/iommufd.ts';
import { iommu_hwpt_arm_smmuv3 } from '../abi/iommufd-data.ts';
import {
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_MSIX_IRQ_INDEX,
  vfio_irq_set,
} from '../abi/vfio.ts';
import { findProfile } from '../iommufd/profile.ts';
import { Kernel } from '../machine/kernel.ts';
import { loadParts, type IommuType } from '../machine/machine-file/parts.ts';
import { SimulatedEventfd } from '../memory/simulated-process.ts';
import { COMMAND, REGISTER, STATUS } from '../pci/dma-engine/registers.ts';
import { PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../pci/spec.ts';
import { Trace } from '../trace/trace.ts';
import { TestDeviceFile } from './testing/features.ts';
import { BUFFER, Program } from './testing/program.ts';

// Messages of MSI-X through an IOMMU: an SMMU translates them as it translates other writes.

/** IOMMU_RESV_SW_MSI of the SMMU's driver, and where in the ITS's page they are written to. */
const MESSAGES = 0x800_0040n;

const machineOf = (type: IommuType): ReturnType<typeof loadParts> =>
  loadParts({
    iommus: [{ name: 'iommu', type }],
    devices: [{ name: '0000:0a:00.0', iommu: 'iommu', pasids: 0, ats: true, model: 'dma-engine' }],
  } as Parameters<typeof loadParts>[0]);
const ARM = await machineOf('arm-smmu-v3');
const INTEL = await machineOf('intel-iommu');

class Rig {
  readonly program: Program;
  readonly iommufd: number;
  readonly device: TestDeviceFile;
  readonly messages: { address: unknown; lost: unknown }[] = [];

  constructor(parts = ARM, profile = 'linux-7.3') {
    const trace = new Trace();
    trace.subscribe((event) => {
      if (event.kind !== 'interrupt' || !('device' in event)) return;
      const { address, lost } = event as unknown as { address: unknown; lost: unknown };
      this.messages.push({ address, lost });
    });
    this.program = new Program(new Kernel({ parts, profile: findProfile(profile)!, trace }));
    this.iommufd = this.program.open('/dev/iommu');
    this.device = new TestDeviceFile(this.program, '/dev/vfio/devices/vfio0');
    expect(this.program.bind(this.device.fd, this.iommufd)).toBe(0);
  }

  attach(ioas = this.program.ioas(this.iommufd)): void {
    expect(this.program.attach(this.device.fd, ioas)).toBe(0);
    this.device.setCommand(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  }

  /** HWPTs of a guest whose stage 1 lets everything pass, and nothing. */
  nest(): { bypass: number; abort: number } {
    const { program, iommufd } = this;
    const dev_id = 1;
    const parent = program.call(iommufd, IOMMU_HWPT_ALLOC, iommu_hwpt_alloc, {
      flags: IOMMU_HWPT_ALLOC_NEST_PARENT,
      dev_id,
      pt_id: program.ioas(iommufd),
    });
    const viommu = program.call(iommufd, IOMMU_VIOMMU_ALLOC, iommu_viommu_alloc, {
      type: IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
      dev_id,
      hwpt_id: parent.out.out_hwpt_id,
    });
    const viommu_id = viommu.out.out_viommu_id;
    const vdevice = { viommu_id, dev_id, virt_id: 0n };
    expect(program.call(iommufd, IOMMU_VDEVICE_ALLOC, iommu_vdevice_alloc, vdevice).rc).toBe(0);
    const nested = (config: bigint): number => {
      const ste = new Uint8Array(iommu_hwpt_arm_smmuv3.size);
      iommu_hwpt_arm_smmuv3.write(ste, 0, { ste: [1n | (config << 1n), 0n] });
      program.process.memory.write(BUFFER, ste);
      const data = { data_type: IOMMU_HWPT_DATA_ARM_SMMUV3, data_len: ste.length, data_uptr: BUFFER };
      const { rc, out } = program.call(iommufd, IOMMU_HWPT_ALLOC, iommu_hwpt_alloc, {
        dev_id,
        pt_id: viommu_id,
        ...data,
      });
      expect(rc).toBe(0);
      return out.out_hwpt_id;
    };
    return { bypass: nested(4n), abort: nested(0n) };
  }

  setVector(): { rc: number; eventfd: SimulatedEventfd } {
    const eventfd = new SimulatedEventfd();
    const data = new Uint8Array(4);
    new DataView(data.buffer).setInt32(0, this.program.process.open(eventfd) as number, true);
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    return { rc: this.#setIrqs(flags, 1, data), eventfd };
  }

  disable(): number {
    return this.#setIrqs(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 0);
  }

  #setIrqs(flags: number, count: number, data = new Uint8Array()): number {
    const values = { flags, index: VFIO_PCI_MSIX_IRQ_INDEX, start: 0, count };
    return this.program.call(this.device.fd, VFIO_DEVICE_SET_IRQS, vfio_irq_set, values, data).rc;
  }

  signal(): void {
    this.device.set(REGISTER.SIGNAL, 0);
  }
}

describe('a message behind an SMMU', () => {
  test('passes it by a page that the kernel mapped for it', () => {
    const rig = new Rig();
    rig.attach();
    const { rc, eventfd } = rig.setVector();
    expect(rc).toBe(0);
    rig.signal();
    expect([eventfd.count, rig.messages]).toEqual([1, [{ address: MESSAGES, lost: undefined }]]);
  });

  test('cannot be had where the device is attached to nothing; before Linux 6.15 it could, and was lost', () => {
    expect(new Rig().setVector().rc).toBe(-ENOSPC);
    const old = new Rig(ARM, 'linux-6.13');
    const { rc, eventfd } = old.setVector();
    expect(rc).toBe(0);
    old.attach();
    old.signal();
    expect(eventfd.count).toBe(0);
    expect(old.messages).toEqual([{ address: 0x9_0040n, lost: expect.any(String) }]);
    old.disable();
    const again = old.setVector();
    old.signal();
    expect(again.eventfd.count).toBe(1);
  });

  test('goes with the device to another page table, and is lost where there is none', () => {
    const rig = new Rig();
    rig.attach();
    const { eventfd } = rig.setVector();
    rig.attach(rig.program.ioas(rig.iommufd));
    rig.signal();
    expect(eventfd.count).toBe(1);
    expect(rig.program.detach(rig.device.fd)).toBe(0);
    rig.signal();
    expect([eventfd.count, rig.messages.at(-1)!.lost]).toEqual([1, expect.any(String)]);
    const empty = rig.program.call(rig.iommufd, IOMMU_IOAS_ALLOC, iommu_ioas_alloc, {}).out.out_ioas_id;
    rig.attach(empty);
    rig.signal();
    expect(eventfd.count).toBe(2);
  });

  test('passes a guest’s stage 1 too, where there is one', () => {
    const rig = new Rig();
    rig.attach();
    const { eventfd } = rig.setVector();
    const { bypass, abort } = rig.nest();
    rig.attach(bypass);
    rig.signal();
    expect([eventfd.count, rig.messages.at(-1)]).toEqual([1, { address: MESSAGES, lost: undefined }]);
    rig.attach(abort);
    rig.signal();
    expect([eventfd.count, rig.messages.at(-1)!.lost]).toEqual([1, expect.any(String)]);
    rig.attach(bypass);
    rig.signal();
    expect(eventfd.count).toBe(2);
  });

  test('is no interrupt where the device writes it by DMA, and nothing can be read there', () => {
    const rig = new Rig();
    rig.attach();
    const { eventfd } = rig.setVector();
    const run = (source: bigint, destination: bigint): number => {
      rig.device.set(REGISTER.SOURCE, source, 8);
      rig.device.set(REGISTER.DESTINATION, destination, 8);
      rig.device.set(REGISTER.LENGTH, 4);
      rig.device.set(REGISTER.COMMAND, COMMAND.COPY);
      return rig.device.get(REGISTER.STATUS);
    };
    expect(run(0x100n, MESSAGES)).toBe(STATUS.DONE);
    expect(run(0x100n, MESSAGES + 4n)).toBe(STATUS.ERROR);
    expect(run(MESSAGES, 0x100n)).toBe(STATUS.ERROR);
    expect(eventfd.count).toBe(0);
    rig.signal();
    expect(eventfd.count).toBe(1);
  });
});

test('behind VT-d messages are taken as they are, whatever is attached', () => {
  const rig = new Rig(INTEL);
  const { rc, eventfd } = rig.setVector();
  expect(rc).toBe(0);
  rig.device.setCommand(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  rig.signal();
  expect([eventfd.count, rig.messages]).toEqual([1, [{ address: 0xfee0_0000n, lost: undefined }]]);
});
