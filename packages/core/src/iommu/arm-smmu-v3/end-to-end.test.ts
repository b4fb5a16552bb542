import { describe, expect, it } from 'vitest';
import { EINVAL, EIO, ENOENT, EOPNOTSUPP } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import { iommu_vevent_arm_smmuv3 } from '../../abi/iommufd-data.ts';
import { attachDevice, detachDevice, replaceDevice } from '../../iommufd/device/attach.ts';
import { bindDevice, unbindDevice } from '../../iommufd/device/device.ts';
import { findProfile } from '../../iommufd/profile.ts';
import { Kernel } from '../../machine/kernel.ts';
import type { SmmuFunction } from './platform.ts';
import { EVENT } from './spec/events.ts';
import { IPA, MIB, TestMachine, TestVm, VA, type TestMachineOptions } from './testing/machine.ts';
import { guestCommand, guestSte, STE_ABORT, STE_BYPASS, writeGuestCd } from './testing/guest.ts';
import { GuestTables } from '../testing/guest.ts';
import { textOf } from '../../base/testing/ascii.ts';

const iommufd = { bindDevice, unbindDevice, attachDevice, replaceDevice, detachDevice };

function machineOf(options: TestMachineOptions = {}, profile = 'linux-7.3'): TestMachine {
  return new TestMachine(new Kernel({ profile: findProfile(profile)! }), iommufd, options);
}

describe('a guest with its own stage 1', () => {
  it('does DMA through its CD and tables, in the memory of the program', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const tables = new GuestTables(vm.memory);
    const page = vm.memory.page();
    vm.memory.write(page, 'guest memory');
    tables.map(0x5555_0000_0000n, page);
    vm.translate(tables);
    expect(vm.read(0x5555_0000_0000n, 12)).toBe('guest memory');
    expect(vm.write(0x5555_0000_0006n, 'MEMORY')).toBe(0);
    expect(vm.memory.text(page, 12)).toBe('guest MEMORY');
    expect(vm.read(0x5555_0000_1000n, 4)).toBe(EIO);
  });

  it('sees the old bytes until it sends the invalidation', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const tables = new GuestTables(vm.memory);
    const [before, after] = [vm.memory.page(), vm.memory.page()];
    vm.memory.write(before, 'old');
    vm.memory.write(after, 'new');
    tables.map(0x1000n, before);
    vm.translate(tables, { asid: 5 });
    expect(vm.read(0x1000n, 3)).toBe('old');
    tables.map(0x1000n, after);
    expect(vm.read(0x1000n, 3)).toBe('old');
    // Another ASID's, and another address's, do not count.
    vm.program.invalidate(vm.viommu, [guestCommand.tlbiVa(6, 0x1000n), guestCommand.tlbiVa(5, 0x2000n)]);
    expect(vm.read(0x1000n, 3)).toBe('old');
    expect(vm.program.invalidate(vm.viommu, [guestCommand.tlbiVa(5, 0x1000n)])).toBe(1);
    expect(vm.read(0x1000n, 3)).toBe('new');
  });

  it.each([
    ['TLBI_NSNH_ALL', guestCommand.tlbiAll()],
    ['TLBI_NH_ALL', guestCommand.tlbiNhAll()],
    ['TLBI_NH_ASID', guestCommand.tlbiAsid(1)],
    ['TLBI_NH_VA', guestCommand.tlbiVa(1, 0x1000n)],
    ['TLBI_NH_VAA', guestCommand.tlbiVaa(0x1000n)],
  ])('forgets its translations by %s', (_, command) => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const tables = new GuestTables(vm.memory);
    const [before, after] = [vm.memory.page(), vm.memory.page()];
    vm.memory.write(before, 'old');
    vm.memory.write(after, 'new');
    tables.map(0x1000n, before);
    vm.translate(tables);
    expect(vm.read(0x1000n, 3)).toBe('old');
    tables.map(0x1000n, after);
    vm.program.invalidate(vm.viommu, [command]);
    expect(vm.program.errno).toBe(0);
    expect(vm.read(0x1000n, 3)).toBe('new');
  });

  it.each([
    ['CFGI_CD', guestCommand.cfgiCd(0x99)],
    ['CFGI_CD_ALL', guestCommand.cfgiCdAll(0x99)],
  ])('changes its CD, and %s makes that count', (_, command) => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const [first, second] = [new GuestTables(vm.memory), new GuestTables(vm.memory)];
    const [before, after] = [vm.memory.page(), vm.memory.page()];
    vm.memory.write(before, 'old');
    vm.memory.write(after, 'new');
    first.map(0x1000n, before);
    second.map(0x1000n, after);
    const cd = vm.translate(first, { asid: 1 });
    expect(vm.read(0x1000n, 3)).toBe('old');
    writeGuestCd(vm.memory, cd, second, 2);
    expect(vm.read(0x1000n, 3)).toBe('old');
    vm.program.invalidate(vm.viommu, [command]);
    expect(vm.read(0x1000n, 3)).toBe('new');
  });

  it('has PASIDs of its own, in its CD table', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const tables = [new GuestTables(vm.memory), new GuestTables(vm.memory)];
    const cds = vm.memory.page();
    for (const [index, table] of tables.entries()) {
      const page = vm.memory.page();
      vm.memory.write(page, `pasid ${index}`);
      table.map(0x1000n, page);
      writeGuestCd(vm.memory, cds + BigInt(index) * 64n, table, 10 + index);
    }
    const hwpt = vm.program.nested(vm.bound.id, vm.viommu, guestSte(cds, { log2: 4n }));
    machine.attach(vm.program, vm.bound, hwpt);
    expect([vm.read(0x1000n, 7), vm.read(0x1000n, 7, 1), vm.read(0x1000n, 7, 2)]).toEqual([
      'pasid 0',
      'pasid 1',
      EIO,
    ]);
  });

  it('loses what the VMM unmaps from it, without a command of its own', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const tables = new GuestTables(vm.memory);
    const extra = 0x1_0000_0000n;
    vm.program.process.memory.map(VA + 0x1_0000_0000n, MIB);
    vm.program.map(vm.ioas, VA + 0x1_0000_0000n, extra, MIB);
    tables.map(0x1000n, extra);
    vm.translate(tables);
    expect(vm.write(0x1000n, 'here')).toBe(0);
    vm.program.unmap(vm.ioas, extra, MIB);
    const gone = vm.device.access({ write: true, iova: 0x1000n, pasid: null, data: new Uint8Array(1) });
    expect(gone.stopped).toMatchObject({ kind: 'terminated', event: { type: EVENT.F_TRANSLATION } });
  });

  it('keeps an ATC that only its own CMD_ATC_INV empties', () => {
    const machine = machineOf();
    const pci = { maxPasids: 0, pasidExec: false, pasidPriv: false, ats: 'optional' } as const;
    const vm = new TestVm(machine, machine.device(0x20, { pci }), 0x99);
    const tables = new GuestTables(vm.memory);
    const [before, after] = [vm.memory.page(), vm.memory.page()];
    vm.memory.write(before, 'old');
    vm.memory.write(after, 'new');
    tables.map(0x1000n, before);
    vm.translate(tables, { ats: true });
    expect(vm.device.atc!.enabled).toBe(true);
    expect(vm.read(0x1000n, 3)).toBe('old');
    tables.map(0x1000n, after);
    vm.program.invalidate(vm.viommu, [guestCommand.tlbiAll()]);
    expect(vm.read(0x1000n, 3)).toBe('old');
    vm.program.invalidate(vm.viommu, [guestCommand.atcInv(0x99, 0x1000n, 0n)]);
    expect(vm.read(0x1000n, 3)).toBe('new');
  });

  it('has no ATS where its STE does not enable it', () => {
    const machine = machineOf();
    const pci = { maxPasids: 0, pasidExec: false, pasidPriv: false, ats: 'optional' } as const;
    const vm = new TestVm(machine, machine.device(0x20, { pci }), 0x99);
    vm.translate(new GuestTables(vm.memory), { ats: false });
    expect(vm.device.atc!.enabled).toBe(false);
  });
});

describe('a nested HWPT', () => {
  const attachErrno = (profile: string, ste: [bigint, bigint]): number => {
    const machine = machineOf({}, profile);
    const vm = new TestVm(machine, machine.device(0x20), 0, false);
    const hwpt = vm.program.nested(vm.bound.id, vm.viommu, ste);
    expect(vm.program.errno).toBe(0);
    return machine.attach(vm.program, vm.bound, hwpt);
  };

  it('that translates nothing of its own needs no vDEVICE since Linux 6.19; one that translates does', () => {
    expect(attachErrno('linux-7.3', STE_ABORT)).toBe(0);
    expect(attachErrno('linux-7.3', STE_BYPASS)).toBe(0);
    expect(attachErrno('linux-7.3', guestSte(IPA))).toBe(ENOENT);
    expect(attachErrno('linux-6.17', STE_BYPASS)).toBe(ENOENT);
  });

  it('in bypass shows the device all of guest memory', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    machine.attach(vm.program, vm.bound, vm.program.nested(vm.bound.id, vm.viommu, STE_BYPASS));
    expect(vm.write(IPA + 0x10n, 'flat')).toBe(0);
    expect(vm.memory.text(IPA + 0x10n, 4)).toBe('flat');
    machine.attach(vm.program, vm.bound, vm.program.nested(vm.bound.id, vm.viommu, STE_ABORT));
    expect(vm.write(IPA + 0x10n, 'flat')).toBe(EIO);
  });

  it.each([
    ['a Config of stage 2', [0x1n | (6n << 1n), 0n]],
    ['a Config of both stages', [0x1n | (7n << 1n), 0n]],
    ['a reserved Config that aborts', [0x1n | (1n << 1n), 0n]],
    ['an address above 2^52', [0xbn | (1n << 52n), 0n]],
    ['a MEV bit', [0xbn, 1n << 19n]],
    ['a SHCFG', [0xbn, 1n << 44n]],
    ['split-stage ATS', [0xbn, 2n << 28n]],
  ] as [string, [bigint, bigint]][])('is refused with EIO for %s', (_, ste) => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    vm.program.nested(vm.bound.id, vm.viommu, ste);
    expect(vm.program.errno).toBe(EIO);
  });

  it('takes whatever an STE says that is not valid, and aborts', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const hwpt = vm.program.nested(vm.bound.id, vm.viommu, [0xffff_fffen, 0xffff_ffff_ffff_ffffn]);
    expect(vm.program.errno).toBe(0);
    expect(machine.attach(vm.program, vm.bound, hwpt)).toBe(0);
    expect(vm.read(IPA, 4)).toBe(EIO);
  });

  it('cannot be attached while the host has PASIDs at the device', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const own = vm.program.hwpt(vm.bound.id, vm.ioas, abi.IOMMU_HWPT_ALLOC_PASID);
    machine.attach(vm.program, vm.bound, own, 3);
    const hwpt = vm.program.nested(vm.bound.id, vm.viommu, STE_BYPASS);
    // iommufd sees that the HWPT was not made for a device with PASIDs, before the driver would say EBUSY.
    expect(machine.attach(vm.program, vm.bound, hwpt)).toBe(EINVAL);
  });
});

describe('commands of a guest', () => {
  it('reach the SMMU in their order, in batches that each end in a CMD_SYNC', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    machine.commands.length = 0;
    const many = Array.from({ length: 130 }, (_, i) => guestCommand.tlbiVa(1, BigInt(i) << 12n));
    expect(vm.program.invalidate(vm.viommu, many)).toBe(130);
    const syncs = machine.commands.flatMap((name, index) => (name === 'CMD_SYNC' ? [index] : []));
    expect(syncs).toEqual([63, 127, 132]);
    expect(machine.commands.filter((name) => name === 'CMD_TLBI_NH_VA')).toHaveLength(130);
  });

  it('stop at the first that is refused, and say how many were taken', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    machine.commands.length = 0;
    const sent = [guestCommand.tlbiAll(), guestCommand.cfgiCd(0x98), guestCommand.tlbiAll()] as const;
    expect(vm.program.invalidate(vm.viommu, sent)).toBe(1);
    expect(vm.program.errno).toBe(EIO);
    // Linux counts the one in front of it, though it never reaches the queue.
    expect(machine.commands).toEqual([]);
  });

  it.each([
    ['CFGI_STE', [0x03n, 0n]],
    ['TLBI_S12_VMALL', [0x28n, 0n]],
    ['CMD_SYNC', [0x46n, 0n]],
    ['a Secure bit', [0x11n | (1n << 10n), 0n]],
    ['an ATC_INV larger than everything', [0x40n | (0x99n << 32n), 53n]],
    ['a range with TG 0', [0x12n | (3n << 12n), 0n]],
    ['NUM, SCALE and TTL 0 with a TG', [0x12n, 1n << 10n]],
  ] as [string, [bigint, bigint]][])('are refused with EIO: %s', (_, command) => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    expect(vm.program.invalidate(vm.viommu, [command])).toBe(0);
    expect(vm.program.errno).toBe(EIO);
  });

  it('with a reserved bit stopped the queue for everybody until Linux 7.1, and did not after', () => {
    const machine = machineOf({}, 'linux-7.1');
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const logs: string[] = [];
    machine.kernel.trace.subscribe((event) => {
      if (event.kind === 'log') logs.push(String(event['text']));
    });
    expect(vm.program.invalidate(vm.viommu, [[0x05n | (1n << 10n) | (0x99n << 32n), 0n]])).toBe(1);
    expect(vm.program.errno).toBe(0);
    expect(logs.some((text) => text.includes('Illegal command'))).toBe(true);
  });

  it('of no entries are asked of no queue: EINVAL, as there is nothing to copy', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    expect(vm.program.invalidate(vm.viommu, [])).toBe(0);
    expect(vm.program.errno).toBe(EINVAL);
  });
});

describe('events', () => {
  it('of stage 1 reach the guest with its own StreamID, and not those of stage 2', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const fd = vm.program.veventq(vm.viommu);
    const tables = new GuestTables(vm.memory);
    tables.map(0x2000n, 0x8_0000_0000n);
    vm.translate(tables);
    expect(vm.write(0x1234n, 'x')).toBe(EIO);
    const bytes = vm.program.readFile(fd, 4096) as Uint8Array;
    expect(bytes).toHaveLength(40);
    const { evt } = iommu_vevent_arm_smmuv3.read(bytes.slice(8));
    expect(evt[0]! & 0xffn).toBe(0x10n);
    expect(evt[0]! >> 32n).toBe(0x99n);
    expect(evt[2]).toBe(0x1234n);
    expect(vm.write(0x2000n, 'x')).toBe(EIO);
    expect(vm.program.readFile(fd, 4096)).toEqual(new Uint8Array(0));
  });

  it('that repeat are one event, as the kernel merges them for a guest', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const fd = vm.program.veventq(vm.viommu);
    vm.translate(new GuestTables(vm.memory));
    for (let i = 0; i < 3; i++)
      vm.device.access({ write: false, iova: 0x1000n, pasid: null, data: new Uint8Array(1) });
    vm.device.smmu.serveInterrupts();
    expect(vm.program.readFile(fd, 4096)).toHaveLength(40);
  });

  it('that stall wait in a fault queue for an answer, and the DMA goes on', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20, { pci: null, canStall: true }), 0x99);
    const queue = vm.program.faultQueue();
    const tables = new GuestTables(vm.memory);
    vm.translate(tables, { fault: queue.id, stall: true });
    const result = vm.device.access({ write: true, iova: 0x3000n, pasid: null, data: new Uint8Array([1]) });
    if (result.stopped === null || result.stopped === 'bus' || result.stopped.kind !== 'stalled')
      throw new Error('no stall');
    vm.device.smmu.serveInterrupts();
    const bytes = vm.program.readFile(queue.fd, 40) as Uint8Array;
    const fault = abi.iommu_hwpt_pgfault.read(bytes);
    expect(fault).toMatchObject({ dev_id: vm.bound.id, perm: abi.IOMMU_PGFAULT_PERM_WRITE, addr: 0x3000n });
    const page = vm.memory.page();
    tables.map(0x3000n, page);
    const answer = new Uint8Array(8);
    abi.iommu_hwpt_page_response.write(answer, 0, {
      cookie: fault.cookie,
      code: abi.IOMMUFD_PAGE_RESP_SUCCESS,
    });
    expect(vm.program.writeFile(queue.fd, answer)).toBe(8);
    expect(result.stopped.stall.outcome).toMatchObject({ kind: 'translated' });
    expect(machine.commands).toContain('CMD_RESUME');
  });

  it('that stall without a fault queue are aborted', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20, { pci: null, canStall: true }), 0x99);
    vm.translate(new GuestTables(vm.memory), { stall: true });
    expect(vm.write(0x3000n, 'x')).toBe(EIO);
  });
});

describe('several VMs and several SMMUs', () => {
  it('two VMs on one SMMU do not touch each other, though ids and ASIDs are the same', () => {
    const machine = machineOf();
    const vms = [0x20, 0x30].map((sid) => new TestVm(machine, machine.device(sid), 0x99));
    const after = vms.map((vm, index) => {
      const tables = new GuestTables(vm.memory);
      const [first, second] = [vm.memory.page(), vm.memory.page()];
      vm.memory.write(first, `old${index}`);
      vm.memory.write(second, `new${index}`);
      tables.map(0x1000n, first);
      vm.translate(tables, { asid: 1 });
      expect(vm.read(0x1000n, 4)).toBe(`old${index}`);
      tables.map(0x1000n, second);
      return tables;
    });
    expect(after).toHaveLength(2);
    vms[0]!.program.invalidate(vms[0]!.viommu, [guestCommand.tlbiAll(), guestCommand.tlbiAsid(1)]);
    expect(vms.map((vm) => vm.read(0x1000n, 4))).toEqual(['new0', 'old1']);
  });

  it('a nest parent and a viommu belong to one SMMU', () => {
    const machine = machineOf({ smmus: 2 });
    const vm = new TestVm(machine, machine.device(0x20, { smmu: 0 }), 0x99);
    const other = machine.bind(vm.program, machine.device(0x20, { smmu: 1 }));
    vm.program.viommu(other.id, vm.parent);
    expect(vm.program.errno).toBe(EINVAL);
    vm.program.vdevice(vm.viommu, other.id, 0x98n);
    expect(vm.program.errno).toBe(EINVAL);
    vm.program.nested(other.id, vm.viommu, STE_BYPASS);
    expect(vm.program.errno).toBe(EINVAL);
    expect(machine.attach(vm.program, other, vm.parent)).toBe(EINVAL);
  });

  it('one VM has a viommu per SMMU, and commands go to the one that they are sent to', () => {
    const machine = machineOf({ smmus: 2 });
    const vm = new TestVm(machine, machine.device(0x20, { smmu: 0 }), 0x99);
    const device = machine.device(0x20, { smmu: 1 });
    const idev = machine.bind(vm.program, device);
    const parent = vm.program.hwpt(idev.id, vm.ioas, abi.IOMMU_HWPT_ALLOC_NEST_PARENT);
    const viommu = vm.program.viommu(idev.id, parent);
    vm.program.vdevice(viommu, idev.id, 0x99n);
    expect(vm.program.errno).toBe(0);
    const tables = new GuestTables(vm.memory);
    const [first, second] = [vm.memory.page(), vm.memory.page()];
    vm.memory.write(first, 'old');
    vm.memory.write(second, 'new');
    tables.map(0x1000n, first);
    const cd = vm.translate(tables);
    machine.attach(vm.program, idev, vm.program.nested(idev.id, viommu, guestSte(cd)));
    const read = (from: SmmuFunction): string => {
      const data = new Uint8Array(3);
      expect(from.dma({ write: false, iova: 0x1000n, pasid: null, data })).toBeUndefined();
      return textOf(data);
    };
    expect([read(vm.device), read(device)]).toEqual(['old', 'old']);
    tables.map(0x1000n, second);
    vm.program.invalidate(viommu, [guestCommand.tlbiAll()]);
    expect([read(vm.device), read(device)]).toEqual(['old', 'new']);
  });

  it('a vDEVICE of two streams is refused', () => {
    const machine = machineOf();
    const vm = new TestVm(machine, machine.device(0x20, { streamIds: [0x20, 0x21] }), 0, false);
    vm.program.vdevice(vm.viommu, vm.bound.id, 0x99n);
    expect(vm.program.errno).toBe(EOPNOTSUPP);
  });
});
