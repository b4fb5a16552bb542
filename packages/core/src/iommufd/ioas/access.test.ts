import { describe, expect, test } from 'vitest';
import {
  EBADFD,
  EBUSY,
  EDEADLK,
  EFAULT,
  EINVAL,
  ENOENT,
  ENOMEM,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
} from '../../abi/errno.ts';
import { IOMMU_IOAS_MAP_READABLE, IOMMU_IOAS_MAP_WRITEABLE } from '../../abi/iommufd.ts';
import {
  IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
  IOMMU_TEST_OP_CREATE_ACCESS,
  MOCK_ACCESS_RW_SLOW_PATH,
  MOCK_ACCESS_RW_WRITE,
  iommu_test_cmd_access_replace_ioas,
  iommu_test_cmd_create_access,
} from '../../abi/iommufd-test.ts';
import { SimulatedMemfd } from '../../memory/simulated-process.ts';
import { APERTURE, ARENA, BUFFER, PAGE, Program } from '../testing/program.ts';

const IOVA = 0x1_0000n;

/** An IOAS with four pages of the arena at IOVA, and an access that pins pages. */
function setUp() {
  const program = new Program();
  const ioas = program.ioas();
  program.map(ioas, { iova: IOVA, length: 4n * PAGE });
  return { program, ioas, access: program.access(ioas), frames: program.kernel.physical.frames };
}

function replaceIoas(program: Program, access: number, ioas: number): number {
  return program.test(IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, iommu_test_cmd_access_replace_ioas, {
    id: access,
    ioas_id: ioas,
  }).rc;
}

describe('pages that an access pins', () => {
  test('stay pinned until it unpins them', () => {
    const { program, access, frames } = setUp();
    const { rc, out } = program.pin(access, IOVA + PAGE, 2n * PAGE);
    expect([rc, frames.pinned]).toEqual([0, 2]);
    expect(program.unpin(access, out.out_access_pages_id)).toBe(0);
    expect(frames.pinned).toBe(0);
    expect(program.unpin(access, out.out_access_pages_id)).toBe(-ENOENT);
  });

  test('are pinned once for all who pin them, and for domains', () => {
    const { program, ioas, access, frames } = setUp();
    const other = program.access(ioas);
    const item = program.pin(access, IOVA, 2n * PAGE).out.out_access_pages_id;
    program.pin(access, IOVA, 2n * PAGE);
    program.pin(other, IOVA + PAGE, 2n * PAGE);
    expect(frames.pinned).toBe(3);
    program.unpin(access, item);
    expect(frames.pinned).toBe(3);
    program.process.close(access);
    expect(frames.pinned).toBe(2);
    program.process.close(other);
    expect(frames.pinned).toBe(0);
  });

  test('may start and end within a page of a mapping', () => {
    const { program, access, frames } = setUp();
    expect(program.pin(access, IOVA, 1n).rc).toBe(0);
    expect(program.pin(access, IOVA + PAGE, PAGE + 1n).rc).toBe(0);
    expect(frames.pinned).toBe(3);
  });

  test('may lie in neighbouring mappings', () => {
    const { program, ioas, access, frames } = setUp();
    program.map(ioas, { iova: IOVA + 4n * PAGE, va: ARENA + 0x10_0000n, length: 2n * PAGE });
    expect(program.pin(access, IOVA + 3n * PAGE, 3n * PAGE).rc).toBe(0);
    expect(frames.pinned).toBe(3);
  });

  test('are none where something is not mapped', () => {
    const { program, access, frames } = setUp();
    expect(program.pin(access, IOVA, 5n * PAGE).rc).toBe(-ENOENT);
    expect(program.pin(access, IOVA - PAGE, 2n * PAGE).rc).toBe(-ENOENT);
    expect(program.pin(access, IOVA, 0n).rc).toBe(-EINVAL);
    expect(program.pin(access, 2n ** 64n - 1n, 2n).rc).toBe(-EOVERFLOW);
    expect(frames.pinned).toBe(0);
  });

  test('are none where memory is not there', () => {
    const { program, access, frames } = setUp();
    program.process.memory.unmap(ARENA + 2n * PAGE, PAGE);
    expect(program.pin(access, IOVA, 4n * PAGE).rc).toBe(-EFAULT);
    expect(frames.pinned).toBe(0);
    expect(program.pin(access, IOVA, 2n * PAGE).rc).toBe(0);
  });

  test('are none where a mapping does not allow the direction', () => {
    const { program, ioas, access, frames } = setUp();
    program.map(ioas, { iova: 0x10_0000n, flags: IOMMU_IOAS_MAP_READABLE });
    program.map(ioas, { iova: 0x20_0000n, flags: IOMMU_IOAS_MAP_WRITEABLE });
    expect(program.pin(access, 0x10_0000n, PAGE).rc).toBe(-EPERM);
    expect(program.pin(access, 0x10_0000n, PAGE, 0).rc).toBe(0);
    expect(program.pin(access, 0x20_0000n, PAGE, 0).rc).toBe(-EPERM);
    expect(program.pin(access, 0x20_0000n, PAGE).rc).toBe(0);
    expect(frames.pinned).toBe(2);
  });

  test('cannot be many at once', () => {
    const { program, access } = setUp();
    expect(program.pin(access, IOVA, (16n << 20n) + 1n).rc).toBe(-ENOMEM);
  });
});

describe('an access', () => {
  test('makes a page the alignment of its IOAS where it pins pages', () => {
    const program = new Program();
    const ioas = program.ioas();
    const access = program.access(ioas);
    expect(program.tryMap(ioas, { iova: IOVA, length: 2048n }).rc).toBe(-EINVAL);
    program.process.close(access);
    expect(program.tryMap(ioas, { iova: IOVA, length: 2048n }).rc).toBe(0);
    expect(
      program.test(IOMMU_TEST_OP_CREATE_ACCESS, iommu_test_cmd_create_access, { id: ioas, flags: 1 }).rc,
    ).toBeLessThan(0);
    expect(program.access(ioas, 0)).toBeGreaterThan(0);
  });

  test('that pins no pages can only read and write', () => {
    const { program, ioas } = setUp();
    const reader = program.access(ioas, 0);
    expect(program.pin(reader, IOVA, PAGE).rc).toBe(-EOPNOTSUPP);
    expect(program.rw(reader, IOVA, 4n)).toBe(0);
  });

  test('is asked to let go before a mapping is unmapped', () => {
    const { program, ioas, access, frames } = setUp();
    program.pin(access, IOVA, PAGE);
    program.pin(access, IOVA + 2n * PAGE, PAGE);
    expect(program.unmap(ioas, IOVA, 4n * PAGE).rc).toBe(0);
    expect(frames.pinned).toBe(0);
  });

  test.each([
    ['that lie apart', 2n * PAGE, 0],
    // Linux counts how often it asked from the last hole on, and gives up after a hundred (iopt_unmap_iova_range()).
    ['up to a hundred that are neighbours', PAGE, -EDEADLK],
  ])('lets go of mappings that are unmapped at once: any number %s', (_which, distance, rc) => {
    const { program, ioas, access, frames } = setUp();
    const first = IOVA + 0x10_0000n;
    for (let i = 0n; i < 101n; i++) {
      program.map(ioas, { iova: first + i * distance, va: ARENA + i * PAGE });
      program.pin(access, first + i * distance, PAGE);
    }
    expect(program.unmap(ioas, first, 101n * distance).rc).toBe(rc);
    expect(program.unmap(ioas, first, 101n * distance).rc).toBe(rc === 0 ? -ENOENT : 0);
    expect(frames.pinned).toBe(0);
  });

  test('outlives the iommufd that it belongs to', () => {
    const { program, access, frames } = setUp();
    program.pin(access, IOVA, PAGE);
    program.process.close(program.fd);
    expect(frames.pinned).toBe(1);
    program.process.close(access);
    expect(frames.pinned).toBe(0);
  });

  test('cannot be destroyed by its id', () => {
    const { program, ioas, access } = setUp();
    const id = program.context.objects.ascending().find((each) => each.type === 'ACCESS')!.id;
    expect(program.destroy(id)).toBe(-EBUSY);
    program.process.close(access);
    expect(program.destroy(id)).toBe(-ENOENT);
    expect(program.destroy(ioas)).toBe(0);
  });

  test('moves to another IOAS, and lets go of the first one', () => {
    const { program, ioas, access, frames } = setUp();
    program.pin(access, IOVA, PAGE);
    const other = program.ioas();
    expect(replaceIoas(program, access, other)).toBe(0);
    expect(frames.pinned).toBe(0);
    expect(program.destroy(ioas)).toBe(0);
    expect(program.pin(access, IOVA, PAGE).rc).toBe(-ENOENT);
    expect(program.destroy(other)).toBe(-EBUSY);
    expect(replaceIoas(program, access, other)).toBe(0);
    expect(replaceIoas(program, access, 99)).toBe(-ENOENT);
  });

  test('is what a descriptor names, and nothing else is', () => {
    const { program } = setUp();
    expect(program.pin(program.fd, IOVA, PAGE).rc).toBe(-EBADFD);
    expect(program.pin(99, IOVA, PAGE).rc).toBe(-EBADFD);
  });
});

describe('a copy through an access', () => {
  test.each([0, MOCK_ACCESS_RW_SLOW_PATH])('reads and writes what is mapped (flags %i)', (flags) => {
    const { program, access } = setUp();
    program.write(BUFFER, new Uint8Array([1, 2, 3, 4]));
    expect(program.rw(access, IOVA + PAGE - 2n, 4n, MOCK_ACCESS_RW_WRITE | flags)).toBe(0);
    expect([...program.read(ARENA + PAGE - 2n, 4)]).toEqual([1, 2, 3, 4]);
    program.write(BUFFER, new Uint8Array(4));
    expect(program.rw(access, IOVA + PAGE - 2n, 4n, flags)).toBe(0);
    expect([...program.read(BUFFER, 4)]).toEqual([1, 2, 3, 4]);
  });

  test('goes through neighbouring mappings, as far as there are any', () => {
    const { program, ioas, access } = setUp();
    program.map(ioas, { iova: IOVA + 4n * PAGE, va: ARENA + 0x10_0000n });
    program.write(BUFFER, new Uint8Array([5, 6]));
    expect(program.rw(access, IOVA + 4n * PAGE - 1n, 2n, MOCK_ACCESS_RW_WRITE)).toBe(0);
    expect([...program.read(ARENA + 0x10_0000n, 1)]).toEqual([6]);
    program.write(BUFFER, new Uint8Array([7, 8]));
    expect(program.rw(access, IOVA + 5n * PAGE - 1n, 2n, MOCK_ACCESS_RW_WRITE)).toBe(-ENOENT);
    expect([...program.read(ARENA + 0x10_0000n + PAGE - 1n, 1)]).toEqual([7]);
  });

  test('respects what mappings allow', () => {
    const { program, ioas, access } = setUp();
    program.map(ioas, { iova: 0x10_0000n, flags: IOMMU_IOAS_MAP_READABLE });
    expect(program.rw(access, 0x10_0000n, 4n, MOCK_ACCESS_RW_WRITE)).toBe(-EPERM);
    expect(program.rw(access, 0x10_0000n, 4n)).toBe(0);
  });

  test('of nothing is EINVAL, of too much ENOMEM', () => {
    const { program, access } = setUp();
    expect(program.rw(access, IOVA, 0n)).toBe(-EINVAL);
    expect(program.rw(access, IOVA, (16n << 20n) + 1n)).toBe(-ENOMEM);
  });

  test('reaches pages of a file', () => {
    const program = new Program();
    const ioas = program.ioas();
    const { hwpt } = program.mock(ioas);
    const file = new SimulatedMemfd(0x4000n);
    file.write(0x2000n, new Uint8Array([9]));
    program.tryMapFile(ioas, program.descriptor(file), { iova: APERTURE, start: 0x2000n });
    const access = program.access(ioas);
    expect(program.rw(access, APERTURE, 1n)).toBe(0);
    expect([...program.read(BUFFER, 1)]).toEqual([9]);
    expect(hwpt).toBeGreaterThan(0);
  });
});
