import { describe, expect, test } from 'vitest';
import { PRG_RESPONSE_CODE } from '../../iommu/requests/dma-port.ts';
import { pciEnableAts, pciEnablePasid, pciEnablePri } from '../bus-driver.ts';
import { FlatPort } from '../testing/flat-port.ts';
import { TestSlot } from '../testing/host-bus.ts';
import { DmaEngine } from './dma-engine.ts';
import { COMMAND, ERROR, FLAG, LENGTH_MAX, PERMISSION, REGISTER, STATUS } from './registers.ts';

const MEMORY = 1 << 20;

class Driver {
  readonly slot = new TestSlot(new DmaEngine());
  readonly port = new FlatPort(MEMORY);

  constructor() {
    this.slot.pci.dma.connect(this.port);
    this.slot.enableMsix();
  }

  get(register: number): number {
    return this.slot.read(0, register);
  }

  run(command: number, values: Partial<Record<keyof typeof REGISTER, number | bigint>> = {}): number {
    for (const [name, value] of Object.entries(values)) {
      const register = REGISTER[name as keyof typeof REGISTER];
      const wide = register === REGISTER.SOURCE || register === REGISTER.DESTINATION;
      this.slot.write(0, register, value, wide ? 8 : 4);
    }
    this.slot.write(0, REGISTER.COMMAND, command);
    return this.get(REGISTER.STATUS);
  }

  respond(code: number): void {
    const { prgIndex, pasid } = this.port.pageRequests.at(-1)!;
    this.port.endpoint!.pageResponse({ prgIndex, pasid, code });
  }
}

/** ATS, PRI and PASIDs are on, and the pages that are allowed are translated alone. */
function translating(allowed: readonly number[]): Driver {
  const driver = new Driver();
  const { pci } = driver.slot;
  pciEnablePasid(pci);
  pciEnablePri(pci, 32);
  pciEnableAts(pci, 12);
  driver.port.allowed = new Set(allowed);
  return driver;
}

describe('commands of the DMA engine', () => {
  test('copy, fill and add up, and tell how far they came', () => {
    const driver = new Driver();
    const length = 100_000;
    expect(driver.run(COMMAND.FILL, { DESTINATION: 0x1000, LENGTH: length, PATTERN: 3 })).toBe(STATUS.DONE);
    expect(driver.run(COMMAND.COPY, { SOURCE: 0x1000, DESTINATION: 0x4_0000 })).toBe(STATUS.DONE);
    expect([driver.get(REGISTER.DONE), driver.port.bytes[0x4_0000 + length - 1]]).toEqual([length, 3]);
    expect(driver.port.bytes[0x4_0000 + length]).toBe(0);
    expect(driver.run(COMMAND.CHECKSUM, { SOURCE: 0x4_0000 })).toBe(STATUS.DONE);
    expect(driver.get(REGISTER.RESULT)).toBe(3 * length);
  });

  test('end in an error at an address that is refused, having done what comes before it', () => {
    const driver = new Driver();
    driver.port.allowed = new Set([1, 2]);
    const values = { SOURCE: 0x1000, DESTINATION: 0x2000, LENGTH: 0x800 };
    expect(driver.run(COMMAND.COPY, values)).toBe(STATUS.DONE);
    expect(driver.run(COMMAND.COPY, { DESTINATION: 0x3000 })).toBe(STATUS.ERROR);
    expect([driver.get(REGISTER.ERROR), driver.get(REGISTER.DONE)]).toEqual([ERROR.WRITE, 0]);
    expect(driver.run(COMMAND.COPY, { SOURCE: 2n ** 64n - 0x400n })).toBe(STATUS.ERROR);
    expect(driver.get(REGISTER.ERROR)).toBe(ERROR.READ);
  });

  test('that there are not, or that are too long, are refused', () => {
    const driver = new Driver();
    driver.run(99);
    expect(driver.get(REGISTER.ERROR)).toBe(ERROR.COMMAND);
    driver.run(COMMAND.COPY, { LENGTH: LENGTH_MAX + 1 });
    expect(driver.get(REGISTER.ERROR)).toBe(ERROR.LENGTH);
    expect(driver.port.requests).toEqual([]);
  });

  test('signal a vector at their end, or at once', () => {
    const driver = new Driver();
    driver.run(COMMAND.FILL, { LENGTH: 4, FLAGS: FLAG.INTERRUPT, VECTOR: 2 });
    driver.slot.write(0, REGISTER.SIGNAL, 3);
    expect(driver.slot.messages).toEqual([2, 3]);
  });

  test('leave registers that are read-only as they are', () => {
    const driver = new Driver();
    for (const register of [REGISTER.ID, REGISTER.STATUS, REGISTER.DONE, REGISTER.RESULT, 0x1000]) {
      const before = driver.get(register);
      driver.slot.write(0, register, 0xffff_ffff);
      expect(driver.get(register)).toBe(before);
    }
  });
});

describe('address translation of the DMA engine', () => {
  test('reads by one PASID and writes by another, or by none', () => {
    const driver = translating([1, 2]);
    const values = { SOURCE: 0x1000, DESTINATION: 0x2000, LENGTH: 16, PASID: 7 };
    const flags = FLAG.SOURCE_PASID | FLAG.UNTRANSLATED | FLAG.PRIVILEGED;
    expect(driver.run(COMMAND.COPY, { ...values, FLAGS: flags })).toBe(STATUS.DONE);
    expect(driver.port.requests).toMatchObject([
      { pasid: 7, privileged: true, translated: false },
      { pasid: null, write: true },
    ]);
    driver.run(COMMAND.COPY, { FLAGS: FLAG.DESTINATION_PASID });
    expect(driver.port.requests.slice(2)).toMatchObject([{ translated: true }, { translated: true }]);
  });

  test('shows a translation', () => {
    const driver = translating([1]);
    expect(driver.run(COMMAND.TRANSLATE, { SOURCE: 0x1234 })).toBe(STATUS.DONE);
    expect(driver.slot.read(0, REGISTER.TRANSLATED, 8)).toBe(0x1000);
    expect(driver.get(REGISTER.PERMISSIONS)).toBe(PERMISSION.READ | PERMISSION.WRITE | (12 << 8));
    expect(driver.run(COMMAND.TRANSLATE, { SOURCE: MEMORY })).toBe(STATUS.ERROR);
    expect(driver.get(REGISTER.ERROR)).toBe(ERROR.TRANSLATION);
  });

  test('asks for pages that are not there, and goes on from where it was', () => {
    const driver = translating([1, 3]);
    const values = { SOURCE: 0x1000, DESTINATION: 0x3000, LENGTH: 0x2000, FLAGS: FLAG.PAGE_REQUESTS };
    driver.port.bytes.fill(5, 0x1000, 0x3000);
    expect(driver.run(COMMAND.COPY, values)).toBe(STATUS.WAITING);
    expect(driver.port.pageRequests).toMatchObject([
      { address: 0x2000n, read: true, write: false, last: true },
    ]);
    driver.slot.write(0, REGISTER.LENGTH, 1);
    driver.port.allowed = new Set([1, 2, 3]);
    driver.respond(PRG_RESPONSE_CODE.SUCCESS);
    expect(driver.get(REGISTER.STATUS)).toBe(STATUS.WAITING);
    expect(driver.port.pageRequests.at(-1)).toMatchObject({ address: 0x4000n, read: false, write: true });
    driver.port.allowed = new Set([1, 2, 3, 4]);
    driver.respond(PRG_RESPONSE_CODE.SUCCESS);
    expect([driver.get(REGISTER.STATUS), driver.get(REGISTER.DONE)]).toEqual([STATUS.DONE, 0x2000]);
    expect(driver.port.bytes.subarray(0x3000, 0x5000).every((byte) => byte === 5)).toBe(true);
  });

  test('gives up where it is refused, where nobody helps, and when it is told to', () => {
    const driver = translating([]);
    const values = { SOURCE: 0x1000, LENGTH: 4, FLAGS: FLAG.PAGE_REQUESTS };
    driver.run(COMMAND.CHECKSUM, values);
    driver.respond(PRG_RESPONSE_CODE.INVALID_REQUEST);
    expect([driver.get(REGISTER.ERROR), driver.get(REGISTER.RESPONSE)]).toEqual([ERROR.PAGE_RESPONSE, 1]);
    driver.run(COMMAND.CHECKSUM);
    for (let i = 0; i < 8; i++) driver.respond(PRG_RESPONSE_CODE.SUCCESS);
    expect([driver.get(REGISTER.STATUS), driver.get(REGISTER.ERROR)]).toEqual([STATUS.ERROR, ERROR.READ]);
    expect(driver.run(COMMAND.CHECKSUM)).toBe(STATUS.WAITING);
    driver.slot.write(0, REGISTER.COMMAND, COMMAND.ABORT);
    expect(driver.get(REGISTER.ERROR)).toBe(ERROR.ABORTED);
  });

  test('takes an answer that comes before it is done asking, when it is polled', () => {
    const driver = translating([]);
    const allowed = new Set<number>();
    driver.port.allowed = allowed;
    driver.port.onPageRequest = ({ address }) => {
      allowed.add(parseInt((address >> 12n).toString(), 10));
      driver.respond(PRG_RESPONSE_CODE.SUCCESS);
    };
    const values = { SOURCE: 0x1000, LENGTH: 0x8_0000, FLAGS: FLAG.PAGE_REQUESTS };
    expect(driver.run(COMMAND.CHECKSUM, values)).toBe(STATUS.WAITING);
    driver.slot.settle();
    expect([driver.get(REGISTER.STATUS), driver.port.pageRequests.length]).toEqual([STATUS.DONE, 128]);
  });

  test('asks for a page on its own', () => {
    const driver = translating([]);
    expect(driver.run(COMMAND.REQUEST_PAGE, { SOURCE: 0x5000, FLAGS: FLAG.WRITE })).toBe(STATUS.WAITING);
    driver.respond(PRG_RESPONSE_CODE.SUCCESS);
    expect(driver.get(REGISTER.STATUS)).toBe(STATUS.DONE);
    const without = new Driver();
    without.run(COMMAND.REQUEST_PAGE, { SOURCE: 0x5000 });
    expect(without.get(REGISTER.ERROR)).toBe(ERROR.PAGE_REQUEST);
  });
});

describe('an access of the DMA engine that the IOMMU stalls', () => {
  const stalling = (): Driver => {
    const driver = new Driver();
    driver.port.allowed = new Set([1]);
    driver.port.stalled = [];
    return driver;
  };
  const copy = { SOURCE: 0x1000, DESTINATION: 0x3000, LENGTH: 0x1000 };

  test('makes the command wait, and go on when software has seen to it', () => {
    const driver = stalling();
    driver.port.bytes.fill(5, 0x1000, 0x2000);
    expect(driver.run(COMMAND.COPY, copy)).toBe(STATUS.WAITING);
    driver.port.allowed = new Set([1, 3]);
    driver.port.stalled!.at(-1)!(true);
    expect([driver.get(REGISTER.STATUS), driver.get(REGISTER.DONE)]).toEqual([STATUS.DONE, 0x1000]);
    expect(driver.port.bytes[0x3fff]).toBe(5);
  });

  test('stalls again where nothing has changed, and fails where software ends it', () => {
    const driver = stalling();
    driver.run(COMMAND.COPY, copy);
    driver.port.stalled!.at(-1)!(true);
    expect([driver.get(REGISTER.STATUS), driver.port.stalled!.length]).toEqual([STATUS.WAITING, 2]);
    driver.port.stalled!.at(-1)!(false);
    expect([driver.get(REGISTER.STATUS), driver.get(REGISTER.ERROR)]).toEqual([STATUS.ERROR, ERROR.WRITE]);
  });

  test('is nothing to a command that comes after ABORT', () => {
    const driver = stalling();
    driver.run(COMMAND.COPY, copy);
    driver.slot.write(0, REGISTER.COMMAND, COMMAND.ABORT);
    expect(driver.get(REGISTER.ERROR)).toBe(ERROR.ABORTED);
    driver.run(COMMAND.COPY);
    driver.port.stalled![0]!(false);
    expect(driver.get(REGISTER.STATUS)).toBe(STATUS.WAITING);
  });
});
