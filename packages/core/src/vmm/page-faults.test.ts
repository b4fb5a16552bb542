import { describe, expect, it } from 'vitest';
import { OFFSET as AMD } from '../iommu/amd/spec/registers.ts';
import { CERROR, OFFSET as SMMU } from '../iommu/arm-smmu-v3/spec/registers.ts';
import { OFFSET, PRS } from '../iommu/intel/spec/registers.ts';
import type { IommuType } from '../machine/machine-file/parts.ts';
import type { AssignedDevice } from './assigned-device.ts';
import { bootGuest, type BootedGuest } from './guests/boot.ts';
import { DmaEngineGuest } from './guests/dma-engine.ts';
import type { GuestPageRequest, GuestSpace } from './guests/guest-iommu.ts';
import type { SmmuGuest } from './guests/smmuv3.ts';
import { machine, ok, STALLING } from './testing/vm.ts';
import { VirtualMachine } from './virtual-machine.ts';

// Faults that come back: a device asks for a page, the guest's handler maps it and answers, and the DMA goes on. An SMMU
// stalls; the others are asked by PRI.

const IOVA = 0x7000_0000n;
const DEVICE = 0x20;
const PASID = 3;
const VENDORS: readonly IommuType[] = ['arm-smmu-v3', 'intel-iommu', 'amd-iommu'];

interface Faulting extends BootedGuest {
  readonly device: AssignedDevice;
  readonly engine: DmaEngineGuest;
  readonly space: GuestSpace;
  /** The next request, once the VMM has handed on what came. */
  next(): GuestPageRequest | null;
  /** Maps a page for it, and says so. */
  serve(request: GuestPageRequest): number;
}

/** A guest whose device has an empty address space at PASID 3, and one at none. */
async function start(type: IommuType): Promise<Faulting> {
  const kernel = await machine(type, type === 'arm-smmu-v3' ? STALLING : {});
  const vm = ok(VirtualMachine.create(kernel));
  const device = ok(vm.openDevice('/dev/vfio/devices/vfio0'));
  const booted = ok(bootGuest(vm, new Map([[DEVICE, device]])));
  const { iommu, driver } = booted;
  const space = driver.space();
  driver.attach(DEVICE, driver.space());
  driver.attach(DEVICE, space, PASID);
  return {
    ...booted,
    device,
    engine: new DmaEngineGuest(device),
    space,
    next: () => {
      iommu.poll();
      return driver.pageRequest();
    },
    serve: (request) => {
      const page = driver.pages.take();
      space.tables.map(request.address, page);
      driver.answer(request, true);
      return page;
    },
  };
}

describe.each(VENDORS)('a page request of a device of a guest behind its own %s', (type) => {
  it('is told to the guest, and the DMA goes on when the guest has mapped the page', async () => {
    const { engine, driver, next, serve } = await start(type);
    expect(engine.store({ iova: IOVA + 0xff0n, pasid: PASID }, 0x20, 0x61)).toBe('waiting');
    const first = next()!;
    expect(first).toMatchObject({ device: DEVICE, pasid: PASID, address: IOVA, write: true });
    const page = serve(first);
    expect(engine.state).toBe('waiting');
    const second = next()!;
    expect(second.address).toBe(IOVA + 0x1000n);
    const after = serve(second);
    expect([engine.state, engine.moved]).toEqual(['done', 0x20]);
    expect([driver.pages.text(page + 0xfff, 1), driver.pages.text(after + 0xf, 1)]).toEqual(['a', 'a']);
    expect(next()).toBeNull();
  });

  it('ends the DMA where the guest refuses it', async () => {
    const { engine, driver, next } = await start(type);
    expect(engine.store({ iova: IOVA, pasid: PASID }, 4, 1)).toBe('waiting');
    driver.answer(next()!, false);
    expect(engine.state).toBe('error');
    expect(next()).toBeNull();
  });

  it('is asked again where the guest says that the page is there and it is not', async () => {
    const { engine, driver, next, serve } = await start(type);
    engine.store({ iova: IOVA, pasid: PASID }, 4, 1);
    driver.answer(next()!, true);
    expect(engine.state).toBe('waiting');
    serve(next()!);
    expect(engine.state).toBe('done');
  });

  it('is answered once: what names nothing that waits changes nothing', async () => {
    const { engine, driver, next, serve } = await start(type);
    engine.store({ iova: IOVA, pasid: PASID }, 4, 1);
    const request = next()!;
    driver.answer({ ...request, tag: request.tag + 1 }, false);
    expect(engine.state).toBe('waiting');
    serve(request);
    expect(engine.state).toBe('done');
    driver.answer(request, false);
    engine.store({ iova: IOVA + 0x5000n, pasid: PASID }, 4, 1);
    driver.answer(request, false);
    expect(engine.state).toBe('waiting');
    serve(next()!);
    expect(engine.state).toBe('done');
  });

  it('is over when the guest takes the address space away, and its late answer is for nobody', async () => {
    const { engine, driver, space, next, serve } = await start(type);
    engine.store({ iova: IOVA, pasid: PASID }, 4, 1);
    const late = next()!;
    driver.detach(DEVICE);
    driver.detach(DEVICE, PASID);
    if (engine.state === 'waiting') engine.abort();
    driver.attach(DEVICE, space, PASID);
    expect(engine.store({ iova: IOVA, pasid: PASID }, 4, 1)).toBe('waiting');
    const request = next()!;
    driver.answer(late, false);
    expect(engine.state).toBe('waiting');
    serve(request);
    expect(engine.state).toBe('done');
  });
});

describe.each(VENDORS)("a DMA under way behind a guest's own %s", (type) => {
  /** Waits for its second page. */
  async function underWay(): Promise<Faulting> {
    const guest = await start(type);
    expect(guest.engine.store({ iova: IOVA, pasid: PASID }, 0x1800, 0x61)).toBe('waiting');
    guest.serve(guest.next()!);
    expect([guest.engine.state, guest.engine.moved]).toEqual(['waiting', 0x1000]);
    return guest;
  }

  it('ends when the device is blocked, and later ones pass when it is let through', async () => {
    const { engine, driver, next } = await underWay();
    driver.detach(DEVICE);
    driver.detach(DEVICE, PASID);
    next();
    // AMD's hardware serves page requests by itself, and nobody answers what the guest forgets.
    expect(engine.state).toBe(type === 'amd-iommu' ? 'waiting' : 'error');
    engine.abort();
    driver.bypass(DEVICE);
    const page = driver.pages.take();
    expect(engine.store({ iova: BigInt(page) }, 4, 0x62)).toBe('done');
    expect(driver.pages.text(page, 4)).toBe('bbbb');
  });

  it('goes on in another address space where that has come before the answer', async () => {
    const { engine, driver, next } = await underWay();
    const request = next()!;
    const other = driver.space();
    const page = driver.pages.take();
    other.tables.map(IOVA + 0x1000n, page);
    driver.attach(DEVICE, other, PASID);
    // VT-d attaches the PASID anew: the kernel has refused what waited.
    if (type === 'intel-iommu') return expect(engine.state).toBe('error');
    driver.answer(request, true);
    expect(engine.state).toBe('done');
    expect(driver.pages.text(page, 3)).toBe('aaa');
  });
});

describe('a guest behind its own arm-smmu-v3 that stalls', () => {
  it('ends all that waits of a stream with CMD_STALL_TERM', async () => {
    const { engine, driver, next } = await start('arm-smmu-v3');
    engine.store({ iova: IOVA, pasid: PASID }, 4, 1);
    next();
    const smmu = driver as SmmuGuest;
    smmu.command(0x45n | (BigInt(DEVICE) << 32n));
    expect(smmu.sync()).toBe(CERROR.NONE);
    expect(engine.state).toBe('error');
  });

  it('is told of what stalls while its queue is full, when it has room again', async () => {
    const { engine, driver, device, iommu, next, serve } = await start('arm-smmu-v3');
    const smmu = driver as SmmuGuest;
    // Events of accesses that nobody waits for, more than a queue of 128 takes: C_BAD_SUBSTREAMID.
    for (let i = 0; i < 140; i++) device.dmaRead(IOVA, 1, 70);
    iommu.poll();
    expect(iommu.readRegister(SMMU.EVENTQ_PROD, 4)).toBe(0x8000_0080n);
    expect(engine.store({ iova: IOVA, pasid: PASID }, 4, 1)).toBe('waiting');
    iommu.poll();
    // The guest reads what it has, and with that acknowledges that some was lost.
    expect(driver.pageRequest()).toBeNull();
    expect(iommu.readRegister(SMMU.EVENTQ_CONS, 4)).toBe(0x8000_0080n);
    const told = next();
    expect(told).toMatchObject({ device: DEVICE, pasid: PASID, address: IOVA });
    serve(told!);
    expect(engine.state).toBe('done');
    expect(smmu.event()).toBeNull();
  });
});

describe('a guest behind its own intel-iommu whose page request queue is full', () => {
  it('has the device ask again, until it has cleared the overflow', async () => {
    const { engine, iommu, next, serve } = await start('intel-iommu');
    // Head before tail by one: as where the guest had not read for long.
    iommu.writeRegister(OFFSET.PQH, 8, 32n);
    engine.store({ iova: IOVA, pasid: PASID }, 4, 1);
    // It is answered as served, asked for again, and given up after eight times.
    for (let i = 0; i < 10; i++) iommu.poll();
    expect(engine.state).toBe('error');
    expect(iommu.readRegister(OFFSET.PRS, 4)).toBe(BigInt(PRS.PRO.inPlace));
    iommu.writeRegister(OFFSET.PQH, 8, iommu.readRegister(OFFSET.PQT, 8));
    expect(next()).toBeNull();
    expect(iommu.readRegister(OFFSET.PRS, 4)).toBe(0n);
    engine.store({ iova: IOVA, pasid: PASID }, 4, 1);
    serve(next()!);
    expect(engine.state).toBe('done');
  });
});

describe('a guest behind its own amd-iommu whose PPR log is full', () => {
  it('hears of no more, and goes on when it has started the log anew', async () => {
    const { engine, iommu, next, serve } = await start('amd-iommu');
    iommu.writeRegister(AMD.PPR_HEAD, 4, 16n);
    engine.store({ iova: IOVA, pasid: PASID }, 4, 1);
    engine.abort();
    const status = (): bigint => iommu.readRegister(AMD.STATUS, 4);
    // PprOverflow; PprLogRun is 0.
    expect([(status() >> 5n) & 1n, (status() >> 7n) & 1n]).toEqual([1n, 0n]);
    const control = iommu.readRegister(AMD.CONTROL, 8);
    iommu.writeRegister(AMD.CONTROL, 8, control & ~(1n << 13n));
    iommu.writeRegister(AMD.CONTROL, 8, control);
    expect((status() >> 7n) & 1n).toBe(1n);
    engine.store({ iova: IOVA, pasid: PASID }, 4, 1);
    serve(next()!);
    expect(engine.state).toBe('done');
  });
});
