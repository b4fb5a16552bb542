import { assert } from '../../base/assert.ts';
import { big, exact, hi32, lo32, u64 } from '../../base/u64.ts';
import { PCI_CAP_ID_VNDR } from '../spec.ts';
import type { Bar, BarAccessSize, BarHandler } from '../bar.ts';
import type { ConfigSpace } from '../config-space.ts';
import type { FunctionDma } from '../dma.ts';
import type { DeviceModel, FunctionDescription, PciFunction, TranslationFeatures } from '../function.ts';
import { type QueueBroken, SplitQueue } from './split-queue.ts';
import {
  CAP,
  COMMON,
  COMMON_BYTES,
  ISR_CONFIG,
  ISR_QUEUE,
  STATUS,
  VIRTIO_DEVICE_BASE,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_VERSION_1,
  VIRTIO_MSI_NO_VECTOR,
  VIRTIO_PCI_CAP,
  VIRTIO_VENDOR,
} from './spec.ts';

/** What a virtio device is, apart from its transport. */
export interface VirtioDevice {
  /** §5: the device's type. */
  readonly type: number;
  readonly classCode: number;
  /** Feature bits of its own. */
  readonly features: readonly number[];
  /** The largest size of each of its queues, powers of two. */
  readonly queues: readonly number[];
  /** Its configuration, which drivers read. */
  readonly config: Uint8Array;
  reset(): void;
  /** The driver notified a queue, or a poll came. True where more waits. */
  serve(queue: number): boolean;
}

const WINDOW_BYTES = 0x1000;
const WINDOW = { COMMON: 0, ISR: 0x1000, DEVICE: 0x2000, NOTIFY: 0x3000 } as const;
const NOTIFY_MULTIPLIER = 4;
const MSIX_BAR = 2;

interface QueueRegisters {
  size: number;
  vector: number;
  enabled: boolean;
  /** descriptors, driver, device. */
  readonly addresses: bigint[];
  ring: SplitQueue | null;
}

/** A virtio device on PCI, without the legacy interface: VIRTIO 1.2 §4.1. */
export class VirtioPci implements DeviceModel {
  readonly description: FunctionDescription;
  readonly #device: VirtioDevice;
  readonly #features: bigint;
  #pci!: PciFunction;
  #status = 0;
  #isr = 0;
  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #driverFeatures = 0n;
  #configVector: number = VIRTIO_MSI_NO_VECTOR;
  #select = 0;
  readonly #queues: QueueRegisters[] = [];

  constructor(device: VirtioDevice, features: TranslationFeatures) {
    this.#device = device;
    const bits = [...device.features, VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_INDIRECT_DESC];
    this.#features = bits.reduce((all, bit) => all | (1n << big(bit)), 0n);
    const vectors = device.queues.length + 1;
    const windows: Bar = { index: 0, size: 0x4000, kind: 'memory64', handler: this.#windows() };
    this.description = {
      identity: {
        vendor: VIRTIO_VENDOR,
        device: VIRTIO_DEVICE_BASE + device.type,
        revision: 1,
        classCode: device.classCode,
        subsystemVendor: VIRTIO_VENDOR,
        subsystem: VIRTIO_DEVICE_BASE + device.type,
      },
      bars: [windows, { index: MSIX_BAR, size: 0x1000, kind: 'memory32', handler: NOTHING }],
      msix: { vectors, bar: MSIX_BAR, table: 0, pba: 0x800 },
      intx: true,
      configure: (config) => this.#configure(config),
      ...features,
    };
  }

  #configure(config: ConfigSpace): void {
    const { COMMON_CFG, NOTIFY_CFG, ISR_CFG, DEVICE_CFG } = VIRTIO_PCI_CAP;
    addWindow(config, COMMON_CFG, WINDOW.COMMON, COMMON_BYTES);
    const notify = this.#device.queues.length * NOTIFY_MULTIPLIER;
    const at = addWindow(config, NOTIFY_CFG, WINDOW.NOTIFY, notify, 4);
    config.define({ offset: at + CAP.AFTER, size: 4, value: NOTIFY_MULTIPLIER });
    addWindow(config, ISR_CFG, WINDOW.ISR, 1);
    addWindow(config, DEVICE_CFG, WINDOW.DEVICE, this.#device.config.length);
    this.#addConfigAccess(config);
  }

  /** §4.1.4.9: BARs by way of configuration space. */
  #addConfigAccess(config: ConfigSpace): void {
    const at = config.addCapability(PCI_CAP_ID_VNDR, CAP.AFTER + 4);
    config.define({ offset: at + CAP.LEN, size: 1, value: CAP.AFTER + 4 });
    config.define({ offset: at + CAP.TYPE, size: 1, value: VIRTIO_PCI_CAP.PCI_CFG });
    config.define({ offset: at + CAP.BAR, size: 1, writable: 0xff });
    config.define({ offset: at + CAP.OFFSET, size: 4, writable: 0xffff_ffff });
    config.define({ offset: at + CAP.LENGTH, size: 4, writable: 0xffff_ffff });
    const target = (): { offset: number; size: BarAccessSize } | null => {
      const offset = config.read(at + CAP.OFFSET, 4);
      const size = config.read(at + CAP.LENGTH, 4);
      const sizes: readonly number[] = [1, 2, 4];
      const right = sizes.includes(size) && offset % size === 0 && offset + size <= 0x4000;
      return right && config.read(at + CAP.BAR, 1) === 0 ? { offset, size: size as BarAccessSize } : null;
    };
    config.define({
      offset: at + CAP.AFTER,
      size: 4,
      writable: 0xffff_ffff,
      onRead: () => {
        const to = target();
        return to === null ? 0 : exact(this.#pci.readBar(0, to.offset, to.size));
      },
      onWrite: (value) => {
        const to = target();
        if (to !== null) this.#pci.writeBar(0, to.offset, to.size, big(value));
      },
    });
  }

  connect(pci: PciFunction): void {
    this.#pci = pci;
  }

  reset(): void {
    this.#status = 0;
    this.#isr = 0;
    this.#deviceFeatureSelect = 0;
    this.#driverFeatureSelect = 0;
    this.#driverFeatures = 0n;
    this.#configVector = VIRTIO_MSI_NO_VECTOR;
    this.#select = 0;
    this.#queues.length = 0;
    for (const size of this.#device.queues)
      this.#queues.push({
        size,
        vector: VIRTIO_MSI_NO_VECTOR,
        enabled: false,
        addresses: [0n, 0n, 0n],
        ring: null,
      });
    this.#pci.setIntx(false);
    this.#device.reset();
  }

  poll(): boolean {
    let more = false;
    for (const index of this.#queues.keys()) if (this.#serve(index)) more = true;
    return more;
  }

  // ---- for the device ----

  get dma(): FunctionDma {
    return this.#pci.dma;
  }

  /** The queue, while the driver has it running. */
  queue(index: number): SplitQueue | null {
    return this.#running ? (this.#queues[index]?.ring ?? null) : null;
  }

  /** A feature bit was agreed on. */
  agreed(bit: number): boolean {
    return ((this.#driverFeatures >> big(bit)) & 1n) === 1n;
  }

  /** Buffers of a queue were used, and the driver wants to know. */
  notifyDriver(index: number): void {
    this.#isr |= ISR_QUEUE;
    this.#interrupt(this.#queues[index]!.vector);
  }

  /** The driver broke a rule: §2.1.2 DEVICE_NEEDS_RESET. */
  broken({ reason }: QueueBroken): void {
    if ((this.#status & STATUS.NEEDS_RESET) !== 0) return;
    this.#pci.emit('virtio', { broken: reason });
    this.#status |= STATUS.NEEDS_RESET;
    if ((this.#status & STATUS.DRIVER_OK) !== 0) this.#configChanged();
  }

  get #running(): boolean {
    return (this.#status & STATUS.DRIVER_OK) !== 0 && (this.#status & STATUS.NEEDS_RESET) === 0;
  }

  #configChanged(): void {
    this.#isr |= ISR_CONFIG;
    this.#interrupt(this.#configVector);
  }

  #interrupt(vector: number): void {
    if (this.#pci.msix!.enabled) {
      if (vector !== VIRTIO_MSI_NO_VECTOR) this.#pci.signal(vector);
    } else this.#pci.setIntx(true);
  }

  #serve(index: number): boolean {
    return this.queue(index) !== null && this.#device.serve(index);
  }

  // ---- BAR 0 ----

  #windows(): BarHandler {
    return {
      read: (offset, size) => {
        const at = offset % WINDOW_BYTES;
        switch (offset - at) {
          case WINDOW.COMMON:
            return this.#readCommon(at, size);
          case WINDOW.ISR:
            return at === 0 ? big(this.#takeIsr()) : 0n;
          case WINDOW.DEVICE:
            return this.#readDevice(at, size);
          default:
            return 0n;
        }
      },
      write: (offset, size, value) => {
        const at = offset % WINDOW_BYTES;
        if (offset < COMMON_BYTES) this.#writeCommon(at, size, value);
        else if (offset >= WINDOW.NOTIFY && this.#serve(Math.floor(at / NOTIFY_MULTIPLIER))) this.#pci.wake();
      },
    };
  }

  /** §4.1.4.5: reading it clears it, and lets the interrupt pin go. */
  #takeIsr(): number {
    const isr = this.#isr;
    this.#isr = 0;
    this.#pci.setIntx(false);
    return isr;
  }

  #readDevice(at: number, size: BarAccessSize): bigint {
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | big(this.#device.config[at + i] ?? 0);
    return value;
  }

  #readCommon(at: number, size: BarAccessSize): bigint {
    // Registers of 8 bytes are read in halves: §4.1.3.1.
    if (size === 8) return u64(this.#common(at + 4, 4), this.#common(at, 4));
    return big(this.#common(at, size));
  }

  #common(at: number, size: number): number {
    const queue = this.#queues[this.#select];
    switch (at) {
      case COMMON.DEVICE_FEATURE_SELECT:
        return this.#deviceFeatureSelect;
      case COMMON.DEVICE_FEATURE:
        return half(this.#features, this.#deviceFeatureSelect);
      case COMMON.DRIVER_FEATURE_SELECT:
        return this.#driverFeatureSelect;
      case COMMON.DRIVER_FEATURE:
        return half(this.#driverFeatures, this.#driverFeatureSelect);
      case COMMON.CONFIG_MSIX_VECTOR:
        return this.#configVector;
      case COMMON.NUM_QUEUES:
        return this.#queues.length;
      case COMMON.DEVICE_STATUS:
        return this.#status;
      case COMMON.QUEUE_SELECT:
        return this.#select;
      case COMMON.QUEUE_SIZE:
        return queue?.size ?? 0;
      case COMMON.QUEUE_MSIX_VECTOR:
        return queue?.vector ?? VIRTIO_MSI_NO_VECTOR;
      case COMMON.QUEUE_ENABLE:
        return queue?.enabled === true ? 1 : 0;
      case COMMON.QUEUE_NOTIFY_OFF:
        return this.#select;
      default:
        return at >= COMMON.QUEUE_DESC && size === 4 ? this.#address(at) : 0;
    }
  }

  /** Half of an address of the selected queue. */
  #address(at: number): number {
    const address = this.#queues[this.#select]?.addresses[Math.floor((at - COMMON.QUEUE_DESC) / 8)] ?? 0n;
    return at % 8 === 0 ? lo32(address) : hi32(address);
  }

  #writeCommon(at: number, size: BarAccessSize, value: bigint): void {
    if (size === 8) {
      this.#writeCommon(at, 4, big(lo32(value)));
      this.#writeCommon(at + 4, 4, big(hi32(value)));
      return;
    }
    const word = exact(value);
    switch (at) {
      case COMMON.DEVICE_FEATURE_SELECT:
        this.#deviceFeatureSelect = word;
        break;
      case COMMON.DRIVER_FEATURE_SELECT:
        this.#driverFeatureSelect = word;
        break;
      case COMMON.DRIVER_FEATURE:
        this.#setFeatures(word);
        break;
      case COMMON.CONFIG_MSIX_VECTOR:
        this.#configVector = this.#vector(word);
        break;
      case COMMON.DEVICE_STATUS:
        this.#setStatus(word);
        break;
      case COMMON.QUEUE_SELECT:
        this.#select = word;
        break;
      default:
        this.#writeQueue(at, size, word);
    }
  }

  #writeQueue(at: number, size: number, value: number): void {
    const queue = this.#queues[this.#select];
    if (queue === undefined) return;
    if (at === COMMON.QUEUE_MSIX_VECTOR) queue.vector = this.#vector(value);
    else if (at === COMMON.QUEUE_ENABLE) {
      // §4.1.4.3.2: a driver writes 1, and never anything else.
      if (value === 1 && !queue.enabled) this.#enable(queue);
    } else if (queue.enabled) return;
    else if (at === COMMON.QUEUE_SIZE) {
      const largest = this.#device.queues[this.#select]!;
      if (value > 0 && value <= largest && Number.isInteger(Math.log2(value))) queue.size = value;
    } else if (at >= COMMON.QUEUE_DESC && at < COMMON_BYTES && size === 4) {
      const index = Math.floor((at - COMMON.QUEUE_DESC) / 8);
      const old = queue.addresses[index]!;
      queue.addresses[index] = at % 8 === 0 ? u64(hi32(old), value) : u64(value, lo32(old));
    }
  }

  #enable(queue: QueueRegisters): void {
    const [descriptors, driver, device] = queue.addresses;
    assert(descriptors !== undefined && driver !== undefined && device !== undefined, 'three addresses');
    queue.enabled = true;
    queue.ring = new SplitQueue(this.#pci.dma, { size: queue.size, descriptors, driver, device });
  }

  #vector(value: number): number {
    return value < this.#pci.msix!.vectors ? value : VIRTIO_MSI_NO_VECTOR;
  }

  #setFeatures(word: number): void {
    if ((this.#status & STATUS.FEATURES_OK) !== 0 || this.#driverFeatureSelect > 1) return;
    const upper = this.#driverFeatureSelect === 1;
    const old = this.#driverFeatures;
    this.#driverFeatures = upper ? u64(word, lo32(old)) : u64(hi32(old), word);
  }

  /** §3.1.1: features are agreed on where all of them were offered and those that must be are there. */
  #setStatus(value: number): void {
    if (value === 0) {
      this.reset();
      return;
    }
    const asks = (value & STATUS.FEATURES_OK) !== 0 && (this.#status & STATUS.FEATURES_OK) === 0;
    const needed = (1n << big(VIRTIO_F_VERSION_1)) | (1n << big(VIRTIO_F_ACCESS_PLATFORM));
    const right =
      (this.#driverFeatures & ~this.#features) === 0n && (this.#driverFeatures & needed) === needed;
    const refused = asks && !right ? STATUS.FEATURES_OK : 0;
    // Bits are set one after the other and never cleared but by a reset.
    this.#status |= value & ~refused & ~STATUS.NEEDS_RESET;
  }
}

const NOTHING: BarHandler = { read: () => 0n, write: () => {} };

function half(features: bigint, select: number): number {
  if (select > 1) return 0;
  return select === 1 ? hi32(features) : lo32(features);
}

function addWindow(config: ConfigSpace, type: number, offset: number, length: number, after = 0): number {
  const at = config.addCapability(PCI_CAP_ID_VNDR, CAP.AFTER + after);
  config.define({ offset: at + CAP.LEN, size: 1, value: CAP.AFTER + after });
  config.define({ offset: at + CAP.TYPE, size: 1, value: type });
  config.define({ offset: at + CAP.BAR, size: 1, value: 0 });
  config.define({ offset: at + CAP.OFFSET, size: 4, value: offset });
  config.define({ offset: at + CAP.LENGTH, size: 4, value: length });
  return at;
}
