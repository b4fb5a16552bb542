import { describe, expect, test } from 'vitest';
import { EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EPERM } from '../../abi/errno.ts';
import {
  IOMMU_IOAS_CHANGE_PROCESS,
  IOMMU_IOAS_UNMAP,
  IOMMU_OPTION,
  IOMMU_OPTION_HUGE_PAGES,
  IOMMU_OPTION_OP_GET,
  IOMMU_OPTION_OP_SET,
  IOMMU_OPTION_RLIMIT_MODE,
  iommu_ioas_change_process,
  iommu_ioas_unmap,
  iommu_option,
} from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import { CAP_IPC_LOCK, CAP_SYS_RESOURCE, type Process } from '../../memory/process.ts';
import { SimulatedMemfd } from '../../memory/simulated-process.ts';
import { APERTURE, BUFFER, PAGE, Program } from '../testing/program.ts';

const RLIMIT = { option_id: IOMMU_OPTION_RLIMIT_MODE };
const HUGE = { option_id: IOMMU_OPTION_HUGE_PAGES };
const [SET, GET] = [{ op: IOMMU_OPTION_OP_SET }, { op: IOMMU_OPTION_OP_GET }];

describe('the accounting mode', () => {
  test('is by user, and can be by process', () => {
    const program = new Program();
    expect(program.option({ ...RLIMIT, ...GET, val64: 9n }).out.val64).toBe(0n);
    expect(program.option({ ...RLIMIT, ...SET, val64: 1n }).rc).toBe(0);
    expect(program.option({ ...RLIMIT, ...GET }).out.val64).toBe(1n);
    expect(program.option({ ...RLIMIT, ...SET, val64: 0n }).rc).toBe(0);
    expect(program.option({ ...RLIMIT, ...GET }).out.val64).toBe(0n);
  });

  test('cannot be changed once there is an object', () => {
    const program = new Program();
    const ioas = program.ioas();
    expect(program.option({ ...RLIMIT, ...SET, val64: 1n }).rc).toBe(-EBUSY);
    program.destroy(ioas);
    expect(program.option({ ...RLIMIT, ...SET, val64: 1n }).rc).toBe(0);
  });

  test('is changed with CAP_SYS_RESOURCE only', () => {
    const program = new Program();
    program.process.capabilities.delete(CAP_SYS_RESOURCE);
    expect(program.option({ ...RLIMIT, ...SET, val64: 1n }).rc).toBe(-EPERM);
    expect(program.option({ ...RLIMIT, ...GET }).rc).toBe(0);
  });

  test('is 0 or 1, of no object', () => {
    const program = new Program();
    expect(program.option({ ...RLIMIT, ...SET, val64: 2n }).rc).toBe(-EINVAL);
    expect(program.option({ ...RLIMIT, ...SET, object_id: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.option({ ...RLIMIT, op: 2 }).rc).toBe(-EOPNOTSUPP);
  });
});

describe('huge pages', () => {
  test('are on for an IOAS until they are off', () => {
    const program = new Program();
    const ioas = program.ioas();
    const of = { ...HUGE, object_id: ioas };
    expect(program.option({ ...of, ...GET }).out.val64).toBe(1n);
    expect(program.option({ ...of, ...SET, val64: 0n }).rc).toBe(0);
    expect(program.option({ ...of, ...GET }).out.val64).toBe(0n);
    expect(program.option({ ...of, ...SET, val64: 2n }).rc).toBe(-EINVAL);
    expect(program.option({ ...of, op: 2 }).rc).toBe(-EOPNOTSUPP);
    expect(program.option({ ...HUGE, ...GET, object_id: 99 }).rc).toBe(-ENOENT);
  });
});

describe('an option', () => {
  test('is one of two, with nothing in __reserved', () => {
    const program = new Program();
    expect(program.option({ option_id: 2 }).rc).toBe(-EOPNOTSUPP);
    expect(program.option({ ...RLIMIT, ...GET, __reserved: 1 }).rc).toBe(-EOPNOTSUPP);
  });

  test('is answered in val64 alone', () => {
    const program = new Program();
    const { memory } = program.process;
    memory.map(0x9000n, PAGE, { writable: false });
    memory.map(0xa000n, PAGE);
    const bytes = new Uint8Array(iommu_option.size);
    iommu_option.write(bytes, 0, { ...iommu_option.create(), size: bytes.length, ...RLIMIT, ...GET });
    // The struct crosses into the writable page with its last field.
    memory.map(0x9000n, PAGE);
    memory.write(0x9ff0n, bytes.subarray(0, 16));
    memory.write(0xa000n, bytes.subarray(16));
    const at = 0x9ff0n;
    expect(program.ioctl(IOMMU_OPTION, at)).toBe(0);
    memory.map(0x9000n, PAGE, { writable: false });
    expect(program.ioctl(IOMMU_OPTION, at)).toBe(-EINVAL);
  });

  test('that cannot be answered is EFAULT', () => {
    const program = new Program();
    const file = new SimulatedMemfd(0x1000n);
    const bytes = new Uint8Array(iommu_option.size);
    iommu_option.write(bytes, 0, { ...iommu_option.create(), size: bytes.length, ...RLIMIT, ...GET });
    file.write(0n, bytes);
    program.process.memory.map(0x9000n, PAGE, { writable: false, shared: { file, offset: 0n } });
    expect(program.ioctl(IOMMU_OPTION, 0x9000n)).toBe(-EFAULT);
  });
});

/** Two programs with one iommufd, of which the first has mapped a file's pages. */
class Handover {
  readonly kernel = new Kernel();
  readonly first = new Program(this.kernel, 100);
  readonly second = new Program(this.kernel, 101);
  readonly ioas: number;

  constructor(mode: 'user' | 'mm' | 'none', uids: readonly [number, number] = [1000, 1001], pages = 4n) {
    for (const [index, program] of [this.first, this.second].entries()) {
      program.process.uid = uids[index]!;
      if (mode !== 'none') program.process.capabilities.delete(CAP_IPC_LOCK);
    }
    if (mode === 'mm') this.first.option({ ...RLIMIT, ...SET, val64: 1n });
    this.ioas = this.first.ioas();
    this.first.mock(this.ioas);
    const fd = this.first.descriptor(new SimulatedMemfd(0x10_0000n));
    this.first.tryMapFile(this.ioas, fd, { iova: APERTURE, length: pages * PAGE });
  }

  /** What the second program is answered when it takes over. */
  change(values: { __reserved?: number } = {}): number {
    const fd = this.second.descriptor(this.first.file(this.first.fd));
    return this.second.call(IOMMU_IOAS_CHANGE_PROCESS, iommu_ioas_change_process, values, fd).rc;
  }

  unmapBySecond(): void {
    const fd = this.second.descriptor(this.first.file(this.first.fd));
    const all = { ioas_id: this.ioas, iova: APERTURE, length: 4n * PAGE };
    expect(this.second.call(IOMMU_IOAS_UNMAP, iommu_ioas_unmap, all, fd).rc).toBe(0);
  }

  /** Pages charged to each user, locked in each address space, and pinned for each. */
  get charges(): { users: number[]; locked: number[]; pinned: number[] } {
    const processes = [this.first.process, this.second.process];
    return {
      users: processes.map(({ uid }) => this.kernel.locked.of(uid)),
      locked: processes.map(({ memory }) => memory.lockedPages),
      pinned: processes.map(({ memory }) => memory.pinnedPages),
    };
  }
}

describe('a change of process', () => {
  test('makes the new one pay, by user', () => {
    const handover = new Handover('user');
    expect(handover.charges).toEqual({ users: [4, 0], locked: [0, 0], pinned: [4, 0] });
    expect(handover.change()).toBe(0);
    expect(handover.charges).toEqual({ users: [0, 4], locked: [0, 0], pinned: [0, 4] });
  });

  test('makes the new one pay, by address space', () => {
    const handover = new Handover('mm');
    expect(handover.charges).toEqual({ users: [0, 0], locked: [4, 0], pinned: [4, 0] });
    expect(handover.change()).toBe(0);
    expect(handover.charges).toEqual({ users: [0, 0], locked: [0, 4], pinned: [0, 4] });
  });

  test('of the same user moves what is pinned', () => {
    const handover = new Handover('user', [1000, 1000]);
    expect(handover.change()).toBe(0);
    expect(handover.charges).toEqual({ users: [4, 4], locked: [0, 0], pinned: [0, 4] });
  });

  test('of the same user counts the pages twice while it lasts', () => {
    const handover = new Handover('user', [1000, 1000]);
    handover.second.process.memlockLimitPages = 7;
    expect(handover.change()).toBe(-ENOMEM);
    handover.second.process.memlockLimitPages = 8;
    expect(handover.change()).toBe(0);
  });

  test('that the new one cannot pay changes nothing', () => {
    for (const mode of ['user', 'mm'] as const) {
      const handover = new Handover(mode);
      const before = handover.charges;
      handover.second.process.memlockLimitPages = 3;
      expect(handover.change()).toBe(-ENOMEM);
      expect(handover.charges).toEqual(before);
    }
  });

  test('by a program that has another user now makes that user pay', () => {
    const { first, kernel } = new Handover('user');
    const { process } = first;
    const later: Process = {
      pid: process.pid,
      uid: 1001,
      memory: process.memory,
      capable: () => false,
      memlockPages: () => 4,
      eventfd: (fd) => process.eventfd(fd),
      file: (fd) => process.file(fd),
      install: (file) => process.install(file),
    };
    first.write(BUFFER, new Uint8Array([iommu_ioas_change_process.size, 0, 0, 0, 0, 0, 0, 0]));
    expect(first.context.ioctl({ tid: 100, process: later }, IOMMU_IOAS_CHANGE_PROCESS, BUFFER)).toBe(0);
    expect([kernel.locked.of(1000), kernel.locked.of(1001), process.memory.pinnedPages]).toEqual([0, 4, 4]);
  });

  test('by who has the pages already does nothing', () => {
    const handover = new Handover('user');
    const { first } = handover;
    first.process.memlockLimitPages = 0;
    expect(first.call(IOMMU_IOAS_CHANGE_PROCESS, iommu_ioas_change_process, {}).rc).toBe(0);
    expect(handover.charges.users).toEqual([4, 0]);
  });

  test('gives back what is unmapped later to the new one', () => {
    for (const mode of ['user', 'mm'] as const) {
      const handover = new Handover(mode);
      handover.change();
      handover.first.unmap(handover.ioas, APERTURE, 4n * PAGE);
      expect(handover.charges).toEqual({ users: [0, 0], locked: [0, 0], pinned: [0, 0] });
    }
  });

  test('counts pages once that several mappings show', () => {
    const handover = new Handover('user');
    handover.first.copy(handover.ioas, APERTURE, handover.ioas, APERTURE + 0x10_0000n);
    handover.second.process.memlockLimitPages = 4;
    expect(handover.change()).toBe(0);
    expect(handover.charges.users).toEqual([0, 4]);
  });

  test('lets the old one exit', () => {
    const handover = new Handover('mm');
    handover.change();
    handover.first.process.memory.alive = false;
    expect(handover.charges.locked).toEqual([0, 4]);
    handover.unmapBySecond();
    expect(handover.charges.locked).toEqual([0, 0]);
  });

  test('after the old one has gone is EINVAL by address space, and makes the new one pay all the same', () => {
    for (const [mode, rc] of [
      ['mm', -EINVAL],
      ['user', 0],
    ] as const) {
      const handover = new Handover(mode);
      handover.first.process.memory.alive = false;
      expect([mode, handover.change()]).toEqual([mode, rc]);
      const { users, locked } = handover.charges;
      expect(mode === 'mm' ? locked[1] : users[1]).toBe(4);
      handover.unmapBySecond();
      expect(handover.charges.locked[1]).toBe(0);
      expect(handover.charges.users[1]).toBe(0);
    }
  });

  test('does not move what nobody pays for, as in Linux: VmPin of the new one goes below zero', () => {
    const handover = new Handover('none');
    expect(handover.change()).toBe(0);
    expect(handover.charges.pinned).toEqual([4, 0]);
    handover.unmapBySecond();
    expect(handover.charges.pinned).toEqual([4, -4]);
  });

  test('is impossible where memory is mapped by its address', () => {
    const handover = new Handover('user');
    handover.first.map(handover.ioas, { iova: APERTURE + 0x10_0000n });
    const before = handover.charges;
    expect(handover.change()).toBe(-EINVAL);
    expect(handover.charges).toEqual(before);
  });

  test('needs nothing where nothing is mapped, and takes no flags', () => {
    const program = new Program();
    program.ioas();
    const change = (values: { __reserved?: number }): number =>
      program.call(IOMMU_IOAS_CHANGE_PROCESS, iommu_ioas_change_process, values).rc;
    expect(change({})).toBe(0);
    expect(change({ __reserved: 1 })).toBe(-EOPNOTSUPP);
  });
});
