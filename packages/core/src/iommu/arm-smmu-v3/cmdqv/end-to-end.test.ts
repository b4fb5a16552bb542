import { describe, expect, it } from 'vitest';
import { EEXIST, EINVAL, EIO, ENOSPC, EOPNOTSUPP } from '../../../abi/errno.ts';
import * as abi from '../../../abi/iommufd.ts';
import { iommu_viommu_tegra241_cmdqv } from '../../../abi/iommufd-data.ts';
import { attachDevice, detachDevice, replaceDevice } from '../../../iommufd/device/attach.ts';
import type { IommufdContext } from '../../../iommufd/context.ts';
import { bindDevice, unbindDevice } from '../../../iommufd/device/device.ts';
import { Kernel } from '../../../machine/kernel.ts';
import { MappedFile } from '../../../vmm/mapped-file.ts';
import { CERROR } from '../spec/registers.ts';
import { IPA, MIB, TestMachine, VA, type Bound } from '../testing/machine.ts';
import { guestCommand, guestSte, writeGuestCd } from '../testing/guest.ts';
import type { TestProgram } from '../testing/program.ts';
import { GuestMemory, GuestTables } from '../../testing/guest.ts';
import { cmdqv } from './platform.ts';
import { PAGE_BYTES, VCMDQ, VCMDQ_BYTES } from './spec.ts';
import { textOf } from '../../../base/testing/ascii.ts';

const iommufd = { bindDevice, unbindDevice, attachDevice, replaceDevice, detachDevice };
const SYNC: [bigint, bigint] = [0x46n, 0n];
const QUEUE_BYTES = 0x1000n;
const QUEUE_LOG2 = 8;

/** A machine whose SMMU has a CMDQ-V: four interfaces of two queues. */
class Rig {
  readonly machine = new TestMachine(new Kernel(), iommufd, {
    implementation: cmdqv({ vcmdqsLog2: 3, vintfsLog2: 2, sidsLog2: 1 }),
  });

  /** The hardware has had time to look at the pages that programs have. */
  settle(): void {
    while (this.machine.kernel.doorbells.look());
  }
}

interface MappedPage {
  load(offset: number): number;
  store(offset: number, value: number): void;
}

/** A VM with an interface of the CMDQ-V. */
class Vm {
  readonly rig: Rig;
  readonly program: TestProgram;
  readonly memory: GuestMemory;
  readonly bound: Bound;
  readonly parent: number;
  readonly viommu: number;
  readonly mmapOffset: bigint;
  #page: MappedPage | null = null;
  readonly device;

  constructor(rig: Rig, sid: number) {
    this.rig = rig;
    const { machine } = rig;
    const pci = { maxPasids: 0, pasidExec: false, pasidPriv: false, ats: 'optional' } as const;
    this.device = machine.device(sid, { pci });
    this.program = machine.program();
    this.bound = machine.bind(this.program, this.device);
    const ioas = this.program.ioas();
    this.memory = new GuestMemory(this.program, VA, IPA, MIB);
    this.parent = this.program.hwpt(this.bound.id, ioas, abi.IOMMU_HWPT_ALLOC_NEST_PARENT);
    this.program.map(ioas, VA, IPA, MIB);
    const made = allocViommu(this.program, this.bound, this.parent);
    this.viommu = made.viommu;
    this.mmapOffset = made.offset;
  }

  queue(index: number, base: bigint, length = QUEUE_BYTES): number {
    const type = abi.IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV;
    const values = { viommu_id: this.viommu, type, index, nesting_parent_iova: base, length };
    return this.program.call(abi.IOMMU_HW_QUEUE_ALLOC, abi.iommu_hw_queue_alloc, values).out_hw_queue_id;
  }

  /** Loads and stores of the page that the program maps. */
  get page(): MappedPage {
    this.#page ??= this.#map();
    return this.#page;
  }

  #map(): MappedPage {
    const file = new MappedFile();
    const context = this.program.file as IommufdContext;
    context.backing = file;
    expect(context.mmap(this.program.task, this.mmapOffset, BigInt(PAGE_BYTES), 3)).toBe(0);
    const at = (offset: number): bigint => this.mmapOffset + BigInt(offset);
    return {
      load: (offset) => file.load32(at(offset)),
      store: (offset, value) => file.store32(at(offset), value),
    };
  }
}

function allocViommu(program: TestProgram, bound: Bound, parent: number): { viommu: number; offset: bigint } {
  const bytes = new Uint8Array(iommu_viommu_tegra241_cmdqv.size);
  const at = program.data(bytes);
  const done = program.call(abi.IOMMU_VIOMMU_ALLOC, abi.iommu_viommu_alloc, {
    type: abi.IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV,
    dev_id: bound.id,
    hwpt_id: parent,
    data_len: bytes.length,
    data_uptr: at,
  });
  const answer = iommu_viommu_tegra241_cmdqv.read(program.read(at, bytes.length));
  return { viommu: done.out_viommu_id, offset: answer.out_vintf_mmap_offset };
}

/** A guest's queue 0, enabled, and how it sends. */
function guestQueue(vm: Vm, index = 0): { send(...commands: [bigint, bigint][]): void; id: number } {
  const base = vm.memory.page();
  const id = vm.queue(index, base);
  expect(vm.program.errno).toBe(0);
  const at = VCMDQ_BYTES * index;
  vm.page.store(at + VCMDQ.CONFIG, 1);
  vm.rig.settle();
  let prod = 0;
  return {
    id,
    send: (...commands) => {
      for (const [low, high] of commands) {
        const slot = base + BigInt(prod & (2 ** QUEUE_LOG2 - 1)) * 16n;
        vm.memory.write64(slot, low);
        vm.memory.write64(slot + 8n, high);
        prod = (prod + 1) & (2 ** (QUEUE_LOG2 + 1) - 1);
      }
      vm.page.store(at + VCMDQ.PROD, prod);
    },
  };
}

describe('a VM with queues of its own', () => {
  it('invalidates what its device has cached without any request to the kernel', () => {
    const rig = new Rig();
    const vm = new Vm(rig, 0x20);
    vm.program.vdevice(vm.viommu, vm.bound.id, 0x99n);
    const tables = new GuestTables(vm.memory);
    const [before, after] = [vm.memory.page(), vm.memory.page()];
    vm.memory.write(before, 'old');
    vm.memory.write(after, 'new');
    tables.map(0x1000n, before);
    const cd = vm.memory.page();
    writeGuestCd(vm.memory, cd, tables, 7);
    const hwpt = vm.program.nested(vm.bound.id, vm.viommu, guestSte(cd, { ats: true }));
    expect(rig.machine.attach(vm.program, vm.bound, hwpt)).toBe(0);
    const queue = guestQueue(vm);
    const read = (): string => {
      const data = new Uint8Array(3);
      vm.device.dma({ write: false, iova: 0x1000n, pasid: null, data });
      return textOf(data);
    };
    expect(read()).toBe('old');
    tables.map(0x1000n, after);
    queue.send(guestCommand.tlbiVa(7, 0x1000n), guestCommand.atcInv(0x99, 0x1000n, 0n), SYNC);
    expect(read()).toBe('old');
    rig.settle();
    expect(vm.page.load(VCMDQ.CONS)).toBe(3);
    expect(read()).toBe('new');
  });

  it('hears of its errors, and of nobody else’s', () => {
    const rig = new Rig();
    const vms = [new Vm(rig, 0x20), new Vm(rig, 0x21)];
    const type = abi.IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV;
    const fds = vms.map((vm) => vm.program.veventq(vm.viommu, 16, type));
    guestQueue(vms[1]!);
    const second = guestQueue(vms[1]!, 1);
    second.send([0x05n, 0n]);
    rig.settle();
    expect(vms[0]!.program.readFile(fds[0]!, 64)).toEqual(new Uint8Array(0));
    const bytes = vms[1]!.program.readFile(fds[1]!, 64) as Uint8Array;
    expect([...bytes.slice(8)]).toEqual([2, ...Array.from({ length: 15 }, () => 0)]);
    expect(vms[1]!.page.load(VCMDQ_BYTES + VCMDQ.CONS) >>> 24).toBe(CERROR.ILL);
  });

  it('maps one page of 64 KiB, at the offset that it was told', () => {
    const vm = new Vm(new Rig(), 0x20);
    const context = vm.program.file as IommufdContext;
    expect(context.mmap(vm.program.task, vm.mmapOffset, BigInt(PAGE_BYTES), 3)).toBe(0);
    expect(context.mmap(vm.program.task, vm.mmapOffset, 0x1000n, 3)).toBeLessThan(0);
  });

  it('makes its queues in ascending order, and gives them back in descending order', () => {
    const vm = new Vm(new Rig(), 0x20);
    const [first, second] = [vm.memory.page(), vm.memory.page()];
    vm.queue(1, second);
    expect(vm.program.errno).toBe(EIO);
    const ids = [vm.queue(0, first), vm.queue(1, second)];
    vm.queue(1, second);
    expect(vm.program.errno).toBe(EEXIST);
    vm.program.destroy(ids[0]!);
    expect(vm.program.errno).not.toBe(0);
    for (const id of ids.toReversed()) {
      vm.program.destroy(id);
      expect(vm.program.errno).toBe(0);
    }
    vm.queue(0, first);
    expect(vm.program.errno).toBe(0);
  });

  it.each([
    ['no power of two', 0n, 48n],
    ['too short', 0n, 16n],
    ['not aligned to its length', 0x20n, 0x40n],
  ])('may not have a queue that is %s', (_, offset, length) => {
    const vm = new Vm(new Rig(), 0x20);
    vm.queue(0, vm.memory.page() + offset, length);
    expect(vm.program.errno).toBe(EINVAL);
  });

  it('has no third queue where interfaces have two', () => {
    const vm = new Vm(new Rig(), 0x20);
    vm.queue(2, vm.memory.page());
    expect(vm.program.errno).toBe(EINVAL);
  });

  it('has a virtual StreamID of 20 bits, and no more of them than the hardware has slots', () => {
    const rig = new Rig();
    const vm = new Vm(rig, 0x20);
    const vdevice = (sid: number, virtualId: bigint): number => {
      const bound = rig.machine.bind(vm.program, rig.machine.device(sid));
      vm.program.vdevice(vm.viommu, bound.id, virtualId);
      return vm.program.errno;
    };
    expect(vdevice(0x30, 1n << 20n)).toBe(EINVAL);
    expect([vdevice(0x31, 1n), vdevice(0x32, 2n), vdevice(0x33, 3n)]).toEqual([0, 0, ENOSPC]);
  });

  it('still sends by request what its queues do not take', () => {
    const rig = new Rig();
    const vm = new Vm(rig, 0x20);
    vm.program.vdevice(vm.viommu, vm.bound.id, 0x99n);
    expect(vm.program.invalidate(vm.viommu, [guestCommand.cfgiCdAll(0x99)])).toBe(1);
    expect(vm.program.errno).toBe(0);
  });
});

describe('the CMDQ-V of a machine', () => {
  it('takes the kernel’s own commands in interface 0', () => {
    const rig = new Rig();
    const seen: string[] = [];
    rig.machine.kernel.trace.subscribe((event) => {
      if (event.kind === 'command' && event['unit'] === 'vcmdq0') seen.push(String(event['name']));
    });
    const device = rig.machine.device(0x40);
    rig.machine.driver.blockedDomain.attachDevice(device, null);
    rig.machine.driver.identityDomain.attachDevice(device, null);
    expect(seen).toContain('CMD_CFGI_STE');
    expect(seen).toContain('CMD_SYNC');
  });

  it('has an interface for each VM until there is none left', () => {
    const rig = new Rig();
    const vms = [new Vm(rig, 0x20), new Vm(rig, 0x21), new Vm(rig, 0x22)];
    expect(vms.map((vm) => vm.program.errno)).toEqual([0, 0, 0]);
    const fourth = new Vm(rig, 0x23);
    expect(fourth.program.errno).toBe(ENOSPC);
    vms[0]!.program.destroy(vms[0]!.viommu);
    expect(vms[0]!.program.errno).toBe(0);
    allocViommu(fourth.program, fourth.bound, fourth.parent);
    expect(fourth.program.errno).toBe(0);
  });

  it('tells a program what an interface has', () => {
    const rig = new Rig();
    const program = rig.machine.program();
    const bound = rig.machine.bind(program, rig.machine.device(0x20));
    const ask = (type: number): { errno: number; bytes: number[] } => {
      const at = program.data(new Uint8Array(16));
      const done = program.call(abi.IOMMU_GET_HW_INFO, abi.iommu_hw_info, {
        flags: abi.IOMMU_HW_INFO_FLAG_INPUT_TYPE,
        out_data_type: type,
        dev_id: bound.id,
        data_len: 16,
        data_uptr: at,
      });
      return { errno: program.errno, bytes: [...program.read(at, done.data_len)] };
    };
    expect(ask(abi.IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV)).toEqual({ errno: 0, bytes: [0, 0, 0, 0, 1, 1, 1, 0] });
    expect(ask(abi.IOMMU_HW_INFO_TYPE_AMD).errno).toBe(EOPNOTSUPP);
  });

  it('needs data for a viommu', () => {
    const rig = new Rig();
    const vm = new Vm(rig, 0x20);
    const type = abi.IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV;
    vm.program.call(abi.IOMMU_VIOMMU_ALLOC, abi.iommu_viommu_alloc, {
      type,
      dev_id: vm.bound.id,
      hwpt_id: vm.parent,
    });
    expect(vm.program.errno).toBe(EINVAL);
  });
});
