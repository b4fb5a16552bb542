import { describe, expect, test } from 'vitest';
import { E2BIG, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENXIO, EOPNOTSUPP, EPERM } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_INVALIDATE,
  IOMMU_VIOMMU_TYPE_DEFAULT,
  iommu_hwpt_invalidate,
} from '../../abi/iommufd.ts';
import {
  IOMMU_TEST_DEV_CACHE_DEFAULT,
  IOMMU_TEST_INVALIDATE_FLAG_ALL,
  IOMMU_TEST_OP_DEV_CHECK_CACHE,
  IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
  IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID,
  IOMMU_VIOMMU_TYPE_SELFTEST,
  iommu_test_cmd_check_dev_cache,
  iommu_viommu_invalidate_selftest,
  iommu_viommu_selftest,
} from '../../abi/iommufd-test.ts';
import type { IommufdDevice } from '../device/device.ts';
import { DEFAULT_PROFILE } from '../profile.ts';
import { BUFFER, machine, Program } from '../testing/program.ts';
import type { Viommu } from './viommu.ts';

const VIRTUAL_ID = 0x99n;
const PROT_READ = 1;
const PROT_EXEC = 4;

/** A device behind a nest parent. */
function withParent(profile = DEFAULT_PROFILE) {
  const program = new Program(machine(profile));
  const ioas = program.ioas();
  const device = program.mock(ioas);
  const parent = program.hwpt(device.idev, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
  return { program, ioas, device, parent };
}

/** The same with a viommu. */
function setUp(profile = DEFAULT_PROFILE) {
  const all = withParent(profile);
  return { ...all, viommu: all.program.viommu(all.device.idev, all.parent) };
}

/** 0 where entry `index` of the device's cache is `value`. */
function checkCache(program: Program, idev: number, index: number, value: number): number {
  return program.test(IOMMU_TEST_OP_DEV_CHECK_CACHE, iommu_test_cmd_check_dev_cache, {
    id: idev,
    cache_id: index,
    cache: value,
  }).rc;
}

type Entry = Partial<ReturnType<typeof iommu_viommu_invalidate_selftest.create>>;

/** Answers the errno, and how many entries were handled. */
function invalidate(
  program: Program,
  viommu: number,
  entries: readonly Entry[],
  more: { data_type?: number; entry_len?: number } = {},
): [number, number] {
  const { rc, out } = program.call(IOMMU_HWPT_INVALIDATE, iommu_hwpt_invalidate, {
    hwpt_id: viommu,
    data_uptr: program.put(iommu_viommu_invalidate_selftest, ...entries),
    data_type: IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
    entry_len: iommu_viommu_invalidate_selftest.size,
    entry_num: entries.length,
    ...more,
  });
  return [rc, out.entry_num];
}

describe('a viommu', () => {
  test('keeps its parent, and the IOAS with it', () => {
    const { program, ioas, parent, viommu } = setUp();
    expect(program.destroy(parent)).toBe(-EBUSY);
    expect(program.destroy(viommu)).toBe(0);
    expect(program.destroy(parent)).toBe(0);
    expect(program.destroy(ioas)).toBe(-EBUSY);
  });

  test('is made of a device and a nest parent', () => {
    const { program, ioas, device, parent } = withParent();
    const plain = program.hwpt(device.idev, ioas);
    expect(program.tryViommu({ dev_id: device.idev, hwpt_id: plain }).rc).toBe(-EINVAL);
    expect(program.tryViommu({ dev_id: device.idev, hwpt_id: ioas }).rc).toBe(-ENOENT);
    expect(program.tryViommu({ dev_id: parent, hwpt_id: parent }).rc).toBe(-ENOENT);
    expect(program.tryViommu({ dev_id: device.idev, hwpt_id: parent }).rc).toBe(0);
  });

  test('is of a type that the driver offers, without flags', () => {
    const { program, device, parent } = withParent();
    const values = { dev_id: device.idev, hwpt_id: parent };
    expect(program.tryViommu({ ...values, type: IOMMU_VIOMMU_TYPE_DEFAULT }).rc).toBe(-EOPNOTSUPP);
    expect(program.tryViommu({ ...values, type: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.tryViommu({ ...values, flags: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.destroy(parent)).toBe(0);
  });

  test('tells the driver’s data, and offers a page to mmap(2)', () => {
    const { program, device, parent } = withParent();
    const size = iommu_viommu_selftest.size;
    const data = { data_uptr: program.put(iommu_viommu_selftest, { in_data: 7 }), data_len: size };
    const { rc, out } = program.tryViommu({ dev_id: device.idev, hwpt_id: parent, ...data });
    expect(rc).toBe(0);
    const answered = iommu_viommu_selftest.read(program.read(BUFFER, size));
    expect([answered.in_data, answered.out_data]).toEqual([7, 7]);
    const { out_mmap_offset: offset, out_mmap_length: length } = answered;
    const map = (at: bigint, bytes: bigint, prot: number): number =>
      program.context.mmap(program.task, at, bytes, prot);
    expect(map(offset, length, PROT_READ)).toBe(0);
    expect(map(offset, length, PROT_EXEC)).toBe(-EPERM);
    expect(map(offset, length - 1n, PROT_READ)).toBe(-EINVAL);
    expect(map(offset, length / 2n, PROT_READ)).toBe(-ENXIO);
    expect(map(offset + 0x10_0000n, length, PROT_READ)).toBe(-ENXIO);
    expect(program.destroy(out.out_viommu_id)).toBe(0);
    expect(map(offset, length, PROT_READ)).toBe(-ENXIO);
    expect(program.kernel.physical.ram.size).toBe(0);
  });

  test('cannot be destroyed while a program has its page mapped', () => {
    const { program, device, parent } = withParent();
    const data = { data_uptr: program.put(iommu_viommu_selftest, {}), data_len: iommu_viommu_selftest.size };
    const { out } = program.tryViommu({ dev_id: device.idev, hwpt_id: parent, ...data });
    let mapped = true;
    program.context.backing = { read: () => true, write: () => true, mapped: () => mapped };
    expect(program.destroy(out.out_viommu_id)).toBe(-EBUSY);
    mapped = false;
    expect(program.destroy(out.out_viommu_id)).toBe(0);
  });

  test('whose data is too short or not there is not made', () => {
    const { program, device, parent } = withParent();
    const values = { dev_id: device.idev, hwpt_id: parent, data_uptr: BUFFER };
    expect(program.tryViommu({ ...values, data_len: 1 }).rc).toBe(-EINVAL);
    expect(program.tryViommu({ ...values, data_len: 24, data_uptr: 0xdead_0000n }).rc).toBe(-EFAULT);
    expect(program.tryViommu({ ...values, type: IOMMU_VIOMMU_TYPE_SELFTEST, data_len: 25 }).rc).toBe(-EINVAL);
    expect(program.destroy(parent)).toBe(0);
    expect(program.kernel.physical.ram.size).toBe(0);
  });
});

describe('a virtual device', () => {
  test('is one of its device, and of its id on the viommu', () => {
    const { program, ioas, device, viommu } = setUp();
    const other = program.mock(ioas);
    program.vdevice(viommu, device.idev, VIRTUAL_ID);
    expect(program.tryVdevice(viommu, device.idev, 1n).rc).toBe(-EEXIST);
    expect(program.tryVdevice(viommu, other.idev, VIRTUAL_ID).rc).toBe(-EEXIST);
    expect(program.tryVdevice(viommu, other.idev, 2n ** 64n - 1n).rc).toBe(0);
  });

  test('keeps its viommu and not its device', () => {
    const { program, device, viommu } = setUp();
    const vdevice = program.vdevice(viommu, device.idev, VIRTUAL_ID);
    expect(program.destroy(viommu)).toBe(-EBUSY);
    expect(program.destroy(vdevice)).toBe(0);
    expect(program.destroy(viommu)).toBe(0);
  });

  test('goes with its device; its id does not name anything else until the file is closed', () => {
    const { program, device, viommu } = setUp();
    const vdevice = program.vdevice(viommu, device.idev, VIRTUAL_ID);
    expect(program.destroy(device.stdev)).toBe(0);
    expect(program.destroy(vdevice)).toBe(-ENOENT);
    expect(program.destroy(viommu)).toBe(0);
    const ids = Array.from({ length: vdevice + 2 }, () => program.ioas());
    expect(ids).not.toContain(vdevice);
  });

  test('was one of many until Linux 6.16, and stayed when its device went', () => {
    const { program, ioas, device, viommu } = setUp('linux-6.15');
    const vdevices = [VIRTUAL_ID, 1n].map((id) => program.vdevice(viommu, device.idev, id));
    const other = program.mock(ioas);
    expect(program.tryVdevice(viommu, other.idev, 1n).rc).toBe(-EEXIST);
    expect(program.destroy(device.stdev)).toBe(0);
    expect(program.tryVdevice(viommu, other.idev, 1n).rc).toBe(-EEXIST);
    expect(vdevices.map((id) => program.destroy(id))).toEqual([0, 0]);
    expect(program.tryVdevice(viommu, other.idev, 1n).rc).toBe(0);
  });

  test('was known to a driver by the lowest of its ids', () => {
    const { program, device, viommu } = setUp('linux-6.15');
    for (const id of [VIRTUAL_ID, 5n, 7n]) program.vdevice(viommu, device.idev, id);
    const made = program.context.objects.get<Viommu>(viommu, 'VIOMMU') as Viommu;
    const idev = program.context.objects.get<IommufdDevice>(device.idev, 'DEVICE') as IommufdDevice;
    expect(made.virtualIdOf(idev.device)).toBe(5n);
  });

  test('can be made again after it was destroyed', () => {
    const { program, device, viommu } = setUp();
    program.destroy(program.vdevice(viommu, device.idev, VIRTUAL_ID));
    expect(program.tryVdevice(viommu, device.idev, VIRTUAL_ID).rc).toBe(0);
  });

  test('needs a viommu and a device', () => {
    const { program, device, viommu, parent } = setUp();
    expect(program.tryVdevice(parent, device.idev, 1n).rc).toBe(-ENOENT);
    expect(program.tryVdevice(viommu, device.stdev, 1n).rc).toBe(-ENOENT);
  });
});

describe('a nested domain on a viommu', () => {
  test('keeps the viommu', () => {
    const { program, device, viommu } = setUp();
    const nested = program.nested(device.idev, viommu);
    expect(program.destroy(viommu)).toBe(-EBUSY);
    program.destroy(nested);
    expect(program.destroy(viommu)).toBe(0);
  });

  test('takes only devices that the viommu knows', () => {
    const { program, device, viommu } = setUp();
    const nested = program.nested(device.idev, viommu);
    expect(program.replace(device.stdev, nested).rc).toBe(-ENOENT);
    program.vdevice(viommu, device.idev, VIRTUAL_ID);
    expect(program.replace(device.stdev, nested).rc).toBe(0);
  });

  test('took every device of the mock until Linux 6.14', () => {
    const { program, device, viommu } = setUp('linux-6.13');
    expect(program.replace(device.stdev, program.nested(device.idev, viommu)).rc).toBe(0);
  });
});

describe('an invalidation of a viommu', () => {
  function withCache() {
    const all = setUp();
    all.program.vdevice(all.viommu, all.device.idev, VIRTUAL_ID);
    const check = (index: number, value: number): number =>
      checkCache(all.program, all.device.idev, index, value);
    return { ...all, check };
  }

  test('reaches the caches of the devices that its entries name', () => {
    const { program, viommu, check } = withCache();
    expect(invalidate(program, viommu, [{ vdev_id: 0x99, cache_id: 1 }])).toEqual([0, 1]);
    expect(check(1, 0)).toBe(0);
    expect(check(0, IOMMU_TEST_DEV_CACHE_DEFAULT)).toBe(0);
    const all = { flags: IOMMU_TEST_INVALIDATE_FLAG_ALL, vdev_id: 0x99 };
    expect(invalidate(program, viommu, [all])).toEqual([0, 1]);
    expect(check(0, 0)).toBe(0);
  });

  test('stops at the first wrong entry, and tells how many it handled', () => {
    const { program, viommu, check } = withCache();
    const right = { vdev_id: 0x99, cache_id: 0 };
    expect(invalidate(program, viommu, [right, { vdev_id: 1 }, { vdev_id: 0x99, cache_id: 2 }])).toEqual([
      -EINVAL,
      1,
    ]);
    expect([check(0, 0), check(2, IOMMU_TEST_DEV_CACHE_DEFAULT)]).toEqual([0, 0]);
    expect(invalidate(program, viommu, [{ vdev_id: 0x99, cache_id: 4 }])).toEqual([-EINVAL, 0]);
    expect(invalidate(program, viommu, [{ vdev_id: 0x99, flags: 2 }])).toEqual([-EOPNOTSUPP, 0]);
  });

  test('of no entries asks whether the type is known', () => {
    const { program, viommu } = withCache();
    expect(invalidate(program, viommu, [])).toEqual([0, 0]);
    const data_type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID;
    expect(invalidate(program, viommu, [], { data_type })).toEqual([-EINVAL, 0]);
  });

  test('takes longer entries where the rest of them is zero', () => {
    const { program, viommu } = withCache();
    const [entry, zero] = [{ vdev_id: 0x99 }, {}];
    expect(invalidate(program, viommu, [entry, zero], { entry_len: 24 })).toEqual([-EINVAL, 1]);
    expect(invalidate(program, viommu, [entry, entry], { entry_len: 24 })[0]).toBe(-E2BIG);
  });
});
