import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import { iommu_hw_info_arm_smmuv3 } from '../../abi/iommufd-data.ts';
import { attachDevice, detachDevice, replaceDevice } from '../../iommufd/device/attach.ts';
import { bindDevice, unbindDevice } from '../../iommufd/device/device.ts';
import { findProfile } from '../../iommufd/profile.ts';
import { Kernel } from '../../machine/kernel.ts';
import type { ArmSmmuDriverOptions } from './driver/driver.ts';
import type { SmmuFunction } from './platform.ts';
import { EVENT } from './spec/events.ts';
import { MIB, TestMachine, VA, type TestMachineOptions } from './testing/machine.ts';
import type { TestProgram } from './testing/program.ts';
import { bytesOf, textOf } from '../../base/testing/ascii.ts';

const iommufd = { bindDevice, unbindDevice, attachDevice, replaceDevice, detachDevice };

function machineOf(options: TestMachineOptions = {}, profile = 'linux-7.3'): TestMachine {
  return new TestMachine(new Kernel({ profile: findProfile(profile)! }), iommufd, options);
}

describe('a device with a page table of the kernel', () => {
  it('reaches the bytes of the program, and nothing any more once they are unmapped', () => {
    const machine = machineOf();
    const device = machine.device(0x20);
    const program = machine.program();
    const idev = machine.bind(program, device);
    const ioas = program.ioas();
    program.process.memory.map(VA, 4n * MIB);
    program.map(ioas, VA, 0x10_0000n, 4n * MIB);
    expect(machine.attach(program, idev, ioas)).toBe(0);
    const data = bytesOf('hello, across pages');
    expect(device.dma({ write: true, iova: 0x10_0ff8n, pasid: null, data })).toBeUndefined();
    expect(textOf(program.read(VA + 0xff8n, data.length))).toBe('hello, across pages');
    program.unmap(ioas, 0x10_0000n, 4n * MIB);
    const gone = device.access({ write: true, iova: 0x10_0ff8n, pasid: null, data });
    expect(gone.stopped).toMatchObject({ kind: 'terminated', event: { type: EVENT.F_TRANSLATION } });
  });

  it('is blocked where it is bound and not attached, and after it was detached', () => {
    const machine = machineOf();
    const device = machine.device(0x20);
    const program = machine.program();
    const idev = machine.bind(program, device);
    const data = new Uint8Array(4);
    expect(failed(device.dma({ write: false, iova: 0n, pasid: null, data }))).toBe(true);
    const ioas = program.ioas();
    program.process.memory.map(VA, MIB);
    program.map(ioas, VA, 0n, MIB);
    machine.attach(program, idev, ioas);
    expect(device.dma({ write: false, iova: 0n, pasid: null, data })).toBeUndefined();
    machine.detach(program, idev);
    expect(failed(device.dma({ write: false, iova: 0n, pasid: null, data }))).toBe(true);
  });

  it('has PASIDs with page tables of their own, also where the device itself is blocked', () => {
    const machine = machineOf();
    const device = machine.device(0x20);
    const program = machine.program();
    const idev = machine.bind(program, device);
    program.process.memory.map(VA, 2n * MIB);
    const tables = [0, 1].map((index) => {
      const ioas = program.ioas();
      program.map(ioas, VA + BigInt(index) * MIB, 0n, MIB);
      return program.hwpt(idev.id, ioas, abi.IOMMU_HWPT_ALLOC_PASID);
    });
    expect(machine.attach(program, idev, tables[0]!, 7)).toBe(0);
    expect(machine.attach(program, idev, tables[1]!, 9)).toBe(0);
    const write = (pasid: number | null, text: string): boolean =>
      !failed(device.dma({ write: true, iova: 0n, pasid, data: bytesOf(text) }));
    expect([write(7, 'seven'), write(9, 'nine'), write(null, 'none'), write(8, 'eight')]).toEqual([
      true,
      true,
      false,
      false,
    ]);
    const at = (va: bigint): string => textOf(program.read(va, 4));
    expect([at(VA), at(VA + MIB)]).toEqual(['seve', 'nine']);
    machine.detach(program, idev, 7);
    expect([write(7, 'seven'), write(9, 'nine')]).toEqual([false, true]);
    expect(device.ssidsInUse).toBe(true);
    machine.detach(program, idev, 9);
    expect(device.cdTableInSte).toBe(false);
  });

  it('cannot get a stage 2 while it has PASIDs', () => {
    const machine = machineOf();
    const device = machine.device(0x20);
    const program = machine.program();
    const idev = machine.bind(program, device);
    const ioas = program.ioas();
    const withPasid = program.hwpt(idev.id, ioas, abi.IOMMU_HWPT_ALLOC_PASID);
    expect(machine.attach(program, idev, withPasid, 7)).toBe(0);
    const parent = program.hwpt(idev.id, ioas, abi.IOMMU_HWPT_ALLOC_NEST_PARENT);
    // iommufd refuses what was not made for PASIDs before the driver could say EBUSY.
    expect(machine.attach(program, idev, parent)).toBe(EINVAL);
  });
});

describe('GET_HW_INFO', () => {
  function info(
    machine: TestMachine,
    type = 0,
  ): { errno: number; type: number; bytes: Uint8Array; caps: bigint } {
    const program = machine.program();
    const idev = machine.bind(program, machine.device(0x20));
    const at = program.data(new Uint8Array(64).fill(0xaa));
    const done = program.call(abi.IOMMU_GET_HW_INFO, abi.iommu_hw_info, {
      flags: type === 0 ? 0 : abi.IOMMU_HW_INFO_FLAG_INPUT_TYPE,
      out_data_type: type,
      dev_id: idev.id,
      data_len: 64,
      data_uptr: at,
    });
    return {
      errno: program.errno,
      type: done.out_data_type,
      bytes: program.read(at, done.data_len),
      caps: done.out_capabilities,
    };
  }

  it('answers the ID registers byte for byte', () => {
    const machine = machineOf();
    const answer = info(machine);
    expect(answer.type).toBe(abi.IOMMU_HW_INFO_TYPE_ARM_SMMUV3);
    expect(answer.bytes).toHaveLength(40);
    const { idr, iidr, aidr } = machine.units[0]!.hardware.config;
    const words = new Uint32Array(answer.bytes.slice().buffer);
    expect([...words]).toEqual([0, 0, ...idr, iidr, aidr]);
    expect(answer.caps & BigInt(abi.IOMMU_HW_CAP_DIRTY_TRACKING)).not.toBe(0n);
    expect(answer.caps & BigInt(abi.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED)).not.toBe(0n);
  });

  it('tells a VMM to repeat invalidations where the machine needs that, since Linux 7.3', () => {
    const flags = (profile: string): number =>
      iommu_hw_info_arm_smmuv3.read(info(machineOf({ driver: { repeatTlbiCfgi: true } }, profile)).bytes)
        .flags;
    expect([flags('linux-7.3'), flags('linux-7.1')]).toEqual([1, 0]);
  });

  it('knows nothing of a CMDQV that is not there', () => {
    expect(info(machineOf(), abi.IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV).errno).toBe(EOPNOTSUPP);
  });
});

describe('dirty pages', () => {
  const setup = (
    driver: ArmSmmuDriverOptions = {},
  ): { vm: TestProgram; device: SmmuFunction; dirty: () => number } => {
    const machine = machineOf({ driver });
    const device = machine.device(0x20);
    const program = machine.program();
    const idev = machine.bind(program, device);
    const ioas = program.ioas();
    program.process.memory.map(VA, MIB);
    const hwpt = program.hwpt(idev.id, ioas, abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    program.map(ioas, VA, 0n, MIB);
    machine.attach(program, idev, hwpt);
    const set = { flags: abi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE, hwpt_id: hwpt };
    program.call(abi.IOMMU_HWPT_SET_DIRTY_TRACKING, abi.iommu_hwpt_set_dirty_tracking, set);
    const dirty = (): number => {
      const data = program.data(new Uint8Array(32));
      const values = { hwpt_id: hwpt, iova: 0n, length: MIB, page_size: 4096n, data };
      program.call(abi.IOMMU_HWPT_GET_DIRTY_BITMAP, abi.iommu_hwpt_get_dirty_bitmap, values);
      return program
        .read(data, 32)
        .reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0);
    };
    return { vm: program, device, dirty };
  };
  const write = (device: SmmuFunction, iova: bigint): void =>
    expect(device.dma({ write: true, iova, pasid: null, data: new Uint8Array([1]) })).toBeUndefined();

  it('are those that the device wrote since the last look', () => {
    const { device, dirty } = setup();
    expect(dirty()).toBe(0);
    write(device, 0x3000n);
    write(device, 0x5000n);
    device.dma({ write: false, iova: 0x7000n, pasid: null, data: new Uint8Array(1) });
    expect([dirty(), dirty()]).toEqual([2, 0]);
    write(device, 0x3000n);
    expect(dirty()).toBe(1);
  });

  it('are missed where the IOTLB keeps what it knew, as in Linux 7.3', () => {
    const { device, dirty } = setup({ linuxDirtySync: true });
    dirty();
    write(device, 0x3000n);
    expect(dirty()).toBe(1);
    write(device, 0x3000n);
    expect(dirty()).toBe(0);
  });
});
