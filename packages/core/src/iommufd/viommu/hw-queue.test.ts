import { describe, expect, test } from 'vitest';
import {
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  EIO,
  ENOENT,
  ENOMEM,
  EOPNOTSUPP,
  EOVERFLOW,
  ERANGE,
} from '../../abi/errno.ts';
import { IOMMU_HWPT_ALLOC_NEST_PARENT, IOMMU_HW_QUEUE_TYPE_DEFAULT } from '../../abi/iommufd.ts';
import { failEverywhere } from '../../iommu/testing/fail-nth.ts';
import { SimulatedMemfd } from '../../memory/simulated-process.ts';
import { APERTURE, PAGE, Program } from '../testing/program.ts';

const LENGTH = 2n * PAGE;
/** Where private memory is mapped, whose pages are no neighbours. */
const SCATTERED = APERTURE + 0x10_0000n;

/** A viommu over four neighbouring pages of memory at the aperture's start. */
function setUp() {
  const program = new Program();
  const ioas = program.ioas();
  const device = program.mock(ioas);
  const parent = program.hwpt(device.idev, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
  const viommu = program.viommu(device.idev, parent);
  program.tryMapFile(ioas, program.descriptor(new SimulatedMemfd(0x4000n)), {
    iova: APERTURE,
    length: 4n * PAGE,
  });
  program.map(ioas, { iova: SCATTERED, length: LENGTH });
  const queue = (
    index: number,
    values: { iova?: bigint; length?: bigint } = {},
  ): { rc: number; id: number } => {
    const { iova = APERTURE, length = LENGTH } = values;
    const { rc, out } = program.tryHwQueue({ viommu_id: viommu, index, nesting_parent_iova: iova, length });
    return { rc, id: out.out_hw_queue_id };
  };
  return { program, ioas, device, viommu, queue };
}

describe('a hardware queue', () => {
  test('keeps its pages mapped, and its viommu', () => {
    const { program, ioas, viommu, queue } = setUp();
    const { rc, id } = queue(0);
    expect(rc).toBe(0);
    expect(program.unmap(ioas, APERTURE, 4n * PAGE).rc).toBe(-EBUSY);
    expect(program.unmap(ioas, SCATTERED, LENGTH).rc).toBe(0);
    expect(program.destroy(viommu)).toBe(-EBUSY);
    expect(program.destroy(id)).toBe(0);
    expect(program.unmap(ioas, APERTURE, 4n * PAGE).rc).toBe(0);
    expect(program.destroy(viommu)).toBe(0);
  });

  test('lies in neighbouring pages', () => {
    const { queue } = setUp();
    expect(queue(0, { iova: SCATTERED }).rc).toBe(-EFAULT);
    expect(queue(0, { iova: SCATTERED, length: PAGE }).rc).toBe(0);
  });

  test('may start and end within a page', () => {
    const { program, ioas, queue } = setUp();
    const [first, second] = [
      queue(0, { iova: APERTURE + 0x100n, length: 0x20n }),
      queue(1, { iova: APERTURE + 0xff0n, length: 0x20n }),
    ];
    expect([first.rc, second.rc]).toEqual([0, 0]);
    expect(program.unmap(ioas, APERTURE, 4n * PAGE).rc).toBe(-EBUSY);
    for (const { id } of [second, first]) expect(program.destroy(id)).toBe(0);
    expect(program.unmap(ioas, APERTURE, 4n * PAGE).rc).toBe(0);
  });

  test('lies in what is mapped', () => {
    const { queue } = setUp();
    expect(queue(0, { iova: APERTURE + 3n * PAGE }).rc).toBe(-ENOENT);
    expect(queue(0, { iova: 0x1000n }).rc).toBe(-ENOENT);
  });

  test('has a length that memory has', () => {
    const { queue } = setUp();
    expect(queue(0, { length: 0n }).rc).toBe(-EINVAL);
    expect(queue(0, { length: 2n ** 64n - 1n }).rc).toBe(-EOVERFLOW);
    expect(queue(0, { iova: 0n, length: 2n ** 64n - 1n }).rc).toBe(-ERANGE);
    expect(queue(0, { iova: 0n, length: 2n ** 60n }).rc).toBe(-ENOMEM);
  });

  test('is one of its index, and comes after the one before', () => {
    const { program, queue } = setUp();
    expect(queue(1).rc).toBe(-EIO);
    const first = queue(0);
    expect(queue(0).rc).toBe(-EEXIST);
    const second = queue(1);
    expect(second.rc).toBe(0);
    expect(queue(2).rc).toBe(-EINVAL);
    expect(program.destroy(first.id)).toBe(-EBUSY);
    program.destroy(second.id);
    expect(program.destroy(first.id)).toBe(0);
  });

  test('of index 1 leaves the mock its index when it goes, and takes index 0 with it', () => {
    const { program, queue } = setUp();
    const first = queue(0);
    program.destroy(queue(1).id);
    expect(queue(1).rc).toBe(-EEXIST);
    expect(queue(0).rc).toBe(0);
    expect(queue(0).rc).toBe(-EEXIST);
    program.destroy(first.id);
    expect(queue(0).rc).toBe(0);
  });

  test('of index 1 that fails at any point leaves index 1 free, and queue 0 where it is', () => {
    const { program, queue } = setUp();
    queue(0);
    const before = program.context.objects.size;
    const points = failEverywhere(
      program,
      () => queue(1).rc,
      () => {
        expect(program.context.objects.size).toBe(before);
        expect(queue(0).rc).toBe(-EEXIST);
      },
    );
    expect(points).toBeGreaterThan(3);
  });

  test('is of a type that the viommu offers, without flags', () => {
    const { program, viommu } = setUp();
    const values = { viommu_id: viommu, nesting_parent_iova: APERTURE, length: LENGTH };
    expect(program.tryHwQueue({ ...values, type: IOMMU_HW_QUEUE_TYPE_DEFAULT }).rc).toBe(-EOPNOTSUPP);
    expect(program.tryHwQueue({ ...values, type: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.tryHwQueue({ ...values, flags: 1 }).rc).toBe(-EOPNOTSUPP);
    expect(program.tryHwQueue({ ...values, viommu_id: 1 }).rc).toBe(-ENOENT);
  });

  test('that is refused leaves neither pins nor ids', () => {
    const { program, ioas, queue } = setUp();
    const before = program.context.objects.size;
    const { pinned } = program.kernel.physical.frames;
    for (const each of [queue(0, { iova: SCATTERED }), queue(1), queue(2)]) expect(each.rc).toBeLessThan(0);
    expect(program.context.objects.size).toBe(before);
    expect(program.kernel.physical.frames.pinned).toBe(pinned);
    expect(program.unmap(ioas, APERTURE, 4n * PAGE).rc).toBe(0);
  });

  test('goes with the file', () => {
    const { program, queue } = setUp();
    queue(0);
    queue(1);
    program.process.close(program.fd);
    expect(program.kernel.physical.frames.pinned).toBe(0);
  });
});
