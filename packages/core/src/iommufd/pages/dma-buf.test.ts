import { describe, expect, test } from 'vitest';
import { EBADF, EINVAL, ENODEV } from '../../abi/errno.ts';
import {
  IOMMU_TEST_CMD,
  IOMMU_TEST_OP_DMABUF_GET,
  IOMMU_TEST_OP_DMABUF_REVOKE,
  iommu_test_cmd_dmabuf_get,
  iommu_test_cmd_dmabuf_revoke,
} from '../../abi/iommufd-test.ts';
import { APERTURE, machine, PAGE, Program } from '../testing/program.ts';

const O_CLOEXEC = 0o2000000;

function getDmabuf(program: Program, length: number): number {
  const op = IOMMU_TEST_OP_DMABUF_GET;
  return program.call(IOMMU_TEST_CMD, iommu_test_cmd_dmabuf_get, { op, length, open_flags: O_CLOEXEC }).rc;
}

function revoke(program: Program, fd: number, revoked = true): number {
  return program.test(IOMMU_TEST_OP_DMABUF_REVOKE, iommu_test_cmd_dmabuf_revoke, {
    dmabuf_fd: fd,
    revoked: revoked ? 1 : 0,
  }).rc;
}

/** An IOAS with a domain, and a dma-buf of four pages. */
function setUp() {
  const program = new Program();
  const ioas = program.ioas();
  const device = program.mock(ioas);
  const fd = getDmabuf(program, 4 * 4096);
  const { domain } = program.context.objects
    .ascending()
    .find((each) => each.id === device.hwpt) as unknown as {
    domain: { iovaToPhys(iova: bigint): number };
  };
  /** Where the domain finds the page at `iova`; 0 where it finds nothing. */
  const translate = (iova: bigint): number => domain.iovaToPhys(iova);
  return { program, ioas, device, fd, translate };
}

describe('a dma-buf', () => {
  test('has whole pages, one at least and 512 at most', () => {
    const program = new Program();
    expect(getDmabuf(program, 0)).toBe(-EINVAL);
    expect(getDmabuf(program, 512 * 4096 + 1)).toBe(-EINVAL);
    expect(getDmabuf(program, 1)).toBeGreaterThan(0);
    expect(program.kernel.physical.ram.size).toBe(1);
  });

  test('is mapped as the exporter’s memory, without a pin', () => {
    const { program, ioas, fd, translate } = setUp();
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE, start: PAGE, length: 2n * PAGE }).rc).toBe(0);
    const first = translate(APERTURE);
    expect(first).toBeGreaterThan(0);
    expect(translate(APERTURE + PAGE)).toBe(first + 4096);
    expect(program.kernel.physical.frames.pinned).toBe(0);
    expect(program.process.memory.pinnedPages).toBe(0);
  });

  test('is mapped only as far as it reaches', () => {
    const { program, ioas, fd } = setUp();
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE, length: 5n * PAGE }).rc).toBe(-EINVAL);
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE, start: 4n * PAGE }).rc).toBe(-EINVAL);
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE, length: 4n * PAGE }).rc).toBe(0);
  });

  test('cannot be read, written or pinned by the CPU', () => {
    const { program, ioas, fd } = setUp();
    program.tryMapFile(ioas, fd, { iova: APERTURE });
    const access = program.access(ioas);
    expect(program.pin(access, APERTURE, PAGE).rc).toBe(-EINVAL);
    expect(program.rw(access, APERTURE, 4n)).toBe(-EINVAL);
  });

  test('was a file like others, and no memfd, before Linux 6.19', () => {
    const { program } = setUp();
    const older = new Program(machine('linux-6.17'));
    const ioas = older.ioas();
    const fd = older.descriptor(program.file(getDmabuf(program, 4096)));
    expect(older.tryMapFile(ioas, fd, { iova: APERTURE }).rc).toBe(0);
    expect(older.tryMock(ioas).rc).toBe(-EINVAL);
  });

  test('lives until its last mapping is gone', () => {
    const { program, ioas, fd, translate } = setUp();
    program.tryMapFile(ioas, fd, { iova: APERTURE });
    program.process.close(fd);
    expect(translate(APERTURE)).toBeGreaterThan(0);
    expect(program.kernel.physical.ram.size).toBe(4);
    program.unmap(ioas, APERTURE, PAGE);
    expect(program.kernel.physical.ram.size).toBe(0);
  });
});

describe('a revoked dma-buf', () => {
  test('is in no domain any more, though its mappings stay', () => {
    const { program, ioas, fd, translate } = setUp();
    program.tryMapFile(ioas, fd, { iova: APERTURE });
    expect(revoke(program, fd)).toBe(0);
    expect(translate(APERTURE)).toBe(0);
    expect(program.unmap(ioas, APERTURE, PAGE).rc).toBe(0);
  });

  test('does not come to a domain that joins later', () => {
    const { program, ioas, device, fd } = setUp();
    program.tryMapFile(ioas, fd, { iova: APERTURE });
    revoke(program, fd);
    const late = program.hwpt(device.idev, ioas);
    expect(program.destroy(late)).toBe(0);
  });

  test('cannot be mapped, until it is offered again', () => {
    const { program, ioas, fd, translate } = setUp();
    revoke(program, fd);
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE }).rc).toBe(-ENODEV);
    revoke(program, fd, false);
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE }).rc).toBe(0);
    expect(translate(APERTURE)).toBeGreaterThan(0);
  });

  test('does not come back to a mapping that lost it', () => {
    const { program, ioas, fd, translate } = setUp();
    program.tryMapFile(ioas, fd, { iova: APERTURE });
    revoke(program, fd);
    revoke(program, fd, false);
    expect(translate(APERTURE)).toBe(0);
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE + PAGE }).rc).toBe(0);
    revoke(program, fd);
    expect(translate(APERTURE + PAGE)).toBe(0);
  });

  test('is named by a descriptor', () => {
    const { program } = setUp();
    expect(revoke(program, 99)).toBe(-EBADF);
    expect(revoke(program, program.fd)).toBe(-EINVAL);
  });
});
