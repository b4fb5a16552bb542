import { describe, expect, it } from 'vitest';
import type { AssignedDevice } from '../assigned-device.ts';
import { GuestPages } from '../guests/guest-pages.ts';
import { VtdLegacyGuest } from '../guests/vtd-legacy.ts';
import { BASE, found, machine, ok } from '../testing/vm.ts';
import { VirtualMachine } from '../virtual-machine.ts';
import { VirtualVtd } from './virtual-vtd.ts';

const ID = 0x18;
const OTHER = 0x20;
const DOMAIN = 5;
const IOVA = 0x5000_0000n;
const CCMD = 0x28;

interface Booted {
  readonly unit: VirtualVtd;
  readonly driver: VtdLegacyGuest;
  readonly devices: readonly AssignedDevice[];
}

async function boot(devices = 1): Promise<Booted> {
  const vm = ok(VirtualMachine.create(await machine('intel-iommu', { devices })));
  const opened = Array.from({ length: devices }, (_, index) =>
    ok(vm.openDevice(`/dev/vfio/devices/vfio${index}`)),
  );
  const unit = ok(VirtualVtd.create(vm, opened[0]!));
  for (const [index, device] of opened.entries()) ok(unit.addDevice(device, [ID, OTHER][index]!));
  return { unit, driver: new VtdLegacyGuest(new GuestPages(vm.memory, BASE), unit), devices: opened };
}

describe('a guest that drives its VT-d in legacy mode', () => {
  it('has its second stage shadowed: what it maps, changes and unmaps, when it says so', async () => {
    const guest = await boot();
    const { driver, devices } = guest;
    const device = devices[0]!;
    const tables = driver.table();
    tables.map(IOVA, guest.driver.pages.page('old'));
    expect(found(device, IOVA)).toBe('fault');
    driver.attach(ID, tables, DOMAIN);
    expect(found(device, IOVA)).toBe('old');
    tables.map(IOVA + 0x1000n, guest.driver.pages.page('new'));
    expect(found(device, IOVA + 0x1000n)).toBe('fault');
    driver.changed(DOMAIN, IOVA, 1);
    expect(found(device, IOVA + 0x1000n)).toBe('new');
    tables.unmap(IOVA);
    expect(found(device, IOVA)).toBe('old');
    driver.changed(DOMAIN, IOVA);
    expect([found(device, IOVA), found(device, IOVA + 0x1000n)]).toEqual(['fault', 'new']);
  });

  it('writes where its tables let it', async () => {
    const guest = await boot();
    const { driver, devices } = guest;
    const tables = driver.table();
    const page = guest.driver.pages.page('abc');
    tables.map(IOVA, page);
    tables.map(IOVA + 0x1000n, guest.driver.pages.page('ro!'));
    // R without W, in the entry behind that.
    const entry = driver.pages.addressAt(
      driver.pages.addressAt(driver.pages.addressAt(tables.root) + 8) + 0x80 * 8,
    );
    expect(driver.pages.load(entry + 8) & 3n).toBe(3n);
    driver.pages.store(entry + 8, driver.pages.load(entry + 8) & ~2n);
    driver.attach(ID, tables, DOMAIN);
    ok(devices[0]!.dmaWrite(IOVA, Uint8Array.of(0x78)));
    expect(driver.pages.text(page, 3)).toBe('xbc');
    expect(found(devices[0]!, IOVA + 0x1000n)).toBe('ro!');
    expect(devices[0]!.dmaWrite(IOVA + 0x1000n, Uint8Array.of(0x78))).toMatchObject({ errno: 5 });
  });

  it('has one shadow for devices of one domain', async () => {
    const guest = await boot(2);
    const { driver, devices } = guest;
    const tables = driver.table();
    tables.map(IOVA, guest.driver.pages.page('abc'));
    for (const id of [ID, OTHER]) driver.attach(id, tables, DOMAIN);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['abc', 'abc']);
    driver.detach(ID);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['fault', 'abc']);
    tables.unmap(IOVA);
    driver.changed(DOMAIN, IOVA);
    expect(found(devices[1]!, IOVA)).toBe('fault');
  });

  it('lets a device pass', async () => {
    const guest = await boot();
    const page = guest.driver.pages.page('abc');
    guest.driver.bypass(ID);
    expect(found(guest.devices[0]!, BigInt(page))).toBe('abc');
  });

  it('splits a large page, of which it names one small one', async () => {
    const guest = await boot();
    const { driver, devices } = guest;
    const device = devices[0]!;
    const tables = driver.table();
    const large = driver.pages.take(512);
    driver.pages.write(large + 0x3000, 'abc');
    tables.map(IOVA, large);
    const middle = driver.pages.addressAt(driver.pages.addressAt(tables.root) + 8) + 0x80 * 8;
    const small = driver.pages.load(middle);
    driver.pages.store(middle, BigInt(large) | 3n | (1n << 7n));
    driver.attach(ID, tables, DOMAIN);
    expect(found(device, IOVA + 0x3000n)).toBe('abc');
    driver.pages.store(middle, small);
    for (let page = 0; page < 512; page++)
      if (page !== 7) tables.map(IOVA + BigInt(page * 4096), large + page * 4096);
    driver.changed(DOMAIN, IOVA + 0x7000n);
    expect(found(device, IOVA + 0x3000n)).toBe('abc');
    expect(found(device, IOVA + 0x7000n)).toBe('fault');
  });

  it('invalidates by registers as well', async () => {
    const guest = await boot();
    const { driver, devices, unit } = guest;
    const tables = driver.table();
    driver.attach(ID, tables, DOMAIN);
    tables.map(IOVA, guest.driver.pages.page('abc'));
    const iotlb = Number((unit.readRegister(0x10, 8) >> 8n) & 0x3ffn) * 16;
    unit.writeRegister(iotlb, 8, IOVA);
    unit.writeRegister(iotlb + 8, 8, (1n << 63n) | (3n << 60n) | (BigInt(DOMAIN) << 32n));
    // IVT is clear, and IAIG says what was done: pages.
    expect(unit.readRegister(iotlb + 8, 8) >> 57n).toBe((3n << 3n) | 3n);
    expect(found(devices[0]!, IOVA)).toBe('abc');
    unit.writeRegister(CCMD, 8, (1n << 63n) | (1n << 61n));
    expect(unit.readRegister(CCMD, 8) >> 59n).toBe((1n << 2n) | 1n);
  });

  it('is blocked where its table is endless', async () => {
    const guest = await boot();
    const { driver, devices } = guest;
    // A table of which every entry leads to itself.
    const loop = driver.table();
    for (let i = 0; i < 512; i++) driver.pages.store(loop.root + i * 8, BigInt(loop.root) | 3n);
    driver.attach(ID, loop, DOMAIN);
    expect(found(devices[0]!, IOVA)).toBe('fault');
    const tables = driver.table();
    tables.map(IOVA, guest.driver.pages.page('abc'));
    driver.attach(ID, tables, DOMAIN);
    expect(found(devices[0]!, IOVA)).toBe('abc');
  });
});
