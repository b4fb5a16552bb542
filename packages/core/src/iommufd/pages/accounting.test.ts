import { describe, expect, test } from 'vitest';
import { failed, type Result } from '../../base/result.ts';
import { EINVAL, ENOMEM } from '../../abi/errno.ts';
import { CAP_IPC_LOCK } from '../../memory/process.ts';
import { SimulatedMemfd, SimulatedProcess } from '../../memory/simulated-process.ts';
import { ACCOUNT_MM, ACCOUNT_NONE, ACCOUNT_USER, LockedMemory } from './accounting.ts';
import { APERTURE, PAGE, Program } from '../testing/program.ts';

function process(uid: number, limit = Infinity): SimulatedProcess {
  const made = new SimulatedProcess(uid);
  made.uid = uid;
  made.memlockLimitPages = limit;
  return made;
}

const errnoOf = (result: Result<unknown>): number | null => (failed(result) ? result.errno : null);

describe('pages that a user pays for', () => {
  test('are counted for all of the user’s processes', () => {
    const locked = new LockedMemory();
    const [one, other, stranger] = [process(1000, 10), process(1000, 10), process(1001, 10)];
    expect(errnoOf(locked.update(one, ACCOUNT_USER, 6))).toBe(null);
    expect(errnoOf(locked.update(other, ACCOUNT_USER, 5))).toBe(ENOMEM);
    expect(errnoOf(locked.update(other, ACCOUNT_USER, 4))).toBe(null);
    expect(errnoOf(locked.update(stranger, ACCOUNT_USER, 10))).toBe(null);
    expect([locked.of(1000), locked.of(1001)]).toEqual([10, 10]);
  });

  test('are limited by the limit of the process that pins', () => {
    const locked = new LockedMemory();
    const [generous, strict] = [process(1000, 100), process(1000, 10)];
    locked.update(generous, ACCOUNT_USER, 50);
    expect(errnoOf(locked.update(strict, ACCOUNT_USER, 1))).toBe(ENOMEM);
    expect(errnoOf(locked.update(generous, ACCOUNT_USER, 50))).toBe(null);
  });

  test('can be given back whatever the limit has become', () => {
    const locked = new LockedMemory();
    const one = process(1000, 10);
    locked.update(one, ACCOUNT_USER, 10);
    one.memlockLimitPages = 1;
    expect(errnoOf(locked.update(one, ACCOUNT_USER, -4))).toBe(null);
    expect(errnoOf(locked.update(one, ACCOUNT_USER, -6))).toBe(null);
    expect([locked.of(1000), one.memory.pinnedPages, one.memory.lockedPages]).toEqual([0, 0, 0]);
  });
});

describe('pages that an address space pays for', () => {
  test('are counted for it alone', () => {
    const locked = new LockedMemory();
    const [one, other] = [process(1000, 10), process(1000, 10)];
    expect(errnoOf(locked.update(one, ACCOUNT_MM, 10))).toBe(null);
    expect(errnoOf(locked.update(other, ACCOUNT_MM, 10))).toBe(null);
    expect(errnoOf(locked.update(one, ACCOUNT_MM, 1))).toBe(ENOMEM);
    expect([one.memory.lockedPages, one.memory.pinnedPages, locked.of(1000)]).toEqual([10, 10, 0]);
  });

  test('cannot be given back after it is gone', () => {
    const locked = new LockedMemory();
    const one = process(1000);
    locked.update(one, ACCOUNT_MM, 10);
    one.exit();
    expect(errnoOf(locked.update(one, ACCOUNT_MM, -10))).toBe(EINVAL);
    expect([one.memory.lockedPages, one.memory.pinnedPages]).toEqual([10, 10]);
  });
});

describe('pages that nobody pays for', () => {
  test('are still counted as pinned', () => {
    const locked = new LockedMemory();
    const one = process(1000, 0);
    expect(errnoOf(locked.update(one, ACCOUNT_NONE, 5))).toBe(null);
    expect([one.memory.pinnedPages, one.memory.lockedPages, locked.of(1000)]).toEqual([5, 0, 0]);
  });
});

/** A program of user 1000 without CAP_IPC_LOCK, which may lock `limit` pages. */
function poor(limit: number): Program {
  const program = new Program();
  program.process.uid = 1000;
  program.process.capabilities.delete(CAP_IPC_LOCK);
  program.process.memlockLimitPages = limit;
  return program;
}

describe('a program', () => {
  test('with CAP_IPC_LOCK pays nothing', () => {
    const program = poor(0);
    program.process.capabilities.add(CAP_IPC_LOCK);
    const ioas = program.ioas();
    program.mock(ioas);
    expect(program.tryMap(ioas, { iova: APERTURE, length: 8n * PAGE }).rc).toBe(0);
    expect(program.kernel.locked.of(1000)).toBe(0);
    expect(program.process.memory.pinnedPages).toBe(8);
  });

  test('pays when its pages are pinned, not when they are mapped', () => {
    const program = poor(4);
    const ioas = program.ioas();
    program.map(ioas, { iova: APERTURE, length: 8n * PAGE });
    expect(program.kernel.locked.of(1000)).toBe(0);
    expect(program.tryMock(ioas).rc).toBe(-ENOMEM);
    program.process.memlockLimitPages = 8;
    expect(program.tryMock(ioas).rc).toBe(0);
    expect(program.kernel.locked.of(1000)).toBe(8);
  });

  test('leaves no trace of what it could not pay', () => {
    const program = poor(4);
    const ioas = program.ioas();
    program.mock(ioas);
    program.map(ioas, { iova: APERTURE, length: 3n * PAGE });
    expect(program.tryMap(ioas, { iova: APERTURE + 0x10_0000n, length: 2n * PAGE }).rc).toBe(-ENOMEM);
    expect([program.kernel.locked.of(1000), program.process.memory.pinnedPages]).toEqual([3, 3]);
    expect(program.kernel.physical.frames.pinned).toBe(3);
    expect(program.tryMap(ioas, { iova: APERTURE + 0x10_0000n, length: PAGE }).rc).toBe(0);
  });

  test('pays once for pages that several domains and accesses have', () => {
    const program = poor(2);
    const ioas = program.ioas();
    program.mock(ioas);
    const other = program.ioas();
    program.mock(other);
    program.map(ioas, { iova: APERTURE, length: 2n * PAGE });
    expect(program.copy(ioas, APERTURE, other, APERTURE, 2n * PAGE)).toBe(0);
    expect(program.pin(program.access(ioas), APERTURE, 2n * PAGE).rc).toBe(0);
    expect(program.kernel.locked.of(1000)).toBe(2);
  });

  test('pays for every mapping of the same memory', () => {
    const program = poor(3);
    const ioas = program.ioas();
    program.mock(ioas);
    program.map(ioas, { iova: APERTURE, length: 2n * PAGE });
    expect(program.tryMap(ioas, { iova: APERTURE + 0x10_0000n, length: 2n * PAGE }).rc).toBe(-ENOMEM);
    expect(program.tryMap(ioas, { iova: APERTURE + 0x10_0000n, length: PAGE }).rc).toBe(0);
    expect(program.kernel.locked.of(1000)).toBe(3);
  });

  test('gets back what it paid as its pages are let go', () => {
    const program = poor(8);
    const ioas = program.ioas();
    const { stdev } = program.mock(ioas);
    program.map(ioas, { iova: APERTURE, length: 8n * PAGE });
    const access = program.access(ioas);
    const item = program.pin(access, APERTURE + PAGE, 2n * PAGE).out.out_access_pages_id;
    program.destroy(stdev);
    expect(program.kernel.locked.of(1000)).toBe(2);
    program.unpin(access, item);
    expect(program.kernel.locked.of(1000)).toBe(0);
    expect(program.process.memory.pinnedPages).toBe(0);
  });

  test('pays by address space where the iommufd’s option says so', () => {
    const program = poor(4);
    program.option({ option_id: 0, op: 0, val64: 1n });
    const ioas = program.ioas();
    program.mock(ioas);
    program.map(ioas, { iova: APERTURE, length: 4n * PAGE });
    expect([program.kernel.locked.of(1000), program.process.memory.lockedPages]).toEqual([0, 4]);
    expect(program.tryMap(ioas, { iova: APERTURE + 0x10_0000n }).rc).toBe(-ENOMEM);
  });

  test('pays for a file’s pages as for its own', () => {
    const program = poor(2);
    const ioas = program.ioas();
    program.mock(ioas);
    const fd = program.descriptor(new SimulatedMemfd(0x4000n));
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE, length: 3n * PAGE }).rc).toBe(-ENOMEM);
    expect(program.tryMapFile(ioas, fd, { iova: APERTURE, length: 2n * PAGE }).rc).toBe(0);
    expect(program.kernel.locked.of(1000)).toBe(2);
  });
});
