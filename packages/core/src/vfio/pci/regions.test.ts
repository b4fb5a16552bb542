import { describe, expect, test } from 'vitest';
import { EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENOTTY, EFAULT } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_FEATURE_BUS_MASTER,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_FEATURE_ZPCI_ERROR,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_PCI_VGA_REGION_INDEX,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  vfio_device_feature,
  vfio_device_info,
  vfio_device_ioeventfd,
  vfio_region_info,
} from '../../abi/vfio.ts';
import { failed } from '../../base/result.ts';
import type { FileBacking } from '../../memory/file.ts';
import { BarMemory } from '../../pci/bar-memory.ts';
import { PciFunction, type DeviceModel } from '../../pci/function.ts';
import {
  PCI_CAP_ID_PM,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_PM_CTRL,
} from '../../pci/spec.ts';
import { Rig } from '../testing/rig.ts';
import { IO_BAR, MEMORY_BAR, MEMORY_BYTES, MSIX_TABLE, REGISTER_BAR } from '../testing/device.ts';
import { VfioBars } from './bars.ts';
import { getRegionInfo } from './info.ts';

const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

/** The pages of an open file that a program maps. */
function pages(): FileBacking & { bytes: Map<bigint, number> } {
  const bytes = new Map<bigint, number>();
  return {
    bytes,
    read: (offset, into) => {
      for (let i = 0; i < into.length; i++) into[i] = bytes.get(offset + BigInt(i)) ?? 0;
      return true;
    },
    write: (offset, from) => {
      for (let i = 0; i < from.length; i++) bytes.set(offset + BigInt(i), from[i]!);
      return true;
    },
    mapped: () => true,
  };
}

describe('VFIO_DEVICE_GET_INFO', () => {
  test('tells what the device is', () => {
    const { rc, out } = new Rig().call(VFIO_DEVICE_GET_INFO, vfio_device_info, {});
    expect(rc).toBe(0);
    expect(out.flags).toBe(VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET);
    expect([out.num_regions, out.num_irqs, out.cap_offset]).toEqual([9, 5, 0]);
  });

  test('is EINVAL without room for the members that every caller has', () => {
    expect(new Rig().call(VFIO_DEVICE_GET_INFO, vfio_device_info, { argsz: 15 }).rc).toBe(-EINVAL);
    expect(new Rig().call(VFIO_DEVICE_GET_INFO, vfio_device_info, { argsz: 16 }).rc).toBe(0);
  });
});

describe('VFIO_DEVICE_GET_REGION_INFO', () => {
  test('tells size and rights of each region, at an offset of its own with bits 62 to 56 set', () => {
    const rig = new Rig();
    const regions = Array.from({ length: 8 }, (_, index) => rig.region(index));
    expect(regions.map(({ size }) => size)).toEqual([
      0x1000n,
      0n,
      BigInt(MEMORY_BYTES),
      0n,
      32n,
      0n,
      0n,
      4096n,
    ]);
    expect(regions.map(({ flags }) => flags)).toEqual([
      READ_WRITE,
      0,
      READ_WRITE | VFIO_REGION_INFO_FLAG_MMAP,
      0,
      READ_WRITE,
      0,
      0,
      READ_WRITE,
    ]);
    expect(new Set(regions.map(({ offset }) => offset)).size).toBe(8);
    for (const { offset } of regions) expect(offset >> 56n).toBe(0x7fn);
  });

  test('refuses a region that is not there, and an argsz without room', () => {
    const rig = new Rig();
    for (const index of [VFIO_PCI_VGA_REGION_INDEX, 9, 0xffff_ffff])
      expect(rig.call(VFIO_DEVICE_GET_REGION_INFO, vfio_region_info, { index }).rc).toBe(-EINVAL);
    expect(rig.call(VFIO_DEVICE_GET_REGION_INFO, vfio_region_info, { argsz: 31 }).rc).toBe(-EINVAL);
  });

  test('says that a BAR with the MSI-X table may be mapped, where there is room to say it', () => {
    const memory = new BarMemory(0x2000);
    const model: DeviceModel = {
      description: {
        identity: { vendor: 1, device: 2, classCode: 0 },
        bars: [{ index: 0, size: 0x2000, kind: 'memory32', memory, handler: memory.handler(() => {}) }],
        msix: { vectors: 2, bar: 0, table: 0x1000, pba: 0x1800 },
      },
      connect: () => {},
      reset: () => {},
    };
    const rig = new Rig();
    const bars = new VfioBars(new PciFunction('0000:00:01.0', model), () => true, 703);
    const ask = (argsz: number): [number, number, number] => {
      const bytes = new Uint8Array(40);
      vfio_region_info.write(bytes, 0, { ...vfio_region_info.create(), argsz, index: 0 });
      rig.process.memory.write(0x1000n, bytes);
      expect(failed(getRegionInfo(bars, rig.process.memory, 0x1000n))).toBe(false);
      rig.process.memory.read(0x1000n, bytes);
      const info = vfio_region_info.read(bytes);
      expect(info.flags & VFIO_REGION_INFO_FLAG_CAPS).not.toBe(0);
      return [info.argsz, info.cap_offset, new DataView(bytes.buffer).getUint16(32, true)];
    };
    expect(ask(32)).toEqual([40, 0, 0]);
    expect(ask(40)).toEqual([40, 32, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE]);
  });
});

describe('read(2) and write(2)', () => {
  test('reach the registers by the widest accesses that are aligned', () => {
    const rig = new Rig();
    rig.read(REGISTER_BAR, 0x11, 16);
    expect(rig.device.log).toEqual(['r1@11', 'r2@12', 'r4@14', 'r8@18', 'r1@20']);
    rig.device.log.length = 0;
    expect(rig.write(REGISTER_BAR, 0x100, [0x78, 0x56, 0x34, 0x12])).toBe(4);
    expect(rig.device.log).toEqual(['w4@100=12345678']);
    expect(rig.read(REGISTER_BAR, 0x102, 2)).toEqual(Uint8Array.of(0x34, 0x12));
  });

  test('leave the MSI-X table alone: it reads as ones, and stores to it are lost', () => {
    const rig = new Rig();
    expect(rig.read(REGISTER_BAR, MSIX_TABLE - 4, 8)).toEqual(
      Uint8Array.of(0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff),
    );
    expect(
      rig.write(
        REGISTER_BAR,
        MSIX_TABLE,
        Array.from({ length: 16 }, () => 0x55),
      ),
    ).toBe(16);
    expect(rig.pci.msix!.entries()[0]!.message.address).toBe(0n);
    expect(rig.device.log).toEqual([`r4@${(MSIX_TABLE - 4).toString(16)}`]);
  });

  test('are cut at the end of a BAR, and EINVAL beyond it and where there is none', () => {
    const rig = new Rig();
    expect(rig.read(MEMORY_BAR, MEMORY_BYTES - 4, 100)).toHaveLength(4);
    expect(rig.read(MEMORY_BAR, 0, MEMORY_BYTES + 1)).toHaveLength(MEMORY_BYTES);
    expect(rig.read(MEMORY_BAR, MEMORY_BYTES, 1)).toBe(-EINVAL);
    for (const region of [1, VFIO_PCI_ROM_REGION_INDEX]) {
      expect(rig.read(region, 0, 1)).toBe(-EINVAL);
      expect(rig.write(region, 0, [0])).toBe(-EINVAL);
    }
    for (const offset of [9n << 40n, 1n << 56n, 0x7f09_0000_0000_0000n, -1n]) {
      const done = rig.core.read(rig.task, 0x10_0000n, 4, offset);
      expect(failed(done) ? done.errno : done).toBe(EINVAL);
    }
  });

  test('take the offsets that Linux has, from programs that do not ask; mmap(2) does not', () => {
    const rig = new Rig();
    const read = (offset: bigint): number => {
      const done = rig.core.read(rig.task, 0x10_0000n, 2, offset);
      const bytes = new Uint8Array(2);
      rig.process.memory.read(0x10_0000n, bytes);
      return failed(done) ? -done.errno : bytes[0]! + 256 * bytes[1]!;
    };
    expect(read(7n << 40n)).toBe(0x1234);
    rig.write(MEMORY_BAR, 8, [0x11, 0x22]);
    expect(read((2n << 40n) + 8n)).toBe(0x2211);
    expect(failed(rig.core.mmap(2n << 40n, 0x1000n, pages()))).toBe(true);
  });

  test('are EIO while memory space is off; ports do not care', () => {
    const rig = new Rig();
    rig.setConfig(PCI_COMMAND, 2, 1);
    expect(rig.read(REGISTER_BAR, 0, 4)).toBe(-EIO);
    expect(rig.write(MEMORY_BAR, 0, [1])).toBe(-EIO);
    expect(rig.read(IO_BAR, 0, 4)).toHaveLength(4);
  });

  test('are EFAULT where the buffer is not there', () => {
    const rig = new Rig();
    const { offset } = rig.region(REGISTER_BAR);
    for (const way of ['read', 'write'] as const) {
      const done = rig.core[way](rig.task, 0xdead_0000n, 4, offset);
      expect(failed(done) ? done.errno : done).toBe(EFAULT);
    }
  });
});

describe('mmap(2)', () => {
  const map = (rig: Rig, index: number, at: bigint, length: bigint, backing?: FileBacking): number => {
    const mapped = rig.core.mmap(rig.region(index).offset + at, length, backing ?? pages());
    return failed(mapped) ? mapped.errno : 0;
  };

  test('shares the memory of a BAR with the program, and gives it back at the end', () => {
    const rig = new Rig();
    rig.write(MEMORY_BAR, 0x2000, [1, 2, 3]);
    const shown = pages();
    expect(map(rig, MEMORY_BAR, 0n, BigInt(MEMORY_BYTES), shown)).toBe(0);
    const { offset } = rig.region(MEMORY_BAR);
    expect(shown.bytes.get(offset + 0x2001n)).toBe(2);
    shown.bytes.set(offset + 0x2001n, 0x77);
    expect(rig.read(MEMORY_BAR, 0x2000, 3)).toEqual(Uint8Array.of(1, 0x77, 3));
    expect(rig.pci.watched).toBe(true);
    rig.core.unmap(shown);
    expect(rig.pci.watched).toBe(false);
    expect(rig.device.memory.get32(0x2000)).toBe(0x0003_7701);
  });

  test('takes parts, and refuses what reaches beyond the BAR or cannot be mapped', () => {
    const rig = new Rig();
    const shown = pages();
    expect(map(rig, MEMORY_BAR, 0x1000n, 0x1000n, shown)).toBe(0);
    expect(map(rig, MEMORY_BAR, 0n, 0x1000n, shown)).toBe(0);
    expect(map(rig, MEMORY_BAR, 0n, 0x1000n)).toBe(EBUSY);
    expect(map(rig, MEMORY_BAR, 0x1000n, BigInt(MEMORY_BYTES), shown)).toBe(EINVAL);
    for (const region of [REGISTER_BAR, IO_BAR, 1, VFIO_PCI_ROM_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX])
      expect(map(rig, region, 0n, 0x1000n)).toBe(EINVAL);
    expect(failed(rig.core.mmap(0n, 0x1000n, pages()))).toBe(true);
  });
});

describe('a mapped BAR', () => {
  const mapped = (): { rig: Rig; states: boolean[] } => {
    const rig = new Rig();
    const states: boolean[] = [];
    const backing: FileBacking = { ...pages(), setReachable: (reachable) => states.push(reachable) };
    expect(failed(rig.core.mmap(rig.region(MEMORY_BAR).offset, 0x1000n, backing))).toBe(false);
    return { rig, states };
  };

  test('is out of reach while memory space is off, and has what it had afterwards', () => {
    const { rig, states } = mapped();
    rig.write(MEMORY_BAR, 8, [1, 2, 3, 4]);
    rig.setConfig(PCI_COMMAND, 2, 0);
    expect([states, rig.device.memory.shared]).toEqual([[false], false]);
    rig.setConfig(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    rig.setConfig(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    expect([states, rig.device.memory.shared]).toEqual([[false, true], true]);
    expect(rig.read(MEMORY_BAR, 8, 4)).toEqual(Uint8Array.of(1, 2, 3, 4));
  });

  test('is out of reach in D3hot, and from low power on until that is left', () => {
    const { rig, states } = mapped();
    const power = rig.capability(PCI_CAP_ID_PM) + PCI_PM_CTRL;
    rig.setConfig(power, 2, 3);
    rig.setConfig(power, 2, 0);
    expect(states).toEqual([false, true]);
    const low = (flags: number): number =>
      rig.call(VFIO_DEVICE_FEATURE, vfio_device_feature, { flags: flags | VFIO_DEVICE_FEATURE_SET }).rc;
    expect(low(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)).toBe(0);
    rig.read(MEMORY_BAR, 0, 4);
    expect(states).toEqual([false, true, false]);
    expect(low(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)).toBe(0);
    expect(states).toEqual([false, true, false, true]);
  });

  test('that is mapped while memory space is off waits for it', () => {
    const rig = new Rig();
    rig.setConfig(PCI_COMMAND, 2, 0);
    const states: boolean[] = [];
    const backing: FileBacking = { ...pages(), setReachable: (reachable) => states.push(reachable) };
    const { offset } = rig.region(MEMORY_BAR);
    for (const part of [0n, 0x1000n])
      expect(failed(rig.core.mmap(offset + part, 0x1000n, backing))).toBe(false);
    expect([states, rig.device.memory.shared]).toEqual([[false, false], false]);
    rig.setConfig(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    expect([states.at(-1), rig.device.memory.shared]).toEqual([true, true]);
  });
});

describe('VFIO_DEVICE_IOEVENTFD', () => {
  const call = (rig: Rig, fd: number, at = 0x10, flags = 4, data = 0x1234n): number => {
    const offset = rig.region(REGISTER_BAR).offset + BigInt(at);
    return rig.call(VFIO_DEVICE_IOEVENTFD, vfio_device_ioeventfd, { fd, flags, offset, data }).rc;
  };

  test('makes a store of each signal', () => {
    const rig = new Rig();
    const { fd, eventfd } = rig.eventfd();
    expect(call(rig, fd)).toBe(0);
    expect(call(rig, fd)).toBe(-EEXIST);
    eventfd.add(1);
    expect(rig.device.log).toEqual(['w4@10=1234']);
    rig.setConfig(PCI_COMMAND, 2, 0);
    eventfd.add(1);
    expect(rig.device.log).toHaveLength(1);
    expect(call(rig, -1)).toBe(0);
    expect(call(rig, -1)).toBe(-ENODEV);
    expect(eventfd.holders).toBe(0);
  });

  test('makes as many stores as one takes that is not aligned', () => {
    const rig = new Rig();
    const { fd, eventfd } = rig.eventfd();
    expect(call(rig, fd, 0x11, 4, 0x4433_2211n)).toBe(0);
    eventfd.add(1);
    expect(rig.device.log).toEqual(['w1@11=11', 'w2@12=3322', 'w1@14=44']);
  });

  test('refuses other places and sizes', () => {
    const rig = new Rig();
    const { fd } = rig.eventfd();
    expect(call(rig, fd, 0x10, 3)).toBe(-EINVAL);
    expect(call(rig, fd, 0x10, 16)).toBe(-EINVAL);
    expect(call(rig, -2)).toBe(-EINVAL);
    expect(call(rig, fd, 0xffe)).toBe(-EINVAL);
    expect(call(rig, fd, MSIX_TABLE + 8)).toBe(-EINVAL);
    const config = { fd, flags: 4, offset: rig.region(VFIO_PCI_CONFIG_REGION_INDEX).offset };
    expect(rig.call(VFIO_DEVICE_IOEVENTFD, vfio_device_ioeventfd, config).rc).toBe(-EINVAL);
  });
});

describe('VFIO_DEVICE_FEATURE', () => {
  const [GET, SET, PROBE] = [VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_PROBE];
  const feature = (rig: Rig, flags: number, data: readonly number[] = []): number => {
    const bytes = new Uint8Array(vfio_device_feature.size + data.length);
    vfio_device_feature.write(bytes, 0, { argsz: bytes.length, flags });
    bytes.set(data, vfio_device_feature.size);
    return rig.raw(VFIO_DEVICE_FEATURE, bytes).rc;
  };

  test('says which features are not there', () => {
    const rig = new Rig();
    for (const absent of [
      VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
      VFIO_DEVICE_FEATURE_MIGRATION,
      VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
      VFIO_DEVICE_FEATURE_BUS_MASTER,
      VFIO_DEVICE_FEATURE_ZPCI_ERROR,
      0x1234,
    ])
      expect(feature(rig, absent | PROBE)).toBe(-ENOTTY);
    expect(feature(rig, VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | SET)).toBe(-EINVAL);
  });

  test('refuses unknown flags, get and set at once, neither, and a struct that is too small', () => {
    const rig = new Rig();
    expect(feature(rig, VFIO_DEVICE_FEATURE_MIGRATION | GET | SET)).toBe(-EINVAL);
    expect(feature(rig, VFIO_DEVICE_FEATURE_MIGRATION | GET | (1 << 19))).toBe(-EINVAL);
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)).toBe(-EINVAL);
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | GET)).toBe(-EINVAL);
    const short = { argsz: 7, flags: VFIO_DEVICE_FEATURE_MIGRATION | GET };
    expect(rig.call(VFIO_DEVICE_FEATURE, vfio_device_feature, short).rc).toBe(-EINVAL);
  });

  test('lets the device sleep, again after each use, until it is told to stay awake', () => {
    const rig = new Rig();
    const at = rig.pci.config.capability(PCI_CAP_ID_PM) + PCI_PM_CTRL;
    const state = (): number => rig.pci.config.read(at, 2) & 3;
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | PROBE | SET)).toBe(0);
    expect(state()).toBe(0);
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET)).toBe(0);
    expect(state()).toBe(3);
    rig.write(IO_BAR, 0, [7]);
    expect(rig.read(IO_BAR, 0, 1)).toEqual(Uint8Array.of(7));
    expect(state()).toBe(3);
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET)).toBe(-EINVAL);
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | SET)).toBe(0);
    expect(state()).toBe(0);
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | SET)).toBe(0);
  });

  test('tells by an eventfd that a device that sleeps was used, which it is awake then', () => {
    const rig = new Rig();
    const { fd, eventfd } = rig.eventfd();
    const withWakeup = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP | SET;
    expect(feature(rig, withWakeup, [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])).toBe(-EINVAL);
    expect(feature(rig, withWakeup, [fd, 0, 0, 0])).toBe(-EINVAL);
    expect(feature(rig, withWakeup, [fd, 0, 0, 0, 0, 0, 0, 0])).toBe(0);
    expect([eventfd.count, eventfd.holders]).toEqual([0, 1]);
    rig.read(REGISTER_BAR, 0, 4);
    expect([eventfd.count, eventfd.holders]).toEqual([1, 0]);
    rig.read(REGISTER_BAR, 0, 4);
    expect(eventfd.count).toBe(1);
    expect(feature(rig, withWakeup, [fd, 0, 0, 0, 0, 0, 0, 0])).toBe(0);
    rig.core.disable();
    expect(eventfd.holders).toBe(0);
  });

  test('masks INTx while the device sleeps', () => {
    const rig = new Rig();
    const { fd, eventfd } = rig.eventfd();
    const trigger = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    expect(rig.setIrqs(trigger, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, { fds: [fd] })).toBe(0);
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET)).toBe(0);
    rig.pci.setIntx(true);
    expect(eventfd.count).toBe(0);
    expect(feature(rig, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | SET)).toBe(0);
    expect(eventfd.count).toBe(1);
  });
});

describe('stores and loads of eight bytes', () => {
  test('are two of four before Linux 6.11', () => {
    for (const [version, expected] of [
      [606, ['w4@10=1', 'w4@14=0']],
      [612, ['w8@10=1']],
    ] as const) {
      const rig = new Rig(version);
      expect(rig.write(REGISTER_BAR, 0x10, [1, 0, 0, 0, 0, 0, 0, 0])).toBe(8);
      expect(rig.device.log).toEqual(expected);
    }
  });
});

test('a request that is not there is ENOTTY', () => {
  expect(new Rig().raw(0x3bff, new Uint8Array(4)).rc).toBe(-ENOTTY);
});

test('a session starts anew: a reset function, its BARs where they were, and no bus mastering', () => {
  const rig = new Rig();
  rig.setConfig(PCI_COMMAND, 2, PCI_COMMAND_MASTER);
  rig.write(IO_BAR, 0, [1, 2, 3, 4]);
  const { resets } = rig.device;
  rig.core.disable();
  expect(rig.device.resets).toBeGreaterThan(resets);
  expect(rig.device.registers[0]).toBe(0);
  expect(rig.pci.readConfig(PCI_COMMAND, 2) & PCI_COMMAND_MASTER).toBe(0);
  expect(rig.pci.user).toBeNull();
});
