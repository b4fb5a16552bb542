import { describe, expect, test } from 'vitest';
import { EBUSY, EEXIST, EINVAL, ENOENT, ENOTTY, EOPNOTSUPP, EFAULT } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_FAULT_ID_VALID,
  IOMMU_HWPT_INVALIDATE,
  iommu_hwpt_invalidate,
} from '../../abi/iommufd.ts';
import {
  IOMMU_HWPT_DATA_SELFTEST,
  IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
  IOMMU_TEST_DEV_CACHE_DEFAULT,
  IOMMU_TEST_IOTLB_DEFAULT,
  IOMMU_TEST_OP_DEV_CHECK_CACHE,
  IOMMU_TEST_OP_MD_CHECK_IOTLB,
  IOMMU_TEST_OP_TRIGGER_VEVENT,
  IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
  iommu_hwpt_invalidate_selftest,
  iommu_hwpt_selftest,
  iommu_test_cmd_check_dev_cache,
  iommu_test_cmd_check_iotlb,
  iommu_test_cmd_trigger_vevent,
  iommu_viommu_invalidate_selftest,
} from '../../abi/iommufd-test.ts';
import * as rfc from '../../abi/rfc-2023-12.ts';
import { Kernel } from '../../machine/kernel.ts';
import { BUFFER, PAGE, Program, type Answer } from '../testing/program.ts';
import { RFC_2023_12_OPS } from './ops.ts';

// The trial uAPI on the mock IOMMU.

const { IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID: DID, IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID: RID } = rfc;

class Trial extends Program {
  constructor() {
    super(new Kernel({ uapis: ['rfc-2023-12'] }));
  }

  rfcViommu(
    idev: number,
    parent: number,
    more: { flags?: number; __reserved?: number } = {},
  ): Answer<typeof rfc.iommu_rfc_viommu_alloc> {
    const values = { dev_id: idev, hwpt_id: parent, ...more };
    return this.call(rfc.IOMMU_RFC_VIOMMU_ALLOC, rfc.iommu_rfc_viommu_alloc, values);
  }

  assign(idev: number, viommu: number, type: number, id: bigint): number {
    const values = { dev_id: idev, viommu_id: viommu, id_type: type, id };
    return this.call(rfc.IOMMU_DEV_ASSIGN_VIRTUAL_ID, rfc.iommu_dev_assign_virtual_id, values).rc;
  }

  rfcHwpt(
    values: Partial<ReturnType<typeof rfc.iommu_rfc_hwpt_alloc.create>>,
  ): Answer<typeof rfc.iommu_rfc_hwpt_alloc> {
    return this.call(rfc.IOMMU_RFC_HWPT_ALLOC, rfc.iommu_rfc_hwpt_alloc, values);
  }

  rfcNested(idev: number, parent: number, viommu: number): Answer<typeof rfc.iommu_rfc_hwpt_alloc> {
    return this.rfcHwpt({
      dev_id: idev,
      pt_id: parent,
      viommu_id: viommu,
      data_type: IOMMU_HWPT_DATA_SELFTEST,
      data_len: iommu_hwpt_selftest.size,
      data_uptr: this.put(iommu_hwpt_selftest, { iotlb: IOMMU_TEST_IOTLB_DEFAULT }),
    });
  }

  devInvalidate(
    idev: number,
    entries: readonly { flags?: number; cache_id?: number; vdev_id?: number }[],
    more: Partial<ReturnType<typeof rfc.iommu_dev_invalidate.create>> = {},
  ): [number, number] {
    const { rc, out } = this.call(rfc.IOMMU_DEV_INVALIDATE, rfc.iommu_dev_invalidate, {
      dev_id: idev,
      data_uptr: this.put(iommu_viommu_invalidate_selftest, ...entries),
      data_type: IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
      entry_len: iommu_viommu_invalidate_selftest.size,
      entry_num: entries.length,
      ...more,
    });
    return [rc, out.entry_num];
  }

  iotlbSync(hwpt: number, ...ids: readonly number[]): [number, number] {
    const entries = ids.map((iotlb_id) => ({ iotlb_id }));
    const { rc, out } = this.call(rfc.IOMMU_HWPT_IOTLB_SYNC, rfc.iommu_hwpt_iotlb_sync, {
      hwpt_id: hwpt,
      data_uptr: this.put(iommu_hwpt_invalidate_selftest, ...entries),
      data_type: IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
      entry_len: iommu_hwpt_invalidate_selftest.size,
      entry_num: ids.length,
    });
    return [rc, out.entry_num];
  }

  /** Which entries of the device's cache are as they were. */
  cache(idev: number): boolean[] {
    return [0, 1, 2, 3].map(
      (cache_id) =>
        this.test(IOMMU_TEST_OP_DEV_CHECK_CACHE, iommu_test_cmd_check_dev_cache, {
          id: idev,
          cache_id,
          cache: IOMMU_TEST_DEV_CACHE_DEFAULT,
        }).rc === 0,
    );
  }

  iotlb(hwpt: number): boolean[] {
    return [0, 1, 2, 3].map(
      (iotlb_id) =>
        this.test(IOMMU_TEST_OP_MD_CHECK_IOTLB, iommu_test_cmd_check_iotlb, {
          id: hwpt,
          iotlb_id,
          iotlb: IOMMU_TEST_IOTLB_DEFAULT,
        }).rc === 0,
    );
  }
}

function setUp() {
  const program = new Trial();
  const ioas = program.ioas();
  const [first, second] = [program.mock(ioas), program.mock(ioas)];
  const parent = program.hwpt(first.idev, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
  const { rc, out } = program.rfcViommu(first.idev, parent);
  expect(rc).toBe(0);
  return { program, ioas, first, second, parent, viommu: out.out_viommu_id };
}

describe('the requests', () => {
  test.each(RFC_2023_12_OPS.map((op) => [op.name, op] as const))(
    '%s is ENOTTY unless the machine asks for it, and takes no shorter struct than its own',
    (_name, { cmd, minSize, layout }) => {
      expect(minSize).toBe(layout.size);
      const bytes = new Uint8Array(layout.size);
      const view = new DataView(bytes.buffer);
      const ask = (program: Program, size: number): number => {
        view.setUint32(0, size, true);
        program.write(BUFFER, bytes);
        return program.ioctl(cmd, BUFFER);
      };
      expect(ask(new Program(), layout.size)).toBe(-ENOTTY);
      const trial = new Trial();
      expect(ask(trial, layout.size - 1)).toBe(-EINVAL);
      expect(ask(trial, layout.size)).toBe(-ENOENT);
      expect(trial.ioctl(cmd, 0n)).toBe(-EFAULT);
    },
  );

  test('of Linux are as they were', () => {
    const { program, first, parent } = setUp();
    expect(program.viommu(first.idev, parent)).toBeGreaterThan(0);
    expect(program.nested(first.idev, parent)).toBeGreaterThan(0);
  });
});

describe('IOMMU_RFC_VIOMMU_ALLOC', () => {
  test('refuses flags, and a parent that is none', () => {
    const { program, ioas, first, parent } = setUp();
    expect(program.rfcViommu(first.idev, parent, { flags: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.rfcViommu(first.idev, parent, { __reserved: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.rfcViommu(first.idev, program.hwpt(first.idev, ioas)).rc).toBe(-EINVAL);
    expect(program.rfcViommu(first.idev, ioas).rc).toBe(-ENOENT);
    expect(program.rfcViommu(parent, parent).rc).toBe(-ENOENT);
  });

  test('makes an object that Linux’s requests take for a viommu', () => {
    const { program, first, second, viommu } = setUp();
    program.vdevice(viommu, second.idev, 7n);
    expect(program.tryVdevice(viommu, first.idev, 7n).rc).toBe(-EEXIST);
    expect(program.assign(first.idev, viommu, RID, 7n)).toBe(-EEXIST);
    expect(program.assign(second.idev, viommu, RID, 8n)).toBe(-EEXIST);
    expect(program.assign(first.idev, viommu, RID, 8n)).toBe(0);
  });

  test('makes what a device can be attached to, as to its parent', () => {
    const { program, first, parent, viommu } = setUp();
    expect(program.replace(first.stdev, viommu)).toMatchObject({ rc: 0, out: { pt_id: viommu } });
    expect(program.destroy(viommu)).toBe(-EBUSY);
    expect(program.replace(first.stdev, parent).rc).toBe(0);
    expect(program.destroy(viommu)).toBe(0);
    const linux = program.viommu(first.idev, parent);
    expect(program.replace(first.stdev, linux).rc).toBe(-EINVAL);
  });
});

describe('IOMMU_DEV_ASSIGN_VIRTUAL_ID', () => {
  test('tells events of the guest which device it was, and invalidations which is meant', () => {
    const { program, first, parent, viommu } = setUp();
    expect(program.assign(first.idev, viommu, RID, 0x42n)).toBe(0);
    const nested = program.rfcNested(first.idev, parent, viommu).out.out_hwpt_id;
    expect(program.replace(first.stdev, nested).rc).toBe(0);
    const { rc, out } = program.tryVeventq({ viommu_id: viommu });
    expect(rc).toBe(0);
    program.test(IOMMU_TEST_OP_TRIGGER_VEVENT, iommu_test_cmd_trigger_vevent, { dev_id: first.idev });
    expect(program.readEvents(out.out_veventq_fd, 12)).toBe(12);
    expect(new DataView(program.read(BUFFER, 12).buffer).getUint32(8, true)).toBe(0x42);
    const array = program.call(IOMMU_HWPT_INVALIDATE, iommu_hwpt_invalidate, {
      hwpt_id: viommu,
      data_uptr: program.put(iommu_viommu_invalidate_selftest, { vdev_id: 0x42, cache_id: 1 }),
      data_type: IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
      entry_len: iommu_viommu_invalidate_selftest.size,
      entry_num: 1,
    });
    expect(array).toMatchObject({ rc: 0, out: { entry_num: 1 } });
    expect(program.cache(first.idev)).toEqual([true, false, true, true]);
  });

  test('takes one domain id for several devices, beside their device ids', () => {
    const { program, first, second, viommu } = setUp();
    for (const { idev } of [first, second]) expect(program.assign(idev, viommu, DID, 5n)).toBe(0);
    expect(program.assign(first.idev, viommu, RID, 5n)).toBe(0);
    expect(program.assign(second.idev, viommu, RID, 5n)).toBe(-EEXIST);
    expect(program.assign(second.idev, viommu, DID, 6n)).toBe(0);
  });

  test('moves a device from one table to another', () => {
    const { program, first, second, parent, viommu } = setUp();
    const other = program.rfcViommu(first.idev, parent).out.out_viommu_id;
    expect(program.assign(first.idev, viommu, RID, 1n)).toBe(0);
    expect(program.assign(first.idev, other, RID, 1n)).toBe(0);
    expect(program.assign(second.idev, viommu, RID, 1n)).toBe(0);
    expect(program.assign(second.idev, other, RID, 1n)).toBe(-EEXIST);
  });

  test('does not mix with vDEVICEs of a viommu of Linux’s', () => {
    const { program, first, parent } = setUp();
    expect(program.assign(first.idev, program.viommu(first.idev, parent), RID, 1n)).toBe(-EINVAL);
    expect(program.assign(first.idev, first.idev, RID, 1n)).toBe(-ENOENT);
  });
});

describe('IOMMU_RFC_HWPT_ALLOC', () => {
  test('makes what IOMMU_HWPT_ALLOC of its time made, where there is no viommu', () => {
    const { program, ioas, first, parent } = setUp();
    const flags = IOMMU_HWPT_ALLOC_NEST_PARENT;
    const made = program.rfcHwpt({ dev_id: first.idev, pt_id: ioas, flags });
    expect(made.rc).toBe(0);
    expect(program.rfcViommu(first.idev, made.out.out_hwpt_id).rc).toBe(0);
    expect(program.rfcNested(first.idev, parent, 0).rc).toBe(0);
  });

  test('refuses what it does not know', () => {
    const { program, ioas, first, parent, viommu } = setUp();
    const dev_id = first.idev;
    expect(program.rfcHwpt({ dev_id, pt_id: ioas, flags: IOMMU_HWPT_FAULT_ID_VALID }).rc).toBe(-EOPNOTSUPP);
    expect(program.rfcHwpt({ dev_id, pt_id: ioas, flags: 1 << 20 }).rc).toBe(-EOPNOTSUPP);
    expect(program.rfcHwpt({ dev_id, pt_id: ioas, __reserved2: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.rfcHwpt({ dev_id, pt_id: ioas, data_len: 4 }).rc).toBe(-EINVAL);
    expect(program.rfcHwpt({ dev_id, pt_id: viommu }).rc).toBe(-EINVAL);
    expect(program.rfcHwpt({ dev_id, pt_id: 999 }).rc).toBe(-EINVAL);
    expect(program.rfcHwpt({ dev_id: 999, pt_id: ioas }).rc).toBe(-ENOENT);
    expect(program.rfcHwpt({ dev_id, pt_id: parent, viommu_id: viommu }).rc).toBe(-EOPNOTSUPP);
    expect(program.rfcNested(dev_id, parent, program.viommu(dev_id, parent)).rc).toBe(-EINVAL);
  });
});

describe('IOMMU_RFC_GET_HW_INFO', () => {
  test('answers what Linux’s does, and which physical IOMMU it is', () => {
    const { program, first, second } = setUp();
    const info = (dev_id: number): Answer<typeof rfc.iommu_rfc_hw_info> =>
      program.call(rfc.IOMMU_RFC_GET_HW_INFO, rfc.iommu_rfc_hw_info, { dev_id });
    expect(info(first.idev)).toMatchObject({ rc: 0, out: { out_data_type: 0xfeedbeef, out_piommu_id: 1 } });
    expect(info(second.idev).out.out_piommu_id).toBe(1);
    expect(info(999).rc).toBe(-ENOENT);
    const reserved = { dev_id: first.idev, __reserved2: 1 };
    expect(program.call(rfc.IOMMU_RFC_GET_HW_INFO, rfc.iommu_rfc_hw_info, reserved).rc).toBe(-EOPNOTSUPP);
  });
});

describe('IOMMU_DEV_INVALIDATE', () => {
  test('is for the device it names, whatever the commands say', () => {
    const { program, first, second } = setUp();
    expect(program.devInvalidate(first.idev, [{ cache_id: 0, vdev_id: 77 }, { cache_id: 2 }])).toEqual([
      0, 2,
    ]);
    expect(program.cache(first.idev)).toEqual([false, true, false, true]);
    expect(program.cache(second.idev)).toEqual([true, true, true, true]);
    expect(program.devInvalidate(second.idev, [{ flags: 1 }])).toEqual([0, 1]);
    expect(program.cache(second.idev)).toEqual([false, false, false, false]);
  });

  test('tells how many commands were handled, also where it fails', () => {
    const { program, first } = setUp();
    expect(program.devInvalidate(first.idev, [{ cache_id: 0 }, { cache_id: 9 }, { cache_id: 1 }])).toEqual([
      -EINVAL,
      1,
    ]);
    expect(program.cache(first.idev)).toEqual([false, true, true, true]);
    expect(program.devInvalidate(first.idev, [{ flags: 2 }])).toEqual([-EOPNOTSUPP, 0]);
    expect(program.devInvalidate(first.idev, [{}], { data_type: 1 })).toEqual([-EINVAL, 0]);
    expect(program.devInvalidate(first.idev, [{}], { __reserved: 1 })).toEqual([-EOPNOTSUPP, 0]);
    expect(program.devInvalidate(first.idev, [{}], { data_uptr: 0n })).toEqual([-EINVAL, 0]);
    expect(program.devInvalidate(first.idev, [{}], { data_uptr: 0x5000_0000n })).toEqual([-EFAULT, 0]);
    expect(program.devInvalidate(first.idev, [{}], { entry_num: (1 << 19) + 1 })).toEqual([-EINVAL, 0]);
  });
});

describe('IOMMU_HWPT_IOTLB_SYNC', () => {
  test('is the domain op of a nested HWPT', () => {
    const { program, first, parent, viommu } = setUp();
    expect(program.assign(first.idev, viommu, RID, 1n)).toBe(0);
    const nested = program.rfcNested(first.idev, parent, viommu).out.out_hwpt_id;
    expect(program.iotlbSync(nested, 0, 3)).toEqual([0, 2]);
    expect(program.iotlb(nested)).toEqual([false, true, true, false]);
    expect(program.iotlbSync(nested, 1, 9)).toEqual([-EINVAL, 1]);
    expect(program.iotlbSync(parent, 1)).toEqual([-EOPNOTSUPP, 0]);
    expect(program.iotlbSync(viommu, 1)).toEqual([-EINVAL, 0]);
  });
});

test('closing the file gives everything back', () => {
  const { program, ioas, first, parent, viommu } = setUp();
  program.map(ioas, { length: PAGE });
  expect(program.assign(first.idev, viommu, RID, 1n)).toBe(0);
  const nested = program.rfcNested(first.idev, parent, viommu).out.out_hwpt_id;
  expect(program.replace(first.stdev, nested).rc).toBe(0);
  const { context } = program;
  context.release();
  expect(context.objects.empty).toBe(true);
});
