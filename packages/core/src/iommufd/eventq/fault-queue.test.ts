import { describe, expect, test } from 'vitest';
import { EBUSY, EFAULT, EINVAL, EMFILE, ENOTTY, EOPNOTSUPP, ESPIPE } from '../../abi/errno.ts';
import {
  IOMMU_FAULT_QUEUE_ALLOC,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HWPT_FAULT_ID_VALID,
  IOMMU_PGFAULT_FLAGS_LAST_PAGE,
  IOMMU_PGFAULT_FLAGS_PASID_VALID,
  IOMMUFD_PAGE_RESP_INVALID,
  IOMMUFD_PAGE_RESP_SUCCESS,
  iommu_fault_alloc,
  iommu_hwpt_page_response,
  iommu_hwpt_pgfault,
} from '../../abi/iommufd.ts';
import { MOCK_FLAGS_DEVICE_PASID } from '../../abi/iommufd-test.ts';
import { DEFAULT_PROFILE } from '../profile.ts';
import { BUFFER, machine, Program } from '../testing/program.ts';

const RECORD = iommu_hwpt_pgfault.size;

/** A device on a HWPT with a fault queue. */
function setUp(devFlags = 0, profile = DEFAULT_PROFILE) {
  const program = new Program(machine(profile));
  const ioas = program.ioas();
  const device = program.mock(ioas, devFlags);
  const queue = program.faultQueue();
  const flags = IOMMU_HWPT_FAULT_ID_VALID | (devFlags === 0 ? 0 : IOMMU_HWPT_ALLOC_PASID);
  const hwpt = program.tryHwpt({ dev_id: device.idev, pt_id: ioas, flags, fault_id: queue.id }).out
    .out_hwpt_id;
  program.replace(device.stdev, hwpt);
  const responses: number[] = [];
  program.kernel.mock.pageResponse = (_device?: unknown, _group?: unknown, code?: number) =>
    void responses.push(code!);
  const read = (
    count = 16,
  ): (typeof iommu_hwpt_pgfault extends { create(): infer V } ? V : never)[] | number => {
    const rc = program.readEvents(queue.fd, count * RECORD);
    if (rc < 0) return rc;
    const bytes = program.read(BUFFER, rc);
    return Array.from({ length: rc / RECORD }, (_, i) => iommu_hwpt_pgfault.read(bytes, i * RECORD));
  };
  const answer = (...cookies: readonly number[]): number => {
    const entries = cookies.map((cookie) => ({ cookie, code: IOMMUFD_PAGE_RESP_SUCCESS }));
    return program.writeEvents(
      queue.fd,
      program.put(iommu_hwpt_page_response, ...entries),
      cookies.length * 8,
    );
  };
  const cookies = (): unknown => {
    const faults = read();
    return typeof faults === 'number' ? faults : faults.map((each) => each.cookie);
  };
  return { program, ioas, device, queue, hwpt, responses, read, answer, cookies };
}

/** The same, with a nested HWPT. */
function nestedAt(profile: string) {
  const program = new Program(machine(profile));
  const ioas = program.ioas();
  const device = program.mock(ioas);
  const queue = program.faultQueue();
  const parent = program.hwpt(device.idev, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
  const nested = program.nested(device.idev, parent, IOMMU_HWPT_FAULT_ID_VALID, queue.id);
  program.replace(device.stdev, nested);
  return { program, device, queue };
}

describe('a fault', () => {
  test('can be read, with the device’s id and a cookie', () => {
    const { program, device, queue, read } = setUp();
    expect(program.file(queue.fd).readable).toBe(false);
    program.fault(device.idev, { grpid: 7, perm: 3, addr: 0x1234_5000n });
    expect(program.file(queue.fd).readable).toBe(true);
    expect(read()).toEqual([
      {
        flags: IOMMU_PGFAULT_FLAGS_LAST_PAGE,
        dev_id: device.idev,
        pasid: 0,
        grpid: 7,
        perm: 3,
        __reserved: 0,
        addr: 0x1234_5000n,
        length: 0,
        cookie: 1,
      },
    ]);
    expect(program.file(queue.fd).readable).toBe(false);
  });

  test('with a PASID says so', () => {
    const { program, ioas, device, queue, read } = setUp(MOCK_FLAGS_DEVICE_PASID);
    const flags = IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID;
    const hwpt = program.tryHwpt({ dev_id: device.idev, pt_id: ioas, flags, fault_id: queue.id });
    program.pasidAttach(device.stdev, 5, hwpt.out.out_hwpt_id);
    program.fault(device.idev, { pasid: 5 });
    expect(read()).toMatchObject([
      { flags: IOMMU_PGFAULT_FLAGS_LAST_PAGE | IOMMU_PGFAULT_FLAGS_PASID_VALID, pasid: 5 },
    ]);
  });

  test('is answered once', () => {
    const { program, device, responses, answer, cookies } = setUp();
    program.fault(device.idev);
    expect(cookies()).toEqual([1]);
    expect(answer(1)).toBe(8);
    expect(responses).toEqual([IOMMUFD_PAGE_RESP_SUCCESS]);
    expect(answer(1)).toBe(-EINVAL);
    expect(responses.length).toBe(1);
  });

  test('has the lowest free cookie from 1 on', () => {
    const { program, device, answer, cookies } = setUp();
    for (let i = 0; i < 3; i++) program.fault(device.idev, { grpid: i });
    expect(cookies()).toEqual([1, 2, 3]);
    answer(2);
    program.fault(device.idev);
    program.fault(device.idev);
    expect(cookies()).toEqual([2, 4]);
  });
});

describe('a read', () => {
  test('takes whole records, as many as there is room for', () => {
    const { program, device, read } = setUp();
    for (let i = 0; i < 3; i++) program.fault(device.idev, { grpid: i });
    expect(read(2)).toMatchObject([{ grpid: 0 }, { grpid: 1 }]);
    expect(read(2)).toMatchObject([{ grpid: 2 }]);
    expect(read(2)).toEqual([]);
  });

  test('of a count that is no multiple of a record is ESPIPE, of none is nothing or EINVAL', () => {
    const { program, device, queue } = setUp();
    expect(program.readEvents(queue.fd, RECORD - 1)).toBe(-ESPIPE);
    expect(program.readEvents(queue.fd, 0)).toBe(0);
    program.fault(device.idev);
    expect(program.readEvents(queue.fd, RECORD + 8)).toBe(-ESPIPE);
    expect(program.readEvents(queue.fd, 0)).toBe(-EINVAL);
  });

  test('of no record was nothing before Linux 7.2, but for what 6.12 took over', () => {
    const answers = ['linux-7.3', 'linux-7.1', 'linux-6.13', 'linux-6.12'].map((profile) => {
      // Paging HWPTs take a fault queue since 6.13, nested ones before.
      const { program, device, queue } = profile === 'linux-6.12' ? nestedAt(profile) : setUp(0, profile);
      program.fault(device.idev);
      return program.readEvents(queue.fd, 0);
    });
    expect(answers).toEqual([-EINVAL, 0, 0, -EINVAL]);
  });

  test('to where nothing can be written is EFAULT, and the fault can be read again', () => {
    const { program, device, queue, cookies } = setUp();
    program.fault(device.idev);
    expect(program.file(queue.fd).read!(program.task, 0xdead_0000n, RECORD)).toBe(-EFAULT);
    expect(cookies()).toEqual([1]);
  });
});

describe('an answer', () => {
  test('may be one of several', () => {
    const { program, device, responses, answer, cookies } = setUp();
    for (let i = 0; i < 3; i++) program.fault(device.idev);
    cookies();
    expect(answer(3, 1)).toBe(16);
    expect(answer(2, 9, 2)).toBe(8);
    expect(responses).toEqual([0, 0, 0]);
  });

  test('is a success or invalid, and nothing else', () => {
    const { program, device, queue, responses, cookies } = setUp();
    program.fault(device.idev);
    cookies();
    const write = (code: number): number =>
      program.writeEvents(queue.fd, program.put(iommu_hwpt_page_response, { cookie: 1, code }), 8);
    expect(write(2)).toBe(-EINVAL);
    expect(write(IOMMUFD_PAGE_RESP_INVALID)).toBe(8);
    expect(responses).toEqual([IOMMUFD_PAGE_RESP_INVALID]);
  });

  test('cannot be cut, nor be where nothing can be read', () => {
    const { program, queue } = setUp();
    expect(program.writeEvents(queue.fd, BUFFER, 4)).toBe(-ESPIPE);
    expect(program.writeEvents(queue.fd, BUFFER, 0)).toBe(0);
    expect(program.writeEvents(queue.fd, 0xdead_0000n, 8)).toBe(-EFAULT);
  });

  test('that cannot be read was taken for written before Linux 7.1, but for what 6.12 took over', () => {
    const answers = ['linux-7.1', 'linux-7.0', 'linux-6.12'].map((profile) => {
      const program = new Program(machine(profile));
      return program.writeEvents(program.faultQueue().fd, 0xdead_0000n, 16);
    });
    expect(answers).toEqual([-EFAULT, 8, -EFAULT]);
  });
});

describe('what is under way when the domain is taken from the device', () => {
  test('is answered as invalid, read or not', () => {
    const { program, ioas, device, responses, answer, cookies } = setUp();
    program.fault(device.idev);
    cookies();
    program.fault(device.idev);
    program.replace(device.stdev, ioas);
    expect(responses).toEqual([IOMMUFD_PAGE_RESP_INVALID, IOMMUFD_PAGE_RESP_INVALID]);
    expect([answer(1), cookies()]).toEqual([-EINVAL, []]);
  });

  test('of another device stays, read or not', () => {
    const { program, ioas, device, hwpt, responses, answer, cookies } = setUp();
    const other = program.mock(hwpt);
    program.fault(other.idev);
    expect(cookies()).toEqual([1]);
    program.fault(device.idev);
    program.fault(other.idev);
    program.replace(device.stdev, ioas);
    expect(responses).toEqual([IOMMUFD_PAGE_RESP_INVALID]);
    expect([cookies(), answer(1, 2)]).toEqual([[2], 16]);
  });
});

describe('a fault queue', () => {
  test('cannot be destroyed while it is open or used', () => {
    const { program, ioas, device, queue, hwpt } = setUp();
    expect(program.destroy(queue.id)).toBe(-EBUSY);
    program.process.close(queue.fd);
    expect(program.destroy(queue.id)).toBe(-EBUSY);
    program.replace(device.stdev, ioas);
    expect(program.destroy(hwpt)).toBe(0);
    expect(program.destroy(queue.id)).toBe(0);
  });

  test('may be closed after the iommufd', () => {
    const { program, device, queue, cookies } = setUp();
    program.fault(device.idev);
    program.process.close(program.fd);
    expect(cookies()).toEqual([1]);
    expect(program.process.close(queue.fd)).toBe(true);
    expect(program.kernel.physical.frames.pinned).toBe(0);
  });

  test('answers no ioctl', () => {
    const { program, queue } = setUp();
    expect(program.ioctl(IOMMU_FAULT_QUEUE_ALLOC, BUFFER, queue.fd)).toBe(-ENOTTY);
  });

  test('takes no flags, and needs a descriptor', () => {
    const { program } = setUp();
    const alloc = (values: { flags?: number }): number =>
      program.call(IOMMU_FAULT_QUEUE_ALLOC, iommu_fault_alloc, values).rc;
    expect(alloc({ flags: 1 })).toBe(-EOPNOTSUPP);
    const before = program.context.objects.size;
    program.process.filesMax = 2;
    expect(alloc({})).toBe(-EMFILE);
    expect(program.context.objects.size).toBe(before);
    program.process.filesMax = 1024;
    expect(alloc({})).toBe(0);
  });

  test('does not go with a nest parent', () => {
    const { program, ioas, device, queue } = setUp();
    const flags = IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_NEST_PARENT;
    const values = { dev_id: device.idev, pt_id: ioas, fault_id: queue.id };
    expect(program.tryHwpt({ ...values, flags }).rc).toBe(-EOPNOTSUPP);
  });
});
