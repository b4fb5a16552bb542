import { describe, expect, test } from 'vitest';
import fc from 'fast-check';
import { ByteStorage } from '../testing/byte-storage.ts';
import { FlatPort } from '../testing/flat-port.ts';
import { TestSlot } from '../testing/host-bus.ts';
import { PCI_CAP_ID_EXP, PCI_COMMAND, PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR } from '../spec.ts';
import { Igb } from './igb.ts';
import {
  BMCR_LOOPBACK,
  CTRL_RST,
  DESCRIPTOR_BYTES,
  EECD_AUTO_RD,
  GPIE_EIAME,
  IVAR_VALID,
  MDIC_OP_READ,
  MDIC_OP_WRITE,
  MDIC_READY,
  QUEUE_ENABLE,
  RCTL_EN,
  REG,
  TCTL_EN,
  TCTL_PSP,
  TXD_DEXT,
  TXD_DTYP_DATA,
  TXD_EOP,
  TXD_RS,
} from './registers.ts';

const MEMORY = 1 << 20;
const RING = 4096;
const TX = 0x1_0000;
const RX = 0x3_0000;
const SOURCE = 0x5_0000;
const TARGET = 0x6_0000;
const SRRCTL_ADVANCED = 1 << 25;

/** What the selftest's driver does: tools/testing/selftests/vfio/lib/drivers/igb/igb.c. */
class Driver {
  readonly slot = new TestSlot(new Igb());
  readonly port = new FlatPort(MEMORY);
  readonly view = new DataView(this.port.bytes.buffer);
  #tail = 0;

  constructor() {
    this.slot.pci.dma.connect(this.port);
    this.slot.enableMsix();
    this.reset();
    this.init();
  }

  set(register: number, value: number): void {
    this.slot.write(0, register, value >>> 0);
  }

  get(register: number): number {
    return this.slot.read(0, register);
  }

  /** igb_reset() */
  reset(): void {
    this.set(REG.CTRL, this.get(REG.CTRL) | CTRL_RST);
    expect(this.get(REG.EECD) & EECD_AUTO_RD).not.toBe(0);
    expect(this.get(REG.CTRL) & CTRL_RST).toBe(0);
    this.set(REG.IMC, 0xffff_ffff);
  }

  writePhy(register: number, data: number): void {
    this.set(REG.MDIC, data | (register << 16) | (1 << 21) | MDIC_OP_WRITE);
    expect(this.get(REG.MDIC) & MDIC_READY).not.toBe(0);
  }

  /** igb_hw_init() */
  init(): void {
    this.writePhy(0, BMCR_LOOPBACK | 0x0140);
    this.set(REG.TDBAL, TX);
    this.set(REG.TDLEN, RING * DESCRIPTOR_BYTES);
    this.set(REG.TDH, 0);
    this.set(REG.TDT, 0);
    this.set(REG.TXDCTL, QUEUE_ENABLE);
    this.set(REG.RDBAL, RX);
    this.set(REG.RDLEN, RING * DESCRIPTOR_BYTES);
    this.set(REG.RDH, 0);
    this.set(REG.RDT, 0);
    this.set(REG.SRRCTL, SRRCTL_ADVANCED);
    this.set(REG.RXDCTL, QUEUE_ENABLE);
    this.set(REG.RCTL, RCTL_EN);
    this.set(REG.TCTL, TCTL_EN | TCTL_PSP);
    this.set(REG.GPIE, 0x10 | GPIE_EIAME);
    this.set(REG.EIAC, 1);
    this.set(REG.EIAM, 1);
    this.set(REG.IVAR0, IVAR_VALID);
    this.set(REG.EIMS, 1);
    this.#tail = 0;
  }

  descriptor(size: number, source = SOURCE, target = TARGET, flags = TXD_EOP): void {
    const tx = TX + this.#tail * DESCRIPTOR_BYTES;
    const rx = RX + this.#tail * DESCRIPTOR_BYTES;
    this.view.setBigUint64(tx, BigInt(source), true);
    this.view.setUint32(tx + 8, size | TXD_DTYP_DATA | TXD_DEXT | flags, true);
    this.view.setUint32(tx + 12, size << 14, true);
    this.view.setBigUint64(rx, BigInt(target), true);
    this.view.setBigUint64(rx + 8, 0n, true);
    this.#tail = (this.#tail + 1) % RING;
  }

  /** The end of igb_memcpy_start(). */
  start(): void {
    this.set(REG.EIMC, 1);
    this.set(REG.RDT, this.#tail);
    this.set(REG.TDT, this.#tail);
  }

  /** igb_memcpy_wait(): whether the last descriptor was written back. */
  wait(): boolean {
    this.slot.settle();
    const last = RX + ((this.#tail + RING - 1) % RING) * DESCRIPTOR_BYTES;
    const done = (this.view.getUint32(last + 8, true) & 1) !== 0;
    this.set(REG.EICR, 0xffff_ffff);
    this.set(REG.EIMS, 1);
    return done;
  }

  copy(size: number, source = SOURCE, target = TARGET): boolean {
    this.descriptor(size, source, target);
    this.start();
    return this.wait();
  }
}

describe('igb-loopback, as the selftest of VFIO drives it', () => {
  test('copies a packet, and is silent about it', () => {
    const driver = new Driver();
    driver.port.bytes.fill(0x78, SOURCE, SOURCE + 1024);
    expect(driver.copy(1024)).toBe(true);
    expect(driver.port.bytes.subarray(TARGET, TARGET + 1024).every((byte) => byte === 0x78)).toBe(true);
    expect(driver.view.getUint16(RX + 12, true)).toBe(1024);
    expect(driver.slot.messages).toEqual([]);
  });

  test('copies as many packets as the ring holds, some at each poll, again and again', () => {
    const driver = new Driver();
    for (let round = 0; round < 3; round++) {
      driver.port.bytes.fill(round + 1, SOURCE, SOURCE + 1024);
      for (let i = 0; i < RING - 1; i++) driver.descriptor(1024);
      driver.start();
      expect(driver.slot.wakes).toBeGreaterThan(round);
      expect(driver.wait()).toBe(true);
      expect(driver.port.bytes[TARGET + 1023]).toBe(round + 1);
      expect(driver.get(REG.TDH)).toBe(driver.get(REG.TDT));
      expect(driver.get(REG.RDH)).toBe(driver.get(REG.RDT));
    }
  });

  test('sends its message once for each EICS, whatever came before', () => {
    const driver = new Driver();
    driver.set(REG.EICS, 1);
    expect(driver.slot.messages).toEqual([0]);
    driver.set(REG.EICS, 1);
    // EIAM has masked the vector.
    expect(driver.slot.messages).toEqual([0]);
    driver.set(REG.EICR, 0xffff_ffff);
    driver.set(REG.EIMS, 1);
    driver.copy(64);
    driver.set(REG.EICS, 1);
    expect(driver.slot.messages).toEqual([0, 0]);
  });

  test('interrupts for a packet where the vector is not masked', () => {
    const driver = new Driver();
    driver.descriptor(100);
    driver.set(REG.RDT, 1);
    driver.set(REG.TDT, 1);
    expect(driver.slot.messages).toEqual([0]);
  });

  test('stops at an address that is refused, until it is reset', () => {
    const driver = new Driver();
    expect(driver.copy(64, MEMORY)).toBe(false);
    expect(driver.copy(64)).toBe(false);
    driver.slot.pci.reset();
    driver.slot.pci.writeConfig(PCI_COMMAND, 2, 6);
    driver.slot.enableMsix();
    driver.init();
    expect(driver.copy(64, SOURCE, MEMORY - 1)).toBe(false);
    driver.reset();
    driver.init();
    expect(driver.copy(64)).toBe(true);
  });

  test('gathers a packet of several buffers, spreads it over several, and pads a short one', () => {
    const driver = new Driver();
    driver.port.bytes.fill(1, SOURCE, SOURCE + 2000);
    driver.descriptor(1500, SOURCE, TARGET, 0);
    driver.descriptor(1000, SOURCE, TARGET + 0x1000);
    driver.start();
    driver.slot.settle();
    expect([driver.view.getUint32(RX + 8, true), driver.view.getUint16(RX + 12, true)]).toEqual([1, 2048]);
    const second = RX + DESCRIPTOR_BYTES;
    expect([driver.view.getUint32(second + 8, true), driver.view.getUint16(second + 12, true)]).toEqual([
      3, 452,
    ]);
    driver.descriptor(10, SOURCE, TARGET, TXD_EOP | TXD_RS);
    driver.start();
    driver.slot.settle();
    expect(driver.view.getUint16(RX + 2 * DESCRIPTOR_BYTES + 12, true)).toBe(60);
    expect(driver.view.getUint32(TX + 2 * DESCRIPTOR_BYTES + 12, true)).toBe(1);
  });

  test('reads PHY registers back', () => {
    const driver = new Driver();
    driver.set(REG.MDIC, (0 << 16) | (1 << 21) | MDIC_OP_READ);
    expect(driver.get(REG.MDIC) & 0xffff).toBe(BMCR_LOOPBACK | 0x0140);
  });

  test('sees what programs store into shared memory when it is polled', () => {
    const driver = new Driver();
    const { bars } = driver.slot.pci;
    const pages = new ByteStorage(bars[0]!.size);
    bars[0]!.memory!.share(pages, 0n);
    const words = pages.view;
    expect(words.getUint32(REG.RCTL, true)).toBe(RCTL_EN);
    driver.descriptor(64);
    words.setUint32(REG.EIMC, 1, true);
    words.setUint32(REG.RDT, 1, true);
    words.setUint32(REG.TDT, 1, true);
    expect(driver.view.getUint32(RX + 8, true)).toBe(0);
    driver.slot.settle();
    expect([driver.view.getUint32(RX + 8, true), words.getUint32(REG.TDH, true)]).toEqual([3, 1]);
    expect(words.getUint32(REG.EIMC, true)).toBe(0);
    // Enabled by the end of one copy, disabled by the start of the next: both are there when it looks.
    words.setUint32(REG.EICR, 0xffff_ffff, true);
    words.setUint32(REG.EIMS, 1, true);
    words.setUint32(REG.EIMC, 1, true);
    driver.descriptor(64);
    words.setUint32(REG.RDT, 2, true);
    words.setUint32(REG.TDT, 2, true);
    driver.slot.settle();
    expect([driver.view.getUint32(RX + 24, true), driver.slot.messages]).toEqual([3, []]);
  });

  test('stays silent for a program that clears and enables as soon as it sees the last descriptor', () => {
    const driver = new Driver();
    const bar = driver.slot.pci.bars[0]!;
    const pages = new ByteStorage(bar.size);
    bar.memory!.share(pages, 0n);
    const access = driver.port.access.bind(driver.port);
    const seen: number[] = [];
    driver.port.access = (request, data) => {
      const result = access(request, data);
      // The write-back of the descriptor: the program runs before the device does anything else.
      if (request.write && request.address === BigInt(RX)) {
        seen.push(pages.view.getUint32(REG.EICR, true));
        pages.view.setUint32(REG.EICR, 0xffff_ffff, true);
        pages.view.setUint32(REG.EIMS, 1, true);
      }
      return result;
    };
    driver.descriptor(64);
    pages.view.setUint32(REG.EIMC, 1, true);
    pages.view.setUint32(REG.RDT, 1, true);
    pages.view.setUint32(REG.TDT, 1, true);
    for (let i = 0; i < 4; i++) driver.slot.settle();
    expect([seen, driver.slot.messages]).toEqual([[1], []]);
    pages.view.setUint32(REG.EICS, 1, true);
    driver.slot.settle();
    expect(driver.slot.messages).toEqual([0]);
  });

  test('a Function Level Reset puts its registers back', () => {
    const driver = new Driver();
    const { pci } = driver.slot;
    pci.writeConfig(pci.config.capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
    pci.writeConfig(PCI_COMMAND, 2, 6);
    expect([driver.get(REG.RCTL), driver.get(REG.TDLEN), driver.get(REG.EECD)]).toEqual([0, 0, 0x300]);
  });
});

describe('whatever is stored into its registers and its rings', () => {
  test('it comes to rest, and reaches memory by its port alone', () => {
    const offsets = Object.values(REG);
    const word = fc.oneof(
      fc.nat(0xffff_ffff),
      fc.constantFrom(0, 1, 0x80, 0x1000, TX, RX, QUEUE_ENABLE, 0xffff),
    );
    const store = fc.record({ offset: fc.constantFrom(...offsets), value: word });
    fc.assert(
      fc.property(fc.array(store, { maxLength: 60 }), fc.array(word, { maxLength: 64 }), (stores, ring) => {
        const driver = new Driver();
        for (const [index, value] of ring.entries()) driver.view.setUint32(TX + index * 4, value, true);
        for (const { offset, value } of stores) driver.set(offset, value);
        driver.slot.settle();
      }),
      { numRuns: 200 },
    );
  });
});
