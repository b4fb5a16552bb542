import { describe, expect, it } from 'vitest';
import * as amd from '../../abi/amd-viommu.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
  IOMMU_HWPT_GET_DIRTY_BITMAP,
  IOMMU_HWPT_SET_DIRTY_TRACKING,
  IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
  iommu_hwpt_get_dirty_bitmap,
  iommu_hwpt_set_dirty_tracking,
} from '../../abi/iommufd.ts';
import type { DmaPort, PageResponseMessage } from '../../iommu/requests/dma-port.ts';
import { BUFFER } from '../../iommufd/testing/program.ts';
import { amdIommu } from '../iommus/amd-iommu.ts';
import { Kernel } from '../kernel.ts';
import { allocViommu, AmdVm, guestCommand, guestDte } from '../testing/amd-guest.ts';
import { withPorts } from '../testing/ports.ts';
import { partsOf } from '../testing/vendors.ts';
import { GUEST, PLUGGED, Vm } from '../testing/vm.ts';
import type { Vendor } from '../iommus/vendor.ts';

const IOVA = 0x1234_5000n;
const BITMAP = BUFFER + 0x4000n;

/** IOMMUs, one where nothing is said, with two devices each. */
function machine(
  uapis: readonly 'amd-viommu'[] = ['amd-viommu'],
  ats = true,
  ...vendors: readonly Vendor[]
): Kernel {
  const { iommus, devices } = partsOf(...(vendors.length > 0 ? vendors : [amdIommu]));
  return new Kernel({ parts: { iommus, devices: devices.map((each) => ({ ...each, ats })) }, uapis });
}

/** A guest whose device reads `text` at IOVA. */
function translated(kernel: Kernel, pid: number, index: number, text: string, virtualId = 0x8n) {
  const vm = new AmdVm(kernel, pid, [index], virtualId);
  vm.port.queue(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD);
  const events = vm.port.queue(amd.IOMMU_HW_QUEUE_TYPE_AMD_EVT);
  const tables = vm.translate(5n);
  const page = vm.guest.page();
  vm.guest.write(page, text);
  tables.map(IOVA, page);
  return { vm, tables, page, events, reads: () => vm.deviceReads(vm.port.device, IOVA, 3) };
}

describe('Linux 7.3 without the hardware vIOMMU', () => {
  it('makes a viommu of whatever type, and nests nothing on it', () => {
    const kernel = machine([]);
    const vm = new Vm(kernel);
    const device = vm.pass(0);
    const parent = vm.parent(device);
    const types = [amd.IOMMU_VIOMMU_TYPE_AMD, IOMMU_VIOMMU_TYPE_ARM_SMMUV3];
    for (const type of types) {
      const { errno, id } = allocViommu(vm, device, parent, type, false);
      expect(errno).toBe(0);
      const bytes = new Uint8Array(new BigUint64Array(guestDte(0x1000n, 1n)).buffer);
      expect(vm.linuxNested(device, id, { type: 3, bytes }).errno).toBe(EOPNOTSUPP);
    }
  });
});

describe('nested domains', () => {
  it('translate by the guest and by the host', () => {
    const { vm, tables, reads } = translated(machine(), 100, 0, 'abc');
    expect(reads()).toBe('abc');
    tables.unmap(IOVA + 0x1000n);
    expect(vm.deviceReads(vm.port.device, IOVA + 0x1000n, 3)).toBeGreaterThan(0);
  });

  it('follow a change of the host, in every cache', () => {
    const { vm, reads } = translated(machine(), 100, 0, 'abc');
    expect(reads()).toBe('abc');
    // The guest's own tables go with its memory.
    vm.exchangeMemory('new');
    expect(reads()).not.toBe('abc');
  });

  it('take what nested.c takes of a DTE, and refuse the rest', () => {
    const vm = new AmdVm(machine(), 100, [0], 8n);
    const [low, middle, third, last] = guestDte(0x4000_1000n, 7n) as [bigint, bigint, bigint, bigint];
    const errno = (...dte: bigint[]): number => vm.port.nestedOf(dte).errno;
    expect(errno(low, middle, third, last)).toBe(0);
    expect(errno(low | (3n << 9n), middle, third, last)).toBe(EINVAL);
    expect(errno(low | (5n << 12n), middle, third, last)).toBe(EINVAL);
    expect(errno(3n | (1n << 55n), 7n, third, last)).toBe(EINVAL);
    expect(errno(low | (3n << 56n), middle, third, last)).toBe(EINVAL);
    expect(errno(low, middle, 2n << 54n, last)).toBe(EINVAL);
    expect(errno(low, middle, 1n << 54n, last)).toBe(0);
    // Neither V nor GV: no GCR3 table is asked for.
    expect(errno(0n, 0n, 0n, 0n)).toBe(0);
    const bytes = new Uint8Array(32);
    expect(vm.linuxNested(vm.port.device, vm.port.viommuId, { type: 2, bytes }).errno).toBe(EOPNOTSUPP);
  });

  it('of two guests with the same domain id share nothing', () => {
    const kernel = machine();
    const a = translated(kernel, 100, 0, 'aaa');
    const b = translated(kernel, 101, 1, 'bbb');
    expect([a.reads(), b.reads()]).toEqual(['aaa', 'bbb']);
    // One forgets its entry and says so; the other keeps what it has cached.
    for (const each of [a, b]) each.tables.unmap(IOVA);
    a.vm.port.send(guestCommand.invalidatePage(5n, IOVA), guestCommand.invalidateIotlb(8n));
    expect([a.reads(), b.reads()]).toEqual([expect.any(Number), 'bbb']);
  });

  it('of one guest with one domain id share its id on the host, until the last of them goes', () => {
    const kernel = machine();
    const { vm } = translated(kernel, 100, 0, 'abc');
    const seen: number[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'cache-fill' && event['cache'] === 'dte') seen.push(event['domainId'] as number);
    });
    /** The host's id under which the device has a nested HWPT. */
    const hostId = (id: number): number => {
      expect(vm.attach(vm.port.device, id)).toBe(0);
      vm.deviceReads(vm.port.device, IOVA, 3);
      return seen.at(-1)!;
    };
    const dte = guestDte(0x4000_1000n, 9n);
    const [one, two] = [vm.port.nestedOf(dte).id, vm.port.nestedOf(dte).id];
    const other = vm.port.nestedOf(guestDte(0x4000_1000n, 10n)).id;
    const host = hostId(one);
    expect(hostId(two)).toBe(host);
    expect(hostId(other)).not.toBe(host);
    expect(vm.destroy(one)).toBe(0);
    // The other one still has it, so nobody else gets it.
    const third = vm.port.nestedOf(guestDte(0x4000_1000n, 11n)).id;
    expect(hostId(third)).not.toBe(host);
    expect(hostId(two)).toBe(host);
    expect(vm.attach(vm.port.device, other)).toBe(0);
    expect(vm.destroy(two)).toBe(0);
    expect(hostId(vm.port.nestedOf(guestDte(0x4000_1000n, 12n)).id)).toBe(host);
  });

  it('meet nothing that an earlier guest has left under the same id', () => {
    const kernel = machine();
    const first = translated(kernel, 100, 0, 'old');
    expect(first.reads()).toBe('old');
    first.vm.giveBack(first.vm.port.device);
    first.vm.process.close(first.vm.fd);
    const second = translated(kernel, 101, 0, 'new');
    expect(second.reads()).toBe('new');
  });
});

describe('a guest with queues of its own', () => {
  it('takes a translation out of every cache by itself', () => {
    const { vm, tables, reads } = translated(machine(), 100, 0, 'abc');
    expect(reads()).toBe('abc');
    const other = vm.guest.page();
    vm.guest.write(other, 'xyz');
    tables.map(IOVA, other);
    expect(reads()).toBe('abc');
    vm.port.send(guestCommand.invalidatePage(5n, IOVA), guestCommand.invalidateIotlb(8n));
    expect(reads()).toBe('xyz');
  });

  it('has COMPLETION_WAIT store to its memory, and the head move', () => {
    const { vm } = translated(machine(), 100, 0, 'abc');
    const semaphore = vm.guest.page();
    vm.port.send(guestCommand.invalidateDte(8n), guestCommand.completionWait(semaphore, 0x1122n));
    expect(vm.guest.read64(semaphore)).toBe(0x1122n);
    expect(vm.port.register(0x2000)).toBe(0x20);
  });

  it('keeps its own memory beside a guest behind another IOMMU of the same device table', () => {
    const kernel = machine(['amd-viommu'], true, amdIommu, amdIommu);
    const a = translated(kernel, 100, 0, 'aaa');
    const b = translated(kernel, 101, 2, 'bbb');
    const answers = (): bigint[] =>
      [a, b].map(({ vm }, i) => {
        const semaphore = vm.guest.page();
        vm.port.send(guestCommand.completionWait(semaphore, 0x11n + BigInt(i)));
        return vm.guest.read64(semaphore);
      });
    expect(answers()).toEqual([0x11n, 0x12n]);
    b.vm.giveBack(b.vm.port.device);
    b.vm.process.close(b.vm.fd);
    const semaphore = a.vm.guest.page();
    a.vm.port.send(guestCommand.completionWait(semaphore, 0x21n));
    expect(a.vm.guest.read64(semaphore)).toBe(0x21n);
  });

  it('follows a change of the host with no device attached', () => {
    const { vm } = translated(machine(), 100, 0, 'abc');
    const [lost, next] = [0x5000_0000_0000n, 0x5000_0000_1000n];
    const read = (va: bigint): bigint => new DataView(vm.read(va, 8).buffer).getBigUint64(0, true);
    vm.process.memory.map(lost, 0x2000n);
    vm.map(vm.ioasId, { iova: PLUGGED, va: lost, length: 0x1000n });
    expect(vm.detach(vm.port.device)).toBe(0);
    vm.port.send(guestCommand.completionWait(PLUGGED, 1n));
    expect(read(lost)).toBe(1n);
    expect(vm.unmap(vm.ioasId, PLUGGED, 0x1000n).rc).toBe(0);
    vm.map(vm.ioasId, { iova: PLUGGED, va: next, length: 0x1000n });
    vm.port.send(guestCommand.completionWait(PLUGGED, 2n));
    expect([read(lost), read(next)]).toEqual([1n, 2n]);
  });

  it('has what the hardware stores to its memory for it told dirty', () => {
    const vm = new AmdVm(machine(), 100, [0], 8n, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    vm.port.queue(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD);
    const pages = [vm.guest.page(), vm.guest.page(), vm.guest.page()];
    const store = (page: number): void => vm.port.send(guestCommand.completionWait(pages[page]!, 1n));
    const tracking = (flags: number): number =>
      vm.call(IOMMU_HWPT_SET_DIRTY_TRACKING, iommu_hwpt_set_dirty_tracking, { flags, hwpt_id: vm.parentId })
        .rc;
    /** Which of the pages are dirty since the last time. */
    const dirty = (): number[] => {
      vm.write(BITMAP, new Uint8Array(0x1000));
      const { rc } = vm.call(IOMMU_HWPT_GET_DIRTY_BITMAP, iommu_hwpt_get_dirty_bitmap, {
        hwpt_id: vm.parentId,
        iova: GUEST,
        length: 0x100_0000n,
        page_size: 0x1000n,
        data: BITMAP,
      });
      expect(rc).toBe(0);
      const bits = vm.read(BITMAP, 0x1000);
      const bitOf = (page: bigint): number => Number((page - GUEST) >> 12n);
      return [0, 1, 2].filter((i) => (bits[bitOf(pages[i]!) >> 3]! >> (bitOf(pages[i]!) & 7)) & 1);
    };
    store(0);
    expect(tracking(IOMMU_HWPT_DIRTY_TRACKING_ENABLE)).toBe(0);
    for (const page of [0, 1]) store(page);
    expect(dirty()).toEqual([0, 1]);
    for (const page of [1, 2]) store(page);
    expect(dirty()).toEqual([1, 2]);
    expect(tracking(0)).toBe(0);
    store(0);
    expect(dirty()).toEqual([]);
  });

  it('invalidates all that is its own with one command, and nothing of a neighbour', () => {
    const kernel = machine();
    const a = translated(kernel, 100, 0, 'aaa');
    const b = translated(kernel, 101, 1, 'bbb');
    expect([a.reads(), b.reads()]).toEqual(['aaa', 'bbb']);
    for (const each of [a, b]) each.tables.unmap(IOVA);
    a.vm.port.send(guestCommand.invalidateAll(), guestCommand.invalidateIotlb(8n));
    expect([a.reads(), b.reads()]).toEqual([expect.any(Number), 'bbb']);
  });

  it('cannot name a device that it does not have', () => {
    const kernel = machine();
    const { vm, events } = translated(kernel, 100, 0, 'abc');
    const logs: string[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'log') logs.push(String(event['text']));
    });
    vm.port.send(guestCommand.invalidateDte(9n), guestCommand.invalidateDte(8n));
    // The head stays, CmdBufRun is 0, and the guest reads ILLEGAL_COMMAND_ERROR.
    expect(vm.port.register(0x2000)).toBe(0);
    expect(vm.port.register(0x2020) & 0x10).toBe(0);
    expect(vm.guest.read64(events) >> 60n).toBe(5n);
    expect(logs.at(-1)).toContain('UNKNOWN');
  });

  it('reads of a fault in its own tables, under its own name for the device', () => {
    const kernel = machine(['amd-viommu'], false);
    const { vm, events } = translated(kernel, 100, 0, 'abc', 0x42n);
    const logs: string[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'log') logs.push(String(event['text']));
    });
    expect(vm.deviceWrites(vm.port.device, IOVA + 0x9000n, 'x')).toBeGreaterThan(0);
    expect(vm.port.register(0x2018)).toBe(0x10);
    // IO_PAGE_FAULT with GN, of PASID 0.
    expect(vm.guest.read64(events) & 0xffffn).toBe(0x42n);
    expect(vm.guest.read64(events) >> 60n).toBe(2n);
    expect(vm.guest.read64(events + 8n)).toBe(IOVA + 0x9000n);
    expect(logs).toEqual([]);
    // EventLogInt, which the guest clears as a driver does: by storing the bit.
    expect(vm.port.register(0x2020) & 2).toBe(2);
    vm.port.setRegister(0x2020, 3);
    vm.port.settle();
    expect(vm.port.register(0x2020) & 2).toBe(0);
    expect(vm.port.register(0x2020) & 8).toBe(8);
  });

  it('reads of faults of a device that it names after the guest’s tables are attached, and by its new name', () => {
    const kernel = machine(['amd-viommu'], false);
    const { vm, events } = translated(kernel, 100, 0, 'abc');
    const { port } = vm;
    /** What the device is called in the record of a fault of it; null where the guest gets none. */
    const named = (): bigint | null => {
      const before = port.register(0x2018);
      expect(vm.deviceWrites(port.device, IOVA + 0x9000n, 'x')).toBeGreaterThan(0);
      if (port.register(0x2018) === before) return null;
      return vm.guest.read64(events + BigInt(before)) & 0xffffn;
    };
    expect(named()).toBe(8n);
    // The vDEVICE was made after the viommu.
    expect(vm.destroy(port.viommuId + 1)).toBe(0);
    expect(named()).toBeNull();
    const { id } = port.nestedOf(guestDte(0x4000_1000n, 9n));
    expect(vm.attach(port.device, id)).toBe(0);
    expect(named()).toBeNull();
    vm.vdevice(port.viommuId, port.device.id, 0x77n);
    expect(named()).toBe(0x77n);
  });

  it('loses events when its log is full, and goes on when it is made anew', () => {
    const { vm } = translated(machine(['amd-viommu'], false), 100, 0, 'abc');
    for (let i = 0; i < 300; i++) vm.deviceWrites(vm.port.device, IOVA + 0x9000n, 'x');
    expect(vm.port.register(0x2018)).toBe(0xff0);
    // EventOverflow, and EventLogRun is 0.
    expect(vm.port.register(0x2020) & 0x9).toBe(1);
    vm.port.queue(amd.IOMMU_HW_QUEUE_TYPE_AMD_EVT);
    expect(vm.port.register(0x2020) & 0x8).toBe(8);
    vm.deviceWrites(vm.port.device, IOVA + 0x9000n, 'x');
    expect(vm.port.register(0x2018)).toBe(0x10);
  });

  it('keeps a queue that was made in the place of another when the other one goes', () => {
    const { vm } = translated(machine(), 100, 0, 'abc');
    const { port } = vm;
    const first = port.tryQueue(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD, vm.guest.page(), 8n, amd.QUEUE_FLAGS);
    port.queue(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD);
    expect([first.errno, vm.destroy(first.id)]).toEqual([0, 0]);
    const semaphore = vm.guest.page();
    port.send(guestCommand.completionWait(semaphore, 5n));
    expect(vm.guest.read64(semaphore)).toBe(5n);
  });

  it('reads of page requests, under its own name for the device, and answers them', () => {
    const ports: DmaPort[] = [];
    const { vm } = translated(
      machine(['amd-viommu'], true, withPorts(amdIommu, ports)),
      100,
      0,
      'abc',
      0x42n,
    );
    const log = vm.port.queue(amd.IOMMU_HW_QUEUE_TYPE_AMD_PPR);
    const [low, middle, third, last] = guestDte(vm.guest.page(), 6n) as [bigint, bigint, bigint, bigint];
    const { id } = vm.port.nestedOf([low | (1n << 52n), middle, third, last]);
    expect(vm.attach(vm.port.device, id)).toBe(0);
    const answers: PageResponseMessage[] = [];
    ports[0]!.connect({ invalidate: () => true, pageResponse: (each) => void answers.push(each) });
    const request = { pasid: 5, address: IOVA, read: true, write: false, prgIndex: 3, last: true };
    ports[0]!.requestPage(request);
    expect(vm.port.register(0x2038)).toBe(0x10);
    // PAGE_SERVICE_REQUEST, of the guest's device id and the PASID.
    const record = vm.guest.read64(log);
    expect([record >> 60n, record & 0xffffn, (record >> 16n) & 0xffffn]).toEqual([1n, 0x42n, 5n]);
    expect(vm.guest.read64(log + 8n)).toBe(IOVA);
    // PprInt.
    expect(vm.port.register(0x2020) & 0x40).toBe(0x40);
    vm.port.send(guestCommand.completePageRequest(0x42n, 5n, 3n));
    expect(answers).toEqual([{ pasid: 5, prgIndex: 3, code: 0 }]);
    // Without PPR in the guest's DTE the host hears of it, as an event, and refuses.
    expect(vm.attach(vm.port.device, vm.port.nestedOf([low, middle, third, last]).id)).toBe(0);
    ports[0]!.requestPage(request);
    expect(vm.port.register(0x2038)).toBe(0x10);
    expect(answers.at(-1)).toMatchObject({ prgIndex: 3, code: 2 });
  });

  it('leaves to the host what the host has done: a guest address that is not mapped', () => {
    const kernel = machine(['amd-viommu'], false);
    const { vm, tables } = translated(kernel, 100, 0, 'abc');
    tables.map(IOVA, 0x1_0000_0000n);
    const logs: string[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'log') logs.push(String(event['text']));
    });
    expect(vm.deviceReads(vm.port.device, IOVA, 3)).toBeGreaterThan(0);
    expect(vm.port.register(0x2018)).toBe(0);
    expect(logs.at(-1)).toContain('IO_PAGE_FAULT');
  });

  it('has lengths and addresses that a ring can have, and no flags without the trial uAPI', () => {
    const vm = new AmdVm(machine(), 100, [0], 8n);
    const base = vm.guest.page();
    const errno = (type: number, at: bigint, length: bigint): number =>
      vm.port.tryQueue(type, at, length, amd.QUEUE_FLAG.CMDBUF_EN).errno;
    expect(errno(1, base, 8n)).toBe(EOPNOTSUPP);
    expect(errno(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD, base + 8n, 8n)).toBe(EINVAL);
    expect(errno(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD, base, 7n)).toBe(EINVAL);
    expect(errno(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD, base, 16n)).toBe(EINVAL);
    expect(errno(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD, base, 8n)).toBe(0);
  });

  it('needs data, and has a type of its own', () => {
    const vm = new AmdVm(machine(), 100, [0], 8n);
    const errno = (type: number, withData: boolean): number =>
      allocViommu(vm, vm.port.device, vm.parentId, type, withData).errno;
    expect(errno(amd.IOMMU_VIOMMU_TYPE_AMD, false)).toBe(EINVAL);
    expect(errno(IOMMU_VIOMMU_TYPE_ARM_SMMUV3, true)).toBe(EOPNOTSUPP);
  });
});
