import { describe, expect, test } from 'vitest';
import fc from 'fast-check';
import { assert } from '../../base/assert.ts';
import { big } from '../../base/u64.ts';
import { PCI_CAP_ID_VNDR } from '../spec.ts';
import { FlatPort } from '../testing/flat-port.ts';
import { findCapabilities, TestSlot } from '../testing/host-bus.ts';
import { VirtioConsole, type ConsoleBackend } from './console.ts';
import {
  CAP,
  COMMON,
  CONSOLE_RECEIVEQ,
  CONSOLE_TRANSMITQ,
  ISR_QUEUE,
  STATUS,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_VERSION_1,
  VIRTIO_PCI_CAP,
  VRING_AVAIL_F_NO_INTERRUPT,
  VRING_DESC_F_INDIRECT,
  VRING_DESC_F_NEXT,
  VRING_DESC_F_WRITE,
} from './spec.ts';
import { bytesOf, textOf } from '../../base/testing/ascii.ts';

const MEMORY = 1 << 18;
const QUEUE_BYTES = 0x4000;
const BUFFERS = 0x1_0000;
const VERSION_1 = 1 << (VIRTIO_F_VERSION_1 - 32);
const PLATFORM = 1 << (VIRTIO_F_ACCESS_PLATFORM - 32);

interface Buffer {
  readonly address: number;
  readonly length: number;
  readonly write?: boolean;
}

class Output implements ConsoleBackend {
  text = '';
  input = '';
  onInput: (() => void) | undefined;

  write(bytes: Uint8Array): void {
    this.text += textOf(bytes);
  }

  get available(): number {
    return this.input.length;
  }

  read(max: number): Uint8Array {
    const part = this.input.slice(0, max);
    this.input = this.input.slice(max);
    return bytesOf(part);
  }

  type(text: string): void {
    this.input += text;
    this.onInput?.();
  }
}

/** What drivers/virtio/virtio_pci_modern.c and drivers/char/virtio_console.c do, without multiport. */
class Driver {
  readonly output = new Output();
  readonly slot = new TestSlot(VirtioConsole.create(this.output));
  readonly port = new FlatPort(MEMORY);
  readonly view = new DataView(this.port.bytes.buffer);
  readonly #common: number;
  readonly #notify: number;
  readonly #multiplier: number;
  readonly isr: number;
  readonly device: number;
  readonly #available = [0, 0];
  readonly #free = [0, 0];

  constructor() {
    const { pci } = this.slot;
    pci.dma.connect(this.port);
    this.#common = this.#window(VIRTIO_PCI_CAP.COMMON_CFG);
    const notify = this.#capability(VIRTIO_PCI_CAP.NOTIFY_CFG);
    this.#notify = pci.readConfig(notify + CAP.OFFSET, 4);
    this.#multiplier = pci.readConfig(notify + CAP.AFTER, 4);
    this.isr = this.#window(VIRTIO_PCI_CAP.ISR_CFG);
    this.device = this.#window(VIRTIO_PCI_CAP.DEVICE_CFG);
  }

  /** virtio_pci_find_capability() */
  #capability(type: number): number {
    const { pci } = this.slot;
    const found = findCapabilities(pci, PCI_CAP_ID_VNDR).find(
      (at) => pci.readConfig(at + CAP.TYPE, 1) === type,
    );
    assert(found !== undefined, `there is a capability of type ${type}`);
    return found;
  }

  #window(type: number): number {
    const at = this.#capability(type);
    expect(this.slot.pci.readConfig(at + CAP.BAR, 1)).toBe(0);
    return this.slot.pci.readConfig(at + CAP.OFFSET, 4);
  }

  get(register: number, size: 1 | 2 | 4): number {
    return this.slot.read(0, this.#common + register, size);
  }

  set(register: number, size: 1 | 2 | 4, value: number): void {
    this.slot.write(0, this.#common + register, value, size);
  }

  get status(): number {
    return this.get(COMMON.DEVICE_STATUS, 1);
  }

  addStatus(bit: number): void {
    this.set(COMMON.DEVICE_STATUS, 1, this.status | bit);
  }

  features(): bigint {
    let all = 0n;
    for (const select of [1, 0]) {
      this.set(COMMON.DEVICE_FEATURE_SELECT, 4, select);
      all = (all << 32n) | big(this.get(COMMON.DEVICE_FEATURE, 4));
    }
    return all;
  }

  agree(low: number, high: number): boolean {
    this.set(COMMON.DEVICE_STATUS, 1, 0);
    this.addStatus(STATUS.ACKNOWLEDGE);
    this.addStatus(STATUS.DRIVER);
    for (const [select, word] of [low, high].entries()) {
      this.set(COMMON.DRIVER_FEATURE_SELECT, 4, select);
      this.set(COMMON.DRIVER_FEATURE, 4, word);
    }
    this.addStatus(STATUS.FEATURES_OK);
    return (this.status & STATUS.FEATURES_OK) !== 0;
  }

  #ring(queue: number): { descriptors: number; driver: number; device: number } {
    const base = queue * QUEUE_BYTES;
    return { descriptors: base, driver: base + 0x1000, device: base + 0x2000 };
  }

  /** virtio_find_vqs(): one vector each, and one for the configuration. */
  start(msix = true): void {
    expect(this.agree(0, VERSION_1 | PLATFORM)).toBe(true);
    if (msix) this.slot.enableMsix();
    if (msix) this.set(COMMON.CONFIG_MSIX_VECTOR, 2, 0);
    const queues = this.get(COMMON.NUM_QUEUES, 2);
    for (let queue = 0; queue < queues; queue++) {
      this.set(COMMON.QUEUE_SELECT, 2, queue);
      expect(this.get(COMMON.QUEUE_ENABLE, 2)).toBe(0);
      const { descriptors, driver, device } = this.#ring(queue);
      for (const [register, address] of [
        [COMMON.QUEUE_DESC, descriptors],
        [COMMON.QUEUE_DRIVER, driver],
        [COMMON.QUEUE_DEVICE, device],
      ] as const) {
        this.set(register, 4, address);
        this.set(register + 4, 4, 0);
      }
      if (msix) this.set(COMMON.QUEUE_MSIX_VECTOR, 2, queue + 1);
      this.set(COMMON.QUEUE_ENABLE, 2, 1);
    }
    this.addStatus(STATUS.DRIVER_OK);
  }

  describe(at: number, { address, length, write = false }: Buffer, next: number | null, flags = 0): void {
    this.view.setBigUint64(at, big(address), true);
    this.view.setUint32(at + 8, length, true);
    const chained = next === null ? 0 : VRING_DESC_F_NEXT;
    this.view.setUint16(at + 12, flags | chained | (write ? VRING_DESC_F_WRITE : 0), true);
    this.view.setUint16(at + 14, next ?? 0, true);
  }

  /** virtqueue_add() and virtqueue_kick(). */
  add(queue: number, buffers: readonly Buffer[], kick = true): number {
    const { descriptors } = this.#ring(queue);
    const head = this.#free[queue]!;
    for (const [index, buffer] of buffers.entries()) {
      const last = index === buffers.length - 1;
      this.describe(descriptors + (head + index) * 16, buffer, last ? null : head + index + 1);
    }
    this.#free[queue] = (head + buffers.length) % 32;
    this.offer(queue, head);
    if (kick) this.kick(queue);
    return head;
  }

  offer(queue: number, head: number): void {
    const { driver } = this.#ring(queue);
    this.view.setUint16(driver + 4 + 2 * (this.#available[queue]! % 64), head, true);
    this.#available[queue] = (this.#available[queue]! + 1) & 0xffff;
    this.view.setUint16(driver + 2, this.#available[queue], true);
  }

  kick(queue: number): void {
    this.set(COMMON.QUEUE_SELECT, 2, queue);
    const offset = this.get(COMMON.QUEUE_NOTIFY_OFF, 2) * this.#multiplier;
    this.slot.write(0, this.#notify + offset, queue, 2);
  }

  used(queue: number): { index: number; last: readonly [number, number] } {
    const { device } = this.#ring(queue);
    const index = this.view.getUint16(device + 2, true);
    const at = device + 4 + 8 * ((index + 63) % 64);
    return { index, last: [this.view.getUint32(at, true), this.view.getUint32(at + 4, true)] };
  }

  put(address: number, text: string): Buffer {
    for (let i = 0; i < text.length; i++) this.view.setUint8(address + i, text.charCodeAt(i));
    return { address, length: text.length };
  }

  text(address: number, length: number): string {
    return textOf(this.port.bytes.subarray(address, address + length));
  }
}

describe('virtio-console, as Linux drives it', () => {
  test('offers what a driver behind an IOMMU needs, and insists on it', () => {
    const driver = new Driver();
    expect(driver.features()).toBe(0x3_1000_0001n);
    expect(driver.agree(0, VERSION_1)).toBe(false);
    expect(driver.agree(0, PLATFORM)).toBe(false);
    expect(driver.agree(0x80, VERSION_1 | PLATFORM)).toBe(false);
    expect(driver.agree(1, VERSION_1 | PLATFORM)).toBe(true);
  });

  test('writes what the driver sends, and tells it', () => {
    const driver = new Driver();
    driver.start();
    const buffers = [driver.put(BUFFERS, 'hello '), driver.put(BUFFERS + 0x100, 'world')];
    const head = driver.add(CONSOLE_TRANSMITQ, buffers);
    expect(driver.output.text).toBe('hello world');
    expect(driver.used(CONSOLE_TRANSMITQ)).toEqual({ index: 1, last: [head, 0] });
    expect(driver.slot.messages).toEqual([CONSOLE_TRANSMITQ + 1]);
  });

  test('hands input to buffers that wait, as much as fits in each', () => {
    const driver = new Driver();
    driver.start();
    const room = [0, 1].map((index) => ({ address: BUFFERS + index * 0x100, length: 4, write: true }));
    for (const buffer of room) driver.add(CONSOLE_RECEIVEQ, [buffer]);
    driver.output.type('input');
    expect([driver.text(BUFFERS, 4), driver.text(BUFFERS + 0x100, 1)]).toEqual(['inpu', 't']);
    expect(driver.used(CONSOLE_RECEIVEQ)).toEqual({ index: 2, last: [1, 1] });
    expect(driver.slot.messages).toEqual([1]);
  });

  test('keeps input until there is a buffer for it', () => {
    const driver = new Driver();
    driver.start();
    driver.output.type('late');
    driver.add(CONSOLE_RECEIVEQ, [{ address: BUFFERS, length: 64, write: true }]);
    expect(driver.text(BUFFERS, 4)).toBe('late');
  });

  test('follows an indirect table', () => {
    const driver = new Driver();
    driver.start();
    const table = BUFFERS + 0x1000;
    driver.describe(table, driver.put(BUFFERS, 'in'), 1);
    driver.describe(table + 16, driver.put(BUFFERS + 8, 'direct'), null);
    driver.describe(QUEUE_BYTES, { address: table, length: 32 }, null, VRING_DESC_F_INDIRECT);
    driver.offer(CONSOLE_TRANSMITQ, 0);
    driver.kick(CONSOLE_TRANSMITQ);
    expect(driver.output.text).toBe('indirect');
  });

  test('is silent where the driver does not want to be told', () => {
    const driver = new Driver();
    driver.start();
    driver.view.setUint16(QUEUE_BYTES + 0x1000, VRING_AVAIL_F_NO_INTERRUPT, true);
    driver.add(CONSOLE_TRANSMITQ, [driver.put(BUFFERS, 'x')]);
    expect([driver.output.text, driver.slot.messages]).toEqual(['x', []]);
  });

  test('uses its pin without MSI-X, and lets it go when the reason was read', () => {
    const driver = new Driver();
    driver.start(false);
    driver.add(CONSOLE_TRANSMITQ, [driver.put(BUFFERS, 'x')]);
    expect(driver.slot.intx).toEqual([true]);
    expect(driver.slot.read(0, driver.isr, 1)).toBe(ISR_QUEUE);
    expect(driver.slot.intx).toEqual([true, false]);
    expect(driver.slot.read(0, driver.isr, 1)).toBe(0);
  });

  test('serves more buffers than it takes at once when it is polled', () => {
    const driver = new Driver();
    driver.start();
    for (let i = 0; i < 64; i++) {
      driver.describe(QUEUE_BYTES + i * 16, driver.put(BUFFERS + i, 'y'), null);
      driver.offer(CONSOLE_TRANSMITQ, i);
    }
    driver.kick(CONSOLE_TRANSMITQ);
    expect([driver.output.text.length, driver.slot.wakes]).toEqual([64, 1]);
    driver.slot.settle();
    expect(driver.used(CONSOLE_TRANSMITQ).index).toBe(64);
  });

  test('tells its size, and its registers by configuration space', () => {
    const driver = new Driver();
    const { pci } = driver.slot;
    expect([0, 2].map((at) => driver.slot.read(0, driver.device + at, 2))).toEqual([80, 25]);
    const at = findCapabilities(pci, PCI_CAP_ID_VNDR).at(-1)!;
    expect(pci.readConfig(at + CAP.TYPE, 1)).toBe(VIRTIO_PCI_CAP.PCI_CFG);
    pci.writeConfig(at + CAP.OFFSET, 4, COMMON.NUM_QUEUES);
    pci.writeConfig(at + CAP.LENGTH, 4, 2);
    expect(pci.readConfig(at + CAP.AFTER, 2)).toBe(2);
    pci.writeConfig(at + CAP.OFFSET, 4, COMMON.QUEUE_SELECT);
    pci.writeConfig(at + CAP.AFTER, 2, 1);
    expect(driver.get(COMMON.QUEUE_SELECT, 2)).toBe(1);
  });

  test('is as new after a reset by status', () => {
    const driver = new Driver();
    driver.start();
    driver.set(COMMON.DEVICE_STATUS, 1, 0);
    expect(driver.status).toBe(0);
    driver.set(COMMON.QUEUE_SELECT, 2, 1);
    expect([driver.get(COMMON.QUEUE_ENABLE, 2), driver.get(COMMON.QUEUE_DESC, 4)]).toEqual([0, 0]);
    expect(driver.get(COMMON.QUEUE_MSIX_VECTOR, 2)).toBe(0xffff);
  });
});

describe('a driver that breaks the rules', () => {
  const broken = (act: (driver: Driver) => void): Driver => {
    const driver = new Driver();
    driver.start();
    act(driver);
    expect(driver.status & STATUS.NEEDS_RESET).not.toBe(0);
    expect(driver.slot.messages).toEqual([0]);
    driver.add(CONSOLE_TRANSMITQ, [driver.put(BUFFERS, 'x')]);
    expect(driver.output.text).toBe('');
    return driver;
  };

  test('is told to reset the device, which does nothing until then', () => {
    const driver = broken((each) => {
      each.offer(CONSOLE_TRANSMITQ, 64);
      each.kick(CONSOLE_TRANSMITQ);
    });
    driver.set(COMMON.DEVICE_STATUS, 1, 0);
    expect(driver.status).toBe(0);
  });

  test('by a chain that goes round', () => {
    broken((driver) => {
      driver.describe(QUEUE_BYTES, { address: BUFFERS, length: 1 }, 0);
      driver.offer(CONSOLE_TRANSMITQ, 0);
      driver.kick(CONSOLE_TRANSMITQ);
    });
  });

  test('by an address that is refused', () => {
    broken((driver) => {
      driver.add(CONSOLE_TRANSMITQ, [{ address: MEMORY, length: 4 }]);
    });
  });

  test('by more buffers than the queue has', () => {
    broken((driver) => {
      driver.view.setUint16(QUEUE_BYTES + 0x1002, 65, true);
      driver.kick(CONSOLE_TRANSMITQ);
    });
  });

  test('by an indirect table in an indirect table, or one of half an entry', () => {
    for (const length of [16, 24])
      broken((driver) => {
        driver.describe(BUFFERS, { address: BUFFERS, length: 16 }, null, VRING_DESC_F_INDIRECT);
        driver.describe(QUEUE_BYTES, { address: BUFFERS, length }, null, VRING_DESC_F_INDIRECT);
        driver.offer(CONSOLE_TRANSMITQ, 0);
        driver.kick(CONSOLE_TRANSMITQ);
      });
  });

  test('in whatever way: the device comes to rest', () => {
    const word = fc.oneof(fc.nat(0xffff_ffff), fc.nat(70), fc.constantFrom(BUFFERS, QUEUE_BYTES, MEMORY - 8));
    const store = fc.record({
      at: fc.nat(0x3fff),
      size: fc.constantFrom(1 as const, 2 as const, 4 as const),
      value: word,
    });
    const entry = fc.record({ at: fc.nat(0x7fff), value: word });
    fc.assert(
      fc.property(
        fc.array(entry, { maxLength: 40 }),
        fc.array(store, { maxLength: 60 }),
        (memory, stores) => {
          const driver = new Driver();
          driver.start();
          for (const { at, value } of memory) driver.view.setUint32(at & ~3, value, true);
          for (const { at, size, value } of stores)
            driver.slot.write(0, at - (at % size), value & (2 ** (8 * size) - 1), size);
          driver.output.type('x'.repeat(100));
          driver.kick(0);
          driver.kick(1);
          driver.slot.settle();
        },
      ),
      { numRuns: 300 },
    );
  });
});
