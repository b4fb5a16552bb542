import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FILE,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  IOMMU_IOAS_UNMAP,
  iommu_ioas_map,
  iommu_ioas_map_file,
  iommu_ioas_unmap,
} from '../../abi/iommufd.ts';
import {
  VFIO_DEVICE_FEATURE_DMA_BUF,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  vfio_irq_set,
} from '../../abi/vfio.ts';
import { big } from '../../base/u64.ts';
import { SimulatedEventfd } from '../../memory/simulated-process.ts';
import { COMMAND, FLAG, REGISTER } from '../../pci/dma-engine/registers.ts';
import { ADMIN, CC_EN, DOORBELLS, IO, REG } from '../../pci/nvme/spec.ts';
import { PCI_COMMAND } from '../../pci/spec.ts';
import { regionOffset } from '../../vfio/pci/regions.ts';
import { ARGUMENT, Program } from '../../vfio/testing/program.ts';
import { Kernel } from '../kernel.ts';
import { IOMMU_TYPES, loadParts, type IommuType } from '../machine-file/parts.ts';

// Programs that do anything with their devices, devices that find anything in memory, and both die in the middle: nothing
// is written that the IOMMU's tables do not let be written, nothing throws, and the next program gets everything.

const PAGE = 0x1000;
/** Memory of the program: what devices may write, what they may read, what comes and goes, what they know nothing of. */
const PARTS = {
  writable: { iova: 0x10_0000, va: 0x4000_0000n, pages: 8 },
  readable: { iova: 0x20_0000, va: 0x5000_0000n, pages: 2 },
  passing: { iova: 0x30_0000, va: 0x6000_0000n, pages: 4 },
  hidden: { iova: 0x40_0000, va: 0x7000_0000n, pages: 2 },
} as const;
type Part = (typeof PARTS)[keyof typeof PARTS];
const BAR_IOVA = 0x50_0000;
const PATTERN = 0xa5;
const MODELS = ['dma-engine', 'nvme', 'igb-loopback', 'virtio-console', 'dma-engine'];

const machineOf = (type: IommuType): ReturnType<typeof loadParts> =>
  loadParts({
    iommus: [{ name: 'iommu', type }],
    devices: MODELS.map((model, n) => ({
      name: `0000:0${n + 1}:00.0`,
      iommu: 'iommu',
      pasids: n === 0 ? 16 : 0,
      ats: n % 2 === 0,
      model,
      ...(model === 'dma-engine' ? { migration: { p2p: true, preCopy: true, dmaLogging: true } } : {}),
      ...(model === 'virtio-console' ? { console: {} } : {}),
    })),
  } as Parameters<typeof loadParts>[0]);

class Abuser {
  readonly program: Program;
  readonly devices: number[] = [];
  readonly eventfds: SimulatedEventfd[] = [];
  readonly iommufd: number;
  readonly ioas: number;
  #passing = false;

  constructor(kernel: Kernel) {
    this.program = new Program(kernel);
    this.iommufd = this.program.open('/dev/iommu');
    this.ioas = this.program.ioas(this.iommufd);
    for (const [n] of MODELS.entries()) {
      const device = this.program.open(`/dev/vfio/devices/vfio${n}`);
      expect(this.program.bind(device, this.iommufd)).toBe(0);
      expect(this.program.attach(device, this.ioas)).toBe(0);
      this.devices.push(device);
    }
    for (const part of Object.values(PARTS)) {
      this.program.process.memory.map(part.va, big(part.pages * PAGE));
      this.#fill(part);
    }
    this.#map(PARTS.writable, IOMMU_IOAS_MAP_WRITEABLE);
    this.#map(PARTS.readable, 0);
  }

  #fill({ va, pages }: Part): void {
    this.program.process.memory.write(va, new Uint8Array(pages * PAGE).fill(PATTERN));
  }

  #map({ iova, va, pages }: Part, access: number): void {
    const flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | access;
    const where = { user_va: va, iova: big(iova), length: big(pages * PAGE) };
    const values = { flags, ioas_id: this.ioas, ...where };
    expect(this.program.call(this.iommufd, IOMMU_IOAS_MAP, iommu_ioas_map, values).rc).toBe(0);
  }

  /** Memory that comes and goes: what is unmapped is filled anew, and must stay so. */
  toggle(): void {
    const { passing } = PARTS;
    if (this.#passing) {
      const values = { ioas_id: this.ioas, iova: big(passing.iova), length: big(passing.pages * PAGE) };
      expect(this.program.call(this.iommufd, IOMMU_IOAS_UNMAP, iommu_ioas_unmap, values).rc).toBe(0);
      this.#fill(passing);
    } else this.#map(passing, IOMMU_IOAS_MAP_WRITEABLE);
    this.#passing = !this.#passing;
  }

  poke(device: number, region: number, at: number, value: bigint, bytes: number): void {
    const data = Array.from({ length: bytes }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
    this.program.pwrite(this.devices[device]!, regionOffset(region) + big(at), data);
  }

  memory(at: number, words: readonly bigint[]): void {
    const bytes = new BigUint64Array(words);
    this.program.process.memory.write(PARTS.writable.va + big(at), new Uint8Array(bytes.buffer));
  }

  feature(device: number, flags: number, data: Uint8Array = new Uint8Array()): number {
    return this.program.feature(this.devices[device]!, flags, data).rc;
  }

  /** Part of a BAR where other devices' DMA reaches it. */
  shareBar(device: number): void {
    const data = new Uint8Array(32);
    const view = new DataView(data.buffer);
    view.setUint32(12, 1, true);
    view.setBigUint64(24, big(PAGE), true);
    const fd = this.feature(device, VFIO_DEVICE_FEATURE_DMA_BUF | VFIO_DEVICE_FEATURE_GET, data);
    if (fd < 0) return;
    const flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
    const where = { fd, start: 0n, length: big(PAGE), iova: big(BAR_IOVA + device * PAGE) };
    this.program.call(this.iommufd, IOMMU_IOAS_MAP_FILE, iommu_ioas_map_file, {
      flags,
      ioas_id: this.ioas,
      ...where,
    });
    this.program.process.close(fd);
  }

  interrupt(device: number, close: boolean): void {
    const eventfd = new SimulatedEventfd();
    const fd = this.program.process.open(eventfd);
    if (typeof fd !== 'number') return;
    this.eventfds.push(eventfd);
    const data = new Uint8Array(4);
    new DataView(data.buffer).setInt32(0, fd, true);
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    const values = { flags, index: VFIO_PCI_MSIX_IRQ_INDEX, start: 0, count: 1 };
    this.program.call(this.devices[device]!, VFIO_DEVICE_SET_IRQS, vfio_irq_set, values, data);
    if (close) this.program.process.close(fd);
  }

  /** What no device may have written to is as it was. */
  check(): void {
    const kept: Part[] = [PARTS.readable, PARTS.hidden];
    if (!this.#passing) kept.push(PARTS.passing);
    for (const { va, pages } of kept) {
      const bytes = new Uint8Array(pages * PAGE);
      expect(this.program.process.memory.read(va, bytes)).toBe(true);
      expect(bytes.every((byte) => byte === PATTERN)).toBe(true);
    }
  }
}

type Step = (abuser: Abuser) => void;

const pages = Object.values(PARTS).flatMap(({ iova, pages: count }) =>
  Array.from({ length: count }, (_, page) => big(iova + page * PAGE)),
);
const bars = MODELS.map((_, n) => big(BAR_IOVA + n * PAGE));
const address = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...pages) },
  { weight: 2, arbitrary: fc.constantFrom(...bars) },
  {
    weight: 2,
    arbitrary: fc.tuple(fc.constantFrom(...pages), fc.nat(PAGE - 1)).map(([at, more]) => at + big(more)),
  },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
);
const value = fc.oneof(
  address,
  fc.nat(64).map(big),
  fc.integer({ min: 0, max: 31 }).map((bit) => 1n << big(bit)),
);
const device = fc.nat(MODELS.length - 1);
const ENGINES = [0, 4];

const poke = fc
  .tuple(
    device,
    fc.nat(5),
    fc.oneof(fc.nat(0x140), fc.nat(0x3fff), fc.nat(0x1_ffff)),
    value,
    fc.constantFrom(1, 2, 4, 8),
  )
  .map(
    ([n, bar, at, stored, bytes]): Step =>
      (abuser) =>
        abuser.poke(n, bar, at - (at % bytes), stored, bytes),
  );
const engine = fc
  .tuple(
    fc.constantFrom(...ENGINES),
    address,
    address,
    fc.oneof(fc.nat(0x100), fc.nat(0x4_0000)),
    fc.nat(0x1ff),
    fc.constantFrom(...Object.values(COMMAND)),
  )
  .map(([n, source, destination, length, flags, command]): Step => (abuser) => {
    abuser.poke(n, 0, REGISTER.SOURCE, source, 8);
    abuser.poke(n, 0, REGISTER.DESTINATION, destination, 8);
    abuser.poke(n, 0, REGISTER.LENGTH, big(length), 4);
    abuser.poke(n, 0, REGISTER.FLAGS, big(flags), 4);
    abuser.poke(n, 0, REGISTER.COMMAND, big(command), 4);
  });
/** A long copy, which is still going on when the next steps come. */
const longCopy = fc
  .tuple(fc.constantFrom(...ENGINES), fc.constantFrom(PARTS.writable, PARTS.passing))
  .map(([n, { iova }]): Step => (abuser) => {
    abuser.poke(n, 0, REGISTER.SOURCE, big(PARTS.readable.iova), 8);
    abuser.poke(n, 0, REGISTER.DESTINATION, big(iova), 8);
    abuser.poke(n, 0, REGISTER.LENGTH, 0x10_0000n, 4);
    abuser.poke(n, 0, REGISTER.FLAGS, big(FLAG.BACKGROUND | FLAG.PAGE_REQUESTS), 4);
    abuser.poke(n, 0, REGISTER.COMMAND, big(COMMAND.FILL), 4);
  });
/** An NVMe controller whose queues are anywhere. */
const nvme = fc
  .tuple(address, address, fc.nat(0xfff), fc.nat(31))
  .map(([asq, acq, entries, tail]): Step => (abuser) => {
    abuser.poke(1, 0, REG.CC, 0n, 4);
    abuser.poke(1, 0, REG.AQA, big((entries << 16) | entries), 4);
    abuser.poke(1, 0, REG.ASQ, asq & ~0xfffn, 8);
    abuser.poke(1, 0, REG.ACQ, acq & ~0xfffn, 8);
    abuser.poke(1, 0, REG.CC, big(CC_EN | (6 << 16) | (4 << 20)), 4);
    abuser.poke(1, 0, DOORBELLS, big(tail), 4);
  });
/** Commands, descriptors and lists that point everywhere. */
const opcode = fc.constantFrom<number>(...Object.values(ADMIN), ...Object.values(IO));
const memory = fc
  .tuple(
    fc.nat(PARTS.writable.pages * PAGE - 0x200),
    fc.array(fc.oneof(value, opcode.map(big)), { maxLength: 64 }),
  )
  .map(
    ([at, words]): Step =>
      (abuser) =>
        abuser.memory(at & ~7, words),
  );
const reset = device.map((n): Step => (abuser) => {
  abuser.program.ioctl(abuser.devices[n]!, VFIO_DEVICE_RESET, ARGUMENT);
});
const command = fc.tuple(device, fc.constantFrom(7, 7, 7, 6, 3, 0)).map(
  ([n, bits]): Step =>
    (abuser) =>
      abuser.poke(n, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, big(bits), 2),
);
const config = fc.tuple(device, fc.nat(0x13f), value, fc.constantFrom(1, 2, 4)).map(
  ([n, at, stored, bytes]): Step =>
    (abuser) =>
      abuser.poke(n, VFIO_PCI_CONFIG_REGION_INDEX, at, stored, bytes),
);
const power = fc
  .tuple(device, fc.constantFrom(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT))
  .map(
    ([n, feature]): Step =>
      (abuser) =>
        void abuser.feature(n, feature | VFIO_DEVICE_FEATURE_SET),
  );
const migrate = fc.tuple(fc.constantFrom(...ENGINES), fc.nat(8)).map(([n, state]): Step => (abuser) => {
  const flags = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET;
  abuser.feature(n, flags, Uint8Array.of(state, 0, 0, 0, 0, 0, 0, 0));
});
const interrupt = fc.tuple(device, fc.boolean()).map(
  ([n, close]): Step =>
    (abuser) =>
      abuser.interrupt(n, close),
);
const share = device.map(
  (n): Step =>
    (abuser) =>
      abuser.shareBar(n),
);
const reattach = fc.tuple(device, fc.boolean()).map(([n, detach]): Step => (abuser) => {
  if (detach) abuser.program.detach(abuser.devices[n]!);
  else abuser.program.attach(abuser.devices[n]!, abuser.ioas);
});
const toggle = fc.constant<Step>((abuser) => abuser.toggle());
const steps = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: poke },
    { weight: 6, arbitrary: engine },
    { weight: 3, arbitrary: longCopy },
    { weight: 4, arbitrary: nvme },
    { weight: 6, arbitrary: memory },
    { weight: 3, arbitrary: reset },
    { weight: 4, arbitrary: command },
    { weight: 2, arbitrary: config },
    { weight: 1, arbitrary: power },
    { weight: 2, arbitrary: migrate },
    { weight: 2, arbitrary: interrupt },
    { weight: 2, arbitrary: share },
    { weight: 2, arbitrary: reattach },
    { weight: 3, arbitrary: toggle },
  ),
  { minLength: 30, maxLength: 80 },
);

describe.each(IOMMU_TYPES)('devices of an abusive program, behind an %s', (type) => {
  it('write only what they may, and are there for the next program', { timeout: 60_000 }, async () => {
    const kernel = new Kernel({ parts: await machineOf(type), mock: false });
    fc.assert(
      fc.property(steps, (all) => {
        const abuser = new Abuser(kernel);
        for (const [n] of MODELS.entries()) abuser.poke(n, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, 7n, 2);
        for (const step of all) {
          step(abuser);
          kernel.doorbells.look();
          abuser.check();
        }
        // Killed with everything set: nothing is left of it, and nothing goes on.
        abuser.program.process.exit();
        expect(abuser.eventfds.every(({ holders }) => holders === 0)).toBe(true);
        expect(kernel.doorbells.watched).toBe(false);
        expect(kernel.physical.frames.pinned).toBe(0);
        const { memory: remains } = abuser.program.process;
        expect(remains.pinnedPages + remains.lockedPages).toBe(0);
      }),
      { numRuns: 40 },
    );
  });
});
