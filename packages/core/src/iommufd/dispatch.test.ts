import { describe, expect, test } from 'vitest';
import {
  E2BIG,
  EFAULT,
  EINVAL,
  EMFILE,
  EMSGSIZE,
  ENOENT,
  ENOTTY,
  EOPNOTSUPP,
  EOVERFLOW,
} from '../abi/errno.ts';
import { IO, IOC_NR, IOMMUFD_TYPE } from '../abi/ioctl.ts';
import {
  IOMMU_DESTROY,
  IOMMU_FAULT_QUEUE_ALLOC,
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HWPT_FAULT_ID_VALID,
  IOMMU_HWPT_GET_DIRTY_BITMAP,
  IOMMU_HWPT_INVALIDATE,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_IOVA_RANGES,
  iommu_fault_alloc,
  iommu_hwpt_get_dirty_bitmap,
  iommu_hwpt_invalidate,
  iommu_ioas_alloc,
  iommu_ioas_iova_ranges,
} from '../abi/iommufd.ts';
import {
  IOMMU_TEST_CMD,
  IOMMU_TEST_OP_ADD_RESERVED,
  IOMMU_TEST_OP_DIRTY,
  IOMMU_TEST_OP_DEV_CHECK_CACHE,
  IOMMU_TEST_OP_DMABUF_GET,
  IOMMU_TEST_OP_MOCK_DOMAIN,
  IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
  IOMMU_TEST_OP_TRIGGER_IOPF,
  IOMMU_TEST_OP_TRIGGER_VEVENT,
  iommu_test_cmd,
  iommu_test_cmd_add_reserved,
  iommu_test_cmd_mock_domain,
  iommu_test_cmd_mock_domain_flags,
  MOCK_FLAGS_DEVICE_PASID,
  IOMMU_HWPT_DATA_SELFTEST,
  IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
  iommu_hwpt_selftest,
} from '../abi/iommufd-test.ts';
import { MOCK_FLAGS_DEVICE_HUGE_IOVA } from '../iommu/mock/device.ts';
import { eventText } from '../trace/text.ts';
import { SimulatedMemory } from '../memory/simulated-process.ts';
import { IOCTL_OPS, knownSize, smallestSize } from './dispatch.ts';
import type { IoctlOp } from './ioctl-op.ts';
import { PROFILES, versionName } from './profile.ts';
import { BUFFER, machine, PAGE, Program } from './testing/program.ts';

/** Where a struct is put; the page behind it is not mapped. */
const END = BUFFER + 0x10000n;

/** Asks with a struct that says `size`, of which `bytes` bytes are there: 0 but for what `fill` sets. */
function ask(
  program: Program,
  op: Pick<IoctlOp, 'cmd'>,
  size: number,
  bytes = size,
  fill: (view: DataView) => void = () => {},
): number {
  const struct = new Uint8Array(Math.max(4, bytes));
  const view = new DataView(struct.buffer);
  view.setUint32(0, size, true);
  fill(view);
  program.write(END - BigInt(struct.length), struct);
  return program.ioctl(op.cmd, END - BigInt(struct.length));
}

describe('the table of requests', () => {
  test('is in the order of their numbers, with one row for each', () => {
    const numbers = IOCTL_OPS.map((op) => IOC_NR(op.cmd));
    expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
    expect(new Set(numbers).size).toBe(numbers.length);
    expect(numbers.slice(0, -1)).toEqual(Array.from({ length: 0x16 }, (_, i) => 0x80 + i));
    expect(numbers.at(-1)).toBe(0xa0);
  });

  test.each(IOCTL_OPS.map((op) => [op.name, op] as const))(
    'knows the first form of the struct of %s',
    (_name, op) => {
      const sizes = PROFILES.filter(({ version }) => version >= op.since).map(({ version }) =>
        knownSize(op, version),
      );
      expect(sizes).toEqual(sizes.toSorted((a, b) => a - b));
      expect(op.minSize).toBeGreaterThanOrEqual(8);
      for (const { version } of PROFILES)
        expect(knownSize(op, version)).toBeGreaterThanOrEqual(smallestSize(op, version));
      expect(sizes.at(-1)).toBe(op.layout.size);
    },
  );
});

describe.each(PROFILES)('Linux $name', ({ name, version }) => {
  test('answers ENOTTY for what is younger, and knows what is not', () => {
    const program = new Program(machine(name));
    for (const op of IOCTL_OPS) {
      // An unknown object, or a request for nothing: anything but ENOTTY.
      const rc = ask(program, op, op.layout.size);
      if (op.since > version) expect([op.name, rc]).toEqual([op.name, -ENOTTY]);
      else expect([op.name, rc === -ENOTTY]).toEqual([op.name, false]);
    }
  });
});

describe('the first Linux of a request', () => {
  test.each([
    [606, ['IOMMU_HWPT_ALLOC', 'IOMMU_GET_HW_INFO']],
    [607, ['IOMMU_HWPT_SET_DIRTY_TRACKING', 'IOMMU_HWPT_GET_DIRTY_BITMAP']],
    [608, ['IOMMU_HWPT_INVALIDATE']],
    [611, ['IOMMU_FAULT_QUEUE_ALLOC']],
    [613, ['IOMMU_IOAS_MAP_FILE', 'IOMMU_VIOMMU_ALLOC', 'IOMMU_VDEVICE_ALLOC']],
    [614, ['IOMMU_IOAS_CHANGE_PROCESS']],
    [615, ['IOMMU_VEVENTQ_ALLOC']],
    [617, ['IOMMU_HW_QUEUE_ALLOC']],
    [703, ['IOMMU_IOAS_NOIOMMU_GET_PA']],
  ])('%i has these', (since, names) => {
    expect(IOCTL_OPS.filter((op) => op.since === since).map((op) => op.name)).toEqual(names);
    expect(versionName(since)).toBe(`${Math.floor(since / 100)}.${since % 100}`);
  });

  test('decides which flags of a HWPT there are', () => {
    const refused = (profile: string, flags: number): boolean => {
      const program = new Program(machine(profile));
      const ioas = program.ioas();
      const { out } = program.test(IOMMU_TEST_OP_MOCK_DOMAIN, iommu_test_cmd_mock_domain, { id: ioas });
      return program.tryHwpt({ dev_id: out.out_idev_id, pt_id: ioas, flags }).rc === -EOPNOTSUPP;
    };
    expect(refused('linux-6.6', IOMMU_HWPT_ALLOC_NEST_PARENT)).toBe(true);
    expect(refused('linux-6.6', IOMMU_HWPT_ALLOC_DIRTY_TRACKING)).toBe(true);
    expect(refused('linux-6.12', IOMMU_HWPT_ALLOC_NEST_PARENT)).toBe(false);
    expect(refused('linux-6.12', IOMMU_HWPT_ALLOC_DIRTY_TRACKING)).toBe(false);
    expect(refused('linux-6.12', IOMMU_HWPT_FAULT_ID_VALID)).toBe(true);
    expect(refused('linux-6.13', IOMMU_HWPT_FAULT_ID_VALID)).toBe(false);
    expect(refused('linux-6.13', IOMMU_HWPT_ALLOC_PASID)).toBe(true);
    expect(refused('linux-6.15', IOMMU_HWPT_ALLOC_PASID)).toBe(false);
  });

  test('decides how a length near 2^64 is refused', () => {
    const refused = (profile: string): number => {
      const program = new Program(machine(profile));
      return program.tryMap(program.ioas(), { va: BUFFER, length: 2n ** 64n - PAGE }).rc;
    };
    expect(refused('linux-6.12')).toBe(-EINVAL);
    expect(refused('linux-6.13')).toBe(-EOVERFLOW);
  });

  test('decides what an object is that has no caches to invalidate', () => {
    const refused = (profile: string): number => {
      const program = new Program(machine(profile));
      return program.call(IOMMU_HWPT_INVALIDATE, iommu_hwpt_invalidate, { hwpt_id: program.ioas() }).rc;
    };
    expect(refused('linux-6.12')).toBe(-ENOENT);
    expect(refused('linux-6.13')).toBe(-EINVAL);
  });

  test("decides which flags the mock's devices have", () => {
    const made = (profile: string): number => {
      const program = new Program(machine(profile));
      const values = { id: program.ioas(), dev_flags: MOCK_FLAGS_DEVICE_PASID };
      const op = IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS;
      return program.test(op, iommu_test_cmd_mock_domain_flags, values).rc;
    };
    expect(made('linux-6.13')).toBe(-EINVAL);
    expect(made('linux-6.15')).toBe(0);
    const huge = (profile: string): number => {
      const program = new Program(machine(profile));
      return program.tryMock(program.ioas(), MOCK_FLAGS_DEVICE_HUGE_IOVA).rc;
    };
    expect(huge('linux-6.12')).toBe(0);
    expect(huge('linux-6.17')).toBe(0);
    expect(huge('linux-7.0')).toBe(-EINVAL);
  });

  test('decides how many entries an invalidation may have', () => {
    const refused = (profile: string): number => {
      const program = new Program(machine(profile));
      const ioas = program.ioas();
      const { idev } = program.mock(ioas);
      const parent = program.hwpt(idev, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
      return program.call(IOMMU_HWPT_INVALIDATE, iommu_hwpt_invalidate, {
        hwpt_id: program.nested(idev, parent),
        data_type: IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
        data_uptr: 1n,
        entry_len: 8,
        entry_num: (1 << 19) + 1,
      }).rc;
    };
    const answers = ['linux-6.12', 'linux-6.13', 'linux-7.1', 'linux-7.3'].map(refused);
    expect(answers).toEqual([-EINVAL, -EFAULT, -EFAULT, -EINVAL]);
  });

  test('decides whether a dirty bitmap of nothing is refused', () => {
    const answers = (profile: string): number[] => {
      const program = new Program(machine(profile));
      const ioas = program.ioas();
      const { idev } = program.mock(ioas);
      const values = {
        hwpt_id: program.hwpt(idev, ioas, IOMMU_HWPT_ALLOC_DIRTY_TRACKING),
        page_size: PAGE,
        data: BUFFER,
      };
      return [0n, PAGE].map(
        (iova) =>
          program.call(IOMMU_HWPT_GET_DIRTY_BITMAP, iommu_hwpt_get_dirty_bitmap, { ...values, iova }).rc,
      );
    };
    expect(answers('linux-6.12')).toEqual([-EINVAL, -EINVAL]);
    expect(answers('linux-6.13')).toEqual([0, -EOVERFLOW]);
    expect(answers('linux-7.1')).toEqual([0, -EOVERFLOW]);
    expect(answers('linux-7.3')).toEqual([-EINVAL, -EINVAL]);
  });

  test("decides whether the mock's page tables may be chosen", () => {
    const answers = (profile: string, bytes: number): number[] => {
      const program = new Program(machine(profile));
      const ioas = program.ioas();
      const { idev } = program.mock(ioas);
      const parent = program.hwpt(idev, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
      const data = selftestData(program, bytes);
      return [ioas, parent].map((on) => program.tryHwpt({ ...data, dev_id: idev, pt_id: on }).rc);
    };
    expect(answers('linux-6.17', 4)).toEqual([-EOPNOTSUPP, 0]);
    expect(answers('linux-6.17', 8)).toEqual([-EOPNOTSUPP, -EINVAL]);
    expect(answers('linux-7.0', 4)).toEqual([0, 0]);
    expect(answers('linux-7.0', 8)).toEqual([0, 0]);
  });

  test('decides whether a map is checked before its page table is looked for', () => {
    const refused = (profile: string): number =>
      new Program(machine(profile)).checkMap(0x7fff_ffff, 1n, BUFFER);
    expect(refused('linux-6.17')).toBe(-EINVAL);
    expect(refused('linux-7.0')).toBe(-ENOENT);
  });
});

function selftestData(program: Program, bytes: number) {
  return {
    data_type: IOMMU_HWPT_DATA_SELFTEST,
    data_len: bytes,
    data_uptr: program.put(iommu_hwpt_selftest, {}),
  };
}

describe('a struct', () => {
  test.each(IOCTL_OPS.map((op) => [op.name, op] as const))(
    'of %s may not be shorter than its first form',
    (_name, op) => {
      const program = new Program();
      expect(ask(program, op, op.minSize - 1)).toBe(-EINVAL);
      expect(ask(program, op, 0)).toBe(-EINVAL);
      expect(ask(program, op, 4)).toBe(-EINVAL);
    },
  );

  test.each(IOCTL_OPS.map((op) => [op.name, op] as const))(
    'of %s may be longer where the rest is zero',
    (_name, op) => {
      const exactly = ask(new Program(), op, op.layout.size);
      expect(ask(new Program(), op, op.layout.size + 1)).toBe(exactly);
      expect(ask(new Program(), op, 4096)).toBe(exactly);
      const last = (view: DataView): void => view.setUint8(view.byteLength - 1, 1);
      expect(ask(new Program(), op, op.layout.size + 1, op.layout.size + 1, last)).toBe(-E2BIG);
      expect(ask(new Program(), op, 4096, 4096, last)).toBe(-E2BIG);
    },
  );

  test('that was shorter in an older Linux must have zeroes behind it there', () => {
    for (const [profile, name, bytes] of [
      ['linux-6.6', 'IOMMU_HWPT_ALLOC', 24],
      ['linux-6.6', 'IOMMU_GET_HW_INFO', 32],
      ['linux-6.15', 'IOMMU_VIOMMU_ALLOC', 24],
      ['linux-6.6', 'IOMMU_TEST_CMD', 52],
      ['linux-6.6', 'IOMMU_TEST_CMD', 56],
    ] as const) {
      const op = IOCTL_OPS.find((each) => each.name === name)!;
      const program = new Program(machine(profile));
      const { size } = op.layout;
      expect([name, ask(program, op, bytes)]).not.toEqual([name, -EINVAL]);
      expect([name, ask(program, op, size, size, (view) => view.setUint8(size - 1, 1))]).toEqual([
        name,
        -E2BIG,
      ]);
      const now = new Program();
      expect(ask(now, op, size, size, (view) => view.setUint8(size - 1, 1))).not.toBe(-E2BIG);
    }
  });

  test('must be there: its size first, then all that it says', () => {
    const program = new Program();
    const op = { cmd: IOMMU_DESTROY };
    expect(program.ioctl(IOMMU_DESTROY, 0n)).toBe(-EFAULT);
    expect(program.ioctl(IOMMU_DESTROY, END - 2n)).toBe(-EFAULT);
    expect(ask(program, op, 8, 4)).toBe(-EFAULT);
    expect(ask(program, op, 8)).toBe(-ENOENT);
    expect(ask(program, op, 100, 8)).toBe(-EFAULT);
    expect(ask(program, op, 0xffff_ffff, 8)).toBe(-EFAULT);
  });

  test('may lie across two pages, at any byte', () => {
    const program = new Program();
    const bytes = new Uint8Array(iommu_ioas_alloc.size);
    iommu_ioas_alloc.write(bytes, 0, { size: bytes.length, flags: 0, out_ioas_id: 0 });
    const at = BUFFER + PAGE - 5n;
    program.write(at, bytes);
    expect(program.ioctl(IOMMU_IOAS_ALLOC, at)).toBe(0);
    expect(iommu_ioas_alloc.read(program.read(at, bytes.length)).out_ioas_id).toBe(1);
  });

  test('is answered only as far as the program knows it', () => {
    const program = new Program();
    const layout = iommu_ioas_alloc;
    const bytes = new Uint8Array(64).fill(0xee);
    layout.write(bytes, 0, { size: layout.size, flags: 0, out_ioas_id: 0 });
    program.write(BUFFER, bytes);
    expect(program.ioctl(IOMMU_IOAS_ALLOC, BUFFER)).toBe(0);
    expect(program.read(BUFFER + BigInt(layout.size), 52).every((byte) => byte === 0xee)).toBe(true);
  });

  test('that cannot be written makes no object', () => {
    const program = new Program();
    const { memory } = program.process;
    const bytes = new Uint8Array(iommu_ioas_alloc.size);
    iommu_ioas_alloc.write(bytes, 0, { size: bytes.length, flags: 0, out_ioas_id: 0 });
    readOnly(memory, 0x9000n, bytes);
    expect(program.ioctl(IOMMU_IOAS_ALLOC, 0x9000n)).toBe(-EFAULT);
    expect(program.context.objects.empty).toBe(true);
  });
});

/** Maps a page that starts with these bytes and cannot be written. */
function readOnly(memory: SimulatedMemory, at: bigint, bytes: Uint8Array): void {
  const page = new Uint8Array(4096);
  page.set(bytes);
  const file = {
    key: 'constant',
    pageBytes: 4096,
    memfd: false,
    size: () => PAGE,
    read: (offset: bigint, into: Uint8Array) => {
      into.set(page.subarray(Number(offset), Number(offset) + into.length));
      return true;
    },
    write: () => false,
    retain: () => {},
    release: () => {},
  };
  memory.map(at, PAGE, { writable: false, shared: { file, offset: 0n } });
}

describe('a number', () => {
  test.each([0x00, 0x63, 0x7f, 0x96, 0x9f, 0xa1, 0xff])('%i names no request', (nr) => {
    const program = new Program();
    expect(program.ioctl(IO(IOMMUFD_TYPE, nr), BUFFER)).toBe(-ENOTTY);
  });

  test('names a request only with its type, without direction and size', () => {
    const program = new Program();
    program.write(BUFFER, new Uint8Array(64));
    expect(program.ioctl(IO(0x3c, 0x81), BUFFER)).toBe(-ENOTTY);
    expect(program.ioctl((IOMMU_IOAS_ALLOC | (12 << 16)) >>> 0, BUFFER)).toBe(-ENOTTY);
    expect(program.ioctl((IOMMU_IOAS_ALLOC | (2 << 30)) >>> 0, BUFFER)).toBe(-ENOTTY);
  });
});

describe('the mock', () => {
  test('is not there in a machine without it', () => {
    const program = new Program(machine('linux-7.3', { mock: false }));
    expect(program.call(IOMMU_TEST_CMD, iommu_test_cmd, { op: 1 }).rc).toBe(-ENOTTY);
  });

  test('has operations that are younger than itself', () => {
    const first = (op: number): string =>
      PROFILES.find(
        ({ name }) =>
          new Program(machine(name)).call(IOMMU_TEST_CMD, iommu_test_cmd, { op }).rc !== -EOPNOTSUPP,
      )!.name;
    expect(first(IOMMU_TEST_OP_ADD_RESERVED)).toBe('linux-6.6');
    expect(first(IOMMU_TEST_OP_DIRTY)).toBe('linux-6.12');
    expect(first(IOMMU_TEST_OP_TRIGGER_IOPF)).toBe('linux-6.12');
    expect(first(IOMMU_TEST_OP_DEV_CHECK_CACHE)).toBe('linux-6.13');
    expect(first(IOMMU_TEST_OP_TRIGGER_VEVENT)).toBe('linux-6.15');
    expect(first(IOMMU_TEST_OP_DMABUF_GET)).toBe('linux-7.0');
    expect(new Program().call(IOMMU_TEST_CMD, iommu_test_cmd, { op: 24 }).rc).toBe(-EOPNOTSUPP);
    expect(new Program().call(IOMMU_TEST_CMD, iommu_test_cmd, { op: 0 }).rc).toBe(-EOPNOTSUPP);
  });
});

describe('a request that finds no descriptor', () => {
  test('leaves the struct as it was', () => {
    const program = new Program();
    program.process.filesMax = 1;
    const { rc, out } = program.call(IOMMU_FAULT_QUEUE_ALLOC, iommu_fault_alloc, {
      out_fault_id: 77,
      out_fault_fd: 78,
    });
    expect([rc, out.out_fault_id, out.out_fault_fd]).toEqual([-EMFILE, 77, 78]);
  });
});

describe('a refused request', () => {
  test('may still answer in its struct', () => {
    const program = new Program();
    const ioas = program.ioas();
    const { rc, out } = program.call(IOMMU_IOAS_IOVA_RANGES, iommu_ioas_iova_ranges, { ioas_id: ioas });
    expect([rc, out.num_iovas, out.out_iova_alignment]).toEqual([-EMSGSIZE, 1, 1n]);
  });
});

describe('the trace', () => {
  test('tells every request in the header’s words, with what changed or why it was refused', () => {
    const program = new Program();
    const lines: string[] = [];
    program.kernel.trace.subscribe((event) => {
      if (event.kind === 'ioctl') lines.push(eventText(event));
    });
    program.ioas();
    program.map(1, { iova: 0x10000n });
    program.destroy(9);
    program.test(IOMMU_TEST_OP_ADD_RESERVED, iommu_test_cmd_add_reserved, { id: 1 });
    program.ioctl(IO(IOMMUFD_TYPE, 0x9f), BUFFER);
    program.ioctl(IO(IOMMUFD_TYPE, 0x64), 0n);
    expect(lines).toEqual([
      '100 IOMMU_IOAS_ALLOC flags=0 out_ioas_id=0 = 0 out_ioas_id=1',
      '100 IOMMU_IOAS_MAP flags=7 ioas_id=1 user_va=0x100000000 length=0x1000 iova=0x10000 = 0',
      '100 IOMMU_DESTROY id=9 = -1 ENOENT (there is no object 9)',
      '100 IOMMU_TEST_OP_ADD_RESERVED op=1 id=1 start=0 length=0 last=0 = -1 EINVAL (length is zero)',
      '100 ioctl ;0x9f arg=0x10000 = -1 ENOTTY (there is no request 0x3b9f)',
      '100 VFIO_GET_API_VERSION arg=0 = 0',
    ]);
  });
});
