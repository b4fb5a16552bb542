import { describe, expect, test } from 'vitest';
import { EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_VEVENTQ_FLAG_LOST_EVENTS,
  IOMMU_VEVENTQ_TYPE_DEFAULT,
  iommufd_vevent_header,
} from '../../abi/iommufd.ts';
import {
  IOMMU_TEST_OP_TRIGGER_VEVENT,
  IOMMU_VEVENTQ_TYPE_SELFTEST,
  iommu_test_cmd_trigger_vevent,
  iommu_viommu_event_selftest,
} from '../../abi/iommufd-test.ts';
import { BUFFER, machine, Program } from '../testing/program.ts';

const HEADER = iommufd_vevent_header.size;
const EVENT = HEADER + iommu_viommu_event_selftest.size;
const VIRTUAL_ID = 0x99n;

/** A device that its viommu knows by VIRTUAL_ID, with an event queue of four entries. */
function setUp(profile = 'linux-7.3', depth = 4) {
  const program = new Program(machine(profile));
  const ioas = program.ioas();
  const device = program.mock(ioas);
  const parent = program.hwpt(device.idev, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
  const viommu = program.viommu(device.idev, parent);
  const vdevice = program.vdevice(viommu, device.idev, VIRTUAL_ID);
  program.replace(device.stdev, program.nested(device.idev, viommu));
  const { out } = program.tryVeventq({ viommu_id: viommu, veventq_depth: depth });
  const queue = { id: out.out_veventq_id, fd: out.out_veventq_fd };
  const event = (): number =>
    program.test(IOMMU_TEST_OP_TRIGGER_VEVENT, iommu_test_cmd_trigger_vevent, { dev_id: device.idev }).rc;
  /** What a read answers: each event's sequence number, 'lost' before that of a header alone. */
  const read = (count = 4096): unknown => {
    const rc = program.readEvents(queue.fd, count);
    if (rc < 0) return rc;
    const bytes = program.read(BUFFER, rc);
    const events: (number | string)[] = [];
    for (let at = 0; at < rc;) {
      const { flags, sequence } = iommufd_vevent_header.read(bytes, at);
      const lost = (flags & IOMMU_VEVENTQ_FLAG_LOST_EVENTS) !== 0;
      events.push(lost ? `lost ${sequence}` : sequence);
      at += lost ? HEADER : EVENT;
    }
    return events;
  };
  return { program, ioas, device, viommu, vdevice, queue, event, read };
}

describe('an event', () => {
  test('can be read behind its header, with the device as the guest knows it', () => {
    const { program, queue, event } = setUp();
    expect(program.file(queue.fd).readable).toBe(false);
    expect(event()).toBe(0);
    expect(program.file(queue.fd).readable).toBe(true);
    expect(program.readEvents(queue.fd, 4096)).toBe(EVENT);
    const bytes = program.read(BUFFER, EVENT);
    expect(iommufd_vevent_header.read(bytes)).toEqual({ flags: 0, sequence: 0 });
    expect(iommu_viommu_event_selftest.read(bytes, HEADER)).toEqual({ virt_id: 0x99 });
    expect(program.file(queue.fd).readable).toBe(false);
  });

  test('is counted from 0 on', () => {
    const { event, read } = setUp();
    event();
    event();
    expect(read()).toEqual([0, 1]);
    event();
    expect(read()).toEqual([2]);
  });

  test('that finds no room is lost, which a header at the end tells', () => {
    const { event, read } = setUp();
    for (let i = 0; i < 7; i++) event();
    expect(read()).toEqual([0, 1, 2, 3, 'lost 6']);
    event();
    expect(read()).toEqual([7]);
  });

  test('takes the place of the header that told of lost ones', () => {
    const { event, read } = setUp();
    for (let i = 0; i < 5; i++) event();
    expect(read(2 * EVENT)).toEqual([0, 1]);
    event();
    expect(read()).toEqual([2, 3, 5]);
  });

  test('for which there is no memory is lost', () => {
    const { program, event, read } = setUp();
    event();
    // The look-up of the device is a point too.
    program.task.failNth.remaining = 2;
    expect(event()).toBe(-ENOMEM);
    expect(read()).toEqual([0, 'lost 1']);
  });

  test('names the device as it was called when it joined the viommu', () => {
    const { program, device, viommu, vdevice, queue, event } = setUp();
    expect(program.destroy(vdevice)).toBe(0);
    program.vdevice(viommu, device.idev, 0x55n);
    program.replace(device.stdev, program.nested(device.idev, viommu));
    event();
    program.readEvents(queue.fd, EVENT);
    expect(iommu_viommu_event_selftest.read(program.read(BUFFER, EVENT), HEADER).virt_id).toBe(0x99);
  });

  test('has no queue to go to: EOPNOTSUPP', () => {
    const { program, queue, event } = setUp();
    program.process.close(queue.fd);
    expect(program.destroy(queue.id)).toBe(0);
    expect(event()).toBe(-EOPNOTSUPP);
  });

  test('needs a device that is on the viommu', () => {
    const { program, ioas, device, event } = setUp();
    program.replace(device.stdev, ioas);
    expect(event()).toBe(-ENOENT);
  });
});

describe('a read', () => {
  test('takes whole events, as many as there is room for', () => {
    const { event, read } = setUp();
    for (let i = 0; i < 3; i++) event();
    expect(read(2 * EVENT + HEADER)).toEqual([0, 1]);
    expect(read()).toEqual([2]);
    expect(read()).toEqual([]);
  });

  test('of less than an event is EINVAL, and was nothing before Linux 7.2', () => {
    for (const [profile, rc] of [
      ['linux-7.3', -EINVAL],
      ['linux-7.1', 0],
    ] as const) {
      const { program, queue, event } = setUp(profile);
      expect(program.readEvents(queue.fd, HEADER - 1)).toBe(rc);
      event();
      expect(program.readEvents(queue.fd, EVENT - 1)).toBe(rc);
      expect(program.readEvents(queue.fd, EVENT)).toBe(EVENT);
    }
  });

  test('to where nothing can be written is EFAULT, and the event can be read again', () => {
    const { program, queue, event, read } = setUp();
    event();
    expect(program.file(queue.fd).read!(program.task, 0xdead_0000n, EVENT)).toBe(-EFAULT);
    expect(read()).toEqual([0]);
  });

  test('is all that can be done: a write is EINVAL', () => {
    const { program, queue } = setUp();
    expect(program.writeEvents(queue.fd, BUFFER, 8)).toBe(-EINVAL);
  });
});

describe('an event queue', () => {
  test('is one of its type on its viommu', () => {
    const { program, viommu } = setUp();
    expect(program.tryVeventq({ viommu_id: viommu }).rc).toBe(-EEXIST);
    expect(program.tryVeventq({ viommu_id: viommu, type: IOMMU_VEVENTQ_TYPE_SELFTEST + 1 }).rc).toBe(0);
  });

  test('has a depth, bounded since Linux 7.2', () => {
    const { program, viommu } = setUp();
    const type = IOMMU_VEVENTQ_TYPE_SELFTEST + 1;
    expect(program.tryVeventq({ viommu_id: viommu, type, veventq_depth: 0 }).rc).toBe(-EINVAL);
    expect(program.tryVeventq({ viommu_id: viommu, type, veventq_depth: (1 << 19) + 1 }).rc).toBe(-EINVAL);
    expect(program.tryVeventq({ viommu_id: viommu, type, veventq_depth: 1 << 19 }).rc).toBe(0);
    const older = setUp('linux-7.1');
    const values = { viommu_id: older.viommu, type, veventq_depth: 0xffff_ffff };
    expect(older.program.tryVeventq(values).rc).toBe(0);
  });

  test('takes neither flags nor the type of none', () => {
    const { program, viommu } = setUp();
    expect(program.tryVeventq({ viommu_id: viommu, flags: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.tryVeventq({ viommu_id: viommu, __reserved: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.tryVeventq({ viommu_id: viommu, type: IOMMU_VEVENTQ_TYPE_DEFAULT }).rc).toBe(-EOPNOTSUPP);
    expect(program.tryVeventq({ viommu_id: 99 }).rc).toBe(-ENOENT);
  });

  test('cannot be destroyed while it is open, and keeps its viommu', () => {
    const { program, viommu, queue } = setUp();
    expect(program.destroy(queue.id)).toBe(-EBUSY);
    expect(program.destroy(viommu)).toBe(-EBUSY);
    program.process.close(queue.fd);
    expect(program.destroy(queue.id)).toBe(0);
  });
});
